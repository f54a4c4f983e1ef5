//! Exactly-once sinks: results are held as part of the checkpoint until their epoch is committed.

mod line_files;

pub use line_files::{Field, Line, LineFiles};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::codec::{Codec, Postcard};
use crate::data::Data;
use crate::error::JobError;
use crate::fence::careful::Careful;
use crate::fence::generation::{Notice, WhenDone};
use crate::fence::{Fence, HasFence};
use crate::ids::{Epoch, OperatorName, PartitionId, ViewNumber};
use crate::protected::outlet::{Outlet, advance};
use crate::protected::partitions::Partitions;
use crate::protected::route::to_somebody;
use crate::protected::turns::{Turns, complete, time_of};
use crate::rounds::replicate::commit;
use crate::time::{FencedTime, passed, reached};

/// An output of the job.
///
/// A sink fixes what it writes, and where, when an epoch is complete ([`prepare`](Sink::prepare)), and
/// writes it only when the epoch is committed ([`release`](Sink::release)). What it prepared is part
/// of the checkpoint, so a successor releases the same bytes at the same place. A release may be requested
/// more than once, by a successor or by a node that does not know yet that it was replaced. The second
/// release must change nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot take the records of a stream of `{D}`",
    note = "a sink is `LineFiles::new(directory)`, for records that can be written as lines, or a type of your \
            own that implements `Sink<{D}>`"
)]
pub trait Sink<D>: 'static {
    /// The position for the next result of a shard; kept as protected state.
    type Position: Data + Default;

    /// Prepares the sink at the start of a generation, before anything is released.
    ///
    /// In the first view it should refuse a target that already has results.
    fn open(&mut self, start: &Start) -> io::Result<()> {
        let _ = start;
        Ok(())
    }

    /// Encodes the results of one complete epoch, and moves the position past them.
    fn prepare(&mut self, at: &mut Self::Position, rows: &[D]) -> io::Result<Vec<u8>>;

    /// Makes visible what `prepare` returned; may be called again for the same results.
    ///
    /// After an error the results may be visible or not. The call is retried after 10 ms and then after
    /// longer and longer pauses, for up to [`RELEASE_LIMIT`]; then the job ends. Errors that a retry cannot
    /// fix, such as [`io::ErrorKind::PermissionDenied`], end the job at once.
    fn release(&mut self, id: &Release, prepared: &[u8]) -> io::Result<()>;

    /// Takes back what was released of a shard after `at`, where its next result goes; `None` if the shard has no
    /// results.
    ///
    /// Called for each of the worker's shards, after [`open`](Sink::open), if a cluster starts again from its
    /// durable tier and results may have been released that were not durable yet. They will come again, and
    /// differently: in other epochs and other shards. A sink that cannot take results back returns an error,
    /// which ends the job; with `--durable-commit` there never is anything to take back.
    fn cut_back(&mut self, shard: PartitionId, at: Option<&Self::Position>) -> io::Result<()> {
        let _ = (shard, at);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "results that were released before they were durable cannot be taken back here: run such a job with \
             --durable-commit",
        ))
    }

    /// Checks, once this worker has released everything, that the released results of a shard still exist;
    /// `at` is where its next result would go. An error ends the job.
    ///
    /// Called for each of the worker's shards for which any worker has released anything in this run.
    fn finish(&mut self, shard: PartitionId, at: &Self::Position) -> io::Result<()> {
        let _ = (shard, at);
        Ok(())
    }

    /// The canonical name of what the sink writes to: for a file, an absolute path without links.
    ///
    /// Two sinks of a job must not have the same target, and neither may be inside the other's, which means
    /// that its name continues the other's with `/`. Such a job ends with an error when it is built. A sink
    /// without a target (`None`) is not checked.
    ///
    /// ```
    /// use std::io;
    ///
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::verbs::sink::Release;
    ///
    /// struct Table(String);
    ///
    /// impl Sink<u64> for Table {
    ///     type Position = u64;
    ///
    ///     fn prepare(&mut self, at: &mut u64, rows: &[u64]) -> io::Result<Vec<u8>> {
    ///         *at += rows.len() as u64;
    ///         Ok(rows.iter().flat_map(|row| row.to_le_bytes()).collect())
    ///     }
    ///
    ///     fn release(&mut self, _id: &Release, _prepared: &[u8]) -> io::Result<()> {
    ///         Ok(())
    ///     }
    ///
    ///     fn target(&self) -> io::Result<Option<String>> {
    ///         Ok(Some(format!("table:{}", self.0)))
    ///     }
    /// }
    /// # let _ = Table("totals".to_owned());
    /// ```
    fn target(&self) -> io::Result<Option<String>> {
        Ok(None)
    }

    /// What remains to be done once the whole job is done. Every node that ends the job calls it. An error
    /// makes that node end with an error.
    fn when_done(&self) -> Option<WhenDone> {
        None
    }
}

