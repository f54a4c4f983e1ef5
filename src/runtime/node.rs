//! A node: the loop that feeds the protocol with what happens and carries out what it decides.
//!
//! Every decision is the protocol machine's. This file turns connections, threads and files into its
//! inputs and its outputs into connections, threads and files, and owns all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ringfence_operators::error::JobError;
use ringfence_operators::generation::{Gauges, Generation, Notice, Observer, Settings, WhenDone};
use ringfence_operators::hash::KeyHasher;
use ringfence_operators::ids::{Epoch, Incarnation, NodeId, PartitionId, ViewNumber};
use ringfence_operators::sink::RELEASE_LIMIT;
use ringfence_operators::vault::{MemoryVault, Vault};
use ringfence_operators::worker as operators;
use timely::WorkerConfig;

use super::compactor::Compactor;
use super::generation::{Job, Running, SinceStart, Verdict, WorkerEnded};
use super::hang::Hung;
use super::holdings::{evidence_of, role_of, routes_of};
use super::recovery::RecoveryLog;
use super::registrar::Registrar;
use super::watches::Watches;
use super::witness;
use super::wording::{failure_of, job_failed, protocol_failed, register_failed};
use crate::chaos::FaultKind;
use crate::error::{Error, Kind, Result};
use crate::network::{
    ControlConnection, ControlEvent, ControlLimits, DialError, Hello, Identity, Inbound, Link,
    LinkEnds, LinkLoss, Listener, ListenerLimits, Purpose, Refusal, RefusedConnection, Welcome,
    dial,
};
use crate::protocol::assignment::Place;
use crate::protocol::member::{Machine, MemberConfig, MemberLimits};
use crate::protocol::message::{Event as Decision, Input, Message, Output};
use crate::protocol::message::{ProtocolError, RegisterReply, Suspicion, WorkerPanic};
use crate::protocol::view::{Evidence, View};
use crate::register::Register;
use crate::report::{Observation, Takeover, What};

/// How often a node tells how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// How long the threads of an ended generation may take to end when the process wants to.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// A loop that stood still for longer was not merely busy.
const STALL_LIMIT: Duration = Duration::from_millis(500);

/// How many events may wait for the loop; who brings more waits.
const EVENTS_MAX: usize = 4096;

/// How long a data connection may take to be made before that counts as a failure.
const LINK_LIMIT: Duration = Duration::from_secs(5);

/// The register and the identity of the run in it.
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) register: Arc<dyn Register>,
    /// Where other nodes find the register.
    pub(crate) location: Option<String>,
}

/// Opens the register that another node has named.
pub(crate) type OpenRegister = Box<dyn Fn(&str) -> Result<Run> + Send>;

/// How a node finds its run.
pub(crate) enum RunSource {
    /// It is known.
    Known(Run),
    /// The lowest node tells when it is dialled.
    Told(OpenRegister),
}

/// Everything that a node is started with.
pub(crate) struct NodeSetup {
    pub(crate) node: NodeId,
    /// All nodes, this one included, and where they listen.
    pub(crate) nodes: BTreeMap<NodeId, String>,
    /// Where this one listens; `None` where it has no peers.
    pub(crate) listener: Option<TcpListener>,
    /// The hash of executable and arguments.
    pub(crate) job_hash: String,
    pub(crate) run: RunSource,
    pub(crate) workers: usize,
    pub(crate) partitions: u32,
    pub(crate) backups: u32,
    pub(crate) epoch_interval: Duration,
    /// How often a checkpoint is chosen; `None` where every epoch is one.
    pub(crate) checkpoint_interval: Option<Duration>,
    pub(crate) in_flight_epochs_max: u64,
    pub(crate) connect_limit: Duration,
    /// How many views panics may end, and within which time.
    pub(crate) restarts: (u32, Duration),
    /// Where records go that cannot be processed.
    pub(crate) quarantine: Option<PathBuf>,
    pub(crate) suspect_limit: Duration,
    pub(crate) hang_limit: Duration,
    pub(crate) refill_bytes_per_second: u64,
    pub(crate) worker_config: WorkerConfig,
    pub(crate) job: Job,
    /// Told of all that happens.
    pub(crate) tell: Box<dyn Fn(What) + Send>,
}

/// What reaches the loop.
pub(crate) enum NodeEvent {
    /// Someone connected.
    Inbound(Inbound),
    /// Someone connected and made no sense.
    Refused(RefusedConnection),
    /// A control connection was dialled.
    Dialled { node: NodeId, result: Result<(TcpStream, Welcome), DialError> },
    /// A data connection was dialled.
    Linked { view: ViewNumber, node: NodeId, result: Result<(TcpStream, Welcome), DialError> },
    /// A peer said something, or is gone.
    Control { node: NodeId, event: ControlEvent<Message> },
    /// A data connection broke.
    LinkLost { view: ViewNumber, loss: LinkLoss },
    /// Something happened in a worker.
    Notice { view: ViewNumber, notice: Notice },
    /// A worker ended.
    Ended(WorkerEnded),
    /// All threads of a generation have ended.
    Joined { view: ViewNumber },
    /// The register has answered.
    Register(RegisterReply),
    /// A fault is to be injected.
    Fault(FaultKind),
}

