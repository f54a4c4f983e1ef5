//! The desk: what is done with each event, both in a launcher and in a process without one.
//!
//! Each event is folded into the summary and the ledger of failures, written to the report and put into
//! words, in this order. None of this can end a job: a report that cannot be written ends with one line.

use std::fmt;
use std::sync::Arc;

use super::{Console, Event, FailureLedger, FailureReport, Origin, Shown, Summary, What};
use crate::chaos::Fault;
use crate::error::{Error, Result};

/// The destinations of what a desk writes and shows.
pub(crate) trait Outlets {
    /// Appends `event` to the report, if there is one. An error says that the report ends here; it is
    /// returned once.
    fn write(&mut self, event: &Event) -> Result<()>;

    /// Shows something soon.
    fn show(&mut self, shown: Shown);

    /// Waits a while until everything is written. An error says what is missing.
    fn finish_report(&mut self) -> Result<()>;
}

/// The callback for failure reports.
#[derive(Clone)]
pub(crate) struct OnFailure(pub(crate) Arc<dyn Fn(&FailureReport) + Send + Sync>);

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFailure(..)")
    }
}

/// Reports what happens, to programs and to people.
pub(crate) struct Desk<O> {
    /// The origin of this process's own events.
    origin: Origin,
    summary: Summary,
    ledger: FailureLedger,
    console: Console,
    on_failure: Option<OnFailure>,
    outlets: O,
}

impl<O: Outlets> Desk<O> {
    /// A desk of a process that reports as `origin`: for all nodes if that is the launcher, and otherwise for
    /// this one node.
    pub(crate) fn new(
        origin: impl Into<Origin>,
        console: Console,
        on_failure: Option<OnFailure>,
        outlets: O,
    ) -> Self {
        let origin = origin.into();
        let ledger = origin.node().map_or_else(FailureLedger::new, FailureLedger::of);
        Desk { origin, summary: Summary::new(), ledger, console, on_failure, outlets }
    }

    /// The summary of the run so far.
    pub(crate) fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The destinations of what is written and shown.
    pub(crate) fn outlets(&self) -> &O {
        &self.outlets
    }

    /// Folds, writes and shows `event`; `alive` is the number of nodes alive.
    pub(crate) fn publish(&mut self, mut event: Event, alive: usize) {
        self.summary.complete(&mut event);
        self.summary.fold(&event);
        self.write(&event, alive);
        let reports = self.ledger.fold(&event);
        self.report(reports, alive);
    }

    /// Completes what is open at the end of a run: `error` is why it failed, if it did, and `unfired`
    /// are the faults that never happened.
    pub(crate) fn finish(
        mut self,
        error: Option<&Error>,
        unfired: &[Fault],
    ) -> (Summary, Vec<FailureReport>, O) {
        self.summary.set_faults_unfired(unfired);
        let error = error.map(ToString::to_string);
        let reports = self.ledger.finish(error.as_deref());
        self.report(reports, 0);
        if let Err(error) = self.outlets.finish_report() {
            self.tell_lost(&error.to_string());
        }
        (self.summary, self.ledger.reports().to_vec(), self.outlets)
    }

    /// Reports failures whose reports are complete.
    fn report(&mut self, reports: Vec<FailureReport>, alive: usize) {
        for report in reports {
            if let Some(OnFailure(callback)) = &self.on_failure {
                callback(&report);
            }
            let what = What::FailureReport(Box::new(report));
            self.write(&Event::now(self.origin, what), alive);
        }
    }

    fn write(&mut self, event: &Event, alive: usize) {
        if let Err(error) = self.outlets.write(event) {
            self.tell_lost(&format!("{error:?}"));
        }
        self.show(event, alive);
    }

    /// The job is more important than its report.
    fn tell_lost(&mut self, why: &str) {
        let text = format!("the report is not complete, and the job goes on: {why}");
        self.show(&Event::now(self.origin, What::Message { text }), 0);
    }

    fn show(&mut self, event: &Event, alive: usize) {
        for shown in self.console.tell(event, &self.summary, alive) {
            self.outlets.show(shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ringfence_operators::ids::{NodeId, ViewNumber};

    use super::*;
    use crate::report::{Cause, Component, FailurePlace, Observation};

    /// A report that takes so many lines, and a screen.
    struct Paper {
        lines_left: usize,
        written: Vec<Event>,
        shown: Vec<String>,
    }

    impl Outlets for Paper {
        fn write(&mut self, event: &Event) -> Result<()> {
            match self.lines_left.checked_sub(1) {
                Some(left) => {
                    self.lines_left = left;
                    self.written.push(event.clone());
                    Ok(())
                }
                None if self.written.is_empty() => Ok(()),
                None => {
                    self.written.clear();
                    Err(Error::input("the disk is full"))
                }
            }
        }

        fn show(&mut self, shown: Shown) {
            if let Shown::Line(line) = shown {
                self.shown.push(line);
            }
        }

        fn finish_report(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn desk(origin: impl Into<Origin>, lines_left: usize) -> (Desk<Paper>, Arc<Mutex<Vec<u64>>>) {
        let called = Arc::new(Mutex::new(Vec::new()));
        let numbers = Arc::clone(&called);
        let on_failure = OnFailure(Arc::new(move |report| numbers.lock().unwrap().push(report.id)));
        let origin = origin.into();
        let console = Console::new(false, 1, origin.node());
        let paper = Paper { lines_left, written: Vec::new(), shown: Vec::new() };
        (Desk::new(origin, console, Some(on_failure), paper), called)
    }

    fn panicked() -> What {
        What::Observed(Box::new(Observation {
            view: ViewNumber(1),
            component: Component::Worker,
            place: FailurePlace::node(NodeId(0)),
            cause: Cause::Panic,
            evidence: Vec::new(),
        }))
    }

    /// In a launcher such a report once ended the run and killed the nodes; in one process the run
    /// went on.
    #[test]
    fn a_report_that_cannot_be_written_ends_with_one_line_everywhere() {
        for origin in [Origin::LAUNCHER, NodeId(0).into()] {
            let (mut desk, called) = desk(origin, 1);
            desk.publish(Event::now(NodeId(0), panicked()), 1);
            for text in ["two", "three"] {
                let what = What::Message { text: text.to_owned() };
                desk.publish(Event::now(origin, what), 1);
            }
            let (_, failures, paper) = desk.finish(None, &[]);
            let lost = paper.shown.iter().filter(|line| line.contains("the disk is full")).count();
            assert_eq!(lost, 1, "{:?}", paper.shown);
            let told = |text: &str| paper.shown.iter().any(|line| line.ends_with(text));
            assert!(told("two") && told("three"), "{:?}", paper.shown);
            assert_eq!((failures.len(), called.lock().unwrap().as_slice()), (1, &[1][..]));
        }
    }

    #[test]
    fn a_failure_is_called_back_and_written_once_its_report_is_complete() {
        let (mut desk, called) = desk(Origin::LAUNCHER, usize::MAX);
        desk.publish(Event::now(NodeId(0), panicked()), 1);
        assert!(called.lock().unwrap().is_empty(), "the run is not over");
        let (summary, failures, paper) = desk.finish(Some(&Error::job("it is over")), &[]);
        assert_eq!(called.lock().unwrap().as_slice(), [1]);
        let [observed, report] = &paper.written[..] else { panic!("{:?}", paper.written) };
        assert_eq!((observed.node, report.node), (NodeId(0).into(), Origin::LAUNCHER));
        assert_eq!(report.what, What::FailureReport(Box::new(failures[0].clone())));
        assert!(summary.faults_unfired().is_empty());
    }
}
