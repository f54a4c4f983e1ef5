//! One direction of a connection through the proxy: the bytes that have arrived and are not passed on yet.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

/// How much a pipe holds before it accepts no more; then the sender's own system holds the rest.
const HELD_BYTES_MAX: usize = 4 << 20;

/// The most that is read before other pipes have their turn.
const TURN_BYTES_MAX: usize = 256 << 10;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The sender has shut down its side.
    EndOfFile,
    /// The connection is broken.
    Reset,
}

/// The result of passing bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// There may be more to come.
    Open,
    /// The end of the stream has been passed on.
    Closed,
    /// The stream has ended with a reset, which the caller passes on.
    Reset,
    /// The receiver is gone: nothing reaches it any more.
    Gone,
}

/// Bytes in flight in one direction, in order, and the end that follows them.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    chunks: VecDeque<Chunk>,
    held_bytes: usize,
    end: Option<(Instant, End)>,
    closed: bool,
    /// The receiver's system accepts no more for now.
    blocked: bool,
    /// The receiver is gone: whatever arrives is dropped.
    discarding: bool,
}

#[derive(Debug)]
struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    passed: usize,
}

impl Pipe {
    /// Whether the sender is worth reading from.
    pub(super) fn wants_input(&self) -> bool {
        self.end.is_none() && self.held_bytes < HELD_BYTES_MAX
    }

    /// Whether to wait until the receiver takes more.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// When the next thing may be passed on.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.closed || self.blocked {
            return None;
        }
        let first = self.chunks.front().map(|chunk| chunk.due);
        first.or(self.end.map(|(due, _)| due))
    }

    /// Reads what is available from the non-blocking `source`; it may be passed on at `due`.
    pub(super) fn take_in(&mut self, mut source: &TcpStream, due: Instant, buffer: &mut [u8]) {
        let mut taken = 0;
        while self.wants_input() && taken < TURN_BYTES_MAX {
            match source.read(buffer) {
                Ok(0) => self.end = Some((due, End::EndOfFile)),
                Ok(count) => {
                    taken += count;
                    if !self.discarding {
                        self.held_bytes += count;
                        self.chunks.push_back(Chunk {
                            due,
                            bytes: buffer[..count].to_vec(),
                            passed: 0,
                        });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.end = Some((due, End::Reset)),
            }
        }
    }

    /// Notes that the sender is gone, whatever it sent last.
    pub(super) fn break_off(&mut self, due: Instant) {
        self.end = Some((due, End::Reset));
        self.closed = false;
    }

    /// Drops what is held and whatever arrives: the receiver is gone.
    pub(super) fn discard(&mut self) {
        self.chunks.clear();
        self.held_bytes = 0;
        self.blocked = false;
        self.discarding = true;
    }

    /// Writes what is due to the non-blocking `target`.
    pub(super) fn pass_on(&mut self, mut target: &TcpStream, now: Instant) -> Passed {
        self.blocked = false;
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.due > now {
                return Passed::Open;
            }
            match target.write(&chunk.bytes[chunk.passed..]) {
                Ok(count) => {
                    chunk.passed += count;
                    self.held_bytes -= count;
                    if chunk.passed == chunk.bytes.len() {
                        self.chunks.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Passed::Open;
                }
                Err(_) => return Passed::Gone,
            }
        }
        match self.end {
            _ if self.closed => Passed::Closed,
            Some((due, End::Reset)) if due <= now => Passed::Reset,
            Some((due, End::EndOfFile)) if due <= now => {
                // A receiver that is gone needs no end.
                let _ = target.shutdown(Shutdown::Write);
                self.closed = true;
                Passed::Closed
            }
            _ => Passed::Open,
        }
    }
}
