//! Ledger: what the processes of a run tell of failures, folded by the product's own ledger, and judged.
//!
//! In every second run a launcher watches the processes and tells how each one ended.

use std::collections::{BTreeMap, BTreeSet};

use ringfence::internals::protocol::message::{ProtocolError, Suspicion};
use ringfence::internals::witness::{of_protocol_error, of_suspicion};
use ringfence::report::{
    Cause, Component, Consequence, Event, FailureLedger, FailurePlace, FailureReport, Observation,
    Origin, Phases, What,
};
use ringfence_operators::ids::{NodeId, ViewNumber};

use super::plant::Plant;
use super::process::{End, ProcessId};
use super::world::World;

/// The reports of one run.
#[derive(Default)]
pub(super) struct Reports {
    ledger: FailureLedger,
    has_launcher: bool,
    agreed: BTreeSet<ViewNumber>,
    caught_up: BTreeSet<(NodeId, ViewNumber)>,
}

impl Reports {
    pub(super) fn new(has_launcher: bool) -> Self {
        Reports { has_launcher, ..Reports::default() }
    }
}

impl World {
    fn tell(&mut self, origin: Origin, what: What) {
        let at_ms = self.now_us as f64 / 1e3;
        let again = match &what {
            What::Observed(seen) if self.plant == Some(Plant::FailureToldTwice) => {
                let view = ViewNumber(seen.view.0 + 1);
                Some(What::Observed(Box::new(Observation { view, ..(**seen).clone() })))
            }
            _ => None,
        };
        for what in [Some(what), again].into_iter().flatten() {
            self.reports.ledger.fold(&Event::at(at_ms, origin, what));
        }
    }

    /// A process suspects something of its present view.
    pub(super) fn tell_suspicion(&mut self, id: ProcessId, view: ViewNumber, what: &Suspicion) {
        let Some(process) = self.alive(id) else { return };
        let workers = process.running().map_or_else(Vec::new, |r| r.generation.whereabouts());
        let seen = of_suspicion(id.node, view, what, false, &workers);
        let told = process.failures.suspect(id.node, what, seen);
        told.into_iter().for_each(|what| self.tell(id.node.into(), what));
    }

    /// A process has agreed to a view.
    pub(super) fn tell_view(&mut self, id: ProcessId, number: ViewNumber, moved: usize) {
        let Some(process) = self.alive(id) else { return };
        let told = process.failures.agree();
        told.into_iter().for_each(|what| self.tell(id.node.into(), what));
        self.reports.agreed.insert(number);
        let Some(view) = self.views.get(&number) else { return };
        let what = What::View {
            number,
            members: view.members.iter().map(|member| member.node).collect(),
            resume: view.resume,
            moved_partitions: moved as u32,
            under_replicated: 0,
            takeovers: Vec::new(),
            joined: Vec::new(),
        };
        self.tell(id.node.into(), what);
    }

    /// A process has seen a commit of a view: the first one ends its recovery.
    pub(super) fn tell_commit(&mut self, id: ProcessId, view: ViewNumber) {
        if !self.reports.caught_up.insert((id.node, view)) {
            return;
        }
        let what = What::Recovered {
            view,
            phases_ms: Phases::default(),
            records_replayed: 0,
            records_at_resume: 0,
            keys_rewound: 0,
            partitions_restored: 0,
            epochs_rewound: 0,
            bytes_opened: 0,
        };
        self.tell(id.node.into(), what);
    }

    /// A process has ended.
    pub(super) fn tell_end(&mut self, id: ProcessId, end: &End) {
        let view = self.processes.get(&id.node).map_or(ViewNumber(0), |p| p.present.number());
        let cause = match end {
            End::Finished => return,
            End::Crashed => Cause::Killed,
            End::Failed(error) => {
                let seen = of_protocol_error(id.node, view, error, None);
                let observed = seen.map(|seen| What::Observed(Box::new(seen)));
                observed.into_iter().for_each(|what| self.tell(id.node.into(), what));
                let excluded = matches!(error, ProtocolError::Excluded { .. });
                let message = error.to_string();
                self.tell(id.node.into(), What::Error { message, excluded });
                Cause::Exited
            }
        };
        if self.reports.has_launcher {
            let known = self.views.last_key_value().map(|(number, _)| *number);
            let seen = Observation {
                view: known.unwrap_or_default(),
                component: Component::Process,
                place: FailurePlace::node(id.node),
                cause,
                evidence: Vec::new(),
            };
            self.tell(Origin::LAUNCHER, What::Observed(Box::new(seen)));
        }
    }

    /// Checks that the ledger made one report of each failure.
    pub(super) fn judge_reports(&mut self) {
        self.reports.ledger.finish(None);
        let told = self.reports.ledger.reports().to_vec();
        if let Err(why) = self.check_reports(&told) {
            self.violate(format!("reports: {why}"));
        }
    }

    fn check_reports(&self, told: &[FailureReport]) -> Result<(), String> {
        let mut of_nodes = BTreeMap::new();
        for report in told {
            let (Some(node), view) = (report.place.node, report.view) else { continue };
            let is_of_node = matches!(report.component, Component::Node | Component::Process);
            if is_of_node && self.views.get(&view).is_some_and(|view| view.member(node).is_none()) {
                return Err(format!(
                    "node {node} is reported in view {view}, and not in it: {report:?}"
                ));
            }
            if is_of_node && let Some(other) = of_nodes.insert((node, view), report) {
                return Err(format!(
                    "node {node} is reported twice in view {view}: {other:?}, {report:?}"
                ));
            }
            if let Consequence::Recovered { view, left, .. } = &report.consequence {
                let next =
                    self.views.get(view).ok_or(format!("there is no view {view}: {report:?}"))?;
                if let Some(node) = left.iter().find(|node| next.member(**node).is_some()) {
                    return Err(format!("node {node} is said to be out, and is in: {report:?}"));
                }
            }
        }
        // Of a view that nobody agreed to, since the job was over, nothing is told.
        let pairs = self.views.values().zip(self.views.values().skip(1));
        for (before, after) in
            pairs.filter(|(_, after)| self.reports.agreed.contains(&after.number))
        {
            for member in before.members.iter().filter(|m| after.member(m.node).is_none()) {
                if !told.iter().any(|report| report.place.node == Some(member.node)) {
                    return Err(format!("node {} left without a report", member.node));
                }
            }
        }
        Ok(())
    }
}
