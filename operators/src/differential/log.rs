//! Log: the updates of one protected trace or edge at one worker, on their way to the replicas.
//!
//! What a replica holds is the sum of all that was sealed, so nothing but new updates is ever sent. The
//! owner keeps a copy, too, in its own vault: a trace cannot be handed to the next generation's threads,
//! and is built again from there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::trace::Builder;

use super::chunk::{self, ChunkWriter, Update, UpdateMerger};
use super::merge::merge;
use crate::codec::{CodecError, Postcard, fingerprint};
use crate::data::Data;
use crate::error::JobError;
use crate::fence::Fence;
use crate::frames::Frames;
use crate::generation::Notice;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::protect::{FRAME_BYTES, Outlet, Seal, complete};
use crate::route::KeyRoute;
use crate::snapshot::{DeltaWriter, Subject};
use crate::state::{CHUNK_BYTES_MAX, ChunkId, ReplicaBase};
use crate::time::FencedTime;

/// Memory of more updates than this is given back once they are encoded.
const SPARE_UPDATES_MAX: usize = 1 << 16;

/// The updates of one partition that no seal has taken.
struct Slot<T> {
    partition: PartitionId,
    /// The epoch of the last delta: the predecessor of the next.
    sealed: Option<Epoch>,
    /// The chunk that is being written, which has updates of this epoch alone: chunks are sorted.
    writer: ChunkWriter<T>,
    epoch: Epoch,
    /// Chunks that are full, or of epochs before.
    full: Vec<Vec<u8>>,
    /// Where copies are to be filled: what they lack.
    filling: Option<VecDeque<(ChunkId, Arc<ReplicaBase>)>>,
}

impl<T: Data + Eq> Slot<T> {
    fn is_empty(&self) -> bool {
        self.full.is_empty() && self.writer.is_empty()
    }
}

/// What a log holds when a view begins.
pub(super) struct Contents {
    fence: Fence,
    name: OperatorName,
    begun: Instant,
    bases: Vec<(PartitionId, Arc<ReplicaBase>)>,
}

impl Contents {
    /// All updates, partition by partition; those of each sorted, consolidated, and with times advanced
    /// to the resume epoch.
    pub(super) fn updates<K, V, T, R>(self) -> Vec<Update<K, V, T, R>>
    where
        K: Data + Ord,
        V: Data + Ord,
        T: FencedTime + Lattice + Data,
        R: Data + Semigroup,
    {
        let (mut all, mut updates) = (Vec::new(), Vec::new());
        for (chunks, (partition, _)) in self.chunks().into_iter().zip(&self.bases) {
            for chunk in chunks {
                let decoded = chunk::decode(chunk, &mut updates);
                decoded.unwrap_or_else(|error| self.refuse(*partition, &error));
            }
            if let Some(resume) = self.fence.generation().resume {
                chunk::advance(&mut updates, resume);
            }
            all.append(&mut updates);
        }
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::TraceLosesFirst) && !all.is_empty() {
            all.remove(0);
        }
        self.tell();
        all
    }

    /// A batch of all updates, with times advanced to the resume epoch; `None` if there are none.
    pub(super) fn batch<K, V, T, R, Bu>(self) -> Option<Bu::Output>
    where
        K: Data + Ord,
        V: Data + Ord,
        T: FencedTime + Lattice + Data,
        R: Data + Semigroup,
        Bu: Builder<Time = T, Input = Vec<Update<K, V, T, R>>>,
    {
        let mut builder = Bu::default();
        if let Some(resume) = self.fence.generation().resume {
            #[cfg(feature = "planted")]
            let mut loses = crate::planted::is(crate::planted::Planted::TraceLosesFirst);
            let chunks = self.chunks();
            let merged = merge::<K, V, T, R>(&chunks, resume, |updates| {
                #[cfg(feature = "planted")]
                if std::mem::take(&mut loses) && !updates.is_empty() {
                    updates.remove(0);
                }
                builder.push(updates);
            });
            if let Err(error) = merged {
                let is_bad = |chunks: &Vec<&[u8]>| {
                    let mut updates: Vec<Update<K, V, T, R>> = Vec::new();
                    chunks.iter().any(|chunk| chunk::decode(chunk, &mut updates).is_err())
                };
                let place = chunks.iter().position(is_bad).unwrap_or(0);
                self.refuse(self.bases[place].0, &error);
            }
        }
        self.tell();
        builder.done()
    }

    fn chunks(&self) -> Vec<Vec<&[u8]>> {
        let mut all = Vec::with_capacity(self.bases.len());
        for (partition, base) in &self.bases {
            let chunks = base.chunks().unwrap_or_else(|error| self.refuse(*partition, &error));
            all.push(chunks.into_iter().map(|(_, chunk)| chunk).collect());
        }
        all
    }

    fn refuse(&self, partition: PartitionId, error: &CodecError) -> ! {
        let (operator, what) = (self.name.clone(), error.to_string());
        self.fence.fail(JobError::State { operator, partition, what })
    }

    fn tell(&self) {
        if !self.fence.is_first_view() {
            self.fence.notice(Notice::Restored {
                worker: self.fence.worker(),
                operator: self.name.clone(),
                rewound: 0,
                opened: self.bases.len(),
                bytes_opened: self.bases.iter().map(|(_, base)| base.encoded_bytes()).sum(),
                keys_rewound: 0,
                elapsed: self.begun.elapsed(),
            });
        }
    }
}

