//! The summary of a run, folded from its events.
//!
//! Every node reports what it sees, so the same commit, view or failure is reported several times; a summary
//! counts each once.

use std::collections::BTreeMap;
use std::fmt;

use ringfence_operators::ids::{Epoch, NodeId, ViewNumber};

use super::{Event, Phases, Timeline, What};
use crate::chaos::{Fault, FaultKind};

/// An injected failure.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRecord {
    /// How.
    pub kind: FaultKind,
    /// Which node.
    pub target: NodeId,
    /// When, in milliseconds of Unix time.
    pub at_ms: f64,
    /// When it ended or will end by itself, if it does.
    pub until_ms: Option<f64>,
}

/// A failure, as the first node reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureRecord {
    /// The view that it ended.
    pub view: ViewNumber,
    /// What failed.
    pub what: String,
    /// Which node failed.
    pub suspect: Option<NodeId>,
    /// When it was first reported, in milliseconds of Unix time.
    pub at_ms: f64,
}

/// How the nodes recovered in one view.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovery {
    /// The view.
    pub view: ViewNumber,
    /// The nodes that have reported it.
    pub nodes: Vec<NodeId>,
    /// The phases of the node that took longest.
    pub slowest: Phases,
    /// Records read again, over all nodes.
    pub records_replayed: u64,
    /// Records whose reading was committed at the resume epoch, over all nodes.
    pub records_at_resume: u64,
    /// Keys undone to their committed state, over all nodes.
    pub keys_rewound: u64,
    /// Partitions opened from replicas, over all nodes.
    pub partitions_restored: u64,
}

impl Recovery {
    /// A recovery of which nothing is known yet.
    pub fn of(view: ViewNumber) -> Self {
        Recovery {
            view,
            nodes: Vec::new(),
            slowest: Phases::default(),
            records_replayed: 0,
            records_at_resume: 0,
            keys_rewound: 0,
            partitions_restored: 0,
        }
    }
}

/// The summary of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    started_ms: Option<f64>,
    ended_ms: f64,
    first_commit_ms: Option<f64>,
    last_commit: Option<Epoch>,
    commits: u64,
    view: Option<ViewNumber>,
    members: Vec<NodeId>,
    progress: BTreeMap<NodeId, (u64, u64)>,
    total_bytes: u64,
    refused: u64,
    finished: Vec<NodeId>,
    failures: Vec<FailureRecord>,
    faults: Vec<FaultRecord>,
    faults_unfired: Vec<Fault>,
    recoveries: BTreeMap<ViewNumber, Recovery>,
    /// Records that all nodes had reported as read when a view was agreed.
    records_before: BTreeMap<ViewNumber, u64>,
    /// How often processes were started again.
    restarts: u64,
    last_error: Option<(Option<NodeId>, String)>,
}

impl Summary {
    /// An empty summary.
    pub fn new() -> Self {
        Summary::default()
    }

    /// Adds to a recovery what the recovering node cannot know, but what follows from all events: the time
    /// from the fault to its first detection, and the records that dead nodes had read.
    pub fn complete(&self, event: &mut Event) {
        self.complete_replayed(event);
        self.complete_detect(event);
    }

    /// What all nodes had read before, minus what had been read at the resume epoch, is read again. The part
    /// that no survivor counts is added to the event of the last member that reports.
    fn complete_replayed(&self, event: &mut Event) {
        let node = event.node.node();
        let What::Recovered { view, records_replayed, records_at_resume, .. } = &mut event.what
        else {
            return;
        };
        let (Some(before), Some(node)) = (self.records_before.get(view), node) else { return };
        let none = Recovery::of(*view);
        let others = self.recoveries.get(view).unwrap_or(&none);
        let is_last = self.view == Some(*view)
            && self.members.iter().all(|m| *m == node || others.nodes.contains(m));
        if is_last {
            let at_resume = others.records_at_resume + *records_at_resume;
            let counted = others.records_replayed + *records_replayed;
            *records_replayed += before.saturating_sub(at_resume).saturating_sub(counted);
        }
    }

