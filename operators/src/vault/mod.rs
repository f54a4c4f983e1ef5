//! Vault: a node's store of snapshots and of live state between generations.
//!
//! One vault serves all workers of a node and outlives every generation. What it holds above the
//! resume epoch of a view is gone once that view is installed, except for journals; what it calls a copy is complete: every
//! delta of every operator up to the epoch it says. A copy that is still being filled is none.
//!
//! Operators keep tables or traces. A table's owner leaves its live state here when it stops. The owner
//! of a trace sends each delta to its own vault as well, and opens from there in the next view: so of
//! operators [of chunks](Kind::Chunks) an owner has a copy of its own.

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
pub use memory::{MemoryVault, PENDING_BYTES_MAX};

/// What a node is to a partition in one view; both where one node has to be its own backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// One of its workers runs the partition.
    pub owner: bool,
    /// It is sent the partition's deltas.
    pub backup: bool,
}

/// What an operator keeps in a vault.
pub enum Kind {
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
    /// The epoch to which it must be rewound: the least that was installed since the deposit.
    pub rewind_to: Option<Epoch>,
}

/// The state of one partition at the view's resume epoch.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its entries.
    pub base: Arc<ReplicaBase>,
    /// The epoch of the last delta in it: the predecessor of the next.
    pub last: Option<Epoch>,
}

/// The epochs at which a replica can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The oldest: the latest base over all operators. `None` is before anything.
    pub from: Option<Epoch>,
    /// The newest: what the deltas of all operators are complete through.
    pub through: Option<Epoch>,
}

/// The copies of one partition in one vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// The replica, if it is complete.
    pub replica: Option<Span>,
    /// Whether the live state of every known operator lies here, and of those of chunks the owner's copy.
    pub live: bool,
}

/// What a vault holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The operators it knows, by their numbers.
    pub operators: BTreeMap<u64, OperatorName>,
    /// The partitions of which it has any copy.
    pub partitions: BTreeMap<PartitionId, Copies>,
    /// Whether the job has inputs that are fed by hand. Before the first commit a copy is then one of
    /// the journals, which not every node has.
    pub journals: bool,
    /// The greatest epoch recorded in the view, or the one that it resumed from.
    pub recorded: Option<Epoch>,
    /// The numbers of the operators that were dropped.
    pub dropped: BTreeSet<u64>,
}

/// How much a vault holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many deposits of live state wait to be taken.
    pub deposits: usize,
    /// About how many bytes folded replicas occupy.
    pub replica_bytes: usize,
    /// How many bytes of deltas are not folded yet.
    pub pending_bytes: usize,
    /// Of how many partitions a copy is being filled, and not complete yet.
    pub filling_partitions: usize,
    /// How many frames came for partitions of which this node has no complete copy.
    pub dropped_frames: u64,
    /// How many bytes of journals are kept.
    pub journal_bytes: usize,
}

/// A vault refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The call is of another view than the one installed: it came from a generation that is over.
    #[error("a call of view {actual} came in view {expected:?}")]
    View {
        /// The view installed.
        expected: Option<ViewNumber>,
        /// The view of the call.
        actual: ViewNumber,
    },
    /// The view of the call is closed: evidence was given of what is here, and nothing may change it.
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
    /// No operator of this number is registered.
    #[error("no operator of the job has the number {0:016x}")]
    UnknownOperator(u64),
    /// A frame is of a partition that the operator does not have.
    #[error("operator {operator} has {partitions} partitions, and no {partition}")]
    UnknownPartition {
        /// The operator.
        operator: OperatorName,
        /// How many partitions it has.
        partitions: u32,
        /// The partition named.
        partition: PartitionId,
    },
    /// Two names have the same number: rename one.
    #[error("operators {there} and {new} have the same number: rename one of them")]
    Collision {
        /// The name registered first.
        there: OperatorName,
        /// The name that came now.
        new: OperatorName,
    },
    /// An operator's codec, types or number of partitions are not those of the state it left.
    #[error(
        "operator {operator} has changed: its codec, types or partitions were {expected:?} and are {actual:?}"
    )]
    Changed {
        /// The operator.
        operator: OperatorName,
        /// Fingerprint and partitions of the state that is here.
        expected: (u32, u32),
        /// Fingerprint and partitions of the operator as it is now.
        actual: (u32, u32),
    },
    /// An operator kept a table and now keeps a trace, or the other way round.
    #[error("operator {operator} has changed: it kept {}", kept(.chunks))]
    StateChanged {
        /// The operator.
        operator: OperatorName,
        /// Whether it keeps a trace now.
        chunks: bool,
    },
    /// Chunks of a trace cannot be merged. They are all still there.
    #[error("chunks of partition {partition} of operator {operator} cannot be merged: {cause}")]
    Chunks {
        /// The operator.
        operator: OperatorName,
        /// The partition.
        partition: PartitionId,
        /// What the merger said.
        cause: CodecError,
    },
    /// A merger breaks its contract. The chunks are all still there.
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
    /// What came for a journal does not follow what is there.
    #[error(
        "the journal of share {share} of input {operator} is continued to {next} after {actual:?}, \
         but here it ends at {expected:?}"
    )]
    JournalGap {
        /// The input.
        operator: OperatorName,
        /// The share.
        share: u32,
        /// How far the journal is to be continued.
        next: Epoch,
        /// How far it is here.
        expected: Option<Epoch>,
        /// How far it should be.
        actual: Option<Epoch>,
    },
    /// More was fed by hand than a node keeps.
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
        /// How much was to be added.
        bytes: usize,
        /// How much is there, of all inputs.
        held_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
}

