//! Base: all entries of one partition at one epoch, with their SHA-1 digest.
//!
//! A base is canonical if its writer puts keys in ascending order of their bytes, as replicas do: then equal
//! states have equal bytes.

use sha1::{Digest, Sha1};

use super::entry::PUT;
use super::{Entries, SnapshotError, Subject, push_bytes, read_u32, read_u64, write};
use crate::ids::{Epoch, PartitionId};

/// The length of a base's header.
pub const BASE_HEADER_BYTES: usize = 68;

const MAGIC: u32 = u32::from_le_bytes(*b"RFba");
const VERSION: u16 = 1;
const DIGEST_AT: usize = 48;
const HAS_EPOCH: u16 = 1;

/// The header of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseHeader {
    /// What it is the state of.
    pub subject: Subject,
    /// The epoch of the last change in it; `None` if there never was one.
    pub epoch: Option<Epoch>,
    /// How many entries follow.
    pub entries: u64,
    /// How many bytes follow.
    pub payload_bytes: u64,
}

/// A base in a buffer, checked.
#[derive(Clone, Copy, Debug)]
pub struct BaseRef<'a> {
    header: BaseHeader,
    digest: [u8; 20],
    payload: &'a [u8],
}

fn digest(header: &[u8], payload: &[u8]) -> [u8; 20] {
    Sha1::new().chain_update(&header[..DIGEST_AT]).chain_update(payload).finalize().into()
}

impl<'a> BaseRef<'a> {
    /// Reads and checks the base that `bytes`, all of them, hold.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        let actual = bytes.len() as u64;
        let Some((head, payload)) = bytes.split_at_checked(BASE_HEADER_BYTES) else {
            return Err(SnapshotError::Truncated { expected: BASE_HEADER_BYTES as u64, actual });
        };
        let magic = read_u32(head, 0);
        if magic != MAGIC {
            return Err(SnapshotError::Magic { expected: MAGIC, actual: magic });
        }
        let version = read_u32(head, 4) as u16;
        if version != VERSION {
            return Err(SnapshotError::Version { expected: VERSION, actual: version });
        }
        let flags = (read_u32(head, 4) >> 16) as u16;
        let header = BaseHeader {
            subject: Subject {
                operator: read_u64(head, 8),
                fingerprint: read_u32(head, 16),
                partition: PartitionId(read_u32(head, 20)),
            },
            epoch: (flags & HAS_EPOCH != 0).then(|| Epoch(read_u64(head, 24))),
            entries: read_u64(head, 32),
            payload_bytes: read_u64(head, 40),
        };
        let length = payload.len() as u64;
        if length < header.payload_bytes {
            let expected = header.payload_bytes.saturating_add(BASE_HEADER_BYTES as u64);
            return Err(SnapshotError::Truncated { expected, actual });
        }
        if length > header.payload_bytes {
            return Err(SnapshotError::Trailing((length - header.payload_bytes) as usize));
        }
        let mut expected = [0; 20];
        expected.copy_from_slice(&head[DIGEST_AT..]);
        let actual = digest(head, payload);
        if expected != actual {
            return Err(SnapshotError::Digest { expected, actual });
        }
        Ok(BaseRef { header, digest: expected, payload })
    }

    /// Returns the header.
    pub fn header(&self) -> &BaseHeader {
        &self.header
    }

    /// Returns the SHA-1 digest of header and payload.
    pub fn digest(&self) -> [u8; 20] {
        self.digest
    }

    /// Returns the entries in the order in which they were written: each key once, none removed.
    pub fn entries(&self) -> Entries<'a> {
        Entries::new(self.payload, self.header.entries)
    }
}

/// Writes one base at the end of a buffer.
#[derive(Debug)]
pub struct BaseWriter<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
    header: BaseHeader,
}

impl<'a> BaseWriter<'a> {
    /// Begins a base at the end of `bytes`.
    pub fn new(bytes: &'a mut Vec<u8>, subject: Subject, epoch: Option<Epoch>) -> Self {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; BASE_HEADER_BYTES]);
        BaseWriter {
            bytes,
            start,
            header: BaseHeader { subject, epoch, entries: 0, payload_bytes: 0 },
        }
    }

    /// Writes an encoded key and its encoded value.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        push_bytes(key, self.bytes);
        self.bytes.push(PUT);
        push_bytes(value, self.bytes);
        self.header.entries += 1;
    }

    /// Completes the base and returns its digest.
    pub fn finish(mut self) -> [u8; 20] {
        let (head, payload) = self.bytes[self.start..].split_at_mut(BASE_HEADER_BYTES);
        self.header.payload_bytes = payload.len() as u64;
        let header = &self.header;
        write(head, 0, &MAGIC.to_le_bytes());
        write(head, 4, &VERSION.to_le_bytes());
        let flags = if header.epoch.is_some() { HAS_EPOCH } else { 0 };
        write(head, 6, &flags.to_le_bytes());
        write(head, 8, &header.subject.operator.to_le_bytes());
        write(head, 16, &header.subject.fingerprint.to_le_bytes());
        write(head, 20, &header.subject.partition.0.to_le_bytes());
        write(head, 24, &header.epoch.map_or(0, |epoch| epoch.0).to_le_bytes());
        write(head, 32, &header.entries.to_le_bytes());
        write(head, 40, &header.payload_bytes.to_le_bytes());
        let sum = digest(head, payload);
        write(head, DIGEST_AT, &sum);
        sum
    }
}