    fn complete_detect(&self, event: &mut Event) {
        let What::Recovered { view, phases_ms, .. } = &mut event.what else { return };
        if phases_ms.detect.is_some() || view.0 == 0 {
            return;
        }
        let Some(failure) = self.failures.iter().find(|f| f.view.0 + 1 == view.0) else { return };
        let caused = |fault: &&FaultRecord| {
            fault.at_ms <= failure.at_ms && failure.suspect.is_none_or(|node| node == fault.target)
        };
        let fault = self.faults.iter().rev().find(caused);
        phases_ms.detect = fault.map(|fault| failure.at_ms - fault.at_ms);
    }

    /// Folds `event` in.
    pub fn fold(&mut self, event: &Event) {
        self.started_ms.get_or_insert(event.at_ms);
        self.ended_ms = self.ended_ms.max(event.at_ms);
        match &event.what {
            What::Commit { epoch, .. } => self.fold_commit(*epoch, event.at_ms),
            What::Fault { kind, target, until_ms } => {
                let (at_ms, until_ms) = (event.at_ms, *until_ms);
                self.faults.push(FaultRecord { kind: *kind, target: *target, at_ms, until_ms });
            }
            What::Failure { view, what, suspect, .. } => {
                let known = |f: &FailureRecord| (f.view, f.suspect) == (*view, *suspect);
                if !self.failures.iter().any(known) {
                    self.failures.push(FailureRecord {
                        view: *view,
                        what: what.clone(),
                        suspect: *suspect,
                        at_ms: event.at_ms,
                    });
                }
            }
            What::View { number, members, .. } if self.view.is_none_or(|view| view < *number) => {
                let records = self.progress.values().map(|(_, records)| records).sum();
                self.records_before.insert(*number, records);
                self.view = Some(*number);
                self.members.clone_from(members);
                self.progress.retain(|node, _| members.contains(node));
            }
            What::Recovered { .. } => self.fold_recovered(event),
            What::Progress { consumed, total, records } => {
                self.total_bytes = self.total_bytes.max(*total);
                self.fold_progress(event, *consumed, *records);
            }
            What::Finished { consumed, records, .. } => {
                self.fold_progress(event, *consumed, *records);
                self.finished.extend(event.node.node());
            }
            What::Restarted { .. } => self.restarts += 1,
            What::Refused { more, .. } => self.refused += (*more).max(1),
            What::Error { message, .. } => {
                self.last_error = Some((event.node.node(), message.clone()));
            }
            _ => {}
        }
    }

    /// A committed epoch stays committed, so an epoch greater than any before is a new commit, and any other
    /// one has already been reported by another node.
    fn fold_commit(&mut self, epoch: Epoch, at_ms: f64) {
        if self.last_commit.is_none_or(|last| last < epoch) {
            self.last_commit = Some(epoch);
            self.commits += 1;
            self.first_commit_ms.get_or_insert(at_ms);
        }
    }

    fn fold_progress(&mut self, event: &Event, consumed: u64, records: u64) {
        // A node outside the view may still have an event in flight; its shares count elsewhere.
        let node = event.node.node();
        if let Some(node) = node.filter(|n| self.members.is_empty() || self.members.contains(n)) {
            self.progress.insert(node, (consumed, records));
        }
    }

    fn fold_recovered(&mut self, event: &Event) {
        let What::Recovered {
            view,
            phases_ms,
            records_replayed,
            records_at_resume,
            keys_rewound,
            partitions_restored,
            ..
        } = &event.what
        else {
            return;
        };
        let recovery = self.recoveries.entry(*view).or_insert_with(|| Recovery::of(*view));
        if recovery.nodes.is_empty() || recovery.slowest.total_ms() < phases_ms.total_ms() {
            recovery.slowest = *phases_ms;
        }
        recovery.nodes.extend(event.node.node());
        recovery.records_replayed += records_replayed;
        recovery.records_at_resume += records_at_resume;
        recovery.keys_rewound += keys_rewound;
        recovery.partitions_restored += u64::from(*partitions_restored);
    }

    /// Notes the faults that never happened, because the run ended before their moment.
    pub fn set_faults_unfired(&mut self, faults: &[Fault]) {
        self.faults_unfired = faults.to_vec();
    }

    /// Records read, over all nodes of the current view.
    pub fn records(&self) -> u64 {
        self.progress.values().map(|(_, records)| records).sum()
    }

