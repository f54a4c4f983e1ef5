//! Scenes: parts of the simulated job that only some runs have, each with a sink of its own.
//!
//! A scene's file has what is run and, a few lines below it, what must come of it, computed without timely
//! from the records of each epoch. Which scenes a run has is drawn for each of them alone, so that all
//! combine with each other and with all faults.

mod changes;
mod edges;
mod join;
mod laps;
mod stash;
mod traces;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use ringfence_operators::prelude::*;
use timely::dataflow::StreamVec;

use super::chance::{Chance, mix};
use super::job::{JobPlan, Record, Row, SimulatedSink};

pub(super) use changes::Fact;
pub(super) use laps::VISITS;

/// The records of each epoch.
pub(super) type Arrived = BTreeMap<u64, Vec<Record>>;

/// The rows that a sink released at each epoch.
pub(super) type Told = BTreeMap<u64, BTreeSet<Row>>;

/// Which scenes a run has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scenes {
    /// An existing operator with a stash and a map.
    pub(super) stash: bool,
    /// An existing operator with two inputs.
    pub(super) join: bool,
    /// Keyed state inside a loop.
    pub(super) laps: bool,
    /// A loop whose turns are epochs.
    pub(super) turns: bool,
    /// Differential's arrangements, restored, in a loop and outside of one.
    pub(super) traces: bool,
    /// Differential's verbs as they are, behind an edge that comes again.
    pub(super) edges: bool,
    /// Whether the scenes are in a dataflow of their own, with a source of its own.
    pub(super) apart: bool,
}

impl Scenes {
    /// The scenes of a seed, whatever else it decides.
    pub(super) fn of(seed: u64) -> Self {
        let mut chance = Chance::new(mix(seed ^ mix(0x5CE4E5)));
        Scenes {
            stash: chance.one_in(3),
            join: chance.one_in(3),
            laps: chance.one_in(3),
            turns: chance.one_in(3),
            apart: chance.one_in(4),
            traces: chance.one_in(3),
            edges: chance.one_in(3),
        }
    }

    /// Builds the scenes upon the records.
    pub(super) fn build<'scope>(
        self,
        records: &StreamVec<'scope, u64, Record>,
        plan: &Arc<JobPlan>,
        sink: impl Fn() -> SimulatedSink,
    ) {
        if self.stash {
            stash::rows(records.clone(), plan).sink_fenced(stash::STASH, sink());
        }
        if self.join {
            join::rows(records.clone(), plan).sink_fenced(join::JOIN, sink());
        }
        if self.laps {
            laps::rows(records.clone(), plan).sink_fenced(laps::LAPS, sink());
        }
        if self.turns {
            turns::rows(records.clone(), plan).sink_fenced(turns::TURNS, sink());
        }
        if self.traces {
            traces::build(records, plan, &sink);
        }
        if self.edges {
            edges::build(records, plan, &sink);
        }
    }

    /// Checks what the scenes told, by the name of each one's sink.
    pub(super) fn check(
        self,
        plan: &JobPlan,
        arrived: &Arrived,
        told: impl Fn(&str) -> Told,
    ) -> Result<(), String> {
        if self.stash {
            stash::check(plan, arrived, &told(stash::STASH))?;
        }
        if self.join {
            join::check(plan, arrived, &told(join::JOIN))?;
        }
        if self.laps {
            laps::check(plan, arrived, &told(laps::LAPS))?;
        }
        if self.turns {
            turns::check(plan, arrived, &told(turns::TURNS))?;
        }
        if self.traces {
            changes::check(&traces::expected(plan, arrived), &told)?;
        }
        if self.edges {
            changes::check(&edges::expected(plan, arrived), &told)?;
        }
        Ok(())
    }
}

/// What is to be told at each epoch, with its key.
pub(super) type Due<T> = BTreeMap<u64, BTreeSet<(u64, T)>>;

/// What is told of a key, with its number.
pub(super) struct Numbered<T> {
    pub(super) key: u64,
    pub(super) number: u64,
    pub(super) of: T,
}

/// Checks that what is told at each epoch is what is `wanted` there, each once; and that the numbers of a
/// key are 1, 2, 3 and so on in the order of epochs, whatever their order within one.
pub(super) fn check_numbered<T: Copy + Ord + Debug>(
    sink: &str,
    wanted: &Due<T>,
    told: BTreeMap<u64, Vec<Numbered<T>>>,
) -> Result<(), String> {
    let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
    for (epoch, rows) in &told {
        let mut missing = wanted.get(epoch).cloned().unwrap_or_default();
        let mut seen: BTreeSet<(u64, u64)> = BTreeSet::new();
        for Numbered { key, number, of } in rows {
            if !missing.remove(&(*key, *of)) {
                return Err(format!(
                    "{sink} told of {of:?} with key {key} at epoch {epoch}: it is not due there, or \
                     told twice"
                ));
            }
            if !seen.insert((*key, *number)) {
                return Err(format!("{sink} has number {number} of key {key} twice"));
            }
        }
        if let Some(of) = missing.first() {
            return Err(format!("{sink} does not tell of {of:?} at epoch {epoch}"));
        }
        for (key, number) in seen {
            let before = numbers.entry(key).or_default();
            if number != *before + 1 {
                return Err(format!(
                    "{sink} has number {number} of key {key} at epoch {epoch}, after {before}"
                ));
            }
            *before = number;
        }
    }
    match wanted.iter().find(|(epoch, of)| !of.is_empty() && !told.contains_key(epoch)) {
        Some((epoch, of)) => Err(format!("{sink} tells nothing at epoch {epoch}, not {of:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "scenes/scenes_tests.rs"]
mod tests;
