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

use self::holdings::{Completeness, Holding};
use self::present::View;
use super::chunks::Merged;
use super::journals::{JOURNAL_BYTES_MAX, Journal, Journals};
use super::{Copies, Inventory, Live, Opened, Role, Span, Usage, Vault, VaultError};
use crate::ids::{Epoch, OperatorName, PartitionId, ViewNumber};
use crate::planted::{self, Planted};
use crate::snapshot::journal::journal_frames;
use crate::snapshot::{Subject, frames, operator_id};
use crate::state::{ChunkMerger, Replica, ReplicaBase};

mod holdings;
mod merging;
mod present;
mod storing;

/// The default for the bytes of pending deltas above which storing folds some itself.
pub const PENDING_BYTES_MAX: usize = 256 << 20;

struct Operator {
    name: OperatorName,
    fingerprint: u32,
    partitions: u32,
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
}

type Key = (u64, PartitionId);
type Cells = BTreeMap<Key, Arc<Mutex<Cell>>>;

/// The vault of a node that keeps everything in memory.
pub struct MemoryVault {
    view: RwLock<View>,
    cells: RwLock<Cells>,
    /// What installing a view dropped: freed by the compactor, so that no recovery waits for it.
    discarded: Mutex<Vec<Cell>>,
    /// Where the next compaction begins, so that all cells get their turn.
    next: Mutex<Option<Key>>,
    pending_bytes: AtomicUsize,
    pending_bytes_max: usize,
    dropped_frames: AtomicU64,
    journals: Mutex<Journals>,
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
    /// Lets `change` modify the replica, and updates the count of pending bytes.
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
            view: RwLock::new(View {
                number: None,
                closed: false,
                resume: None,
                recorded: None,
                holdings: vec![Holding::default(); partitions as usize],
                operators: BTreeMap::new(),
                dropped: BTreeSet::new(),
            }),
            cells: RwLock::new(Cells::new()),
            discarded: Mutex::new(Vec::new()),
            next: Mutex::new(None),
            pending_bytes: AtomicUsize::new(0),
            pending_bytes_max,
            dropped_frames: AtomicU64::new(0),
            journals: Mutex::new(Journals::new(partitions as usize, JOURNAL_BYTES_MAX)),
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

    fn register_any(
        &self,
        view: ViewNumber,
        name: &OperatorName,
        fingerprint: u32,
        partitions: u32,
        merger: Option<Arc<dyn ChunkMerger>>,
    ) -> Result<u64, VaultError> {
        let mut state = write(&self.view);
        state.check(view)?;
        let number = operator_id(name);
        let operator = state.operators.entry(number).or_insert_with(|| Operator {
            name: name.clone(),
            fingerprint,
            partitions,
            registered: false,
            through: None,
            merger: merger.clone(),
        });
        if operator.name != *name {
            return Err(VaultError::Collision { there: operator.name.clone(), new: name.clone() });
        }
        let (expected, actual) =
            ((operator.fingerprint, operator.partitions), (fingerprint, partitions));
        if expected != actual {
            return Err(VaultError::Changed { operator: name.clone(), expected, actual });
        }
        if operator.merger.is_some() != merger.is_some() {
            let chunks = merger.is_some();
            return Err(VaultError::StateChanged { operator: name.clone(), chunks });
        }
        operator.merger = merger;
        operator.registered = true;
        Ok(number)
    }
}

