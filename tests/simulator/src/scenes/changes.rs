//! Changes: the collection that the scenes of differential dataflow work on, and what is told of it.
//!
//! Each record puts a pair in, and every third takes one out again that an earlier record of its shard
//! put in: so nothing is ever there less than not at all, and much that came in an epoch is gone in another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringfence_operators::differential::AsCollectionFenced;
use ringfence_operators::prelude::*;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::operators::vec::Map;

use super::{Arrived, Told};
use crate::chance::mix;
use crate::job::{JobPlan, Record, Row, perhaps_panic};

/// Which values a key may have: few, so that many a pair is there more than once.
pub(super) const VALUES: u64 = 4;

/// What is there, by what it is and how often.
pub(super) type Contents<D> = BTreeMap<D, isize>;

/// A record of a collection that follows from the pairs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Fact {
    /// A pair with the count of its key.
    Joined { key: u64, value: u64, count: isize },
    /// A place that a loop comes to.
    Reached { place: u64 },
    /// How many pairs a key has.
    Count { key: u64, count: isize },
    /// The greatest value of a key.
    Greatest { key: u64, value: u64 },
    /// How many keys have so many pairs.
    KeysOf { count: isize, keys: isize },
}

/// The pair of a record.
fn pair(plan: &JobPlan, record: Record) -> (u64, u64) {
    (plan.key(record), mix(record.shard << 32 ^ record.index ^ 0xD1FF) % VALUES)
}

/// What a record changes.
fn changes_of(plan: &JobPlan, record: Record) -> impl Iterator<Item = ((u64, u64), isize)> + use<> {
    let removed = (record.index % 3 == 2).then(|| {
        let earlier = Record { index: record.index - 1 - record.shard % 2, ..record };
        (pair(plan, earlier), -1)
    });
    std::iter::once((pair(plan, record), 1)).chain(removed)
}

/// The collection of pairs.
pub(super) fn pairs<'scope>(
    records: &StreamVec<'scope, u64, Record>,
    plan: &Arc<JobPlan>,
) -> FencedCollection<'scope, u64, (u64, u64)> {
    let plan = Arc::clone(plan);
    let changes = records.clone().flat_map(move |record| {
        perhaps_panic();
        // Each change gets the time at which it comes.
        changes_of(&plan, record).map(|(pair, diff)| (pair, 0, diff))
    });
    changes.as_collection_fenced()
}

/// What is to be told at each epoch, where `facts` says what follows from the pairs that are there.
pub(super) fn expected(
    plan: &JobPlan,
    arrived: &Arrived,
    facts: impl Fn(&Contents<(u64, u64)>) -> Contents<Fact>,
) -> Told {
    let (mut pairs, mut before) = (Contents::new(), Contents::new());
    let mut expected = Told::new();
    for (&epoch, records) in arrived {
        for (pair, diff) in records.iter().flat_map(|record| changes_of(plan, *record)) {
            *pairs.entry(pair).or_default() += diff;
        }
        pairs.retain(|_, count| *count != 0);
        let after = facts(&pairs);
        let all: BTreeSet<&Fact> = before.keys().chain(after.keys()).collect();
        let often = |contents: &Contents<Fact>, of| contents.get(of).copied().unwrap_or(0);
        let changed = all.into_iter().filter_map(|of| {
            let diff = often(&after, of) - often(&before, of);
            (diff != 0).then(|| Row::Change { of: of.clone(), epoch, diff })
        });
        expected.insert(epoch, changed.collect());
        before = after;
    }
    expected
}

/// Checks that each sink told what it was to tell.
pub(super) fn check(
    expected: &[(&'static str, Told)],
    told: impl Fn(&str) -> Told,
) -> Result<(), String> {
    expected.iter().try_for_each(|(sink, expected)| check_sink(sink, expected, &told(sink)))
}

/// Checks that a sink told what it was to tell, at each epoch.
fn check_sink(sink: &str, expected: &Told, told: &Told) -> Result<(), String> {
    for epoch in expected.keys().chain(told.keys()) {
        let [wanted, found] =
            [expected, told].map(|all| all.get(epoch).cloned().unwrap_or_default());
        if wanted != found {
            let missing: Vec<&Row> = wanted.difference(&found).collect();
            let wrong: Vec<&Row> = found.difference(&wanted).collect();
            return Err(format!("{sink} told {wrong:?} at epoch {epoch}, and not {missing:?}"));
        }
    }
    Ok(())
}

/// How many pairs each key has.
pub(super) fn counts(pairs: &Contents<(u64, u64)>) -> Contents<u64> {
    let mut counts = Contents::new();
    for ((key, _), often) in pairs {
        *counts.entry(*key).or_default() += often;
    }
    counts
}
