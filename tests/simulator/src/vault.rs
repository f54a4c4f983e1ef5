//! Vault: a node's own vault, with faults on the way in and a witness of what goes through.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ringfence_operators::ids::{Epoch, OperatorName, PartitionId, ViewNumber};
use ringfence_operators::snapshot;
use ringfence_operators::vault::{
    Inventory, Journal, Live, MemoryVault, Opened, Role, Span, StateKind, Vault, VaultError,
};

use super::faults::Fault;
use super::plant::Plant;
use super::process::ProcessId;
use super::scenes::VISITS;
use super::witness::Witness;

/// The bytes of pending deltas above which storing folds: a few kilobytes, so that it happens.
const PENDING_BYTES_MAX: usize = 4 << 10;

/// The real vault of a simulated process.
pub(super) struct WatchedVault {
    inner: MemoryVault,
    process: ProcessId,
    witness: Witness,
    stores: Mutex<u64>,
    partitions: u32,
    /// The partitions whose deltas are sent here, be the copy complete or not.
    fed: Mutex<Vec<PartitionId>>,
    /// The operator inside of a loop, where there is one.
    in_loop: Mutex<Option<u64>>,
}

impl WatchedVault {
    pub(super) fn new(partitions: u32, process: ProcessId, witness: Witness) -> Self {
        WatchedVault {
            inner: MemoryVault::with_limit(partitions, PENDING_BYTES_MAX),
            process,
            witness,
            stores: Mutex::default(),
            partitions,
            fed: Mutex::default(),
            in_loop: Mutex::default(),
        }
    }

    pub(super) fn install(
        &self,
        view: ViewNumber,
        resume: Option<Epoch>,
        role: &dyn Fn(PartitionId) -> Role,
    ) -> Result<(), VaultError> {
        let held =
            self.witness.lock().conduct.installs(self.process.who(), self.process.start, view);
        self.witness.check("install", held);
        self.inner.install(view, resume, role)?;
        let fed = (0..self.partitions).map(PartitionId).filter(|p| role(*p).backup);
        *self.fed.lock().unwrap_or_else(PoisonError::into_inner) = fed.collect();
        Ok(())
    }

    /// How many partitions are being filled and not whole.
    pub(super) fn filling(&self) -> usize {
        self.inner.usage().filling_partitions
    }

    pub(super) fn close(&self, view: ViewNumber) {
        self.inner.close(view);
    }

    pub(super) fn recorded(&self) -> Option<Epoch> {
        self.inner.recorded()
    }

    pub(super) fn inventory(&self) -> Inventory {
        let mut inventory = self.inner.inventory();
        if self.witness.is_planted(Plant::FillingCopyCounted) {
            let through = inventory.recorded;
            for partition in self.fed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let copies = inventory.partitions.entry(*partition).or_default();
                copies.replica.get_or_insert(Span { from: None, through });
            }
        }
        inventory
    }

    pub(super) fn compact(&self, budget_bytes: usize) -> Result<usize, VaultError> {
        self.inner.compact(budget_bytes)
    }

    fn is_in_loop(&self, operator: u64) -> bool {
        *self.in_loop.lock().unwrap_or_else(PoisonError::into_inner) == Some(operator)
    }

    /// Damages a snapshot on its way in, if that is due.
    fn damaged(&self, frames: &[u8]) -> Option<Vec<u8>> {
        if frames.is_empty() {
            return None;
        }
        let mut witness = self.witness.lock();
        let armed = witness.armed.get_mut(&self.process)?;
        let mut damaged = frames.to_vec();
        // Any place will do; the length is as good a number as any.
        let place = frames.len() / 2;
        if std::mem::take(&mut armed.tear) {
            // Inside the last one: whole snapshots are missed by the next, which names its predecessor.
            damaged.truncate(frames.len() - 1 - frames.len() % 8);
            witness.fired.push(Fault::TornSnapshot);
        } else if std::mem::take(&mut armed.flip) {
            damaged[place] ^= 1 << (frames.len() % 8);
            witness.fired.push(Fault::FlippedSnapshot);
        } else {
            return None;
        }
        Some(damaged)
    }
}

