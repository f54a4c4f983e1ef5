//! The present view of a vault: what this node is to each partition, and which operators count.

use std::collections::BTreeMap;

use super::{Cells, Completeness, Holding, Operator, View, lock};
use crate::ids::{Epoch, PartitionId, ViewNumber};
use crate::vault::{Role, VaultError};

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
            // An operator has as many partitions here as are congruent to this one.
            let beyond = u64::from(operator.partitions).saturating_sub(index as u64);
            let count = beyond.div_ceil(self.holdings.len() as u64);
            match operator.merger {
                None => wanted.0 += count,
                Some(_) => wanted.1 += count,
            }
        }
        wanted
    }

    /// Returns for each partition that is being filled the epoch from which on all of it is here.
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

    /// Returns what is held of a partition in the next view.
    pub(super) fn next(
        &self,
        holding: Holding,
        filled: Option<Epoch>,
        role: Role,
        resume: Option<Epoch>,
    ) -> Holding {
        let frozen = Completeness::Frozen { through: resume, whole: true };
        let complete = match holding.completeness {
            // What is committed was stored by every backup, whatever this node last heard of it.
            Completeness::Fed => true,
            Completeness::Filling => filled.is_some() && filled <= resume,
            Completeness::Frozen { through, whole } => whole && through == resume,
            Completeness::None => false,
        };
        // Before the first commit there is nothing to have.
        let complete = complete || resume.is_none();
        let completeness = match (complete, role) {
            (true, Role { backup: true, .. }) => Completeness::Fed,
            (true, Role { owner: true, .. }) => frozen,
            (false, Role { backup: true, .. }) => Completeness::Filling,
            _ => Completeness::None,
        };
        let owns_chunks = role.owner && (complete || holding.owns_chunks);
        Holding { role, completeness, owns_chunks }
    }
}
