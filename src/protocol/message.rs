//! What goes into a member's state machine, and what comes out of it.
//!
//! The runtime turns what happens into an [`Input`] and carries out each [`Output`] in order. The
//! machine never waits and never calls anything: an output that can fail comes back as an input.

use std::collections::BTreeSet;
use std::fmt;

pub use ringfence_operators::ids::WorkerPanic;
use ringfence_operators::ids::{Epoch, Incarnation, NodeId, PartitionId, ViewNumber};
use serde::{Deserialize, Serialize};

use super::durability::{Order, Written};
use super::plan::PlanError;
use super::ranges::list;
use super::view::{Evidence, View, ViewError};

/// What one node says to another on their control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The sender stops the generation of `view`, and the receiver should too.
    Stop {
        /// The view in which something is wrong.
        view: ViewNumber,
        /// What the sender saw.
        reason: StopReason,
    },
    /// The sender has stopped for good and holds this. It may come again with more copies in it.
    Evidence(Evidence),
    /// Workers of the sender are still in the job's own code: their live state of these partitions may
    /// yet come, and the sender's evidence grow by it. The last such message of a view counts.
    Awaiting {
        /// The view whose generation those workers are of.
        view: ViewNumber,
        /// The partitions, ascending; none once nobody is waited for any more.
        partitions: Vec<PartitionId>,
    },
    /// The register has a view of this number.
    ViewCreated {
        /// The number of the view.
        number: ViewNumber,
    },
    /// The sender lives.
    Beat {
        /// The nodes that it has not heard for longer than usual.
        suspects: BTreeSet<NodeId>,
    },
    /// So much has come over the data connection from the receiver in this view.
    Received {
        /// The view.
        view: ViewNumber,
        /// The bytes.
        bytes: u64,
    },
    /// The workers of the sender have built these in this view, item by item.
    Catalogue {
        /// The view.
        view: ViewNumber,
        /// A digest of each item.
        digests: Vec<u64>,
    },
    /// The first item in which the sender's catalogue is not that of the receiver.
    CatalogueItem {
        /// The view.
        view: ViewNumber,
        /// Its place.
        position: u64,
        /// What the sender has there.
        item: String,
    },
    /// All workers of the sender have dropped this dataflow of the job.
    Dropped {
        /// The view.
        view: ViewNumber,
        /// The dataflow, as timely counts them.
        dataflow: u64,
    },
    /// The sender is in no view and asks to be taken in, with nothing.
    Join,
    /// The generation of the sender is built, and has read again what had been read before.
    CaughtUp {
        /// The view.
        view: ViewNumber,
    },
    /// The sender has all copies for which it was filled in this view.
    Refilled {
        /// The view.
        view: ViewNumber,
    },
    /// The receiver is to write what is not durable yet.
    DurableOrder(Order),
    /// What came of an order of the receiver's.
    DurableWritten {
        /// The order.
        order: Order,
        /// What came of it.
        written: Written,
    },
    /// All is durable through this epoch.
    Durable {
        /// The view in which that was achieved.
        view: ViewNumber,
        /// The epoch.
        epoch: Epoch,
    },
    /// The job is complete, and the register says so.
    Done,
    /// The job cannot go on, on any node.
    Fatal {
        /// Why.
        message: String,
    },
}

/// Why a member stops a view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReason {
    /// What it saw, in words.
    pub why: String,
    /// The panic of one of its workers, where that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic: Option<Box<WorkerPanic>>,
    /// The member to which it has lost its data connection, where that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_link: Option<NodeId>,
    /// Whether nothing is wrong: the view ends so that the next can have other members, or another table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub planned: bool,
}

impl From<&Suspicion> for StopReason {
    fn from(what: &Suspicion) -> Self {
        let mut reason = StopReason { why: what.to_string(), ..StopReason::default() };
        match what {
            Suspicion::WorkerPanicked { panic } => reason.panic = Some(Box::new(panic.clone())),
            Suspicion::LinkLost { node, .. } => reason.lost_link = Some(*node),
            Suspicion::Planned { .. } => reason.planned = true,
            // Whoever hears it first may pass it on before the planner is heard.
            Suspicion::Stopped { reason: StopReason { why, planned: true, .. }, .. } => {
                reason = StopReason { why: why.clone(), planned: true, ..StopReason::default() };
            }
            _ => {}
        }
        reason
    }
}

