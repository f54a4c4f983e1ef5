//! One thing that happened, as one line of JSON.
//!
//! Events are written once and read by other programs: fields may be added, but neither renamed nor removed.

use std::time::{SystemTime, UNIX_EPOCH};

use ringfence_operators::hash::KeyHasher;
use ringfence_operators::ids::{Epoch, NodeId, PartitionId, ViewNumber};
use serde::{Deserialize, Serialize};

use super::{FailureReport, Observation};
use crate::chaos::FaultKind;

/// The origin of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// A node; a plain number in JSON.
    Node(NodeId),
    /// The launcher; the string `"launcher"` in JSON.
    Launcher(LauncherTag),
}

/// The word for the launcher.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LauncherTag {
    /// The launcher.
    Launcher,
}

impl Origin {
    /// The launcher, which is no node.
    pub const LAUNCHER: Origin = Origin::Launcher(LauncherTag::Launcher);

    /// The node, unless it is the launcher.
    pub fn node(self) -> Option<NodeId> {
        match self {
            Origin::Node(node) => Some(node),
            Origin::Launcher(_) => None,
        }
    }
}

impl From<NodeId> for Origin {
    fn from(node: NodeId) -> Self {
        Origin::Node(node)
    }
}

/// One thing that happened: what, when and to which node.
///
/// ```
/// use ringfence::operators::ids::{Epoch, NodeId, ViewNumber};
/// use ringfence::report::{Event, What};
///
/// let what = What::Commit { view: ViewNumber(1), epoch: Epoch(7) };
/// let event = Event::at(1500.25, NodeId(2), what);
/// let line = r#"{"event":"commit","view":1,"epoch":7,"at_ms":1500.25,"node":2}"#;
/// assert_eq!(serde_json::to_string(&event).unwrap(), line);
/// assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened; its name is the field `event`, and its own fields are next to that.
    #[serde(flatten)]
    pub what: What,
    /// When, in milliseconds of Unix time, with fraction.
    pub at_ms: f64,
    /// Who states it.
    pub node: Origin,
}

impl Event {
    /// `what`, reported by `node` at `at_ms`.
    pub fn at(at_ms: f64, node: impl Into<Origin>, what: What) -> Self {
        Event { what, at_ms, node: node.into() }
    }

    /// `what`, reported by `node` now.
    pub fn now(node: impl Into<Origin>, what: What) -> Self {
        Event::at(now_ms(), node, what)
    }
}

