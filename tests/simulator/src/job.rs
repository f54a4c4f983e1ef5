//! The simulated job: protected operators of this project, with answers that can be foretold.
//!
//! Each record is the `index`th of a `shard`. One sink gets the records as they come; so it tells the
//! sources' offsets at every epoch. The other results follow from the records of the epochs up to
//! theirs, in whatever order those came: a running count for each key, and at the end of each epoch
//! the counts of the keys that changed in it, told by timers. `scenes` has further parts.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use ringfence_operators::codec::{Codec, Postcard};
use ringfence_operators::prelude::*;
use ringfence_operators::verbs::sink::Release;
use serde::{Deserialize, Serialize};
use timely::dataflow::operators::Probe as _;
use timely::worker::Worker;

use super::chance::mix;
use super::process::ProcessId;
use super::program::{Outside, Program};
use super::scenes::{Fact, Scenes};
use super::target::Target;

/// The sink of the records themselves.
pub(super) const RECORDS: &str = "records";
/// The sink of the records of the second dataflow, where there is one.
pub(super) const APART: &str = "records apart";
/// The sink of the running counts.
pub(super) const COUNTS: &str = "counts";
/// The sink of what timers tell.
pub(super) const TIMERS: &str = "timers";

/// How many epochs after a record its key's second timer fires.
pub(super) const LATER_EPOCHS: u64 = 2;

/// The input and the shape of the job, the same for all nodes of a run.
#[derive(Clone, Debug)]
pub(super) struct JobPlan {
    /// Makes the keys.
    pub(super) seed: u64,
    /// How many records each shard has.
    pub(super) records_per_shard: u64,
    /// How many records a reader reads at once, at most.
    pub(super) batch_max: u64,
    /// How many keys there are.
    pub(super) keys: u64,
    /// Whether the job has its second half, the one with timers.
    pub(super) timers: bool,
    /// Whether the program feeds the job itself, in place of a source.
    pub(super) by_hand: bool,
    /// What else the job has.
    pub(super) scenes: Scenes,
}

impl JobPlan {
    /// The key of a record.
    pub(super) fn key(&self, record: Record) -> u64 {
        mix(self.seed ^ mix(record.shard << 32 | record.index)) % self.keys
    }
}

/// One record of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) shard: u64,
    pub(super) index: u64,
}

/// What the job sends to its sinks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Row {
    /// A record, as it was read.
    Record(Record),
    /// The count of a key, this record included; twice, so that half an update is seen.
    Count { key: u64, count: u64, again: u64, record: Record },
    /// The count of a key when a timer fired.
    Timer { key: u64, count: u64 },
    /// A record that has waited, with its number among those of its key.
    Stash { key: u64, number: u64, record: Record },
    /// How often a key has come on either side.
    Join { key: u64, left: u64, right: u64 },
    /// A visit of a record in a loop, with the count of its key.
    Lap { key: u64, count: u64, record: Record, round: u64 },
    /// A record that has come back so often, an epoch later each time, with the count of its key.
    Turn { key: u64, count: u64, record: Record, turn: u64 },
    /// A change of a collection.
    Change { of: Fact, epoch: u64, diff: isize },
}

/// What a panic in the middle of an update says.
pub(super) const UPDATE_PANIC: &str = "injected fault: panic in the middle of an update";

thread_local! {
    /// After how many updates of this thread's jobs one panics, half done; 0 is never.
    static PANIC_AFTER: Cell<u64> = const { Cell::new(0) };
}

/// Makes the job panic in the middle of the `after`th update from now.
pub(super) fn panic_after(after: u64) {
    PANIC_AFTER.set(after);
}

/// Panics, if this is the update to panic in.
pub(super) fn perhaps_panic() {
    match PANIC_AFTER.get() {
        0 => {}
        1 => {
            PANIC_AFTER.set(0);
            panic!("{UPDATE_PANIC}");
        }
        left => PANIC_AFTER.set(left - 1),
    }
}