    /// Bytes read, over all nodes of the current view.
    pub fn consumed_bytes(&self) -> u64 {
        self.progress.values().map(|(consumed, _)| consumed).sum()
    }

    /// Bytes in the whole input, or 0 if that is not known.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The fraction of the input that has been read, from 0 to 1, if its size is known.
    pub fn fraction(&self) -> Option<f64> {
        let total = self.total_bytes;
        (total > 0).then(|| (self.consumed_bytes() as f64 / total as f64).min(1.0))
    }

    /// Seconds from the first event to the last.
    pub fn elapsed_seconds(&self) -> f64 {
        (self.ended_ms - self.started_ms.unwrap_or(self.ended_ms)) / 1e3
    }

    /// Records read per second, over the whole run.
    pub fn records_per_second(&self) -> f64 {
        let seconds = self.elapsed_seconds();
        if seconds > 0.0 { self.records() as f64 / seconds } else { 0.0 }
    }

    /// Epochs committed.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// When the first epoch was committed, in milliseconds of Unix time.
    pub fn first_commit_ms(&self) -> Option<f64> {
        self.first_commit_ms
    }

    /// The number of the current view; views have no gaps, so this is also how many there were.
    pub fn view(&self) -> Option<ViewNumber> {
        self.view
    }

    /// The nodes of the current view.
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// The nodes that have reported that they finished the job.
    pub fn finished(&self) -> &[NodeId] {
        &self.finished
    }

    /// How often the launcher has started processes again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// The failures, each once.
    pub fn failures(&self) -> &[FailureRecord] {
        &self.failures
    }

    /// The injected failures that happened.
    pub fn faults(&self) -> &[FaultRecord] {
        &self.faults
    }

    /// The injected failures that never happened.
    pub fn faults_unfired(&self) -> &[Fault] {
        &self.faults_unfired
    }

    /// The recoveries, in the order of their views.
    pub fn recoveries(&self) -> impl Iterator<Item = &Recovery> {
        self.recoveries.values()
    }

    /// The recovery to `view`, if some node has reported it.
    pub fn recovery(&self, view: ViewNumber) -> Option<&Recovery> {
        self.recoveries.get(&view)
    }

    /// Records read again, over all recoveries.
    pub fn records_replayed(&self) -> u64 {
        self.recoveries().map(|r| r.records_replayed).sum()
    }

    /// Partitions opened from replicas, over all recoveries.
    pub fn partitions_restored(&self) -> u64 {
        self.recoveries().map(|r| r.partitions_restored).sum()
    }

    /// The last error that was reported, and by which node.
    pub fn last_error(&self) -> Option<(Option<NodeId>, &str)> {
        self.last_error.as_ref().map(|(node, text)| (*node, text.as_str()))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(f, "  {name:<20} {text}");
        line("records", thousands(self.records()))?;
        let (rate, seconds) = (self.records_per_second() as u64, self.elapsed_seconds());
        line("records per second", format!("{} over {seconds:.2} s", thousands(rate)))?;
        line("commits", thousands(self.commits))?;
        line("views", self.view.map_or(0, |view| view.0).to_string())?;
        line("failures", self.failures.len().to_string())?;
        let faults = self.faults.iter().map(|f| format!("{} of node {}", f.kind, f.target));
        let faults: Vec<String> = faults.collect();
        line("injected faults", if faults.is_empty() { "none".into() } else { faults.join(", ") })?;
        for fault in &self.faults_unfired {
            line("fault NOT fired", format!("{fault}: the run ended before its moment"))?;
        }
        if self.restarts > 0 {
            line("nodes started again", thousands(self.restarts))?;
        }
        line("partitions restored", thousands(self.partitions_restored()))?;
        line("records replayed", thousands(self.records_replayed()))?;
        if self.refused > 0 {
            line("connections refused", thousands(self.refused))?;
        }
        for recovery in self.recoveries() {
            for text in Timeline(recovery).to_string().lines() {
                writeln!(f, "  {text}")?;
            }
        }
        Ok(())
    }
}

/// A number with its noun: `1 commit`, `2,000 commits`, `2 processes`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let ending = match number {
        1 => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {noun}{ending}", thousands(number))
}