/// What happened on or around a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The node knows its run and has reached the register.
    ///
    /// Until this comes, no view is proposed.
    Started {
        /// Whether the run is marked as done.
        done: bool,
    },
    /// A control connection stands. That of an earlier incarnation must have been reported lost first.
    PeerUp {
        /// The peer.
        node: NodeId,
        /// This start of the peer.
        incarnation: Incarnation,
        /// Where the peer listens.
        address: String,
    },
    /// A control connection ended.
    PeerLost {
        /// The peer.
        node: NodeId,
        /// The start of the peer whose connection it was: a later one is not lost by it.
        incarnation: Incarnation,
        /// What was seen.
        why: String,
    },
    /// A peer said something on its control connection.
    Message {
        /// The peer.
        from: NodeId,
        /// What it said.
        message: Message,
    },
    /// A data connection ended.
    LinkLost {
        /// The view that the connection was made for.
        view: ViewNumber,
        /// The peer.
        node: NodeId,
        /// What was seen.
        why: String,
    },
    /// A worker thread of this node panicked.
    WorkerPanicked {
        /// The view of its generation.
        view: ViewNumber,
        /// What is known of it.
        panic: WorkerPanic,
    },
    /// A worker thread of this node does not come back from what it does.
    WorkerHung {
        /// The view of its generation.
        view: ViewNumber,
        /// The index of the worker within the node.
        worker: u32,
        /// How long it has not answered.
        busy_ms: u64,
    },
    /// A data connection could not be made.
    ConnectFailed {
        /// The view that it was for.
        view: ViewNumber,
        /// The peer.
        node: NodeId,
        /// What was seen.
        why: String,
    },
    /// The generation of `view` is built and its workers step.
    GenerationRunning {
        /// The view.
        view: ViewNumber,
    },
    /// The generation is closed: nothing that its workers still do changes what the node holds.
    GenerationStopped {
        /// The view.
        view: ViewNumber,
        /// What the node holds.
        evidence: Evidence,
        /// The partitions whose live state may still come, ascending: their workers have not left yet.
        awaited: Vec<PartitionId>,
    },
    /// A worker has left a closed generation late, or is not waited for any longer.
    EvidenceGrown {
        /// The view.
        view: ViewNumber,
        /// What the node holds: all that it gave before, and perhaps more.
        evidence: Evidence,
        /// The partitions whose live state may still come, ascending.
        awaited: Vec<PartitionId>,
    },
    /// The generation of `view` is built, and its sources have read again what had been read before.
    CaughtUp {
        /// The view.
        view: ViewNumber,
    },
    /// An epoch was committed just now.
    Committed {
        /// The view.
        view: ViewNumber,
        /// The epoch.
        epoch: Epoch,
    },
    /// This node has all copies for which it was filled.
    Refilled {
        /// The view.
        view: ViewNumber,
    },
    /// Every dataflow is complete, and so is every release of every shard on every node.
    GenerationFinished {
        /// The view.
        view: ViewNumber,
    },
    /// Something happened on this node after which the job cannot go on anywhere.
    FatalError {
        /// What.
        message: String,
    },
    /// The register answered. It is asked one thing at a time.
    Register(RegisterReply),
    /// Time passed.
    Tick,
}

/// An answer of the register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterReply {
    /// To [`Output::ReadView`].
    Read {
        /// The number that was asked for.
        number: ViewNumber,
        /// The view, if it exists.
        view: Option<View>,
        /// Whether the run is marked as done.
        done: bool,
    },
    /// To [`Output::Propose`]: this view is now the one of its number.
    Created {
        /// The number.
        number: ViewNumber,
    },
    /// To [`Output::Propose`]: there is a view of this number already.
    Exists {
        /// The number.
        number: ViewNumber,
    },
    /// To [`Output::MarkDone`]: the run is marked.
    DoneMarked,
    /// To anything: it may have happened or not, and the register may answer later.
    Unavailable {
        /// What was seen.
        why: String,
    },
    /// To anything: the register holds what it must not, and asking again does not help.
    Unusable {
        /// What is wrong, and what to do.
        message: String,
    },
}

