//! Memory vault: the vault of a node that keeps everything in memory.
//!
//! INVARIANT: a partition's copy is `Fed` only if this node has received every delta of it since the run
//! began, or since the epoch at which all of it was known to be complete here.
//!
//! INVARIANT: what an owner holds of an operator of chunks is exact at every resume epoch R. No R exceeds
//! what some node has recorded, and an epoch is recorded only once all receivers of its deltas have stored
//! them, including the owner itself. So everything up to R is here, whatever this node last heard, and what
//! is above R is cut off. It does not matter whether a worker panicked, because none of this is live state.
//!
//! Locks are taken in the order view, cells, cell, journals. Storing a delta takes the first two for reading
//! and one cell, the replica of one partition of one operator, for as long as a copy takes.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use self::holdings::Completeness;
use self::present::Present;
use super::chunks::Merged;
use super::identity::Identity;
use super::journals::{JOURNAL_BYTES_MAX, Journal, Journals};
use super::{Live, Opened, StateKind, Vault, VaultError};
use crate::ids::{Epoch, OperatorName, PartitionId, ViewNumber};
use crate::planted::Planted;
use crate::snapshot::journal::journal_frames;
use crate::snapshot::{Subject, frames};
use crate::state::{ChunkMerger, Replica, ReplicaBase};

mod compacting;
mod holdings;
mod installing;
mod inventory;
mod present;
mod storing;
mod unsaved;

use unsaved::Unsaved;
pub(super) use unsaved::{Keeps, OperatorRecord};
pub use unsaved::{Registry, UnsavedState};

/// The default for the bytes of pending deltas above which storing folds some itself.
pub const PENDING_BYTES_MAX: usize = 256 << 20;

struct Operator {
    identity: Identity,
    registered: bool,
    through: Option<Epoch>,
    /// The merger of its chunks, if its state is a log of chunks.
    merger: Option<Arc<dyn ChunkMerger>>,
}

struct Deposit {
    state: Box<dyn Any + Send>,
    /// The least resume epoch installed since; the outer `None` means that no view was installed.
    rewind_to: Option<Option<Epoch>>,
}

/// What is kept of one partition of one operator.
#[derive(Default)]
struct Cell {
    replica: Option<Replica>,
    /// The epoch from which a replica that is being filled is complete.
    filled: Option<Epoch>,
    /// How far its chunks are merged, if it has any.
    merged: Merged,
    live: Option<Deposit>,
    /// What a durable tier does not have of a complete copy yet.
    unsaved: Option<Unsaved>,
}

type Key = (u64, PartitionId);
type Cells = BTreeMap<Key, Arc<Mutex<Cell>>>;

/// The vault of a node that keeps everything in memory.
pub struct MemoryVault {
    view: RwLock<Present>,
    cells: RwLock<Cells>,
    /// What installing a view dropped: freed by the compactor, so that no recovery waits for it.
    discarded: Mutex<Vec<Cell>>,
    /// Where the next compaction begins, so that all cells get their turn.
    next: Mutex<Option<Key>>,
    pending_bytes: AtomicUsize,
    pending_bytes_max: usize,
    dropped_frames: AtomicU64,
    journals: Mutex<Journals>,
    /// Whether there is a durable tier.
    keeps_unsaved: bool,
}

// A panic while a lock is held leaves what it guards consistent: every change is checked before it is made.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Cell {
    /// Whether there is anything in it.
    fn is_used(&self) -> bool {
        self.live.is_some() || self.replica.is_some()
    }

    /// Lets `change` work on the replica, and keeps count of pending bytes.
    fn count<T>(
        &mut self,
        pending: &AtomicUsize,
        change: impl FnOnce(&mut Option<Replica>) -> T,
    ) -> T {
        let bytes = |replica: &Option<Replica>| replica.as_ref().map_or(0, Replica::pending_bytes);
        let before = bytes(&self.replica);
        let result = change(&mut self.replica);
        let after = bytes(&self.replica);
        if after >= before {
            pending.fetch_add(after - before, Ordering::Relaxed);
        } else {
            pending.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }
}

