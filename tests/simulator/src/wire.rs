//! Wire: timely's own network allocator, with a simulator in the place of sockets and threads.
//!
//! Timely lets a policy look at each of its queues, to spill it to disk. Here the writer's policy of
//! a link takes everything out at once, and the reader's puts in what the simulator has delivered.
//! So no byte passes through timely's communication threads: the receiving ones end at once, and the
//! sending ones wait until the worker is gone. Everything else of timely is as it is in a real job.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use timely::bytes::arc::BytesMut;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::bytes_exchange::QueueEntry;
use timely::communication::allocator::zero_copy::initialize::{
    CommsGuard, initialize_networking_from_sockets,
};
use timely::communication::allocator::zero_copy::spill::SpillPolicy;
use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::{Allocator, Hooks};

/// How timely names the thread that sends to a process.
const SENDER_PREFIX: &str = "timely:send-";

/// The bytes between one worker and the simulator, by the other process's index.
#[derive(Default)]
pub(super) struct Wire {
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    sent: VecDeque<(usize, Vec<u8>)>,
    delivered: Vec<VecDeque<Vec<u8>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    /// Takes what the worker has sent, in order, with the process that it is for.
    pub(super) fn take_sent(&self) -> VecDeque<(usize, Vec<u8>)> {
        std::mem::take(&mut lock(&self.queues).sent)
    }

    /// Hands bytes from process `from` to the worker, which sees them at its next step.
    pub(super) fn deliver(&self, from: usize, bytes: Vec<u8>) {
        lock(&self.queues).delivered[from].push_back(bytes);
    }
}

/// Takes all that the worker puts into its queue to `to`.
struct TakeOut {
    wire: Arc<Wire>,
    to: usize,
}

impl SpillPolicy for TakeOut {
    fn apply(&mut self, queue: &mut VecDeque<QueueEntry>) {
        let mut queues = lock(&self.wire.queues);
        for entry in queue.drain(..) {
            // Nothing else makes entries of other kinds.
            if let QueueEntry::Bytes(bytes) = entry {
                queues.sent.push_back((self.to, bytes.to_vec()));
            }
        }
    }
}

/// Puts in what was delivered from `from`.
struct PutIn {
    wire: Arc<Wire>,
    from: usize,
}

impl SpillPolicy for PutIn {
    fn apply(&mut self, queue: &mut VecDeque<QueueEntry>) {
        for bytes in lock(&self.wire.queues).delivered[self.from].drain(..) {
            queue.push_back(QueueEntry::Bytes(BytesMut::from(bytes).freeze()));
        }
    }
}

/// Leaves a queue as it is.
struct Leave;

impl SpillPolicy for Leave {
    fn apply(&mut self, _queue: &mut VecDeque<QueueEntry>) {}
}

/// Timely's idle threads of one generation of one node; ends them when dropped.
///
/// SUBTLE: it must outlive the worker: the sending threads end only once it has let go of its queues.
pub(super) struct Idle {
    gate: Arc<Gate>,
    threads: Option<CommsGuard>,
}

impl Drop for Idle {
    fn drop(&mut self) {
        *lock(&self.gate.open) = true;
        self.gate.opened.notify_all();
        drop(self.threads.take());
    }
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

/// A stream that carries nothing: it reads as a clean end, and a flush waits for the gate.
struct Inert {
    gate: Arc<Gate>,
    header_read: bool,
}

/// A header of timely of length zero: the clean end of a stream.
const HEADER_BYTES: usize = 48;

impl Read for Inert {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if std::mem::replace(&mut self.header_read, true) {
            return Ok(0);
        }
        // Timely reads into a fresh buffer of a megabyte.
        let header = out.get_mut(..HEADER_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        header.fill(0);
        Ok(HEADER_BYTES)
    }
}

impl Write for Inert {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut open = lock(&self.gate.open);
        while !*open {
            open = self.gate.opened.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

impl Stream for Inert {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Inert { gate: Arc::clone(&self.gate), header_read: false })
    }

    fn set_nonblocking(&self, _nonblocking: bool) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self, _how: Shutdown) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the allocator of the only worker of process `index` of `processes`.
pub(super) fn allocator(
    index: usize,
    processes: usize,
) -> io::Result<(Allocator, Arc<Wire>, Idle)> {
    let wire = Arc::new(Wire::default());
    lock(&wire.queues).delivered.resize_with(processes, VecDeque::new);
    let gate = Arc::new(Gate::default());
    let mut hooks = Hooks::default();
    let refill = hooks.refill.clone();
    let others: Vec<usize> = (0..processes).filter(|other| *other != index).collect();
    let (shared, next) = (Arc::clone(&wire), AtomicUsize::new(0));
    hooks.spill = Some(Arc::new(move || {
        let thread = std::thread::current();
        let target = thread.name().and_then(|name| name.strip_prefix(SENDER_PREFIX)?.parse().ok());
        match target {
            Some(to) => (Box::new(TakeOut { wire: Arc::clone(&shared), to }), Box::new(Leave)),
            // The queues in are made by the worker itself, in the order of the other processes.
            None => {
                let from = others[next.fetch_add(1, Ordering::Relaxed)];
                (Box::new(Leave), Box::new(PutIn { wire: Arc::clone(&shared), from }))
            }
        }
    }));
    let mut local = ProcessBuilder::new_typed_vector(1, refill, None);
    // As in a real job, the last node left does without the network.
    if let (1, Some(builder)) = (processes, local.pop_if(|_| processes == 1)) {
        return Ok((Allocator::Process(builder.build()), wire, Idle { gate, threads: None }));
    }
    let sockets = (0..processes)
        .map(|other| {
            (other != index).then(|| Inert { gate: Arc::clone(&gate), header_read: false })
        })
        .collect();
    let (builders, threads) = initialize_networking_from_sockets(local, sockets, index, 1, hooks)?;
    let idle = Idle { gate, threads: Some(threads) };
    let builder = builders.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
    Ok((Allocator::Tcp(builder.build()), wire, idle))
}
