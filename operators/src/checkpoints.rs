//! Checkpoints: the epochs at which state is sealed, as far as one worker knows them.
//!
//! INVARIANT: nothing at any worker acts on an epoch beyond a checkpoint without knowing of it, so that
//! whoever acts on a later epoch has sealed the checkpoint before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use timely::scheduling::Activator;

use crate::ids::Epoch;

/// One worker's knowledge of which epochs are checkpoints.
///
/// Without a clock for them every epoch is one. [`Epoch::END`], where a dataflow has ended, always is.
#[derive(Default)]
pub(crate) struct Checkpoints {
    /// `None` where every epoch is a checkpoint.
    chosen: Option<RefCell<BTreeSet<Epoch>>>,
    /// The greatest epoch on which anything at this worker has acted.
    begun: Cell<Option<Epoch>>,
    /// Whether a checkpoint is being chosen, so that no later epoch may begin.
    choosing: Cell<bool>,
    on_decision: RefCell<Vec<Activator>>,
}

impl Checkpoints {
    /// Every epoch is a checkpoint.
    pub(crate) fn every_epoch() -> Self {
        Checkpoints::default()
    }

    /// Whether a protected operator may act on records of `epoch` now; if so, notes that it does.
    ///
    /// Where it may not, since a checkpoint is being chosen, it waits to be
    /// [woken](Checkpoints::wake_on_decision).
    pub(crate) fn admit(&self, epoch: Epoch) -> bool {
        if self.choosing.get() && Some(epoch) > self.begun.get() {
            return false;
        }
        self.begun.set(self.begun.get().max(Some(epoch)));
        true
    }

    /// The first known checkpoint at or after `epoch`.
    pub(crate) fn at_or_after(&self, epoch: Epoch) -> Option<Epoch> {
        let Some(chosen) = &self.chosen else { return Some(epoch) };
        chosen.borrow().range(epoch..).next().copied().or(Some(Epoch::END))
    }

    /// The last known checkpoint at or before `epoch`: how far that is which is complete through `epoch`.
    pub(crate) fn at_or_before(&self, epoch: Epoch) -> Option<Epoch> {
        if epoch >= Epoch::END {
            return Some(Epoch::END);
        }
        let Some(chosen) = &self.chosen else { return Some(epoch) };
        chosen.borrow().range(..=epoch).next_back().copied()
    }

    /// Wakes an operator whenever a checkpoint was chosen.
    pub(crate) fn wake_on_decision(&self, activator: Activator) {
        if self.chosen.is_some() {
            self.on_decision.borrow_mut().push(activator);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_clock_every_epoch_is_a_checkpoint() {
        let checkpoints = Checkpoints::every_epoch();
        for epoch in [Epoch(9), Epoch(3), Epoch::END] {
            assert!(checkpoints.admit(epoch));
            assert_eq!(checkpoints.at_or_after(epoch), Some(epoch));
            assert_eq!(checkpoints.at_or_before(epoch), Some(epoch));
        }
    }
}
