//! Chunks of traces in a vault: which deltas of them are taken, and which chunks are merged when.
//!
//! Chunks of about the same length are merged once there are a few of them, so that each byte is merged
//! a few times on its way to a large chunk. Large chunks are left alone until all chunks together have
//! doubled since all were merged last: then all are, and whatever cancels does.

use crate::codec::CodecError;
use crate::ids::Epoch;
use crate::snapshot::{DeltaRef, DeltaWriter, SnapshotError};
use crate::state::{CHUNK_BYTES_MAX, ChunkId, ChunkMerger, ReplicaBase};

/// So many chunks of one class are merged.
const CLASS_CHUNKS_MIN: usize = 4;
/// The smallest class is of chunks up to this length; each other one goes up to four times as far.
const SMALLEST_CLASS_BYTES: usize = 4 << 10;
/// Chunks from this length on are only merged with all others. SUBTLE: were it the whole of
/// `CHUNK_BYTES_MAX`, four chunks that a merger keeps just below that would be merged again and again.
const LARGE_BYTES_MIN: usize = CHUNK_BYTES_MAX / 2;
/// Less than this in all is not worth a merge of everything.
const ALL_BYTES_MIN: usize = 16 << 10;
const CLASSES: usize = 4;

/// How far the chunks of one replica are merged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Merged {
    /// The base at which nothing is left to merge, or could be.
    pub(super) at: Option<Epoch>,
    /// How many bytes were left when all were merged last.
    pub(super) all_bytes: usize,
}

/// What one pass over a replica's chunks has merged: each class once, lest a merger that merges nothing
/// keep the pass going for ever.
#[derive(Debug, Default)]
pub(super) struct Pass {
    classes: [bool; CLASSES],
    all: bool,
}

/// Chunks to be merged.
#[derive(Debug)]
pub(super) struct Step<'a> {
    /// Ascending by their names.
    chunks: Vec<(ChunkId, &'a [u8])>,
    /// How many bytes they have.
    pub(super) bytes: usize,
    /// Whether these are all there are.
    pub(super) is_all: bool,
}

/// What becomes of chunks: a new one in the place of an old one, or none.
pub(super) type Replaced = Vec<(ChunkId, Option<Vec<u8>>)>;

/// Why chunks are not merged.
#[derive(Debug)]
pub(super) enum MergeError {
    /// The merger refused.
    Refused(CodecError),
    /// The merger returned more chunks than it was given.
    More { given: usize, actual: usize },
}

/// The class of a chunk; `None` for a large one.
fn class(bytes: usize) -> Option<usize> {
    if bytes >= LARGE_BYTES_MIN {
        return None;
    }
    (0..CLASSES).find(|class| bytes <= SMALLEST_CLASS_BYTES << (2 * class))
}

fn bytes_of(chunks: &[(ChunkId, &[u8])]) -> usize {
    chunks.iter().map(|(_, chunk)| chunk.len()).sum()
}

impl Pass {
    /// Returns the chunks of `base` that are to be merged next; `None` ends the pass.
    pub(super) fn next<'a>(
        &mut self,
        base: &'a ReplicaBase,
        merged: Merged,
    ) -> Result<Option<Step<'a>>, MergeError> {
        if self.all {
            return Ok(None);
        }
        let chunks = base.chunks().map_err(MergeError::Refused)?;
        let bytes = bytes_of(&chunks);
        if bytes > ALL_BYTES_MIN.max(2 * merged.all_bytes) {
            self.all = true;
            return Ok(Some(Step { chunks, bytes, is_all: true }));
        }
        for (index, tried) in self.classes.iter_mut().enumerate().filter(|(_, tried)| !**tried) {
            let is_of = |(_, chunk): &&(ChunkId, &[u8])| class(chunk.len()) == Some(index);
            if chunks.iter().filter(is_of).count() >= CLASS_CHUNKS_MIN {
                *tried = true;
                let chunks: Vec<_> = chunks.iter().filter(is_of).copied().collect();
                return Ok(Some(Step { bytes: bytes_of(&chunks), chunks, is_all: false }));
            }
        }
        Ok(None)
    }
}

impl Step<'_> {
    /// Merges the chunks: the first names go to what is left, and the others are gone.
    pub(super) fn merge(
        &self,
        merger: &dyn ChunkMerger,
        since: Epoch,
    ) -> Result<Replaced, MergeError> {
        let chunks: Vec<&[u8]> = self.chunks.iter().map(|(_, chunk)| *chunk).collect();
        let merged = merger.merge(&chunks, since).map_err(MergeError::Refused)?;
        let (given, actual) = (chunks.len(), merged.len());
        if actual > given {
            return Err(MergeError::More { given, actual });
        }
        let merged = merged.into_iter().map(Some).chain(std::iter::repeat(None));
        Ok(self.chunks.iter().map(|(id, _)| *id).zip(merged).collect())
    }
}

/// Checks the entries of a delta of chunks. Where the copy `is_whole`, complete since the view began at
/// `resume`, and the delta brings some filling, returns it without.
///
/// A chunk is filling if its name is at or below `resume`. SUBTLE: a delta of a table may say again what
/// a key's value is, but a chunk that is put once more under another name would count twice. So only
/// those that lack what was there before take it.
pub(super) fn without_filling(
    delta: &DeltaRef<'_>,
    resume: Option<Epoch>,
    is_whole: bool,
) -> Result<Option<Vec<u8>>, SnapshotError> {
    let header = delta.header();
    let mut fresh = Vec::new();
    let mut filling = 0;
    for (index, entry) in (0_u64..).zip(delta.entries()) {
        let entry = entry?;
        let malformed = SnapshotError::Entry { index };
        let (Ok(id), Some(chunk)) = (ChunkId::decode(entry.key), entry.value) else {
            return Err(malformed);
        };
        if Some(id.epoch) <= resume {
            filling += 1;
            continue;
        }
        // Else the name might be that of a chunk which is here, merged or not.
        if Some(id.epoch) <= header.previous || id.epoch > header.epoch {
            return Err(malformed);
        }
        fresh.push((id, chunk));
    }
    if !is_whole || filling == 0 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let mut writer = DeltaWriter::new(&mut bytes, header.subject, header.epoch, header.previous);
    for (index, (id, chunk)) in (0_u64..).zip(fresh) {
        let put = |part: &[u8], bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        writer
            .put(|bytes| put(&id.encode(), bytes), |bytes| put(chunk, bytes))
            .map_err(|_: CodecError| SnapshotError::Entry { index })?;
    }
    if header.completes {
        writer.completes();
    }
    writer.finish();
    Ok(Some(bytes))
}

#[cfg(test)]
#[path = "chunks_tests.rs"]
mod tests;
