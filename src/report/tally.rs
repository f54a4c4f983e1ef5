//! A tally: reports the first few things of a kind, counts the rest, and then reports how many there were.

use std::collections::BTreeMap;

/// This many lines of one kind are reported within [`TALLY_INTERVAL_MS`]; the rest is counted.
pub(super) const TOLD_OF_A_KIND_MAX: u32 = 5;

/// A minute: after that the count is reported, and then lines of the kind again.
pub(super) const TALLY_INTERVAL_MS: u64 = 60_000;

/// What was reported and counted of each kind. It has no clock: `now_ms` counts from any fixed moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    kinds: BTreeMap<&'static str, Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since_ms: u64,
    told: u32,
    more: u64,
}

impl Tally {
    /// Counts one thing of `kind`, and returns whether to report it.
    pub(crate) fn count(&mut self, kind: &'static str, now_ms: u64) -> bool {
        let count = self.kinds.entry(kind).or_insert(Count { since_ms: now_ms, told: 0, more: 0 });
        // What was counted has to be reported first, by `due`.
        if count.more == 0 && now_ms.saturating_sub(count.since_ms) >= TALLY_INTERVAL_MS {
            (count.since_ms, count.told) = (now_ms, 0);
        }
        let is_told = count.told < TOLD_OF_A_KIND_MAX;
        if is_told {
            count.told += 1
        } else {
            count.more += 1
        }
        is_told
    }

    /// The kinds whose minute is over, with how many were counted and not reported.
    pub(crate) fn due(&mut self, now_ms: u64) -> Vec<(&'static str, u64)> {
        let is_over = |count: &Count| now_ms.saturating_sub(count.since_ms) >= TALLY_INTERVAL_MS;
        let mut due = Vec::new();
        for (kind, count) in self.kinds.iter_mut().filter(|(_, count)| is_over(count)) {
            if count.more > 0 {
                due.push((*kind, count.more));
                *count = Count { since_ms: now_ms, told: 0, more: 0 };
            }
        }
        due
    }

    /// What was counted and not reported, at the end.
    pub(crate) fn rest(&mut self) -> Vec<(&'static str, u64)> {
        let kinds = std::mem::take(&mut self.kinds).into_iter();
        kinds.filter(|(_, count)| count.more > 0).map(|(kind, count)| (kind, count.more)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let mut tally = Tally::default();
        let told = (0..10_000).filter(|n| tally.count("garbage", n / 1_000)).count();
        assert_eq!(told, TOLD_OF_A_KIND_MAX as usize);
        assert!(tally.count("silence", 20));
        assert_eq!(tally.due(TALLY_INTERVAL_MS - 1), []);
        let more = 10_000 - u64::from(TOLD_OF_A_KIND_MAX);
        assert_eq!(tally.due(TALLY_INTERVAL_MS), [("garbage", more)]);
        assert!(tally.count("garbage", TALLY_INTERVAL_MS));
        assert_eq!(tally.rest(), []);
    }

    #[test]
    fn a_kind_that_was_quiet_for_a_minute_is_told_again() {
        let mut tally = Tally::default();
        for _ in 0..TOLD_OF_A_KIND_MAX {
            assert!(tally.count("garbage", 0));
        }
        assert!(tally.count("garbage", TALLY_INTERVAL_MS));
        assert!((0..9).any(|_| !tally.count("garbage", TALLY_INTERVAL_MS)));
        assert_eq!(tally.rest().len(), 1);
    }
}