impl Vault for WatchedVault {
    fn store(&self, view: ViewNumber, frames: &[u8]) -> Result<usize, VaultError> {
        self.witness.perhaps_crash(self.process);
        if let Some(damaged) = self.damaged(frames) {
            let stored = self.inner.store(view, &damaged);
            if let Ok(stored) = stored {
                let held = Err(format!("a damaged snapshot was taken for {stored} whole ones"));
                self.witness.check("damage", held);
            }
            if self.witness.is_planted(Plant::DamageSwallowed) {
                return Ok(0);
            }
            return stored;
        }
        if self.witness.is_planted(Plant::DeltaDropped) && !frames.is_empty() {
            let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
            *stores += 1;
            if stores.is_multiple_of(16) {
                return Ok(0);
            }
        }
        let stored = self.inner.store(view, frames)?;
        for delta in snapshot::frames(frames).flatten() {
            let epoch = delta.header().epoch;
            let held = self.witness.lock().conduct.stores(self.process.who(), view, epoch);
            self.witness.check("store", held);
        }
        Ok(stored)
    }

    fn complete(&self, view: ViewNumber, operator: u64, through: Epoch) -> Result<(), VaultError> {
        self.witness.perhaps_crash(self.process);
        self.inner.complete(view, operator, through)
    }

    fn record(&self, view: ViewNumber, epoch: Epoch) -> Result<(), VaultError> {
        self.witness.perhaps_crash(self.process);
        self.inner.record(view, epoch)?;
        let held = {
            let mut witness = self.witness.lock();
            witness.commits(view, epoch);
            witness.conduct.records(self.process.who(), view, epoch)
        };
        self.witness.check("record", held);
        Ok(())
    }

    fn deposit(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
        live: Box<dyn Any + Send>,
    ) {
        self.inner.deposit(view, operator, partition, live);
    }

    fn take_live(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Live>, VaultError> {
        let Some(mut live) = self.inner.take_live(view, operator, partition)? else {
            return Ok(None);
        };
        if self.witness.is_planted(Plant::RewindOneShort) {
            live.rewind_to = Some(live.rewind_to.map_or(Epoch(0), Epoch::next));
        } else if self.witness.is_planted(Plant::UndoSkipped)
            || (self.witness.is_planted(Plant::LoopNotRewound) && self.is_in_loop(operator))
        {
            live.rewind_to = Some(Epoch::END);
        }
        Ok(Some(live))
    }

    fn open_replica(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Opened>, VaultError> {
        self.inner.open_replica(view, operator, partition)
    }

    fn drop_operators(&self, view: ViewNumber, numbers: &[u64]) -> Result<(), VaultError> {
        self.inner.drop_operators(view, numbers)
    }

    fn dropped(&self) -> BTreeSet<u64> {
        self.inner.dropped()
    }

    fn close_replica(&self, view: ViewNumber, operator: u64, partition: PartitionId) {
        self.inner.close_replica(view, operator, partition);
    }

    fn store_journal(&self, view: ViewNumber, frames: &[u8]) -> Result<usize, VaultError> {
        self.witness.perhaps_crash(self.process);
        if let Some(damaged) = self.damaged(frames) {
            let stored = self.inner.store_journal(view, &damaged);
            if let Ok(stored) = stored {
                let held = Err(format!("a damaged journal was taken for {stored} whole frames"));
                self.witness.check("damage", held);
            }
            return stored;
        }
        self.inner.store_journal(view, frames)
    }

    fn read_journal(
        &self,
        view: ViewNumber,
        operator: u64,
        share: u32,
    ) -> Result<Option<Journal>, VaultError> {
        self.inner.read_journal(view, operator, share)
    }

    fn register(
        &self,
        view: ViewNumber,
        operator: &OperatorName,
        fingerprint: u32,
        kind: StateKind,
    ) -> Result<u64, VaultError> {
        let id = self.inner.register(view, operator, fingerprint, kind)?;
        if operator.0.ends_with(VISITS) {
            *self.in_loop.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        }
        Ok(id)
    }

    fn unclaimed(&self, view: ViewNumber) -> Result<Vec<OperatorName>, VaultError> {
        self.inner.unclaimed(view)
    }
}
