//! Partitions: the keyed state of a protected operator, from restore through seals to leave.

use std::fmt::Display;
use std::time::Instant;

use crate::codec::{Codec, Postcard, encoding_of, fingerprint_of};
use crate::data::{Data, Plain};
use crate::fence::Fence;
use crate::fence::generation::Notice;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::planted::{self, Planted};
use crate::protected::outlet::Seal;
use crate::rounds::frames::Frames;
use crate::rounds::outbox::Outbox;
use crate::snapshot::Subject;
use crate::state::{FILLED, KeyedTable};
use crate::vault::StateKind;

/// The keyed state of one protected operator on one worker: a table for each partition that it runs, with
/// values encoded by `C`.
///
/// It is restored when it is created and goes back to the vault when it is dropped, whatever ended the
/// generation, unless its worker panicked.
pub(crate) struct Partitions<K: Data + Eq, V: Plain, C: Codec<V> = Postcard> {
    fence: Fence,
    name: OperatorName,
    id: u64,
    fingerprint: u32,
    tables: Vec<Option<KeyedTable<K, V, Postcard, C>>>,
    owned: Vec<PartitionId>,
    /// The lowest partition that may still have keys to decode.
    undecoded: usize,
    outbox: Outbox,
    filling: Filling,
}

/// The progress of this operator in filling copies.
///
/// A copy is filled by ordinary deltas: in addition to changed keys, each seal includes some other keys,
/// until all keys have been sent.
struct Filling {
    /// The partitions to fill, and where each continues.
    open: Vec<(PartitionId, u64)>,
    /// The approximate number of bytes of a key in a delta.
    key_bytes: u64,
}

/// The assumed size of a key before any was sealed.
const KEY_BYTES: u64 = 32;

/// A surviving table, before it is rolled back to the resume epoch.
pub(crate) type Before<'a, K, V, C = Postcard> =
    &'a mut dyn FnMut(&mut KeyedTable<K, V, Postcard, C>);