impl Vault for MemoryVault {
    fn install(
        &self,
        view: ViewNumber,
        resume: Option<Epoch>,
        role: &dyn Fn(PartitionId) -> Role,
    ) -> Result<(), VaultError> {
        let mut state = write(&self.view);
        if let Some(installed) = state.number.filter(|installed| *installed >= view) {
            return Err(VaultError::ViewFell { installed, actual: view });
        }
        if resume < state.recorded {
            return Err(VaultError::ResumeFell { expected: state.recorded, actual: resume });
        }
        let mut cells = write(&self.cells);
        let filled = state.filled(&cells);
        let holdings: Vec<Holding> = (0_u32..)
            .zip(&state.holdings)
            .map(|(partition, before)| {
                let role = role(PartitionId(partition));
                let filled = filled.get(&(partition as usize)).copied();
                before.next(filled, role, resume)
            })
            .collect();

        // SUBTLE: an owner that becomes only a backup, and an incomplete one, drops its copy of chunks with
        // everything else: it is filled as a whole partition, and chunks that are already there would count
        // twice.
        let kept = |operator: u64, partition: PartitionId| {
            let holding = holdings[state.index(partition)];
            (holding.role.owner, holding.is_copy(state.is_chunks(operator)))
        };
        // Nothing folds above what is recorded, and no view resumes below it.
        for (&(operator, partition), cell) in cells.iter() {
            let base = lock(cell).replica.as_ref().and_then(Replica::base_epoch);
            assert!(
                !kept(operator, partition).1 || base <= resume,
                "partition {partition} is folded to {base:?}, and view {view} resumes from {resume:?}"
            );
        }
        let mut discarded = lock(&self.discarded);
        cells.retain(|&(operator, partition), cell| {
            let mut cell = lock(cell);
            let (live_kept, replica_kept) = kept(operator, partition);
            let mut gone = Cell::default();
            if !live_kept {
                gone.live = cell.live.take();
            }
            if let Some(deposit) = &mut cell.live {
                deposit.rewind_to =
                    Some(deposit.rewind_to.map_or(resume, |least| least.min(resume)));
            }
            cell.count(&self.pending_bytes, |replica| match replica {
                Some(_) if replica_kept && planted::is(Planted::KeepAboveResume) => {}
                Some(copy) if replica_kept => {
                    let truncated = copy.truncate_above(resume);
                    debug_assert_eq!(truncated, Ok(()));
                }
                _ => gone.replica = replica.take(),
            });
            let holding = holdings[state.index(partition)];
            if cell.replica.is_none() || holding.completeness == Completeness::Filling {
                cell.filled = None;
            }
            if cell.replica.is_none() {
                cell.merged = Merged::default();
            }
            if gone.live.is_some() || gone.replica.is_some() {
                discarded.push(gone);
            }
            cell.live.is_some() || cell.replica.is_some()
        });

        let held = holdings.iter().map(|holding| holding.role.owner || holding.role.backup);
        let is_first = state.number.is_none() && view == ViewNumber(1);
        lock(&self.journals).install(resume, held.collect(), is_first);
        state.holdings = holdings;
        state.number = Some(view);
        state.closed = false;
        state.resume = resume;
        state.recorded = resume;
        for operator in state.operators.values_mut() {
            operator.registered = false;
            operator.through = None;
        }
        Ok(())
    }

    fn close(&self, view: ViewNumber) {
        let mut state = write(&self.view);
        state.closed |= state.number == Some(view);
    }

    fn store(&self, view: ViewNumber, bytes: &[u8]) -> Result<usize, VaultError> {
        let state = read(&self.view);
        let open = state.check(view);
        let open = planted::late_is_taken(Planted::StoreAfterClose, open);
        open?;
        let deltas = frames(bytes).collect::<Result<Vec<_>, _>>()?;
        let mut stored = 0;
        for delta in &deltas {
            stored += usize::from(self.store_one(&state, delta)?);
        }
        Ok(stored)
    }

    fn complete(&self, view: ViewNumber, operator: u64, through: Epoch) -> Result<(), VaultError> {
        let mut state = write(&self.view);
        let open = state.check(view);
        let open = planted::late_is_taken(Planted::RecordAfterClose, open);
        open?;
        let operator =
            state.operators.get_mut(&operator).ok_or(VaultError::UnknownOperator(operator))?;
        operator.through = operator.through.max(Some(through));
        Ok(())
    }

    fn record(&self, view: ViewNumber, epoch: Epoch) -> Result<(), VaultError> {
        let mut state = write(&self.view);
        let open = state.check(view);
        let open = planted::late_is_taken(Planted::RecordAfterClose, open);
        open?;
        state.recorded = state.recorded.max(Some(epoch));
        lock(&self.journals).prune(epoch);
        Ok(())
    }

