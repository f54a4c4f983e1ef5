//! Pieces: frames that are too large to travel in one container, split and reassembled.
//!
//! Anything up to [`PIECE_BYTES`] travels unchanged. The pieces of anything larger are sent one after the
//! other, at the same time: links keep their order, so a receiver has at most one unfinished whole from each
//! sender, and no frontier passes before the last piece has arrived. The checksums of the frames check what
//! is reassembled; each piece's own header has another checksum. Bytes are little endian.
//!
//! [`PIECE_BYTES`]: crate::fence::generation::PIECE_BYTES

use std::collections::BTreeMap;

use rapidhash::v3::rapidhash_v3;

use crate::fence::Fence;
use crate::planted::{self, Planted};
use crate::rounds::frames::Frames;
use crate::snapshot::{SnapshotError, read_u32, read_u64, write};

/// The length of a piece's header.
pub(crate) const PIECE_HEADER_BYTES: usize = 40;

const MAGIC: u32 = u32::from_le_bytes(*b"RFpc");
const VERSION: u16 = 1;
const CHECKSUM_AT: usize = 32;

/// The header of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PieceHeader {
    /// The worker that sent it.
    sender: u64,
    /// The offset of the piece in the whole.
    begin: u64,
    /// How many bytes the whole has.
    total: u64,
}

impl PieceHeader {
    fn encode(&self) -> [u8; PIECE_HEADER_BYTES] {
        let mut head = [0; PIECE_HEADER_BYTES];
        write(&mut head, 0, &MAGIC.to_le_bytes());
        write(&mut head, 4, &VERSION.to_le_bytes());
        write(&mut head, 8, &self.sender.to_le_bytes());
        write(&mut head, 16, &self.begin.to_le_bytes());
        write(&mut head, 24, &self.total.to_le_bytes());
        let sum = rapidhash_v3(&head[..CHECKSUM_AT]);
        write(&mut head, CHECKSUM_AT, &sum.to_le_bytes());
        head
    }

    /// Splits a piece into header and bytes; `None` if the bytes are not a piece.
    fn split(bytes: &[u8]) -> Result<Option<(Self, &[u8])>, SnapshotError> {
        if bytes.len() < 4 || read_u32(bytes, 0) != MAGIC {
            return Ok(None);
        }
        let Some((head, piece)) = bytes.split_at_checked(PIECE_HEADER_BYTES) else {
            let (expected, actual) = (PIECE_HEADER_BYTES as u64, bytes.len() as u64);
            return Err(SnapshotError::Truncated { expected, actual });
        };
        let version = read_u32(head, 4) as u16;
        if version != VERSION {
            return Err(SnapshotError::Version { expected: VERSION, actual: version });
        }
        let (expected, actual) = (read_u64(head, CHECKSUM_AT), rapidhash_v3(&head[..CHECKSUM_AT]));
        if expected != actual {
            return Err(SnapshotError::Checksum { expected, actual });
        }
        let header = PieceHeader {
            sender: read_u64(head, 8),
            begin: read_u64(head, 16),
            total: read_u64(head, 24),
        };
        Ok(Some((header, piece)))
    }
}

/// Sends frames of this worker to worker `target`: whole, or in pieces.
pub(crate) fn send_frames(
    fence: &Fence,
    target: usize,
    bytes: Vec<u8>,
    send: &mut dyn FnMut(Frames),
) {
    let piece_bytes = fence.generation().settings.piece_bytes;
    send_in_pieces_of(piece_bytes, fence.worker(), target, bytes, send);
}

fn send_in_pieces_of(
    piece_bytes: usize,
    sender: usize,
    target: usize,
    bytes: Vec<u8>,
    send: &mut dyn FnMut(Frames),
) {
    if bytes.len() <= piece_bytes {
        return send(Frames::Built { target, bytes });
    }
    let mut header = PieceHeader { sender: sender as u64, begin: 0, total: bytes.len() as u64 };
    for part in bytes.chunks(piece_bytes) {
        let mut piece = Vec::with_capacity(PIECE_HEADER_BYTES + part.len());
        piece.extend_from_slice(&header.encode());
        piece.extend_from_slice(part);
        header.begin += part.len() as u64;
        send(Frames::Built { target, bytes: piece });
    }
}

/// Reassembles pieces.
///
/// Memory grows as bytes arrive, not according to a header. A whole that is unfinished at the end of a
/// generation is dropped with the operator that holds this: no frontier has passed it.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// The part of each sender's unfinished whole that has arrived, and the whole's total number of bytes.
    open: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl Assembly {
    /// Begins an activation of the operator that holds this.
    pub(crate) fn begin(&mut self) {
        if planted::is(Planted::PiecesForgotten) {
            self.open.clear();
        }
    }

    /// Calls `whole` with the bytes of a container that is not a piece, or with the bytes that a last piece
    /// completes.
    ///
    /// A piece that does not follow the previous one is an error.
    pub(crate) fn take<E: From<SnapshotError>>(
        &mut self,
        bytes: &[u8],
        whole: impl FnOnce(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some((PieceHeader { sender, begin, total }, piece)) = PieceHeader::split(bytes)? else {
            return whole(bytes);
        };
        let (expected, there) = self.open.entry(sender).or_insert_with(|| (total, Vec::new()));
        let (at, end) = (there.len() as u64, begin.saturating_add(piece.len() as u64));
        let follows = begin == at && total == *expected && end <= total && !piece.is_empty();
        if !follows && planted::is(Planted::PiecesForgotten) {
            self.open.remove(&sender);
            return Ok(());
        }
        if !follows {
            let (expected, at) = (*expected, at);
            return Err(SnapshotError::Piece { at, expected, begin, total }.into());
        }
        there.extend_from_slice(piece);
        if end < total {
            return Ok(());
        }
        let (_, bytes) = self.open.remove(&sender).unwrap_or_default();
        whole(&bytes)
    }
}

#[cfg(test)]
mod tests;
