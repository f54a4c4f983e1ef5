//! Dropped dataflows: those that a job ends with `Worker::drop_dataflow` before they have ended by
//! themselves.
//!
//! A dropped dataflow is over for the run. What its sinks have released stays, and it releases nothing more.
//! The commit continues without it once all workers of all nodes have dropped it. Until then the commit
//! waits, since a failure might still bring the dataflow back. If the job builds it again in later views, it
//! is void: its sources are at their end, its state is empty, and its sinks accept nothing.
//!
//! A vault that knows of dropped operators reports them in evidence, so that all members of the next view
//! agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::error::JobError;
use crate::fence::Fence;
use crate::fence::generation::Generation;
use crate::ids::{Epoch, OperatorName};

/// The dropped dataflows of a process in one view.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The workers that have dropped a dataflow, and the vault's numbers of what it keeps.
    dropping: BTreeMap<usize, (BTreeSet<usize>, BTreeSet<u64>)>,
    /// The dataflows that all workers of all processes have dropped.
    gone: BTreeSet<usize>,
}

impl Drops {
    /// Notes that `worker`, one of `workers` of this process, has dropped a dataflow; returns the numbers
    /// of all that it kept, if it was the last.
    fn note(
        &self,
        dataflow: usize,
        worker: usize,
        workers: usize,
        numbers: &[u64],
    ) -> Option<Vec<u64>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (by, all) = state.dropping.entry(dataflow).or_default();
        all.extend(numbers);
        by.insert(worker);
        (by.len() == workers).then(|| all.iter().copied().collect())
    }

    pub(crate) fn set_gone(&self, dataflow: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).gone.insert(dataflow);
    }

    pub(crate) fn gone(&self) -> BTreeSet<usize> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).gone.clone()
    }
}

impl Generation {
    /// Notes that a worker has dropped a dataflow with the operators of these numbers.
    pub(crate) fn note_dropped(&self, dataflow: usize, worker: usize, numbers: &[u64]) {
        let workers = self.settings.workers_per_node.max(1);
        let worker = self.index_in_process(worker);
        let dropped = self.drops.note(dataflow, worker, workers, numbers);
        let by_all = dropped.is_some();
        if let Some(numbers) = dropped
            && self.vault.drop_operators(self.view, &numbers).is_err()
        {
            // This generation is over, and its worker is late: the next generation will have the dataflow
            // again.
            return;
        }
        self.tell_dropped(dataflow, worker, by_all);
    }
}

/// Is owned by the last operator of a protected operator's commit chain, and notes if that is dropped early.
pub(crate) struct DropWatch {
    fence: Fence,
    place: usize,
}

impl DropWatch {
    pub(crate) fn new(fence: &Fence, place: usize) -> Self {
        DropWatch { fence: fence.clone(), place }
    }
}

impl Drop for DropWatch {
    fn drop(&mut self) {
        if self.fence.is_torn_down() || self.fence.commit().recorded() == Some(Epoch::END) {
            return;
        }
        if let Some((dataflow, numbers)) = self.fence.commit().drop_place(self.place) {
            self.fence.generation().note_dropped(dataflow, self.fence.worker(), &numbers);
        }
    }
}

/// Is owned by the clock of checkpoints, which no job may drop.
pub(crate) struct ClockWatch {
    fence: Fence,
    /// Whether the clock has ended by itself.
    has_ended: bool,
}

impl ClockWatch {
    pub(crate) fn new(fence: &Fence) -> Self {
        ClockWatch { fence: fence.clone(), has_ended: false }
    }

    /// Notes whether the clock has ended, after which dropping it means nothing.
    pub(crate) fn look(&mut self, has_ended: bool) {
        self.has_ended = has_ended;
    }
}

impl Drop for ClockWatch {
    fn drop(&mut self) {
        if !self.has_ended && !self.fence.is_torn_down() {
            self.fence.fail_soon(JobError::ClockDropped);
        }
    }
}

/// The vault's numbers for the state and the journals of an operator.
pub(crate) fn numbers_of(name: &OperatorName, ids: &[u64]) -> Vec<u64> {
    ids.iter().copied().chain([crate::snapshot::operator_id(name)]).collect()
}
