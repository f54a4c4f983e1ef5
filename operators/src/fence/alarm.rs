//! An alarm: wakes one operator at a given time, with only one pending alarm.

use std::time::Duration;

use timely::scheduling::Activator;

use crate::fence::Fence;

/// Wakes an operator later.
///
/// An operator that is also woken for other reasons, and sets an alarm each time, would accumulate alarms;
/// here a pending alarm that is due early enough serves for all.
pub(crate) struct Alarm {
    activator: Activator,
    /// When, by the generation's clock, the last alarm is due.
    armed: Option<Duration>,
}

impl Alarm {
    pub(crate) fn new(activator: Activator) -> Self {
        Alarm { activator, armed: None }
    }

    /// Wakes the operator after `delay` or earlier, so that it checks the generation's clock again.
    pub(crate) fn wake_after(&mut self, fence: &Fence, delay: Duration) {
        let clock = &fence.generation().clock;
        let now = clock.elapsed();
        let due = now + delay;
        // A simulated clock has no alarms: there the operator checks again at each step.
        if clock.is_virtual() || self.armed.is_none_or(|at| at <= now || at > due) {
            self.armed = Some(due);
            fence.wake_after(&self.activator, delay);
        }
    }
}
