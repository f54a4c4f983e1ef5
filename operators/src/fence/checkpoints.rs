//! Checkpoints: the epochs at which state is sealed, as far as one worker knows them.
//!
//! INVARIANT: no operator on any worker acts on an epoch beyond a checkpoint without knowing of the
//! checkpoint. So an operator that acts on a later epoch has sealed the checkpoint before.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use timely::scheduling::Activator;

use crate::ids::Epoch;
use crate::planted::{self, Planted};

/// When a worker may answer a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// At once.
    Now,
    /// After all operators that were woken have had their turn.
    AfterOthers,
    /// After the decision on the last question is known, which wakes the operators that wait for it.
    AfterDecision,
}

/// One worker's knowledge of which epochs are checkpoints.
///
/// Without a clock for them every epoch is one. [`Epoch::END`], where a dataflow has ended, always is.
pub(crate) struct Checkpoints {
    /// The known checkpoints of this view, and the one that it resumed from; `None` if every epoch is a
    /// checkpoint.
    known: Option<RefCell<BTreeSet<Epoch>>>,
    /// The greatest epoch on which anything at this worker has acted; at least the view's first one.
    begun: Cell<Epoch>,
    /// Whether a question from this worker is on its way to all workers.
    asking: Cell<bool>,
    /// How many questions this worker has answered, and for how many it has learned the decision. Questions
    /// and decisions arrive on different paths, so the next question may arrive before the decision on the
    /// last one.
    answered: Cell<u64>,
    learnt: Cell<u64>,
    /// Whether the operators that wait for a decision have had no turn since the last one.
    unused: Cell<bool>,
    on_decision: RefCell<Vec<Activator>>,
}

impl Checkpoints {
    /// The checkpoints of a view that resumes from `resume`: chosen by a clock, or every epoch.
    pub(crate) fn resume(resume: Option<Epoch>, clocked: bool) -> Self {
        Checkpoints {
            known: clocked.then(|| RefCell::new(resume.into_iter().collect())),
            begun: Cell::new(resume.map_or(Epoch(0), Epoch::next)),
            asking: Cell::new(false),
            answered: Cell::new(0),
            learnt: Cell::new(0),
            unused: Cell::new(false),
            on_decision: RefCell::default(),
        }
    }

    /// Whether a protected operator may act on records of `epoch` now; if so, notes that it does.
    ///
    /// If it may not, because a checkpoint is being chosen, it waits to be
    /// [woken](Checkpoints::wake_on_decision).
    pub(crate) fn admit(&self, epoch: Epoch) -> bool {
        let Some(known) = &self.known else { return true };
        if epoch <= self.begun.get() || known.borrow().last() >= Some(&epoch) {
            return true;
        }
        if planted::is(Planted::BeginWhileChoosing) {
            return true;
        }
        if self.answered > self.learnt {
            return false;
        }
        self.begun.set(epoch);
        true
    }

    /// The first known checkpoint at or after `epoch`.
    pub(crate) fn at_or_after(&self, epoch: Epoch) -> Option<Epoch> {
        let Some(known) = &self.known else { return Some(epoch) };
        known.borrow().range(epoch..).next().copied().or(Some(Epoch::END))
    }

    /// The last known checkpoint at or before `epoch`, up to which everything is complete if it is complete
    /// through `epoch`.
    pub(crate) fn at_or_before(&self, epoch: Epoch) -> Option<Epoch> {
        if epoch >= Epoch::END {
            return Some(Epoch::END);
        }
        let Some(known) = &self.known else { return Some(epoch) };
        known.borrow().range(..=epoch).next_back().copied()
    }

    /// The last epoch that may begin while `count` checkpoints before it, after `stored`, are not stored;
    /// `None` if there are fewer.
    pub(crate) fn limit(&self, stored: Option<Epoch>, count: u64) -> Option<Epoch> {
        let first = stored.map_or(Epoch(0), |stored| Epoch(stored.0.saturating_add(1)));
        let Some(known) = &self.known else { return Some(Epoch(first.0.saturating_add(count))) };
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        known.borrow().range(first..).nth(count).copied()
    }

    /// Forgets all checkpoints before the last one at or before `recorded`, which all operators have sealed.
    pub(crate) fn forget_before(&self, recorded: Epoch) {
        let Some(known) = &self.known else { return };
        let mut known = known.borrow_mut();
        if let Some(&last) = known.range(..=recorded).next_back() {
            *known = known.split_off(&last);
        }
    }

    /// Wakes an operator whenever a checkpoint was chosen.
    pub(crate) fn wake_on_decision(&self, activator: Activator) {
        if self.known.is_some() {
            self.on_decision.borrow_mut().push(activator);
        }
    }

    /// Notes that this worker asks all workers to choose a checkpoint.
    pub(crate) fn ask(&self) {
        self.asking.set(true);
    }

    /// Whether this worker's question is not decided yet.
    pub(crate) fn is_asking(&self) -> bool {
        self.asking.get()
    }

