//! Complete frames: the only thing that timely ever sees.
//!
//! A frame is a 48-byte header of six big-endian `u64` and as many bytes as its fifth field says.
//! A header of zeros ends the stream. INVARIANT: the bytes handed out, taken together, are a
//! sequence of complete frames whose headers were checked, at every return from [`FrameReader::read`]
//! except in the middle of a frame that is already here in full.

use std::io::{self, Read};
use std::ops::Range;

/// The size of a frame's header.
pub(crate) const HEADER_BYTES: usize = 48;

/// The largest frame that a link accepts, header included.
///
/// A frame holds one container of one operator: hundreds of records, of whatever size the job gives them.
/// So this is more than a machine has memory, and only tells a corrupt header, for which the link is
/// lost. A frame takes memory as its bytes arrive, whatever its header says.
pub(crate) const FRAME_BYTES_MAX: u64 = 1 << 40;

/// The largest channel number that a link accepts. Timely counts channels up from zero.
pub(crate) const CHANNEL_MAX: u64 = u32::MAX as u64;

/// A read that offers at least this much room goes straight into timely's buffer.
///
/// Timely reads into what is left of a slab of 1 MiB, so that nearly every read has the room.
const DIRECT_BYTES_MIN: usize = 16 << 10;

/// What is read at once where timely offers less room than [`DIRECT_BYTES_MIN`]: all of it is copied
/// once more, so it is not larger than a read should be.
const BUFFER_BYTES: usize = 64 << 10;

/// A frame of which more than this is missing is read to its end and not beyond: one read more costs
/// less than to set aside the beginning of the next frame and to put it back.
const MISSING_BYTES_MIN: usize = 16 << 10;

/// A buffer that a large frame has grown beyond this is given back once it is empty.
const RETAINED_BYTES_MAX: usize = 4 << 20;

/// The workers at the two ends of a link, as timely numbers them within one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkEnds {
    /// The workers of this process: the only ones that a frame may be addressed to.
    pub local_workers: Range<usize>,
    /// The workers of the other process: the only ones that a frame may come from.
    pub remote_workers: Range<usize>,
}

/// What is wrong with a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderFault {
    /// The channel number is beyond [`CHANNEL_MAX`].
    #[error("channel {channel} is beyond {CHANNEL_MAX}")]
    Channel {
        /// The number found.
        channel: u64,
    },
    /// The sender is no worker of the other process.
    #[error("source worker {source_worker} is not within {}..{}", expected.start, expected.end)]
    Source {
        /// The number found.
        source_worker: u64,
        /// The workers of the other process.
        expected: Range<usize>,
    },
    /// The receivers are no workers of this process.
    #[error("target workers {lower}..{upper} are not within {}..{}", expected.start, expected.end)]
    Target {
        /// The first number found.
        lower: u64,
        /// The end of the range found.
        upper: u64,
        /// The workers of this process.
        expected: Range<usize>,
    },
    /// The frame is longer than [`FRAME_BYTES_MAX`].
    #[error("{length} bytes are beyond {FRAME_BYTES_MAX}")]
    Length {
        /// The length found.
        length: u64,
    },
    /// The length is zero, as at the end, and another field is not.
    #[error("the length is zero and other fields are not")]
    End,
    /// Bytes follow the header that ends the stream.
    #[error("bytes follow the end")]
    AfterEnd,
}

/// Why a link was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LossReason {
    /// The stream ended before the header that should end it.
    #[error("end of file without a clean end, {partial_bytes} bytes into a frame")]
    EndOfFile {
        /// How much of an incomplete frame had arrived; it is dropped.
        partial_bytes: usize,
    },
    /// Reading or writing failed.
    #[error("input or output failed ({kind:?}): {text}")]
    Io {
        /// The kind of the error.
        kind: io::ErrorKind,
        /// Its text.
        text: String,
    },
    /// A header is not one that the other process can have sent.
    #[error("bad frame header: {0}")]
    Header(#[from] HeaderFault),
}

impl From<io::Error> for LossReason {
    fn from(error: io::Error) -> Self {
        LossReason::Io { kind: error.kind(), text: error.to_string() }
    }
}

/// What one header announces.
#[derive(Debug, PartialEq, Eq)]
enum Announced {
    /// A frame of this many bytes, header included.
    Frame(usize),
    /// The clean end.
    End,
}

