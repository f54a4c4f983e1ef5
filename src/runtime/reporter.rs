//! The reporter: what becomes of everything that happens, in a launcher as in a process without one.
//!
//! Each event is folded into the summary and the ledger of failures, written to the report file and
//! put into words. Nothing of this ends a job: a report that cannot be written ends with one line.

use super::outlets::{Display, Recorder};
use crate::config::Config;
use crate::error::Result;
use crate::report::{
    Console, Event, FailureLedger, FailureReport, Origin, ReportFile, Summary, What,
};

/// Tells what happens, to programs and to people.
pub(super) struct Reporter {
    config: Config,
    /// Who states what this process itself has to say.
    origin: Origin,
    pub(super) summary: Summary,
    ledger: FailureLedger,
    console: Console,
    display: Display,
    recorder: Option<Recorder>,
}

impl Reporter {
    /// The reporter of one of `parts` processes that tell each its own part.
    pub(super) fn new(
        config: &Config,
        origin: impl Into<Origin>,
        ledger: FailureLedger,
        parts: usize,
    ) -> Result<Self> {
        let file = config.report_path().map(ReportFile::open).transpose()?;
        let display = Display::start()?;
        Ok(Reporter {
            config: config.clone(),
            origin: origin.into(),
            summary: Summary::new(),
            ledger,
            console: Console::new(display.has_bar(), parts),
            display,
            recorder: file.map(Recorder::start).transpose()?,
        })
    }

    /// Where nodes' own lines are shown.
    pub(super) fn display(&self) -> &Display {
        &self.display
    }

    /// Folds, writes and tells `event`; `alive` is how many nodes are.
    pub(super) fn publish(&mut self, mut event: Event, alive: usize) {
        self.summary.complete(&mut event);
        self.summary.fold(&event);
        self.write(&event, alive);
        let reports = self.ledger.fold(&event);
        self.report(reports, alive);
    }

    /// Completes what is open at the end of a run; `error` is why it failed, if it did.
    pub(super) fn finish(mut self, error: Option<&str>) -> (Summary, Vec<FailureReport>) {
        let reports = self.ledger.finish(error);
        self.report(reports, 0);
        if let Some(mut recorder) = self.recorder.take()
            && let Err(error) = recorder.finish()
        {
            self.tell_lost(&error.to_string());
        }
        self.display.finish();
        (self.summary, self.ledger.reports().to_vec())
    }

    /// Tells everybody of failures whose reports are complete.
    fn report(&mut self, reports: Vec<FailureReport>, alive: usize) {
        for report in reports {
            self.config.tell_failure(&report);
            let what = What::FailureReport(Box::new(report));
            self.write(&Event::now(self.origin, what), alive);
        }
    }

    fn write(&mut self, event: &Event, alive: usize) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.append(event)
        {
            self.recorder = None;
            self.tell_lost(&format!("{error:?}"));
        }
        for shown in self.console.tell(event, &self.summary, alive) {
            self.display.show(shown);
        }
    }

    /// The job is worth more than its report.
    fn tell_lost(&mut self, why: &str) {
        let text = format!("the report is not complete, and the job goes on: {why}");
        let event = Event::now(self.origin, What::Message { text });
        for shown in self.console.tell(&event, &self.summary, 0) {
            self.display.show(shown);
        }
    }
}
