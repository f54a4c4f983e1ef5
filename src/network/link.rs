//! The stream that timely uses: one data connection of one generation.
//!
//! Timely's communication threads panic when a connection breaks. Through a [`Link`], no connection ever
//! appears to break: a loss is reported once, to a callback, and timely sees a clean end. The report is a
//! suspicion. It does not say which node died, since survivors that abort also close their links.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringfence_operators::ids::NodeId;
use timely::communication::allocator::zero_copy::stream::Stream;

use super::frame::{FrameReader, HEADER_BYTES, LinkEnds, LossReason};

/// A link that broke, as its own end saw it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lost the link to node {node}: {why}")]
pub(crate) struct LinkLoss {
    /// The node at the other end, which may well be alive.
    pub node: NodeId,
    /// What was seen.
    pub why: LossReason,
}

/// What all handles of one link share.
struct Shared {
    node: NodeId,
    /// Set by the first loss or close. From then on nothing is written.
    ended: AtomicBool,
    /// Set by the first handle that reads: frames in its buffer are seen by no other.
    reader_taken: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    on_lost: Box<dyn Fn(LinkLoss) + Send + Sync>,
}

impl Shared {
    /// Reports `why`, unless this link has ended before.
    fn lose(&self, why: LossReason) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            (self.on_lost)(LinkLoss { node: self.node, why });
        }
    }
}

/// What the reading handle hands out next.
enum Reading {
    /// Nothing was read through this handle.
    Unused,
    /// Frames as they arrive.
    Frames(FrameReader),
    /// The clean end that stands in for a loss: this much of its header was handed out.
    Pretence(usize),
}

/// A data connection to one node, for the lifetime of one generation.
///
/// Hands out complete frames with checked headers, directly into the reader's buffer if it has room. When the
/// connection is lost (end of file without a clean end, failing input or output, a bad header), it calls
/// `on_lost` once, and from then on pretends: a read returns the remaining complete frames, then a header
/// that ends the stream, and then end of file; a write succeeds but is discarded; flush and shutdown never
/// fail. A clean end passes through and is not reported.
///
/// Clones made with [`Stream::try_clone`] are the same link. Only one of them may read.
pub(crate) struct Link<S: Stream = TcpStream> {
    stream: S,
    ends: LinkEnds,
    shared: Arc<Shared>,
    reading: Reading,
}

impl<S: Stream> Link<S> {
    /// Wraps a connected stream to `node`, which must be blocking and have no timeouts.
    ///
    /// `on_lost` is called at most once, on the thread that notices the loss, and must not block.
    pub(crate) fn new(
        stream: S,
        node: NodeId,
        ends: LinkEnds,
        on_lost: impl Fn(LinkLoss) + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            node,
            ended: AtomicBool::new(false),
            reader_taken: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            on_lost: Box::new(on_lost),
        };
        Link { stream, ends, shared: Arc::new(shared), reading: Reading::Unused }
    }

    /// Returns the node at the other end.
    pub(crate) fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Returns a handle that ends this link from outside.
    pub(crate) fn closer(&self) -> io::Result<LinkCloser<S>> {
        let stream = Arc::new(self.stream.try_clone()?);
        Ok(LinkCloser { stream, shared: Arc::clone(&self.shared) })
    }

    /// Returns a handle that reads this link's byte counters.
    pub(crate) fn traffic(&self) -> LinkTraffic {
        LinkTraffic { shared: Arc::clone(&self.shared) }
    }

    fn lose(&self, why: LossReason) {
        self.shared.lose(why);
        // The other half may sit in a read or a write that would never return.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl<S: Stream> Read for Link<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if let Reading::Unused = self.reading {
            let taken = self.shared.reader_taken.swap(true, Ordering::SeqCst);
            assert!(!taken, "two handles of the link to node {} read", self.shared.node);
            self.reading = Reading::Frames(FrameReader::new(self.ends.clone()));
        }
        if let Reading::Frames(frames) = &mut self.reading {
            // SUBTLE: a close may happen after a part of a large frame was handed out. The rest of it is here
            // and must follow, or the pretended header would end up inside the frame.
            let read = if frames.has_whole() || !self.shared.ended.load(Ordering::SeqCst) {
                let mut source = Counted { stream: &mut self.stream, count: &self.shared.received };
                Some(frames.read(&mut source, out))
            } else {
                None
            };
            // After the true end a second one would be bytes too many.
            let given = if frames.end_shown() { HEADER_BYTES } else { 0 };
            match read {
                Some(Ok(count)) => return Ok(count),
                Some(Err(why)) => self.lose(why),
                None => {}
            }
            self.reading = Reading::Pretence(given);
        }
        let Reading::Pretence(given) = &mut self.reading else { return Ok(0) };
        let count = (HEADER_BYTES - *given).min(out.len());
        out[..count].fill(0);
        *given += count;
        Ok(count)
    }
}

impl<S: Stream> Write for Link<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shared.ended.load(Ordering::Relaxed) {
            return Ok(bytes.len());
        }
        match self.stream.write(bytes) {
            Ok(count) if count > 0 || bytes.is_empty() => {
                self.shared.sent.fetch_add(count as u64, Ordering::Relaxed);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            outcome => {
                self.lose(outcome.err().unwrap_or(io::ErrorKind::WriteZero.into()).into());
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.shared.ended.load(Ordering::Relaxed)
            && let Err(error) = self.stream.flush()
        {
            self.lose(error.into());
        }
        Ok(())
    }
}

impl<S: Stream> Stream for Link<S> {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Link {
            stream: self.stream.try_clone()?,
            ends: self.ends.clone(),
            shared: Arc::clone(&self.shared),
            reading: Reading::Unused,
        })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // A connection that is already gone counts as shut down.
        let _ = self.stream.shutdown(how);
        Ok(())
    }
}

impl<S: Stream> fmt::Debug for Link<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("node", &self.shared.node).field("ends", &self.ends).finish()
    }
}

/// Counts what is read from a stream.
struct Counted<'a, S> {
    stream: &'a mut S,
    count: &'a AtomicU64,
}

impl<S: Read> Read for Counted<'_, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(out)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Ends a link from outside, to abort the generation.
///
/// Dropping it does nothing.
pub(crate) struct LinkCloser<S: Stream = TcpStream> {
    stream: Arc<S>,
    shared: Arc<Shared>,
}

impl<S: Stream> LinkCloser<S> {
    /// Ends the link now: blocked reads and writes return, later ones pretend. No loss is reported.
    ///
    /// The other end sees an end of file without a clean end. A second call does nothing more.
    pub(crate) fn close_now(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl<S: Stream> Clone for LinkCloser<S> {
    fn clone(&self) -> Self {
        LinkCloser { stream: Arc::clone(&self.stream), shared: Arc::clone(&self.shared) }
    }
}

impl<S: Stream> fmt::Debug for LinkCloser<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkCloser").field("node", &self.shared.node).finish()
    }
}

/// The byte counters of a link, which outlive it.
#[derive(Clone)]
pub(crate) struct LinkTraffic {
    shared: Arc<Shared>,
}

impl LinkTraffic {
    /// Returns how many bytes were written to the connection. Bytes that a loss discarded do not count.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Returns how many bytes came from the connection, including incomplete frames.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for LinkTraffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkTraffic")
            .field("node", &self.shared.node)
            .field("sent_bytes", &self.sent_bytes())
            .field("received_bytes", &self.received_bytes())
            .finish()
    }
}