/// Brings events to a node's loop.
pub(crate) type Events = Sender<NodeEvent>;

/// A channel for events to a node.
pub(crate) fn events() -> (Events, Receiver<NodeEvent>) {
    bounded(EVENTS_MAX)
}

/// One process of the cluster.
pub(crate) struct Node {
    setup: NodeSetup,
    incarnation: Incarnation,
    started: Instant,
    events: Events,
    inbox: Receiver<NodeEvent>,
    listener: Option<Listener>,
    controls: BTreeMap<NodeId, (Incarnation, ControlConnection<Message>)>,
    run: Option<Run>,
    registrar: Option<Registrar>,
    machine: Option<Machine>,
    /// What happened before the run was known.
    early: Vec<Input>,
    /// Data connections of views that are not installed here yet.
    waiting_links: Vec<Inbound>,
    vault: Arc<MemoryVault>,
    gauges: Arc<Gauges>,
    current: Option<Current>,
    recovery: RecoveryLog,
    /// Whether the present view's failure has been told, by this node or by another.
    failure_told: bool,
    /// A lost link that is told when the next view comes and nothing else was.
    lost_link: Option<(What, Option<Observation>)>,
    /// The longest that the loop stood still in this view.
    stalled: Duration,
    /// The peer that refused the last connection of this view.
    refused_by: Option<NodeId>,
    /// Whether the register's silence in this view has been told.
    register_told: bool,
    commits: u64,
    when_done: Vec<WhenDone>,
    /// The error of this node's own job, which the protocol knows only as a text.
    job_error: Option<Error>,
    end: Option<Result<()>>,
}

/// The present view at this node: connecting, running, or ending.
struct Current {
    view: View,
    digest: String,
    process_index: usize,
    links: BTreeMap<NodeId, TcpStream>,
    running: Option<Running>,
    /// The workers that have ended.
    ended: BTreeSet<usize>,
    finished: usize,
    stop_wanted: bool,
    joined: bool,
    committed: Option<Epoch>,
    watches: Watches,
}

struct Notices {
    view: ViewNumber,
    events: Events,
}

impl Observer for Notices {
    fn notice(&self, notice: Notice) {
        // An error says that the node's loop is over: nobody wants to know any more.
        let _ = self.events.send(NodeEvent::Notice { view: self.view, notice });
    }
}

impl Node {
    pub(crate) fn new(setup: NodeSetup, events: Events, inbox: Receiver<NodeEvent>) -> Self {
        let started = Instant::now();
        Node {
            incarnation: Incarnation(incarnation_now()),
            started,
            events,
            inbox,
            listener: None,
            controls: BTreeMap::new(),
            run: None,
            registrar: None,
            machine: None,
            early: Vec::new(),
            waiting_links: Vec::new(),
            vault: Arc::new(MemoryVault::new(setup.partitions)),
            gauges: Arc::default(),
            current: None,
            recovery: RecoveryLog::default(),
            failure_told: false,
            lost_link: None,
            stalled: Duration::ZERO,
            refused_by: None,
            register_told: false,
            commits: 0,
            when_done: Vec::new(),
            job_error: None,
            end: None,
            setup,
        }
    }

    /// Runs until the job is done or cannot go on.
    pub(crate) fn run(mut self) -> Result<()> {
        let compactor = Compactor::start(Arc::clone(&self.vault));
        let address = (self.setup.nodes.len() > 1)
            .then(|| self.setup.nodes.get(&self.setup.node).cloned())
            .flatten();
        self.tell(What::Started {
            process_id: std::process::id(),
            workers: self.setup.workers,
            address,
        });
        let result = self.open().and_then(|()| self.serve());
        self.close(result.is_ok());
        drop(compactor);
        match &result {
            Ok(()) => {
                let records = self.gauges.records.load(Ordering::Relaxed);
                let consumed = self.gauges.consumed.load(Ordering::Relaxed);
                self.tell(What::Finished { records, consumed, commits: self.commits });
            }
            Err(error) => self.tell(What::Error {
                message: format!("{error:?}"),
                excluded: error.kind() == Kind::Excluded,
            }),
        }
        result
    }

    fn open(&mut self) -> Result<()> {
        self.start_listening()?;
        match std::mem::replace(&mut self.setup.run, RunSource::Told(Box::new(no_register))) {
            RunSource::Known(run) => self.join_run(run)?,
            told => self.setup.run = told,
        }
        let lower: Vec<(NodeId, String)> = self
            .setup
            .nodes
            .range(..self.setup.node)
            .map(|(&node, address)| (node, address.clone()))
            .collect();
        for (node, address) in lower {
            let hello = self.hello(Purpose::Control, node, None);
            let deadline = self.started + self.setup.connect_limit;
            self.spawn_dial(address, hello, deadline, move |result| NodeEvent::Dialled {
                node,
                result,
            });
        }
        Ok(())
    }