    /// Whether this worker may answer a question now, or what must happen first.
    ///
    /// The decision on one question and the next question may arrive together every time. If each question
    /// were answered at once, no operator could ever begin an epoch in between. So the operators that wait
    /// for a decision have their turn first.
    pub(crate) fn readiness(&self) -> Readiness {
        if self.answered > self.learnt {
            Readiness::AfterDecision
        } else if self.unused.replace(false) {
            Readiness::AfterOthers
        } else {
            Readiness::Now
        }
    }

    /// The greatest epoch that has begun here; no greater one begins until the decision.
    pub(crate) fn answer(&self) -> Epoch {
        self.answered.set(self.answered.get() + 1);
        let known = self.known.as_ref().and_then(|known| known.borrow().last().copied());
        self.begun.get().max(known.unwrap_or_default())
    }

    /// Notes that `checkpoint` is a checkpoint, and wakes the operators that wait for that.
    pub(crate) fn learn(&self, checkpoint: Epoch) {
        let Some(known) = &self.known else { return };
        known.borrow_mut().insert(checkpoint);
        self.learnt.set(self.learnt.get() + 1);
        self.asking.set(false);
        self.unused.set(true);
        for activator in self.on_decision.borrow().iter() {
            activator.activate();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_clock_every_epoch_is_a_checkpoint() {
        let checkpoints = Checkpoints::resume(Some(Epoch(4)), false);
        for epoch in [Epoch(9), Epoch(3), Epoch::END] {
            assert!(checkpoints.admit(epoch));
            assert_eq!(checkpoints.at_or_after(epoch), Some(epoch));
            assert_eq!(checkpoints.at_or_before(epoch), Some(epoch));
        }
        assert_eq!(checkpoints.limit(Some(Epoch(4)), 3), Some(Epoch(8)));
        assert_eq!(checkpoints.limit(None, 1), Some(Epoch(1)));
    }

    #[test]
    fn between_answer_and_decision_nothing_later_begins() {
        let checkpoints = Checkpoints::resume(Some(Epoch(4)), true);
        assert!(checkpoints.admit(Epoch(7)));
        assert_eq!(checkpoints.answer(), Epoch(7));
        assert!(checkpoints.admit(Epoch(6)) && checkpoints.admit(Epoch(7)));
        assert!(!checkpoints.admit(Epoch(8)));
        // Another worker was further.
        checkpoints.learn(Epoch(9));
        assert!(checkpoints.admit(Epoch(8)) && checkpoints.admit(Epoch(10)));
        assert_eq!(checkpoints.answer(), Epoch(10));
        // What is known to be a checkpoint may begin at any time.
        assert!(checkpoints.admit(Epoch(9)));
    }

    #[test]
    fn a_question_may_come_before_the_decision_on_the_last_one() {
        let checkpoints = Checkpoints::resume(None, true);
        assert_eq!((checkpoints.answer(), checkpoints.answer()), (Epoch(0), Epoch(0)));
        checkpoints.learn(Epoch(3));
        assert!(checkpoints.admit(Epoch(3)) && !checkpoints.admit(Epoch(4)));
        checkpoints.learn(Epoch(3));
        assert!(checkpoints.admit(Epoch(4)));
    }

    #[test]
    fn between_two_questions_a_later_epoch_may_begin() {
        let checkpoints = Checkpoints::resume(None, true);
        assert_eq!(checkpoints.readiness(), Readiness::Now);
        let mut begun = checkpoints.answer();
        for epoch in (1..10).map(Epoch) {
            // The next question is here before the decision on the last one is.
            assert_eq!(checkpoints.readiness(), Readiness::AfterDecision);
            assert!(!checkpoints.admit(epoch));
            checkpoints.learn(begun);
            assert_eq!(checkpoints.readiness(), Readiness::AfterOthers);
            assert!(checkpoints.admit(epoch));
            assert_eq!(checkpoints.readiness(), Readiness::Now);
            begun = checkpoints.answer();
            assert_eq!(begun, epoch);
        }
    }

    #[test]
    fn state_counts_as_far_as_the_last_checkpoint() {
        let checkpoints = Checkpoints::resume(Some(Epoch(4)), true);
        for epoch in [9, 14, 19] {
            checkpoints.learn(Epoch(epoch));
        }
        let before = |epoch| checkpoints.at_or_before(Epoch(epoch)).map(|epoch| epoch.0);
        assert_eq!(
            [before(3), before(8), before(13), before(50)],
            [None, Some(4), Some(9), Some(19)]
        );
        assert_eq!(checkpoints.at_or_after(Epoch(10)), Some(Epoch(14)));
        assert_eq!(checkpoints.at_or_after(Epoch(20)), Some(Epoch::END));
        assert_eq!(checkpoints.at_or_before(Epoch::END), Some(Epoch::END));
        // With one that is not stored, the next one may still be reached, and not passed.
        assert_eq!(checkpoints.limit(Some(Epoch(4)), 1), Some(Epoch(14)));
        assert_eq!(checkpoints.limit(Some(Epoch(9)), 2), None);
        checkpoints.forget_before(Epoch(17));
        assert_eq!([before(13), before(17)], [None, Some(14)]);
    }
}
