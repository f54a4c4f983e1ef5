//! What a durable tier does not have yet: the deltas since the last durable epoch, and what is written next.
//!
//! Each complete copy keeps the deltas that came since the last durable epoch, so that whichever node writes a
//! partition next can go on where the last one stopped. Where a node's deltas do not reach back that far (it
//! became a backup later, or there were too many), it writes a base instead. A base is of the epoch up to
//! which the copy happens to be folded. If that is beyond the epoch to be written, folding waits until the
//! next time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::holdings::{Completeness, Holding};
use super::{Cell, MemoryVault, Operator, lock, read, write};
use crate::codec::CodecError;
use crate::ids::{Epoch, OperatorName, PartitionId, ViewNumber};
use crate::snapshot::{DeltaHeader, SnapshotError, Subject};
use crate::state::{ChunkMerger, Replica, ReplicaBase};
use crate::vault::identity::Identity;
use crate::vault::{Role, VaultError};

/// Deltas of at most so many bytes are kept even where the base is smaller.
const UNSAVED_BYTES_MIN: usize = 64 << 10;

/// The deltas of one copy since the last durable epoch.
#[derive(Default)]
pub(super) struct Unsaved {
    /// Every delta after this epoch is here.
    start: Option<Epoch>,
    deltas: VecDeque<(Epoch, Arc<[u8]>)>,
    bytes: usize,
    /// How many bytes of deltas were written since the last base.
    written_bytes: usize,
    /// Whether a base is to be written next, and folding waits for that.
    pub(super) wants_base: bool,
}

impl Unsaved {
    /// Keeps a delta of a complete copy. Of too many only a base is written.
    pub(super) fn keep(&mut self, header: &DeltaHeader, frame: Arc<[u8]>, base_bytes: usize) {
        if self.deltas.is_empty() {
            self.start = self.start.max(header.previous);
        }
        self.bytes += frame.len();
        self.deltas.push_back((header.epoch, frame));
        if self.bytes > UNSAVED_BYTES_MIN.max(base_bytes) {
            self.forget(Some(header.epoch));
            self.wants_base = true;
        }
    }

    /// Forgets deltas through an epoch.
    pub(super) fn forget(&mut self, through: Option<Epoch>) {
        while self.deltas.front().is_some_and(|(epoch, _)| Some(*epoch) <= through) {
            self.bytes -= self.deltas.pop_front().map_or(0, |(_, frame)| frame.len());
        }
        self.start = self.start.max(through);
    }

    /// Forgets deltas above the epoch from which the next view resumes.
    pub(super) fn cut_above(&mut self, resume: Option<Epoch>) {
        while self.deltas.back().is_some_and(|(epoch, _)| Some(*epoch) > resume) {
            self.bytes -= self.deltas.pop_back().map_or(0, |(_, frame)| frame.len());
        }
        self.start = self.start.min(resume);
    }
}

/// What is registered with a vault, as a durable tier records it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// The operators with state and the hand-fed inputs, without those that the job has dropped.
    pub operators: Vec<OperatorRecord>,
    /// The numbers of those that the job has dropped.
    pub dropped: BTreeSet<u64>,
}

/// An operator with state or a hand-fed input, as a durable tier records it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRecord {
    /// Its name.
    pub name: OperatorName,
    /// The fingerprint of its codec and types.
    pub fingerprint: u32,
    /// How many partitions it has, or shares.
    pub partitions: u32,
    /// What it keeps.
    pub keeps: Keeps,
}

/// What an operator keeps in a vault, by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeps {
    /// Tables.
    Tables,
    /// Logs of chunks.
    Chunks,
    /// Journals.
    Journals,
}

impl OperatorRecord {
    pub(in crate::vault) fn of(identity: &Identity, keeps: Keeps) -> Self {
        let Identity { name, fingerprint, partitions } = identity.clone();
        OperatorRecord { name, fingerprint, partitions, keeps }
    }
}

/// What is to be written of one partition of one operator.
pub struct UnsavedState {
    /// What it is of.
    pub subject: Subject,
    /// If what is durable cannot be continued: all entries.
    pub base: Option<Arc<ReplicaBase>>,
    /// The deltas behind the base, or behind what is durable, each in its frame.
    pub deltas: Vec<Arc<[u8]>>,
}

/// Merges nothing: for the chunks of an operator that no worker has built yet.
struct Unmerged;

impl ChunkMerger for Unmerged {
    fn merge(&self, chunks: &[&[u8]], _since: Epoch) -> Result<Vec<Vec<u8>>, CodecError> {
        Ok(chunks.iter().map(|chunk| chunk.to_vec()).collect())
    }
}

impl Cell {
    /// Returns what is to be written at `epoch` where everything through `durable` is durable. `Ok(None)`
    /// means nothing; an error, that a base is wanted and folded too far.
    fn unsaved(
        &mut self,
        durable: Option<Epoch>,
        epoch: Epoch,
    ) -> Result<Option<UnsavedState>, ()> {
        let Some(replica) = &self.replica else { return Ok(None) };
        let unsaved =
            self.unsaved.get_or_insert_with(|| Unsaved { wants_base: true, ..Unsaved::default() });
        let subject = replica.subject();
        if unsaved.start <= durable && !unsaved.wants_base {
            let after = unsaved.deltas.iter().filter(|(at, _)| Some(*at) > durable);
            let deltas: Vec<_> = after
                .take_while(|(at, _)| *at <= epoch)
                .map(|(_, frame)| Arc::clone(frame))
                .collect();
            unsaved.written_bytes += deltas.iter().map(|frame| frame.len()).sum::<usize>();
            // From time to time a base, so that what came before it can be deleted.
            let base_bytes = replica.base_bytes();
            unsaved.wants_base |= unsaved.written_bytes > UNSAVED_BYTES_MIN.max(base_bytes);
            return Ok((!deltas.is_empty()).then_some(UnsavedState {
                subject,
                base: None,
                deltas,
            }));
        }
        unsaved.wants_base = true;
        let (base, deltas) = replica.state_at(epoch).ok_or(())?;
        unsaved.wants_base = false;
        unsaved.written_bytes = 0;
        Ok(Some(UnsavedState { subject, base: Some(base), deltas }))
    }
}

