//! Journal: the encoded form of hand-fed records, share by share.
//!
//! A journal is a sequence of frames, each in its own envelope (`envelope.rs`). Entries hold the records of
//! one epoch, in order. A mark says that everything before it is closed up to an epoch; entries count only
//! once their mark has arrived. A beginning makes the next mark replace the whole journal.
//!
//! ```text
//! 6      7       8          16            20      24      32         40      48        56
//! | kind | flags | operator | fingerprint | share | epoch | previous | count | records | payload bytes, ..
//! ```
//!
//! Records are stored back to back: a length as a varint, and that many bytes.

use super::envelope::{Envelope, back_to_back};
use crate::codec::{Codec, CodecError, Postcard};
use crate::data::Data;
use crate::ids::Epoch;
use crate::snapshot::{SnapshotError, read_u32, read_u64, take_bytes, with_length, write};

/// The length of a frame's header.
pub const JOURNAL_HEADER_BYTES: usize = 72;

const ENVELOPE: Envelope = Envelope {
    magic: u32::from_le_bytes(*b"RFjn"),
    version: 1,
    header_bytes: JOURNAL_HEADER_BYTES,
};
const BEGIN: u8 = 1;
const ENTRY: u8 = 2;
const MARK: u8 = 3;
const HAS_PREVIOUS: u8 = 1;
const CLOSED: u8 = 2;

/// What a journal is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalSubject {
    /// The input: [`crate::snapshot::operator_id`] of its name.
    pub operator: u64,
    /// The encoding of its records.
    pub fingerprint: u32,
    /// The share.
    pub share: u32,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalPart {
    /// What follows up to the next mark replaces the whole journal.
    Begin,
    /// Records of one epoch; an epoch may have several entries.
    Entry {
        /// The epoch.
        epoch: Epoch,
        /// The number of records.
        records: u64,
    },
    /// Everything before is closed.
    Mark(JournalMark),
}

/// How far a journal is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalMark {
    /// The first epoch that is not closed or, if the share is closed, the epoch at which it was closed.
    pub next: Epoch,
    /// Whether the share is closed: nothing will follow.
    pub closed: bool,
    /// The `next` of the previous mark; `None` for the first mark, and for one that replaces the journal.
    pub previous: Option<Epoch>,
    /// The number of entries between that mark and this one.
    pub entries: u64,
    /// How many records the share has had since the run began.
    pub records: u64,
}

/// A frame in a buffer, checked.
#[derive(Clone, Copy, Debug)]
pub struct JournalRef<'a> {
    subject: JournalSubject,
    part: JournalPart,
    frame: &'a [u8],
}

impl<'a> JournalRef<'a> {
    /// Reads and checks the frame at the start of `bytes`, and returns it with what follows.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), SnapshotError> {
        let (frame, rest) = ENVELOPE.split(bytes)?;
        let head = &frame[..JOURNAL_HEADER_BYTES];
        let subject = JournalSubject {
            operator: read_u64(head, 8),
            fingerprint: read_u32(head, 16),
            share: read_u32(head, 20),
        };
        let (kind, flags) = (head[6], head[7]);
        let (epoch, count) = (Epoch(read_u64(head, 24)), read_u64(head, 40));
        let part = match kind {
            BEGIN => JournalPart::Begin,
            ENTRY => JournalPart::Entry { epoch, records: count },
            MARK => JournalPart::Mark(JournalMark {
                next: epoch,
                closed: flags & CLOSED != 0,
                previous: (flags & HAS_PREVIOUS != 0).then(|| Epoch(read_u64(head, 32))),
                entries: count,
                records: read_u64(head, 48),
            }),
            // The checksum is right: the writer is at fault.
            _ => return Err(SnapshotError::Entry { index: 0 }),
        };
        Ok((JournalRef { subject, part, frame }, rest))
    }

    /// Returns what it is of.
    pub fn subject(&self) -> JournalSubject {
        self.subject
    }

    /// Returns what it says.
    pub fn part(&self) -> JournalPart {
        self.part
    }

    /// Returns the frame itself: header and payload.
    pub fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// Decodes the records of an entry.
    pub fn records<D: Data>(&self) -> Result<Vec<D>, CodecError> {
        let mut rest = &self.frame[JOURNAL_HEADER_BYTES..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let Some((record, behind)) = take_bytes(rest) else {
                return Err(CodecError::Trailing {
                    type_name: std::any::type_name::<D>(),
                    remaining: rest.len(),
                });
            };
            records.push(Postcard::decode(record)?);
            rest = behind;
        }
        Ok(records)
    }
}

/// Returns the frames that are back to back in `bytes`, each checked. Ends after the first error.
pub fn journal_frames(bytes: &[u8]) -> impl Iterator<Item = Result<JournalRef<'_>, SnapshotError>> {
    back_to_back(bytes, JournalRef::parse)
}