/// The milliseconds of Unix time, with fraction.
pub(crate) fn now_ms() -> f64 {
    // This fails only if the clock is before 1970; then 0 is as good an answer as any.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// A node is up.
    Started {
        /// Its operating system's process number.
        process_id: u32,
        /// Its worker threads.
        workers: usize,
        /// Where it listens; absent if it has no peers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        /// How it hashes keys; absent if that is the default.
        #[serde(default, skip_serializing_if = "is_default")]
        key_hash: KeyHasher,
    },
    /// A failure is injected.
    Fault {
        /// How.
        kind: FaultKind,
        /// Which node fails.
        target: NodeId,
        /// When it ends by itself, in milliseconds of Unix time; absent if it does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<f64>,
    },
    /// The node knows that an epoch is committed. Epochs that held nothing may be left out.
    Commit {
        /// The view it was committed in.
        view: ViewNumber,
        /// The epoch.
        epoch: Epoch,
    },
    /// The node has not heard another for longer than usual, and asks the others.
    Suspicion {
        /// The silent node.
        suspect: NodeId,
        /// For how long.
        silent_ms: u64,
    },
    /// The node has heard another node again that it suspected.
    Cleared {
        /// The node.
        suspect: NodeId,
        /// How long it had been silent.
        silent_ms: u64,
    },
    /// The node has concluded that something failed.
    Failure {
        /// The view that this ends.
        view: ViewNumber,
        /// What failed, in a few words: `node lost`, `worker panicked`.
        what: String,
        /// The node that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        suspect: Option<NodeId>,
        /// The worker thread of the node, if only that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<u32>,
        /// The operator in which it failed, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operator: Option<String>,
        /// What the conclusion rests on.
        evidence: String,
    },
    /// The node has installed a view.
    View {
        /// Its number.
        number: ViewNumber,
        /// Its nodes.
        members: Vec<NodeId>,
        /// The last committed epoch, after which it resumes; `null` if there was none.
        resume: Option<Epoch>,
        /// Partitions that have a different owner than in the previous view.
        #[serde(default)]
        moved_partitions: u32,
        /// Partitions with fewer backups than configured, until they are refilled.
        #[serde(default)]
        under_replicated: u32,
        /// The nodes that own partitions which had another owner before, and how many.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        takeovers: Vec<Takeover>,
        /// The nodes that it has taken in: they came, or came back, while the run was under way.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        joined: Vec<NodeId>,
    },
    /// The launcher has started the process of a node again.
    Restarted {
        /// The node.
        target: NodeId,
        /// Its operating system's process number.
        process_id: u32,
        /// How many processes were started again within the window, this one included.
        restarts: u32,
    },
    /// The node holds complete copies of all partitions for which the view made it a new backup.
    Refilled {
        /// The view.
        view: ViewNumber,
        /// How many partitions.
        partitions: u32,
        /// How long it took from the beginning of the view.
        took_ms: f64,
    },
    /// This epoch and all earlier ones outlive the whole cluster.
    Durable {
        /// The view.
        view: ViewNumber,
        /// The epoch.
        epoch: Epoch,
    },
    /// The node has caught up in a view that followed a failure.
    Recovered {
        /// The view.
        view: ViewNumber,
        /// How long each phase took.
        phases_ms: Phases,
        /// Records read again from this node's sources. A node knows only what it had read itself; the
        /// launcher adds what lost nodes had read to the event of the last member of the view that reports.
        records_replayed: u64,
        /// Records that had been read, at the resume epoch, of the input shares that this node reads now.
        #[serde(default)]
        records_at_resume: u64,
        /// Keys that this node undid to their committed state.
        keys_rewound: u64,
        /// Partitions that this node opened from a replica.
        partitions_restored: u32,
        /// Epochs that this node had begun and that are not committed at the resume epoch.
        #[serde(default)]
        epochs_rewound: u64,
        /// Encoded bytes of the replicas that this node opened.
        #[serde(default)]
        bytes_opened: u64,
    },
    /// The progress of a node.
    ///
    /// `consumed` and `records` cover all shares of the input that the node reads in the current view, from
    /// their beginning: what a dead node had read counts for its successor. So the sums over the members of a
    /// view are those of the whole job.
    Progress {
        /// Bytes read.
        consumed: u64,
        /// Bytes in the whole input of the job, not only in this node's shares; 0 where unknown.
        total: u64,
        /// Records read.
        records: u64,
    },
    /// The node has refused a connection.
    Refused {
        /// Where it came from; empty if that is not known, or if the event is about several connections.
        peer: String,
        /// Why.
        reason: String,
        /// If not zero, the number of connections that were refused for this reason and not reported
        /// individually, because there were too many of them.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u64,
    },
    /// A record that cannot be processed went to the dead letters; reported again if its epoch is processed
    /// again.
    Quarantined {
        /// The operator.
        operator: String,
        /// The partition of it.
        partition: PartitionId,
        /// The epoch of the record.
        epoch: Epoch,
        /// The record as JSON, or its encoded bytes in hexadecimal.
        record: String,
    },
    /// A node's or the launcher's part of a failure report.
    Observed(Box<Observation>),
    /// All that is known of one failure.
    FailureReport(Box<FailureReport>),
    /// A line for human readers.
    Message {
        /// The line.
        text: String,
    },
    /// An error that will end the node or the run.
    Error {
        /// The text of the error and its causes.
        message: String,
        /// Whether the others continue without the reporting node, so that the run is unaffected.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        excluded: bool,
    },
    /// The node has finished the job.
    Finished {
        /// As in [`What::Progress`].
        records: u64,
        /// As in [`What::Progress`].
        consumed: u64,
        /// Epochs that the node saw committed.
        commits: u64,
    },
}

fn is_default(key_hash: &KeyHasher) -> bool {
    *key_hash == KeyHasher::default()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How many partitions a node took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// The node.
    pub node: NodeId,
    /// The number of partitions that it owns now and did not own before.
    pub partitions: u32,
}

/// How long each phase of a recovery took, in milliseconds, in the order in which they happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// From the failure to its detection; absent if the time of the failure is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect: Option<f64>,
    /// Until the node's generation had stopped.
    pub stop: f64,
    /// Until the next view was agreed.
    pub agree: f64,
    /// Until fresh connections were established.
    pub connect: f64,
    /// Until the dataflow was rebuilt.
    pub build: f64,
    /// Until survivors had rewound and successors had opened their replicas.
    pub restore: f64,
    /// Until the sources had read again what they had read before.
    pub replay: f64,
    /// Until an epoch of the new view was also committed.
    pub caught_up: f64,
}

