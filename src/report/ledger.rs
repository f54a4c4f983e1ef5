//! The ledger of failures: folds what nodes and launcher observed into one report for each failure.
//!
//! Every survivor of a failure observes it, the parent of a process sees how the process ended, and the part
//! that failed may have reported the failure itself. Observations of the same thing in the same view are one
//! failure. A report is complete once all nodes have caught up in the view that followed, or the run has
//! ended.

use std::collections::BTreeSet;

use ringfence_operators::ids::{NodeId, ViewNumber};

use super::failure::{Cause, Certainty, Clue, Component, Consequence, Cost};
use super::{Event, FailurePlace, FailureReport, Observation, What};
use crate::chaos::FaultKind;

/// The failures of a run, both open and reported.
#[derive(Clone, Debug, Default)]
pub struct FailureLedger {
    /// The only node whose recovery counts; `None` if the recoveries of all nodes are reported here.
    own: Option<NodeId>,
    view: ViewNumber,
    members: Vec<NodeId>,
    open: Vec<Open>,
    /// How many failures there were.
    numbered: u64,
    /// The nodes that have reported an error: their exit code says nothing new.
    erred: BTreeSet<NodeId>,
    /// Injected failures that have not been observed yet.
    faults: Vec<(NodeId, FaultKind)>,
    recovery: Recovery,
    told: Vec<FailureReport>,
}

/// A failure whose report is not complete.
#[derive(Clone, Debug)]
struct Open {
    report: FailureReport,
    /// The latest view since.
    followed_by: Option<ViewNumber>,
}

/// What the nodes have reported about the recovery to the current view.
#[derive(Clone, Debug, Default)]
struct Recovery {
    nodes: BTreeSet<NodeId>,
    cost: Cost,
}

impl FailureLedger {
    /// A ledger of what all nodes report.
    pub fn new() -> Self {
        FailureLedger::default()
    }

    /// A ledger of what one node reports.
    pub fn of(node: NodeId) -> Self {
        FailureLedger { own: Some(node), ..FailureLedger::default() }
    }

    /// Folds `event` in and returns the reports that it completes.
    pub fn fold(&mut self, event: &Event) -> Vec<FailureReport> {
        match &event.what {
            What::Error { .. } => self.erred.extend(event.node.node()),
            What::Fault { kind, target, .. } => self.faults.push((*target, *kind)),
            What::Observed(observation) => {
                return self.observe(event.node.node(), (**observation).clone(), event.at_ms);
            }
            What::View { number, .. } if *number > self.view => {
                self.follow(&event.what, event.at_ms);
            }
            What::Recovered { view, .. } if *view == self.view => {
                if let Some(node) = event.node.node() {
                    return self.recover(node, &event.what);
                }
            }
            _ => {}
        }
        Vec::new()
    }

    /// Completes the open failures at the end of the run; `error` is why it failed, if it did.
    pub fn finish(&mut self, error: Option<&str>) -> Vec<FailureReport> {
        let mut rest: Vec<FailureReport> =
            std::mem::take(&mut self.open).into_iter().map(|open| open.report).collect();
        if let Some(why) = error {
            for report in &mut rest {
                report.consequence = Consequence::Ended { why: why.to_owned() };
            }
        }
        self.tell(rest)
    }

    /// The complete reports, in the order in which they were completed.
    pub fn reports(&self) -> &[FailureReport] {
        &self.told
    }

    fn tell(&mut self, reports: Vec<FailureReport>) -> Vec<FailureReport> {
        self.told.extend(reports.iter().cloned());
        reports
    }

