//! An alarm: wakes one operator at a time that it names, with one alarm at a time.

use std::time::Duration;

use timely::scheduling::Activator;

use crate::fence::Fence;

/// Wakes an operator later.
///
/// An operator that is woken for other reasons too, and sets an alarm each time, would have more and more
/// of them: here one that is due soon enough serves for all.
pub(crate) struct Alarm {
    activator: Activator,
    /// When, by the generation's clock, the last alarm is due.
    armed: Option<Duration>,
}

impl Alarm {
    pub(crate) fn new(activator: Activator) -> Self {
        Alarm { activator, armed: None }
    }

    /// Wakes the operator after `delay`, or sooner: it is to look at the generation's clock again.
    pub(crate) fn wake_after(&mut self, fence: &Fence, delay: Duration) {
        let clock = &fence.generation().clock;
        let now = clock.elapsed();
        let due = now + delay;
        // A simulated clock has no alarms: there it looks again at each step.
        if clock.is_virtual() || self.armed.is_none_or(|at| at <= now || at > due) {
            self.armed = Some(due);
            fence.wake_after(&self.activator, delay);
        }
    }
}