impl Phases {
    /// The known phases, in order, with readable names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let after = [
            ("stop", self.stop),
            ("agree", self.agree),
            ("connect", self.connect),
            ("build", self.build),
            ("rewind and restore", self.restore),
            ("replay", self.replay),
            ("caught up", self.caught_up),
        ];
        self.detect.map(|ms| ("detect", ms)).into_iter().chain(after)
    }

    /// The sum of all phases.
    pub fn total_ms(&self) -> f64 {
        self.named().map(|(_, ms)| ms).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cause, Clue, Component, FailurePlace};
    use super::*;

    fn panicked() -> Observation {
        Observation {
            view: ViewNumber(1),
            component: Component::Worker,
            place: FailurePlace { worker: Some(1), ..FailurePlace::node(NodeId(2)) },
            cause: Cause::Panic,
            evidence: vec![Clue::Panic { message: "no".to_owned(), location: None }],
        }
    }

    #[test]
    fn every_line_has_event_time_and_node_and_is_read_back() {
        let all = [
            What::Started { process_id: 7, workers: 2, address: None, key_hash: KeyHasher::Sha1 },
            What::Fault { kind: FaultKind::Kill, target: NodeId(1), until_ms: None },
            What::Fault { kind: FaultKind::Stop, target: NodeId(1), until_ms: Some(12.5) },
            What::Commit { view: ViewNumber(1), epoch: Epoch(2) },
            What::Suspicion { suspect: NodeId(1), silent_ms: 250 },
            What::Cleared { suspect: NodeId(1), silent_ms: 310 },
            What::Failure {
                view: ViewNumber(1),
                what: "node lost".to_owned(),
                suspect: Some(NodeId(1)),
                worker: None,
                operator: None,
                evidence: "control connection closed".to_owned(),
            },
            What::View {
                number: ViewNumber(2),
                members: vec![NodeId(0), NodeId(2)],
                resume: None,
                moved_partitions: 85,
                under_replicated: 0,
                takeovers: vec![Takeover { node: NodeId(2), partitions: 85 }],
                joined: vec![NodeId(1)],
            },
            What::Restarted { target: NodeId(1), process_id: 8, restarts: 1 },
            What::View {
                number: ViewNumber(3),
                members: vec![NodeId(0)],
                resume: None,
                moved_partitions: 0,
                under_replicated: 0,
                takeovers: Vec::new(),
                joined: Vec::new(),
            },
            What::Recovered {
                view: ViewNumber(2),
                phases_ms: Phases { detect: Some(0.5), replay: 2.0, ..Phases::default() },
                records_replayed: 10,
                records_at_resume: 9,
                keys_rewound: 11,
                partitions_restored: 12,
                epochs_rewound: 2,
                bytes_opened: 1,
            },
            What::Quarantined {
                operator: "counts".to_owned(),
                partition: PartitionId(3),
                epoch: Epoch(2),
                record: "7".to_owned(),
            },
            What::Refilled { view: ViewNumber(2), partitions: 3, took_ms: 0.5 },
            What::Durable { view: ViewNumber(2), epoch: Epoch(3) },
            What::Progress { consumed: 1, total: 2, records: 3 },
            What::Refused { peer: "[::1]:9".to_owned(), reason: "garbage".to_owned(), more: 0 },
            What::Refused { peer: String::new(), reason: "garbage".to_owned(), more: 7 },
            What::Message { text: "line\nbreak".to_owned() },
            What::Error { message: "no".to_owned(), excluded: false },
            What::Error { message: "out".to_owned(), excluded: true },
            What::Finished { records: 3, consumed: 4, commits: 5 },
        ];
        let observation = panicked();
        let report = FailureReport::of(1, observation.clone(), 1.5);
        let more = [What::Observed(Box::new(observation)), What::FailureReport(Box::new(report))];
        for (index, what) in all.into_iter().chain(more).enumerate() {
            let origin = if index % 2 == 0 { NodeId(1).into() } else { Origin::LAUNCHER };
            let event = Event::at(1_700_000_000_123.456, origin, what);
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'));
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(value["event"].is_string() && value["at_ms"].is_f64(), "{line}");
            assert!(value["node"] == 1 || value["node"] == "launcher", "{line}");
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
    }
}