    fn observe(
        &mut self,
        by: Option<NodeId>,
        observation: Observation,
        at_ms: f64,
    ) -> Vec<FailureReport> {
        let node = observation.place.node;
        let is_out = |node: NodeId| self.view.0 > 0 && !self.members.contains(&node);
        // A node that was left out sees all the others go; it knows something only about itself.
        if by.is_some_and(|by| is_out(by) && node != Some(by)) {
            return Vec::new();
        }
        // An exit code says nothing new about a node that has reported its error.
        let is_known = observation.cause == Cause::Exited
            && node.is_some_and(|node| self.erred.contains(&node));
        let open = self.open.iter().position(|open| self.is_same(open, &observation));
        let told = self.told.iter().rposition(|report| {
            node.is_some_and(|node| is_out(node) && report.place.node == Some(node))
        });
        match (open, told) {
            (Some(index), _) if is_known => {
                let report = &mut self.open[index].report;
                observation.evidence.into_iter().for_each(|clue| report.add_clue(clue));
            }
            (Some(index), _) => {
                let report = &mut self.open[index].report;
                report.add(observation);
                settle(report, by, &mut self.faults);
            }
            // It is out, and the reason is reported: the report is amended if this is the better explanation.
            (None, Some(index)) => {
                let report = &mut self.told[index];
                if !is_known && observation.cause > report.cause {
                    report.add(observation);
                    settle(report, by, &mut self.faults);
                    return vec![report.clone()];
                }
            }
            (None, None) if is_known && !self.open.is_empty() => {}
            (None, None) => {
                let mut report = self.number(observation, at_ms);
                settle(&mut report, by, &mut self.faults);
                self.open.push(Open { report, followed_by: None });
            }
        }
        Vec::new()
    }

    fn number(&mut self, observation: Observation, at_ms: f64) -> FailureReport {
        self.numbered += 1;
        FailureReport::of(self.numbered, observation, at_ms)
    }

    /// Whether `observation` is of the open failure.
    fn is_same(&self, open: &Open, observation: &Observation) -> bool {
        let (known, new) = (&open.report, observation);
        if known.component == Component::Register && new.component == Component::Register {
            return true;
        }
        let Some(node) = new.place.node else { return false };
        // Both ends of a link complain about it, and also about a link whose node has failed.
        if new.component == Component::Link {
            let ends = [Some(node), new.place.peer];
            return known.view == new.view && ends.contains(&known.place.node);
        }
        if known.component == Component::Link && known.view == new.view {
            return known.place.node == Some(node) || known.place.peer == Some(node);
        }
        // A node that is out can end only once; one that is in may fail again in the next view.
        let is_now = known.view == new.view || !self.members.contains(&node);
        if known.place.node != Some(node) || !is_now {
            return false;
        }
        match (known.component == Component::Worker, new.component == Component::Worker) {
            (true, true) => {
                let (one, other) = (known.place.worker, new.place.worker);
                one.is_none() || other.is_none() || one == other
            }
            (false, false) => true,
            // A process that cannot go on after a panic ends the job, and itself.
            (true, false) => matches!(new.cause, Cause::Exited | Cause::JobFailed),
            (false, true) => matches!(known.cause, Cause::Exited | Cause::JobFailed),
        }
    }

    fn follow(&mut self, what: &What, at_ms: f64) {
        let What::View { number, members, resume, moved_partitions, takeovers, .. } = what else {
            return;
        };
        let left: Vec<NodeId> =
            self.members.iter().copied().filter(|node| !members.contains(node)).collect();
        // A node that was left out without any complaint did not answer.
        for &node in &left {
            if !self.open.iter().any(|open| open.report.place.node == Some(node)) {
                let silent = Observation {
                    view: self.view,
                    component: Component::Node,
                    place: FailurePlace::node(node),
                    cause: Cause::Silent,
                    evidence: Vec::new(),
                };
                let report = self.number(silent, at_ms);
                self.open.push(Open { report, followed_by: None });
            }
        }
        // A view change does not repair anything outside of the cluster.
        let is_inside = |open: &&mut Open| {
            let outside = [Component::Register, Component::Source, Component::Sink];
            !outside.contains(&open.report.component)
        };
        for open in self.open.iter_mut().filter(is_inside) {
            // If two views in a row followed a failure, it names all nodes that have left since.
            let mut all_left = match &open.report.consequence {
                Consequence::Recovered { left, .. } => left.clone(),
                _ => Vec::new(),
            };
            all_left.extend(&left);
            // Some may have come back since.
            all_left.retain(|node| !members.contains(node));
            open.followed_by = Some(*number);
            open.report.consequence = Consequence::Recovered {
                view: *number,
                members: members.clone(),
                left: all_left,
                resume: *resume,
                takeovers: takeovers.clone(),
            };
        }
        // Whoever is new has not said anything yet, whatever an earlier start of it has.
        self.erred.retain(|node| !members.contains(node) || self.members.contains(node));
        self.view = *number;
        self.members.clone_from(members);
        let cost = Cost { partitions_moved: u64::from(*moved_partitions), ..Cost::default() };
        self.recovery = Recovery { nodes: BTreeSet::new(), cost };
    }