/// Information about the start of a generation, for a [`Sink`].
#[derive(Clone, Debug)]
pub struct Start {
    /// The identity of the run.
    pub run: String,
    /// Whether nothing has been released yet in this run.
    pub first_view: bool,
    /// Whether what is released must survive a power cut: a release returns only once it does.
    pub durable: bool,
}

/// How long a failed release is retried before the job ends.
pub const RELEASE_LIMIT: Duration = Duration::from_secs(30);

/// How often a sink looks whether more is durable.
const DURABLE_PAUSE: Duration = Duration::from_millis(2);

const RETRY_PAUSE_MIN: Duration = Duration::from_millis(10);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A release that failed and is to be retried.
#[derive(Clone, Copy, Debug)]
struct Retry {
    /// When it failed first, by the generation's clock.
    since: Duration,
    at: Duration,
    pause: Duration,
}

/// Whether the same release may succeed later.
fn may_pass(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        AlreadyExists, InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound,
        PermissionDenied, ReadOnlyFilesystem, Unsupported,
    };
    !matches!(
        kind,
        AlreadyExists
            | InvalidData
            | InvalidInput
            | IsADirectory
            | NotADirectory
            | NotFound
            | PermissionDenied
            | ReadOnlyFilesystem
            | Unsupported
    )
}

/// The identity of a release, by which a second one is recognised.
#[derive(Clone, Debug)]
pub struct Release {
    /// The identity of the run.
    pub run: String,
    /// The name of the sink.
    pub sink: OperatorName,
    /// The shard, which is the partition that the results are kept in.
    pub shard: PartitionId,
    /// The committed epoch.
    pub epoch: Epoch,
    /// The epoch that was released before it in this shard, as far as this generation knows.
    pub previous: Option<Epoch>,
    /// The view on whose behalf it is released. A target that has seen a newer view should refuse it.
    pub view: ViewNumber,
}

/// The state of a shard, all of which is part of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ShardKey {
    /// Where its next result goes.
    Position,
    /// What was prepared for each epoch and is not known to be released.
    Prepared(u64),
}

/// Bytes that serde moves as a whole.
#[derive(Clone, Debug, Default)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// Sends a stream to a [`Sink`], exactly once.
pub trait SinkFenced<'scope, T: FencedTime, D: Data> {
    /// Releases the records of each epoch to `sink` once the epoch is committed, exactly once.
    ///
    /// Returns a stream without records whose frontier passes an epoch when the epoch is released: a probe on
    /// it shows when results are out.
    ///
    /// Records stay on the worker that made them. Each worker writes to the shard of the lowest partition
    /// that it runs. After a failure the successor releases what the dead worker's shards had committed. The
    /// records of one epoch have no order.
    ///
    /// A failed release is retried, with longer and longer pauses, for half a minute; meanwhile the results
    /// wait in the checkpoint. Any other error of the sink ends the job with an error that names the sink,
    /// and so does a [target](Sink::target) that another sink of the job has.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    ///
    /// let directory = std::env::temp_dir().join(format!("ringfence-sink-{}", std::process::id()));
    /// let out = directory.clone();
    /// testing::run::<u64, _>(2, move |scope, _| {
    ///     per_share(|share| std::iter::once((share.index, share.count)))
    ///         .to_stream_fenced(scope, "shares")
    ///         .sink_fenced("out", LineFiles::new(&out));
    /// });
    /// let mut text = String::new();
    /// for file in std::fs::read_dir(&directory)? {
    ///     let path = file?.path();
    ///     // The marker of an unfinished run is removed when a whole job is done.
    ///     if !path.ends_with(".ringfence-unfinished") {
    ///         text += &std::fs::read_to_string(path)?;
    ///     }
    /// }
    /// let mut lines: Vec<&str> = text.lines().collect();
    /// lines.sort();
    /// assert_eq!(lines, ["0\t2", "1\t2"]);
    /// # std::fs::remove_dir_all(&directory)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn sink_fenced<S: Sink<D>>(self, name: &str, sink: S) -> StreamVec<'scope, T, ()>;
}