impl MemoryVault {
    /// Makes an empty vault of a cluster with this many partitions, which must not be zero.
    pub fn new(partitions: u32) -> Self {
        Self::with_limit(partitions, PENDING_BYTES_MAX)
    }

    /// Makes an empty vault in which storing itself folds above this many pending bytes.
    pub fn with_limit(partitions: u32, pending_bytes_max: usize) -> Self {
        assert!(partitions > 0, "a key space needs at least one partition");
        MemoryVault {
            view: RwLock::new(Present::before_any(partitions as usize)),
            cells: RwLock::new(Cells::new()),
            discarded: Mutex::new(Vec::new()),
            next: Mutex::new(None),
            pending_bytes: AtomicUsize::new(0),
            pending_bytes_max,
            dropped_frames: AtomicU64::new(0),
            journals: Mutex::new(Journals::new(partitions as usize, JOURNAL_BYTES_MAX)),
            keeps_unsaved: false,
        }
    }

    /// The view installed, so that tests need not name it at each call.
    #[cfg(test)]
    pub(super) fn present(&self) -> ViewNumber {
        read(&self.view).number.unwrap_or(ViewNumber(0))
    }

    fn cell(&self, operator: u64, partition: PartitionId) -> Option<Arc<Mutex<Cell>>> {
        read(&self.cells).get(&(operator, partition)).map(Arc::clone)
    }

    fn cell_or_new(&self, operator: u64, partition: PartitionId) -> Arc<Mutex<Cell>> {
        if let Some(cell) = self.cell(operator, partition) {
            return cell;
        }
        Arc::clone(write(&self.cells).entry((operator, partition)).or_default())
    }

    /// Returns the greatest epoch recorded in this view, or the one that it resumed from.
    pub fn recorded(&self) -> Option<Epoch> {
        read(&self.view).recorded
    }
}

impl Vault for MemoryVault {
    fn register(
        &self,
        view: ViewNumber,
        name: &OperatorName,
        fingerprint: u32,
        kind: StateKind,
    ) -> Result<u64, VaultError> {
        let mut state = write(&self.view);
        state.check(view)?;
        let identity = |partitions| Identity { name: name.clone(), fingerprint, partitions };
        match kind {
            StateKind::Table(partitions) => state.register(identity(partitions), None),
            StateKind::Chunks(partitions, merger) => {
                state.register(identity(partitions), Some(merger))
            }
            StateKind::Journals(shares) => {
                let (identity, mut journals) = (identity(shares), lock(&self.journals));
                state.check_known(&identity, journals.knows(&identity))?;
                journals.register(identity)
            }
        }
    }

    fn store(&self, view: ViewNumber, bytes: &[u8]) -> Result<usize, VaultError> {
        let state = read(&self.view);
        state.check_unless(Planted::StoreAfterClose, view)?;
        let deltas = frames(bytes).collect::<Result<Vec<_>, _>>()?;
        let mut stored = 0;
        for delta in &deltas {
            stored += usize::from(self.store_one(&state, delta)?);
        }
        Ok(stored)
    }

    fn complete(&self, view: ViewNumber, operator: u64, through: Epoch) -> Result<(), VaultError> {
        let mut state = write(&self.view);
        state.check_unless(Planted::RecordAfterClose, view)?;
        let operator =
            state.operators.get_mut(&operator).ok_or(VaultError::UnknownOperator(operator))?;
        operator.through = operator.through.max(Some(through));
        Ok(())
    }

    fn record(&self, view: ViewNumber, epoch: Epoch) -> Result<(), VaultError> {
        let mut state = write(&self.view);
        state.check_unless(Planted::RecordAfterClose, view)?;
        state.recorded = state.recorded.max(Some(epoch));
        lock(&self.journals).prune(epoch);
        Ok(())
    }

    fn deposit(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
        live: Box<dyn Any + Send>,
    ) {
        let state = read(&self.view);
        // The owner's copy of a trace is its replica, so there is no live state to rewind.
        let is_kept = state.holding(partition).role.owner
            && !state.is_chunks(operator)
            && !state.dropped.contains(&operator);
        if state.number == Some(view) && is_kept {
            let cell = self.cell_or_new(operator, partition);
            lock(&cell).live = Some(Deposit { state: live, rewind_to: None });
        }
    }