/// Returns what the header at the front of `bytes` announces, `None` if it is not all there.
fn announced(bytes: &[u8], ends: &LinkEnds) -> Result<Option<Announced>, HeaderFault> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let mut fields = [0u64; 6];
    for (field, chunk) in fields.iter_mut().zip(header.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        *field = u64::from_be_bytes(eight);
    }
    let [channel, source, lower, upper, length, _sequence] = fields;
    if length == 0 {
        return if fields == [0; 6] { Ok(Some(Announced::End)) } else { Err(HeaderFault::End) };
    }
    if length > FRAME_BYTES_MAX - HEADER_BYTES as u64 {
        return Err(HeaderFault::Length { length });
    }
    let LinkEnds { local_workers: local, remote_workers: remote } = ends;
    if lower < local.start as u64 || upper > local.end as u64 || lower >= upper {
        return Err(HeaderFault::Target { lower, upper, expected: local.clone() });
    }
    if source < remote.start as u64 || source >= remote.end as u64 {
        return Err(HeaderFault::Source { source_worker: source, expected: remote.clone() });
    }
    if channel > CHANNEL_MAX {
        return Err(HeaderFault::Channel { channel });
    }
    Ok(Some(Announced::Frame(HEADER_BYTES + length as usize)))
}

/// What follows the whole frames found so far.
#[derive(Debug)]
enum Next {
    /// More frames.
    Frames,
    /// Nothing: the header that ends the stream is among them.
    End,
    /// Nothing: this was found behind them.
    Broken(LossReason),
    /// Nothing: the header that ends the stream was handed out, and then more bytes came.
    BrokenAfterEnd,
}

/// The reading half of a link: takes bytes from a source, hands out whole frames.
#[derive(Debug)]
pub(crate) struct FrameReader {
    ends: LinkEnds,
    /// Bytes that arrived and are not handed out: `buffer[start..end]`. Never shrinks its length
    /// while it is in use, so that no byte of it is zeroed twice.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// How many of those bytes, from `start`, are whole frames.
    whole: usize,
    next: Next,
}

/// The frames at the front of some bytes.
struct Scan {
    /// How many bytes the whole frames take.
    whole: usize,
    /// The size of the first incomplete frame, if its header is here.
    wanted: Option<usize>,
    next: Next,
}

fn scan(bytes: &[u8], ends: &LinkEnds) -> Scan {
    let mut whole = 0;
    loop {
        let rest = &bytes[whole..];
        let (wanted, next) = match announced(rest, ends) {
            Ok(Some(Announced::Frame(size))) if size <= rest.len() => {
                whole += size;
                continue;
            }
            Ok(Some(Announced::Frame(size))) => (Some(size), Next::Frames),
            Ok(None) => (None, Next::Frames),
            Ok(Some(Announced::End)) if rest.len() == HEADER_BYTES => {
                whole += HEADER_BYTES;
                (None, Next::End)
            }
            Ok(Some(Announced::End)) => (None, Next::Broken(HeaderFault::AfterEnd.into())),
            Err(fault) => (None, Next::Broken(fault.into())),
        };
        return Scan { whole, wanted, next };
    }
}

impl FrameReader {
    pub(crate) fn new(ends: LinkEnds) -> Self {
        FrameReader { ends, buffer: Vec::new(), start: 0, end: 0, whole: 0, next: Next::Frames }
    }

    /// Whether bytes of whole frames wait here: the next read returns them without its source.
    pub(crate) fn has_whole(&self) -> bool {
        self.whole > 0
    }

    /// Whether the header that ends the stream was handed out.
    pub(crate) fn end_shown(&self) -> bool {
        self.whole == 0 && matches!(self.next, Next::End | Next::BrokenAfterEnd)
    }

