//! Failure reports: what failed, where, why, how certain that is, what was done and what it cost.

use std::fmt;

use ringfence_operators::ids::{Epoch, NodeId, OperatorName, PartitionId, ViewNumber};
use serde::{Deserialize, Serialize};

use super::{Phases, Takeover, counted};
use crate::chaos::FaultKind;

/// What kind of thing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Component {
    /// A connection between two nodes that are both alive.
    Link,
    /// A worker thread; its process is alive.
    Worker,
    /// The process of a node.
    Process,
    /// A node; it is not known whether its process, its host or the network failed.
    Node,
    /// The register of views.
    Register,
    /// What a source reads.
    Source,
    /// What a sink writes to.
    Sink,
    /// The job itself: its code or its settings.
    Job,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Component::Link => "link",
            Component::Worker => "worker",
            Component::Process => "process",
            Component::Node => "node",
            Component::Register => "register",
            Component::Source => "source",
            Component::Sink => "sink",
            Component::Job => "job",
        })
    }
}

/// Why something failed.
///
/// The causes are ordered by how well they explain a failure: if two causes are reported for the same
/// failure, the greater one is the explanation, and the other a consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// A connection ended or could not be made.
    ConnectionLost,
    /// A connection was refused by its peer.
    Refused,
    /// Nothing was heard from it for too long.
    Silent,
    /// The process is alive, but others could not reach it, and it was excluded.
    Partitioned,
    /// It is alive but makes no progress: its process is stopped, or its code does not return.
    Hung,
    /// The process ended by itself, with an exit code that is not 0.
    Exited,
    /// The process was ended by a signal.
    Killed,
    /// The kernel ended the process for lack of memory.
    OutOfMemory,
    /// The job cannot continue, because of its own error or because a node said so.
    JobFailed,
    /// The register cannot be used.
    RegisterUnavailable,
    /// An input could not be read.
    SourceFailed,
    /// An output could not be written.
    SinkFailed,
    /// Its code panicked.
    Panic,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::ConnectionLost => "connection lost",
            Cause::Refused => "refused by its peer",
            Cause::Silent => "silent",
            Cause::Partitioned => "cut off from the others",
            Cause::Hung => "hung",
            Cause::Exited => "exited",
            Cause::Killed => "killed by a signal",
            Cause::OutOfMemory => "killed for lack of memory",
            Cause::RegisterUnavailable => "cannot be used",
            Cause::SourceFailed => "cannot be read",
            Cause::SinkFailed => "cannot be written",
            Cause::JobFailed => "failed",
            Cause::Panic => "panicked",
        })
    }
}

/// How certain the cause in a [`FailureReport`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// One node noticed signs of it.
    Suspected,
    /// Several nodes agree, or there is hardly another explanation.
    Probable,
    /// The process itself or its parent saw it.
    Certain,
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Certainty::Suspected => "suspected",
            Certainty::Probable => "probable",
            Certainty::Certain => "certain",
        })
    }
}

/// Where something failed, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailurePlace {
    /// The node. For a link, the end that the other end complains about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The other end of a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<NodeId>,
    /// The index of the worker thread within its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// The protected operator that was active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorName>,
    /// The partition whose record or shard was being processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionId>,
    /// The epoch that was being processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

impl FailurePlace {
    /// A node, and nothing more specific.
    pub fn node(node: NodeId) -> Self {
        FailurePlace { node: Some(node), ..FailurePlace::default() }
    }

    /// Adopts from `other` what is not known here.
    fn complete(&mut self, other: &FailurePlace) {
        self.node = self.node.or(other.node);
        self.peer = self.peer.or(other.peer);
        self.worker = self.worker.or(other.worker);
        self.operator = self.operator.take().or_else(|| other.operator.clone());
        self.partition = self.partition.or(other.partition);
        self.epoch = self.epoch.or(other.epoch);
    }
}

