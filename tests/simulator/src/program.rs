//! Program: what feeds a job by hand, and the outside world that its records come from.
//!
//! The outside gives out each record once and wants to be told when it may forget it: what the dataflow
//! has seen is acknowledged, and from then on nobody can feed it again. What was not acknowledged is fed
//! again, into other rounds than before. So a journal that loses an epoch, or plays one that was fed
//! anew, shows in the output.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_operators::ids::ViewNumber;
use ringfence_operators::verbs::input::FencedInput;
use timely::dataflow::operators::probe::Handle;

use super::chance::mix;
use super::job::{JobPlan, Record};
use super::witness::Witness;

/// How many rounds a program feeds ahead of what is in the journals, at most.
const AHEAD_MAX: u64 = 3;

/// Where the records of all shares come from, the same for all processes.
#[derive(Clone)]
pub(super) struct Outside {
    shares: Arc<Mutex<BTreeMap<u64, Share>>>,
    witness: Witness,
}

/// One share's records, as the outside knows them.
#[derive(Default)]
struct Share {
    /// Where each round ends.
    ends: BTreeMap<u64, u64>,
    /// The first round that is not acknowledged: what came before is forgotten.
    kept_from: u64,
    /// The latest view whose program has had this share: older ones are refused.
    view: ViewNumber,
    /// How often a round was fed.
    attempts: u64,
}

impl Outside {
    pub(super) fn new(witness: Witness) -> Self {
        Outside { shares: Arc::default(), witness }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// The first record that is in no round before `round`.
    fn position(&self, round: u64) -> u64 {
        self.ends.range(..round).next_back().map_or(0, |(_, end)| *end)
    }
}

/// The loop of a program that feeds its input, one round at a time.
pub(super) struct Program {
    /// `None` once it is closed.
    input: Option<FencedInput<u64, Record>>,
    fed: Handle<u64>,
    plan: Arc<JobPlan>,
    outside: Outside,
    view: ViewNumber,
}

impl Program {
    pub(super) fn new(
        mut input: FencedInput<u64, Record>,
        fed: Handle<u64>,
        plan: Arc<JobPlan>,
        outside: &Outside,
        view: ViewNumber,
    ) -> Self {
        let mut shares = outside.lock();
        for known in input.shares() {
            let share = shares.entry(known.index).or_default();
            let Some(feeding) = input.share(known.index) else { continue };
            if share.view > view {
                continue;
            }
            share.view = view;
            // Of several attempts to feed a round any one may be in the journal.
            let first = feeding.resume();
            drop(share.ends.split_off(&first));
            if let Some(last) = first.checked_sub(1) {
                share.ends.insert(last, feeding.records());
            }
        }
        drop(shares);
        Program { input: Some(input), fed, plan, outside: outside.clone(), view }
    }

    /// Does what the loop would do between two steps of its worker.
    pub(super) fn go_on(&mut self) {
        self.acknowledge();
        let Some(input) = &mut self.input else { return };
        let round = *input.time();
        let admitted = self.fed.with_frontier(|frontier| frontier.first().copied());
        if admitted.is_some_and(|admitted| round >= admitted + AHEAD_MAX) {
            return;
        }
        let mut shares = self.outside.lock();
        let is_mine = |known: &ringfence_operators::prelude::Share| {
            shares.get(&known.index).is_some_and(|share| share.view <= self.view)
        };
        if !input.shares().iter().all(is_mine) {
            // Another program has them now; this one was left behind and does not know.
            return;
        }
        let end = self.plan.records_per_shard;
        let mut is_over = true;
        for known in input.shares() {
            let share = shares.entry(known.index).or_default();
            let Some(mut feeding) = input.share(known.index) else { continue };
            if feeding.is_closed() {
                continue;
            }
            if round < feeding.resume() {
                is_over &= share.position(feeding.resume()) == end;
                continue;
            }
            if round < share.kept_from {
                let held = Err(format!(
                    "round {round} of share {} is to be fed again, but is acknowledged",
                    known.index
                ));
                self.outside.witness.check("input", held);
                return;
            }
            share.attempts += 1;
            let draw = mix(self.plan.seed ^ mix(known.index << 40 | round << 20 | share.attempts));
            let begin = share.position(round);
            let until = end.min(begin + draw % (self.plan.batch_max + 1));
            for index in begin..until {
                feeding.send(Record { shard: known.index, index });
            }
            // Later rounds are of an attempt that was given up.
            drop(share.ends.split_off(&round));
            share.ends.insert(round, until);
            is_over &= until == end;
        }
        drop(shares);
        if is_over { self.input = None } else { input.advance_to(round + 1) }
    }

    /// Tells the outside what it may forget.
    fn acknowledge(&mut self) {
        let admitted = self.fed.with_frontier(|frontier| frontier.first().copied());
        let Some(input) = &self.input else { return };
        let through = admitted.unwrap_or(u64::MAX).min(*input.time());
        let mut shares = self.outside.lock();
        for share in input.shares() {
            let share = shares.entry(share.index).or_default();
            share.kept_from = share.kept_from.max(through);
        }
    }
}