fn kept(chunks: &bool) -> &'static str {
    if *chunks { "a table, and now keeps a trace" } else { "a trace, and now keeps a table" }
}

impl VaultError {
    /// Whether the call came from a generation that is over: nothing is wrong but that its worker is late.
    pub fn is_late(&self) -> bool {
        matches!(self, VaultError::View { .. } | VaultError::Closed { .. })
    }

    /// Whether the bytes handed to the vault are not those that were sent.
    pub fn is_damage(&self) -> bool {
        matches!(self, VaultError::Snapshot(error) if error.is_damage())
    }
}

/// A node's store of snapshots and of live state, as its workers see it.
///
/// Partitions are those of an operator; where it has its own number of them, its partition p belongs
/// to the view's partition p modulo the view's number.
///
/// A worker may still be at work when its view has ended, since nobody can make a thread leave a job's own
/// code. So each call names its view, and is refused once that view is [closed](MemoryVault::close)
/// or another one is installed. What such a worker does can therefore change nothing.
pub trait Vault: Send + Sync {
    /// Returns the number of an operator, which the job has in this view.
    ///
    /// Called by every worker. The fingerprint is that of its codec and types, or of an input's records.
    fn register(
        &self,
        view: ViewNumber,
        operator: &OperatorName,
        fingerprint: u32,
        kind: Kind,
    ) -> Result<u64, VaultError>;

    /// Returns the operators that have state here, and that nobody registered in this view.
    fn unclaimed(&self, view: ViewNumber) -> Result<Vec<OperatorName>, VaultError>;

    /// Takes the deltas that stand back to back in `frames`, and returns how many it stored.
    ///
    /// Damage in any of them refuses all. A delta that does not follow its predecessor is an error, of
    /// which those before it are stored. Frames of partitions of which this node has no complete copy
    /// are dropped and counted.
    ///
    /// Of operators of chunks, an owner is sent the deltas, too: once each, be it a backup besides or not.
    /// A copy that is complete since the view began takes only the chunks whose names are above the view's
    /// resume epoch, and leaves out those by which other copies are filled. A chunk that is new is named
    /// after the delta's predecessor and not after the delta.
    fn store(&self, view: ViewNumber, frames: &[u8]) -> Result<usize, VaultError>;

    /// Notes that every delta of `operator` up to `through` has been stored, for all partitions held.
    fn complete(&self, view: ViewNumber, operator: u64, through: Epoch) -> Result<(), VaultError>;

    /// Notes that `epoch` is committed. A lower epoch than before changes nothing.
    fn record(&self, view: ViewNumber, epoch: Epoch) -> Result<(), VaultError>;

    /// Leaves the live state of a partition for the next generation of this process.
    ///
    /// Only for state of a worker that stopped between two activations and did not panic. For a
    /// partition that this node does not own, and once another view is installed, the state is dropped.
    fn deposit(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
        live: Box<dyn Any + Send>,
    );

    /// Takes the live state of a partition, if it was left before the view was installed.
    fn take_live(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Live>, VaultError>;

    /// Opens the replica of a partition at the resume epoch; `None` if there is no complete copy.
    ///
    /// A partition that never had a delta opens empty. Of an operator of chunks the owner's own copy
    /// opens, in each view anew.
    fn open_replica(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Opened>, VaultError>;

    /// Notes that an opened replica has been decoded, so that it may go unless it is fed as a backup.
    ///
    /// A copy of an operator of chunks never goes by this, since it is fed.
    fn close_replica(&self, view: ViewNumber, operator: u64, partition: PartitionId);

    /// Takes the frames of journals that stand back to back, and returns how many it took.
    ///
    /// Damage in any of them refuses all. Journals are no snapshots: a view that is installed keeps what
    /// is above its resume epoch, where this node is owner or backup of the share's partition, and drops
    /// only what came without its mark. What is [recorded](Vault::record) is let go of. Frames of shares
    /// of which this node is neither owner nor backup are dropped.
    fn store_journal(&self, view: ViewNumber, frames: &[u8]) -> Result<usize, VaultError>;

    /// Returns the journal of a share; `None` where none is here.
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