    /// Hands out bytes of whole frames, at least one; `Ok(0)` is the clean end.
    ///
    /// An error comes only where a frame would begin, after every whole frame before it.
    pub(crate) fn read(
        &mut self,
        source: &mut impl Read,
        out: &mut [u8],
    ) -> Result<usize, LossReason> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.whole > 0 {
            return Ok(self.hand_out(out));
        }
        match &self.next {
            Next::Broken(reason) => return Err(reason.clone()),
            Next::BrokenAfterEnd => return Err(HeaderFault::AfterEnd.into()),
            Next::End => return self.await_end(source),
            Next::Frames => {}
        }
        let wanted = scan(&self.buffer[self.start..self.end], &self.ends).wanted;
        if out.len() >= DIRECT_BYTES_MIN && wanted.unwrap_or(0) <= out.len() {
            self.read_direct(source, out, wanted)
        } else {
            self.read_buffered(source, out, wanted)
        }
    }

    /// Copies whole frames, or a part of one, from the buffer.
    fn hand_out(&mut self, out: &mut [u8]) -> usize {
        let count = self.whole.min(out.len());
        out[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        self.whole -= count;
        if self.start == self.end {
            self.empty();
        }
        count
    }

    /// Forgets what is in the buffer, and gives it back if a large frame had grown it.
    fn empty(&mut self) {
        (self.start, self.end) = (0, 0);
        if self.buffer.len() > RETAINED_BYTES_MAX {
            self.buffer = Vec::new();
        }
    }

    /// Reads into `out` itself. Only an incomplete frame at its end is copied, to the buffer.
    fn read_direct(
        &mut self,
        source: &mut impl Read,
        out: &mut [u8],
        mut wanted: Option<usize>,
    ) -> Result<usize, LossReason> {
        let mut filled = self.end - self.start;
        out[..filled].copy_from_slice(&self.buffer[self.start..self.end]);
        self.empty();
        loop {
            let end = read_end(wanted, filled, out.len());
            filled += read_some(source, &mut out[filled..end], filled)?;
            let Scan { whole, wanted: size, next } = scan(&out[..filled], &self.ends);
            wanted = size;
            let room = wanted.unwrap_or(0) <= out.len();
            if whole == 0 && room && matches!(next, Next::Frames) {
                continue;
            }
            if let Next::Broken(reason) = &next
                && whole == 0
            {
                let reason = reason.clone();
                self.next = next;
                return Err(reason);
            }
            self.next = next;
            let rest = &out[whole..filled];
            if matches!(self.next, Next::Frames) {
                self.reserve(rest.len());
                self.buffer[..rest.len()].copy_from_slice(rest);
                self.end = rest.len();
            }
            if whole == 0 {
                return self.read_buffered(source, out, wanted);
            }
            return Ok(whole);
        }
    }

    /// Reads into the buffer until a whole frame is here.
    fn read_buffered(
        &mut self,
        source: &mut impl Read,
        out: &mut [u8],
        mut wanted: Option<usize>,
    ) -> Result<usize, LossReason> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            if self.end == self.buffer.len() {
                // A large frame takes memory as its bytes arrive, not as its header promises.
                let size = wanted.unwrap_or(0).min(self.end * 2);
                self.reserve(size);
            }
            let end = read_end(wanted, self.end, self.buffer.len());
            self.end += read_some(source, &mut self.buffer[self.end..end], self.end)?;
            if wanted.is_some_and(|size| self.end < size) {
                continue;
            }
            let found = scan(&self.buffer[..self.end], &self.ends);
            wanted = found.wanted;
            self.whole = found.whole;
            self.next = found.next;
            if self.whole > 0 {
                return Ok(self.hand_out(out));
            }
            if let Next::Broken(reason) = &self.next {
                return Err(reason.clone());
            }
        }
    }

    /// Waits for the end of file behind the header that ends the stream.
    fn await_end(&mut self, source: &mut impl Read) -> Result<usize, LossReason> {
        match source.read(&mut [0]) {
            Ok(count) if count > 0 => {
                self.next = Next::BrokenAfterEnd;
                Err(HeaderFault::AfterEnd.into())
            }
            // All was said: a reset after the end is an end.
            _ => Ok(0),
        }
    }

    /// Makes the buffer at least `size` long; what is new is zeroed once.
    fn reserve(&mut self, size: usize) {
        let size = size.max(BUFFER_BYTES);
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
    }
}

/// Returns how far to fill a buffer of `size` bytes that holds `filled` of a frame of `wanted`.
fn read_end(wanted: Option<usize>, filled: usize, size: usize) -> usize {
    match wanted {
        Some(wanted) if wanted > filled + MISSING_BYTES_MIN => wanted.min(size),
        _ => size,
    }
}

/// Reads at least one byte; `partial_bytes` is what an end of file would cut off.
fn read_some(
    source: &mut impl Read,
    buffer: &mut [u8],
    partial_bytes: usize,
) -> Result<usize, LossReason> {
    loop {
        match source.read(buffer) {
            Ok(0) => return Err(LossReason::EndOfFile { partial_bytes }),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
