//! Replica: the encoded copy of one partition that a backup holds.
//!
//! A base, and behind it the deltas that are not folded into it yet. Deltas that may still be undone
//! stay pending; folding is the compactor's work and never a worker's, unless a backlog says so.
//!
//! INVARIANT: base and pending deltas are one chain: each delta names the one before it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::image::ReplicaBase;
use crate::ids::Epoch;
use crate::snapshot::{DeltaHeader, DeltaRef, Entries, SnapshotError, Subject};

/// Folding into a base that live state still reads waits until the backlog exceeds this and the size
/// of the base; then the base is copied. Memory stays below three times the base and this.
pub const PENDING_WHILE_SHARED_BYTES_MIN: usize = 1 << 20;

#[derive(Debug)]
struct Pending {
    header: DeltaHeader,
    frame: Arc<[u8]>,
}

impl Pending {
    fn entries(&self) -> Entries<'_> {
        // The frame was checked when it came, and memory does not decay.
        Entries::new(&self.frame[crate::snapshot::DELTA_HEADER_BYTES..], self.header.entries)
    }
}

/// A base, and the frames of the deltas behind it.
pub(crate) type BaseAndDeltas = (Arc<ReplicaBase>, Vec<Arc<[u8]>>);

/// The encoded copy of one partition of one operator.
#[derive(Debug)]
pub struct Replica {
    base: Arc<ReplicaBase>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
}

impl Replica {
    /// Makes the replica of a partition that never had a delta.
    pub fn new(subject: Subject) -> Self {
        Self::from_image(ReplicaBase::new(subject))
    }

    /// Makes the replica of a partition that is to be filled by the deltas after `previous`.
    ///
    /// It is a copy of nothing until one comes that [completes](DeltaHeader::completes) it.
    pub fn filling(subject: Subject, previous: Option<Epoch>) -> Self {
        Self::from_image(ReplicaBase::beginning_at(subject, previous))
    }

    fn from_image(base: ReplicaBase) -> Self {
        Replica { base: Arc::new(base), pending: VecDeque::new(), pending_bytes: 0 }
    }

    /// Returns what it is a copy of.
    pub fn subject(&self) -> Subject {
        self.base.subject()
    }

    /// Returns the epoch of the last delta that it holds; `None` before the first.
    pub fn through(&self) -> Option<Epoch> {
        self.pending.back().map_or(self.base.epoch(), |last| Some(last.header.epoch))
    }

    /// Returns the epoch of the last delta that is folded: the oldest state that it can serve.
    pub fn base_epoch(&self) -> Option<Epoch> {
        self.base.epoch()
    }

    /// Returns how many bytes of deltas are not folded yet.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Returns about how many bytes the base occupies.
    pub fn base_bytes(&self) -> usize {
        self.base.memory_bytes()
    }

    /// Adds a delta, of which it keeps a copy, and returns that copy.
    ///
    /// The delta's checksum was verified when it was parsed. It must be of the same operator, codec,
    /// types and partition, and follow the last one; otherwise nothing changes.
    pub fn push(&mut self, delta: &DeltaRef<'_>) -> Result<Arc<[u8]>, SnapshotError> {
        let header = *delta.header();
        if header.subject != self.subject() {
            return Err(SnapshotError::Subject {
                expected: self.subject(),
                actual: header.subject,
            });
        }
        let last = self.through();
        if header.previous != last || last >= Some(header.epoch) {
            let (epoch, actual) = (header.epoch, header.previous);
            return Err(SnapshotError::Chain { epoch, expected: last, actual });
        }
        let frame: Arc<[u8]> = delta.frame().into();
        self.pending_bytes += frame.len();
        self.pending.push_back(Pending { header, frame: Arc::clone(&frame) });
        Ok(frame)
    }

    /// Folds pending deltas at or below `up_to` into the base until `budget_bytes` of them are folded,
    /// and returns how many bytes were.
    ///
    /// Deltas are folded whole. While live state shares the base, folding waits, up to a bound
    /// ([`PENDING_WHILE_SHARED_BYTES_MIN`]).
    pub fn fold(&mut self, up_to: Epoch, budget_bytes: usize) -> Result<usize, SnapshotError> {
        let copy_above = PENDING_WHILE_SHARED_BYTES_MIN.max(self.base.memory_bytes());
        if Arc::get_mut(&mut self.base).is_none() && self.pending_bytes <= copy_above {
            return Ok(0);
        }
        self.fold_now(up_to, budget_bytes)
    }