/// What the runtime is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message to a peer; drop it if the connection is gone.
    Send(NodeId, Message),
    /// Make a control connection to a member, if there is none and none is being made.
    Connect {
        /// The member.
        node: NodeId,
        /// The start of it.
        incarnation: Incarnation,
        /// Where it listens.
        address: String,
    },
    /// Create the view in the register.
    Propose(View),
    /// Read a view from the register, and then whether the run is done.
    ReadView(ViewNumber),
    /// Mark the run as done in the register.
    MarkDone(ViewNumber),
    /// Install the view in the vault, connect to its members, build its generation.
    Install(View),
    /// Abort the workers of the view's generation, or what there is of it, and report when they are joined.
    StopGeneration {
        /// The view.
        view: ViewNumber,
    },
    /// Tell the user or the log.
    Report(Event),
    /// End the process with success. What is left of a generation may be torn down.
    Finish,
    /// End the process with this error. What is left of a generation may be torn down.
    Fail(ProtocolError),
}

/// Evidence that something may have failed. It is never proof.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the input that each comes from")]
pub enum Suspicion {
    /// A member's control connection ended.
    PeerLost { node: NodeId, why: String },
    /// A data connection to a member ended.
    LinkLost { node: NodeId, why: String },
    /// A data connection to a member could not be made.
    ConnectFailed { node: NodeId, why: String },
    /// A member has been silent for too long.
    Silent { node: NodeId, silent_ms: u64, votes: BTreeSet<NodeId> },
    /// A worker of this node panicked.
    WorkerPanicked { panic: WorkerPanic },
    /// A worker of this node does not come back from what it does.
    WorkerHung { worker: u32, busy_ms: u64 },
    /// A member stops its generation.
    Stopped { node: NodeId, reason: StopReason },
    /// A member of a new view had gone before the view was known here.
    Gone { node: NodeId },
    /// It is no suspicion at all: the view ends on purpose.
    Planned { why: String },
}

impl Suspicion {
    /// Whether it follows from the end of data connections alone.
    pub(super) fn is_of_links(&self) -> bool {
        match self {
            Suspicion::LinkLost { .. } | Suspicion::ConnectFailed { .. } => true,
            Suspicion::Stopped { reason, .. } => reason.lost_link.is_some(),
            _ => false,
        }
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Suspicion::PeerLost { node, why } => write!(f, "node {node} is gone: {why}"),
            Suspicion::LinkLost { node, why } => {
                write!(f, "the data connection to node {node} is lost: {why}")
            }
            Suspicion::ConnectFailed { node, why } => {
                write!(f, "no data connection to node {node}: {why}")
            }
            Suspicion::Silent { node, silent_ms, votes } => {
                write!(f, "node {node} has been silent for {silent_ms} ms")?;
                match votes.len() {
                    0 => Ok(()),
                    1 => write!(f, ", and node {} does not hear it either", list(votes)),
                    _ => write!(f, ", and nodes {} do not hear it either", list(votes)),
                }
            }
            Suspicion::WorkerPanicked { panic } => panic.fmt(f),
            Suspicion::WorkerHung { worker, busy_ms } => {
                write!(f, "worker {worker} hangs: it has not answered for {busy_ms} ms")
            }
            Suspicion::Stopped { node, reason } => write!(f, "node {node} stops: {}", reason.why),
            Suspicion::Gone { node } => write!(f, "node {node} is gone"),
            Suspicion::Planned { why } => f.write_str(why),
        }
    }
}

