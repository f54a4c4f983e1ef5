//! One worker's shards of a source, read in turns.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listing::{LISTER, Listed, Order, twice};
use super::{Reader, Source};
use crate::codec::{Codec, Postcard};
use crate::error::JobError;
use crate::fence::Fence;
use crate::fence::generation::Notice;
use crate::hash::partition_of_shard;
use crate::ids::{OperatorName, PartitionId};
use crate::protected::partitions::Partitions;

/// How many shards of a worker are open at a time, at most.
const OPEN_MAX: usize = 16;

/// How many batches of a shard are read before it makes room for one that waits.
const BATCHES_MAX: u32 = 64;

/// How long a shard that has nothing to read is left alone: the first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Whether an error says that it is to be tried again later.
fn is_not_now(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Where a shard stands: the protected state of a source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ShardState<P> {
    /// The position of the shard in the list that was decided.
    index: u64,
    /// The fingerprint of its contents.
    fingerprint: Vec<u8>,
    position: Option<P>,
    records: u64,
    done: bool,
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There may be more to read at once.
    Read,
    /// No shard has anything to read before this time has passed.
    Idle(Duration),
    /// All shards are exhausted.
    Exhausted,
}

/// One worker's shards of a source.
pub(super) struct Reading<S: Source> {
    source: S,
    fence: Fence,
    name: OperatorName,
    states: Partitions<String, ShardState<S::Position>>,
    /// The part of the list of shards that has arrived so far; `None` once the list is complete.
    told: Option<BTreeMap<u64, Listed>>,
    /// The shards that are not exhausted. The first that is not resting is read next; at most the first
    /// [`OPEN_MAX`] are open.
    queue: VecDeque<OpenShard<S>>,
    /// How many records this process had read of each shard before the failure.
    reached: BTreeMap<String, u64>,
    /// The same, of those that are behind that.
    behind: BTreeMap<String, u64>,
}

struct OpenShard<S: Source> {
    shard: String,
    partition: PartitionId,
    hash: u64,
    state: ShardState<S::Position>,
    reader: Option<S::Reader>,
    /// Whether its contents were checked in this generation.
    is_checked: bool,
    /// Whether it was read to its end: its contents are to be checked once more.
    is_exhausted: bool,
    /// How many batches were read since it was opened.
    batches: u32,
    /// Until when, by the generation's clock, it is left alone, and how long the pause was.
    rest: Option<(Duration, Duration)>,
}

impl<S: Source> Reading<S> {
    pub(super) fn restore(source: S, fence: &Fence, name: &OperatorName) -> Self {
        let mut reached = BTreeMap::new();
        let states = Partitions::restore(fence, name, &mut |table| {
            table.for_each(|shard: &String, state: &ShardState<S::Position>| {
                reached.insert(shard.clone(), state.records);
            });
        });
        let mut reading = Reading {
            source,
            fence: fence.clone(),
            name: name.clone(),
            states,
            told: Some(BTreeMap::new()),
            queue: VecDeque::new(),
            reached,
            behind: BTreeMap::new(),
        };
        if fence.is_void(name) {
            // A source that the job has dropped before has nothing more to give.
            reading.told = None;
        } else if fence.generation().resume.is_some() {
            // What is committed has the shards in it.
            reading.told = None;
            reading.begin();
        }
        reading
    }

    pub(super) fn id(&self) -> u64 {
        self.states.id()
    }

    pub(super) fn states(&mut self) -> &mut Partitions<String, ShardState<S::Position>> {
        &mut self.states
    }

    fn fail(&self, what: String) -> ! {
        self.fence.fail(JobError::Source { operator: self.name.clone(), what })
    }

    /// Decides the shards of the run, if that is this worker's task and not done yet.
    pub(super) fn list(&self) -> Option<Vec<Listed>> {
        self.told.as_ref()?;
        if self.fence.worker() != LISTER {
            return None;
        }
        let names = match self.source.shards(self.share_count()) {
            Ok(names) => names,
            Err(error) => self.fail(error.to_string()),
        };
        if let Some(name) = twice(&names) {
            self.fail(format!("shard {name:?} is listed twice: give each shard its own name"));
        }
        let listed = names.into_iter().map(|name| match self.source.fingerprint(&name) {
            Ok(fingerprint) => Listed { name, fingerprint },
            Err(error) => self.fail(format!("shard {name:?}: {error}")),
        });
        Some(listed.collect())
    }

    /// Takes note of a part of the list.
    pub(super) fn gather(&mut self, orders: &mut Vec<Order>) {
        if let Some(told) = &mut self.told {
            told.extend(orders.drain(..).map(|order| (order.index, order.shard)));
        }
    }

    /// Whether the shards are known; `all_is_told` says whether the list is complete. If it is and reading
    /// has not begun, this must be called again soon.
    pub(super) fn has_begun(&mut self, all_is_told: bool) -> bool {
        let Some(told) = &self.told else { return true };
        if !all_is_told || !self.has_input(told.values()) {
            return false;
        }
        let told = self.told.take().unwrap_or_default();
        self.adopt(told.into_values().collect());
        self.begin();
        true
    }

    fn share_count(&self) -> u32 {
        self.fence.generation().settings.share_count
    }

    /// Whether this node has the input that was decided; ends the job if it has not. `false` if that is not
    /// clear yet.
    fn has_input<'a>(&self, list: impl Iterator<Item = &'a Listed> + Clone) -> bool {
        let names: Vec<String> = list.clone().map(|listed| listed.name.clone()).collect();
        let agreed = self.source.agree(&names, self.share_count()).map_err(|error| (None, error));
        let checked = agreed.and_then(|()| {
            list.into_iter().try_for_each(|Listed { name, fingerprint }| {
                self.source.check(name, fingerprint).map_err(|error| (Some(name), error))
            })
        });
        let Err((shard, error)) = checked else { return true };
        if is_not_now(&error) {
            return false;
        }
        let worker = self.fence.worker();
        let shard = shard.map_or_else(String::new, |shard| format!("shard {shard:?}: "));
        self.fail(format!(
            "worker {worker} does not have the input that worker {LISTER} listed: {shard}{error}"
        ))
    }

    /// Makes the shards of the worker's partitions part of its state.
    fn adopt(&mut self, list: Vec<Listed>) {
        let generation = self.fence.generation().clone();
        let routes = &generation.routes;
        let (count, mut total) = (list.len(), 0u64);
        for (index, listed) in list.into_iter().enumerate() {
            total = total.saturating_add(self.source.extent(&listed.name).unwrap_or(0));
            let partition = partition_of_shard(index, count, routes.partitions());
            if routes.owner(partition) != self.fence.worker() {
                continue;
            }
            let Listed { name, fingerprint } = listed;
            let hash = self.states.hash(partition, &name);
            let index = index as u64;
            let state = ShardState { index, fingerprint, position: None, records: 0, done: false };
            self.states.table(partition).insert(hash, name, state);
        }
        // Reporting it once is enough for the rest of the run.
        if self.fence.worker().is_multiple_of(generation.settings.workers_per_node.max(1)) {
            generation.gauges.total.fetch_add(total, Ordering::Relaxed);
        }
    }

    /// Gets ready to read the shards that are in the worker's state.
    fn begin(&mut self) {
        let reached = std::mem::take(&mut self.reached);
        let mut queue = Vec::new();
        let (mut consumed, mut records, mut replayed) = (0, 0, 0);
        for partition in self.states.owned().to_vec() {
            let mut shards = Vec::new();
            self.states.table(partition).for_each(|shard, state| {
                shards.push((shard.clone(), state.clone()));
            });
            for (shard, state) in shards {
                let hash = self.states.hash(partition, &shard);
                if let Some(position) = &state.position {
                    consumed += self.source.consumed(&shard, position);
                }
                records += state.records;
                if let Some(&reached) = reached.get(&shard)
                    && reached > state.records
                {
                    replayed += reached - state.records;
                    self.behind.insert(shard.clone(), reached);
                }
                if !state.done {
                    queue.push(OpenShard {
                        shard,
                        partition,
                        hash,
                        state,
                        reader: None,
                        is_checked: self.fence.generation().resume.is_none(),
                        is_exhausted: false,
                        batches: 0,
                        rest: None,
                    });
                }
            }
        }
        // First what was read before the failure, then in the order of the list.
        queue.sort_by_key(|open| (!self.behind.contains_key(&open.shard), open.state.index));
        self.queue = queue.into();
        let gauges = &self.fence.generation().gauges;
        gauges.consumed.fetch_add(consumed, Ordering::Relaxed);
        gauges.records.fetch_add(records, Ordering::Relaxed);
        if !self.fence.is_first_view() {
            self.fence.notice(Notice::Resumed { records, replaying: replayed });
        }
    }

    /// Reads a batch of the shard whose turn it is.
    pub(super) fn read(&mut self, batch: &mut Vec<S::Item>, items_max: usize) -> Turn {
        let now = self.fence.generation().clock.elapsed();
        let is_ready = |open: &OpenShard<S>| open.rest.is_none_or(|(until, _)| until <= now);
        let Some(next) = self.queue.iter().position(is_ready) else {
            let ends = self.queue.iter().filter_map(|open| open.rest.map(|(until, _)| until));
            return ends.min().map_or(Turn::Exhausted, |until| Turn::Idle(until - now));
        };
        let Some(mut open) = self.queue.remove(next) else { return Turn::Exhausted };
        self.fence.whereabouts().set_partition(open.partition);
        let read = match self.read_batch(&mut open, batch, items_max) {
            Err(error) if is_not_now(&error) => Ok((true, false)),
            read => read,
        };
        let more = match read {
            Ok((more, moved)) => {
                if moved || !more {
                    self.note(&mut open, more);
                }
                open.rest = match open.rest {
                    _ if moved => None,
                    None => Some((now + PAUSE_MIN, PAUSE_MIN)),
                    Some((_, pause)) => {
                        let pause = (pause * 2).min(PAUSE_MAX);
                        Some((now + pause, pause))
                    }
                };
                more
            }
            Err(error) => self.fail(format!(
                "shard {:?}, of which {} records had been read: {error}",
                open.shard, open.state.records
            )),
        };
        if more {
            self.put_back(open);
        } else if self.queue.is_empty() {
            return Turn::Exhausted;
        }
        Turn::Read
    }

    /// Reads a batch; returns whether there may be more, and whether anything was read.
    fn read_batch(
        &self,
        open: &mut OpenShard<S>,
        batch: &mut Vec<S::Item>,
        items_max: usize,
    ) -> io::Result<(bool, bool)> {
        if !open.is_checked {
            self.source.check(&open.shard, &open.state.fingerprint)?;
            open.is_checked = true;
        }
        let moved = !open.is_exhausted && self.advance(open, batch, items_max)?;
        if open.is_exhausted {
            match self.source.check(&open.shard, &open.state.fingerprint) {
                Err(error) if is_not_now(&error) => return Ok((true, moved)),
                checked => checked?,
            }
        }
        Ok((!open.is_exhausted, moved))
    }

    /// Lets the reader of a shard read; returns whether anything was read.
    fn advance(
        &self,
        open: &mut OpenShard<S>,
        batch: &mut Vec<S::Item>,
        items_max: usize,
    ) -> io::Result<bool> {
        let OpenShard { shard, state, .. } = open;
        let reader = match &mut open.reader {
            Some(reader) => reader,
            empty => empty.insert(self.source.open(shard, state.position.as_ref())?),
        };
        open.is_exhausted = match reader.read_some(batch, items_max) {
            Err(error) if is_not_now(&error) => false,
            read => !read?,
        };
        open.batches += 1;
        let position = reader.position();
        // An idle shard must not count as changed each time it is polled.
        let moved = !batch.is_empty() || !self.is_same(state.position.as_ref(), &position);
        if moved {
            let consumed = |position: &S::Position| self.source.consumed(shard, position);
            let before = state.position.as_ref().map_or(0, consumed);
            let gauges = &self.fence.generation().gauges;
            let consumed = consumed(&position).saturating_sub(before);
            gauges.consumed.fetch_add(consumed, Ordering::Relaxed);
            gauges.records.fetch_add(batch.len() as u64, Ordering::Relaxed);
            state.position = Some(position);
            state.records += batch.len() as u64;
        }
        Ok(moved)
    }

    fn is_same(&self, before: Option<&S::Position>, now: &S::Position) -> bool {
        let Some(before) = before else { return false };
        let encoded = |position: &S::Position| {
            let mut bytes = Vec::new();
            Postcard::encode(position, &mut bytes).map(|()| bytes)
        };
        matches!((encoded(before), encoded(now)), (Ok(before), Ok(now)) if before == now)
    }

    /// Notes in the state how far a shard was read.
    fn note(&mut self, open: &mut OpenShard<S>, more: bool) {
        open.state.done = !more;
        let table = self.states.table(open.partition);
        table.insert(open.hash, open.shard.clone(), open.state.clone());
        if let Some(&reached) = self.behind.get(&open.shard)
            && open.state.records >= reached
        {
            self.behind.remove(&open.shard);
            if self.behind.is_empty() {
                self.fence.notice(Notice::CaughtUp { operator: self.name.clone() });
            }
        }
    }

    /// Lets the other shards have their turns. Those that are behind come first. Those that are open come
    /// before those that wait to be opened, unless this one has nothing to read or was read for long.
    fn put_back(&mut self, mut open: OpenShard<S>) {
        let is_behind = |open: &OpenShard<S>| self.behind.contains_key(&open.shard);
        let behind = if self.behind.is_empty() {
            0
        } else {
            self.queue.iter().take_while(|other| is_behind(other)).count()
        };
        let makes_room =
            self.queue.len() >= OPEN_MAX && (open.rest.is_some() || open.batches >= BATCHES_MAX);
        let place = place_in_line(self.queue.len(), behind, is_behind(&open), makes_room);
        if makes_room || place >= OPEN_MAX {
            open.close();
        }
        self.queue.insert(place, open);
        // A shard that was pushed back beyond the open ones makes room.
        if let Some(beyond) = self.queue.get_mut(OPEN_MAX) {
            beyond.close();
        }
    }
}

