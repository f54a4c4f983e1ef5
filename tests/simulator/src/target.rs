//! Target: where the simulated job's sinks write, and what must hold of it.
//!
//! A release that comes again must be the same and changes nothing. No row may come out twice, whatever
//! its shard and epoch; and at the end, the rows are those that follow from the records of the
//! epochs up to theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_operators::ids::Epoch;
use ringfence_operators::verbs::sink::Release;

use super::faults::Fault;
use super::job::{APART, COUNTS, JobPlan, LATER_EPOCHS, RECORDS, Row, TIMERS};
use super::plant::Plant;
use super::process::ProcessId;
use super::scenes::{Arrived, Numbered, Told, check_numbered};
use super::witness::Witness;

/// The outside world of the job, shared by the sinks of all nodes.
#[derive(Clone)]
pub(super) struct Target {
    inner: Arc<Mutex<Inner>>,
    witness: Witness,
}

#[derive(Default)]
struct Inner {
    releases: BTreeMap<(Arc<str>, u32, u64), Vec<Row>>,
    /// Every row, with its epoch where a row may come once in each.
    rows: BTreeMap<(Arc<str>, Row, Option<u64>), u64>,
    repeated: u64,
}

impl Target {
    pub(super) fn new(witness: Witness) -> Self {
        Target { inner: Arc::default(), witness }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases rows, unless the target fails just now.
    pub(super) fn release(
        &self,
        process: ProcessId,
        id: &Release,
        rows: Vec<Row>,
    ) -> io::Result<()> {
        self.witness.perhaps_crash(process);
        let mut failure = None;
        {
            let mut witness = self.witness.lock();
            if let Some(armed) = witness.armed.get_mut(&process) {
                let slow_us = armed.release_us;
                if armed.release_failures > 0 {
                    armed.release_failures -= 1;
                    failure = Some(armed.release_failures % 2 == 0);
                    witness.fired.push(Fault::SinkFails);
                }
                if slow_us > 0 {
                    witness.spent_us += slow_us;
                    witness.fired.push(Fault::SinkSlow);
                }
            }
        }
        let error = || io::Error::new(io::ErrorKind::TimedOut, "injected fault: no answer");
        if failure == Some(false) {
            return Err(error());
        }
        self.witness.releases(process, id.view, id.epoch);
        let held = self.apply(id, rows);
        self.witness.check("output", held);
        if failure.is_some() { Err(error()) } else { Ok(()) }
    }

    fn apply(&self, id: &Release, rows: Vec<Row>) -> Result<(), String> {
        let mut inner = self.lock();
        let sink = Arc::clone(&id.sink.0);
        let key = (Arc::clone(&sink), id.shard.0, id.epoch.0);
        if let Some(before) = inner.releases.get(&key) {
            if *before != rows {
                return Err(format!(
                    "epoch {} of shard {} of {sink} was released again, and is different",
                    id.epoch, id.shard
                ));
            }
            inner.repeated += 1;
            if !self.witness.is_planted(Plant::SinkNotIdempotent) {
                return Ok(());
            }
        }
        for row in &rows {
            // A timer may tell one count in two epochs.
            let epoch = matches!(row, Row::Timer { .. }).then_some(id.epoch.0);
            let count = inner.rows.entry((Arc::clone(&sink), row.clone(), epoch)).or_default();
            *count += 1;
            if *count > 1 {
                return Err(format!("{row:?} came out of {sink} twice, now at epoch {}", id.epoch));
            }
        }
        inner.releases.insert(key, rows);
        Ok(())
    }

    /// How often a release came again.
    pub(super) fn repeated(&self) -> u64 {
        self.lock().repeated
    }

    /// The rows of a sink by epoch.
    fn by_epoch(&self, sink: &str) -> Told {
        let mut epochs = Told::new();
        for ((name, _, epoch), rows) in &self.lock().releases {
            if &**name == sink {
                epochs.entry(*epoch).or_default().extend(rows.iter().cloned());
            }
        }
        epochs
    }

    /// Checks that all records came out, and that everything else follows from them, epoch by epoch.
    ///
    /// This is the same job without faults and without this project: offsets at an epoch are those that
    /// the records' own sink tells.
    pub(super) fn check_complete(&self, plan: &JobPlan, shards: u64) -> Result<(), String> {
        let arrived = self.arrived(RECORDS, plan, shards)?;
        self.check_counts(plan, &arrived)?;
        if plan.timers {
            self.check_timers(plan, &arrived)?;
        }
        let arrived = if plan.scenes.apart { self.arrived(APART, plan, shards)? } else { arrived };
        plan.scenes.check(plan, &arrived, |sink| self.by_epoch(sink))
    }

    /// The records by epoch, as their sink tells: all of them, each shard's in order.
    fn arrived(&self, sink: &str, plan: &JobPlan, shards: u64) -> Result<Arrived, String> {
        let mut offsets: BTreeMap<u64, u64> = (0..shards).map(|shard| (shard, 0)).collect();
        let mut arrived = Arrived::new();
        for (epoch, rows) in self.by_epoch(sink) {
            for row in rows {
                let Row::Record(record) = row else { return Err(format!("{row:?} is no record")) };
                let offset = offsets.entry(record.shard).or_default();
                if record.index != *offset {
                    return Err(format!(
                        "epoch {epoch} has record {} of shard {}, and record {offset} is missing",
                        record.index, record.shard
                    ));
                }
                *offset += 1;
                arrived.entry(epoch).or_default().push(record);
            }
        }
        let short = offsets.iter().find(|(_, offset)| **offset != plan.records_per_shard);
        match short {
            Some((shard, offset)) => Err(format!(
                "{sink}: shard {shard} ended at record {offset} of {}",
                plan.records_per_shard
            )),
            None => Ok(arrived),
        }
    }

    fn check_counts(&self, plan: &JobPlan, arrived: &Arrived) -> Result<(), String> {
        let due = |(epoch, records): (&u64, &Vec<_>)| {
            (*epoch, records.iter().map(|record| (plan.key(*record), *record)).collect())
        };
        let mut found: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (epoch, rows) in self.by_epoch(COUNTS) {
            for row in rows {
                match row {
                    Row::Count { key, count, again, record } if count == again => {
                        let row = Numbered { key, number: count, of: record };
                        found.entry(epoch).or_default().push(row);
                    }
                    row => return Err(format!("{row:?} at epoch {epoch} is no whole count")),
                }
            }
        }
        check_numbered(COUNTS, &arrived.iter().map(due).collect(), found)
    }

    fn check_timers(&self, plan: &JobPlan, arrived: &Arrived) -> Result<(), String> {
        let mut due: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for (&epoch, records) in arrived {
            for record in records {
                let key = plan.key(*record);
                due.entry(epoch).or_default().insert(key);
                due.entry(epoch + LATER_EPOCHS).or_default().insert(key);
            }
        }
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut expected: BTreeMap<u64, BTreeSet<Row>> = BTreeMap::new();
        for (&epoch, keys) in &due {
            for record in arrived.get(&epoch).into_iter().flatten() {
                *counts.entry(plan.key(*record)).or_default() += 1;
            }
            let rows = keys.iter().map(|key| Row::Timer { key: *key, count: counts[key] });
            expected.insert(epoch, rows.collect());
        }
        let released = self.by_epoch(TIMERS);
        for epoch in expected.keys().chain(released.keys()) {
            let (wanted, found) = (expected.get(epoch), released.get(epoch));
            if wanted != found {
                let epoch = Epoch(*epoch);
                return Err(format!("timers told {found:?} at epoch {epoch}, not {wanted:?}"));
            }
        }
        Ok(())
    }
}
