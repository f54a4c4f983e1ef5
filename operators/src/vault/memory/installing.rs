//! Installing a view, and closing it: what goes on from the view before, and what is cut off.

use std::sync::atomic::AtomicUsize;

use super::holdings::{Completeness, Holding};
use super::{Cell, MemoryVault, Merged, lock, write};
use crate::ids::{Epoch, PartitionId, ViewNumber};
use crate::planted::{self, Planted};
use crate::state::Replica;
use crate::vault::{Role, VaultError};

impl MemoryVault {
    /// Begins a view that resumes from `resume`, in which this node is `role` to each partition.
    ///
    /// Afterwards nothing above `resume` is left, nor anything of partitions to which this node is
    /// nothing, and only calls of `view` are accepted. A replica goes on as a copy only if it was fed
    /// all along: a node that begins to back a partition has no copy of it, except where `resume` is
    /// `None` and there is nothing to have. It is filled by the deltas of this view, up to one that
    /// says it [completes](crate::snapshot::DeltaHeader::completes) the copy; a copy that was not
    /// complete at `resume` is filled anew. On an error nothing has changed.
    pub fn install(
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
        let is_first = state.number.is_none() && view == ViewNumber(1);
        let mut cells = write(&self.cells);
        let filled = state.filled(&cells);
        let holdings = state.holdings.iter().enumerate().map(|(index, before)| {
            let role = role(PartitionId(index as u32));
            before.next(filled.get(&index).copied(), role, resume)
        });
        let holdings = holdings.collect();
        state.begin(view, resume, holdings);

        // Nothing folds above what is recorded, and no view resumes below it.
        for (&(operator, partition), cell) in cells.iter() {
            let base = lock(cell).replica.as_ref().and_then(Replica::base_epoch);
            let is_copy = state.holding(partition).is_copy(state.is_chunks(operator));
            assert!(
                !is_copy || base <= resume,
                "partition {partition} is folded to {base:?}, and view {view} resumes from {resume:?}"
            );
        }
        let mut discarded = lock(&self.discarded);
        cells.retain(|&(operator, partition), cell| {
            let mut cell = lock(cell);
            let (holding, is_chunks) = (state.holding(partition), state.is_chunks(operator));
            let gone = cell.go_on(holding, is_chunks, resume, &self.pending_bytes);
            if gone.is_used() {
                discarded.push(gone);
            }
            cell.is_used()
        });
        let held = state.holdings.iter().map(|holding| holding.role.owner || holding.role.backup);
        lock(&self.journals).install(resume, held.collect(), is_first);
        Ok(())
    }

    /// Closes a view: from now on nothing that evidence is given of changes any more.
    ///
    /// Every later call of the view is refused, but for one: a worker that comes late may still
    /// [deposit](crate::vault::Vault::deposit) its live state, until the next view is installed. That
    /// adds a copy and takes nothing back. A view that is not the one installed is not closed.
    pub fn close(&self, view: ViewNumber) {
        let mut state = write(&self.view);
        state.closed |= state.number == Some(view);
    }
}

impl Cell {
    /// Goes on in a view as what its node holds of the partition, and returns what does not.
    ///
    /// SUBTLE: an owner that becomes a backup only, and is no complete one, drops its copy of chunks with
    /// all else: it is filled as a whole partition, and chunks that are there would count twice.
    fn go_on(
        &mut self,
        holding: Holding,
        is_chunks: bool,
        resume: Option<Epoch>,
        pending: &AtomicUsize,
    ) -> Cell {
        let mut gone = Cell::default();
        if !holding.role.owner {
            gone.live = self.live.take();
        }
        if let Some(deposit) = &mut self.live {
            deposit.rewind_to = Some(deposit.rewind_to.map_or(resume, |least| least.min(resume)));
        }
        let is_copy = holding.is_copy(is_chunks);
        self.count(pending, |replica| match replica {
            Some(_) if is_copy && planted::is(Planted::KeepAboveResume) => {}
            Some(copy) if is_copy => {
                let truncated = copy.truncate_above(resume);
                debug_assert_eq!(truncated, Ok(()));
            }
            _ => gone.replica = replica.take(),
        });
        if self.replica.is_none() || holding.completeness == Completeness::Filling {
            self.filled = None;
        }
        match &mut self.unsaved {
            Some(unsaved) if self.replica.is_some() => unsaved.cut_above(resume),
            unsaved => *unsaved = None,
        }
        if self.replica.is_none() {
            self.merged = Merged::default();
        }
        gone
    }
}