impl<S: Source> OpenShard<S> {
    fn close(&mut self) {
        self.reader = None;
        self.batches = 0;
    }
}

/// Where a shard that had its turn waits for the next one: `waiting` others do, of which the first `behind` have
/// not reached where they were before a failure. Those are read first, in turns among themselves.
fn place_in_line(waiting: usize, behind: usize, is_behind: bool, makes_room: bool) -> usize {
    match (is_behind, makes_room) {
        (true, true) => behind,
        (true, false) => behind.min(OPEN_MAX - 1),
        (false, true) => waiting,
        (false, false) => waiting.min(OPEN_MAX - 1).max(behind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets shards be read in turns; returns who was read, in order. The first `behind` have so many batches
    /// to go until they are where they were.
    fn turns(shards: usize, behind: usize, batches: u32, count: usize) -> Vec<usize> {
        let mut left: Vec<u32> =
            (0..shards).map(|n| if n < behind { batches } else { 0 }).collect();
        let mut read = vec![0u32; shards];
        let mut line: VecDeque<usize> = (0..shards).collect();
        let mut order = Vec::new();
        for _ in 0..count {
            let next = line.pop_front().unwrap();
            order.push(next);
            left[next] = left[next].saturating_sub(1);
            read[next] += 1;
            let makes_room = line.len() >= OPEN_MAX && read[next] >= BATCHES_MAX;
            if makes_room {
                read[next] = 0;
            }
            let before = line.iter().take_while(|other| left[**other] > 0).count();
            line.insert(place_in_line(line.len(), before, left[next] > 0, makes_room), next);
        }
        order
    }

    #[test]
    fn what_was_read_before_a_failure_is_read_before_anything_else() {
        for (shards, behind) in [(4, 2), (40, 3), (40, 16), (40, 30), (17, 17)] {
            for batches in [1, 5, 3 * BATCHES_MAX] {
                let count = behind * batches as usize;
                let order = turns(shards, behind, batches, count);
                assert!(order.iter().all(|shard| *shard < behind), "{shards} {behind} {batches}");
            }
        }
    }

    #[test]
    fn every_shard_has_its_turns() {
        for (shards, behind) in [(3, 0), (16, 2), (17, 0), (40, 0), (40, 30)] {
            let order = turns(shards, behind, 70, 8_000 + behind * 70);
            let count = |shard| order.iter().filter(|other| **other == shard).count();
            let counts: Vec<usize> = (behind..shards).map(count).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(least > Some(&50), "{shards} {behind}: {least:?} to {most:?}");
        }
    }
}
