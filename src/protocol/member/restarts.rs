//! The restart budget: how often panics of workers may end a view before they end the job.
//!
//! A record that cannot be processed makes its worker panic again after each replay, and without a bound
//! the cluster would go round for ever. Panics anywhere in the cluster count, each view once: every
//! member hears of them in `Stop`, so all come to the same end, and the first says so to the rest.

use std::collections::{BTreeSet, VecDeque};

use ringfence_operators::ids::{NodeId, OperatorName, PartitionId, ViewNumber};

use super::super::message::{ProtocolError, WorkerPanic};
use super::{Machine, Phase};

/// The panics that this member knows of.
#[derive(Clone, Debug, Default)]
pub(super) struct Restarts {
    /// When each view that a panic ended did so; those of the last while, in order.
    ended: VecDeque<(u64, ViewNumber)>,
    /// Where records made a worker panic.
    watched: BTreeSet<(OperatorName, PartitionId)>,
}

impl Restarts {
    /// Notes a panic; returns how many views were ended by panics within `window_ms`.
    fn note(&mut self, now_ms: u64, window_ms: u64, view: ViewNumber, panic: &WorkerPanic) -> u32 {
        if let (Some(operator), Some(partition)) = (&panic.spot.operator, panic.spot.partition) {
            self.watched.insert((operator.clone(), partition));
        }
        if self.ended.back().is_none_or(|(_, ended)| *ended < view) {
            self.ended.push_back((now_ms, view));
        }
        while self.ended.front().is_some_and(|(at_ms, _)| at_ms + window_ms < now_ms) {
            self.ended.pop_front();
        }
        self.ended.len() as u32
    }
}

impl Machine {
    /// Returns the partitions of operators in which a worker is known to have panicked.
    pub fn watched(&self) -> &BTreeSet<(OperatorName, PartitionId)> {
        &self.restarts.watched
    }

    #[cfg(test)]
    pub(super) fn set_restarts(&mut self, restarts_max: u32, window_ms: u64) {
        self.config.limits.restarts_max = restarts_max;
        self.config.limits.restarts_window_ms = window_ms;
    }

    /// Takes note of the panic that ends the current view, and ends the job if there were too many.
    pub(super) fn count_panic(&mut self, node: NodeId, view: ViewNumber, panic: WorkerPanic) {
        let is_over = self.is_over() || matches!(self.phase, Phase::Finishing { .. });
        if is_over || view != self.number() || self.done_seen_ms.is_some() {
            return;
        }
        let limits = &self.config.limits;
        let (restarts_max, window_ms) = (limits.restarts_max, limits.restarts_window_ms);
        let count = self.restarts.note(self.now_ms, window_ms, view, &panic);
        if count > restarts_max {
            self.fail_all(ProtocolError::RestartBudget {
                node,
                restarts_max,
                window_ms,
                panic: Box::new(panic),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_counts_once_and_old_ones_not_at_all() {
        let mut restarts = Restarts::default();
        let panic = WorkerPanic::default();
        let mut note = |now_ms, view| restarts.note(now_ms, 100, ViewNumber(view), &panic);
        assert_eq!([note(0, 1), note(5, 1), note(10, 2), note(100, 3)], [1, 1, 2, 3]);
        assert_eq!(note(105, 4), 3, "the first is more than 100 ms ago");
        assert_eq!(note(1000, 5), 1);
    }
}
