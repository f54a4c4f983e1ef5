//! Traces: differential's arrangements, which are there again after a failure without a record having
//! passed.
//!
//! Pairs are joined with the counts of their keys, and a loop tells which places they lead to: there
//! arrangements have times of which not all are one before the other. All read one arrangement of pairs.

use std::collections::BTreeSet;
use std::sync::Arc;

use timely::dataflow::StreamVec;

use super::changes::{self, Contents, Fact, pairs};
use super::{Arrived, Told};
use crate::chance::mix;
use crate::job::{JobPlan, Record, SimulatedSink, perhaps_panic};

/// The sink of pairs with counts, and of places.
pub(super) const TRACED: &str = "traced";

/// How many places can be come to: few, since each may be another round of the loop.
const PLACES: u64 = 5;

/// The place to which a pair leads, from that of its key.
fn place_of(key: u64, value: u64) -> u64 {
    mix(key ^ value << 8) % PLACES
}

/// Whether the way begins at a pair.
fn is_begin((key, value): &(u64, u64)) -> bool {
    *key >= PLACES && *value == 0
}

pub(super) fn build<'scope>(
    records: &StreamVec<'scope, u64, Record>,
    plan: &Arc<JobPlan>,
    sink: &impl Fn() -> SimulatedSink,
) {
    let pairs = pairs(records, plan);
    let by_key = pairs.clone().arrange_by_key_fenced("pairs by key");
    let counts = by_key.clone().reduce_fenced("pairs of keys", |_key, values, out| {
        perhaps_panic();
        out.push((values.iter().map(|(_, often)| often).sum::<isize>(), 1isize));
    });
    let joined = by_key.clone().join_core(counts, |key, value, count| {
        perhaps_panic();
        Some(Fact::Joined { key: *key, value: *value, count: *count })
    });
    let begins = pairs.filter(is_begin).map(|(key, _)| key);
    let reached = begins.clone().iterate(|scope, places| {
        by_key
            .enter(scope)
            .join_core(places.arrange_by_self_fenced("places"), |key, value, ()| {
                Some(place_of(*key, *value))
            })
            .concat(begins.enter(scope))
            .distinct_fenced("distinct places")
    });
    joined.concat(reached.map(|place| Fact::Reached { place })).sink_fenced(TRACED, sink());
}

pub(super) fn expected(plan: &JobPlan, arrived: &Arrived) -> Vec<(&'static str, Told)> {
    let traced = |pairs: &Contents<(u64, u64)>| {
        let counts = changes::counts(pairs);
        let joined = pairs.iter().map(|(&(key, value), often)| {
            (Fact::Joined { key, value, count: counts[&key] }, *often)
        });
        let mut places: BTreeSet<u64> =
            pairs.keys().filter(|pair| is_begin(pair)).map(|(key, _)| *key).collect();
        loop {
            let next = pairs.keys().filter(|(key, _)| places.contains(key));
            let next: BTreeSet<u64> = next.map(|(key, value)| place_of(*key, *value)).collect();
            if next.is_subset(&places) {
                break;
            }
            places.extend(next);
        }
        joined.chain(places.into_iter().map(|place| (Fact::Reached { place }, 1))).collect()
    };
    vec![(TRACED, changes::expected(plan, arrived, traced))]
}
