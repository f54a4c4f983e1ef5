//! The host of a process without a launcher: tells people, writes the report, times the faults.

use std::sync::{Mutex, PoisonError};

use ringfence_operators::ids::NodeId;

use super::node::{Events, NodeEvent};
use crate::chaos::FaultSchedule;
use crate::config::Config;
use crate::error::Result;
use crate::report::{
    Console, Event, FailureLedger, FailureReport, ReportFile, Summary, What, now_ms,
};

/// What the launcher is to its nodes, a host is to the one node of its own process.
pub(crate) struct Host {
    node: NodeId,
    /// How many processes share the input: what this one has read is one part of so many.
    processes: usize,
    events: Events,
    state: Mutex<State>,
}

struct State {
    config: Config,
    summary: Summary,
    ledger: FailureLedger,
    console: Console,
    report: Option<ReportFile>,
    schedule: FaultSchedule,
}

impl Host {
    pub(crate) fn new(
        config: &Config,
        node: NodeId,
        processes: usize,
        events: Events,
    ) -> Result<Self> {
        let own = config.faults().iter().copied().filter(|fault| fault.node == node);
        let state = State {
            config: config.clone(),
            summary: Summary::new(),
            ledger: FailureLedger::of(node),
            console: Console::new(),
            report: config.report_path().map(ReportFile::open).transpose()?,
            schedule: FaultSchedule::new(own),
        };
        Ok(Host { node, processes, events, state: Mutex::new(state) })
    }

    /// Takes in what happened, and makes the node fail where that is due.
    pub(crate) fn tell(&self, what: What) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.publish(Event::now(self.node, what));
        let fraction = state.summary.fraction().map(|part| part * self.processes as f64);
        let first_commit_ms = state.summary.first_commit_ms();
        for fault in state.schedule.due(now_ms(), first_commit_ms, fraction) {
            // SUBTLE: the node's own loop tells. If its inbox is full it must not wait for itself;
            // the fault is then lost, and the summary says that it never fired.
            if self.events.try_send(NodeEvent::Fault(fault.kind)).is_ok() {
                let what = What::Fault { kind: fault.kind, target: fault.node, until_ms: None };
                state.publish(Event::now(self.node, what));
            }
        }
    }

    /// Ends the live display and returns what all came to; `result` is how the node ended.
    pub(crate) fn finish(&self, result: &Result<()>) -> (Summary, Vec<FailureReport>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = state.schedule.waiting().to_vec();
        state.summary.set_faults_unfired(&waiting);
        let error = result.as_ref().err().map(ToString::to_string);
        let reports = state.ledger.finish(error.as_deref());
        state.report(self.node, reports);
        state.console.finish();
        (state.summary.clone(), state.ledger.reports().to_vec())
    }
}

impl State {
    fn publish(&mut self, mut event: Event) {
        self.summary.complete(&mut event);
        self.summary.fold(&event);
        self.write(&event);
        let reports = self.ledger.fold(&event);
        if let Some(node) = event.node.node() {
            self.report(node, reports);
        }
    }

    fn report(&mut self, node: NodeId, reports: Vec<FailureReport>) {
        for report in reports {
            self.config.tell_failure(&report);
            self.write(&Event::now(node, What::FailureReport(Box::new(report))));
        }
    }

    fn write(&mut self, event: &Event) {
        if let Some(report) = &mut self.report
            && let Err(error) = report.append(event)
        {
            // The job is worth more than its report.
            self.report = None;
            let text = format!("the report ends here: {error:?}");
            let lost = Event::now(event.node, What::Message { text });
            self.console.tell(&lost, &self.summary, 1);
        }
        let alive = self.summary.members().len().max(1);
        self.console.tell(event, &self.summary, alive);
    }
}
