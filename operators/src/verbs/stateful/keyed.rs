//! The frame around every keyed operator: records wait for their epoch and find their key, timers fire,
//! and all is sealed in time.

use std::collections::BTreeSet;
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};
use timely::progress::frontier::MutableAntichain;

use super::Give;
use crate::data::Data;
use crate::error::Leave;
use crate::fence::careful::Careful;
use crate::fence::{Fence, HasFence};
use crate::hash::partition_of;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::protected::outlet::{Outlet, Seals, advance};
use crate::protected::route::{KeyRoute, to_owner};
use crate::protected::turns::{Turns, complete, time_of};
use crate::rounds::replicate::commit;
use crate::time::{FencedTime, passed, reached};
use crate::verbs::quarantine::{self, DeadLetters, Panic, Unfit, set_apart, watched_partitions};

/// How many results may gather before they are sent on.
const GIVE_MAX: usize = 1024;

/// What a keyed operator does at its partitions; the frame around it is the same for all.
pub(super) trait Keyed<T: FencedTime, D, K, R>: Seals + 'static {
    /// Applies a record of `key`.
    fn record(&mut self, time: &T, at: Hashed<K>, record: D, out: &mut Give<'_, R>);
    /// Applies a record of `key` to a copy of its state, which counts only if that does not panic.
    fn attempt(
        &mut self,
        time: &T,
        at: Hashed<K>,
        record: D,
        out: &mut Give<'_, R>,
    ) -> Result<(), Panic>;
    /// The earliest time that has timers to fire.
    fn next_timer(&self) -> Option<T>;
    /// Fires the timers of a complete time.
    fn fire(&mut self, time: &T, out: &mut Give<'_, R>);
    /// Decodes some keys of opened replicas; returns whether all are decoded.
    fn decode_some(&mut self) -> bool;
    /// The identities of its state in the vault.
    fn ids(&self) -> Vec<u64>;
}

/// A key with the hash and partition that go with it.
pub(super) struct Hashed<K> {
    pub(super) key: K,
    pub(super) hash: u64,
    pub(super) partition: PartitionId,
}

/// Builds a keyed operator around what it does at its partitions.
pub(super) fn keyed<'scope, T, D, K, R, O>(
    stream: StreamVec<'scope, T, D>,
    kind: &str,
    short_name: &str,
    key: impl Fn(&D) -> K + 'static,
    operator: impl FnOnce(&Fence, &OperatorName) -> O,
) -> StreamVec<'scope, T, R>
where
    T: FencedTime,
    D: Data,
    K: Data + Eq,
    R: Data,
    O: Keyed<T, D, K, R>,
{
    let (fence, scope) = (stream.fence(), stream.scope());
    let name = fence.admit(kind, short_name, scope);
    let key = Rc::new(key);
    let route_key = Rc::clone(&key);
    let pact = to_owner(&fence, &name, move |record: &D| route_key(record));
    let operator = Careful::new(&fence, &name, operator(&fence, &name));
    let ids = operator.ids();

    let mut builder = OperatorBuilder::new(name.to_string(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    fence.checkpoints().wake_on_decision(activator.clone());
    let mut input = builder.new_input(stream, pact);
    let (output, results) = builder.new_output();
    let (frames_output, frames) = builder.new_output();
    let quarantine = fence.generation().quarantine.clone();
    let (letters_output, letters) = quarantine.is_some().then(|| builder.new_output()).unzip();
    let (inner_fence, inner_name) = (fence.clone(), name.clone());
    builder.build(move |capabilities| {
        let (fence, name) = (inner_fence, inner_name);
        let mut capabilities: Vec<Capability<T>> = capabilities;
        capabilities.iter_mut().for_each(|held| held.downgrade(&fence.resume_time()));
        let mut capabilities = capabilities.into_iter();
        let mut work = Work {
            held: capabilities.next().filter(|_| !T::NESTED),
            outlet: Outlet::new(&fence, frames_output, capabilities.next()),
            letters: letters_output
                .zip(capabilities.next())
                .map(|(output, held)| DeadLetters::new(output, held)),
            watched: watched_partitions(&fence, &name),
            route: KeyRoute::new(fence.generation().settings.hasher),
            turns: Turns::new(),
            results: Vec::new(),
            fence: fence.clone(),
            name: name.clone(),
            key,
            operator,
        };
        let mut output = OutputBuilder::from(output);
        let mut decoded = fence.generation().resume.is_none();
        move |frontiers| {
            let _active = fence.check(&name);
            input.for_each(|capability, batch| {
                let time = time_of(&fence, &name, capability.stamp());
                let capability = capability.delayed(&time, 0);
                work.turns.wait(time, (capability, std::mem::take(batch)));
            });
            work.take_turns(&frontiers[0], &mut output.activate());
            if !decoded {
                decoded = work.operator.decode_some();
                if !decoded {
                    activator.activate();
                }
            }
        }
    });
    commit(frames, &fence, &name, ids);
    if let (Some(letters), Some(root)) = (letters, quarantine) {
        quarantine::release(letters, short_name, &name, &root);
    }
    results
}

type Results<'a, T, R> = OutputBuilderSession<'a, T, CapacityContainerBuilder<Vec<R>>>;

/// A keyed operator with its records that wait, and the results that it has not sent.
struct Work<T: FencedTime, D, K, R, F, O> {
    fence: Fence,
    name: OperatorName,
    key: Rc<F>,
    operator: Careful<O>,
    turns: Turns<T, (Capability<T>, Vec<D>)>,
    route: KeyRoute<K>,
    results: Vec<R>,
    /// Held for timers. In a loop it would hold back what comes round, and there are none.
    held: Option<Capability<T>>,
    outlet: Outlet<T>,
    letters: Option<DeadLetters<T>>,
    watched: BTreeSet<PartitionId>,
}

impl<T, D, K, R, F, O> Work<T, D, K, R, F, O>
where
    T: FencedTime,
    D: Data,
    K: Data + Eq,
    R: Data,
    F: Fn(&D) -> K,
    O: Keyed<T, D, K, R>,
{
    /// Takes all turns that may be taken, in order, and lets go of what is over.
    fn take_turns(&mut self, frontier: &MutableAntichain<T>, output: &mut Results<'_, T, R>) {
        let through = passed(frontier);
        while let Some(time) = self.next_turn(through) {
            if !self.outlet.turn_to(time.epoch(), &mut *self.operator) {
                break;
            }
            let turn = self.turns.take(&time);
            let capability = match (turn.first(), &self.held) {
                (Some((capability, _)), _) => capability.clone(),
                (None, Some(held)) => held.delayed(&time),
                (None, None) => break,
            };
            self.fence.whereabouts().set_epoch(time.epoch());
            for (_, batch) in turn {
                self.fence.leave_if_stopping();
                self.apply(&time, batch, &capability, output);
            }
            if Some(time.epoch()) <= through {
                while self.operator.next_timer().is_some_and(|timer| timer.less_equal(&time)) {
                    self.operator.fire(&time, &mut Give { results: &mut self.results });
                }
            }
            self.flush(&capability, output);
            if !T::NESTED
                && let Some(timer) = self.operator.next_timer()
                && self.held.as_ref().is_none_or(|held| timer.less_than(held.time()))
            {
                self.held = Some(capability);
            }
            if let Some(letters) = &mut self.letters {
                letters.flush(&time);
            }
        }
        // Timers to come keep their times open, and so do records that wait.
        let timer = self.operator.next_timer().map(|time| time.epoch());
        let waits = self.turns.first_epoch().into_iter().chain(timer).min();
        self.outlet.pass(complete(through, waits), &mut *self.operator);
        // Without timers nothing is held: what comes back round a loop would wait for it for ever.
        advance(&mut self.held, timer);
        if let Some(letters) = &mut self.letters {
            letters.advance(reached(frontier).into_iter().chain(waits).min());
        }
    }

    /// The next time whose turn it is: a time with timers comes up like one with records, once it is
    /// complete.
    fn next_turn(&self, through: Option<Epoch>) -> Option<T> {
        let timer = self.operator.next_timer().filter(|time| Some(time.epoch()) <= through);
        match (timer, self.turns.next(through)) {
            (Some(timer), Some(record)) if timer < *record => Some(timer),
            (timer, record) => record.cloned().or(timer),
        }
    }

    /// Applies the records of a batch, each to its key.
    fn apply(
        &mut self,
        time: &T,
        batch: Vec<D>,
        capability: &Capability<T>,
        output: &mut Results<'_, T, R>,
    ) {
        let partitions = self.fence.generation().routes.partitions();
        for record in batch {
            let key = (self.key)(&record);
            let hash = self.route.hash_or_fail(&key, &self.fence, &self.name);
            let partition = partition_of(hash, partitions);
            self.fence.whereabouts().set_partition(partition);
            let at = Hashed { key, hash, partition };
            if self.watched.contains(&partition) {
                self.apply_with_care(time, at, record);
            } else {
                self.operator.record(time, at, record, &mut Give { results: &mut self.results });
            }
            if self.results.len() >= GIVE_MAX {
                self.flush(capability, output);
            }
        }
    }

    /// Applies a record that may make its worker panic; where there are dead letters, once more if it does.
    ///
    /// A try that panicked leaves neither state nor results.
    fn apply_with_care(&mut self, time: &T, at: Hashed<K>, record: D) {
        let before = self.results.len();
        let mut tries = if self.letters.is_some() { 2 } else { 1 };
        loop {
            let again = Hashed { key: at.key.clone(), ..at };
            let mut out = Give { results: &mut self.results };
            let tried = self.operator.attempt(time, again, record.clone(), &mut out);
            let Err(panic) = tried else { return };
            self.results.truncate(before);
            tries -= 1;
            // An unwind of ours is an order to leave, and no fault of the record.
            if tries == 0 || panic.is::<Leave>() {
                let unfit = Unfit { record, partition: at.partition, panic };
                return set_apart(&self.fence, &self.name, time, unfit, self.letters.as_mut());
            }
        }
    }

    /// Sends the results that have gathered.
    fn flush(&mut self, capability: &Capability<T>, output: &mut Results<'_, T, R>) {
        if !self.results.is_empty() {
            output.session(capability).give_container(&mut self.results);
            self.results.clear();
        }
    }
}
