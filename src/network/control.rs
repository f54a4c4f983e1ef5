//! The connection that each pair of nodes keeps for the lifetime of both processes.
//!
//! Messages are JSON after a big-endian `u32` length. A length of zero is a farewell: the sender closes on
//! purpose and has sent everything. An end without a farewell is the first sign of a death.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use ringfence_operators::ids::NodeId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::held::{Budget, Held};

pub(super) const LENGTH_BYTES: usize = 4;

/// What a message counts for in a queue in addition to its own bytes: many small messages also take memory.
pub(super) const MESSAGE_COST_BYTES: usize = 64;

/// The limits on what a control connection holds and how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ControlLimits {
    /// The longest message: evidence with the inventory of every operator and partition fits into it.
    pub message_bytes_max: usize,
    /// Bytes of messages that wait to be written, plus 64 for each message. Beyond this the connection is
    /// lost.
    pub queued_bytes_max: usize,
    /// Bytes of messages that were received but not handled. Beyond this nothing is read.
    pub unhandled_bytes_max: usize,
    /// How long a write may make no progress before the connection is lost.
    pub write_time_max: Duration,
    /// How long a close waits for queued messages to be written.
    pub flush_time_max: Duration,
    /// How long a close then waits for the peer to have read them.
    pub drain_time_max: Duration,
}

impl Default for ControlLimits {
    fn default() -> Self {
        ControlLimits {
            message_bytes_max: 16 << 20,
            queued_bytes_max: 64 << 20,
            unhandled_bytes_max: 32 << 20,
            write_time_max: Duration::from_secs(5),
            flush_time_max: Duration::from_secs(2),
            drain_time_max: Duration::from_millis(500),
        }
    }
}

/// What a control connection reports.
#[derive(Debug)]
pub(crate) enum ControlEvent<M> {
    /// The peer sent this. Drop it, with what it holds, once it is handled: the peer's next messages wait for
    /// room.
    Message(M, Held),
    /// The connection is over. This is the last event; it always arrives, exactly once.
    Lost(ControlLoss),
}

/// Why a control connection is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlLoss {
    /// This side closed it.
    #[error("closed by this node")]
    ClosedHere,
    /// The peer closed it on purpose, after its last message.
    #[error("closed by the peer")]
    ClosedByPeer,
    /// The stream ended without a farewell, as when the peer's process dies.
    #[error("end of file without a farewell")]
    EndOfFile,
    /// The connection failed.
    #[error("the connection failed ({kind:?}): {text}")]
    Io {
        /// The kind of the error.
        kind: io::ErrorKind,
        /// Its text.
        text: String,
    },
    /// The peer accepted nothing for too long.
    #[error("the peer accepted no byte for {limit:?}")]
    WriteTimedOut {
        /// [`ControlLimits::write_time_max`].
        limit: Duration,
    },
    /// More bytes wait to be written than are permitted.
    #[error(
        "{messages} messages of {bytes} bytes already wait to be written, and at most {limit} bytes may"
    )]
    Overflow {
        /// Messages that wait.
        messages: usize,
        /// Their bytes.
        bytes: usize,
        /// [`ControlLimits::queued_bytes_max`].
        limit: usize,
    },
    /// The peer announced a message that is too long.
    #[error("the peer announced a message of {length} bytes, at most {limit} are accepted")]
    TooLong {
        /// What it announced.
        length: usize,
        /// [`ControlLimits::message_bytes_max`].
        limit: usize,
    },
    /// The peer sent something that is not a message.
    #[error("a message from the peer cannot be read: {text}")]
    Malformed {
        /// What was wrong.
        text: String,
    },
}

impl From<io::Error> for ControlLoss {
    fn from(error: io::Error) -> Self {
        ControlLoss::Io { kind: error.kind(), text: error.to_string() }
    }
}

/// Why a message was not queued. It was certainly not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlSendError {
    /// The connection is over or about to end: its last event says why.
    #[error("the control connection to node {node} is over")]
    Over {
        /// The peer.
        node: NodeId,
    },
    /// The message is too long. The connection continues.
    #[error("a message of {length} bytes is too long, at most {limit} can be sent")]
    TooLong {
        /// Its length.
        length: usize,
        /// [`ControlLimits::message_bytes_max`].
        limit: usize,
    },
    /// The message has no JSON form. The connection continues.
    #[error("the message cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

