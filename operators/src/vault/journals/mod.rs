//! Journals: hand-fed records, kept in memory until they are recorded.
//!
//! INVARIANT: only a mark changes a journal. What arrived without a mark is gone when a view is installed: an
//! epoch that was only partly fed is fed again from its start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::VaultError;
use super::identity::Identity;
use super::memory::{Keeps, OperatorRecord};
use crate::hash::partition_of_shard;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::planted::{self, Planted};
use crate::snapshot::journal::{JournalMark, JournalPart, JournalRef, JournalSubject};

/// The maximum number of bytes of journals that a node keeps; more ends the job.
///
/// Hand-fed records stay in memory, on the node that feeds them and on its backups, until their epoch is
/// recorded. A program that keeps feeding without letting its worker step reaches this limit.
pub const JOURNAL_BYTES_MAX: usize = 1 << 30;

/// Records of one epoch in a journal.
#[derive(Clone, Debug)]
pub struct JournalEntry {
    /// The epoch.
    pub epoch: Epoch,
    /// The number of records.
    pub records: u64,
    /// The frame, as it was written.
    pub frame: Arc<[u8]>,
}

/// What a vault knows of one share of an input.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Entries that are closed and not known to be recorded, in the order of epochs.
    pub entries: VecDeque<JournalEntry>,
    /// The first epoch that is not closed; if the share is closed, the epoch at which it was closed.
    pub next: Option<Epoch>,
    /// Whether the share is closed: nothing will follow.
    pub closed: bool,
    /// How many records the share has had since the run began.
    pub records: u64,
}

#[derive(Debug)]
struct Input {
    /// Its partitions are its shares.
    identity: Identity,
    registered: bool,
}

#[derive(Debug, Default)]
struct ShareJournal {
    journal: Journal,
    /// What has arrived since the last mark.
    coming: Vec<JournalEntry>,
    /// Whether the next mark replaces the journal.
    replaces: bool,
    /// Whether the journal was replaced in this view.
    replaced: bool,
}

/// The journals of a node.
#[derive(Debug)]
pub(super) struct Journals {
    inputs: BTreeMap<u64, Input>,
    kept: BTreeMap<(u64, u32), ShareJournal>,
    /// The view's partitions of which this node is owner or backup.
    held: Vec<bool>,
    /// Of those, the ones whose journals were complete here when the view began.
    whole: Vec<bool>,
    bytes: usize,
    bytes_max: usize,
}

impl Journals {
    pub(super) fn new(partitions: usize, bytes_max: usize) -> Self {
        Journals {
            inputs: BTreeMap::new(),
            kept: BTreeMap::new(),
            held: vec![false; partitions],
            whole: vec![false; partitions],
            bytes: 0,
            bytes_max,
        }
    }

