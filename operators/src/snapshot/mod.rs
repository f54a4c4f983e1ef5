//! Snapshot: one partition of one operator at one epoch, in encoded form.
//!
//! A [`Delta`](DeltaRef) says what changed since its predecessor; a [`Base`](BaseRef) holds all
//! entries. Both name operator, codec, partition and epoch, and refuse any flipped bit and any
//! truncation: a delta by a fast checksum, a base by SHA-1. Bytes are little endian.
//!
//! Entries are stored back to back: key length, key, tag, and for a put value length and value. Lengths are
//! varints.

use crate::ids::{Epoch, PartitionId};

mod base;
mod delta;
mod entry;
mod envelope;
pub mod journal;

pub use base::{BASE_HEADER_BYTES, BaseHeader, BaseRef, BaseWriter};
pub use delta::{DELTA_HEADER_BYTES, DeltaHeader, DeltaRef, DeltaWriter, frames};
pub use entry::{Entries, Entry};
pub(crate) use entry::{push_bytes, take_bytes, with_length};

/// The subject of a snapshot: the part of its header that the caller of its writer provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The operator: [`operator_id`] of its name.
    pub operator: u64,
    /// The encoding of its entries: [`crate::codec::fingerprint`].
    pub fingerprint: u32,
    /// The partition.
    pub partition: PartitionId,
}

/// Returns the stable number of an operator, from its name.
pub fn operator_id(name: &crate::ids::OperatorName) -> u64 {
    rapidhash::v3::rapidhash_v3(name.0.as_bytes())
}

/// Bytes that are not a snapshot, or not the expected one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes end too early.
    #[error("a snapshot is cut short: {expected} bytes expected, {actual} there")]
    Truncated {
        /// The least number of bytes it must have.
        expected: u64,
        /// The number of bytes there are.
        actual: u64,
    },
    /// Bytes are left over after a base.
    #[error("{0} bytes are left over after a snapshot")]
    Trailing(usize),
    /// The bytes do not begin like a snapshot.
    #[error("not a snapshot: it begins with {actual:08x}, not with {expected:08x}")]
    Magic {
        /// The number a snapshot of this kind begins with.
        expected: u32,
        /// The number the bytes begin with.
        actual: u32,
    },
    /// The format's version is one that this build cannot read.
    #[error("snapshot version {actual} cannot be read, only {expected}")]
    Version {
        /// The version this build reads.
        expected: u16,
        /// The version of the bytes.
        actual: u16,
    },
    /// The checksum of a delta or of a journal is wrong.
    #[error("a frame's checksum is {actual:016x}, but {expected:016x} was written with it")]
    Checksum {
        /// The checksum written with the bytes.
        expected: u64,
        /// The checksum of the bytes.
        actual: u64,
    },
    /// The SHA-1 digest of a base is wrong.
    #[error("a base's SHA-1 digest differs from the one that was written with it")]
    Digest {
        /// The digest written with the bytes.
        expected: [u8; 20],
        /// The digest of the bytes.
        actual: [u8; 20],
    },
    /// An entry is malformed, though the checksum is right: the writer is at fault.
    #[error("entry {index} of a snapshot is malformed")]
    Entry {
        /// The position of the entry, from 0.
        index: u64,
    },
    /// The number of entries differs from the one in the header.
    #[error("a snapshot has {actual} entries, but its header says {expected}")]
    EntryCount {
        /// The number in the header.
        expected: u64,
        /// The number of entries there are.
        actual: u64,
    },
    /// The snapshot belongs to a different operator, codec, type or partition.
    #[error("a snapshot is of {actual:?}, not of {expected:?}")]
    Subject {
        /// What it should be of.
        expected: Subject,
        /// What it is of.
        actual: Subject,
    },
    /// The delta does not follow what is there.
    #[error("the delta of epoch {epoch} follows {actual:?}, but the last one here is {expected:?}")]
    Chain {
        /// The epoch of the delta.
        epoch: Epoch,
        /// The last epoch here.
        expected: Option<Epoch>,
        /// The predecessor that the delta names.
        actual: Option<Epoch>,
    },
    /// The requested state is of an epoch that is already folded into a later base.
    #[error("state at {wanted:?} is gone: the base stands at {base:?}")]
    Folded {
        /// The requested epoch.
        wanted: Option<Epoch>,
        /// The epoch of the base.
        base: Option<Epoch>,
    },
    /// A piece does not follow the one before it.
    #[error(
        "a piece of {total} bytes begins at {begin}, and the pieces that are here are {at} bytes of {expected}"
    )]
    Piece {
        /// How much is here.
        at: u64,
        /// The total number of bytes according to the pieces that are here.
        expected: u64,
        /// Where the piece begins.
        begin: u64,
        /// The total number of bytes according to the piece.
        total: u64,
    },
    /// One partition of one operator has more keys than an index can address.
    #[error(
        "a replica of one partition would have {keys} keys, and may have {limit_keys}: give the job more \
         partitions"
    )]
    Full {
        /// How many keys there would be.
        keys: u64,
        /// [`REPLICA_KEYS_MAX`](crate::state::REPLICA_KEYS_MAX).
        limit_keys: u64,
    },
}

impl SnapshotError {
    /// Whether the bytes are not those that were written.
    ///
    /// A complete snapshot that does not fit is not damaged: its writer has made a mistake.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            SnapshotError::Truncated { .. }
                | SnapshotError::Trailing(_)
                | SnapshotError::Magic { .. }
                | SnapshotError::Version { .. }
                | SnapshotError::Checksum { .. }
                | SnapshotError::Digest { .. }
                | SnapshotError::Piece { .. }
        )
    }
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

pub(crate) fn write(bytes: &mut [u8], at: usize, part: &[u8]) {
    bytes[at..at + part.len()].copy_from_slice(part);
}

#[cfg(test)]
mod tests;
