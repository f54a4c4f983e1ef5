//! Chunks of traces in a vault: which of their deltas are accepted, and when chunks are merged.
//!
//! Chunks of about the same length are merged once there are a few of them, so that each byte is merged only
//! a few times until it is in a large chunk. Large chunks are left alone until the total size has doubled
//! since all chunks were last merged. Then all of them are merged, and updates cancel.

use crate::codec::CodecError;
use crate::ids::Epoch;
use crate::snapshot::{DeltaRef, DeltaWriter, SnapshotError};
use crate::state::{CHUNK_BYTES_MAX, ChunkId, ChunkMerger, ReplicaBase};

/// This many chunks of one class are merged.
const CLASS_CHUNKS_MIN: usize = 4;
/// The smallest class has chunks up to this length; each further class goes up to four times as far.
const SMALLEST_CLASS_BYTES: usize = 4 << 10;
/// Chunks of at least this length are merged only together with all others. SUBTLE: if this were the whole of
/// `CHUNK_BYTES_MAX`, four chunks that a merger keeps just below that would be merged again and again.
const LARGE_BYTES_MIN: usize = CHUNK_BYTES_MAX / 2;
/// A total of less than this is not worth merging everything.
const ALL_BYTES_MIN: usize = 16 << 10;
const CLASSES: usize = 4;

/// How far the chunks of one replica are merged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Merged {
    /// How many bytes were left when all chunks were last merged.
    all_bytes: usize,
    /// The base of the last pass, and its progress.
    at: Option<Epoch>,
    pass: Pass,
}

/// What one pass over the chunks of a base has merged. Each class is merged once, so that a merger that
/// merges nothing cannot keep the passes going forever. The next pass begins when something new is folded.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    classes: [bool; CLASSES],
    ended: bool,
}

/// Chunks to be merged.
#[derive(Debug)]
pub(super) struct Step<'a> {
    /// Ascending by their names.
    chunks: Vec<(ChunkId, &'a [u8])>,
    /// How many bytes they have.
    pub(super) bytes: usize,
    /// The class; `None` if these are all chunks.
    pub(super) class: Option<usize>,
}

/// The replacements of chunks: a new chunk in place of an old one, or none.
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

impl Merged {
    /// Begins a pass if the base differs from that of the last pass; returns whether to continue.
    pub(super) fn begin(&mut self, base: Option<Epoch>) -> bool {
        if self.at != base {
            (self.at, self.pass) = (base, Pass::default());
        }
        // Before the first delta there is nothing to merge.
        base.is_some() && !self.pass.ended
    }

    /// Ends the pass.
    pub(super) fn end(&mut self) {
        self.pass.ended = true;
    }

    /// Notes that the chunks of a step have been replaced.
    pub(super) fn note(&mut self, class: Option<usize>, replaced: &Replaced) {
        match class {
            Some(class) => self.pass.classes[class] = true,
            None => {
                self.all_bytes =
                    replaced.iter().filter_map(|(_, chunk)| chunk.as_ref()).map(Vec::len).sum();
                self.pass.ended = true;
            }
        }
    }

    /// Returns the chunks of `base` that are to be merged next; `None` if the pass ends.
    pub(super) fn next<'a>(&self, base: &'a ReplicaBase) -> Result<Option<Step<'a>>, MergeError> {
        let chunks = base.chunks().map_err(MergeError::Refused)?;
        let bytes = bytes_of(&chunks);
        if bytes > ALL_BYTES_MIN.max(2 * self.all_bytes) {
            return Ok(Some(Step { chunks, bytes, class: None }));
        }
        let is_of = |(_, chunk): &&(ChunkId, &[u8]), index| class(chunk.len()) == Some(index);
        let untried = (0..CLASSES).filter(|index| !self.pass.classes[*index]);
        let mut due = untried.filter(|index| {
            chunks.iter().filter(|chunk| is_of(chunk, *index)).count() >= CLASS_CHUNKS_MIN
        });
        Ok(due.next().map(|index| {
            let chunks = chunks.iter().filter(|chunk| is_of(chunk, index)).copied();
            let chunks: Vec<_> = chunks.collect();
            Step { bytes: bytes_of(&chunks), chunks, class: Some(index) }
        }))
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

/// Checks the entries of a delta of chunks. If the copy `is_whole`, which means complete since the view began
/// at `resume`, and the delta contains filling chunks, returns the delta without them.
///
/// A chunk is filling if its name is at or below `resume`. SUBTLE: a delta of a table may repeat a key's
/// value, but a chunk that is stored again under another name would count twice. So only copies that lack the
/// earlier contents accept filling chunks.
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
        // Otherwise the name might be that of a chunk that is here, merged or not.
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
mod tests;