/// The order of a log's updates within a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// That of keys: what a [batch](Contents::batch) is made of.
    ByKey,
    /// That in which they came.
    AsTheyCame,
}

/// The log of one protected trace or edge at one worker.
pub(super) struct Log<K, V, T, R> {
    fence: Fence,
    name: OperatorName,
    id: u64,
    fingerprint: u32,
    order: Order,
    slots: Vec<Slot<T>>,
    /// For each partition the place of its slot.
    places: Vec<Option<usize>>,
    /// What came of epochs that are not begun, in the order of its encoding.
    waiting: BTreeMap<Epoch, Vec<Update<K, V, T, R>>>,
    /// Memory for those of the next epoch.
    spare: Vec<Update<K, V, T, R>>,
    route: KeyRoute<K>,
    buffers: BTreeMap<usize, Vec<u8>>,
}

impl<K, V, T, R> Log<K, V, T, R>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
{
    /// Opens the log, and returns what it holds through the resume epoch of the partitions that this
    /// worker owns.
    pub(super) fn restore(fence: &Fence, name: &OperatorName, order: Order) -> (Self, Contents) {
        let begun = Instant::now();
        let generation = fence.generation();
        let fingerprint = fingerprint::<(K, V), (T, R), Postcard>();
        let partition_count = generation.routes.partitions();
        let merger = Arc::new(UpdateMerger::<K, V, T, R>::new());
        let registered =
            generation.vault.register_chunks(name, fingerprint, partition_count, merger);
        let id = registered.unwrap_or_else(|error| {
            fence.fail(JobError::Vault { operator: name.clone(), what: error.to_string() })
        });
        let mut places = vec![None; partition_count as usize];
        let (mut slots, mut bases) = (Vec::new(), Vec::new());
        for partition in fence.owned() {
            let mut slot = Slot { partition, sealed: None, writer: ChunkWriter::default(), epoch: Epoch(0), full: Vec::new(), filling: None };
            let mut lacking = VecDeque::new();
            if let Some(resume) = generation.resume {
                let refuse = |what: String| -> ! {
                    fence.fail(JobError::State { operator: name.clone(), partition, what })
                };
                let replica = match generation.vault.open_replica(id, partition) {
                    Ok(Some(replica)) => replica,
                    Ok(None) => {
                        fence.fail(JobError::NoCopy { operator: name.clone(), partition, resume })
                    }
                    Err(error) => refuse(error.to_string()),
                };
                if generation.routes.filling[partition.0 as usize] {
                    let chunks = replica.base.chunks();
                    let chunks = chunks.unwrap_or_else(|error| refuse(error.to_string()));
                    lacking.extend(chunks.iter().map(|(id, _)| (*id, Arc::clone(&replica.base))));
                }
                slot.sealed = replica.last;
                bases.push((partition, replica.base));
                generation.vault.close_replica(id, partition);
            }
            #[cfg(feature = "planted")]
            if crate::planted::is(crate::planted::Planted::LackingForgotten) {
                lacking.clear();
            }
            if generation.routes.filling[partition.0 as usize] {
                slot.filling = Some(lacking);
            }
            places[partition.0 as usize] = Some(slots.len());
            slots.push(slot);
        }
        let log = Log {
            fence: fence.clone(),
            name: name.clone(),
            id,
            fingerprint,
            order,
            slots,
            places,
            waiting: BTreeMap::new(),
            spare: Vec::new(),
            route: KeyRoute::new(generation.settings.hasher),
            buffers: BTreeMap::new(),
        };
        (log, Contents { fence: fence.clone(), name: name.clone(), begun, bases })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Takes an update in; its epoch need not be complete.
    #[inline]
    pub(super) fn add(&mut self, update: Update<K, V, T, R>) {
        let (waiting, spare) = (&mut self.waiting, &mut self.spare);
        waiting.entry(update.1.epoch()).or_insert_with(|| std::mem::take(spare)).push(update);
    }

    /// Seals what is complete, where all epochs through `through` are.
    pub(super) fn advance(&mut self, through: Option<Epoch>, outlet: &mut Outlet<T>) {
        while let Some(epoch) = self.first_waiting()
            && Some(epoch) <= through
        {
            self.fence.leave_if_stopping();
            if let Some(time) = outlet.due(Epoch::before(Some(epoch))) {
                outlet.seal(&time, self);
            }
            if !outlet.begin(epoch) {
                break;
            }
            self.fence.whereabouts().set_epoch(epoch);
            self.encode(epoch);
        }
        let done = complete(through, self.first_waiting());
        if let Some(time) = outlet.due(done) {
            outlet.seal(&time, self);
        }
        outlet.fill(done, self);
        outlet.advance(done);
    }

    fn first_waiting(&self) -> Option<Epoch> {
        self.waiting.first_key_value().map(|(epoch, _)| *epoch)
    }

    /// Encodes the updates of an epoch, each for its partition.
    fn encode(&mut self, epoch: Epoch) {
        let mut updates = self.waiting.remove(&epoch).unwrap_or_default();
        // A batch is sorted, but in a loop an epoch has several.
        let is_sorted = |updates: &[Update<K, V, T, R>]| {
            updates.is_sorted_by(|((key, _), _, _), ((next, _), _, _)| key <= next)
        };
        if self.order == Order::ByKey && !is_sorted(&updates) {
            updates.sort_by(|(data, time, _), (other, other_time, _)| {
                data.cmp(other).then_with(|| time.cmp(other_time))
            });
        }
        let (mut place, mut last, mut slot) = ((0, 0), None::<&(K, V)>, 0);
        for (data, time, diff) in &updates {
            match last {
                Some(last) if last.0 == data.0 && last.1 == data.1 => {}
                Some(last) if last.0 == data.0 => place.1 += 1,
                _ => {
                    place = (place.0 + 1, 0);
                    slot = match self.slot_of(&data.0) {
                        Ok(slot) => slot,
                        Err(what) => self
                            .fence
                            .fail(JobError::Misplaced { operator: self.name.clone(), what }),
                    };
                }
            }
            last = Some(data);
            let Slot { writer, epoch: begun, full, .. } = &mut self.slots[slot];
            let is_other = *begun != epoch;
            #[cfg(feature = "planted")]
            let is_other =
                is_other && !crate::planted::is(crate::planted::Planted::PlacesKept);
            if !writer.is_empty() && (is_other || writer.len() >= CHUNK_BYTES_MAX) {
                full.push(std::mem::take(writer).into_bytes());
            }
            *begun = epoch;
            // The key was encoded for its hash.
            let key = self.route.encoded();
            let write_key = |bytes: &mut Vec<u8>| {
                bytes.extend_from_slice(key);
                Ok(())
            };
            if let Err(error) = writer.push(place, write_key, &data.1, time, diff) {
                let partition = self.slots[slot].partition;
                self.refuse(partition, &error);
            }
        }
        if updates.capacity() <= SPARE_UPDATES_MAX {
            updates.clear();
            self.spare = updates;
        }
    }

    fn slot_of(&mut self, key: &K) -> Result<usize, String> {
        let hash =
            self.route.hash(key).map_err(|error| format!("a key cannot be encoded: {error}"))?;
        let partition = crate::hash::partition_of(hash, self.places.len() as u32);
        self.places[partition.0 as usize].ok_or_else(|| {
            format!("partition {partition} is not run by worker {}", self.fence.worker())
        })
    }

    fn refuse(&self, partition: PartitionId, error: &CodecError) -> ! {
        let (operator, what) = (self.name.clone(), error.to_string());
        self.fence.fail(JobError::State { operator, partition, what })
    }
}

impl<K, V, T, R> Seal for Log<K, V, T, R>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
{
    fn seal(&mut self, epoch: Epoch, last: bool, send: &mut dyn FnMut(Frames)) {
        let generation = self.fence.generation();
        let routes = &generation.routes;
        let workers_per_node = generation.settings.workers_per_node.max(1);
        let here = self.fence.worker();
        let mut allowance = match last {
            true => u64::MAX,
            false => generation.refill_allowance(),
        };
        for slot in &mut self.slots {
            let partition = slot.partition;
            let fills = slot.filling.is_some() && allowance > 0;
            if slot.is_empty() && !fills {
                continue;
            }
            let backups = &routes.backups[partition.0 as usize];
            // One that its own node backs up is stored there once.
            let is_here = |worker: &usize| worker / workers_per_node == here / workers_per_node;
            let owner = (!backups.iter().any(is_here)).then_some(here);
            #[cfg(feature = "planted")]
            let owner = owner.filter(|_| !crate::planted::is(crate::planted::Planted::OwnerNotFed));
            let mut targets = owner.into_iter().chain(backups.iter().copied());
            let Some(first) = targets.next() else { continue };
            let buffer = self.buffers.entry(first).or_default();
            let begin = buffer.len();
            let subject = Subject { operator: self.id, fingerprint: self.fingerprint, partition };
            let mut delta = DeltaWriter::new(buffer, subject, epoch, slot.sealed);
            let mut put = |id: ChunkId, chunk: &[u8]| {
                let key = |bytes: &mut Vec<u8>| {
                    bytes.extend_from_slice(&id.encode());
                    Ok(())
                };
                delta.put(key, |bytes: &mut Vec<u8>| {
                    bytes.extend_from_slice(chunk);
                    Ok(())
                })
            };
            let mut sealed = Ok(());
            let full = slot.full.iter().map(Vec::as_slice);
            let chunks = full.chain(Some(slot.writer.bytes()).filter(|chunk| !chunk.is_empty()));
            for (index, chunk) in (0u32..).zip(chunks) {
                sealed = sealed.and(put(ChunkId { epoch, index }, chunk));
            }
            slot.full.clear();
            slot.writer.begin_anew();
            if let Some(lacking) = slot.filling.as_mut().filter(|_| fills) {
                while allowance > 0
                    && let Some((id, base)) = lacking.pop_front()
                {
                    let Some(chunk) = base.get(&id.encode()) else { continue };
                    sealed = sealed.and(put(id, chunk));
                    let bytes = chunk.len() as u64;
                    allowance = allowance.saturating_sub(bytes);
                    generation.refill_spend(bytes);
                }
                if lacking.is_empty() {
                    slot.filling = None;
                    delta.completes();
                }
            }
            if let Err(error) = sealed {
                self.fence.fail(JobError::State {
                    operator: self.name.clone(),
                    partition,
                    what: error.to_string(),
                });
            }
            delta.finish();
            slot.sealed = Some(epoch);
            let others: Vec<usize> = targets.collect();
            if !others.is_empty() {
                let frame = buffer[begin..].to_vec();
                for other in &others {
                    self.buffers.entry(*other).or_default().extend_from_slice(&frame);
                }
            }
            for target in others.into_iter().chain([first]) {
                if let Some(buffer) = self.buffers.get_mut(&target)
                    && buffer.len() >= FRAME_BYTES
                {
                    send(Frames::Built { target, bytes: std::mem::take(buffer) });
                }
            }
        }
        for (&target, buffer) in &mut self.buffers {
            if !buffer.is_empty() {
                send(Frames::Built { target, bytes: std::mem::take(buffer) });
            }
        }
    }

    fn wants_seal(&mut self, epoch: Epoch) -> bool {
        self.slots.iter().any(|slot| slot.filling.is_some() && slot.sealed < Some(epoch))
    }
}
