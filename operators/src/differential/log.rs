//! Log: the updates of one protected trace or edge on one worker, on their way to the replicas.
//!
//! A replica holds the sum of everything that was sealed, so only new updates are ever sent. The owner also
//! keeps a copy in its own vault: a trace cannot be handed to the next generation's threads, so it is rebuilt
//! from that copy.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::chunk::{ChunkWriter, UpdateMerger};
use super::contents::Contents;
use super::waiting::Waiting;
use crate::codec::{CodecError, Postcard, encoding_of, fingerprint};
use crate::data::Data;
use crate::fence::Fence;
use crate::fence::generation::Generation;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::planted::{self, Planted};
use crate::protected::outlet::{Outlet, Seal};
use crate::protected::route::KeyRoute;
use crate::protected::turns::complete;
use crate::rounds::frames::Frames;
use crate::rounds::outbox::Outbox;
use crate::snapshot::{DeltaWriter, Subject};
use crate::state::{CHUNK_BYTES_MAX, ChunkId, ReplicaBase};
use crate::vault::StateKind;

/// A partition's part of a log, without the chunk that is being written.
struct PartitionLog {
    partition: PartitionId,
    /// The epoch of the last delta, which is the predecessor of the next one.
    sealed: Option<Epoch>,
    /// Chunks that are written but not sealed.
    written: Vec<Vec<u8>>,
    /// If copies must be filled: what they lack.
    filling: Option<VecDeque<(ChunkId, Arc<ReplicaBase>)>>,
}

impl PartitionLog {
    /// Writes what is new, and as much of what copies lack as the allowance permits.
    fn seal<T: Data + Eq>(
        &mut self,
        writer: &mut ChunkWriter<T>,
        mut delta: DeltaWriter<'_>,
        epoch: Epoch,
        generation: &Generation,
        allowance: &mut u64,
    ) -> Result<(), CodecError> {
        let mut put = |id: ChunkId, chunk: &[u8]| {
            let append = |from: &[u8], to: &mut Vec<u8>| {
                to.extend_from_slice(from);
                Ok(())
            };
            delta.put(|bytes| append(&id.encode(), bytes), |bytes| append(chunk, bytes))
        };
        let written = self.written.iter().map(Vec::as_slice);
        let chunks = written.chain(Some(writer.bytes()).filter(|chunk| !chunk.is_empty()));
        for (index, chunk) in (0u32..).zip(chunks) {
            put(ChunkId { epoch, index }, chunk)?;
        }
        self.written.clear();
        writer.begin_anew();
        if let Some(lacking) = self.filling.as_mut().filter(|_| *allowance > 0) {
            while *allowance > 0
                && let Some((id, base)) = lacking.pop_front()
            {
                let Some(chunk) = base.get(&id.encode()) else { continue };
                put(id, chunk)?;
                let bytes = chunk.len() as u64;
                *allowance = allowance.saturating_sub(bytes);
                generation.refill_spend(bytes);
            }
            if lacking.is_empty() {
                self.filling = None;
                delta.completes();
            }
        }
        delta.finish();
        self.sealed = Some(epoch);
        Ok(())
    }
}

/// The log of one protected trace or edge on one worker.
pub(super) struct Log<W: Waiting> {
    fence: Fence,
    name: OperatorName,
    id: u64,
    fingerprint: u32,
    slots: Vec<PartitionLog>,
    /// The chunks that are being written, one for each slot. They are kept separately because each batch uses
    /// all of them, and they should stay in the processor's cache.
    writers: Vec<ChunkWriter<W::Time>>,
    /// For each partition, the index of its slot.
    places: Vec<Option<usize>>,
    /// Updates that are not encoded yet.
    waiting: W,
    route: KeyRoute<W::Key>,
    outbox: Outbox,
}