    fn recover(&mut self, node: NodeId, what: &What) -> Vec<FailureReport> {
        let What::Recovered { phases_ms, records_replayed, epochs_rewound, bytes_opened, .. } =
            what
        else {
            return Vec::new();
        };
        let Recovery { nodes, cost } = &mut self.recovery;
        nodes.insert(node);
        if cost.phases_ms.total_ms() <= phases_ms.total_ms() {
            cost.phases_ms = *phases_ms;
        }
        cost.epochs_rewound = cost.epochs_rewound.max(*epochs_rewound);
        cost.records_replayed += records_replayed;
        cost.bytes_opened += bytes_opened;
        let is_complete = match self.own {
            Some(own) => node == own,
            None => self.members.iter().all(|member| nodes.contains(member)),
        };
        if !is_complete {
            return Vec::new();
        }
        let cost = *cost;
        let (done, open) = std::mem::take(&mut self.open)
            .into_iter()
            .partition::<Vec<Open>, _>(|open| open.followed_by == Some(self.view));
        self.open = open;
        let done = done
            .into_iter()
            .map(|Open { report, .. }| FailureReport { cost: Some(cost), ..report });
        self.tell(done.collect())
    }
}

/// Notes who noticed a failure, whether it was injected, and how certain it is now.
fn settle(report: &mut FailureReport, by: Option<NodeId>, faults: &mut Vec<(NodeId, FaultKind)>) {
    if let Some(node) = by.filter(|node| !report.noticed_by.contains(node)) {
        report.noticed_by.push(node);
    }
    let is_caused = |(target, kind): &(NodeId, FaultKind)| {
        let is_worker = report.component == Component::Worker;
        report.place.node == Some(*target) && (*kind == FaultKind::Panic) == is_worker
    };
    if !report.is_on_purpose()
        && let Some(fault) = faults.iter().position(is_caused)
    {
        let (_, fault) = faults.remove(fault);
        report.add_clue(Clue::OnPurpose { fault });
    }
    report.certainty = certainty(report);
}

/// The certainty of a failure's cause, depending on who reported it.
fn certainty(report: &FailureReport) -> Certainty {
    let has = |wanted: fn(&Clue) -> bool| report.evidence.iter().any(wanted);
    match report.cause {
        Cause::Silent if has(|clue| matches!(clue, Clue::Votes { .. })) => Certainty::Probable,
        Cause::ConnectionLost | Cause::Refused | Cause::Silent => match report.noticed_by.len() {
            0 | 1 => Certainty::Suspected,
            _ => Certainty::Probable,
        },
        Cause::Partitioned => Certainty::Probable,
        Cause::Hung if has(|clue| matches!(clue, Clue::ProcessState { .. })) => Certainty::Certain,
        Cause::Hung => Certainty::Probable,
        // Another process of the machine may have been the one that was ended.
        Cause::OutOfMemory
            if !has(
                |clue| matches!(clue, Clue::OutOfMemoryKills { counted_by, .. } if counted_by == "cgroup"),
            ) =>
        {
            Certainty::Probable
        }
        _ => Certainty::Certain,
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
