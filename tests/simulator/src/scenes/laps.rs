//! Laps: in a loop each record goes round a few times, and every visit is counted by key.
//!
//! The key of a visit depends on its round, so that records travel between workers within the loop. The
//! state is inside of it: it counts an epoch's visits before those of the next, although the loop's times
//! are only partly ordered.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfence_operators::prelude::*;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Concat, ConnectLoop, Enter, Leave, LoopVariable};

use super::{Arrived, Due, Numbered, Told, check_numbered};
use crate::chance::mix;
use crate::job::{JobPlan, Record, Row, perhaps_panic};

pub(super) const LAPS: &str = "laps";

/// The operator inside of the loop.
pub(crate) const VISITS: &str = "visits";

/// How often a record comes back.
fn laps_of(record: Record) -> u64 {
    mix(record.shard << 32 ^ record.index) % 4
}

/// The key of a visit.
fn key_of(plan: &JobPlan, record: Record, round: u64) -> u64 {
    (plan.key(record) + round) % plan.keys
}

pub(super) fn rows<'scope>(
    records: StreamVec<'scope, u64, Record>,
    plan: &Arc<JobPlan>,
) -> StreamVec<'scope, u64, Row> {
    let (plan, keys) = (Arc::clone(plan), Arc::clone(plan));
    let scope = records.scope();
    scope.iterative::<u32, _, _>(|inner| {
        let (again, cycle) = inner.loop_variable(1);
        let visits = records.enter(inner).map(|record| (record, 0u64)).concat(cycle).fold_fenced(
            VISITS,
            move |(record, round): &(Record, u64)| key_of(&keys, *record, *round),
            0u64,
            move |count, (record, round), out| {
                *count += 1;
                perhaps_panic();
                let key = key_of(&plan, record, round);
                out.give(Row::Lap { key, count: *count, record, round });
            },
        );
        visits
            .clone()
            .flat_map(|row| match row {
                Row::Lap { record, round, .. } if round < laps_of(record) => {
                    Some((record, round + 1))
                }
                _ => None,
            })
            .connect_loop(again);
        visits.leave(scope)
    })
}

/// The visits of each epoch with their keys.
pub(super) fn visits(plan: &JobPlan, arrived: &Arrived) -> Due<(Record, u64)> {
    let of = |record: Record| {
        let visit = move |round| (key_of(plan, record, round), (record, round));
        (0..=laps_of(record)).map(visit)
    };
    let visits = |(epoch, records): (&u64, &Vec<Record>)| {
        (*epoch, records.iter().copied().flat_map(of).collect())
    };
    arrived.iter().map(visits).collect()
}

pub(super) fn check(plan: &JobPlan, arrived: &Arrived, told: &Told) -> Result<(), String> {
    let mut found: BTreeMap<u64, Vec<Numbered<(Record, u64)>>> = BTreeMap::new();
    for (epoch, rows) in told {
        for row in rows {
            let Row::Lap { key, count, record, round } = row else {
                return Err(format!("{row:?} is no lap"));
            };
            let row = Numbered { key: *key, number: *count, of: (*record, *round) };
            found.entry(*epoch).or_default().push(row);
        }
    }
    check_numbered(LAPS, &visits(plan, arrived), found)
}
