//! Feed: records that were fed by hand to one worker's shares, on their way into the journals and the
//! dataflow.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::codec::{CodecError, Postcard, encoding_of, fingerprint};
use crate::data::Data;
use crate::error::JobError;
use crate::fence::Fence;
use crate::fence::generation::Notice;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::snapshot::journal::{
    EntryWriter, JournalMark, JournalPart, JournalSubject, write_frame,
};
use crate::time::EpochTime;
use crate::vault::{JournalEntry, StateKind};

/// An entry of a journal ends once it has this many bytes, and frames are sent in such pieces.
const CHUNK_BYTES: usize = 256 << 10;

/// How many records are passed on at once.
const BATCH: usize = 1024;

/// Records that wait to be let into the dataflow.
pub(super) enum Batch<D> {
    /// Records as they were sent.
    Sent(Vec<D>),
    /// Records that are replayed from the journal.
    Journaled(JournalEntry),
}

/// Frames of a share's journal, to be stored.
pub(super) struct Piece<'a> {
    pub(super) partition: PartitionId,
    pub(super) frames: &'a [u8],
    /// Whether this node's own journal already has them.
    pub(super) is_here: bool,
}

/// One share, as far as it is journaled.
struct FedShare {
    partition: PartitionId,
    subject: JournalSubject,
    /// As in [`Journal`](crate::vault::Journal).
    next: Option<Epoch>,
    closed: bool,
    records: u64,
    /// Records of the epoch that is open.
    open: EntryWriter,
    /// Entries that are not closed by a mark yet, and how many records each has.
    entries: Vec<(u64, Vec<u8>)>,
    /// The contents of the journal when the generation began, for the backups.
    restored: Vec<JournalEntry>,
}

/// What a handle has fed, on its way.
pub(super) struct Feed<T, D> {
    shares: Vec<FedShare>,
    /// The epoch that is open.
    now: Epoch,
    closed: bool,
    /// Records of the epoch that is open, as they were sent.
    open: Vec<Batch<D>>,
    /// Records of closed epochs.
    waiting: BTreeMap<T, Vec<Batch<D>>>,
    /// How many entries of the journal are still to be replayed.
    behind: usize,
    queued_bytes: usize,
    /// The first time that is not committed.
    first: T,
}

impl<T: EpochTime, D: Data> Feed<T, D> {
    /// Reads the journals of this worker's shares.
    pub(super) fn restore(fence: &Fence, name: &OperatorName) -> Self {
        let generation = fence.generation();
        let fingerprint = fingerprint::<(), D, Postcard>();
        let share_count = generation.settings.share_count;
        let encoding = encoding_of::<(), D, Postcard, Postcard>();
        fence.admit_state(name, &encoding, share_count);
        let (vault, view) = (&generation.vault, generation.view);
        let operator = vault
            .register(view, name, fingerprint, StateKind::Journals(share_count))
            .unwrap_or_else(|error| fence.refused(name, &error));
        let mut feed = Feed {
            shares: Vec::new(),
            now: Epoch(0),
            closed: false,
            open: Vec::new(),
            waiting: BTreeMap::new(),
            behind: 0,
            queued_bytes: 0,
            first: fence.resume_time(),
        };
        let (mut records, mut replaying) = (0, 0);
        for share in fence.shares() {
            let subject = JournalSubject { operator, fingerprint, share: share.index as u32 };
            let mut journal = vault
                .read_journal(view, operator, subject.share)
                .unwrap_or_else(|error| fence.refused(name, &error))
                .unwrap_or_default();
            if fence.is_void(name) {
                journal.entries.clear();
                journal.closed = true;
            }
            if let Some(resume) = generation.resume
                && !journal.closed
                && journal.next <= Some(resume)
            {
                let there = journal.next.map_or_else(
                    || "is not on this node".to_owned(),
                    |next| format!("ends before epoch {next} on this node"),
                );
                fence.fail(JobError::Input {
                    operator: name.clone(),
                    what: format!(
                        "the journal of share {} {there}, but epochs up to {resume} are committed",
                        share.index
                    ),
                });
            }
            journal.entries.retain(|entry| Some(entry.epoch) > generation.resume);
            let again: u64 = journal.entries.iter().map(|entry| entry.records).sum();
            records += journal.records.saturating_sub(again);
            replaying += again;
            feed.behind += journal.entries.len();
            for entry in &journal.entries {
                let batches = feed.waiting.entry(T::from_epoch(entry.epoch)).or_default();
                batches.push(Batch::Journaled(entry.clone()));
            }
            feed.shares.push(FedShare {
                partition: fence.partition_of_share(share.index),
                subject,
                next: journal.next,
                closed: journal.closed,
                records: journal.records,
                open: EntryWriter::default(),
                entries: Vec::new(),
                restored: journal.entries.into(),
            });
        }
        generation.gauges.records.fetch_add(records, Ordering::Relaxed);
        if !fence.is_first_view() {
            fence.notice(Notice::Resumed { records, replaying });
        }
        feed.closed = feed.shares.iter().all(|share| share.closed);
        feed.now = feed.resume().to_epoch();
        feed
    }

    /// Begins before [`resume`](Self::resume): what is sent until then is ignored. It never begins before the
    /// first time that is not committed. Returns the time that it begins at.
    pub(super) fn begin_at(&mut self, time: T) -> T {
        let time = time.max(self.first.clone()).min(T::from_epoch(self.now));
        self.now = time.to_epoch();
        time
    }