    fn recorded(&self) -> Option<Epoch> {
        read(&self.view).recorded
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
            let subject = Subject { operator, fingerprint: known.fingerprint, partition };
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

    fn register_input(
        &self,
        view: ViewNumber,
        name: &OperatorName,
        fingerprint: u32,
        shares: u32,
    ) -> Result<u64, VaultError> {
        let state = read(&self.view);
        state.check(view)?;
        lock(&self.journals).register(name, fingerprint, shares)
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

    fn inventory(&self) -> Inventory {
        let state = read(&self.view);
        // SUBTLE: all operators count, whether registered in this view or not. A generation that was stopped
        // before it was built has registered none, but everything that the previous one left is still here.
        let kept = state.operators.iter().filter(|(number, _)| !state.dropped.contains(number));
        let complete = kept
            .map(|(_, operator)| operator.through.max(state.resume))
            .min()
            .unwrap_or(state.resume);
        let cells = read(&self.cells);
        let filled = state.filled(&cells);
        let (has_journals, inputs, whole) = {
            let journals = lock(&self.journals);
            let whole = (0..state.holdings.len()).map(|index| journals.is_whole(index));
            (journals.exist(), journals.names(), whole.collect::<Vec<bool>>())
        };
        // Before the first commit there is nothing to hold, except journals.
        let only_journals = state.recorded.is_none() && has_journals;
        let mut partitions: Vec<Copies> = state
            .holdings
            .iter()
            .enumerate()
            .map(|(index, holding)| {
                let span = match holding.completeness {
                    Completeness::Fed => Some((None, complete)),
                    Completeness::Frozen { through, whole: true } => Some((None, through)),
                    Completeness::Filling => filled
                        .get(&index)
                        .filter(|filled| Some(**filled) <= complete)
                        .map(|filled| (Some(*filled), complete)),
                    _ => None,
                };
                let span = if !only_journals {
                    span
                } else if whole[index] {
                    span.or(Some((None, None)))
                } else {
                    None
                };
                Copies { replica: span.map(|(from, through)| Span { from, through }), live: false }
            })
            .collect();
        let mut deposits: BTreeMap<usize, u64> = BTreeMap::new();
        for (&(operator, partition), cell) in cells.iter() {
            let (cell, index) = (lock(cell), state.index(partition));
            // A replica that was filled had no earlier state, though its base may say so.
            let base = cell.replica.as_ref().and_then(Replica::base_epoch).max(cell.filled);
            let is_chunks = state.is_chunks(operator);
            // SUBTLE: what an owner opened and receives no deltas for is a copy at that epoch only. An
            // owner's copy of chunks is beyond that epoch only if something is recorded that the rest does
            // not have.
            let is_frozen =
                matches!(state.holdings[index].completeness, Completeness::Frozen { .. });
            if let Some(span) = &mut partitions[index].replica
                && !(is_chunks && is_frozen)
            {
                span.from = span.from.max(base);
            }
            if state.operators.contains_key(&operator) && !is_chunks && cell.live.is_some() {
                *deposits.entry(index).or_default() += 1;
            }
        }
        for (index, copies) in partitions.iter_mut().enumerate() {
            let (tables, chunks) = state.cells_wanted(index);
            let deposited = deposits.get(&index).copied().unwrap_or(0);
            // An owner has all chunks, whether there is a cell or not: what never had a delta is empty.
            let owns_chunks = chunks == 0 || state.holdings[index].owns_chunks;
            copies.live = tables + chunks > 0 && deposited == tables && owns_chunks;
        }
        if state.operators.is_empty() && has_journals {
            // There is no state but the journals, which outlive every worker.
            for (copies, holding) in partitions.iter_mut().zip(&state.holdings) {
                copies.live = holding.role.owner;
            }
        }
        let operators =
            state.operators.iter().map(|(number, operator)| (*number, operator.name.clone()));
        Inventory {
            operators: operators.chain(inputs).collect(),
            journals: has_journals,
            partitions: (0_u32..)
                .map(PartitionId)
                .zip(partitions)
                .filter(|(_, copies)| *copies != Copies::default())
                .collect(),
        }
    }

    fn register(
        &self,
        view: ViewNumber,
        name: &OperatorName,
        fingerprint: u32,
        partitions: u32,
    ) -> Result<u64, VaultError> {
        self.register_any(view, name, fingerprint, partitions, None)
    }

    fn register_chunks(
        &self,
        view: ViewNumber,
        name: &OperatorName,
        fingerprint: u32,
        partitions: u32,
        merger: Arc<dyn ChunkMerger>,
    ) -> Result<u64, VaultError> {
        self.register_any(view, name, fingerprint, partitions, Some(merger))
    }

    fn unclaimed(&self, view: ViewNumber) -> Result<Vec<OperatorName>, VaultError> {
        let state = read(&self.view);
        state.check(view)?;
        let cells = read(&self.cells);
        let has_state = |number: u64| {
            cells.range((number, PartitionId(0))..=(number, PartitionId(u32::MAX))).any(
                |(_, cell)| {
                    let cell = lock(cell);
                    cell.live.is_some() || cell.replica.is_some()
                },
            )
        };
        let unclaimed = state
            .operators
            .iter()
            .filter(|(number, operator)| !operator.registered && has_state(**number));
        let unclaimed = unclaimed.map(|(_, operator)| operator.name.clone());
        Ok(unclaimed.chain(lock(&self.journals).unclaimed()).collect())
    }

    fn compact(&self, budget_bytes: usize) -> Result<usize, VaultError> {
        let discarded = std::mem::take(&mut *lock(&self.discarded));
        drop(discarded);
        // SUBTLE: a view may be installed while this folds; it never resumes below what is recorded.
        let Some(recorded) = self.recorded() else {
            return Ok(0);
        };
        let mergers: BTreeMap<u64, Arc<dyn ChunkMerger>> = {
            let state = read(&self.view);
            let operators = state.operators.iter();
            operators
                .filter_map(|(number, o)| Some((*number, Arc::clone(o.merger.as_ref()?))))
                .collect()
        };
        let recorded = if planted::is(Planted::FoldStored) { Epoch::END } else { recorded };
        let mut next = lock(&self.next);
        let (first, last): (Vec<_>, Vec<_>) = {
            let cells = read(&self.cells);
            cells
                .iter()
                .map(|(key, cell)| (*key, Arc::clone(cell)))
                .partition(|(key, _)| Some(*key) >= *next)
        };
        let mut folded = 0;
        let mut refused = None;
        for (key, cell) in first.into_iter().chain(last) {
            *next = Some(key);
            if folded >= budget_bytes {
                break;
            }
            folded += lock(&cell).count(&self.pending_bytes, |replica| match replica {
                Some(replica) => replica.fold(recorded, budget_bytes - folded),
                None => Ok(0),
            })?;
            if let Some(merger) = mergers.get(&key.0) {
                // At least one step, or folding might leave no budget for merging.
                let room = budget_bytes.saturating_sub(folded).max(1);
                match self.merge(key, &cell, merger.as_ref(), room) {
                    Ok(merged) => folded += merged,
                    // The other threads should not wait for it.
                    Err(error) => drop(refused.get_or_insert(error)),
                }
            }
        }
        refused.map_or(Ok(folded), Err)
    }

    fn usage(&self) -> Usage {
        let state = read(&self.view);
        let cells = read(&self.cells);
        let filled = state.filled(&cells);
        let is_incomplete = |(index, holding): &(usize, &Holding)| {
            holding.completeness == Completeness::Filling
                && filled.get(index).is_none_or(|filled| Some(*filled) > state.recorded)
        };
        let mut usage = Usage {
            filling_partitions: state.holdings.iter().enumerate().filter(is_incomplete).count(),
            pending_bytes: self.pending_bytes.load(Ordering::Relaxed),
            dropped_frames: self.dropped_frames.load(Ordering::Relaxed),
            journal_bytes: lock(&self.journals).bytes(),
            ..Usage::default()
        };
        for cell in cells.values() {
            let cell = lock(cell);
            usage.deposits += usize::from(cell.live.is_some());
            usage.replica_bytes += cell.replica.as_ref().map_or(0, Replica::base_bytes);
        }
        usage
    }
}

#[cfg(test)]
mod tests;