impl<K: Data + Eq, V: Plain, C: Codec<V>> Partitions<K, V, C> {
    /// Brings the operator's state to the resume epoch: survivors roll back, successors open replicas.
    ///
    /// `before` sees each surviving table as the last generation left it.
    pub(crate) fn restore(fence: &Fence, name: &OperatorName, before: Before<'_, K, V, C>) -> Self {
        let begun = Instant::now();
        let generation = fence.generation();
        let fingerprint = fingerprint_of::<K, V, Postcard, C>();
        let partition_count = generation.routes.partitions();
        fence.admit_state(name, &encoding_of::<K, V, Postcard, C>(), partition_count);
        let (vault, view) = (&generation.vault, generation.view);
        let id = vault
            .register(view, name, fingerprint, StateKind::Table(partition_count))
            .unwrap_or_else(|error| fence.refused(name, &error));
        let owned = fence.owned();
        let is_filling = |partition: &PartitionId| generation.routes.filling[partition.0 as usize];
        let open = owned.iter().copied().filter(is_filling).map(|partition| (partition, 0));
        let filling = Filling { open: open.collect(), key_bytes: KEY_BYTES };
        let mut tables = Vec::new();
        tables.resize_with(generation.routes.owners.len(), || None);
        let mut partitions = Partitions {
            fence: fence.clone(),
            name: name.clone(),
            id,
            fingerprint,
            tables,
            owned,
            undecoded: 0,
            outbox: Outbox::new(fence),
            filling,
        };
        let (mut rewound, mut opened, mut bytes_opened, mut keys_rewound) = (0, 0, 0, 0);
        let is_void = fence.is_void(name);
        for index in 0..partitions.owned.len() {
            let partition = partitions.owned[index];
            let mut table = KeyedTable::new(generation.settings.hasher);
            // What the job has previously dropped is not kept.
            let live = if is_void { Ok(None) } else { vault.take_live(view, id, partition) };
            if let Some(live) = live.unwrap_or_else(|error| fence.refused(name, &error)) {
                table = match live.state.downcast::<KeyedTable<K, V, Postcard, C>>() {
                    Ok(table) => *table,
                    Err(_) => fence.unusable(name, partition, "its type has changed"),
                };
                before(&mut table);
                match table.rewind(live.rewind_to) {
                    Ok(keys) => keys_rewound += keys.keys,
                    Err(error) => fence.unusable(name, partition, error),
                }
                rewound += 1;
            } else if let Some(resume) = generation.resume.filter(|_| !is_void) {
                let replica = fence.open_replica(name, id, partition, resume);
                bytes_opened += replica.base.encoded_bytes();
                if let Err(error) = table.attach(replica.base, Some(resume)) {
                    fence.unusable(name, partition, error);
                }
                opened += 1;
            }
            partitions.tables[partition.0 as usize] = Some(table);
        }
        if !fence.is_first_view() {
            fence.notice(Notice::Restored {
                worker: fence.worker(),
                operator: name.clone(),
                rewound,
                opened,
                bytes_opened,
                keys_rewound,
                elapsed: begun.elapsed(),
            });
        }
        partitions
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn owned(&self) -> &[PartitionId] {
        &self.owned
    }

    /// The table of a partition that this worker runs.
    #[inline]
    pub(crate) fn table(&mut self, partition: PartitionId) -> &mut KeyedTable<K, V, Postcard, C> {
        match &mut self.tables[partition.0 as usize] {
            Some(table) => table,
            None => {
                let what = format!(
                    "a record of partition {partition} reached worker {} of this view, which does not run \
                     it: does the key function give the same key for one record each time? It is called \
                     where the record comes from and where it is processed, and must depend on nothing else",
                    self.fence.worker()
                );
                self.fence.misplaced(&self.name, what)
            }
        }
    }

    /// The hash of a key of a partition that this worker runs.
    #[inline]
    pub(crate) fn hash(&mut self, partition: PartitionId, key: &K) -> u64 {
        let hash = self.table(partition).hash_of(key);
        hash.unwrap_or_else(|error| self.refuse(partition, error))
    }

    /// The table of a partition, if this worker runs it.
    #[inline]
    pub(crate) fn peek(&self, partition: PartitionId) -> Option<&KeyedTable<K, V, Postcard, C>> {
        self.tables[partition.0 as usize].as_ref()
    }

    /// Makes a table for a partition that this worker does not run: it is neither sealed nor kept.
    pub(crate) fn pretend(&mut self, partition: PartitionId) {
        let hasher = self.fence.generation().settings.hasher;
        self.tables[partition.0 as usize].get_or_insert_with(|| KeyedTable::new(hasher));
    }

    /// Counts some more keys of the partitions to fill as changed, as many as the allowance permits, or all
    /// of them; returns the partitions that this completes.
    fn fill_some(&mut self, all: bool) -> Vec<PartitionId> {
        let Filling { open, key_bytes } = &mut self.filling;
        let mut filled = Vec::new();
        if open.is_empty() {
            return filled;
        }
        let generation = self.fence.generation();
        let mut keys_left = if all { u64::MAX } else { generation.refill_allowance() / *key_bytes };
        open.retain_mut(|(partition, from)| {
            let Some(table) = &mut self.tables[partition.0 as usize] else { return false };
            if keys_left == 0 {
                return true;
            }
            if all {
                table.decode_some(usize::MAX);
            }
            let dirty = table.dirty();
            *from = table.touch_some(*from, usize::try_from(keys_left).unwrap_or(usize::MAX));
            let touched = (table.dirty() - dirty) as u64;
            keys_left = keys_left.saturating_sub(touched.max(1));
            generation.refill_spend(touched.max(1).saturating_mul(*key_bytes));
            if *from >= FILLED {
                filled.push(*partition);
            }
            *from < FILLED
        });
        filled
    }

    /// Decodes some keys of opened replicas; returns whether all are decoded.
    pub(crate) fn decode_some(&mut self, keys_max: usize) -> bool {
        while let Some(&partition) = self.owned.get(self.undecoded) {
            if !self.table(partition).decode_some(keys_max) {
                return false;
            }
            let generation = self.fence.generation();
            generation.vault.close_replica(generation.view, self.id, partition);
            self.undecoded += 1;
        }
        true
    }

    /// Ends the job: the state of a partition cannot be used.
    pub(crate) fn refuse(&self, partition: PartitionId, why: impl Display) -> ! {
        self.fence.unusable(&self.name, partition, why)
    }
}

impl<K: Data + Eq, V: Plain, C: Codec<V>> Seal for Partitions<K, V, C> {
    fn seal(&mut self, epoch: Epoch, last: bool, send: &mut dyn FnMut(Frames)) {
        let filled = self.fill_some(last);
        let (mut sealed_bytes, mut sealed_keys) = (0, 0);
        let recorded = self.fence.commit().recorded();
        let recorded =
            if planted::is(Planted::PruneAtSeal) { Epoch::before(Some(epoch)) } else { recorded };
        let routes = &self.fence.generation().routes;
        for &partition in &self.owned {
            let Some(table) = &mut self.tables[partition.0 as usize] else { continue };
            if let Some(recorded) = recorded {
                table.prune(recorded);
            }
            let subject = Subject { operator: self.id, fingerprint: self.fingerprint, partition };
            let targets = routes.backups[partition.0 as usize].iter().copied();
            let written = self.outbox.put(targets, send, |buffer| {
                let sealed = if filled.contains(&partition) {
                    table.seal_filled(epoch, subject, buffer).map(Some)
                } else {
                    table.seal(epoch, subject, buffer)
                };
                sealed.map(|entries| sealed_keys += entries.unwrap_or_default())
            });
            match written {
                Ok(written) => sealed_bytes += written as u64,
                Err(error) => self.refuse(partition, error),
            }
        }
        self.outbox.flush(send);
        if let Some(key_bytes) = sealed_bytes.checked_div(sealed_keys) {
            self.filling.key_bytes = key_bytes.max(1);
        }
    }

    fn wants_seal(&mut self, epoch: Epoch) -> bool {
        let Some(&(partition, _)) = self.filling.open.first() else { return false };
        self.table(partition).sealed() < Some(epoch)
    }
}

impl<K: Data + Eq, V: Plain, C: Codec<V>> Drop for Partitions<K, V, C> {
    fn drop(&mut self) {
        self.deposit();
    }
}

impl<K: Data + Eq, V: Plain, C: Codec<V>> Partitions<K, V, C> {
    /// Hands all state to the vault, leaving none here.
    pub(crate) fn deposit(&mut self) {
        let is_whole = !std::thread::panicking() || self.fence.is_leaving();
        if self.fence.is_tainted() || !is_whole {
            return;
        }
        let generation = self.fence.generation();
        for &partition in &self.owned {
            if let Some(table) = self.tables[partition.0 as usize].take() {
                generation.vault.deposit(generation.view, self.id, partition, Box::new(table));
            }
        }
    }
}
