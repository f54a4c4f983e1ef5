//! The host of a process without a launcher: tells people, writes the report, times the faults.

use std::sync::{Mutex, PoisonError};

use ringfence_operators::ids::NodeId;

use super::node::{Events, NodeEvent};
use super::reporter::Reporter;
use crate::chaos::FaultSchedule;
use crate::config::Config;
use crate::error::Result;
use crate::report::{Event, FailureLedger, FailureReport, Summary, What, now_ms};

/// What the launcher is to its nodes, a host is to the one node of its own process.
pub(crate) struct Host {
    node: NodeId,
    /// How many processes share the input: what this one has read is one part of so many.
    processes: usize,
    events: Events,
    state: Mutex<State>,
}

struct State {
    /// `None` once the run is over.
    reporter: Option<Reporter>,
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
        let reporter = Reporter::new(config, node, FailureLedger::of(node), processes)?;
        let state = State { reporter: Some(reporter), schedule: FaultSchedule::new(own) };
        Ok(Host { node, processes, events, state: Mutex::new(state) })
    }

    /// Takes in what happened, and makes the node fail where that is due.
    pub(crate) fn tell(&self, what: What) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { reporter: Some(reporter), schedule } = &mut *state else { return };
        let alive = |reporter: &Reporter| reporter.summary.members().len().max(1);
        reporter.publish(Event::now(self.node, what), alive(reporter));
        let fraction = reporter.summary.fraction().map(|part| part * self.processes as f64);
        let first_commit_ms = reporter.summary.first_commit_ms();
        for fault in schedule.due(now_ms(), first_commit_ms, fraction) {
            // SUBTLE: the node's own loop tells. If its inbox is full it must not wait for itself;
            // the fault is then lost, and the summary says that it never fired.
            if self.events.try_send(NodeEvent::Fault(fault.kind)).is_ok() {
                let what = What::Fault { kind: fault.kind, target: fault.node, until_ms: None };
                reporter.publish(Event::now(self.node, what), alive(reporter));
            }
        }
    }

    /// Ends the live display and returns what all came to; `result` is how the node ended.
    pub(crate) fn finish(&self, result: &Result<()>) -> (Summary, Vec<FailureReport>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = state.schedule.waiting().to_vec();
        let Some(mut reporter) = state.reporter.take() else { return Default::default() };
        reporter.summary.set_faults_unfired(&waiting);
        let error = result.as_ref().err().map(ToString::to_string);
        reporter.finish(error.as_deref())
    }
}