    /// Whether something was sent in the open epoch, which is in no journal.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The first time at which to feed.
    pub(super) fn resume(&self) -> T {
        let places = 0..self.shares.len();
        let open = places.clone().filter(|place| !self.shares[*place].closed);
        let least = open.map(|place| self.resume_of(place)).min();
        least
            .or_else(|| places.map(|place| self.resume_of(place)).max())
            .unwrap_or_else(|| self.first.clone())
    }

    /// The first time at which to feed a share.
    pub(super) fn resume_of(&self, place: usize) -> T {
        self.shares[place].next.map_or_else(|| self.first.clone(), T::from_epoch)
    }

    /// How many records are in the journal of a share.
    pub(super) fn records_of(&self, place: usize) -> u64 {
        self.shares[place].records
    }

    /// Whether a share is closed.
    pub(super) fn is_closed(&self, place: usize) -> bool {
        self.shares[place].closed
    }

    /// Accepts a record for a share, unless its journal has the epoch; returns how many bytes wait.
    pub(super) fn send(&mut self, place: usize, record: D) -> Result<usize, CodecError> {
        let share = &mut self.shares[place];
        if self.closed || share.closed || Some(self.now) < share.next {
            return Ok(self.queued_bytes);
        }
        self.queued_bytes += share.open.push(&record)?;
        if share.open.len_bytes() >= CHUNK_BYTES {
            share.entries.extend(share.open.finish(share.subject, self.now));
        }
        match self.open.last_mut() {
            Some(Batch::Sent(batch)) if batch.len() < BATCH => batch.push(record),
            _ => self.open.push(Batch::Sent(vec![record])),
        }
        Ok(self.queued_bytes)
    }

    /// Closes the epochs before `time`.
    pub(super) fn advance(&mut self, time: &T) {
        self.close_epoch();
        self.now = time.to_epoch();
    }

    /// Closes the input at the current time.
    pub(super) fn close(&mut self) {
        if !self.closed {
            self.close_epoch();
            self.closed = true;
        }
    }

    fn close_epoch(&mut self) {
        for share in &mut self.shares {
            share.entries.extend(share.open.finish(share.subject, self.now));
        }
        if !self.open.is_empty() {
            let batches = self.waiting.entry(T::from_epoch(self.now)).or_default();
            batches.append(&mut self.open);
        }
    }

    /// How far the journals go: the first epoch that is not in them; `None` if they are closed.
    pub(super) fn journaled_to(&self) -> Option<Epoch> {
        (!self.closed).then_some(self.now)
    }

    /// Hands out the frames that replace the backups' journals with those of this node.
    pub(super) fn replace_journals(&mut self, mut hand_out: impl FnMut(Piece<'_>)) {
        for share in &mut self.shares {
            // An empty journal has no end: its first epoch being the next one says the same.
            let (is_here, next) = (share.next.is_some(), self.first.to_epoch());
            let next = *share.next.get_or_insert(next);
            let partition = share.partition;
            let mut frames = Vec::new();
            write_frame(&mut frames, share.subject, JournalPart::Begin);
            let restored = std::mem::take(&mut share.restored);
            for entry in &restored {
                frames.extend_from_slice(&entry.frame);
                if frames.len() >= CHUNK_BYTES {
                    hand_out(Piece { partition, frames: &frames, is_here });
                    frames.clear();
                }
            }
            let mark = JournalMark {
                next,
                closed: share.closed,
                previous: None,
                entries: restored.len() as u64,
                records: share.records,
            };
            write_frame(&mut frames, share.subject, JournalPart::Mark(mark));
            hand_out(Piece { partition, frames: &frames, is_here });
        }
    }

    /// Hands out the frames for what was closed since the last call.
    pub(super) fn continue_journals(&mut self, mut hand_out: impl FnMut(Piece<'_>)) {
        for share in &mut self.shares {
            let is_news = self.closed || share.next < Some(self.now);
            if share.closed || !is_news {
                continue;
            }
            let partition = share.partition;
            let entries = std::mem::take(&mut share.entries);
            let mut frames = Vec::new();
            for (records, entry) in &entries {
                share.records += records;
                frames.extend_from_slice(entry);
                if frames.len() >= CHUNK_BYTES {
                    hand_out(Piece { partition, frames: &frames, is_here: false });
                    frames.clear();
                }
            }
            // One share's journal may be ahead of what the worker feeds to its others.
            let next = share.next.map_or(self.now, |next| next.max(self.now));
            let mark = JournalMark {
                next,
                closed: self.closed,
                previous: share.next,
                entries: entries.len() as u64,
                records: share.records,
            };
            write_frame(&mut frames, share.subject, JournalPart::Mark(mark));
            hand_out(Piece { partition, frames: &frames, is_here: false });
            share.next = Some(next);
            share.closed = self.closed;
        }
        self.queued_bytes = self.shares.iter().map(|share| share.open.len_bytes()).sum();
    }

    /// The first time that has waiting records.
    pub(super) fn first_waiting(&self) -> Option<&T> {
        self.waiting.first_key_value().map(|(time, _)| time)
    }

    /// Takes the records of the first time that waits.
    pub(super) fn take_waiting(&mut self) -> Option<(T, Vec<Batch<D>>)> {
        self.waiting.pop_first()
    }

    /// Notes that an entry was replayed; returns whether it was the last.
    pub(super) fn played_again(&mut self) -> bool {
        self.behind -= 1;
        self.behind == 0
    }
}
