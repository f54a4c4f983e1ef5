//! A worker's view of the commit: how far its checkpoints are stored, recorded and committed.
//!
//! INVARIANT: committed <= recorded <= stored by every protected operator, at every worker.

use std::cell::{Cell, RefCell};

use timely::scheduling::Activator;

use crate::ids::Epoch;
use crate::planted::{self, Planted};

impl Epoch {
    /// "All epochs": the epoch through which a dataflow that has ended is complete.
    pub const END: Epoch = Epoch(u64::MAX - 1);

    /// The epoch after this one; the greatest number has no successor.
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }

    /// The last epoch that a frontier at `frontier` has passed; `None` if it has passed none.
    pub fn before(frontier: Option<Epoch>) -> Option<Epoch> {
        match frontier {
            None => Some(Epoch::END),
            Some(Epoch(0)) => None,
            Some(Epoch(epoch)) => Some(Epoch(epoch - 1).min(Epoch::END)),
        }
    }
}

/// One worker's knowledge of how far its protected dataflows are committed.
///
/// All protected operators of a worker share one sequence of epochs, whatever dataflow they are in: an epoch
/// is recorded once all of them have stored it. An operator that has ended has stored all epochs.
///
/// The two frontiers of the commit protocol meet here: `replicate` operators report how far each protected
/// operator is stored; `record` operators release what the worker has recorded and report what all workers
/// have recorded.
#[derive(Default)]
pub(crate) struct Commit {
    places: RefCell<Vec<Part>>,
    recorded: Cell<Option<Epoch>>,
    committed: Cell<Option<Epoch>>,
    on_stored: RefCell<Vec<(usize, Activator)>>,
    on_recorded: RefCell<Vec<Activator>>,
    on_committed: RefCell<Vec<Activator>>,
}

/// One protected operator's part in the commit.
struct Part {
    dataflow: usize,
    /// How far every backup has stored it.
    stored: Option<Epoch>,
    /// The vault's numbers of its state.
    numbers: Vec<u64>,
    /// Whether the job has dropped it.
    is_dropped: bool,
}

impl Commit {
    pub(crate) fn resume(resume: Option<Epoch>) -> Self {
        Commit { recorded: Cell::new(resume), committed: Cell::new(resume), ..Commit::default() }
    }

    /// Admits a protected operator of a dataflow; returns its place.
    pub(crate) fn join(&self, dataflow: usize, numbers: Vec<u64>) -> usize {
        let mut places = self.places.borrow_mut();
        let stored = self.recorded.get();
        places.push(Part { dataflow, stored, numbers, is_dropped: false });
        places.len() - 1
    }

    /// Notes that the operator at `place` was dropped. If it was the last operator of its dataflow, returns
    /// the dataflow and all of its numbers.
    pub(crate) fn drop_place(&self, place: usize) -> Option<(usize, Vec<u64>)> {
        let mut places = self.places.borrow_mut();
        places[place].is_dropped = true;
        let dataflow = places[place].dataflow;
        let here = || places.iter().filter(|place| place.dataflow == dataflow);
        let numbers = here().flat_map(|place| place.numbers.iter().copied()).collect();
        here().all(|place| place.is_dropped).then_some((dataflow, numbers))
    }

    /// Notes that all workers have dropped a dataflow, which then holds nothing back.
    pub(crate) fn leave(&self, dataflow: usize) {
        let mut places = self.places.borrow_mut();
        let here = places.iter_mut().filter(|place| place.dataflow == dataflow);
        here.for_each(|place| place.stored = Some(Epoch::END));
    }

    /// Wakes an operator whenever all protected operators of its dataflow have stored more.
    pub(crate) fn wake_on_stored(&self, dataflow: usize, activator: Activator) {
        self.on_stored.borrow_mut().push((dataflow, activator));
    }

    /// How far every backup has stored all protected operators of a dataflow.
    pub(crate) fn stored_in(&self, dataflow: usize) -> Option<Epoch> {
        let places = self.places.borrow();
        let here = places.iter().filter(|place| place.dataflow == dataflow);
        here.map(|place| place.stored).min().unwrap_or(self.recorded.get())
    }

    pub(crate) fn wake_on_recorded(&self, activator: Activator) {
        self.on_recorded.borrow_mut().push(activator);
    }

    pub(crate) fn wake_on_committed(&self, activator: Activator) {
        self.on_committed.borrow_mut().push(activator);
    }

