//! A proxy between the nodes of one machine, which cuts and slows down their connections.
//!
//! It has one listener for each pair of a dialling and a dialled node, so it knows both ends of a connection.
//! Bytes are held back or delayed, never lost and never reordered; an end of file or a reset is passed on
//! like the last byte of its stream.
//!
//! It has no thread: the caller runs [`Proxy::serve`] on one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use ringfence_operators::ids::NodeId;

use super::pipe::{Passed, Pipe};

/// How much later a byte arrives on a slow connection.
const SLOW_DELAY: Duration = Duration::from_millis(50);

/// How long one attempt to reach a node may delay everything else.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(50);

/// The pause after a failed accept, which fails again at once while descriptors are scarce.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

const BUFFER_BYTES: usize = 64 << 10;

/// A direction between two nodes: the bytes that `from` sends to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
}

impl Route {
    fn back(self) -> Route {
        Route { from: self.to, to: self.from }
    }
}

/// What is done to the bytes of each direction; counted, since faults may overlap.
#[derive(Clone, Debug, Default)]
struct Rules {
    cuts: BTreeMap<Route, usize>,
    slows: BTreeMap<Route, usize>,
    stopped: bool,
}

impl Rules {
    fn is_cut(&self, route: Route) -> bool {
        self.cuts.contains_key(&route)
    }

    fn delay(&self, route: Route) -> Duration {
        if self.slows.contains_key(&route) { SLOW_DELAY } else { Duration::ZERO }
    }
}

fn add(counts: &mut BTreeMap<Route, usize>, route: Route) {
    *counts.entry(route).or_insert(0) += 1;
}

fn remove(counts: &mut BTreeMap<Route, usize>, route: Route) {
    if let Some(count) = counts.get_mut(&route) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&route);
        }
    }
}

/// Controls a [`Proxy`] from outside. When the last clone is dropped, the proxy ends.
#[derive(Clone, Debug)]
pub struct ProxyHandle {
    nodes: BTreeSet<NodeId>,
    addresses: BTreeMap<Route, SocketAddr>,
    rules: Arc<Mutex<Rules>>,
    waker: Arc<UnixStream>,
}

impl ProxyHandle {
    /// The address that `from` must dial to reach `to`.
    pub fn address(&self, from: NodeId, to: NodeId) -> Option<SocketAddr> {
        self.addresses.get(&Route { from, to }).copied()
    }

    /// Holds back everything that `node` sends and everything that is sent to it.
    pub fn cut(&self, node: NodeId) {
        let routes = self.routes_of(node);
        self.change(|rules| routes.iter().for_each(|route| add(&mut rules.cuts, *route)));
    }

    /// Ends one [`cut`](Self::cut): what was held back is delivered.
    pub fn heal(&self, node: NodeId) {
        let routes = self.routes_of(node);
        self.change(|rules| routes.iter().for_each(|route| remove(&mut rules.cuts, *route)));
    }

    /// Holds back what is sent in this direction.
    pub fn cut_one_way(&self, route: Route) {
        self.change(|rules| add(&mut rules.cuts, route));
    }

    /// Ends one [`cut_one_way`](Self::cut_one_way).
    pub fn heal_one_way(&self, route: Route) {
        self.change(|rules| remove(&mut rules.cuts, route));
    }

    /// Delays every byte to and from `node` by 50 ms.
    pub fn slow(&self, node: NodeId) {
        let routes = self.routes_of(node);
        self.change(|rules| routes.iter().for_each(|route| add(&mut rules.slows, *route)));
    }

    /// Ends one [`slow`](Self::slow).
    pub fn hasten(&self, node: NodeId) {
        let routes = self.routes_of(node);
        self.change(|rules| routes.iter().for_each(|route| remove(&mut rules.slows, *route)));
    }

    /// Ends the proxy and with it all connections.
    pub fn stop(&self) {
        self.change(|rules| rules.stopped = true);
    }

    fn routes_of(&self, node: NodeId) -> Vec<Route> {
        let others = self.nodes.iter().filter(|other| **other != node);
        let there = others.map(|&other| Route { from: node, to: other });
        there.flat_map(|route| [route, route.back()]).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut lock(&self.rules));
        // A full waker has not been read yet, and then this change is seen together with the others.
        let _ = (&*self.waker).write(&[1]);
    }
}

