//! The one port of a node: accepts connections and reads their hellos.
//!
//! Connections from strangers change nothing here but counters. A connection that does not complete its hello
//! is dropped and counted by kind.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::deadline::Deadline;
use super::handshake::{
    Answer, HANDSHAKE_TIME_MAX, HandshakeError, Hello, PROTOCOL_VERSION, Refusal, Welcome,
    read_message, write_message,
};

/// The number of threads that may read hellos at once.
pub(crate) const HANDSHAKES_MAX: usize = 64;

/// How long [`Listener::shutdown`] waits for its threads.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);

/// The pause after a failed accept, which fails again at once while descriptors are scarce.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The limits of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenerLimits {
    /// Connections in their handshake at once; more are closed.
    pub handshakes_max: usize,
    /// How long a connection may take until its hello is complete.
    pub hello_time_max: Duration,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        ListenerLimits { handshakes_max: HANDSHAKES_MAX, hello_time_max: HANDSHAKE_TIME_MAX }
    }
}

/// Why a connection was dropped before its hello was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RefusedKind {
    /// Its first bytes are not those of this protocol.
    Garbage,
    /// It sent no complete hello in time.
    Silent,
    /// It closed before its hello was complete.
    Closed,
    /// It announced a hello that is too long.
    TooLong,
    /// Its hello cannot be read.
    Malformed,
    /// It speaks another version of the protocol.
    Version,
    /// Too many others were in their handshake.
    Busy,
    /// It failed, or could not be accepted.
    Failed,
}

impl RefusedKind {
    /// The kind in a few words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            RefusedKind::Garbage => "the peer does not speak this protocol",
            RefusedKind::Silent => "the peer was silent for too long",
            RefusedKind::Closed => "the peer closed the connection during the handshake",
            RefusedKind::TooLong => "the peer announced a hello that is too long",
            RefusedKind::Malformed => "the peer's hello cannot be read",
            RefusedKind::Version => "the peer speaks another version of the protocol",
            RefusedKind::Busy => "too many others are in their handshake",
            RefusedKind::Failed => "the connection failed",
        }
    }
}

/// A dropped connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedConnection {
    /// The kind.
    pub kind: RefusedKind,
    /// Where it came from, if that is known.
    pub peer_addr: Option<SocketAddr>,
    /// What was wrong, in words.
    pub text: String,
}

impl fmt::Display for RefusedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer_addr {
            Some(addr) => write!(f, "refused a connection from {addr}: {}", self.text),
            None => write!(f, "refused a connection: {}", self.text),
        }
    }
}

/// A connection whose hello was read and not yet answered. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// The hello of the dialer.
    pub hello: Hello,
    /// The connection.
    pub stream: TcpStream,
    /// Where it came from.
    pub peer_addr: SocketAddr,
}

impl Inbound {
    /// Accepts the dialer, and returns the connection, without timeouts.
    pub(crate) fn accept(self, welcome: Welcome) -> io::Result<TcpStream> {
        answer(&self.stream, &Answer::Welcome(welcome))?;
        self.stream.set_read_timeout(None)?;
        self.stream.set_write_timeout(None)?;
        Ok(self.stream)
    }

    /// Tells the dialer why it is refused, and closes the connection.
    ///
    /// Never waits: an answer fits into the empty buffer of a fresh connection. If the answer cannot be sent
    /// at once, it is dropped.
    pub(crate) fn refuse(self, reason: Refusal) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        write_message(&mut &self.stream, &Answer::Refused { reason })?;
        self.stream.shutdown(Shutdown::Write)
    }
}

fn answer(stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    let mut limited = Deadline::new(stream, Instant::now() + HANDSHAKE_TIME_MAX);
    Ok(write_message(&mut limited, answer)?)
}

fn refuse(stream: &TcpStream, reason: Refusal) -> io::Result<()> {
    answer(stream, &Answer::Refused { reason })?;
    stream.shutdown(Shutdown::Write)
}

/// What the accept loop and the handshakes share.
struct Shared {
    limits: ListenerLimits,
    stopping: AtomicBool,
    state: Mutex<State>,
    /// Signalled when a handshake has ended.
    ended: Condvar,
    on_inbound: Box<dyn Fn(Inbound) + Send + Sync>,
    on_refused: Box<dyn Fn(RefusedConnection) + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// The connections in their handshake, so that a shutdown can end them.
    handshakes: BTreeMap<u64, Option<TcpStream>>,
    next: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, kind: RefusedKind, peer_addr: Option<SocketAddr>, text: String) {
        if self.stopping.load(Ordering::SeqCst) {
            return;
        }
        (self.on_refused)(RefusedConnection { kind, peer_addr, text });
    }
}

/// A place among the handshakes, which is released when dropped, even by a panic.
struct Permit {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.state().handshakes.remove(&self.number);
        self.shared.ended.notify_all();
    }
}

