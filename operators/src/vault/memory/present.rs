//! The current view of a vault: this node's role for each partition, and the operators that count.

use std::collections::{BTreeMap, BTreeSet};

use super::holdings::{Completeness, Holding};
use super::{Cells, Operator, lock};
use crate::ids::{Epoch, PartitionId, ViewNumber};
use crate::vault::VaultError;

pub(super) struct View {
    pub(super) number: Option<ViewNumber>,
    /// Whether evidence was given about this view: then its generation cannot change anything any more.
    pub(super) closed: bool,
    pub(super) resume: Option<Epoch>,
    pub(super) recorded: Option<Epoch>,
    pub(super) holdings: Vec<Holding>,
    pub(super) operators: BTreeMap<u64, Operator>,
    /// The operators that the job has dropped, for the rest of the run.
    pub(super) dropped: BTreeSet<u64>,
}

impl View {
    pub(super) fn check(&self, view: ViewNumber) -> Result<(), VaultError> {
        if self.number != Some(view) {
            return Err(VaultError::View { expected: self.number, actual: view });
        }
        if self.closed {
            return Err(VaultError::Closed { view });
        }
        Ok(())
    }

    /// Returns the index of the view's partition to which an operator's partition belongs.
    pub(super) fn index(&self, partition: PartitionId) -> usize {
        partition.0 as usize % self.holdings.len()
    }

    pub(super) fn holding(&self, partition: PartitionId) -> Holding {
        self.holdings[self.index(partition)]
    }

    pub(super) fn operator(&self, operator: u64) -> Result<&Operator, VaultError> {
        self.operators.get(&operator).ok_or(VaultError::UnknownOperator(operator))
    }

    pub(super) fn is_chunks(&self, operator: u64) -> bool {
        self.operators.get(&operator).is_some_and(|operator| operator.merger.is_some())
    }

    /// Returns how many cells belong to the view's partition `index`, over the operators of tables and
    /// over those of chunks.
    pub(super) fn cells_wanted(&self, index: usize) -> (u64, u64) {
        let mut wanted = (0, 0);
        let kept = self.operators.iter().filter(|(number, _)| !self.dropped.contains(number));
        for (_, operator) in kept {
            // An operator has those partitions here that are congruent to this one.
            let beyond = u64::from(operator.partitions).saturating_sub(index as u64);
            let count = beyond.div_ceil(self.holdings.len() as u64);
            match operator.merger {
                None => wanted.0 += count,
                Some(_) => wanted.1 += count,
            }
        }
        wanted
    }

    /// Returns, for each partition that is being filled, the epoch from which all of it is here.
    pub(super) fn filled(&self, cells: &Cells) -> BTreeMap<usize, Epoch> {
        let is_filling = |index: usize| self.holdings[index].completeness == Completeness::Filling;
        let mut filled: BTreeMap<usize, (u64, Epoch)> = BTreeMap::new();
        if !self.holdings.iter().any(|holding| holding.completeness == Completeness::Filling) {
            return BTreeMap::new();
        }
        for (&(operator, partition), cell) in cells {
            let index = self.index(partition);
            if is_filling(index)
                && self.operators.contains_key(&operator)
                && let Some(epoch) = lock(cell).filled
            {
                let (count, latest) = filled.entry(index).or_insert((0, epoch));
                *count += 1;
                *latest = epoch.max(*latest);
            }
        }
        filled.retain(|&index, (count, _)| {
            let (tables, chunks) = self.cells_wanted(index);
            *count == tables + chunks
        });
        filled.into_iter().map(|(index, (_, latest))| (index, latest)).collect()
    }
}