    /// Folds, and copies the base if it is shared.
    fn fold_now(&mut self, up_to: Epoch, budget_bytes: usize) -> Result<usize, SnapshotError> {
        let mut folded = 0;
        while let Some(delta) = self.pending.front() {
            if delta.header.epoch > up_to || folded >= budget_bytes {
                break;
            }
            let (epoch, bytes) = (delta.header.epoch, delta.frame.len());
            Arc::make_mut(&mut self.base).apply(epoch, bytes, delta.entries())?;
            folded += bytes;
            self.pending_bytes -= bytes;
            self.pending.pop_front();
        }
        Ok(folded)
    }

    /// Returns the base to be read elsewhere for a [rewrite](Self::rewrite), unless live state reads it.
    pub(crate) fn unshared(&mut self) -> Option<Arc<ReplicaBase>> {
        Arc::get_mut(&mut self.base)?;
        Some(Arc::clone(&self.base))
    }

    /// Whether this is the base as it is now.
    pub(crate) fn is_base(&self, base: &Arc<ReplicaBase>) -> bool {
        Arc::ptr_eq(&self.base, base)
    }

    /// Gives entries of the base other values, or none, which leave the state what it is; returns whether
    /// it did, which it does not if the base has moved since it was `read` or is being read again.
    pub(crate) fn rewrite<'a, I>(
        &mut self,
        read: Arc<ReplicaBase>,
        entries: I,
    ) -> Result<bool, SnapshotError>
    where
        I: Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    {
        // SUBTLE: a base that is shared, as it was with `read`, is never changed in its place.
        if !self.is_base(&read) {
            return Ok(false);
        }
        drop(read);
        let Some(base) = Arc::get_mut(&mut self.base) else {
            return Ok(false);
        };
        base.rewrite(entries)?;
        Ok(true)
    }

    /// Drops the deltas above `resume`. On an error, which says that they are folded, nothing changes.
    pub fn truncate_above(&mut self, resume: Option<Epoch>) -> Result<(), SnapshotError> {
        if self.base.epoch() > resume {
            return Err(SnapshotError::Folded { wanted: resume, base: self.base.epoch() });
        }
        while self.pending.back().is_some_and(|last| Some(last.header.epoch) > resume) {
            self.pending_bytes -= self.pending.pop_back().map_or(0, |last| last.frame.len());
        }
        Ok(())
    }

    /// Returns the state at `resume`, to be read by live state while this goes on as a copy.
    ///
    /// Folds what is pending up to `resume` first: nothing, where the compactor kept up.
    pub fn open_at(&mut self, resume: Option<Epoch>) -> Result<Arc<ReplicaBase>, SnapshotError> {
        if self.base.epoch() > resume {
            return Err(SnapshotError::Folded { wanted: resume, base: self.base.epoch() });
        }
        if let Some(resume) = resume {
            self.fold_now(resume, usize::MAX)?;
        }
        Ok(Arc::clone(&self.base))
    }

    /// Returns the base, to be read elsewhere, and the frames of the deltas behind it up to `up_to`; `None` if
    /// more is folded than that.
    pub(crate) fn state_at(&self, up_to: Epoch) -> Option<BaseAndDeltas> {
        if self.base.epoch() > Some(up_to) {
            return None;
        }
        let behind = self.pending.iter().take_while(|delta| delta.header.epoch <= up_to);
        Some((Arc::clone(&self.base), behind.map(|delta| Arc::clone(&delta.frame)).collect()))
    }

    /// Folds up to `at` and appends all entries as a base; returns its digest.
    ///
    /// Equal states have equal bytes.
    pub fn to_base(
        &mut self,
        at: Option<Epoch>,
        bytes: &mut Vec<u8>,
    ) -> Result<[u8; 20], SnapshotError> {
        Ok(self.open_at(at)?.to_base(bytes))
    }

    /// Makes a replica from a base, whose digest is checked and which must be of `subject`.
    pub fn from_base(subject: Subject, bytes: &[u8]) -> Result<Self, SnapshotError> {
        ReplicaBase::from_base(subject, bytes).map(Self::from_image)
    }
}