impl fmt::Display for FailurePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.node.map(|node| format!("node {node}")),
            self.peer.map(|peer| format!("towards node {peer}")),
            self.worker.map(|worker| format!("worker {worker}")),
            self.operator.as_ref().map(|operator| format!("operator \"{operator}\"")),
            self.partition.map(|partition| format!("partition {partition}")),
            self.epoch.map(|epoch| format!("epoch {epoch}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "somewhere" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Clue {
    /// A panic.
    Panic {
        /// What it said.
        message: String,
        /// Where it began, as `file:line:column`; absent if no hook saw it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        location: Option<String>,
    },
    /// The record that could not be processed.
    Record {
        /// The record as JSON, or its encoded bytes in hexadecimal; a long one is cut.
        text: String,
    },
    /// The process ended by itself.
    ExitCode {
        /// With this code.
        code: i32,
    },
    /// The process was ended by a signal.
    Signal {
        /// Its number.
        number: i32,
        /// Its name.
        name: String,
    },
    /// The kernel killed a process for lack of memory at the same time.
    OutOfMemoryKills {
        /// The number of processes.
        kills: u64,
        /// The scope of the counter: `cgroup` (this run's own group) or `machine`.
        counted_by: String,
    },
    /// The process was not running when it was checked: the system's one-letter state.
    ProcessState {
        /// `T` is stopped.
        state: char,
    },
    /// Nothing was heard for this long.
    Silence {
        /// In milliseconds.
        ms: u64,
    },
    /// Other nodes that had not heard from it either.
    Votes {
        /// Those nodes.
        nodes: Vec<NodeId>,
    },
    /// A connection ended or could not be made.
    Connection {
        /// The node that saw it.
        seen_by: NodeId,
        /// What it saw.
        text: String,
    },
    /// An operator held the commit back: the other operators had stored more.
    HeldBack {
        /// The operator.
        operator: OperatorName,
        /// The last of its epochs that all backups had stored; absent if there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stored_through: Option<Epoch>,
    },
    /// The error text of the part that failed, or of the part that used it.
    Error {
        /// The text.
        text: String,
    },
    /// The failure was injected.
    OnPurpose {
        /// How.
        fault: FaultKind,
    },
}

impl fmt::Display for Clue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clue::Panic { message, location: Some(location) } => {
                write!(f, "panic at {location}: {message}")
            }
            Clue::Panic { message, location: None } => write!(f, "panic: {message}"),
            Clue::Record { text } => write!(f, "the record was {text}"),
            Clue::ExitCode { code } => write!(f, "exit code {code}"),
            Clue::Signal { name, .. } => write!(f, "{name}"),
            Clue::OutOfMemoryKills { kills, counted_by } => {
                write!(
                    f,
                    "{} for lack of memory, counted by the {counted_by}",
                    counted(*kills, "kill")
                )
            }
            Clue::ProcessState { state: 'T' | 't' } => f.write_str("its process was stopped"),
            Clue::ProcessState { state } => write!(f, "its process was in state {state}"),
            Clue::Silence { ms } => write!(f, "nothing was heard for {ms} ms"),
            Clue::Votes { nodes } => write!(f, "not heard by {} either", names(nodes)),
            Clue::Connection { seen_by, text } => write!(f, "seen by node {seen_by}: {text}"),
            Clue::HeldBack { operator, stored_through } => {
                let through = stored_through.map_or("none".into(), |epoch| format!("{epoch}"));
                write!(f, "operator \"{operator}\" held the commit back (stored through {through})")
            }
            Clue::Error { text } => f.write_str(text),
            Clue::OnPurpose { fault } => write!(f, "caused on purpose ({fault})"),
        }
    }
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

/// A node's or the launcher's part of a failure report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The view in which it was seen; 0 before the first.
    pub view: ViewNumber,
    /// What failed.
    pub component: Component,
    /// Where.
    pub place: FailurePlace,
    /// Why.
    pub cause: Cause,
    /// What that rests on.
    pub evidence: Vec<Clue>,
}

/// The consequence of a failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Consequence {
    /// The job continued in another view.
    Recovered {
        /// Its number.
        view: ViewNumber,
        /// Its nodes.
        members: Vec<NodeId>,
        /// The nodes of the previous view that are not in it.
        left: Vec<NodeId>,
        /// The last committed epoch, after which the job continued; absent if there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<Epoch>,
        /// The nodes that took over partitions, and how many.
        takeovers: Vec<Takeover>,
    },
    /// The job ended with an error, or this node's part in it did: the error says which.
    Ended {
        /// The error.
        why: String,
    },
    /// The job finished, and no other view was needed.
    Finished,
}

/// What a failure cost. Failures that one recovery ended have the same cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cost {
    /// How long each phase took on the slowest node.
    pub phases_ms: Phases,
    /// Epochs that were begun but not committed, and were processed again.
    pub epochs_rewound: u64,
    /// Records that were read again.
    pub records_replayed: u64,
    /// Partitions that have another owner than before.
    pub partitions_moved: u64,
    /// Encoded bytes of the replicas that new owners opened.
    pub bytes_opened: u64,
}