/// `1234567` as `1,234,567`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Origin;

    fn fold(events: &[(f64, u64, What)]) -> Summary {
        let mut summary = Summary::new();
        for (at_ms, node, what) in events {
            let mut event = Event::at(*at_ms, NodeId(*node), what.clone());
            summary.complete(&mut event);
            summary.fold(&event);
        }
        summary
    }

    fn view(number: u64, members: &[u64]) -> What {
        What::View {
            number: ViewNumber(number),
            members: members.iter().copied().map(NodeId).collect(),
            resume: None,
            moved_partitions: 0,
            under_replicated: 0,
            takeovers: Vec::new(),
            joined: Vec::new(),
        }
    }

    fn commit(epoch: u64) -> What {
        What::Commit { view: ViewNumber(1), epoch: Epoch(epoch) }
    }

    fn lost(node: u64) -> What {
        What::Failure {
            view: ViewNumber(1),
            what: "node lost".to_owned(),
            suspect: Some(NodeId(node)),
            worker: None,
            operator: None,
            evidence: String::new(),
        }
    }

    fn recovered(stop: f64) -> What {
        What::Recovered {
            view: ViewNumber(2),
            phases_ms: Phases { stop, ..Phases::default() },
            records_replayed: 5,
            records_at_resume: 60,
            keys_rewound: 1,
            partitions_restored: 40,
            epochs_rewound: 1,
            bytes_opened: 7,
        }
    }

    #[test]
    fn what_several_nodes_tell_counts_once() {
        let summary = fold(&[
            (0.0, 0, view(1, &[0, 1])),
            (0.0, 1, view(1, &[0, 1])),
            (10.0, 0, commit(1)),
            (11.0, 1, commit(1)),
            (20.0, 1, commit(2)),
            (21.0, 0, commit(2)),
            (30.0, 0, lost(2)),
            (31.0, 1, lost(2)),
        ]);
        assert_eq!((summary.commits(), summary.failures().len()), (2, 1));
        assert_eq!((summary.view(), summary.first_commit_ms()), (Some(ViewNumber(1)), Some(10.0)));
    }

    #[test]
    fn what_a_dead_node_read_counts_with_its_successor() {
        let progress = |records| What::Progress { consumed: records, total: 100, records };
        let mut events = vec![(0.0, 0, view(1, &[0, 1])), (1.0, 0, progress(10))];
        events.push((2.0, 1, progress(20)));
        assert_eq!(fold(&events).records(), 30);
        events.push((3.0, 0, view(2, &[0])));
        events.push((4.0, 1, progress(25)));
        events.push((1000.0, 0, progress(60)));
        let summary = fold(&events);
        assert_eq!((summary.records(), summary.fraction()), (60, Some(0.6)));
        assert_eq!(summary.records_per_second(), 60.0);
    }

    #[test]
    fn the_time_to_detect_is_counted_from_the_fault() {
        let fault = What::Fault { kind: FaultKind::Kill, target: NodeId(2), until_ms: None };
        let events = [
            (100.0, 9, fault),
            (101.5, 0, lost(2)),
            (102.0, 1, lost(2)),
            (110.0, 0, recovered(3.0)),
            (111.0, 1, recovered(4.0)),
        ];
        let summary = fold(&events);
        let recovery = summary.recovery(ViewNumber(2)).unwrap();
        assert_eq!(recovery.slowest, Phases { detect: Some(1.5), stop: 4.0, ..Phases::default() });
        assert_eq!(recovery.nodes, [NodeId(0), NodeId(1)]);
        assert_eq!((summary.records_replayed(), summary.partitions_restored()), (10, 80));
        let text = summary.to_string();
        assert!(text.contains("kill of node 2") && text.contains("detect"), "{text}");
    }

    #[test]
    fn a_fault_that_never_happened_is_said() {
        let mut summary = Summary::new();
        summary.fold(&Event::at(0.0, Origin::LAUNCHER, What::Message { text: String::new() }));
        summary.set_faults_unfired(&["kill:1@90%".parse().unwrap()]);
        assert!(summary.to_string().contains("NOT fired      kill:1@90%"), "{summary}");
    }

    #[test]
    fn a_number_and_its_noun_agree() {
        assert_eq!(
            [0, 1, 2000].map(|n| counted(n, "commit")),
            ["0 commits", "1 commit", "2,000 commits"]
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