/// What the caller, the reader and the writer share.
struct Shared {
    node: NodeId,
    limits: ControlLimits,
    stream: TcpStream,
    queued_bytes: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    /// `None` once nothing more may be sent: the writer then writes what waits and sends the farewell.
    queue: Option<Sender<Vec<u8>>>,
    /// The first reason why the connection is over.
    loss: Option<ControlLoss>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why the connection is over, and lets the writer finish.
    fn finish(&self, why: ControlLoss) {
        let mut state = self.state();
        state.queue = None;
        state.loss.get_or_insert(why);
    }

    /// Notes why the connection is over, and cuts it: what waits is not sent.
    fn cut(&self, why: ControlLoss) {
        let mut state = self.state();
        state.loss.get_or_insert(why);
        // SUBTLE: this must happen before the queue ends, or the writer could still send the farewell.
        let _ = self.stream.shutdown(Shutdown::Both);
        state.queue = None;
    }
}

/// The threads of a connection, until they are joined.
struct Threads {
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    /// Disconnected when the thread has nothing more to do.
    reader_done: Receiver<()>,
    writer_done: Receiver<()>,
}

/// A connection to one node that carries messages of type `M` both ways, in order.
///
/// [`send`](Self::send) never blocks. Events come from a thread of the connection: each message that arrives,
/// and then one [`ControlEvent::Lost`], whatever ends the connection, even a close by this side. Messages
/// that were sent before [`close`](Self::close) arrive if the peer reads. Dropping the connection cuts it:
/// what waits is not sent, and the peer sees an end without a farewell.
pub(crate) struct ControlConnection<M> {
    shared: Arc<Shared>,
    reader_id: ThreadId,
    threads: Mutex<Option<Threads>>,
    messages: std::marker::PhantomData<fn(M) -> M>,
}

impl<M: Serialize + DeserializeOwned + 'static> ControlConnection<M> {
    /// Starts to read from and write to `stream`, whose handshake is done, with `node` at the other end.
    ///
    /// `on_event` is called from a single thread, possibly before this returns. While it runs nothing is
    /// read, so it must not block for long.
    pub(crate) fn start(
        stream: TcpStream,
        node: NodeId,
        limits: ControlLimits,
        on_event: impl FnMut(ControlEvent<M>) + Send + 'static,
    ) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(limits.write_time_max))?;
        let (queue, waiting) = unbounded();
        let reading = stream.try_clone()?;
        let shared = Arc::new(Shared {
            node,
            limits,
            stream,
            queued_bytes: AtomicUsize::new(0),
            state: Mutex::new(State { queue: Some(queue), loss: None }),
        });
        let (writer_ends, writer_done) = bounded(0);
        let writer = thread::Builder::new().name(format!("fence:say-{}", node.0)).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let _ends = writer_ends;
                write_loop(&shared, &waiting);
            }
        })?;
        let (reader_ends, reader_done) = bounded(0);
        let reader = thread::Builder::new().name(format!("fence:hear-{}", node.0)).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let _ends = reader_ends;
                read_loop(&shared, reading, on_event);
            }
        });
        let reader = match reader {
            Ok(reader) => reader,
            Err(error) => {
                shared.cut(ControlLoss::ClosedHere);
                return Err(error);
            }
        };
        Ok(ControlConnection {
            shared,
            reader_id: reader.thread().id(),
            threads: Mutex::new(Some(Threads { reader, writer, reader_done, writer_done })),
            messages: std::marker::PhantomData,
        })
    }

    /// Queues `message`; never blocks.
    ///
    /// `Ok` says nothing about arrival. If the queue is full, the connection is lost: a peer that is so far
    /// behind is no better than a dead one.
    pub(crate) fn send(&self, message: &M) -> Result<(), ControlSendError> {
        let mut bytes = vec![0; LENGTH_BYTES];
        serde_json::to_writer(&mut bytes, message)?;
        let length = bytes.len() - LENGTH_BYTES;
        let limits = &self.shared.limits;
        if length > limits.message_bytes_max {
            return Err(ControlSendError::TooLong { length, limit: limits.message_bytes_max });
        }
        bytes[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());

        let state = self.shared.state();
        let over = ControlSendError::Over { node: self.shared.node };
        let Some(queue) = &state.queue else { return Err(over) };
        let cost = cost_of(&bytes);
        let queued = self.shared.queued_bytes.fetch_add(cost, Ordering::Relaxed);
        let (messages, limit) = (queue.len(), limits.queued_bytes_max);
        if queued + cost <= limit {
            return queue.send(bytes).map_err(|_| over);
        }
        drop(state);
        self.shared.cut(ControlLoss::Overflow { messages, bytes: queued, limit });
        Err(over)
    }

    /// Closes the connection: writes what is queued, sends the farewell, and waits until the peer has read
    /// it, at most as long as the limits allow.
    ///
    /// Messages that arrive meanwhile are still reported. If called from `on_event`, it only begins the close
    /// and does not wait; another thread may call it again to wait.
    pub(crate) fn close(&self) {
        self.shared.finish(ControlLoss::ClosedHere);
        if thread::current().id() == self.reader_id {
            return;
        }
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(threads) = threads else { return };
        let wait = |done: &Receiver<()>, limit| {
            !matches!(done.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
        };
        let written = wait(&threads.writer_done, self.shared.limits.flush_time_max);
        // SUBTLE: closing a socket that holds unread bytes sends a reset, which may destroy what the
        // peer has not read. So the reader goes on until the peer has closed its side too.
        if !written || !wait(&threads.reader_done, self.shared.limits.drain_time_max) {
            let _ = self.shared.stream.shutdown(Shutdown::Both);
        }
        // Both end by themselves now. A panic of `on_event` was reported by its thread.
        let _ = threads.writer.join();
        let _ = threads.reader.join();
    }
}

