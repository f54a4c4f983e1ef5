//! Traces: differential's arrangements, which are there again after a failure without a record having
//! passed.
//!
//! Pairs are joined with the counts of their keys, and a loop tells which places they lead to: there
//! arrangements have times of which not all are one before the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_operators::prelude::*;
use timely::dataflow::StreamVec;

use super::changes::{self, Contents, Fact, pairs};
use super::{Arrived, Told};
use crate::sim::chance::mix;
use crate::sim::job::{JobPlan, Record, SimulatedSink, perhaps_panic};

/// The sink of pairs with counts.
pub(super) const JOINED: &str = "traced";
/// The sink of places.
pub(super) const REACHED: &str = "reached";

/// How many places there are: few, since each is another round of the loop.
const PLACES: u64 = 5;

/// From where to where a pair leads.
fn step((key, value): (u64, u64)) -> (u64, u64) {
    (key % PLACES, mix(key ^ value << 8) % PLACES)
}

/// Whether the way begins at a pair, at the place from which it leads.
fn is_begin((key, value): &(u64, u64)) -> bool {
    *key < 2 * PLACES && *value == 0
}

pub(super) fn build<'scope>(
    records: &StreamVec<'scope, u64, Record>,
    plan: &Arc<JobPlan>,
    sink: &impl Fn() -> SimulatedSink,
) {
    let pairs = pairs(records, plan);
    joined(pairs.clone()).sink_fenced(JOINED, sink());
    reached(pairs).sink_fenced(REACHED, sink());
}

fn joined(
    pairs: FencedCollection<'_, u64, (u64, u64)>,
) -> FencedCollection<'_, u64, Fact> {
    let counts = pairs.clone().map(|(key, _)| key).count_fenced("pairs of keys");
    pairs.join_map_fenced("pairs and counts", counts, |key, value, count| {
        perhaps_panic();
        Fact::Joined { key: *key, value: *value, count: *count }
    })
}

fn reached(
    pairs: FencedCollection<'_, u64, (u64, u64)>,
) -> FencedCollection<'_, u64, Fact> {
    let begins = pairs.clone().filter(is_begin).map(|pair| step(pair).0);
    let steps = pairs.map(step);
    let reached = begins.clone().iterate(|scope, places| {
        steps
            .enter(scope)
            .semijoin_fenced("steps", places)
            .map(|(_, to)| to)
            .concat(begins.enter(scope))
            .distinct_fenced("places")
    });
    reached.map(|place| Fact::Reached { place })
}

pub(super) fn expected(plan: &JobPlan, arrived: &Arrived) -> [(&'static str, Told); 2] {
    let joined = |pairs: &Contents<(u64, u64)>| {
        let counts = changes::counts(pairs);
        let fact = |(&(key, value), often): (&(u64, u64), &isize)| {
            (Fact::Joined { key, value, count: counts[&key] }, *often)
        };
        pairs.iter().map(fact).collect()
    };
    let reached = |pairs: &Contents<(u64, u64)>| {
        let mut places: BTreeSet<u64> =
            pairs.keys().filter(|pair| is_begin(pair)).map(|pair| step(*pair).0).collect();
        loop {
            let next = pairs.keys().map(|pair| step(*pair));
            let next: BTreeSet<u64> =
                next.filter(|(from, _)| places.contains(from)).map(|(_, to)| to).collect();
            if next.is_subset(&places) {
                break;
            }
            places.extend(next);
        }
        places.into_iter().map(|place| (Fact::Reached { place }, 1)).collect()
    };
    [
        (JOINED, changes::expected(plan, arrived, joined)),
        (REACHED, changes::expected(plan, arrived, reached)),
    ]
}

pub(super) fn check(
    plan: &JobPlan,
    arrived: &Arrived,
    told: impl Fn(&str) -> Told,
) -> Result<(), String> {
    let expected = expected(plan, arrived);
    expected.iter().try_for_each(|(sink, expected)| changes::check(sink, expected, &told(sink)))
}
