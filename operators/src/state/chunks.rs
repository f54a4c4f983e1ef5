//! Chunks: the state of a trace, as a log of encoded updates whose sum it is.
//!
//! Where a table's delta says what a key's value is now, a trace's delta adds chunks: entries whose key
//! is a [`ChunkId`] and whose value is the chunk, opaque bytes. The order of chunks means nothing. A copy
//! may hold other chunks than another copy of the same state, since each merges its own.

use super::ReplicaBase;
use crate::codec::CodecError;
use crate::ids::Epoch;

/// About how long a merged chunk may be, in bytes. Those of half that length and more are only merged
/// again with all others.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// The name of a chunk, unique within its partition and operator.
///
/// A chunk of new updates has the epoch of the delta that brings it, or another one after that delta's
/// predecessor. A chunk by which a copy is filled has one at or below the epoch from which the view resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// The epoch.
    pub epoch: Epoch,
    /// The number among those of the epoch.
    pub index: u32,
}

impl ChunkId {
    /// The length of an encoded name.
    pub const BYTES: usize = 12;

    /// Returns the encoded form: the order of the bytes is that of the names.
    pub fn encode(self) -> [u8; ChunkId::BYTES] {
        let mut bytes = [0; ChunkId::BYTES];
        bytes[..8].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// Returns the name that `bytes`, all of them, encode.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let parts = bytes.split_first_chunk::<8>().and_then(|(epoch, rest)| {
            let index = <[u8; 4]>::try_from(rest).ok()?;
            Some((u64::from_be_bytes(*epoch), u32::from_be_bytes(index)))
        });
        let (epoch, index) = parts.ok_or(CodecError::Length {
            type_name: std::any::type_name::<ChunkId>(),
            expected: ChunkId::BYTES,
            actual: bytes.len(),
        })?;
        Ok(ChunkId { epoch: Epoch(epoch), index })
    }
}

/// Merges chunks of a trace's log: sums their updates, with times advanced to an epoch.
///
/// It is called by the thread that folds, while workers run, and never for one partition twice at a time.
pub trait ChunkMerger: Send + Sync {
    /// Returns the same updates, consolidated: none at a time before `since` that could be told from it.
    ///
    /// It returns no more chunks than it was given, each as long as it can be without being much longer
    /// than [`CHUNK_BYTES_MAX`]; where all updates cancel, none. Bytes that are no chunk give an error, upon
    /// which everything stays as it is.
    fn merge(&self, chunks: &[&[u8]], since: Epoch) -> Result<Vec<Vec<u8>>, CodecError>;
}

impl ReplicaBase {
    /// Returns the chunks of a trace's state, ascending by their names.
    ///
    /// An error says that it is no trace's state.
    pub fn chunks(&self) -> Result<Vec<(ChunkId, &[u8])>, CodecError> {
        let chunks = self.iter().map(|(key, chunk)| Ok((ChunkId::decode(key)?, chunk)));
        let mut chunks = chunks.collect::<Result<Vec<_>, CodecError>>()?;
        chunks.sort_unstable_by_key(|(id, _)| *id);
        Ok(chunks)
    }
}