    /// Notes that every backup has stored the operator at `place` through `through`.
    ///
    /// Returns the epoch to record if that completes one for all operators.
    pub(crate) fn stored(&self, place: usize, through: Option<Epoch>) -> Option<Epoch> {
        let dataflow = self.places.borrow()[place].dataflow;
        let before = self.stored_in(dataflow);
        {
            let here = &mut self.places.borrow_mut()[place];
            here.stored = here.stored.max(through);
        }
        if self.stored_in(dataflow) > before {
            let sleepers = self.on_stored.borrow();
            for (_, sleeper) in sleepers.iter().filter(|(of, _)| *of == dataflow) {
                sleeper.activate();
            }
        }
        if planted::is(Planted::RecordPerOperator) {
            return (through > self.recorded.get()).then_some(through).flatten();
        }
        let least = self.places.borrow().iter().map(|place| place.stored).min().flatten();
        (least > self.recorded.get()).then_some(least).flatten()
    }

    /// Notes that this node has recorded `epoch`.
    pub(crate) fn set_recorded(&self, epoch: Epoch) {
        self.recorded.set(self.recorded.get().max(Some(epoch)));
        self.wake_recorders();
    }

    /// Wakes the operators that wait for something to be recorded, or to record it.
    pub(crate) fn wake_recorders(&self) {
        for activator in self.on_recorded.borrow().iter() {
            activator.activate();
        }
    }

    pub(crate) fn recorded(&self) -> Option<Epoch> {
        self.recorded.get()
    }

    /// Notes that every node has recorded up to `through`; returns whether that is new.
    pub(crate) fn set_committed(&self, through: Option<Epoch>) -> bool {
        let news = through > self.committed.get();
        if news {
            self.committed.set(through);
            for activator in self.on_committed.borrow().iter() {
                activator.activate();
            }
        }
        news
    }

    pub(crate) fn committed(&self) -> Option<Epoch> {
        self.committed.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_recorded_once_every_operator_has_stored_it() {
        let commit = Commit::resume(None);
        let (a, b) = (commit.join(0, Vec::new()), commit.join(0, Vec::new()));
        assert_eq!(commit.stored(a, Some(Epoch(3))), None);
        assert_eq!(commit.stored(b, Some(Epoch(1))), Some(Epoch(1)));
        commit.set_recorded(Epoch(1));
        assert_eq!(commit.stored(b, Some(Epoch(1))), None);
        assert_eq!(commit.stored(b, Some(Epoch::END)), Some(Epoch(3)));
        assert_eq!(commit.recorded(), Some(Epoch(1)));
        assert_eq!(commit.committed(), None);
    }

    #[test]
    fn dataflows_are_stored_apart_and_recorded_together() {
        let commit = Commit::resume(Some(Epoch(2)));
        let (a, b) = (commit.join(0, vec![7]), commit.join(1, vec![8, 9]));
        assert_eq!(commit.stored(a, Some(Epoch(7))), None);
        assert_eq!(commit.stored_in(0), Some(Epoch(7)));
        assert_eq!(commit.stored_in(1), Some(Epoch(2)));
        assert_eq!(commit.stored(b, Some(Epoch(4))), Some(Epoch(4)));
        commit.set_recorded(Epoch(4));
        // One that has ended holds nobody back.
        assert_eq!(commit.stored(b, Some(Epoch::END)), Some(Epoch(7)));
    }

    #[test]
    fn a_dataflow_that_all_have_dropped_holds_nobody_back() {
        let commit = Commit::resume(None);
        let (a, b, c) = (commit.join(0, vec![7]), commit.join(1, vec![8]), commit.join(1, vec![9]));
        assert_eq!(commit.stored(b, Some(Epoch(2))), None);
        assert_eq!(commit.stored(c, Some(Epoch(1))), None);
        assert_eq!(commit.stored(a, Some(Epoch(5))), Some(Epoch(1)));
        assert_eq!(commit.drop_place(c), None);
        assert_eq!(commit.drop_place(b), Some((1, vec![8, 9])));
        // As long as others may bring it back, nothing after it counts.
        assert_eq!(commit.stored(a, Some(Epoch(6))), Some(Epoch(1)));
        commit.leave(1);
        assert_eq!(commit.stored(a, Some(Epoch(6))), Some(Epoch(6)));
    }

    #[test]
    fn a_frontier_has_passed_what_is_before_it() {
        assert_eq!(Epoch::before(Some(Epoch(0))), None);
        assert_eq!(Epoch::before(Some(Epoch(5))), Some(Epoch(4)));
        assert_eq!(Epoch::before(None), Some(Epoch::END));
        assert_eq!(Epoch::before(Some(Epoch(u64::MAX))), Some(Epoch::END));
    }
}
