//! Pace: how much a source reads at once.
//!
//! Everything that is read in one step of the worker is in memory at the same time, and so is what the job
//! makes of it before any of it is stored: a thousand numbers may become a thousand documents. The number of
//! bytes is unknown, but making and moving them takes time. So a source reads as many items at once as take a
//! few milliseconds. The data in flight is thereby bounded by what a worker can make in a few epochs,
//! whatever its records are.
//!
//! Most of a step may be unrelated to what was read: large state is sealed, other processes run. So a source
//! reads half as much every second time, and only the difference between the shortest steps of the two kinds
//! counts.

use std::time::Duration;

/// How many items are read at once at the beginning, at most.
const ITEMS_FIRST: usize = 16;

/// At most this many items are ever read at once.
const ITEMS_MAX: usize = 1024;

/// If half of the items take less time, more are read at once.
const HALF_SHORT: Duration = Duration::from_millis(3);

/// If half of the items take more time, fewer are read at once.
const HALF_LONG: Duration = Duration::from_millis(10);

/// How many steps of each kind are measured before the number of items changes.
const STEPS: u32 = 2;

/// How much a source reads at once.
#[derive(Debug)]
pub(super) struct Pace {
    items: usize,
    /// When the present step began, if items were read in it.
    begun: Option<Duration>,
    /// Whether the step read all or half of the items.
    is_full: bool,
    full: Steps,
    half: Steps,
}

/// Steps of one kind.
#[derive(Clone, Copy, Debug)]
struct Steps {
    count: u32,
    shortest: Duration,
}

impl Steps {
    const NONE: Steps = Steps { count: 0, shortest: Duration::MAX };

    fn add(&mut self, step: Duration) {
        self.count += 1;
        self.shortest = self.shortest.min(step);
    }
}

impl Pace {
    pub(super) fn new() -> Self {
        Pace {
            items: ITEMS_FIRST,
            begun: None,
            is_full: false,
            full: Steps::NONE,
            half: Steps::NONE,
        }
    }

    /// Begins a step in which items are read; returns the maximum number of items.
    pub(super) fn begin(&mut self, now: Duration) -> usize {
        self.begun = Some(now);
        self.is_full = !self.is_full;
        if self.is_full { self.items } else { (self.items / 2).max(1) }
    }

    /// Ends the previous step, if items were read in it.
    pub(super) fn end(&mut self, now: Duration) {
        let Some(begun) = self.begun.take() else { return };
        let kind = if self.is_full { &mut self.full } else { &mut self.half };
        kind.add(now.saturating_sub(begun));
        if self.full.count < STEPS || self.half.count < STEPS {
            return;
        }
        let half = self.full.shortest.saturating_sub(self.half.shortest);
        (self.full, self.half) = (Steps::NONE, Steps::NONE);
        if half < HALF_SHORT {
            self.items = (self.items * 2).min(ITEMS_MAX);
        } else if half > HALF_LONG {
            let share = half.as_nanos().div_ceil((HALF_LONG / 2).as_nanos());
            self.items = (self.items / usize::try_from(share).unwrap_or(usize::MAX)).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Lets a source take so many steps, each of a duration by its number and the items in it; returns the
    /// pace at the end, and all items.
    fn after(pace: &mut Pace, steps: u32, step: impl Fn(u32, u32) -> Duration) -> usize {
        let (mut now, mut total) = (Duration::ZERO, 0);
        for number in 0..steps {
            pace.end(now);
            let items = pace.begin(now);
            total += items;
            now += step(number, items as u32);
        }
        pace.end(now);
        total
    }

    #[test]
    fn small_items_are_soon_read_as_many_as_may_be() {
        let mut pace = Pace::new();
        let total = after(&mut pace, 40, |_, items| MS / 2 + Duration::from_micros(2) * items);
        assert_eq!(pace.items, ITEMS_MAX);
        assert!(total > 8 * ITEMS_MAX, "{total}");
    }

    #[test]
    fn what_takes_long_is_read_bit_by_bit() {
        for item in [1, 2, 5, 20, 200] {
            let mut pace = Pace::new();
            after(&mut pace, 60, |_, items| item * MS * items);
            let half = item * MS * (pace.items as u32 / 2);
            assert!(half <= HALF_LONG || pace.items <= 2, "{item} ms: {} items", pace.items);
            assert!(half * 4 >= HALF_LONG || item * 2 > 10, "{item} ms: {} items", pace.items);
        }
    }

    #[test]
    fn items_that_become_large_are_read_one_by_one_within_a_few_steps() {
        let mut pace = Pace { items: ITEMS_MAX, ..Pace::new() };
        after(&mut pace, 2 * STEPS, |_, items| 4 * MS * items);
        assert!(pace.items < 5, "{} items", pace.items);
    }

    #[test]
    fn what_else_takes_long_changes_nothing() {
        // State of whatever size is sealed in each step.
        let mut pace = Pace::new();
        after(&mut pace, 40, |_, items| 800 * MS + Duration::from_micros(2) * items);
        assert_eq!(pace.items, ITEMS_MAX);
        // Every third step is interrupted.
        after(&mut pace, 400, |number, _| if number % 3 == 0 { 50 * MS } else { MS });
        assert_eq!(pace.items, ITEMS_MAX);
    }

    #[test]
    fn a_step_without_items_is_none() {
        let mut pace = Pace::new();
        let before = format!("{pace:?}");
        (0..10).for_each(|second| pace.end(Duration::from_secs(second)));
        assert_eq!(format!("{pace:?}"), before);
    }
}