    fn start_listening(&mut self) -> Result<()> {
        let Some(listener) = self.setup.listener.take() else { return Ok(()) };
        let (inbound, refused) = (self.events.clone(), self.events.clone());
        let listener = Listener::start(
            listener,
            ListenerLimits::default(),
            move |connection| drop(inbound.send(NodeEvent::Inbound(connection))),
            move |connection| drop(refused.send(NodeEvent::Refused(connection))),
        );
        let listener =
            listener.map_err(|error| Error::new(Kind::Network, "cannot listen").because(error))?;
        self.listener = Some(listener);
        Ok(())
    }

    /// The loop: waits for something to happen, and does what follows from it.
    fn serve(&mut self) -> Result<()> {
        let mut progress_at = Instant::now() + PROGRESS_INTERVAL;
        let mut expected_at = Instant::now();
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            let now = Instant::now();
            self.stalled = self.stalled.max(now.saturating_duration_since(expected_at));
            if now >= progress_at {
                self.look_around(now)?;
                self.tell_progress();
                progress_at = now + PROGRESS_INTERVAL;
            }
            let forming_until = self.started + self.setup.connect_limit;
            if self.current.is_none() && now >= forming_until {
                return Err(self.not_formed());
            }
            let deadline = self.machine.as_ref().and_then(Machine::next_deadline);
            let deadline = deadline.map(|ms| self.started + Duration::from_millis(ms));
            let until = deadline.map_or(progress_at, |at| at.min(progress_at));
            expected_at = until.max(now);
            match self.inbox.recv_timeout(until.saturating_duration_since(now)) {
                Ok(event) => self.on_event(event)?,
                Err(RecvTimeoutError::Timeout) => self.step(Input::Tick)?,
                // The loop holds a sender itself.
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::internal("the node's inbox is closed"));
                }
            }
        }
    }

    fn on_event(&mut self, event: NodeEvent) -> Result<()> {
        match event {
            NodeEvent::Inbound(inbound) => self.on_inbound(inbound),
            NodeEvent::Refused(refused) => {
                let peer = refused.peer_addr.map_or_else(String::new, |addr| addr.to_string());
                self.tell(What::Refused { peer, reason: refused.text });
                Ok(())
            }
            NodeEvent::Dialled { node, result } => match result {
                Ok((stream, welcome)) => self.on_welcome(node, stream, welcome),
                Err(error) => Err(self.dial_failed(node, error)),
            },
            NodeEvent::Linked { view, node, result } => match result {
                Ok((stream, _welcome)) => self.on_link(view, node, stream),
                Err(error) => {
                    if matches!(error, DialError::Refused { .. }) {
                        self.refused_by = Some(node);
                    }
                    self.step(Input::ConnectFailed { view, node, why: error.to_string() })
                }
            },
            NodeEvent::Control { node, event: ControlEvent::Message(message) } => {
                if let (Message::Received { view, bytes }, Some(current)) =
                    (&message, &mut self.current)
                    && *view == current.view.number
                {
                    current.watches.received(node, *bytes);
                }
                self.step(Input::Message { from: node, message })
            }
            NodeEvent::Control { node, event: ControlEvent::Lost(why) } => {
                // No other connection to this node is taken before this one has told of its end.
                let Some((incarnation, _)) = self.controls.get(&node) else { return Ok(()) };
                let incarnation = *incarnation;
                // Before there is a view, a node that has ended may be started again.
                if self.current.is_none() {
                    self.controls.remove(&node);
                }
                self.step(Input::PeerLost { node, incarnation, why: why.to_string() })
            }
            NodeEvent::LinkLost { view, loss } => {
                let why = loss.why.to_string();
                self.step(Input::LinkLost { view, node: loss.node, why })
            }
            NodeEvent::Notice { view, notice } => self.on_notice(view, notice),
            NodeEvent::Ended(ended) => self.on_ended(ended),
            NodeEvent::Joined { view } => self.on_joined(view),
            NodeEvent::Register(reply) => self.step(Input::Register(reply)),
            NodeEvent::Fault(FaultKind::Panic) => {
                if let Some(running) = self.current.as_ref().and_then(|c| c.running.as_ref()) {
                    running.shared.panic_next();
                }
                Ok(())
            }
            // All other faults come from outside, by a launcher.
            NodeEvent::Fault(_) => Ok(()),
        }
    }

    // Control connections.

    fn identity(&self) -> Identity {
        Identity {
            run: self.run.as_ref().map_or_else(String::new, |run| run.id.clone()),
            job: self.setup.job_hash.clone(),
            node: self.setup.node,
            incarnation: self.incarnation,
        }
    }

    fn hello(&self, purpose: Purpose, to: NodeId, incarnation: Option<Incarnation>) -> Hello {
        let identity = self.identity();
        Hello {
            run: identity.run,
            job: identity.job,
            node: self.setup.node,
            incarnation: self.incarnation,
            address: self.setup.nodes.get(&self.setup.node).cloned().unwrap_or_default(),
            purpose,
            to_node: to,
            to_incarnation: incarnation,
        }
    }

    fn welcome(&self) -> Welcome {
        Welcome {
            node: self.setup.node,
            incarnation: self.incarnation,
            run: self.identity().run,
            register: self.run.as_ref().and_then(|run| run.location.clone()),
        }
    }

    fn spawn_dial(
        &self,
        address: String,
        hello: Hello,
        deadline: Instant,
        event: impl FnOnce(Result<(TcpStream, Welcome), DialError>) -> NodeEvent + Send + 'static,
    ) {
        let events = self.events.clone();
        thread::spawn(move || {
            let _ = events.send(event(dial(&address, &hello, deadline)));
        });
    }

    fn on_inbound(&mut self, inbound: Inbound) -> Result<()> {
        if let Err(reason) = self.identity().check(&inbound.hello) {
            return self.refuse(inbound, reason);
        }
        match inbound.hello.purpose.clone() {
            Purpose::Control => self.on_inbound_control(inbound),
            Purpose::Data { view, digest } => self.on_inbound_data(inbound, view, digest),
        }
    }

    fn on_inbound_control(&mut self, inbound: Inbound) -> Result<()> {
        let node = inbound.hello.node;
        if node <= self.setup.node || !self.setup.nodes.contains_key(&node) {
            return self.refuse(inbound, Refusal::NotAMember { node });
        }
        if let Some((known, _)) = self.controls.get(&node) {
            let reason = if *known == inbound.hello.incarnation {
                Refusal::AlreadyConnected { node }
            } else {
                Refusal::Restarted { node }
            };
            return self.refuse(inbound, reason);
        }
        // The lowest node tells the others which run it is: it must know first.
        let (incarnation, address) = (inbound.hello.incarnation, inbound.hello.address.clone());
        match inbound.accept(self.welcome()) {
            Ok(stream) => self.connect_control(node, incarnation, address, stream),
            // The dialler tries again.
            Err(_) => Ok(()),
        }
    }

    fn on_welcome(&mut self, node: NodeId, stream: TcpStream, welcome: Welcome) -> Result<()> {
        if self.run.is_none()
            && let RunSource::Told(open) = &self.setup.run
            && let Some(location) = &welcome.register
        {
            let run = open(location)?;
            if run.id != welcome.run {
                return Err(Error::new(
                    Kind::Register,
                    format!(
                        "register {location} holds run {}, but node {node} is in run {}: the \
                         directory must be the same one for all nodes (see --register)",
                        run.id, welcome.run
                    ),
                ));
            }
            self.join_run(run)?;
        }
        let address = self.setup.nodes.get(&node).cloned().unwrap_or_default();
        self.connect_control(node, welcome.incarnation, address, stream)
    }

    fn connect_control(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        address: String,
        stream: TcpStream,
    ) -> Result<()> {
        let events = self.events.clone();
        let on_event = move |event| drop(events.send(NodeEvent::Control { node, event }));
        let connection = ControlConnection::start(stream, node, ControlLimits::default(), on_event);
        let connection = connection.map_err(|error| {
            Error::new(Kind::Network, format!("cannot talk to node {node}")).because(error)
        })?;
        self.controls.insert(node, (incarnation, connection));
        self.step(Input::PeerUp { node, incarnation, address })
    }

    fn refuse(&mut self, inbound: Inbound, reason: Refusal) -> Result<()> {
        let what =
            What::Refused { peer: inbound.peer_addr.to_string(), reason: reason.to_string() };
        // Whether the stranger hears it or not changes nothing here.
        thread::spawn(move || drop(inbound.refuse(reason)));
        self.tell(what);
        Ok(())
    }

    fn dial_failed(&self, node: NodeId, error: DialError) -> Error {
        Error::new(Kind::Network, format!("cannot connect to node {node}")).because(error)
    }

    fn not_formed(&self) -> Error {
        let missing: Vec<String> = self
            .setup
            .nodes
            .keys()
            .filter(|&&node| node != self.setup.node && !self.controls.contains_key(&node))
            .map(NodeId::to_string)
            .collect();
        let limit_ms = self.setup.connect_limit.as_millis();
        let text = if missing.is_empty() {
            format!("there was no first view after {limit_ms} ms though all nodes are connected")
        } else {
            format!("node(s) {} did not connect within {limit_ms} ms", missing.join(", "))
        };
        Error::new(Kind::Network, text)
    }

    // The run and its register.

    fn join_run(&mut self, run: Run) -> Result<()> {
        let done = run.register.done().map_err(register_failed)?;
        let address = self.setup.nodes.get(&self.setup.node).cloned().unwrap_or_default();
        self.machine = Some(Machine::new(MemberConfig {
            run: run.id.clone(),
            node: self.setup.node,
            incarnation: self.incarnation,
            address,
            nodes: self.setup.nodes.keys().copied().collect(),
            workers_per_node: self.setup.workers as u32,
            partitions: self.setup.partitions,
            backups: self.setup.backups,
            limits: MemberLimits {
                restarts_max: self.setup.restarts.0,
                restarts_window_ms: self.setup.restarts.1.as_millis() as u64,
                ..MemberLimits::from_suspect_ms(self.setup.suspect_limit.as_millis() as u64)
            },
        }));
        let events = self.events.clone();
        let answered = move |reply| drop(events.send(NodeEvent::Register(reply)));
        self.registrar =
            Some(Registrar::start(Arc::clone(&run.register), run.id.clone(), answered));
        self.run = Some(run);
        self.step(Input::Started { done })?;
        for input in std::mem::take(&mut self.early) {
            self.step(input)?;
        }
        Ok(())
    }

    // The protocol.

    /// Hands an input to the protocol and carries out what it answers, to the end.
    fn step(&mut self, input: Input) -> Result<()> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now_ms = self.started.elapsed().as_millis() as u64;
            let Some(machine) = &mut self.machine else {
                self.early.push(input);
                continue;
            };
            for output in machine.handle(now_ms, input) {
                // A reply never comes before the rest of what was asked for.
                inputs.extend(self.carry_out(output)?);
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output) -> Result<Option<Input>> {
        match output {
            Output::Send(node, message) => {
                if let Some((_, connection)) = self.controls.get(&node) {
                    // A lost connection reports itself.
                    let _ = connection.send(&message);
                }
            }
            Output::Propose(_) | Output::ReadView(_) | Output::MarkDone(_) => {
                // The machine that asks is made when the register is known.
                if let Some(registrar) = &self.registrar {
                    registrar.ask(output);
                }
            }
            Output::Install(view) => self.install(view)?,
            Output::StopGeneration { view } => return Ok(self.stop_generation(view)),
            Output::Report(decision) => self.on_decision(decision),
            Output::Finish => self.end = Some(Ok(())),
            Output::Fail(error) => {
                self.testify(&error);
                let own = matches!(error, ProtocolError::Local { .. });
                let job_error = self.job_error.take().filter(|_| own);
                self.end = Some(Err(job_error.unwrap_or_else(|| protocol_failed(error))));
            }
        }
        Ok(None)
    }

    fn on_decision(&mut self, decision: Decision) {
        let now = Instant::now();
        match decision {
            Decision::Suspicion { view, what } => {
                self.recovery.suspected(now);
                let here = self.setup.node;
                let is_refused = matches!(
                    what,
                    Suspicion::ConnectFailed { node, .. } if self.refused_by == Some(node)
                );
                let workers = self.current.as_ref().and_then(|current| current.running.as_ref());
                let workers = workers.map_or_else(Vec::new, |r| r.shared.whereabouts());
                let seen = witness::of_suspicion(here, view, &what, is_refused, &workers);
                match (failure_of(here, view, &what), what) {
                    // SUBTLE: survivors that stop close their links, too. A lost link is told only
                    // where nothing else explains it.
                    (Some(failure), Suspicion::LinkLost { .. }) => {
                        self.lost_link.get_or_insert((failure, seen));
                    }
                    (failure, _) => {
                        self.failure_told = true;
                        failure.into_iter().for_each(|failure| self.tell(failure));
                        self.observe(seen);
                    }
                }
            }
            Decision::Silent { node, silent_ms } => {
                self.tell(What::Suspicion { suspect: node, silent_ms });
            }
            Decision::HeardAgain { node, silent_ms } => {
                self.tell(What::Cleared { suspect: node, silent_ms });
            }
            Decision::Stopped { .. } => self.recovery.stopped(now),
            Decision::ViewAgreed { number, resume, members, moved, under_replicated, .. } => {
                self.recovery.agreed(now);
                let lost_link = self.lost_link.take();
                if !std::mem::take(&mut self.failure_told)
                    && let Some((failure, seen)) = lost_link
                {
                    self.tell(failure);
                    self.observe(seen);
                }
                let takeovers = self.takeovers(&moved);
                self.tell(What::View {
                    number,
                    members,
                    resume,
                    moved_partitions: moved.len() as u32,
                    under_replicated: under_replicated.len() as u32,
                    takeovers,
                });
            }
            Decision::Waiting { missing, .. } => {
                let missing: Vec<String> = missing.iter().map(NodeId::to_string).collect();
                let text = format!(
                    "waiting for node(s) {}: without what they hold no view can be made",
                    missing.join(", ")
                );
                self.tell(What::Message { text });
            }
            Decision::RegisterUnavailable { why } => {
                let text = format!("the register does not answer, trying again: {why}");
                if !std::mem::replace(&mut self.register_told, true) {
                    self.observe(Some(witness::of_register(self.setup.node, self.view(), why)));
                }
                self.tell(What::Message { text });
            }
            Decision::Running { .. } | Decision::Finishing { .. } => {}
        }
    }

    /// Tells what the error with which this node ends shows of a failure.
    fn testify(&self, error: &ProtocolError) {
        let (here, view) = (self.setup.node, self.view());
        let stalled = (self.stalled >= STALL_LIMIT).then_some(self.stalled.as_millis() as u64);
        self.observe(witness::of_protocol_error(here, view, error, stalled));
        if let (ProtocolError::StopLimit { limit_ms, .. }, Some(current)) = (error, &self.current)
            && let Some(running) = &current.running
        {
            for worker in running.shared.whereabouts() {
                if !current.ended.contains(&worker.worker()) {
                    self.observe(Some(witness::of_hung_worker(here, view, &worker, *limit_ms)));
                }
            }
        }
    }

    fn observe(&self, seen: Option<Observation>) {
        seen.into_iter().for_each(|seen| self.tell(What::Observed(Box::new(seen))));
    }

    /// The number of the present view; 0 before the first.
    fn view(&self) -> ViewNumber {
        self.current.as_ref().map_or(ViewNumber(0), |current| current.view.number)
    }

    // Views.

    /// How many of the partitions that moved each node owns now.
    fn takeovers(&self, moved: &[PartitionId]) -> Vec<Takeover> {
        let mut takeovers = BTreeMap::<NodeId, u32>::new();
        if let Some(view) = self.machine.as_ref().and_then(Machine::view) {
            let places = moved.iter().filter_map(|partition| view.assignment.place(*partition));
            places.for_each(|place| *takeovers.entry(place.owner.node).or_default() += 1);
        }
        let takeovers = takeovers.into_iter();
        takeovers.map(|(node, partitions)| Takeover { node, partitions }).collect()
    }

    fn install(&mut self, view: View) -> Result<()> {
        let node = self.setup.node;
        let role = |partition: PartitionId| role_of(&view, node, partition);
        self.vault.install(view.number, view.resume, &role).map_err(|error| {
            Error::internal(format!("the vault refuses view {}", view.number)).because(error)
        })?;
        self.gauges.consumed.store(0, Ordering::Relaxed);
        self.gauges.total.store(0, Ordering::Relaxed);
        self.gauges.records.store(0, Ordering::Relaxed);
        let resume = view.resume.map_or(0, |resume| resume.next().0);
        let begun = self.gauges.epochs_begun.swap(0, Ordering::Relaxed);
        self.recovery.rewound(begun.saturating_sub(resume));
        (self.stalled, self.refused_by, self.register_told) = (Duration::ZERO, None, false);

        let Some(process_index) = view.process_index(node) else {
            return Err(Error::internal(format!("view {} does not have this node", view.number)));
        };
        let filled = |place: &&Place| place.filling.iter().any(|worker| worker.node == node);
        let refilling = view.assignment.places.iter().filter(filled).count() as u32;
        let digest = view.digest().0;
        let lower: Vec<(NodeId, Incarnation, String)> = view.members[..process_index]
            .iter()
            .map(|member| (member.node, member.incarnation, member.address.clone()))
            .collect();
        let number = view.number;
        self.current = Some(Current {
            view,
            digest: digest.clone(),
            process_index,
            links: BTreeMap::new(),
            running: None,
            ended: BTreeSet::new(),
            finished: 0,
            stop_wanted: false,
            joined: false,
            committed: None,
            watches: Watches::new(self.setup.hang_limit, self.setup.suspect_limit, refilling),
        });
        for (peer, incarnation, address) in lower {
            // What this node was told itself goes before what others say: a host may have another
            // name from here.
            let address = self.setup.nodes.get(&peer).cloned().unwrap_or(address);
            let purpose = Purpose::Data { view: number, digest: digest.clone() };
            let hello = self.hello(purpose, peer, Some(incarnation));
            let deadline = Instant::now() + LINK_LIMIT;
            self.spawn_dial(address, hello, deadline, move |result| NodeEvent::Linked {
                view: number,
                node: peer,
                result,
            });
        }
        for inbound in std::mem::take(&mut self.waiting_links) {
            self.on_inbound(inbound)?;
        }
        self.start_if_linked()
    }

    fn on_inbound_data(
        &mut self,
        inbound: Inbound,
        view: ViewNumber,
        digest: String,
    ) -> Result<()> {
        let node = inbound.hello.node;
        let here = self.current.as_ref().map_or(ViewNumber(0), |current| current.view.number);
        if view > here {
            // It is ahead by a moment: its connection waits until this node has the view, too.
            if self.waiting_links.len() >= self.setup.nodes.len() {
                return self.refuse(inbound, Refusal::NotYet { yours: view });
            }
            self.waiting_links.push(inbound);
            return Ok(());
        }
        let Some(current) = self.current.as_ref().filter(|_| view == here) else {
            return self.refuse(inbound, Refusal::StaleView { here, yours: view });
        };
        let reason = if current.digest != digest {
            Some(Refusal::OtherDigest { view, here: current.digest.clone(), yours: digest })
        } else if current
            .view
            .member(node)
            .is_none_or(|m| m.incarnation != inbound.hello.incarnation)
        {
            Some(Refusal::NotAMember { node })
        } else if current.stop_wanted {
            Some(Refusal::Ended { view })
        } else if current.running.is_some() || current.links.contains_key(&node) {
            Some(Refusal::AlreadyConnected { node })
        } else {
            None
        };
        if let Some(reason) = reason {
            return self.refuse(inbound, reason);
        }
        match inbound.accept(self.welcome()) {
            Ok(stream) => self.on_link(view, node, stream),
            Err(error) => self.step(Input::ConnectFailed { view, node, why: error.to_string() }),
        }
    }

    fn on_link(&mut self, view: ViewNumber, node: NodeId, stream: TcpStream) -> Result<()> {
        if let Some(current) = &mut self.current
            && current.view.number == view
            && !current.stop_wanted
        {
            current.links.insert(node, stream);
            return self.start_if_linked();
        }
        Ok(())
    }

    /// Builds the generation once all data connections stand.
    fn start_if_linked(&mut self) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let is_linked = current.links.len() + 1 == current.view.members.len();
        if current.running.is_some() || current.stop_wanted || !is_linked {
            return Ok(());
        }
        self.recovery.connected(Instant::now());
        let (view, workers) = (&current.view, self.setup.workers);
        let number = view.number;
        let range = |process: usize| process * workers..(process + 1) * workers;
        let mut links = Vec::new();
        for (index, member) in view.members.iter().enumerate() {
            links.push(current.links.remove(&member.node).map(|stream| {
                let ends = LinkEnds {
                    local_workers: range(current.process_index),
                    remote_workers: range(index),
                };
                let events = self.events.clone();
                Link::new(stream, member.node, ends, move |loss| {
                    drop(events.send(NodeEvent::LinkLost { view: number, loss }));
                })
            }));
        }
        let run = self.run.as_ref().map_or_else(String::new, |run| run.id.clone());
        let settings = Settings {
            hasher: KeyHasher::default(),
            epoch_interval: self.setup.epoch_interval,
            checkpoint_interval: self.setup.checkpoint_interval,
            in_flight_epochs_max: self.setup.in_flight_epochs_max,
            run,
            workers_per_node: workers,
            share_count: (self.setup.nodes.len() * workers) as u32,
            refill_bytes_per_second: self.setup.refill_bytes_per_second,
        };
        let watched = self.machine.as_ref().map(|m| m.watched().clone()).unwrap_or_default();
        let generation = Generation::new(
            number,
            view.resume,
            routes_of(view),
            settings,
            Arc::clone(&self.vault) as Arc<dyn Vault>,
            Arc::new(SinceStart::new()),
            Arc::new(Notices { view: number, events: self.events.clone() }),
            Arc::clone(&self.gauges),
        );
        let generation =
            Arc::new(generation.watching(watched).with_quarantine(self.setup.quarantine.clone()));
        let events = self.events.clone();
        let running = Running::start(
            generation,
            links,
            current.process_index,
            workers,
            self.setup.worker_config.clone(),
            Arc::clone(&self.setup.job),
            move |ended| drop(events.send(NodeEvent::Ended(ended))),
        );
        match running {
            Ok(running) => {
                current.running = Some(running);
                self.recovery.building(number, workers);
                self.step(Input::GenerationRunning { view: number })
            }
            Err(error) => Err(Error::internal(format!("cannot start view {number}: {error}"))),
        }
    }

    fn stop_generation(&mut self, view: ViewNumber) -> Option<Input> {
        let current = self.current.as_mut().filter(|current| current.view.number == view)?;
        current.stop_wanted = true;
        current.links.clear();
        match &current.running {
            Some(running) => {
                running.stop();
                None
            }
            // It was not started: there is nothing to wait for.
            None => Some(Input::GenerationStopped { view, evidence: self.evidence(view) }),
        }
    }

    fn on_ended(&mut self, ended: WorkerEnded) -> Result<()> {
        let Some(current) = self.current.as_mut().filter(|c| c.view.number == ended.view) else {
            return Ok(());
        };
        current.ended.insert(ended.worker);
        let view = ended.view;
        let worker = ended.worker as u32;
        let (mut input, mut seen) = (None, None);
        match Verdict::from(ended.end) {
            Verdict::Finished => current.finished += 1,
            Verdict::Stopped => {}
            Verdict::Panicked(panic) => {
                let operators::WorkerPanic { message, location, spot, record } = panic;
                let panic = WorkerPanic { worker, message, location, spot, record };
                input = Some(Input::WorkerPanicked { view, panic });
            }
            Verdict::Failed(error) => {
                input = Some(Input::FatalError { message: error.to_string() });
                self.job_error = Some(job_failed(&error));
                seen = Some(witness::of_job_error(self.setup.node, view, &error));
            }
        }
        let all_ended = current.ended.len() == self.setup.workers;
        let all_finished = current.finished == self.setup.workers;
        self.observe(seen);
        if let Some(input) = input {
            self.step(input)?;
        }
        if all_ended && let Some(current) = &mut self.current {
            if let Some(running) = &mut current.running {
                if all_finished {
                    self.when_done = running.shared.take_when_done();
                }
                let events = self.events.clone();
                running.join(move || drop(events.send(NodeEvent::Joined { view })));
            }
            if all_finished {
                self.step(Input::GenerationFinished { view })?;
            }
        }
        Ok(())
    }

    fn on_joined(&mut self, view: ViewNumber) -> Result<()> {
        let Some(current) = self.current.as_mut().filter(|c| c.view.number == view) else {
            return Ok(());
        };
        current.joined = true;
        let finished = current.finished == self.setup.workers;
        if finished {
            return Ok(());
        }
        let evidence = self.evidence(view);
        self.step(Input::GenerationStopped { view, evidence })
    }

    /// What this node holds, now that its generation has ended.
    fn evidence(&self, view: ViewNumber) -> Evidence {
        evidence_of(self.vault.as_ref(), view)
    }

    /// Looks whether a worker hangs, a link is stuck, or lost copies are whole again.
    fn look_around(&mut self, now: Instant) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let view = current.view.number;
        if let Some((partitions, took)) = current.watches.refilled(now, self.vault.as_ref()) {
            let took_ms = took.as_secs_f64() * 1e3;
            self.tell(What::Refilled { view, partitions, took_ms });
        }
        // What the job does after its dataflow has ended is its own affair.
        let is_over = |current: &Current| {
            current.stop_wanted
                || !current.ended.is_empty()
                || current.committed == Some(Epoch::END)
        };
        let Some(current) = self.current.as_mut().filter(|current| !is_over(current)) else {
            return Ok(());
        };
        let Some(running) = &current.running else { return Ok(()) };
        let mut seen = Vec::new();
        if let Some(Hung { worker, busy }) = current.watches.hung(now, &running.shared) {
            seen.push(Input::WorkerHung { view, worker, busy_ms: busy.as_millis() as u64 });
        }
        if current.watches.links_are_due(now) {
            for (node, traffic) in running.traffic() {
                if let Some((_, connection)) = self.controls.get(node) {
                    let bytes = traffic.received_bytes();
                    // A lost connection reports itself.
                    let _ = connection.send(&Message::Received { view, bytes });
                }
            }
            for (node, stuck) in current.watches.stuck(now, running.traffic()) {
                seen.push(Input::LinkLost { view, node, why: stuck.to_string() });
            }
        }
        seen.into_iter().try_for_each(|input| self.step(input))
    }

    // What workers tell.

    fn on_notice(&mut self, view: ViewNumber, notice: Notice) -> Result<()> {
        let now = Instant::now();
        let Some(current) = self.current.as_mut().filter(|c| c.view.number == view) else {
            return Ok(());
        };
        if let Notice::Committed { epoch } = notice
            && Some(epoch) > current.committed
        {
            current.committed = Some(epoch);
            // The end of everything is not an epoch that anybody would know.
            if epoch != Epoch::END {
                self.commits += 1;
                self.tell(What::Commit { view, epoch });
            }
        }
        match &notice {
            Notice::Quarantined { operator, partition, epoch, record } => {
                self.tell(What::Quarantined {
                    operator: operator.to_string(),
                    partition: *partition,
                    epoch: *epoch,
                    record: record.clone(),
                });
            }
            Notice::ReleaseFailed { operator, epoch, why } => {
                let limit_s = RELEASE_LIMIT.as_secs();
                let text = format!(
                    "sink \"{operator}\" could not release epoch {epoch} ({why}): trying again for \
                     up to {limit_s} s"
                );
                self.tell(What::Message { text });
                let error = JobError::Sink { operator: operator.clone(), what: why.clone() };
                let mut seen = witness::of_job_error(self.setup.node, view, &error);
                seen.place.epoch = Some(*epoch);
                self.observe(Some(seen));
            }
            Notice::ReleaseRecovered { operator, failed_for } => {
                let failed_ms = failed_for.as_millis();
                let text = format!("sink \"{operator}\" releases again, after {failed_ms} ms");
                self.tell(What::Message { text });
            }
            _ => {}
        }
        if let Some(recovered) = self.recovery.note(view, &notice, now) {
            self.tell(recovered);
        }
        Ok(())
    }

    fn tell(&self, what: What) {
        (self.setup.tell)(what);
    }

    fn tell_progress(&self) {
        if self.current.as_ref().is_some_and(|current| current.running.is_some()) {
            self.tell(What::Progress {
                consumed: self.gauges.consumed.load(Ordering::Relaxed),
                total: self.gauges.total.load(Ordering::Relaxed),
                records: self.gauges.records.load(Ordering::Relaxed),
            });
        }
    }

    // The end.

    /// Ends what is left of threads and connections.
    fn close(&mut self, finished: bool) {
        if !finished && let Some(running) = self.current.as_ref().and_then(|c| c.running.as_ref()) {
            running.stop();
        }
        self.await_joined();
        if finished {
            for action in std::mem::take(&mut self.when_done) {
                if let Err(error) = action() {
                    let text = format!("the job is done, but cleaning up failed: {error}");
                    self.tell(What::Message { text });
                }
            }
        }
        for (_, connection) in self.controls.values() {
            connection.close();
        }
        if let Some(listener) = self.listener.take() {
            listener.shutdown();
        }
    }

    /// Waits for the threads of the last generation: they may still be sending what peers need.
    fn await_joined(&mut self) {
        let until = Instant::now() + JOIN_LIMIT;
        while let Some(current) = &mut self.current
            && let Some(running) = &mut current.running
            && !current.joined
        {
            let view = current.view.number;
            let left = until.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(left) {
                Ok(NodeEvent::Ended(ended)) if ended.view == view => {
                    current.ended.insert(ended.worker);
                    if current.ended.len() == self.setup.workers {
                        let events = self.events.clone();
                        running.join(move || drop(events.send(NodeEvent::Joined { view })));
                    }
                }
                Ok(NodeEvent::Joined { view: joined }) if joined == view => current.joined = true,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

fn incarnation_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Starts of one node are told apart by time; two in one microsecond are not to be had.
    now.unwrap_or_default().as_micros() as u64
}

fn no_register(_location: &str) -> Result<Run> {
    Err(Error::internal("the run is known already"))
}
