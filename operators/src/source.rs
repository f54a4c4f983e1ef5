//! Replayable sources: inputs that can be read again from an offset, so that nothing is lost.

mod pace;
mod per_share;
mod text_files;

pub use per_share::{PerShare, Share, per_share};
pub use text_files::TextFiles;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use self::pace::Pace;
use crate::careful::Careful;
use crate::data::Data;
use crate::error::JobError;
use crate::fence::{Fence, HasFence};
use crate::generation::Notice;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::protect::{Outlet, Partitions, advance};
use crate::replicate::commit;
use crate::route::KeyRoute;
use crate::time::{EpochTime, FencedTime};

/// An input that can be read again: it has shards, and each shard can be opened at a position.
///
/// The same shards must be listed, in the same order, for the whole of a run and by every node, and
/// a shard read twice from one position must give the same items. That is what makes replay exact.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no source of records that can be protected",
    note = "an iterator becomes a source by `per_share(|share| ..)`, which makes the same one again for a share",
    note = "its records are `Clone`, `Send` and serializable: \
            `#[derive(Clone, serde::Serialize, serde::Deserialize)]`"
)]
pub trait Source: 'static {
    /// What it reads.
    type Item: Data;
    /// Where a reader stands; kept as protected state.
    type Position: Data;
    /// Reads one shard.
    type Reader: Reader<Item = Self::Item, Position = Self::Position>;

    /// The names of its shards.
    ///
    /// `share_count` is the number of workers the run began with, for sources that can be split
    /// in any number.
    fn shards(&self, share_count: u32) -> io::Result<Vec<String>>;

    /// Opens a shard at a position, or at its beginning.
    fn open(&self, shard: &str, at: Option<&Self::Position>) -> io::Result<Self::Reader>;

    /// How much a shard holds, in units such as bytes; `None` where nobody can tell.
    fn extent(&self, shard: &str) -> Option<u64> {
        let _ = shard;
        None
    }

    /// How much of a shard lies before `position`, in the same units.
    fn consumed(&self, shard: &str, position: &Self::Position) -> u64 {
        let _ = (shard, position);
        0
    }
}

/// Reads one shard of a [`Source`].
pub trait Reader: 'static {
    /// What it reads.
    type Item;
    /// Where it stands.
    type Position;

    /// Appends some items to `batch`; returns `false` once the shard is exhausted.
    ///
    /// A call should read a moderate amount (about a thousand items): between two calls the worker
    /// does everything else it has to do.
    fn read(&mut self, batch: &mut Vec<Self::Item>) -> io::Result<bool>;

    /// As [`read`](Reader::read), but no more than about `items_max` items.
    ///
    /// This is what is called. A source asks for less where the job takes long for what it was given,
    /// since all of that is in memory at once: large records, say. As provided it reads what `read` does.
    fn read_some(&mut self, batch: &mut Vec<Self::Item>, items_max: usize) -> io::Result<bool> {
        let _ = items_max;
        self.read(batch)
    }

    /// The position after the last item read: opened there, a reader reads the next one.
    fn position(&self) -> Self::Position;
}

/// Where a shard stands: the protected state of a source.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ShardState<P> {
    position: Option<P>,
    records: u64,
    done: bool,
}