    fn take_live(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Live>, VaultError> {
        let state = read(&self.view);
        state.check(view)?;
        let Some(cell) = self.cell(operator, partition) else { return Ok(None) };
        let mut cell = lock(&cell);
        let is_from_before = cell.live.as_ref().is_some_and(|live| live.rewind_to.is_some());
        let taken = if is_from_before { cell.live.take() } else { None };
        let live = taken
            .and_then(|deposit| Some(Live { state: deposit.state, rewind_to: deposit.rewind_to? }));
        Ok(live)
    }

    fn open_replica(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Opened>, VaultError> {
        let state = read(&self.view);
        state.check(view)?;
        let known = state.operator(operator)?;
        if !state.holding(partition).is_copy(known.merger.is_some()) {
            return Ok(None);
        }
        let empty = || {
            let subject = Subject { operator, fingerprint: known.identity.fingerprint, partition };
            Arc::new(ReplicaBase::new(subject))
        };
        let base = match self.cell(operator, partition) {
            None => empty(),
            Some(cell) => lock(&cell).count(&self.pending_bytes, |replica| match replica {
                None => Ok(empty()),
                Some(replica) => replica.open_at(state.resume),
            })?,
        };
        Ok(Some(Opened { last: base.epoch(), base }))
    }

    fn drop_operators(&self, view: ViewNumber, numbers: &[u64]) -> Result<(), VaultError> {
        let mut state = write(&self.view);
        state.check(view)?;
        state.dropped.extend(numbers);
        let mut cells = write(&self.cells);
        let mut discarded = lock(&self.discarded);
        cells.retain(|(operator, _), cell| {
            let is_dropped = state.dropped.contains(operator);
            if is_dropped {
                let mut cell = lock(cell);
                let mut gone = Cell { live: cell.live.take(), ..Cell::default() };
                cell.count(&self.pending_bytes, |replica| gone.replica = replica.take());
                discarded.push(gone);
            }
            !is_dropped
        });
        Ok(())
    }

    fn dropped(&self) -> BTreeSet<u64> {
        read(&self.view).dropped.clone()
    }

    fn close_replica(&self, view: ViewNumber, operator: u64, partition: PartitionId) {
        let mut state = write(&self.view);
        if state.check(view).is_err() || state.is_chunks(operator) {
            return;
        }
        let index = state.index(partition);
        if let Completeness::Frozen { whole, .. } = &mut state.holdings[index].completeness {
            *whole = false;
            if let Some(cell) = self.cell(operator, partition) {
                lock(&cell).count(&self.pending_bytes, |replica| *replica = None);
            }
        }
    }

    fn store_journal(&self, view: ViewNumber, bytes: &[u8]) -> Result<usize, VaultError> {
        let state = read(&self.view);
        state.check(view)?;
        let frames = journal_frames(bytes).collect::<Result<Vec<_>, _>>()?;
        let mut journals = lock(&self.journals);
        let mut taken = 0;
        for frame in &frames {
            taken += usize::from(journals.take(frame)?);
        }
        let dropped = (frames.len() - taken) as u64;
        self.dropped_frames.fetch_add(dropped, Ordering::Relaxed);
        Ok(taken)
    }

    fn read_journal(
        &self,
        view: ViewNumber,
        operator: u64,
        share: u32,
    ) -> Result<Option<Journal>, VaultError> {
        let state = read(&self.view);
        state.check(view)?;
        Ok(lock(&self.journals).read(operator, share))
    }

    fn unclaimed(&self, view: ViewNumber) -> Result<Vec<OperatorName>, VaultError> {
        let state = read(&self.view);
        state.check(view)?;
        let cells = read(&self.cells);
        let has_state = |number: u64| {
            cells
                .range((number, PartitionId(0))..=(number, PartitionId(u32::MAX)))
                .any(|(_, cell)| lock(cell).is_used())
        };
        let unclaimed = state
            .operators
            .iter()
            .filter(|(number, operator)| !operator.registered && has_state(**number));
        let unclaimed = unclaimed.map(|(_, operator)| operator.identity.name.clone());
        Ok(unclaimed.chain(lock(&self.journals).unclaimed()).collect())
    }
}

#[cfg(test)]
mod tests;