/// What a user may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something may have failed.
    Suspicion {
        /// The current view.
        view: ViewNumber,
        /// What was seen.
        what: Suspicion,
    },
    /// A view ends on purpose.
    Planned {
        /// The current view.
        view: ViewNumber,
        /// What for, in words.
        why: String,
    },
    /// The run has a view in which this process is not, so it asks to be taken in.
    Joining {
        /// The view.
        view: ViewNumber,
    },
    /// A member has been silent for longer than usual; the others are asked.
    Silent {
        /// The member.
        node: NodeId,
        /// For how long.
        silent_ms: u64,
    },
    /// A member that was silent has been heard again.
    HeardAgain {
        /// The member.
        node: NodeId,
        /// How long it had been silent.
        silent_ms: u64,
    },
    /// The generation has stopped.
    Stopped {
        /// Its view.
        view: ViewNumber,
        /// The last epoch that it recorded.
        recorded: Option<Epoch>,
    },
    /// No view can be made without these members, or they are slow to answer.
    Waiting {
        /// The current view.
        view: ViewNumber,
        /// The members without evidence that are not known to be gone.
        missing: Vec<NodeId>,
    },
    /// No view can be made before workers come back from the job's own code: nobody else has their state.
    WaitingForWorkers {
        /// The current view.
        view: ViewNumber,
        /// The nodes of those workers, ascending.
        nodes: Vec<NodeId>,
        /// The partitions that only they hold, ascending.
        partitions: Vec<PartitionId>,
    },
    /// A view was agreed that this node is a member of.
    ViewAgreed {
        /// Its number.
        number: ViewNumber,
        /// The epoch from which it resumes.
        resume: Option<Epoch>,
        /// Its members.
        members: Vec<NodeId>,
        /// The members of the view before that are not in it.
        left: Vec<NodeId>,
        /// The members that it has taken in.
        joined: Vec<NodeId>,
        /// The partitions whose owner changed.
        moved: Vec<PartitionId>,
        /// The partitions with fewer backups on other nodes than asked for.
        under_replicated: Vec<PartitionId>,
    },
    /// The generation of a view runs on this node.
    Running {
        /// The view.
        view: ViewNumber,
    },
    /// The register did not answer; it is asked again.
    RegisterUnavailable {
        /// What was seen.
        why: String,
    },
    /// The job is complete.
    Finishing {
        /// The last view.
        view: ViewNumber,
    },
}

/// Why a node ended without finishing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant is its documentation")]
pub enum ProtocolError {
    #[error(
        "node {node}, incarnation {incarnation}, is not in view {number}: the others went on without it; \
         its process must end, and the job goes on without it"
    )]
    Excluded { number: ViewNumber, node: NodeId, incarnation: Incarnation },
    #[error(
        "node {node} has lost its connection to node {other}, and the others have not: it leaves the \
         cluster before view {number}, so that the job goes on"
    )]
    CutOff { number: ViewNumber, node: NodeId, other: NodeId },
    #[error(
        "view {number} of the run has {}, and this process has {}; start it with the flags of the others, or \
         start the job anew on a fresh register",
        shape(expected),
        shape(found)
    )]
    OtherShape { number: ViewNumber, expected: [u32; 3], found: [u32; 3] },
    #[error(
        "nodes {} of view {number} could not be reached within {limit_ms} ms, so this process cannot be taken in; \
         if all members have ended, what they held is lost: start the job anew on a fresh register",
        list(.nodes)
    )]
    NobodyReached { number: ViewNumber, limit_ms: u64, nodes: Vec<NodeId> },
    #[error("the run is done already; start the job on a fresh register")]
    RunDone,
    #[error(
        "view {number} belongs to run {found}, expected run {expected}; every run needs a register of its own"
    )]
    OtherRun { number: ViewNumber, expected: String, found: String },
    #[error("view {number} in the register is damaged: {error}")]
    BadView { number: ViewNumber, error: ViewError },
    #[error(
        "view {number} does not follow the view that this node knows; the register was tampered with"
    )]
    Diverged { number: ViewNumber },
    #[error("view {number} misquotes what this node reported, so it cannot take part")]
    Misquoted { number: ViewNumber },
    #[error(
        "the workers of view {view} did not stop within {limit_ms} ms, and those of earlier views are still \
         in the job's own code, too: it must give up its thread from time to time"
    )]
    StopLimit { view: ViewNumber, limit_ms: u64 },
    #[error(
        "{views} views followed each other without a commit in between, so the job ends; the last of them, \
         view {last}, ended because {why} (see --views-without-commit)"
    )]
    NoProgress { views: u32, last: ViewNumber, why: String },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(
        "workers panicked in more than {restarts_max} views within {} s, so the job ends; the last time it \
         was node {node}: {panic} (see --restarts)",
        window_ms / 1000
    )]
    RestartBudget { node: NodeId, restarts_max: u32, window_ms: u64, panic: Box<WorkerPanic> },
    #[error("node {node} ended the job: {message}")]
    Peer { node: NodeId, message: String },
    #[error("{message}")]
    Local { message: String },
    #[error("the register cannot be used: {message}")]
    Register { message: String },
}

/// What all members of a run have in common, in words.
fn shape([partitions, workers, backups]: &[u32; 3]) -> String {
    format!("{partitions} partitions, {workers} workers in each process and {backups} backups")
}