/// Turns a [`Source`] into a protected stream.
pub trait ToStreamFenced: Source + Sized {
    /// Reads the source into a stream that can be replayed from any committed epoch.
    ///
    /// The shards are spread over the partitions and move with them. Each worker reads its shards
    /// one after the other; a record's epoch is given by the clock, `epoch-ms` long, and the source
    /// pauses when it has left too many checkpoints behind that its dataflow has not stored yet. After
    /// a failure every shard goes back to its position at the committed epoch.
    ///
    /// A source that cannot be listed or read ends the job with an error that names it.
    ///
    /// ```
    /// use ringfence_operators::testing;
    /// use ringfence_operators::prelude::*;
    ///
    /// let mut numbers = testing::run(2, |scope, output| {
    ///     per_share(|share| (0..5u64).filter(move |n| n % share.count == share.index))
    ///         .to_stream_fenced(scope, "numbers")
    ///         .sink_fenced("numbers out", output);
    /// });
    /// numbers.sort();
    /// assert_eq!(numbers, vec![0, 1, 2, 3, 4]);
    /// ```
    fn to_stream_fenced<'scope, T: EpochTime>(
        self,
        scope: Scope<'scope, T>,
        name: &str,
    ) -> StreamVec<'scope, T, Self::Item> {
        let fence = scope.fence();
        let name = fence.admit("to_stream_fenced", name, scope);
        let reading = Reading::restore(self, &fence, &name);
        let mut reading = Careful::new(&fence, &name, reading);
        let ids = vec![reading.states.id()];

        let mut builder = OperatorBuilder::new(name.to_string(), scope);
        let info = builder.operator_info();
        fence.origins().know(info.global_id);
        let activator = scope.activator_for(info.address);
        let dataflow = scope.addr()[0];
        fence.commit().wake_on_stored(dataflow, activator.clone());
        let (output, items) = builder.new_output();
        let (frames_output, frames) = builder.new_output();
        let (inner_fence, inner_name) = (fence.clone(), name.clone());
        builder.build(move |capabilities| {
            let (fence, name) = (inner_fence, inner_name);
            let mut current = fence.first_epoch();
            // A short type counts less far than the clock.
            let last = T::from_epoch(Epoch::END).epoch();
            let begun = Arc::clone(&fence.generation().gauges);
            let begin = move |epoch: Epoch| {
                // After the end of everything no epoch begins.
                if epoch <= Epoch::END {
                    begun.epochs_begun.fetch_max(epoch.next().0, Ordering::Relaxed);
                }
            };
            begin(current);
            let mut capabilities: Vec<Capability<T>> = capabilities;
            for capability in &mut capabilities {
                capability.downgrade(&T::from_epoch(current));
            }
            let mut capabilities = capabilities.into_iter();
            let mut held = capabilities.next();
            let mut outlet =
                capabilities.next().map(|held| Outlet::new(&fence, frames_output, held));
            let mut output =
                OutputBuilder::<T, CapacityContainerBuilder<Vec<Self::Item>>>::from(output);
            // What the shards begin with is a change, too.
            if let Some(outlet) = &mut outlet {
                outlet.begin(current);
            }
            let mut batch = Vec::new();
            let mut pace = Pace::new();
            move |_frontiers| {
                let _active = fence.check(&name);
                let Some(outlet) = &mut outlet else { return };
                if held.is_none() {
                    return;
                }
                pace.end(fence.generation().clock.elapsed());
                let clock = fence.clock_epoch(dataflow);
                if clock.epoch > last {
                    fence.fail(JobError::Source {
                        operator: name.clone(),
                        what: no_time_left::<T>(last),
                    });
                }
                if clock.epoch > current && fence.checkpoints().admit(clock.epoch) {
                    // It was through with the last epoch when it chose to begin another one.
                    let through = Epoch::before(Some(clock.epoch));
                    if let Some(time) = outlet.due(through) {
                        outlet.seal(&time, &mut reading.states);
                    }
                    outlet.fill(through, &mut reading.states);
                    outlet.advance(through);
                    current = clock.epoch;
                    begin(current);
                    advance(&mut held, Some(current));
                } else if clock.throttled {
                    // What is stored wakes it.
                    return;
                }
                outlet.begin(current);
                fence.whereabouts().set_epoch(current);
                let items_max = pace.begin(fence.generation().clock.elapsed());
                let more = reading.read(&mut batch, items_max);
                if let Some(held) = &held
                    && !batch.is_empty()
                {
                    output.activate().session(held).give_container(&mut batch);
                    batch.clear();
                }
                if more {
                    activator.activate();
                } else {
                    outlet.seal_last(&T::from_epoch(current), &mut reading.states);
                    held = None;
                    outlet.close();
                }
            }
        });
        commit(frames, &fence, &name, ids);
        items
    }
}

impl<S: Source> ToStreamFenced for S {}

fn no_time_left<T>(last: Epoch) -> String {
    format!(
        "the time type {} has no epoch after {last}, so nothing more could be committed: give its dataflow a \
         wider type, such as u64, or longer epochs (--epoch-ms)",
        std::any::type_name::<T>()
    )
}

/// One worker's shards of a source.
struct Reading<S: Source> {
    source: S,
    fence: Fence,
    name: OperatorName,
    states: Partitions<String, ShardState<S::Position>>,
    /// The shards that are not exhausted; the last one is being read.
    open: Vec<OpenShard<S>>,
    /// How many records each shard had been read for before the failure, where it is behind that.
    behind: BTreeMap<String, u64>,
}

struct OpenShard<S: Source> {
    shard: String,
    partition: PartitionId,
    hash: u64,
    state: ShardState<S::Position>,
    reader: Option<S::Reader>,
}

/// The partition of shard `index` of `count`: evenly spread, and independent of the view.
pub(crate) fn partition_of_shard(index: usize, count: usize, partitions: u32) -> PartitionId {
    let partitions = partitions as usize;
    let partition =
        if count >= partitions { index % partitions } else { index * partitions / count };
    PartitionId(partition as u32)
}

