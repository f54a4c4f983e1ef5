//! Vault: a node's store of snapshots and of live state between generations.
//!
//! One vault serves all workers of a node and outlives every generation. When a view is installed, everything
//! above its resume epoch is removed, except for journals. What it calls a copy is complete: it has every
//! delta of every operator up to the stated epoch. A copy that is still being filled does not count.
//!
//! Operators keep tables or traces. A table's owner leaves its live state here when it stops. The owner of a
//! trace also sends each delta to its own vault, and opens its state from there in the next view. So an owner
//! has its own copy of operators [of chunks](StateKind::Chunks).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::codec::CodecError;
use crate::ids::{Epoch, OperatorName, PartitionId, ViewNumber};
use crate::snapshot::SnapshotError;
use crate::state::{ChunkMerger, ReplicaBase};

mod chunks;
mod identity;
mod journals;
mod memory;

pub use journals::{JOURNAL_BYTES_MAX, Journal, JournalEntry};
pub use memory::{MemoryVault, PENDING_BYTES_MAX, Registry, UnsavedState};

/// The role of a node for a partition in one view. It is both if a node has to be its own backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// One of its workers runs the partition.
    pub owner: bool,
    /// It receives the partition's deltas.
    pub backup: bool,
}

/// What an operator keeps in a vault.
pub enum StateKind {
    /// Tables, one for each of so many partitions.
    Table(u32),
    /// Logs of chunks, one for each of so many partitions; the merger that came last merges them.
    Chunks(u32, Arc<dyn ChunkMerger>),
    /// Journals of what was fed by hand, one for each of so many shares.
    Journals(u32),
}

/// The live state of one partition, as a stopped worker left it.
pub struct Live {
    /// The state.
    pub state: Box<dyn Any + Send>,
    /// The epoch to which it must be rewound: the least resume epoch that was installed since the deposit.
    pub rewind_to: Option<Epoch>,
}

/// The state of one partition at the view's resume epoch.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its entries.
    pub base: Arc<ReplicaBase>,
    /// The epoch of the last delta in it, which is the predecessor of the next one.
    pub last: Option<Epoch>,
}

/// The epochs at which a replica can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The oldest: the latest base over all operators. `None` means the empty beginning.
    pub from: Option<Epoch>,
    /// The newest: the epoch through which the deltas of all operators are complete.
    pub through: Option<Epoch>,
}

/// The copies of one partition in one vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// The replica, if it is complete.
    pub replica: Option<Span>,
    /// Whether the live state of every known operator is here, or for operators of chunks the owner's copy.
    pub live: bool,
}

/// What a vault holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The operators it knows, by their numbers.
    pub operators: BTreeMap<u64, OperatorName>,
    /// The partitions for which it has any copy.
    pub partitions: BTreeMap<PartitionId, Copies>,
    /// Whether the job has hand-fed inputs. If so, a copy before the first commit must include the journals,
    /// which not every node has.
    pub journals: bool,
    /// The greatest epoch recorded in the view, or the one that it resumed from.
    pub recorded: Option<Epoch>,
    /// The numbers of the operators that were dropped.
    pub dropped: BTreeSet<u64>,
}

/// How much a vault holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of deposits of live state that wait to be taken.
    pub deposits: usize,
    /// The approximate number of bytes in folded replicas.
    pub replica_bytes: usize,
    /// The number of bytes of deltas that are not folded yet.
    pub pending_bytes: usize,
    /// The number of partitions whose copy is being filled and not complete yet.
    pub filling_partitions: usize,
    /// The number of frames that arrived for partitions without a complete copy on this node.
    pub dropped_frames: u64,
    /// The number of bytes of journals.
    pub journal_bytes: usize,
}