/// Writes a frame without records at the end of `bytes`.
pub fn write_frame(bytes: &mut Vec<u8>, subject: JournalSubject, part: JournalPart) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; JOURNAL_HEADER_BYTES]);
    finish(&mut bytes[start..], subject, part);
}

/// Writes the header of a frame that already has its payload.
fn finish(frame: &mut [u8], subject: JournalSubject, part: JournalPart) {
    let (kind, flags, epoch, previous, count, records) = match part {
        JournalPart::Begin => (BEGIN, 0, 0, 0, 0, 0),
        JournalPart::Entry { epoch, records } => (ENTRY, 0, epoch.0, 0, records, 0),
        JournalPart::Mark(mark) => {
            let flags = if mark.closed { CLOSED } else { 0 }
                | if mark.previous.is_some() { HAS_PREVIOUS } else { 0 };
            let previous = mark.previous.map_or(0, |epoch| epoch.0);
            (MARK, flags, mark.next.0, previous, mark.entries, mark.records)
        }
    };
    write(frame, 6, &[kind, flags]);
    write(frame, 8, &subject.operator.to_le_bytes());
    write(frame, 16, &subject.fingerprint.to_le_bytes());
    write(frame, 20, &subject.share.to_le_bytes());
    write(frame, 24, &epoch.to_le_bytes());
    write(frame, 32, &previous.to_le_bytes());
    write(frame, 40, &count.to_le_bytes());
    write(frame, 48, &records.to_le_bytes());
    ENVELOPE.close(frame);
}

/// An entry that is being written, record by record.
#[derive(Debug, Default)]
pub(crate) struct EntryWriter {
    bytes: Vec<u8>,
    records: u64,
}

impl EntryWriter {
    /// Appends a record; returns by how many bytes the entry grew.
    ///
    /// On an error nothing is appended.
    #[inline]
    pub(crate) fn push<D: Data>(&mut self, record: &D) -> Result<usize, CodecError> {
        if self.bytes.is_empty() {
            self.bytes.resize(JOURNAL_HEADER_BYTES, 0);
        }
        let before = self.bytes.len();
        let pushed = with_length(&mut self.bytes, |bytes| Postcard::encode(record, bytes));
        if let Err(error) = pushed {
            self.bytes.truncate(before);
            return Err(error);
        }
        self.records += 1;
        Ok(self.bytes.len() - before)
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Ends the entry; returns how many records it has and its frame, or `None` if it has none.
    pub(crate) fn finish(
        &mut self,
        subject: JournalSubject,
        epoch: Epoch,
    ) -> Option<(u64, Vec<u8>)> {
        let records = std::mem::take(&mut self.records);
        if records == 0 {
            return None;
        }
        let mut frame = std::mem::take(&mut self.bytes);
        finish(&mut frame, subject, JournalPart::Entry { epoch, records });
        Some((records, frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: JournalSubject = JournalSubject { operator: 7, fingerprint: 8, share: 9 };

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, SUBJECT, JournalPart::Begin);
        let mut entry = EntryWriter::default();
        assert_eq!(entry.finish(SUBJECT, Epoch(3)), None);
        for word in ["one", "", "three"] {
            entry.push(&word.to_owned()).unwrap();
        }
        bytes.extend(entry.finish(SUBJECT, Epoch(3)).unwrap().1);
        let mark = JournalMark {
            next: Epoch(4),
            closed: true,
            previous: Some(Epoch(1)),
            entries: 1,
            records: 3,
        };
        write_frame(&mut bytes, SUBJECT, JournalPart::Mark(mark));
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = written();
        let frames: Vec<_> = journal_frames(&bytes).map(Result::unwrap).collect();
        assert!(frames.iter().all(|frame| frame.subject() == SUBJECT));
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].part(), JournalPart::Begin);
        assert_eq!(frames[1].part(), JournalPart::Entry { epoch: Epoch(3), records: 3 });
        assert_eq!(frames[1].records::<String>().unwrap(), ["one", "", "three"]);
        let JournalPart::Mark(mark) = frames[2].part() else { panic!("no mark") };
        assert_eq!((mark.next, mark.previous, mark.closed), (Epoch(4), Some(Epoch(1)), true));
        assert_eq!((mark.entries, mark.records), (1, 3));
    }

    #[test]
    fn damage_is_refused_wherever_it_is() {
        let bytes = written();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let error = journal_frames(&flipped).find_map(Result::err).unwrap();
            assert!(error.is_damage(), "byte {at}: {error}");
            let cut = journal_frames(&bytes[..at]).filter_map(Result::ok).count();
            assert!(cut < 3);
        }
    }
}
