//! The current view of a vault: this node's role for each partition, and the operators that count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::holdings::{Completeness, Holding};
use super::{Cells, Operator, lock};
use crate::ids::{Epoch, PartitionId, ViewNumber};
use crate::planted::{self, Planted};
use crate::state::ChunkMerger;
use crate::vault::identity::Identity;
use crate::vault::{Role, VaultError};

pub(super) struct Present {
    pub(super) number: Option<ViewNumber>,
    /// Whether evidence was given about this view: then its generation cannot change anything any more.
    pub(super) closed: bool,
    pub(super) resume: Option<Epoch>,
    pub(super) recorded: Option<Epoch>,
    pub(super) holdings: Vec<Holding>,
    pub(super) operators: BTreeMap<u64, Operator>,
    /// The operators that the job has dropped, for the rest of the run.
    pub(super) dropped: BTreeSet<u64>,
    /// Whether the operators were known before the job was built: those of a durable tier.
    pub(super) is_preloaded: bool,
}

impl Present {
    /// What a vault of so many partitions begins with: no view is installed.
    pub(super) fn before_any(partitions: usize) -> Self {
        Present {
            number: None,
            closed: false,
            resume: None,
            recorded: None,
            holdings: vec![Holding::default(); partitions],
            operators: BTreeMap::new(),
            dropped: BTreeSet::new(),
            is_preloaded: false,
        }
    }

    /// Begins a view in which this node holds something of each partition.
    pub(super) fn begin(
        &mut self,
        view: ViewNumber,
        resume: Option<Epoch>,
        holdings: Vec<Holding>,
    ) {
        self.holdings = holdings;
        self.number = Some(view);
        self.closed = false;
        self.resume = resume;
        self.recorded = resume;
        for operator in self.operators.values_mut() {
            operator.registered = false;
            operator.through = None;
        }
    }

    /// Begins with complete copies, at `resume`, of the partitions in which this node has a role.
    pub(super) fn hold_all(&mut self, resume: Epoch, role: &dyn Fn(PartitionId) -> Role) {
        self.resume = Some(resume);
        self.recorded = Some(resume);
        for (holding, partition) in self.holdings.iter_mut().zip((0_u32..).map(PartitionId)) {
            let Role { owner, backup } = role(partition);
            if owner || backup {
                holding.completeness = Completeness::Fed;
            }
        }
    }

    /// Refuses an operator that a durable tier does not know.
    pub(super) fn check_known(
        &self,
        identity: &Identity,
        is_known: bool,
    ) -> Result<(), VaultError> {
        if self.is_preloaded && !is_known && !self.dropped.contains(&identity.number()) {
            return Err(VaultError::New { operator: identity.name.clone() });
        }
        Ok(())
    }

    /// Registers an operator of tables, or of chunks with what merges them; returns its number.
    pub(super) fn register(
        &mut self,
        identity: Identity,
        merger: Option<Arc<dyn ChunkMerger>>,
    ) -> Result<u64, VaultError> {
        let number = identity.number();
        self.check_known(&identity, self.operators.contains_key(&number))?;
        let known = self.operators.entry(number).or_insert_with(|| Operator {
            identity: identity.clone(),
            registered: false,
            through: None,
            merger: merger.clone(),
        });
        known.identity.check(&identity)?;
        let chunks = merger.is_some();
        if known.merger.is_some() != chunks {
            return Err(VaultError::StateChanged { operator: identity.name, chunks });
        }
        known.merger = merger;
        known.registered = true;
        Ok(number)
    }

    pub(super) fn check(&self, view: ViewNumber) -> Result<(), VaultError> {
        if self.number != Some(view) {
            return Err(VaultError::View { expected: self.number, actual: view });
        }
        if self.closed {
            return Err(VaultError::Closed { view });
        }
        Ok(())
    }

    /// As [`check`](Present::check), but that it lets late calls through where `bug` is at work.
    pub(super) fn check_unless(&self, bug: Planted, view: ViewNumber) -> Result<(), VaultError> {
        self.check(view).or_else(|error| {
            let is_taken = error.is_late() && planted::is(bug);
            if is_taken { Ok(()) } else { Err(error) }
        })
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
            let beyond = u64::from(operator.identity.partitions).saturating_sub(index as u64);
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