/// The reason for which a vault refused a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The call belongs to a different view than the installed one: it came from a generation that is over.
    #[error("a call of view {actual} came in view {expected:?}")]
    View {
        /// The view installed.
        expected: Option<ViewNumber>,
        /// The view of the call.
        actual: ViewNumber,
    },
    /// The view of the call is closed: evidence was given about the contents, and nothing may change them.
    #[error("a call of view {view} came after the view was closed")]
    Closed {
        /// The view of the call.
        view: ViewNumber,
    },
    /// A view is not after the one installed.
    #[error("view {actual} cannot follow view {installed}")]
    ViewFell {
        /// The view installed.
        installed: ViewNumber,
        /// The view to be installed.
        actual: ViewNumber,
    },
    /// A view's resume epoch is below what this node resumed from or recorded.
    #[error("a view resumes from {actual:?}, but epoch {expected:?} is committed")]
    ResumeFell {
        /// The epoch known to be committed.
        expected: Option<Epoch>,
        /// The resume epoch of the view to be installed.
        actual: Option<Epoch>,
    },
    /// A snapshot was refused.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// No operator with this number is registered.
    #[error("no operator of the job has the number {0:016x}")]
    UnknownOperator(u64),
    /// A frame belongs to a partition that the operator does not have.
    #[error("operator {operator} has {partitions} partitions, and no {partition}")]
    UnknownPartition {
        /// The operator.
        operator: OperatorName,
        /// How many partitions it has.
        partitions: u32,
        /// The partition named.
        partition: PartitionId,
    },
    /// Two names have the same number. Rename one of them.
    #[error("operators {there} and {new} have the same number: rename one of them")]
    Collision {
        /// The name registered first.
        there: OperatorName,
        /// The name that is being registered.
        new: OperatorName,
    },
    /// An operator's codec, types or number of partitions differ from those of its existing state.
    #[error(
        "operator {operator} has changed: its codec, types or partitions were {expected:?} and are {actual:?}"
    )]
    Changed {
        /// The operator.
        operator: OperatorName,
        /// Fingerprint and partitions of the existing state.
        expected: (u32, u32),
        /// Fingerprint and partitions of the operator as it is now.
        actual: (u32, u32),
    },
    /// The cluster goes on from a durable tier, which does not know an operator of the job.
    #[error(
        "operator {operator} is new: what this cluster goes on from has no state of it; restore the job as it was, or \
         start afresh, with another directory for --durable"
    )]
    New {
        /// The operator.
        operator: OperatorName,
    },
    /// An operator kept a table and now keeps a trace, or vice versa.
    #[error("operator {operator} has changed: it kept {}", kept(.chunks))]
    StateChanged {
        /// The operator.
        operator: OperatorName,
        /// Whether it keeps a trace now.
        chunks: bool,
    },
    /// Chunks of a trace cannot be merged. All of them are still there.
    #[error("chunks of partition {partition} of operator {operator} cannot be merged: {cause}")]
    Chunks {
        /// The operator.
        operator: OperatorName,
        /// The partition.
        partition: PartitionId,
        /// What the merger said.
        cause: CodecError,
    },
    /// A merger has broken its contract. All of the chunks are still there.
    #[error(
        "the merger of operator {operator} made {actual} chunks of {given} in partition {partition}"
    )]
    MoreChunks {
        /// The operator.
        operator: OperatorName,
        /// The partition.
        partition: PartitionId,
        /// How many chunks it was given.
        given: usize,
        /// How many it returned.
        actual: usize,
    },
    /// What arrived for a journal does not continue what is there.
    #[error(
        "the journal of share {share} of input {operator} is continued to {next} after {actual:?}, \
         but here it ends at {expected:?}"
    )]
    JournalGap {
        /// The input.
        operator: OperatorName,
        /// The share.
        share: u32,
        /// The epoch to which the journal would be continued.
        next: Epoch,
        /// The epoch at which it ends here.
        expected: Option<Epoch>,
        /// The epoch at which it should end.
        actual: Option<Epoch>,
    },
    /// More hand-fed data than a node keeps.
    #[error(
        "the journals of a node hold {held_bytes} of at most {limit_bytes} bytes and have no room for \
         {bytes} more of share {share} of input {operator}: let the worker step while the input is fed, so \
         that what was fed is committed"
    )]
    JournalFull {
        /// The input.
        operator: OperatorName,
        /// The share.
        share: u32,
        /// How much would be added.
        bytes: usize,
        /// How much is there, over all inputs.
        held_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

fn kept(chunks: &bool) -> &'static str {
    if *chunks { "a table, and now keeps a trace" } else { "a trace, and now keeps a table" }
}

impl VaultError {
    /// Whether the call came from a generation that is over: nothing is wrong except that its worker is late.
    pub fn is_late(&self) -> bool {
        matches!(self, VaultError::View { .. } | VaultError::Closed { .. })
    }