    /// Whether the job has hand-fed inputs, as far as this node has ever known.
    pub(super) fn exist(&self) -> bool {
        !self.inputs.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Begins a view in which this node must hold some partitions; `first` if there was no view before.
    ///
    /// If a partition stays on this node, so do its journals, even above the resume epoch; only what is
    /// committed is removed.
    pub(super) fn install(&mut self, resume: Option<Epoch>, held: Vec<bool>, first: bool) {
        let whole = held.iter().zip(0..).map(|(held, at)| *held && (first || self.is_whole(at)));
        self.whole = whole.collect();
        self.held = held;
        let Journals { inputs, kept, held, .. } = self;
        kept.retain(|(operator, share), _| {
            let input = inputs.get(operator);
            input.is_some_and(|input| held[input.partition(*share, held.len())])
        });
        for kept in kept.values_mut() {
            kept.coming.clear();
            kept.replaces = false;
            kept.replaced = false;
            if planted::is(Planted::JournalCutAtResume)
                && kept.journal.next > resume.map(Epoch::next)
            {
                kept.journal.entries.clear();
                kept.journal.next = resume.map(Epoch::next);
                kept.journal.closed = false;
            }
        }
        for input in inputs.values_mut() {
            input.registered = false;
        }
        self.bytes = self.kept.values().map(|kept| bytes_of(&kept.journal.entries)).sum();
        if let Some(resume) = resume {
            self.prune(resume);
        }
    }

    /// Whether this node has all that was acknowledged of all shares in the view's partition `index`.
    pub(super) fn is_whole(&self, index: usize) -> bool {
        if !self.held[index] {
            return false;
        }
        let is_replaced = |key: &(u64, u32)| self.kept.get(key).is_some_and(|kept| kept.replaced);
        self.whole[index] || (self.exist() && self.shares_in(index).all(|key| is_replaced(&key)))
    }

    /// The shares of all inputs in the view's partition `index`.
    fn shares_in(&self, index: usize) -> impl Iterator<Item = (u64, u32)> {
        let partitions = self.held.len();
        self.inputs.iter().flat_map(move |(&operator, input)| {
            let shares = (0..input.identity.partitions).map(move |share| (operator, share));
            shares.filter(move |(_, share)| input.partition(*share, partitions) == index)
        })
    }

    pub(super) fn knows(&self, identity: &Identity) -> bool {
        self.inputs.contains_key(&identity.number())
    }

    pub(super) fn register(&mut self, identity: Identity) -> Result<u64, VaultError> {
        let number = identity.number();
        let fresh = || Input { identity: identity.clone(), registered: false };
        let input = self.inputs.entry(number).or_insert_with(fresh);
        input.identity.check(&identity)?;
        input.registered = true;
        Ok(number)
    }

    /// Registers an input whose journals begin empty after `resume`, through which all of it is committed.
    pub(super) fn begin_after(
        &mut self,
        resume: Epoch,
        identity: Identity,
    ) -> Result<u64, VaultError> {
        let shares = identity.partitions;
        let number = self.register(identity)?;
        for share in 0..shares {
            let journal = Journal { next: Some(resume.next()), ..Journal::default() };
            let kept = ShareJournal { journal, ..ShareJournal::default() };
            self.kept.insert((number, share), kept);
        }
        Ok(number)
    }

    /// The inputs, without dropped ones, as a durable tier records them.
    pub(super) fn records(&self, dropped: &BTreeSet<u64>) -> Vec<OperatorRecord> {
        let kept = self.inputs.iter().filter(|(number, _)| !dropped.contains(number));
        kept.map(|(_, input)| OperatorRecord::of(&input.identity, Keeps::Journals)).collect()
    }

    /// The inputs that have journals here but were not registered in this view.
    pub(super) fn unclaimed(&self) -> impl Iterator<Item = OperatorName> {
        let unclaimed = self.inputs.iter().filter(|(operator, input)| {
            !input.registered
                && self.kept.range((**operator, 0)..=(**operator, u32::MAX)).count() > 0
        });
        unclaimed.map(|(_, input)| input.identity.name.clone())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (u64, OperatorName)> {
        self.inputs.iter().map(|(number, input)| (*number, input.identity.name.clone()))
    }

    /// Accepts a frame; returns whether this node holds its share.
    pub(super) fn take(&mut self, frame: &JournalRef<'_>) -> Result<bool, VaultError> {
        let JournalSubject { operator, fingerprint, share } = frame.subject();
        let input = self.inputs.get(&operator).ok_or(VaultError::UnknownOperator(operator))?;
        let Identity { name, partitions, .. } = &input.identity;
        if share >= *partitions {
            return Err(VaultError::UnknownPartition {
                operator: name.clone(),
                partitions: *partitions,
                partition: PartitionId(share),
            });
        }
        input.identity.check(&Identity { fingerprint, ..input.identity.clone() })?;
        if !self.held[input.partition(share, self.held.len())] {
            return Ok(false);
        }
        let kept = self.kept.entry((operator, share)).or_default();
        match frame.part() {
            JournalPart::Begin if planted::is(Planted::JournalNotReconciled) => {}
            JournalPart::Begin => {
                self.bytes -= bytes_of(&kept.coming);
                kept.coming.clear();
                kept.replaces = true;
            }
            JournalPart::Entry { epoch, records } => {
                let bytes = frame.frame();
                if self.bytes + bytes.len() > self.bytes_max {
                    return Err(VaultError::JournalFull {
                        operator: input.identity.name.clone(),
                        share,
                        bytes: bytes.len(),
                        held_bytes: self.bytes,
                        limit_bytes: self.bytes_max,
                    });
                }
                self.bytes += bytes.len();
                kept.coming.push(JournalEntry { epoch, records, frame: bytes.into() });
            }
            JournalPart::Mark(mark) => self.bytes -= kept.mark(input, share, &mark)?,
        }
        Ok(true)
    }

    /// Removes what is recorded.
    pub(super) fn prune(&mut self, recorded: Epoch) {
        for kept in self.kept.values_mut() {
            while let Some(entry) = kept.journal.entries.front()
                && entry.epoch <= recorded
            {
                self.bytes -= entry.frame.len();
                kept.journal.entries.pop_front();
            }
        }
    }

    /// The journal of a share; `None` if there is none here.
    pub(super) fn read(&self, operator: u64, share: u32) -> Option<Journal> {
        self.kept.get(&(operator, share)).map(|kept| kept.journal.clone())
    }
}

impl Input {
    /// The index of the view's partition to which a share belongs.
    fn partition(&self, share: u32, partitions: usize) -> usize {
        let shares = self.identity.partitions as usize;
        partition_of_shard(share as usize, shares, partitions as u32).0 as usize
    }
}

impl ShareJournal {
    /// Makes what has arrived count; returns how many bytes of the earlier contents were removed.
    fn mark(&mut self, input: &Input, share: u32, mark: &JournalMark) -> Result<usize, VaultError> {
        let Journal { next: expected, closed, .. } = self.journal;
        let follows = self.replaces
            || (mark.previous == expected && !closed && mark.next >= expected.unwrap_or_default());
        let follows = follows || planted::is(Planted::JournalNotReconciled);
        if !follows || mark.entries != self.coming.len() as u64 {
            return Err(VaultError::JournalGap {
                operator: input.identity.name.clone(),
                share,
                next: mark.next,
                expected,
                actual: mark.previous,
            });
        }
        let mut gone = 0;
        if std::mem::take(&mut self.replaces) {
            gone = bytes_of(&self.journal.entries);
            self.journal.entries.clear();
            self.replaced = true;
        }
        self.journal.entries.extend(self.coming.drain(..));
        self.journal.next = Some(mark.next);
        self.journal.closed = mark.closed;
        self.journal.records = mark.records;
        Ok(gone)
    }
}

fn bytes_of<'a>(entries: impl IntoIterator<Item = &'a JournalEntry>) -> usize {
    entries.into_iter().map(|entry| entry.frame.len()).sum()
}

#[cfg(test)]
mod tests;
