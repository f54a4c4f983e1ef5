//! Edges: differential's verbs as they are, behind an edge whose contents come again after a failure.
//!
//! What follows is computed anew each time, and only what is new may leave: to a sink, or back to a
//! protected verb, which has the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use timely::dataflow::StreamVec;

use super::changes::{self, Contents, Fact, pairs};
use super::{Arrived, Told};
use crate::job::{JobPlan, Record, SimulatedSink, perhaps_panic};

/// The sink of counts and of greatest values.
pub(super) const ANEW: &str = "anew";
/// The sink of what a protected verb makes of the counts.
pub(super) const BACK: &str = "back";

pub(super) fn build<'scope>(
    records: &StreamVec<'scope, u64, Record>,
    plan: &Arc<JobPlan>,
    sink: &impl Fn() -> SimulatedSink,
) {
    let pairs = pairs(records, plan).fenced("pairs");
    let counts = pairs.clone().map(|(key, _)| key).count();
    let greatest = pairs.reduce(|_key, values, out| {
        perhaps_panic();
        out.extend(values.last().map(|(value, _)| (**value, 1isize)));
    });
    counts
        .clone()
        .into_fenced()
        .map(|(_, count)| count)
        .count_fenced("keys of counts")
        .map(|(count, keys)| Fact::KeysOf { count, keys })
        .sink_fenced(BACK, sink());
    counts
        .map(|(key, count)| Fact::Count { key, count })
        .concat(greatest.map(|(key, value)| Fact::Greatest { key, value }))
        .sink_fenced(ANEW, sink());
}

pub(super) fn expected(plan: &JobPlan, arrived: &Arrived) -> Vec<(&'static str, Told)> {
    let anew = |pairs: &Contents<(u64, u64)>| {
        let counts = changes::counts(pairs);
        let counts = counts.into_iter().map(|(key, count)| Fact::Count { key, count });
        // The pairs of a key stand in the order of their values: of equal keys the last one stays.
        let greatest: BTreeMap<u64, u64> = pairs.keys().copied().collect();
        let greatest = greatest.into_iter().map(|(key, value)| Fact::Greatest { key, value });
        counts.chain(greatest).map(|fact| (fact, 1)).collect()
    };
    let back = |pairs: &Contents<(u64, u64)>| {
        let mut keys = Contents::<isize>::new();
        for count in changes::counts(pairs).into_values() {
            *keys.entry(count).or_default() += 1;
        }
        keys.into_iter().map(|(count, keys)| (Fact::KeysOf { count, keys }, 1)).collect()
    };
    vec![
        (ANEW, changes::expected(plan, arrived, anew)),
        (BACK, changes::expected(plan, arrived, back)),
    ]
}