impl<M> Drop for ControlConnection<M> {
    fn drop(&mut self) {
        let closed = self.threads.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if !closed {
            self.shared.cut(ControlLoss::ClosedHere);
        }
    }
}

impl<M> fmt::Debug for ControlConnection<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConnection").field("node", &self.shared.node).finish()
    }
}

/// The number of bytes that a message counts for while it waits to be written.
fn cost_of(bytes: &[u8]) -> usize {
    bytes.len() + MESSAGE_COST_BYTES
}

/// Writes what is queued until nothing more can be queued, and then the farewell.
fn write_loop(shared: &Shared, waiting: &Receiver<Vec<u8>>) {
    let written = (|| {
        for bytes in waiting {
            (&shared.stream).write_all(&bytes)?;
            shared.queued_bytes.fetch_sub(cost_of(&bytes), Ordering::Relaxed);
        }
        (&shared.stream).write_all(&[0; LENGTH_BYTES])?;
        shared.stream.shutdown(Shutdown::Write)
    })();
    if let Err(error) = written {
        let limit = shared.limits.write_time_max;
        shared.cut(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ControlLoss::WriteTimedOut { limit }
            }
            _ => error.into(),
        });
    }
}

/// Reports what arrives, and then why nothing more will arrive.
fn read_loop<M: DeserializeOwned>(
    shared: &Shared,
    stream: TcpStream,
    mut on_event: impl FnMut(ControlEvent<M>),
) {
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let budget = Budget::new(shared.limits.unhandled_bytes_max);
    let why = loop {
        match read_message(&mut reader, shared.limits.message_bytes_max) {
            Ok((message, bytes)) => {
                let held = budget.hold(bytes + MESSAGE_COST_BYTES);
                on_event(ControlEvent::Message(message, held));
            }
            Err(why) => break why,
        }
    };
    if why == ControlLoss::ClosedByPeer {
        // The peer drains: what waits here may still reach it.
        shared.finish(why.clone());
    } else {
        shared.cut(why.clone());
    }
    let first = shared.state().loss.clone();
    on_event(ControlEvent::Lost(first.unwrap_or(why)));
}

/// Reads one message; returns it and its length.
fn read_message<M: DeserializeOwned>(
    reader: &mut impl Read,
    limit: usize,
) -> Result<(M, usize), ControlLoss> {
    let end = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ControlLoss::EndOfFile,
        _ => error.into(),
    };
    let mut length = [0; LENGTH_BYTES];
    reader.read_exact(&mut length).map_err(end)?;
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 {
        return Err(ControlLoss::ClosedByPeer);
    }
    if length > limit {
        return Err(ControlLoss::TooLong { length, limit });
    }
    // Memory grows as bytes arrive, not as the length promises.
    let mut bytes = Vec::with_capacity(length.min(64 << 10));
    reader.take(length as u64).read_to_end(&mut bytes).map_err(end)?;
    if bytes.len() < length {
        return Err(ControlLoss::EndOfFile);
    }
    serde_json::from_slice(&bytes)
        .map(|message| (message, length))
        .map_err(|error| ControlLoss::Malformed { text: error.to_string() })
}
