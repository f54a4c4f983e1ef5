//! Turns: each record comes back a few times, one epoch later each time, and every turn is counted by key.
//!
//! A record on its way from one epoch to the next is in no operator's state. It must be part of the
//! checkpoint between the two nevertheless: left out, it never comes back; sent again without
//! need, it is counted twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfence_operators::prelude::*;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::vec::Map;

use super::{Arrived, Due, Numbered, Told, check_numbered};
use crate::chance::mix;
use crate::job::{JobPlan, Record, Row, perhaps_panic};

pub(super) const TURNS: &str = "turns";

/// How often a record comes back.
fn turns_of(record: Record) -> u64 {
    mix(record.shard << 32 ^ !record.index) % 3
}

/// The key of a turn: another one each time, so that records travel between workers.
fn key_of(plan: &JobPlan, record: Record, turn: u64) -> u64 {
    (plan.key(record) + 2 * turn) % plan.keys
}

pub(super) fn rows<'scope>(
    records: StreamVec<'scope, u64, Record>,
    plan: &Arc<JobPlan>,
) -> StreamVec<'scope, u64, Row> {
    let (plan, keys) = (Arc::clone(plan), Arc::clone(plan));
    let (again, back) = records.scope().feedback_fenced(1);
    let turns = records.map(|record| (record, 0u64)).concat(back).fold_fenced(
        "count turns",
        move |(record, turn): &(Record, u64)| key_of(&keys, *record, *turn),
        0u64,
        move |count, (record, turn), out| {
            *count += 1;
            perhaps_panic();
            let key = key_of(&plan, record, turn);
            out.give(Row::Turn { key, count: *count, record, turn });
        },
    );
    turns
        .clone()
        .flat_map(|row| match row {
            Row::Turn { record, turn, .. } if turn < turns_of(record) => Some((record, turn + 1)),
            _ => None,
        })
        .connect_loop_fenced("come back", again);
    turns
}

/// The turns of each epoch with their keys.
pub(super) fn turns(plan: &JobPlan, arrived: &Arrived) -> Due<(Record, u64)> {
    let mut turns = Due::new();
    for (epoch, records) in arrived {
        for &record in records {
            for turn in 0..=turns_of(record) {
                let one = (key_of(plan, record, turn), (record, turn));
                turns.entry(epoch + turn).or_default().insert(one);
            }
        }
    }
    turns
}

pub(super) fn check(plan: &JobPlan, arrived: &Arrived, told: &Told) -> Result<(), String> {
    let mut found: BTreeMap<u64, Vec<Numbered<(Record, u64)>>> = BTreeMap::new();
    for (epoch, rows) in told {
        for row in rows {
            let Row::Turn { key, count, record, turn } = row else {
                return Err(format!("{row:?} is no turn"));
            };
            let row = Numbered { key: *key, number: *count, of: (*record, *turn) };
            found.entry(*epoch).or_default().push(row);
        }
    }
    check_numbered(TURNS, &turns(plan, arrived), found)
}