/// A failure: what, where, why, how certain, what was done, what it cost.
///
/// There is one for each failure, however many nodes noticed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureReport {
    /// Its number in the run, from 1.
    ///
    /// A report may be followed by another one with the same number, when a node that was given up answers
    /// after all: the later report replaces the earlier one.
    pub id: u64,
    /// The view in which it happened; 0 before the first.
    pub view: ViewNumber,
    /// What failed.
    pub component: Component,
    /// Where.
    pub place: FailurePlace,
    /// Why.
    pub cause: Cause,
    /// How sure that is.
    pub certainty: Certainty,
    /// The nodes that noticed it.
    pub noticed_by: Vec<NodeId>,
    /// When it was first noticed, in milliseconds of Unix time.
    pub noticed_at_ms: f64,
    /// What the conclusion rests on.
    pub evidence: Vec<Clue>,
    /// What came of it.
    pub consequence: Consequence,
    /// What it cost; absent where no recovery was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

impl FailureReport {
    /// A failure with a single known observation.
    pub(super) fn of(id: u64, observation: Observation, at_ms: f64) -> Self {
        let Observation { view, component, place, cause, evidence } = observation;
        FailureReport {
            id,
            view,
            component,
            place,
            cause,
            certainty: Certainty::Suspected,
            noticed_by: Vec::new(),
            noticed_at_ms: at_ms,
            evidence,
            consequence: Consequence::Finished,
            cost: None,
        }
    }

    /// Adds an observation of the same failure.
    pub(super) fn add(&mut self, observation: Observation) {
        let Observation { component, mut place, cause, evidence, .. } = observation;
        if cause > self.cause {
            self.cause = cause;
            self.component = component;
            std::mem::swap(&mut self.place, &mut place);
        }
        self.place.complete(&place);
        for clue in evidence {
            self.add_clue(clue);
        }
    }

    pub(super) fn add_clue(&mut self, clue: Clue) {
        if !self.evidence.contains(&clue) {
            self.evidence.push(clue);
        }
    }

    /// Whether the failure was injected.
    pub fn is_on_purpose(&self) -> bool {
        self.evidence.iter().any(|clue| matches!(clue, Clue::OnPurpose { .. }))
    }

    /// The record that could not be processed, if it was identified.
    pub fn record(&self) -> Option<&str> {
        self.evidence.iter().find_map(|clue| match clue {
            Clue::Record { text } => Some(text.as_str()),
            _ => None,
        })
    }
}

/// A few lines for human readers.
impl fmt::Display for FailureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FailureReport { id, component, place, cause, certainty, view, .. } = self;
        write!(f, "failure {id} in view {view}: {component} {cause} ({certainty}): {place}")?;
        if let [first, ..] = &self.noticed_by[..] {
            let others = self.noticed_by.len() - 1;
            let more = if others > 0 { format!(" and {others} more") } else { String::new() };
            write!(f, "\n  noticed   by node {first}{more}")?;
        }
        for clue in &self.evidence {
            write!(f, "\n  evidence  {clue}")?;
        }
        match &self.consequence {
            Consequence::Recovered { view, members, left, resume, takeovers } => {
                let resume = resume.map_or("the beginning".to_owned(), |e| format!("epoch {e}"));
                write!(f, "\n  then      view {view} of nodes {}, after {resume}", names(members))?;
                if !left.is_empty() {
                    write!(f, "; without {}", names(left))?;
                }
                for Takeover { node, partitions } in takeovers {
                    write!(f, "; node {node} took over {partitions} partitions")?;
                }
            }
            Consequence::Ended { why } => write!(f, "\n  then      ended with an error: {why}")?,
            Consequence::Finished => write!(f, "\n  then      the job finished")?,
        }
        if let Some(cost) = &self.cost {
            let phases = cost.phases_ms.named().map(|(name, ms)| format!("{name} {ms:.1}"));
            let phases: Vec<String> = phases.collect();
            write!(
                f,
                "\n  cost      {:.1} ms ({}); {} epochs rewound, {} records replayed, {} bytes opened",
                cost.phases_ms.total_ms(),
                phases.join(", "),
                cost.epochs_rewound,
                cost.records_replayed,
                cost.bytes_opened,
            )?;
        }
        Ok(())
    }
}
