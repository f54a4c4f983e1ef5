//! Delta: what changed in one partition between two epochs, in an envelope (`envelope.rs`).
//!
//! ```text
//! 6       8          16            20          24      32         40        48
//! | flags | operator | fingerprint | partition | epoch | previous | entries | payload bytes, ..
//! ```

use super::entry::{PUT, REMOVE};
use super::envelope::{Envelope, back_to_back};
use super::{Entries, SnapshotError, Subject, read_u32, read_u64, with_length, write};
use crate::codec::CodecError;
use crate::ids::{Epoch, PartitionId};

/// The length of a delta's header.
pub const DELTA_HEADER_BYTES: usize = 64;

const ENVELOPE: Envelope =
    Envelope { magic: u32::from_le_bytes(*b"RFdl"), version: 1, header_bytes: DELTA_HEADER_BYTES };
const HAS_PREVIOUS: u16 = 1;
const COMPLETES: u16 = 2;

/// The header of a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaHeader {
    /// What it is a delta of.
    pub subject: Subject,
    /// The state that it leads to.
    pub epoch: Epoch,
    /// The epoch of the delta before it; `None` for the first.
    pub previous: Option<Epoch>,
    /// Whether it completes a copy that is being filled: a backup that has received all deltas since the
    /// filling began then has every key.
    pub completes: bool,
    /// How many entries follow.
    pub entries: u64,
    /// How many bytes follow.
    pub payload_bytes: u64,
}

/// A delta in a buffer, checked.
#[derive(Clone, Copy, Debug)]
pub struct DeltaRef<'a> {
    header: DeltaHeader,
    frame: &'a [u8],
}

impl DeltaHeader {
    /// Reads the header at the start of `bytes` without checking the payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        ENVELOPE.check_head(bytes)?;
        let flags = (read_u32(bytes, 4) >> 16) as u16;
        Ok(DeltaHeader {
            subject: Subject {
                operator: read_u64(bytes, 8),
                fingerprint: read_u32(bytes, 16),
                partition: PartitionId(read_u32(bytes, 20)),
            },
            epoch: Epoch(read_u64(bytes, 24)),
            previous: (flags & HAS_PREVIOUS != 0).then(|| Epoch(read_u64(bytes, 32))),
            completes: flags & COMPLETES != 0,
            entries: read_u64(bytes, 40),
            payload_bytes: read_u64(bytes, 48),
        })
    }

    fn write(&self, bytes: &mut [u8]) {
        let flags = if self.previous.is_some() { HAS_PREVIOUS } else { 0 }
            | if self.completes { COMPLETES } else { 0 };
        write(bytes, 6, &flags.to_le_bytes());
        write(bytes, 8, &self.subject.operator.to_le_bytes());
        write(bytes, 16, &self.subject.fingerprint.to_le_bytes());
        write(bytes, 20, &self.subject.partition.0.to_le_bytes());
        write(bytes, 24, &self.epoch.0.to_le_bytes());
        write(bytes, 32, &self.previous.map_or(0, |epoch| epoch.0).to_le_bytes());
        write(bytes, 40, &self.entries.to_le_bytes());
    }
}

impl<'a> DeltaRef<'a> {
    /// Reads and checks the delta at the start of `bytes`, and returns it with what follows.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), SnapshotError> {
        let (frame, rest) = ENVELOPE.split(bytes)?;
        Ok((DeltaRef { header: DeltaHeader::parse(frame)?, frame }, rest))
    }

    /// Returns the header.
    pub fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// Returns the frame itself: header and payload.
    pub fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// Returns the entries in the order in which they were written: each key once.
    pub fn entries(&self) -> Entries<'a> {
        Entries::new(&self.frame[DELTA_HEADER_BYTES..], self.header.entries)
    }
}

/// Returns the deltas that are back to back in `bytes`, each checked. Ends after the first error.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = Result<DeltaRef<'_>, SnapshotError>> {
    back_to_back(bytes, DeltaRef::parse)
}

/// Writes one delta straight into a buffer that may already hold others.
///
/// [`DeltaWriter::finish`] writes the header; a writer that is dropped before that removes what it wrote.
#[derive(Debug)]
pub struct DeltaWriter<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
    header: DeltaHeader,
    finished: bool,
}

impl<'a> DeltaWriter<'a> {
    /// Begins a delta at the end of `bytes`.
    pub fn new(
        bytes: &'a mut Vec<u8>,
        subject: Subject,
        epoch: Epoch,
        previous: Option<Epoch>,
    ) -> Self {
        assert!(previous < Some(epoch), "epoch {epoch} does not follow {previous:?}");
        let start = bytes.len();
        bytes.extend_from_slice(&[0; DELTA_HEADER_BYTES]);
        let header = DeltaHeader {
            subject,
            epoch,
            previous,
            completes: false,
            entries: 0,
            payload_bytes: 0,
        };
        DeltaWriter { bytes, start, header, finished: false }
    }

    /// Writes that a key has a value; the given functions encode both.
    #[inline]
    pub fn put(
        &mut self,
        key: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        with_length(self.bytes, key)?;
        self.bytes.push(PUT);
        with_length(self.bytes, value)?;
        self.header.entries += 1;
        Ok(())
    }

    /// Writes that a key was removed.
    #[inline]
    pub fn remove(
        &mut self,
        key: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        with_length(self.bytes, key)?;
        self.bytes.push(REMOVE);
        self.header.entries += 1;
        Ok(())
    }

    /// Marks the delta as completing a copy that is being filled.
    pub fn completes(&mut self) {
        self.header.completes = true;
    }

    /// Ends the delta and returns its number of entries.
    pub fn finish(mut self) -> u64 {
        self.finished = true;
        let frame = &mut self.bytes[self.start..];
        self.header.write(frame);
        ENVELOPE.close(frame);
        self.header.entries
    }
}

impl Drop for DeltaWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.bytes.truncate(self.start);
        }
    }
}