impl<'scope, T: FencedTime, D: Data> SinkFenced<'scope, T, D> for StreamVec<'scope, T, D> {
    fn sink_fenced<S: Sink<D>>(self, name: &str, sink: S) -> StreamVec<'scope, T, ()> {
        let fence = self.fence();
        let scope = self.scope();
        let name = fence.admit("sink_fenced", name, scope);
        match sink.target() {
            Ok(Some(target)) => fence.claim(&name, target),
            Ok(None) => {}
            Err(error) => fence.fail(JobError::Sink { operator: name, what: error.to_string() }),
        }
        let writing = Writing::restore(sink, &fence, &name);
        let mut writing = Careful::new(&fence, &name, writing);
        let ids = vec![writing.shards.id()];

        let records = to_somebody(self, &fence);
        let mut builder = OperatorBuilder::new(name.to_string(), scope);
        let activator = scope.activator_for(builder.operator_info().address);
        fence.commit().wake_on_committed(activator.clone());
        fence.checkpoints().wake_on_decision(activator.clone());
        let mut input = builder.new_input(records, Pipeline);
        let (_released, released_stream) = builder.new_output::<Vec<()>>();
        let (frames_output, frames) = builder.new_output();
        let (inner_fence, inner_name) = (fence.clone(), name.clone());
        builder.build(move |capabilities| {
            let (fence, name) = (inner_fence, inner_name);
            let mut capabilities = capabilities.into_iter();
            let mut held = capabilities.next();
            // What is committed already is released again, at the first time of this generation.
            advance(&mut held, Some(fence.first_epoch()));
            let mut outlet = Outlet::new(&fence, frames_output, capabilities.next());
            let mut turns = Turns::<T, Vec<D>>::new();
            let mut is_finished = false;
            move |frontiers| {
                let _active = fence.check(&name);
                let frontier = &frontiers[0];
                let through = passed(frontier);
                input.for_each(|capability, batch| {
                    let time = time_of(&fence, &name, capability.stamp());
                    turns.wait(time, std::mem::take(batch));
                });
                while let Some(epoch) = turns.complete_epoch(through) {
                    fence.leave_if_stopping();
                    if !outlet.turn_to(epoch, &mut writing.shards) {
                        break;
                    }
                    fence.whereabouts().set_epoch(epoch);
                    writing.prepare(epoch, turns.take_epoch(epoch).into_iter().flatten().collect());
                }
                let waits = turns.first_epoch();
                let done = complete(through, waits);
                outlet.pass(done, &mut writing.shards);
                let (releasable, is_held) = fence.releasable();
                let pause = writing.release(releasable);
                // Nothing else wakes a worker when something becomes durable.
                let is_held = is_held && !writing.waiting.is_empty();
                let pause = pause.or(is_held.then_some(DURABLE_PAUSE));
                if let Some(pause) = pause {
                    fence.wake_after(&activator, pause);
                }
                let prepared = writing.waiting.first().map(|&(epoch, _)| Epoch(epoch));
                let next = reached(frontier).into_iter().chain(waits).chain(prepared).min();
                if next.is_none() && !is_finished {
                    is_finished = true;
                    writing.finish();
                }
                advance(&mut held, next);
            }
        });
        commit(frames, &fence, &name, ids);
        released_stream
    }
}

/// One worker's shards of a sink.
struct Writing<D, S> {
    sink: S,
    fence: Fence,
    name: OperatorName,
    shards: Partitions<ShardKey, Bytes>,
    /// What is prepared and not released, in the order of release.
    waiting: BTreeSet<(u64, PartitionId)>,
    released: BTreeMap<PartitionId, Epoch>,
    retry: Option<Retry>,
    record: std::marker::PhantomData<D>,
}

