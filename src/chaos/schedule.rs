//! The faults that are due at a given time. Time and progress are arguments: there is no clock here.

use std::time::Duration;

use super::{Fault, When};

/// The faults of a run that have not happened yet.
///
/// Each fault is handed out once, by the first call at or after its moment.
#[derive(Clone, Debug, Default)]
pub struct FaultSchedule {
    waiting: Vec<Fault>,
}

impl FaultSchedule {
    /// A schedule of `faults`, in any order.
    pub fn new(faults: impl IntoIterator<Item = Fault>) -> Self {
        FaultSchedule { waiting: faults.into_iter().collect() }
    }

    /// Removes and returns what is due at `now_ms`, given when the first commit was and which
    /// fraction of the input, from 0 to 1, has been read; either is `None` while it is unknown.
    pub fn due(
        &mut self,
        now_ms: f64,
        first_commit_ms: Option<f64>,
        fraction: Option<f64>,
    ) -> Vec<Fault> {
        let is_due = |fault: &mut Fault| match fault.when {
            When::AfterFirstCommit(after) => {
                first_commit_ms.is_some_and(|first| now_ms >= first + millis(after))
            }
            When::Percent(percent) => fraction.is_some_and(|f| f * 100.0 >= percent),
        };
        self.waiting.extract_if(.., is_due).collect()
    }

    /// The time from `now_ms` until the next fault that depends on the clock is due.
    pub fn next_due_in(&self, now_ms: f64, first_commit_ms: Option<f64>) -> Option<Duration> {
        let first = first_commit_ms?;
        let wait = |fault: &Fault| match fault.when {
            When::AfterFirstCommit(after) => Some(first + millis(after) - now_ms),
            When::Percent(_) => None,
        };
        let least = self.waiting.iter().filter_map(wait).min_by(f64::total_cmp)?;
        Some(Duration::try_from_secs_f64(least.max(0.0) / 1e3).unwrap_or(Duration::MAX))
    }

    /// The faults that have not happened yet; at the end of a run, those that never did.
    pub fn waiting(&self) -> &[Fault] {
        &self.waiting
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(specs: &[&str]) -> FaultSchedule {
        FaultSchedule::new(specs.iter().map(|s| s.parse::<Fault>().unwrap()))
    }

    fn names(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn time_counts_from_the_first_commit() {
        let mut schedule = schedule(&["kill:1@500ms"]);
        assert!(schedule.due(9_999.0, None, None).is_empty());
        assert!(schedule.due(1_499.0, Some(1_000.0), None).is_empty());
        assert_eq!(names(&schedule.due(1_500.0, Some(1_000.0), None)), ["kill:1@500ms"]);
        assert!(schedule.due(9_999.0, Some(1_000.0), None).is_empty(), "handed out twice");
    }

    #[test]
    fn a_percentage_counts_the_input() {
        let mut schedule = schedule(&["kill:1@40%", "panic:0@100%"]);
        assert!(schedule.due(0.0, None, None).is_empty());
        assert!(schedule.due(0.0, None, Some(0.399)).is_empty());
        assert_eq!(names(&schedule.due(0.0, None, Some(0.4))), ["kill:1@40%"]);
        assert_eq!(names(schedule.waiting()), ["panic:0@100%"]);
        assert_eq!(names(&schedule.due(0.0, None, Some(1.0))), ["panic:0@100%"]);
    }

    #[test]
    fn two_faults_of_one_moment_come_together() {
        let mut schedule = schedule(&["kill:1@1s", "kill:2@1s", "kill:3@2s"]);
        assert_eq!(schedule.due(1_000.0, Some(0.0), None).len(), 2);
        assert_eq!(schedule.next_due_in(1_000.0, Some(0.0)), Some(Duration::from_secs(1)));
        assert_eq!(schedule.next_due_in(1_000.0, None), None);
    }
}