fn lock(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    // No code that can panic runs under this lock.
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener for one pair of nodes.
#[derive(Debug)]
struct Gate {
    socket: TcpListener,
    /// The dialling node and the dialled node.
    route: Route,
    target: SocketAddr,
}

/// The sockets of all connections that go through it.
#[derive(Debug)]
pub struct Proxy {
    gates: Vec<Gate>,
    connections: Vec<Connection>,
    shared: Arc<Mutex<Rules>>,
    /// A copy of what is shared.
    rules: Rules,
    woken: UnixStream,
    accept_from: Instant,
    buffer: Vec<u8>,
}

impl Proxy {
    /// Creates a proxy for nodes that listen at these addresses, and the handle that controls it.
    ///
    /// The system accepts connections at once; they are served as soon as the proxy runs.
    pub fn new(
        nodes: impl IntoIterator<Item = (NodeId, SocketAddr)>,
    ) -> io::Result<(Proxy, ProxyHandle)> {
        let nodes: BTreeMap<NodeId, SocketAddr> = nodes.into_iter().collect();
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (mut gates, mut addresses) = (Vec::new(), BTreeMap::new());
        for &from in nodes.keys() {
            for (&to, &target) in nodes.iter().filter(|(to, _)| **to != from) {
                let (route, socket) = (Route { from, to }, bind()?);
                addresses.insert(route, socket.local_addr()?);
                gates.push(Gate { socket, route, target });
            }
        }
        let rules = Arc::default();
        let proxy = Proxy {
            gates,
            connections: Vec::new(),
            shared: Arc::clone(&rules),
            rules: Rules::default(),
            woken,
            accept_from: Instant::now(),
            buffer: vec![0; BUFFER_BYTES],
        };
        let nodes = nodes.into_keys().collect();
        Ok((proxy, ProxyHandle { nodes, addresses, rules, waker: Arc::new(waker) }))
    }

    /// Passes bytes on until it is stopped, or until its last handle is dropped.
    pub fn serve(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            if ready.waker && self.is_over() {
                return Ok(());
            }
            let now = Instant::now();
            for gate in ready.gates {
                self.accept(gate, now);
            }
            let (rules, buffer) = (&self.rules, &mut self.buffer);
            let mut flags = ready.connections.into_iter();
            self.connections.retain_mut(|connection| {
                // Those that were accepted just now have no flags yet.
                let (near, far) = flags.next().unwrap_or((PollFlags::empty(), PollFlags::empty()));
                connection.advance(rules, (near, far), now, buffer)
            });
        }
    }

    /// Waits until something can be done.
    fn wait(&self) -> io::Result<Ready> {
        let now = Instant::now();
        let accepts = self.accept_from <= now;
        let dues = self.connections.iter().filter_map(|c| c.next_due(&self.rules));
        let due = dues.chain((!accepts).then_some(self.accept_from)).min();
        let mut fds = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        if accepts {
            let gates = self.gates.iter();
            fds.extend(gates.map(|gate| PollFd::new(gate.socket.as_fd(), PollFlags::POLLIN)));
        }
        let first = fds.len();
        let mut places = Vec::with_capacity(self.connections.len());
        for connection in &self.connections {
            let streams = [Some(&connection.near), connection.far.as_ref()];
            places.push(connection.interests(&self.rules).map(|flags| !flags.is_empty()));
            for (stream, flags) in streams.into_iter().zip(connection.interests(&self.rules)) {
                // A stream without requested events would still report that it is broken.
                if let (Some(stream), false) = (stream, flags.is_empty()) {
                    fds.push(PollFd::new(stream.as_fd(), flags));
                }
            }
        }
        let timeout = match due {
            None => PollTimeout::NONE,
            // Rounded up, so that it is due when this returns.
            Some(due) if due > now => {
                let millis = (due - now).as_micros().div_ceil(1_000);
                PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
            }
            Some(_) => PollTimeout::ZERO,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = |fd: &PollFd<'_>| fd.revents().unwrap_or_else(PollFlags::empty);
        let mut rest = fds[first..].iter().map(flags);
        let mut next = |wanted: bool| {
            let none = PollFlags::empty();
            if wanted { rest.next().unwrap_or(none) } else { none }
        };
        Ok(Ready {
            waker: !flags(&fds[0]).is_empty(),
            gates: (1..first).filter(|i| !flags(&fds[*i]).is_empty()).map(|i| i - 1).collect(),
            connections: places.iter().map(|[near, far]| (next(*near), next(*far))).collect(),
        })
    }

    /// Takes over changed rules; returns whether this is the end.
    fn is_over(&mut self) -> bool {
        let mut wakes = [0; 64];
        let is_abandoned = loop {
            match self.woken.read(&mut wakes) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        self.rules = lock(&self.shared).clone();
        is_abandoned || self.rules.stopped
    }

    fn accept(&mut self, gate: usize, now: Instant) {
        let Gate { socket, route, target } = &self.gates[gate];
        loop {
            let accepted = socket.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(stream)
            });
            match accepted {
                Ok(near) => self.connections.push(Connection {
                    route: *route,
                    target: *target,
                    near,
                    far: None,
                    open_at: now + self.rules.delay(*route),
                    forth: Pipe::default(),
                    back: Pipe::default(),
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.accept_from = now + ACCEPT_PAUSE;
                    return;
                }
            }
        }
    }
}

fn bind() -> io::Result<TcpListener> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The events that can be handled.
struct Ready {
    waker: bool,
    gates: Vec<usize>,
    /// For each connection, what is ready at its near and its far stream.
    connections: Vec<(PollFlags, PollFlags)>,
}

/// One connection: from the dialling node (near) to the dialled node (far).
#[derive(Debug)]
struct Connection {
    route: Route,
    target: SocketAddr,
    near: TcpStream,
    /// `None` until the dialled node has been reached.
    far: Option<TcpStream>,
    /// When to try to reach it.
    open_at: Instant,
    forth: Pipe,
    back: Pipe,
}

impl Connection {
    fn interests(&self, rules: &Rules) -> [PollFlags; 2] {
        let flags = |incoming: &Pipe, outgoing: &Pipe, outgoing_route: Route| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, incoming.wants_input());
            let is_waiting = outgoing.is_blocked() && !rules.is_cut(outgoing_route);
            flags.set(PollFlags::POLLOUT, is_waiting);
            flags
        };
        let near = flags(&self.forth, &self.back, self.route.back());
        match self.far {
            Some(_) => [near, flags(&self.back, &self.forth, self.route)],
            None => [near, PollFlags::empty()],
        }
    }

    fn next_due(&self, rules: &Rules) -> Option<Instant> {
        let forth = match self.far {
            Some(_) => self.forth.next_due(),
            None => Some(self.open_at),
        };
        let forth = forth.filter(|_| !rules.is_cut(self.route));
        let back = self.back.next_due().filter(|_| !rules.is_cut(self.route.back()));
        forth.into_iter().chain(back).min()
    }

    /// Does what can be done; returns whether the connection goes on.
    fn advance(
        &mut self,
        rules: &Rules,
        (near, far): (PollFlags, PollFlags),
        now: Instant,
        buffer: &mut [u8],
    ) -> bool {
        if self.far.is_none() && self.open_at <= now && !rules.is_cut(self.route) {
            match self.open() {
                Ok(stream) => self.far = Some(stream),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    self.open_at = now + CONNECT_TIME_MAX;
                }
                Err(_) => {
                    reset(&self.near);
                    return false;
                }
            }
        }
        // An end or an error shows itself when the stream is read.
        if !near.difference(PollFlags::POLLOUT).is_empty() {
            self.forth.take_in(&self.near, now + rules.delay(self.route), buffer);
        }
        let Some(far_stream) = &self.far else { return true };
        if !far.difference(PollFlags::POLLOUT).is_empty() {
            self.back.take_in(far_stream, now + rules.delay(self.route.back()), buffer);
        }
        let (mut forth, mut back) = (Passed::Open, Passed::Open);
        if !rules.is_cut(self.route) {
            forth = self.forth.pass_on(far_stream, now);
            if forth == Passed::Gone {
                self.forth.discard();
                self.back.break_off(now + rules.delay(self.route.back()));
            }
        }
        if !rules.is_cut(self.route.back()) {
            back = self.back.pass_on(&self.near, now);
            if back == Passed::Gone {
                self.back.discard();
                self.forth.break_off(now + rules.delay(self.route));
            }
        }
        if forth == Passed::Reset {
            reset(far_stream);
        }
        if back == Passed::Reset {
            reset(&self.near);
        }
        let is_reset = forth == Passed::Reset || back == Passed::Reset;
        !is_reset && (forth, back) != (Passed::Closed, Passed::Closed)
    }

    fn open(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.target, CONNECT_TIME_MAX)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Makes the stream end with a reset once it is dropped.
fn reset(stream: &TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    // If that fails, the stream ends with an end of file instead, which says enough.
    let _ = setsockopt(stream, sockopt::Linger, &linger);
}