impl<D: Data, S: Sink<D>> Writing<D, S> {
    fn restore(mut sink: S, fence: &Fence, name: &OperatorName) -> Self {
        let generation = fence.generation();
        let durable = generation.settings.durable.as_ref();
        let start = Start {
            run: generation.settings.run.clone(),
            first_view: fence.is_first_view(),
            durable: durable.is_some_and(|durable| durable.commit_waits),
        };
        if let Err(error) = sink.open(&start) {
            fence.fail(JobError::Sink { operator: name.clone(), what: error.to_string() });
        }
        if let Some(action) = sink.when_done() {
            generation.add_when_done(action);
        }
        let mut shards = Partitions::<ShardKey, Bytes>::restore(fence, name, &mut |_| {});
        let mut waiting = BTreeSet::new();
        for partition in shards.owned().to_vec() {
            shards.table(partition).for_each(|key, _prepared| {
                if let ShardKey::Prepared(epoch) = key {
                    waiting.insert((*epoch, partition));
                }
            });
        }
        let mut writing = Writing {
            sink,
            fence: fence.clone(),
            name: name.clone(),
            shards,
            waiting,
            released: BTreeMap::new(),
            retry: None,
            record: std::marker::PhantomData,
        };
        if fence.is_resumed() && durable.is_some_and(|durable| durable.cuts_back) {
            writing.cut_back();
        }
        writing
    }

    fn fail(&self, what: String) -> ! {
        self.fence.fail(JobError::Sink { operator: self.name.clone(), what })
    }

    /// Where the next result of a shard goes; `None` where it has had none.
    fn position(&mut self, shard: PartitionId) -> Option<S::Position> {
        let hash = self.shards.hash(shard, &ShardKey::Position);
        let held = self.shards.table(shard).get(hash, &ShardKey::Position)?;
        match Postcard::decode(&held.0) {
            Ok(position) => Some(position),
            Err(error) => self.shards.refuse(shard, error),
        }
    }

    /// Takes back what was released and is to be released again.
    fn cut_back(&mut self) {
        for shard in self.shards.owned().to_vec() {
            let position = self.position(shard);
            if let Err(error) = self.sink.cut_back(shard, position.as_ref()) {
                self.fail(error.to_string());
            }
        }
    }

    /// Checks that everything that was released still exists.
    fn finish(&mut self) {
        for shard in self.shards.owned().to_vec() {
            if let Some(position) = self.position(shard)
                && let Err(error) = self.sink.finish(shard, &position)
            {
                self.fail(error.to_string());
            }
        }
    }

    /// Fixes the bytes and the position of an epoch's results.
    fn prepare(&mut self, epoch: Epoch, rows: Vec<D>) {
        if self.fence.is_void(&self.name) {
            return;
        }
        let Some(&shard) = self.shards.owned().first() else {
            self.fail(format!(
                "{} results of epoch {epoch} reached a worker that runs no partition",
                rows.len()
            ));
        };
        self.fence.whereabouts().set_partition(shard);
        let position_hash = self.shards.hash(shard, &ShardKey::Position);
        let mut position = self.position(shard).unwrap_or_default();
        let prepared = self.sink.prepare(&mut position, &rows);
        let prepared = prepared.unwrap_or_else(|error| self.fail(error.to_string()));
        let mut encoded = Vec::new();
        if let Err(error) = Postcard::encode(&position, &mut encoded) {
            self.fail(format!("its position cannot be encoded: {error}"));
        }
        let key = ShardKey::Prepared(epoch.0);
        let hash = self.shards.hash(shard, &key);
        let table = self.shards.table(shard);
        table.insert(position_hash, ShardKey::Position, Bytes(encoded));
        table.insert(hash, key, Bytes(prepared));
        self.waiting.insert((epoch.0, shard));
    }

