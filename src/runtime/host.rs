//! The host of a process without a launcher: it shows what happens, writes the report, and injects faults on
//! time.

use std::sync::{Mutex, PoisonError};

use ringfence_operators::ids::NodeId;

use super::node::{Events, NodeEvent};
use super::outlets::ProcessDesk;
use crate::chaos::FaultSchedule;
use crate::config::Config;
use crate::error::Result;
use crate::report::{Event, FailureReport, Summary, What, now_ms};

/// What the launcher is to its nodes, a host is to the one node of its own process.
pub(crate) struct Host {
    node: NodeId,
    /// The number of processes that share the input: this process reads one part of them.
    processes: usize,
    events: Events,
    state: Mutex<State>,
}

struct State {
    /// `None` once the run is over.
    desk: Option<ProcessDesk>,
    schedule: FaultSchedule,
}

impl Host {
    pub(crate) fn new(
        config: &Config,
        node: NodeId,
        processes: usize,
        events: Events,
    ) -> Result<Self> {
        let own = config.faults.iter().copied().filter(|fault| fault.node == node);
        let desk = Some(ProcessDesk::start(config, node, processes)?);
        let state = State { desk, schedule: FaultSchedule::new(own) };
        Ok(Host { node, processes, events, state: Mutex::new(state) })
    }

    /// Takes in what happened, and makes the node fail if a fault is due.
    pub(crate) fn tell(&self, what: What) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { desk: Some(desk), schedule } = &mut *state else { return };
        let alive = |desk: &ProcessDesk| desk.summary().members().len().max(1);
        desk.publish(Event::now(self.node, what), alive(desk));
        let fraction = desk.summary().fraction().map(|part| part * self.processes as f64);
        let first_commit_ms = desk.summary().first_commit_ms();
        for fault in schedule.due(now_ms(), first_commit_ms, fraction) {
            // SUBTLE: the node's own loop calls this. If its inbox is full, it must not wait for itself; the
            // fault is then lost, and the summary says that it never fired.
            if self.events.try_send(NodeEvent::Fault(fault.kind)).is_ok() {
                let what = What::Fault { kind: fault.kind, target: fault.node, until_ms: None };
                desk.publish(Event::now(self.node, what), alive(desk));
            }
        }
    }

    /// Ends the live display and returns the totals; `result` is how the node ended.
    pub(crate) fn finish(&self, result: &Result<()>) -> (Summary, Vec<FailureReport>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { desk, schedule } = &mut *state;
        let Some(desk) = desk.take() else { return Default::default() };
        desk.end(result, schedule.waiting())
    }
}
