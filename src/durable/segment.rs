//! Segment: what one node wrote at one durable checkpoint, of all partitions that it writes.
//!
//! ```text
//! 0       4         8
//! | RFsg  | version | blocks, .. | index | index bytes (8) | checksum (8) | RFse |
//! ```
//!
//! A block is an encoded base, with its SHA-1, or deltas back to back, each with its checksum. The index is
//! JSON and says where each block is and what it is of; the checksum is that of the index. The digest of the
//! whole is in the manifest.

use rapidhash::v3::rapidhash_v3;
use ringfence_operators::ids::{Epoch, Incarnation, NodeId, PartitionId, ViewNumber};
use ringfence_operators::snapshot::{DELTA_HEADER_BYTES, DeltaHeader, Subject};
use ringfence_operators::vault::UnsavedState;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::DurableError;
use super::store::Store;
use crate::protocol::durability::SegmentRecord;

const HEAD: [u8; 4] = *b"RFsg";
const TAIL: [u8; 4] = *b"RFse";
const VERSION: u32 = 1;
const HEAD_BYTES: u64 = 8;
const TAIL_BYTES: u64 = 20;

/// Where a block is in its segment, and what it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Block {
    /// The operator's number.
    pub(crate) operator: u64,
    /// The fingerprint of its codec and types.
    pub(crate) fingerprint: u32,
    /// The operator's partition.
    pub(crate) partition: PartitionId,
    /// Whether it is a base, and not deltas.
    pub(crate) is_base: bool,
    /// The epoch of the base, or of the last delta; `None` for a base before any.
    pub(crate) epoch: Option<Epoch>,
    /// Where it begins.
    pub(crate) offset: u64,
    /// How long it is.
    pub(crate) bytes: u64,
}

impl Block {
    /// What its contents are of.
    pub(crate) fn subject(&self) -> Subject {
        Subject {
            operator: self.operator,
            fingerprint: self.fingerprint,
            partition: self.partition,
        }
    }
}

/// The folder of segments in a store.
pub(crate) const FOLDER: &str = "segments";

/// Returns the name of a segment: who wrote it, in which start of the cluster and which view, and which of its
/// segments it is. So nobody ever writes what somebody else has written.
pub(crate) fn name_of(
    (start, view): (u64, ViewNumber),
    (node, incarnation): (NodeId, Incarnation),
    sequence: u64,
) -> String {
    format!("{FOLDER}/{start:06}-{view}-{node}-{incarnation}/{sequence:08}")
}

/// Returns in which start of the cluster and in which view a segment was written, from its name.
pub(crate) fn written_in(name: &str) -> Option<(u64, u64)> {
    let mut parts = name.strip_prefix(FOLDER)?.strip_prefix('/')?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Returns SHA-1 in lower-case hexadecimal.
pub(super) fn sha1_of(bytes: &[u8]) -> String {
    Sha1::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Encodes a segment.
pub(crate) fn encode(states: &[UnsavedState]) -> Vec<u8> {
    let mut bytes = [&HEAD[..], &VERSION.to_le_bytes()].concat();
    let mut blocks = Vec::new();
    for UnsavedState { subject, base, deltas } in states {
        let mut end_block = |bytes: &Vec<u8>, offset: usize, is_base, epoch| {
            blocks.push(Block {
                operator: subject.operator,
                fingerprint: subject.fingerprint,
                partition: subject.partition,
                is_base,
                epoch,
                offset: offset as u64,
                bytes: (bytes.len() - offset) as u64,
            });
        };
        if let Some(base) = base {
            let offset = bytes.len();
            base.to_base(&mut bytes);
            end_block(&bytes, offset, true, base.epoch());
        }
        let last = deltas.last().map(|frame| {
            let header = DeltaHeader::parse(&frame[..DELTA_HEADER_BYTES]);
            header.expect("it was parsed when it was stored").epoch
        });
        if last.is_some() {
            let offset = bytes.len();
            deltas.iter().for_each(|frame| bytes.extend_from_slice(frame));
            end_block(&bytes, offset, false, last);
        }
    }
    let index = serde_json::to_vec(&blocks).expect("blocks have no map keys and no foreign types");
    bytes.extend_from_slice(&index);
    bytes.extend_from_slice(&(index.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&rapidhash_v3(&index).to_le_bytes());
    bytes.extend_from_slice(&TAIL);
    bytes
}

/// Reads the index of a segment, without its blocks.
pub(crate) fn read_index(
    store: &dyn Store,
    record: &SegmentRecord,
) -> Result<Vec<Block>, DurableError> {
    let damaged = |problem: String| DurableError::damaged(store, &record.name, problem);
    let read = |offset, length| {
        let bytes = store.read_range(&record.name, offset, length)?;
        let bytes = bytes.ok_or_else(|| damaged("it is not there".to_owned()))?;
        if (bytes.len() as u64) < length {
            return Err(damaged(format!(
                "it is cut: {length} bytes from {offset} on expected, {} there",
                bytes.len()
            )));
        }
        Ok(bytes)
    };
    if record.bytes < HEAD_BYTES + TAIL_BYTES {
        return Err(damaged(format!("{} bytes are too few for a segment", record.bytes)));
    }
    let head = read(0, HEAD_BYTES)?;
    if head[..4] != HEAD {
        return Err(damaged("it does not begin like a segment".to_owned()));
    }
    let version = u32::from_le_bytes(head[4..8].try_into().unwrap_or_default());
    if version != VERSION {
        return Err(DurableError::Version {
            place: format!("{} in {}", record.name, store.place()),
            expected: VERSION,
            actual: version,
        });
    }
    let tail_at = record.bytes - TAIL_BYTES;
    let tail = read(tail_at, TAIL_BYTES)?;
    let number = |at: usize| u64::from_le_bytes(tail[at..at + 8].try_into().unwrap_or_default());
    let (index_bytes, checksum) = (number(0), number(8));
    if tail[16..] != TAIL || index_bytes > tail_at - HEAD_BYTES {
        return Err(damaged("it does not end like a segment".to_owned()));
    }
    let index = read(tail_at - index_bytes, index_bytes)?;
    if rapidhash_v3(&index) != checksum {
        return Err(damaged("the checksum of its index is wrong".to_owned()));
    }
    let blocks: Vec<Block> =
        serde_json::from_slice(&index).map_err(|error| damaged(format!("its index: {error}")))?;
    let end = tail_at - index_bytes;
    if let Some(block) = blocks.iter().find(|block| {
        block.offset < HEAD_BYTES || block.offset.checked_add(block.bytes).is_none_or(|at| at > end)
    }) {
        return Err(damaged(format!("a block at {} is outside of it", block.offset)));
    }
    Ok(blocks)
}
