//! Inventory: what copies a vault holds, and how much it holds.

use std::sync::atomic::Ordering;

use super::holdings::{Completeness, Holding};
use super::present::Present;
use super::{Cells, MemoryVault, lock, read};
use crate::ids::PartitionId;
use crate::state::Replica;
use crate::vault::{Copies, Inventory, Span, Usage};

impl MemoryVault {
    /// Returns what copies are here.
    pub fn inventory(&self) -> Inventory {
        let state = read(&self.view);
        let cells = read(&self.cells);
        let (mut replicas, mut live) = (state.replicas(&cells), state.live(&cells));
        let journals = lock(&self.journals);
        if journals.exist() && state.recorded.is_none() {
            // Before the first commit there is nothing to have, except journals.
            for (index, replica) in replicas.iter_mut().enumerate() {
                let nothing = Span { from: None, through: None };
                *replica = journals.is_whole(index).then(|| replica.unwrap_or(nothing));
            }
        }
        if journals.exist() && state.operators.is_empty() {
            // There is no state but the journals, which outlive every worker.
            live = state.holdings.iter().map(|holding| holding.role.owner).collect();
        }
        let copies = replicas.into_iter().zip(live);
        let copies = copies.map(|(replica, live)| Copies { replica, live });
        let partitions = (0_u32..).map(PartitionId).zip(copies);
        let operators = state.operators.iter();
        let operators = operators.map(|(number, known)| (*number, known.identity.name.clone()));
        Inventory {
            operators: operators.chain(journals.names()).collect(),
            partitions: partitions.filter(|(_, copies)| *copies != Copies::default()).collect(),
            journals: journals.exist(),
            recorded: state.recorded,
            dropped: state.dropped.clone(),
        }
    }

    /// Returns how much is here.
    pub fn usage(&self) -> Usage {
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

impl Present {
    /// At which epochs the replicas of each of the view's partitions can be opened, where they are complete.
    fn replicas(&self, cells: &Cells) -> Vec<Option<Span>> {
        // SUBTLE: all operators count, registered in this view or not. A generation that was stopped
        // before it was built has registered none, and yet all that the one before left is here.
        let kept = self.operators.iter().filter(|(number, _)| !self.dropped.contains(number));
        let complete = kept.map(|(_, operator)| operator.through.max(self.resume)).min();
        let complete = complete.unwrap_or(self.resume);
        let filled = self.filled(cells);
        let span = |(index, holding): (usize, &Holding)| {
            let (from, through) = match holding.completeness {
                Completeness::Fed => (None, complete),
                Completeness::Frozen { through, whole: true } => (None, through),
                Completeness::Filling => {
                    let filled = filled.get(&index).copied().filter(|at| Some(*at) <= complete)?;
                    (Some(filled), complete)
                }
                Completeness::Frozen { whole: false, .. } | Completeness::None => return None,
            };
            Some(Span { from, through })
        };
        let mut spans: Vec<_> = self.holdings.iter().enumerate().map(span).collect();
        for (&(operator, partition), cell) in cells {
            let (cell, index) = (lock(cell), self.index(partition));
            // One that was filled had no earlier state, though its base may say so.
            let base = cell.replica.as_ref().and_then(Replica::base_epoch).max(cell.filled);
            // SUBTLE: what an owner opened and is not fed is a copy at that epoch alone, which an owner's
            // copy of chunks has left behind only where something is recorded that the rest has not.
            let is_frozen =
                matches!(self.holdings[index].completeness, Completeness::Frozen { .. });
            if let Some(span) = &mut spans[index]
                && !(self.is_chunks(operator) && is_frozen)
            {
                span.from = span.from.max(base);
            }
        }
        spans
    }

    /// Whether the live state of every known operator lies here, for each of the view's partitions.
    fn live(&self, cells: &Cells) -> Vec<bool> {
        let mut deposited = vec![0; self.holdings.len()];
        for (&(operator, partition), cell) in cells {
            let is_table = self.operators.contains_key(&operator) && !self.is_chunks(operator);
            if is_table && lock(cell).live.is_some() {
                deposited[self.index(partition)] += 1;
            }
        }
        let is_live = |(index, holding): (usize, &Holding)| {
            let (tables, chunks) = self.cells_wanted(index);
            // Of chunks an owner has all there is, a cell or not: what never had a delta is empty.
            let owns_chunks = chunks == 0 || holding.owns_chunks;
            tables + chunks > 0 && deposited[index] == tables && owns_chunks
        };
        self.holdings.iter().enumerate().map(is_live).collect()
    }
}
