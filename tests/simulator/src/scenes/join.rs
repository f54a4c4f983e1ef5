//! Join: an existing operator with two inputs tells, for each key that came in an epoch, how often it has
//! come on either side.
//!
//! Both sides wait in one stash until both frontiers have passed their epoch; each has a map of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringfence_operators::prelude::*;
use ringfence_operators::wrap::Map;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::vec::Filter;

use super::{Arrived, Told};
use crate::job::{JobPlan, Record, Row, perhaps_panic};

pub(super) const JOIN: &str = "joined";

fn is_left(record: &Record) -> bool {
    record.index.is_multiple_of(2)
}

pub(super) fn rows<'scope>(
    records: StreamVec<'scope, u64, Record>,
    plan: &Arc<JobPlan>,
) -> StreamVec<'scope, u64, Row> {
    let by_key = || {
        let keys = Arc::clone(plan);
        Exchange::new(move |record: &Record| keys.key(*record))
    };
    let left = records.clone().filter(is_left);
    let right = records.filter(|record| !is_left(record));
    let plan = Arc::clone(plan);
    left.binary_frontier_fenced::<_, CapacityContainerBuilder<Vec<Row>>, _, _, _, _>(
        right,
        by_key(),
        by_key(),
        "join",
        move |_, state| {
            let mut arrived = state.stash("arrived");
            let mut lefts = state.map::<u64, u64>("left");
            let mut rights = state.map::<u64, u64>("right");
            let plan = Arc::clone(&plan);
            move |(left, left_frontier), (right, right_frontier), output| {
                left.for_each(|capability, records| {
                    if let Some(capability) = capability.retain_least(0) {
                        arrived.entry(capability).extend(records.drain(..));
                    }
                });
                right.for_each(|capability, records| {
                    if let Some(capability) = capability.retain_least(0) {
                        arrived.entry(capability).extend(records.drain(..));
                    }
                });
                for (capability, records) in arrived.ready_in_both(left_frontier, right_frontier) {
                    let mut changed = BTreeSet::new();
                    for record in records {
                        let key = plan.key(record);
                        let side = if is_left(&record) { &mut lefts } else { &mut rights };
                        *side.entry(key).or_default() += 1;
                        perhaps_panic();
                        changed.insert(key);
                    }
                    let count =
                        |side: &Map<u64, u64>, key| side.get(&key).map_or(0, |count| *count);
                    let rows = changed.into_iter().map(|key| Row::Join {
                        key,
                        left: count(&lefts, key),
                        right: count(&rights, key),
                    });
                    output.session(&capability).give_iterator(rows);
                }
            }
        },
    )
}

/// What is told at each epoch.
pub(super) fn expected(plan: &JobPlan, arrived: &Arrived) -> Told {
    let mut counts: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut expected = Told::new();
    for (epoch, records) in arrived {
        let keys: BTreeSet<u64> = records.iter().map(|record| plan.key(*record)).collect();
        for record in records {
            let (left, right) = counts.entry(plan.key(*record)).or_default();
            *if is_left(record) { left } else { right } += 1;
        }
        let row = |key| Row::Join { key, left: counts[&key].0, right: counts[&key].1 };
        expected.insert(*epoch, keys.into_iter().map(row).collect());
    }
    expected
}

pub(super) fn check(plan: &JobPlan, arrived: &Arrived, told: &Told) -> Result<(), String> {
    let expected = expected(plan, arrived);
    for epoch in expected.keys().chain(told.keys()) {
        let wanted = expected.get(epoch).filter(|rows| !rows.is_empty());
        let found = told.get(epoch).filter(|rows| !rows.is_empty());
        if wanted != found {
            return Err(format!("{JOIN} told {found:?} at epoch {epoch}, not {wanted:?}"));
        }
    }
    Ok(())
}