    /// Releases what is committed, in order. If the target failed, returns how long to wait before the next
    /// call.
    fn release(&mut self, committed: Option<Epoch>) -> Option<Duration> {
        let now = self.fence.generation().clock.elapsed();
        if let Some(retry) = self.retry.filter(|retry| now < retry.at) {
            return Some(retry.at - now);
        }
        while let Some(&(epoch, shard)) = self.waiting.first()
            && committed.is_some_and(|committed| epoch <= committed.0)
        {
            let here = self.fence.whereabouts();
            here.set_epoch(Epoch(epoch));
            here.set_partition(shard);
            let key = ShardKey::Prepared(epoch);
            let hash = self.shards.hash(shard, &key);
            let id = Release {
                run: self.fence.generation().settings.run.clone(),
                sink: self.name.clone(),
                shard,
                epoch: Epoch(epoch),
                previous: self.released.get(&shard).copied(),
                view: self.fence.generation().view,
            };
            let result = match self.shards.table(shard).get(hash, &key) {
                Some(prepared) => self.sink.release(&id, &prepared.0),
                None => Err(io::Error::other("what it prepared is gone")),
            };
            if let Err(error) = result {
                return Some(self.try_later(shard, Epoch(epoch), &error, now));
            }
            if let Some(retry) = self.retry.take() {
                self.fence.notice(Notice::ReleaseRecovered {
                    operator: self.name.clone(),
                    failed_for: now - retry.since,
                });
            }
            self.shards.table(shard).remove(hash, &key);
            self.released.insert(shard, Epoch(epoch));
            self.waiting.pop_first();
        }
        None
    }

    /// Notes that a release failed; ends the job if it is not to be retried.
    fn try_later(
        &mut self,
        shard: PartitionId,
        epoch: Epoch,
        error: &io::Error,
        now: Duration,
    ) -> Duration {
        let since = self.retry.map_or(now, |retry| retry.since);
        if !may_pass(error.kind()) {
            self.fail(format!("epoch {epoch} of shard {shard}: {error}"));
        }
        if now - since >= RELEASE_LIMIT {
            let limit_s = RELEASE_LIMIT.as_secs();
            self.fail(format!("epoch {epoch} of shard {shard}, retried for {limit_s} s: {error}"));
        }
        if self.retry.is_none() {
            self.fence.notice(Notice::ReleaseFailed {
                operator: self.name.clone(),
                epoch,
                why: error.to_string(),
            });
        }
        let pause =
            self.retry.map_or(RETRY_PAUSE_MIN, |retry| (retry.pause * 2).min(RETRY_PAUSE_MAX));
        self.retry = Some(Retry { since, at: now + pause, pause });
        pause
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::prelude::*;
    use crate::testing::{self, Collected};

    /// Fails a number of times, half of them after it has written.
    struct Flaky {
        inner: Collected<u64>,
        failures: Arc<AtomicU32>,
        kind: io::ErrorKind,
    }

    impl Sink<u64> for Flaky {
        type Position = u64;

        fn prepare(&mut self, at: &mut u64, rows: &[u64]) -> io::Result<Vec<u8>> {
            self.inner.prepare(at, rows)
        }

        fn release(&mut self, id: &Release, prepared: &[u8]) -> io::Result<()> {
            let left = self.failures.load(Ordering::SeqCst);
            if left == 0 {
                return self.inner.release(id, prepared);
            }
            self.failures.store(left - 1, Ordering::SeqCst);
            if left.is_multiple_of(2) {
                self.inner.release(id, prepared)?;
            }
            Err(self.kind.into())
        }
    }

    fn run(failures: u32, kind: io::ErrorKind) -> Vec<u64> {
        let failures = Arc::new(AtomicU32::new(failures));
        let left = Arc::clone(&failures);
        let mut rows = testing::run(1, move |scope, output| {
            let sink = Flaky { inner: output, failures: Arc::clone(&failures), kind };
            per_share(|_share| 0..10_u64).to_stream_fenced(scope, "ten").sink_fenced("out", sink);
        });
        assert_eq!(left.load(Ordering::SeqCst), 0);
        rows.sort_unstable();
        rows
    }

    #[test]
    fn a_target_that_fails_now_and_then_loses_and_doubles_nothing() {
        let expected: Vec<u64> = (0..10).collect();
        assert_eq!(run(5, io::ErrorKind::TimedOut), expected);
        assert_eq!(run(4, io::ErrorKind::Other), expected);
    }

    #[test]
    #[should_panic(expected = "out")]
    fn what_time_does_not_mend_ends_the_job() {
        run(1, io::ErrorKind::PermissionDenied);
    }
}