impl MemoryVault {
    /// Makes an empty vault that keeps what a durable tier does not have yet.
    pub fn durable(partitions: u32) -> Self {
        MemoryVault { keeps_unsaved: true, ..MemoryVault::new(partitions) }
    }

    /// Keeps a delta that was stored, for a durable tier.
    pub(super) fn keep_unsaved(
        &self,
        cell: &mut Cell,
        header: &DeltaHeader,
        frame: Arc<[u8]>,
        is_complete: bool,
    ) {
        if !self.keeps_unsaved {
            return;
        }
        let base_bytes = cell.replica.as_ref().map_or(0, Replica::base_bytes);
        let unsaved = cell.unsaved.get_or_insert_default();
        if is_complete {
            unsaved.keep(header, frame, base_bytes);
        } else {
            unsaved.forget(Some(header.epoch));
        }
    }

    /// Returns what is to be written of the partitions that this node writes, where everything through
    /// `durable` is durable, so that everything through `epoch` is.
    ///
    /// `None` if a copy is still being filled, or if something is folded too far to be written at `epoch`.
    /// Folding of that waits, so that the call succeeds with a later epoch.
    pub fn unsaved(
        &self,
        view: ViewNumber,
        durable: Option<Epoch>,
        epoch: Epoch,
        writes: &dyn Fn(PartitionId) -> bool,
    ) -> Result<Option<Vec<UnsavedState>>, VaultError> {
        let state = read(&self.view);
        state.check(view)?;
        let cells = read(&self.cells);
        let filled = state.filled(&cells);
        let is_complete = |(index, holding): (usize, &Holding)| match holding.completeness {
            Completeness::Fed => true,
            Completeness::Filling => filled.get(&index).is_some_and(|at| *at <= epoch),
            Completeness::Frozen { .. } | Completeness::None => false,
        };
        let mut written = state
            .holdings
            .iter()
            .enumerate()
            .filter(|(index, _)| writes(PartitionId(*index as u32)));
        if !written.all(is_complete) {
            return Ok(None);
        }
        let (mut found, mut is_whole) = (Vec::new(), true);
        for (&(operator, partition), cell) in cells.iter() {
            let index = PartitionId(state.index(partition) as u32);
            if !writes(index) || state.dropped.contains(&operator) {
                continue;
            }
            match lock(cell).unsaved(durable, epoch) {
                Ok(unsaved) => found.extend(unsaved),
                Err(()) => is_whole = false,
            }
        }
        Ok(is_whole.then_some(found))
    }

    /// Notes that everything through `epoch` is durable.
    pub fn saved(&self, epoch: Epoch) {
        for cell in read(&self.cells).values() {
            if let Some(unsaved) = &mut lock(cell).unsaved {
                unsaved.forget(Some(epoch));
            }
        }
    }

    /// Returns what is registered.
    pub fn registry(&self) -> Registry {
        let state = read(&self.view);
        let kept = state.operators.iter().filter(|(number, _)| !state.dropped.contains(number));
        let record = |(_, operator): (&u64, &Operator)| {
            let keeps = if operator.merger.is_some() { Keeps::Chunks } else { Keeps::Tables };
            OperatorRecord::of(&operator.identity, keeps)
        };
        let mut operators: Vec<_> = kept.map(record).collect();
        operators.extend(lock(&self.journals).records(&state.dropped));
        Registry { operators, dropped: state.dropped.clone() }
    }

    /// Begins with what a durable tier has at `resume`, before any view is installed.
    ///
    /// `role` is this node's in the first view; `replicas` are those of the partitions in which it has one, in
    /// which a partition without entries may be missing. Journals are not durable: what follows `resume` is to be
    /// fed.
    pub fn preload(
        &self,
        resume: Epoch,
        registry: Registry,
        replicas: Vec<Replica>,
        role: &dyn Fn(PartitionId) -> Role,
    ) -> Result<(), VaultError> {
        let mut state = write(&self.view);
        for OperatorRecord { name, fingerprint, partitions, keeps } in registry.operators {
            let identity = Identity { name, fingerprint, partitions };
            match keeps {
                Keeps::Tables => state.register(identity, None)?,
                Keeps::Chunks => state.register(identity, Some(Arc::new(Unmerged)))?,
                Keeps::Journals => lock(&self.journals).begin_after(resume, identity)?,
            };
        }
        state.dropped = registry.dropped;
        state.is_preloaded = true;
        state.hold_all(resume, role);
        let mut cells = write(&self.cells);
        for replica in replicas {
            let subject = replica.subject();
            let known = state.operator(subject.operator)?;
            let expected = Subject { fingerprint: known.identity.fingerprint, ..subject };
            if expected != subject {
                return Err(SnapshotError::Subject { expected, actual: subject }.into());
            }
            let unsaved = Unsaved { start: Some(resume), ..Unsaved::default() };
            let cell = cells.entry((subject.operator, subject.partition)).or_default();
            let mut cell = lock(cell);
            cell.count(&self.pending_bytes, |held| *held = Some(replica));
            cell.unsaved = self.keeps_unsaved.then_some(unsaved);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "unsaved_tests.rs"]
mod tests;