/// Builds the job on a worker of `process`; returns the program that feeds it, if one does.
pub(super) fn build(
    worker: &mut Worker,
    plan: &Arc<JobPlan>,
    target: &Target,
    outside: &Outside,
    process: ProcessId,
) -> Option<Program> {
    let sink = || SimulatedSink { target: target.clone(), process };
    let plan = Arc::clone(plan);
    let mut input = plan.by_hand.then(|| FencedInput::<u64, Record>::new("input"));
    let (view, mut probe) = (worker.fence().generation().view, None);
    worker.dataflow::<u64, _, _>(|scope| {
        let records = match &mut input {
            Some(input) => {
                let (fed, records) = input.to_stream(scope).probe();
                probe = Some(fed);
                records
            }
            None => Records { plan: Arc::clone(&plan) }.to_stream_fenced(scope, "input"),
        };
        let keys = Arc::clone(&plan);
        records
            .clone()
            .fold_fenced("count", move |record: &Record| keys.key(*record), (0u64, 0u64), {
                let plan = Arc::clone(&plan);
                move |(count, again), record, out| {
                    *count += 1;
                    perhaps_panic();
                    *again += 1;
                    let (key, count, again) = (plan.key(record), *count, *again);
                    out.give(Row::Count { key, count, again, record });
                }
            })
            .sink_fenced(COUNTS, sink());
        if plan.timers {
            let keys = Arc::clone(&plan);
            records
                .clone()
                .stateful_fenced(
                    "tell",
                    move |record: &Record| keys.key(*record),
                    |at, event, out| match event {
                        Event::Record(_) => {
                            *at.state += 1u64;
                            at.wake_at(*at.time);
                            at.wake_at(*at.time + LATER_EPOCHS);
                        }
                        Event::Timer => out.give(Row::Timer { key: *at.key, count: *at.state }),
                    },
                )
                .sink_fenced(TIMERS, sink());
        }
        if !plan.scenes.apart {
            plan.scenes.build(&records, &plan, sink);
        }
        records.sink_fenced(RECORDS, sink());
    });
    if plan.scenes.apart {
        worker.dataflow::<u64, _, _>(|scope| {
            let records =
                Records { plan: Arc::clone(&plan) }.to_stream_fenced(scope, "input apart");
            plan.scenes.build(&records, &plan, sink);
            records.sink_fenced(APART, sink());
        });
    }
    Some(Program::new(input?, probe?, plan, outside, view))
}

/// The input: shards of records that can be read again from any index.
struct Records {
    plan: Arc<JobPlan>,
}

impl Source for Records {
    type Item = Record;
    type Position = u64;
    type Reader = RecordReader;

    fn shards(&self, share_count: u32) -> io::Result<Vec<String>> {
        Ok((0..share_count).map(|shard| shard.to_string()).collect())
    }

    fn open(&self, shard: &str, at: Option<&u64>) -> io::Result<RecordReader> {
        let shard = shard.parse().map_err(io::Error::other)?;
        Ok(RecordReader { plan: Arc::clone(&self.plan), shard, index: at.copied().unwrap_or(0) })
    }
}

struct RecordReader {
    plan: Arc<JobPlan>,
    shard: u64,
    index: u64,
}

impl Reader for RecordReader {
    type Item = Record;
    type Position = u64;

    fn read(&mut self, batch: &mut Vec<Record>) -> io::Result<bool> {
        let (end, shard) = (self.plan.records_per_shard, self.shard);
        // How much is read at once differs, but not from one attempt to the next.
        let wanted = 1 + mix(self.plan.seed ^ self.index) % self.plan.batch_max;
        let until = end.min(self.index + wanted);
        batch.extend((self.index..until).map(|index| Record { shard, index }));
        self.index = until;
        Ok(until < end)
    }

    fn position(&self) -> u64 {
        self.index
    }
}

/// A sink to the simulated target.
pub(super) struct SimulatedSink {
    target: Target,
    process: ProcessId,
}

impl From<Record> for Row {
    fn from(record: Record) -> Self {
        Row::Record(record)
    }
}

impl From<(Fact, u64, isize)> for Row {
    fn from((of, epoch, diff): (Fact, u64, isize)) -> Self {
        Row::Change { of, epoch, diff }
    }
}

impl<D: Data + Into<Row>> Sink<D> for SimulatedSink {
    type Position = u64;

    fn prepare(&mut self, at: &mut u64, rows: &[D]) -> io::Result<Vec<u8>> {
        *at += rows.len() as u64;
        let rows: Vec<Row> = rows.iter().cloned().map(Into::into).collect();
        let mut prepared = Vec::new();
        Postcard::encode(&rows, &mut prepared).map_err(io::Error::other)?;
        Ok(prepared)
    }

    fn release(&mut self, id: &Release, prepared: &[u8]) -> io::Result<()> {
        let rows: Vec<Row> = Postcard::decode(prepared).map_err(io::Error::other)?;
        self.target.release(self.process, id, rows)
    }
}