    /// Whether the bytes passed to the vault differ from those that were sent.
    pub fn is_damage(&self) -> bool {
        matches!(self, VaultError::Snapshot(error) if error.is_damage())
    }
}

/// A node's store of snapshots and of live state, as its workers see it.
///
/// Partitions are those of an operator. If it has its own number of partitions, its partition p belongs to
/// the view's partition p modulo the view's number of partitions.
///
/// A worker may still be running when its view has ended, since a thread cannot be forced to leave the job's
/// own code. So each call from a worker names its view, and is refused once that view is
/// [closed](MemoryVault::close) or another one is installed. Such a worker can therefore change nothing.
pub trait Vault: Send + Sync {
    /// Returns the number of an operator, which the job has in this view.
    ///
    /// Called by every worker. The fingerprint is that of its codec and types, or of an input's records.
    fn register(
        &self,
        view: ViewNumber,
        operator: &OperatorName,
        fingerprint: u32,
        kind: StateKind,
    ) -> Result<u64, VaultError>;

    /// Returns the operators that have state here, and that nobody registered in this view.
    fn unclaimed(&self, view: ViewNumber) -> Result<Vec<OperatorName>, VaultError>;

    /// Stores the deltas that are back to back in `frames`, and returns how many it stored.
    ///
    /// If any of them is damaged, all are refused. A delta that does not follow its predecessor is an error,
    /// but the deltas before it are stored. Frames of partitions for which this node has no complete copy are
    /// dropped and counted.
    ///
    /// For operators of chunks, the owner also receives the deltas: each once, whether it is also a backup or
    /// not. A copy that has been complete since the view began accepts only the chunks whose names are above
    /// the view's resume epoch, and ignores those that fill other copies. A new chunk has a name after the
    /// delta's predecessor and not after the delta.
    fn store(&self, view: ViewNumber, frames: &[u8]) -> Result<usize, VaultError>;

    /// Notes that every delta of `operator` up to `through` has been stored, for all partitions held.
    fn complete(&self, view: ViewNumber, operator: u64, through: Epoch) -> Result<(), VaultError>;

    /// Notes that `epoch` is committed. A lower epoch than before changes nothing.
    fn record(&self, view: ViewNumber, epoch: Epoch) -> Result<(), VaultError>;

    /// Leaves the live state of a partition for the next generation of this process.
    ///
    /// This is only for the state of a worker that stopped between two activations and did not panic. If this
    /// node does not own the partition, or another view is installed, the state is dropped.
    fn deposit(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
        live: Box<dyn Any + Send>,
    );

    /// Takes the live state of a partition, if it was deposited before the view was installed.
    fn take_live(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Live>, VaultError>;

    /// Opens the replica of a partition at the resume epoch; `None` if there is no complete copy.
    ///
    /// A partition that never had a delta opens empty. For an operator of chunks, the owner's own copy is
    /// opened, again in each view.
    fn open_replica(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Opened>, VaultError>;

    /// Notes that an opened replica has been decoded, so that it may go unless it is fed as a backup.
    ///
    /// A copy of an operator of chunks always receives deltas, so this never removes it.
    fn close_replica(&self, view: ViewNumber, operator: u64, partition: PartitionId);

    /// Takes the frames of journals that stand back to back, and returns how many it took.
    ///
    /// If any of them is damaged, all are refused. Journals are not snapshots: installing a view keeps what
    /// is above its resume epoch, if this node is owner or backup of the share's partition, and drops only
    /// what arrived without its mark. What is [recorded](Vault::record) is removed. Frames of shares for
    /// which this node is neither owner nor backup are dropped.
    fn store_journal(&self, view: ViewNumber, frames: &[u8]) -> Result<usize, VaultError>;

    /// Returns the journal of a share; `None` if there is none here.
    fn read_journal(
        &self,
        view: ViewNumber,
        operator: u64,
        share: u32,
    ) -> Result<Option<Journal>, VaultError>;

    /// Notes that the job has dropped the operators of these numbers: nothing of them is kept or taken any
    /// more, in this view and later ones, and they count as complete.
    fn drop_operators(&self, view: ViewNumber, numbers: &[u64]) -> Result<(), VaultError>;

    /// The numbers of all operators that were dropped.
    fn dropped(&self) -> BTreeSet<u64>;
}
