//! Stash: an existing operator holds each record back for some epochs, then numbers it by key.
//!
//! The records that wait survive with the capabilities to tell of them, so that each comes out once, at the
//! very epoch that it was to wait for, whatever happened meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfence_operators::prelude::*;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use super::{Arrived, Numbered, Told, check_numbered};
use crate::job::{JobPlan, LATER_EPOCHS, Record, Row, perhaps_panic};

pub(super) const STASH: &str = "stashed";

pub(super) fn rows<'scope>(
    records: StreamVec<'scope, u64, Record>,
    plan: &Arc<JobPlan>,
) -> StreamVec<'scope, u64, Row> {
    let (plan, keys) = (Arc::clone(plan), Arc::clone(plan));
    let by_key = Exchange::new(move |record: &Record| keys.key(*record));
    records.unary_frontier_fenced::<CapacityContainerBuilder<Vec<Row>>, _, _, _>(
        by_key,
        "stash",
        move |_, state| {
            let mut waiting = state.stash("waiting");
            let mut numbers = state.map("numbers");
            let plan = Arc::clone(&plan);
            move |(input, frontier), output| {
                input.for_each(|capability, records| {
                    let Some(time) = capability.least() else { return };
                    let later = capability.delayed(&(time + LATER_EPOCHS), 0);
                    for record in records.drain(..) {
                        waiting.push(later.clone(), record);
                        perhaps_panic();
                    }
                });
                for (capability, records) in waiting.ready(frontier) {
                    let mut session = output.session(&capability);
                    for record in records {
                        let key = plan.key(record);
                        let mut number = numbers.entry(key).or_insert(0u64);
                        *number += 1;
                        perhaps_panic();
                        session.give(Row::Stash { key, number: *number, record });
                    }
                }
            }
        },
    )
}

pub(super) fn check(plan: &JobPlan, arrived: &Arrived, told: &Told) -> Result<(), String> {
    let due = |(epoch, records): (&u64, &Vec<Record>)| {
        (epoch + LATER_EPOCHS, records.iter().map(|record| (plan.key(*record), *record)).collect())
    };
    let mut found: BTreeMap<u64, Vec<Numbered<Record>>> = BTreeMap::new();
    for (epoch, rows) in told {
        for row in rows {
            let Row::Stash { key, number, record } = row else {
                return Err(format!("{row:?} was never stashed"));
            };
            let row = Numbered { key: *key, number: *number, of: *record };
            found.entry(*epoch).or_default().push(row);
        }
    }
    check_numbered(STASH, &arrived.iter().map(due).collect(), found)
}