/// Accepts connections on its own thread until it is shut down or dropped.
pub(crate) struct Listener {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts to accept on `listener`.
    ///
    /// `on_inbound` is called for each complete hello, on a separate thread for that connection, which holds
    /// a place among [`ListenerLimits::handshakes_max`] until it returns. It may answer there or pass the
    /// [`Inbound`] on. `on_refused` is called for each dropped connection, from any thread: it must not wait,
    /// and must expect many calls.
    pub(crate) fn start(
        listener: TcpListener,
        limits: ListenerLimits,
        on_inbound: impl Fn(Inbound) + Send + Sync + 'static,
        on_refused: impl Fn(RefusedConnection) + Send + Sync + 'static,
    ) -> io::Result<Listener> {
        let local_addr = listener.local_addr()?;
        listener.set_nonblocking(false)?;
        let shared = Arc::new(Shared {
            limits,
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            ended: Condvar::new(),
            on_inbound: Box::new(on_inbound),
            on_refused: Box::new(on_refused),
        });
        let thread = thread::Builder::new().name("fence:listen".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept_loop(&listener, &shared)
        })?;
        Ok(Listener { shared, local_addr, thread: Some(thread) })
    }

    /// Returns the address that is listened on.
    #[cfg(test)]
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting, ends the handshakes in progress, and waits for their threads.
    ///
    /// When it returns, the port is free and neither callback is called again, except that it waits at most
    /// two seconds for a running callback. Connections that were passed on stay open.
    pub(crate) fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + SHUTDOWN_TIME_MAX;
        // The accept loop looks at the flag after each connection: make one.
        let wake_addr = SocketAddr::new(reachable(self.local_addr.ip()), self.local_addr.port());
        while !thread.is_finished() && Instant::now() < deadline {
            let _ = TcpStream::connect_timeout(&wake_addr, Duration::from_millis(100));
            for _ in 0..10 {
                if !thread.is_finished() {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
        let mut state = self.shared.state();
        for stream in state.handshakes.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        while !state.handshakes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = match self.shared.ended.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("local_addr", &self.local_addr).finish()
    }
}

/// Where a listener on `ip` can be reached from its own host.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, peer_addr)) => begin(shared, stream, peer_addr),
            Err(error) => {
                shared.refused(RefusedKind::Failed, None, error.to_string());
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Starts a handshake on a separate thread, if there is a place.
fn begin(shared: &Arc<Shared>, stream: TcpStream, peer_addr: SocketAddr) {
    let place = {
        let mut state = shared.state();
        if state.handshakes.len() >= shared.limits.handshakes_max {
            None
        } else {
            let number = state.next;
            state.next += 1;
            state.handshakes.insert(number, stream.try_clone().ok());
            Some(Permit { shared: Arc::clone(shared), number })
        }
    };
    let Some(place) = place else {
        let text = format!("{} others are in their handshake", shared.limits.handshakes_max);
        return shared.refused(RefusedKind::Busy, Some(peer_addr), text);
    };
    let spawned = thread::Builder::new()
        .name("fence:hello".into())
        .spawn(move || shake_hands(&place, stream, peer_addr));
    if let Err(error) = spawned {
        shared.refused(RefusedKind::Failed, Some(peer_addr), error.to_string());
    }
}

fn shake_hands(place: &Permit, stream: TcpStream, peer_addr: SocketAddr) {
    let shared = &place.shared;
    let read = stream.set_nodelay(true).map_err(HandshakeError::from).and_then(|()| {
        let deadline = Instant::now() + shared.limits.hello_time_max;
        read_message(&mut Deadline::new(&stream, deadline))
    });
    // From here on a shutdown leaves the connection alone: it is the callback's.
    shared.state().handshakes.insert(place.number, None);
    match read {
        Ok(_) if shared.stopping.load(Ordering::SeqCst) => {
            let _ = refuse(&stream, Refusal::Stopping);
        }
        Ok(hello) => (shared.on_inbound)(Inbound { hello, stream, peer_addr }),
        Err(error) => {
            let kind = match &error {
                HandshakeError::TimedOut => RefusedKind::Silent,
                HandshakeError::Closed => RefusedKind::Closed,
                HandshakeError::Garbage => RefusedKind::Garbage,
                HandshakeError::Version { .. } => RefusedKind::Version,
                HandshakeError::TooLong { .. } | HandshakeError::OursTooLong { .. } => {
                    RefusedKind::TooLong
                }
                HandshakeError::Malformed { .. } => RefusedKind::Malformed,
                HandshakeError::Io(_) | HandshakeError::Encode(_) => RefusedKind::Failed,
            };
            match error {
                HandshakeError::Version { theirs } => {
                    let _ =
                        refuse(&stream, Refusal::Version { here: PROTOCOL_VERSION, yours: theirs });
                }
                HandshakeError::Malformed { .. } => {
                    let _ = refuse(&stream, Refusal::Malformed);
                }
                _ => {}
            }
            shared.refused(kind, Some(peer_addr), error.to_string());
        }
    }
}
