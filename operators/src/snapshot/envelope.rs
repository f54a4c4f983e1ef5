//! Envelope: the header and checksum around deltas and journals, by which any flipped bit and any truncation
//! is detected.
//!
//! ```text
//! 0       4         6                            h-16      h-8        h
//! | magic | version | what the frame itself says | payload | checksum | payload
//! |       |         |                            | bytes   |          |
//! ```
//!
//! Each kind has a magic number and a header length h. The checksum covers everything but itself. Frames are
//! stored back to back. Bytes are little endian.

use rapidhash::v3::rapidhash_v3;

use super::{SnapshotError, read_u32, read_u64, write};

/// A kind of frame.
pub(super) struct Envelope {
    pub(super) magic: u32,
    pub(super) version: u16,
    pub(super) header_bytes: usize,
}

impl Envelope {
    /// Checks that a header of this kind begins `bytes`; the payload is not looked at.
    pub(super) fn check_head(&self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if bytes.len() < self.header_bytes {
            let (expected, actual) = (self.header_bytes as u64, bytes.len() as u64);
            return Err(SnapshotError::Truncated { expected, actual });
        }
        let magic = read_u32(bytes, 0);
        if magic != self.magic {
            return Err(SnapshotError::Magic { expected: self.magic, actual: magic });
        }
        let version = read_u32(bytes, 4) as u16;
        if version != self.version {
            return Err(SnapshotError::Version { expected: self.version, actual: version });
        }
        Ok(())
    }

    /// Splits off the frame at the start of `bytes`, checked.
    pub(super) fn split<'a>(&self, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), SnapshotError> {
        self.check_head(bytes)?;
        let payload_bytes = read_u64(bytes, self.header_bytes - 16);
        let expected = payload_bytes.saturating_add(self.header_bytes as u64);
        let split = usize::try_from(expected).ok().and_then(|at| bytes.split_at_checked(at));
        let Some((frame, rest)) = split else {
            return Err(SnapshotError::Truncated { expected, actual: bytes.len() as u64 });
        };
        let (expected, actual) = (read_u64(frame, self.header_bytes - 8), self.checksum(frame));
        if expected != actual {
            return Err(SnapshotError::Checksum { expected, actual });
        }
        Ok((frame, rest))
    }

    /// Completes a frame that already has its payload, and in its header only the kind's own part.
    pub(super) fn close(&self, frame: &mut [u8]) {
        let payload_bytes = (frame.len() - self.header_bytes) as u64;
        write(frame, 0, &self.magic.to_le_bytes());
        write(frame, 4, &self.version.to_le_bytes());
        write(frame, self.header_bytes - 16, &payload_bytes.to_le_bytes());
        let sum = self.checksum(frame);
        write(frame, self.header_bytes - 8, &sum.to_le_bytes());
    }

    fn checksum(&self, frame: &[u8]) -> u64 {
        let (head, payload) = frame.split_at(self.header_bytes);
        let mut both = [0; 16];
        write(&mut both, 0, &rapidhash_v3(&head[..self.header_bytes - 8]).to_le_bytes());
        write(&mut both, 8, &rapidhash_v3(payload).to_le_bytes());
        rapidhash_v3(&both)
    }
}

/// What `parse` finds back to back in a buffer. Ends after the first error.
pub(super) fn back_to_back<'a, F>(
    mut rest: &'a [u8],
    parse: impl Fn(&'a [u8]) -> Result<(F, &'a [u8]), SnapshotError>,
) -> impl Iterator<Item = Result<F, SnapshotError>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = parse(rest);
        rest = parsed.as_ref().map_or(&[], |(_, behind)| *behind);
        Some(parsed.map(|(frame, _)| frame))
    })
}