impl<S: Source> Reading<S> {
    fn restore(source: S, fence: &Fence, name: &OperatorName) -> Self {
        let fail =
            |what: String| -> ! { fence.fail(JobError::Source { operator: name.clone(), what }) };
        let generation = fence.generation();
        // A source that the job has dropped before has nothing more to give.
        let is_void = fence.is_void(name);
        let shards = match source.shards(generation.settings.share_count) {
            Ok(_) if is_void => Vec::new(),
            Ok(shards) => shards,
            Err(error) => fail(error.to_string()),
        };
        let mut reached = BTreeMap::new();
        let mut states = Partitions::restore(fence, name, &mut |table| {
            table.for_each(|shard: &String, state: &ShardState<S::Position>| {
                reached.insert(shard.clone(), state.records);
            });
        });

        let mut route = KeyRoute::new(generation.settings.hasher);
        let (mut open, mut behind, mut replayed) = (Vec::new(), BTreeMap::new(), 0);
        let (mut consumed, mut records, mut total) = (0, 0, 0);
        let mut known = vec![0usize; generation.routes.owners.len()];
        for (index, shard) in shards.iter().enumerate() {
            total += source.extent(shard).unwrap_or(0);
            let partition = partition_of_shard(index, shards.len(), generation.routes.partitions());
            if generation.routes.owner(partition) != fence.worker() {
                continue;
            }
            known[partition.0 as usize] += 1;
            let hash = match route.hash(shard) {
                Ok(hash) => hash,
                Err(error) => states.refuse(partition, error.to_string()),
            };
            let table = states.table(partition);
            let state = match table.get(hash, shard) {
                Some(state) => state.clone(),
                None if generation.resume.is_none() => {
                    let state = ShardState { position: None, records: 0, done: false };
                    table.insert(hash, shard.clone(), state.clone());
                    state
                }
                None => fail(format!(
                    "shard \"{shard}\" was not there when the run began: the input must not \
                     change during a run"
                )),
            };
            if let Some(position) = &state.position {
                consumed += source.consumed(shard, position);
            }
            records += state.records;
            if let Some(&reached) = reached.get(shard)
                && reached > state.records
            {
                replayed += reached - state.records;
                behind.insert(shard.clone(), reached);
            }
            if !state.done {
                open.push(OpenShard { shard: shard.clone(), partition, hash, state, reader: None });
            }
        }
        for partition in states.owned().to_vec() {
            let held = states.table(partition).len();
            if held != known[partition.0 as usize] {
                fail(format!(
                    "partition {partition} had {held} shards when the run began and has {} now: \
                     the input must not change during a run",
                    known[partition.0 as usize]
                ));
            }
        }
        // The last is read first: what was read before the failure, then in the order of the list.
        open.reverse();
        open.sort_by_key(|shard: &OpenShard<S>| behind.contains_key(&shard.shard));
        let gauges = &generation.gauges;
        gauges.consumed.fetch_add(consumed, Ordering::Relaxed);
        gauges.records.fetch_add(records, Ordering::Relaxed);
        if fence.worker().is_multiple_of(generation.settings.workers_per_node.max(1)) {
            gauges.total.fetch_add(total, Ordering::Relaxed);
        }
        if !fence.is_first_view() {
            fence.notice(Notice::Resumed { records, replaying: replayed });
        }
        Reading { source, fence: fence.clone(), name: name.clone(), states, open, behind }
    }

    /// Reads a batch; returns whether there is more to read.
    fn read(&mut self, batch: &mut Vec<S::Item>, items_max: usize) -> bool {
        let Some(shard) = self.open.last_mut() else { return false };
        self.fence.whereabouts().set_partition(shard.partition);
        let fail = |error: io::Error| -> ! {
            let what = format!("shard \"{}\": {error}", shard.shard);
            self.fence.fail(JobError::Source { operator: self.name.clone(), what })
        };
        let reader = match &mut shard.reader {
            Some(reader) => reader,
            empty => match self.source.open(&shard.shard, shard.state.position.as_ref()) {
                Ok(reader) => empty.insert(reader),
                Err(error) => fail(error),
            },
        };
        let more = match reader.read_some(batch, items_max) {
            Ok(more) => more,
            Err(error) => fail(error),
        };
        let position = reader.position();
        let consumed = |position: &S::Position| self.source.consumed(&shard.shard, position);
        let gauges = &self.fence.generation().gauges;
        let before = shard.state.position.as_ref().map_or(0, consumed);
        gauges.consumed.fetch_add(consumed(&position).saturating_sub(before), Ordering::Relaxed);
        gauges.records.fetch_add(batch.len() as u64, Ordering::Relaxed);
        shard.state.position = Some(position);
        shard.state.records += batch.len() as u64;
        shard.state.done = !more;
        self.states.table(shard.partition).insert(
            shard.hash,
            shard.shard.clone(),
            shard.state.clone(),
        );
        if let Some(&reached) = self.behind.get(&shard.shard)
            && shard.state.records >= reached
        {
            self.behind.remove(&shard.shard);
            if self.behind.is_empty() {
                self.fence.notice(Notice::CaughtUp { operator: self.name.clone() });
            }
        }
        if !more {
            self.open.pop();
        }
        !self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_spread_evenly() {
        for (count, partitions) in [(3, 256), (256, 256), (1000, 256), (1, 7), (5, 1)] {
            let mut load = vec![0usize; partitions as usize];
            for index in 0..count {
                load[partition_of_shard(index, count, partitions).0 as usize] += 1;
            }
            let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
            assert!(most - least <= 1, "{count} shards over {partitions}: {least} to {most}");
        }
    }
}