impl<W: Waiting> Log<W> {
    /// Opens the log, and returns what it holds through the resume epoch, for the partitions that this worker
    /// owns.
    pub(super) fn restore(fence: &Fence, name: &OperatorName, waiting: W) -> (Self, Contents) {
        let begun = Instant::now();
        let generation = fence.generation();
        let fingerprint = fingerprint::<(W::Key, W::Val), (W::Time, W::Diff), Postcard>();
        let partition_count = generation.routes.partitions();
        let encoding = encoding_of::<(W::Key, W::Val), (W::Time, W::Diff), Postcard, Postcard>();
        fence.admit_state(name, &encoding, partition_count);
        let merger = Arc::new(UpdateMerger::<W::Key, W::Val, W::Time, W::Diff>::new());
        let (vault, view) = (&generation.vault, generation.view);
        let id = vault
            .register(view, name, fingerprint, StateKind::Chunks(partition_count, merger))
            .unwrap_or_else(|error| fence.refused(name, &error));
        let mut places = vec![None; partition_count as usize];
        let (mut slots, mut bases) = (Vec::new(), Vec::new());
        for partition in fence.owned() {
            let is_filling = generation.routes.filling[partition.0 as usize];
            let mut slot =
                PartitionLog { partition, sealed: None, written: Vec::new(), filling: None };
            let mut lacking = VecDeque::new();
            if let Some(resume) = generation.resume
                && !fence.is_void(name)
            {
                let replica = fence.open_replica(name, id, partition, resume);
                if is_filling {
                    let chunks = replica.base.chunks();
                    let chunks =
                        chunks.unwrap_or_else(|error| fence.unusable(name, partition, error));
                    lacking.extend(chunks.iter().map(|(id, _)| (*id, Arc::clone(&replica.base))));
                }
                slot.sealed = replica.last;
                bases.push((partition, replica.base));
                vault.close_replica(view, id, partition);
            }
            if planted::is(Planted::LackingForgotten) {
                lacking.clear();
            }
            slot.filling = is_filling.then_some(lacking);
            places[partition.0 as usize] = Some(slots.len());
            slots.push(slot);
        }
        let writers = slots.iter().map(|_| ChunkWriter::default()).collect();
        let log = Log {
            fence: fence.clone(),
            name: name.clone(),
            id,
            fingerprint,
            slots,
            writers,
            places,
            waiting,
            route: KeyRoute::new(generation.settings.hasher),
            outbox: Outbox::new(fence),
        };
        (log, Contents { fence: fence.clone(), name: name.clone(), begun, bases })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Updates that are not encoded yet; new ones are added there.
    pub(super) fn waiting(&mut self) -> &mut W {
        &mut self.waiting
    }

    /// Seals what is complete, given that all epochs through `through` are.
    pub(super) fn advance(&mut self, through: Option<Epoch>, outlet: &mut Outlet<W::Time>) {
        while let Some(epoch) = self.waiting.first()
            && Some(epoch) <= through
        {
            self.fence.leave_if_stopping();
            if !outlet.turn_to(epoch, self) {
                break;
            }
            self.fence.whereabouts().set_epoch(epoch);
            self.encode(epoch);
        }
        outlet.pass(complete(through, self.waiting.first()), self);
    }

    /// Encodes the updates of an epoch, each for its partition.
    fn encode(&mut self, epoch: Epoch) {
        self.begin_chunks();
        let Log { fence, name, slots, writers, places, waiting, route, .. } = self;
        let mut keyed = None;
        waiting.take(epoch, |place, key, val, time, diff| {
            let slot = match keyed {
                Some((number, slot)) if number == place.0 => slot,
                _ => slot_of(route, places, key).unwrap_or_else(|what| fence.misplaced(name, what)),
            };
            keyed = Some((place.0, slot));
            let writer = &mut writers[slot];
            if writer.len() >= CHUNK_BYTES_MAX {
                slots[slot].written.push(std::mem::take(writer).into_bytes());
            }
            // The key was encoded for its hash.
            let write_key = |bytes: &mut Vec<u8>| {
                bytes.extend_from_slice(route.encoded());
                Ok(())
            };
            if let Err(error) = writer.push(place, write_key, val, time, diff) {
                fence.unusable(name, slots[slot].partition, error);
            }
        });
    }

    /// Begins new chunks for the updates of each epoch: chunks are sorted, and the numbers of keys and values
    /// start again.
    fn begin_chunks(&mut self) {
        if planted::is(Planted::PlacesKept) {
            return;
        }
        for (slot, writer) in self.slots.iter_mut().zip(&mut self.writers) {
            if !writer.is_empty() {
                slot.written.push(std::mem::take(writer).into_bytes());
            }
        }
    }
}

/// The index of the slot of a key's partition.
fn slot_of<K: Data>(
    route: &mut KeyRoute<K>,
    places: &[Option<usize>],
    key: &K,
) -> Result<usize, String> {
    let hash = route.hash(key).map_err(|error| format!("a key cannot be encoded: {error}"))?;
    let partition = crate::hash::partition_of(hash, places.len() as u32);
    places[partition.0 as usize]
        .ok_or_else(|| format!("partition {partition} is not run by this worker"))
}

impl<W: Waiting> Seal for Log<W> {
    fn seal(&mut self, epoch: Epoch, last: bool, send: &mut dyn FnMut(Frames)) {
        let generation = self.fence.generation();
        let routes = &generation.routes;
        let workers_per_node = generation.settings.workers_per_node.max(1);
        let here = self.fence.worker();
        let mut allowance = if last { u64::MAX } else { generation.refill_allowance() };
        for (slot, writer) in self.slots.iter_mut().zip(&mut self.writers) {
            let partition = slot.partition;
            let fills = slot.filling.is_some() && allowance > 0;
            if writer.is_empty() && slot.written.is_empty() && !fills {
                continue;
            }
            let backups = &routes.backups[partition.0 as usize];
            // A partition that its own node backs up is stored there once.
            let is_here = |worker: &usize| worker / workers_per_node == here / workers_per_node;
            let owner = (!backups.iter().any(is_here)).then_some(here);
            let owner = owner.filter(|_| !planted::is(Planted::OwnerNotFed));
            let targets = owner.into_iter().chain(backups.iter().copied());
            let subject = Subject { operator: self.id, fingerprint: self.fingerprint, partition };
            let sealed = self.outbox.put(targets, send, |bytes| {
                let delta = DeltaWriter::new(bytes, subject, epoch, slot.sealed);
                slot.seal(writer, delta, epoch, generation, &mut allowance)
            });
            if let Err(error) = sealed {
                self.fence.unusable(&self.name, partition, error);
            }
        }
        self.outbox.flush(send);
    }

    fn wants_seal(&mut self, epoch: Epoch) -> bool {
        self.slots.iter().any(|slot| slot.filling.is_some() && slot.sealed < Some(epoch))
    }
}
