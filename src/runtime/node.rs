//! A node: the loop that feeds the protocol with what happens and carries out what it decides.
//!
//! Every decision is the protocol machine's. This file turns connections, threads and files into its
//! inputs and its outputs into connections, threads and files, and owns all of them.

mod agreement;
mod closing;
mod connections;
mod dropping;
mod durable;
mod joining;
mod protocol;
mod telling;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sys::signal::Signal;
use ringfence_operators::fence::generation::{Gauges, Notice, Observer, WhenDone};
use ringfence_operators::ids::{Epoch, Incarnation, NodeId, ViewNumber};
use ringfence_operators::vault::MemoryVault;

use self::agreement::{Agreement, AllTold};
use self::dropping::Dropping;
use self::durable::{Loaded, Tier};
use super::catch_up::CatchUp;
use super::compactor::Compactor;
use super::generation::{Job, Running, WorkerEnded};
use super::recovery::RecoveryLog;
use super::registrar::Registrar;
use super::strangers::Strangers;
use super::watches::Watches;
use super::witness::FailureAccount;
use crate::chaos::FaultKind;
use crate::config::Config;
use crate::durable::resumption::Resumption;
use crate::durable::writer::Outcome;
use crate::error::{Error, Kind, Result};
use crate::network::{
    ControlConnection, ControlEvent, DialError, Inbound, LinkLoss, Listener, ListenerLimits,
    Purpose, Refusal, RefusedConnection, Welcome,
};
use crate::protocol::member::Machine;
use crate::protocol::message::{Input, Message, RegisterReply};
use crate::protocol::present::{Present, PresentLimits};
use crate::register::Register;
use crate::report::What;

/// How often a node reports its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// How long the threads of an ended generation may take to end when the process wants to.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

/// How long workers may take to leave before their generation is closed without them.
const HAND_OVER_LIMIT: Duration = Duration::from_millis(250);

/// How long a node that was asked to end spends on its farewell, and then waits for its workers.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

/// How many events may wait for the loop; a thread that adds more waits.
const EVENTS_MAX: usize = 4096;

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
    /// The run is known.
    Known(Run),
    /// This node has made it, unless the others turn out to be in one.
    Fresh(Run, OpenRegister),
    /// The lowest node tells it when dialled.
    Told(OpenRegister),
}

/// Everything that a node is started with.
pub(crate) struct NodeSetup {
    pub(crate) node: NodeId,
    /// Whether this process was started in the place of one that has ended.
    pub(crate) is_restart: bool,
    /// All nodes, this one included, and where they listen.
    pub(crate) nodes: BTreeMap<NodeId, String>,
    /// Where this one listens; `None` if it has no peers.
    pub(crate) listener: Option<TcpListener>,
    /// The hash of executable and arguments.
    pub(crate) job_hash: String,
    /// How many jobs this program ran before.
    pub(crate) round: u32,
    /// Refused connections.
    pub(crate) strangers: Strangers,
    pub(crate) run: RunSource,
    pub(crate) config: Config,
    /// What there is to go on from, if there is a durable tier.
    pub(crate) durable: Option<Resumption>,
    pub(crate) job: Job,
    /// Called with everything that happens.
    pub(crate) tell: Box<dyn Fn(What) + Send>,
}

/// What reaches the loop.
pub(crate) enum NodeEvent {
    /// A peer connected.
    Inbound(Inbound),
    /// A connection was refused, which must be reported.
    Refused { peer: String, reason: String },
    /// A control connection was dialled.
    Dialled { node: NodeId, result: Result<(TcpStream, Welcome), DialError> },
    /// A data connection was dialled.
    Linked { view: ViewNumber, node: NodeId, result: Result<(TcpStream, Welcome), DialError> },
    /// A peer has sent a message, or is gone.
    Control { node: NodeId, incarnation: Incarnation, event: ControlEvent<Message> },
    /// A peer was asked which run it is in.
    Found { result: Result<(TcpStream, Welcome), DialError> },
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
    /// What the first view resumes from is read.
    Loaded(Loaded),
    /// The writer of the durable tier has done something.
    Written(Outcome),
    /// A fault is to be injected.
    Fault(FaultKind),
    /// This process was asked to end.
    Interrupted(Signal),
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
    /// The nodes to which control connections are being made.
    dialling: BTreeSet<NodeId>,
    /// Connections that are being made now.
    dials: Arc<AtomicUsize>,
    controls: BTreeMap<NodeId, (Incarnation, ControlConnection<Message>)>,
    run: Option<Run>,
    registrar: Option<Registrar>,
    machine: Option<Machine>,
    /// What happened before the run was known.
    early: Vec<Input>,
    /// This node's part in the current view, which decides what is done in it and when.
    present: Present<Inbound, TcpStream>,
    /// The generations whose threads are not joined yet, including that of the current view.
    generations: BTreeMap<ViewNumber, Running>,
    vault: Arc<MemoryVault>,
    gauges: Arc<Gauges>,
    current: Option<Current>,
    /// What this node has to do with the durable tier, if there is one.
    tier: Option<Tier>,
    /// What the other nodes have built.
    catalogues: AllTold,
    recovery: RecoveryLog,
    failures: FailureAccount,
    /// The longest that the loop stood still in this view.
    stalled: Duration,
    /// The peer that refused the last connection of this view.
    refused_by: Option<NodeId>,
    /// Whether the register's silence in this view has been reported.
    register_told: bool,
    /// Since when the register has not answered, and when that was last reported.
    register_away: Option<(Instant, Instant)>,
    commits: u64,
    when_done: Vec<WhenDone>,
    /// The error of this node's own job, which the protocol knows only as a text.
    job_error: Option<Error>,
    end: Option<Result<()>>,
}

/// What this node knows about the current view in addition to its own part in it.
struct Current {
    catch_up: CatchUp,
    committed: Option<Epoch>,
    watches: Watches,
    agreement: Agreement,
    dropping: Dropping,
}

struct Notices {
    view: ViewNumber,
    events: Events,
}

impl Observer for Notices {
    fn notice(&self, notice: Notice) {
        // An error means that the node's loop is over: the event is no longer needed.
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
            dialling: BTreeSet::new(),
            dials: Arc::default(),
            controls: BTreeMap::new(),
            run: None,
            registrar: None,
            machine: None,
            early: Vec::new(),
            present: Present::new(
                setup.node,
                setup.nodes.keys().copied().collect(),
                setup.config.workers,
                PresentLimits {
                    hand_over_ms: HAND_OVER_LIMIT.as_millis() as u64,
                    await_ms: setup.config.hang_limit.as_millis() as u64,
                },
            ),
            generations: BTreeMap::new(),
            vault: Arc::new(match setup.durable {
                Some(_) => MemoryVault::durable(setup.config.partitions),
                None => MemoryVault::new(setup.config.partitions),
            }),
            gauges: Arc::default(),
            current: None,
            tier: None,
            catalogues: AllTold::new(),
            recovery: RecoveryLog::default(),
            failures: FailureAccount::default(),
            stalled: Duration::ZERO,
            refused_by: None,
            register_told: false,
            register_away: None,
            commits: 0,
            when_done: Vec::new(),
            job_error: None,
            end: None,
            setup,
        }
    }

    /// Runs until the job is done or cannot continue.
    pub(crate) fn run(mut self) -> Result<()> {
        let compactor = Compactor::start(Arc::clone(&self.vault));
        let address = (self.setup.nodes.len() > 1)
            .then(|| self.setup.nodes.get(&self.setup.node).cloned())
            .flatten();
        self.tell(What::Started {
            process_id: std::process::id(),
            workers: self.setup.config.workers,
            address,
            key_hash: self.setup.config.key_hash,
        });
        let result = self.open().and_then(|()| self.serve());
        let result = match result {
            Err(error) if error.kind() == Kind::Interrupted => {
                self.leave();
                Err(error)
            }
            result => {
                let cleaned = self.close(result.is_ok());
                result.and(cleaned)
            }
        };
        self.tell_strangers(true);
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
        if let Some(found) = self.setup.durable.take() {
            for error in &found.passed_over {
                self.tell(What::Message { text: format!("{error}; the one before it is used") });
            }
            self.tier = Some(Tier::new(found));
        }
        self.start_listening()?;
        match std::mem::replace(&mut self.setup.run, RunSource::Told(Box::new(no_register))) {
            RunSource::Known(run) => self.join_run(run)?,
            RunSource::Fresh(run, open) => {
                self.setup.run = RunSource::Told(open);
                self.join_run(run)?;
            }
            told => self.setup.run = told,
        }
        let lower: Vec<(NodeId, String)> = self
            .setup
            .nodes
            .range(..self.setup.node)
            .map(|(&node, address)| (node, address.clone()))
            .collect();
        self.find_run();
        for (node, address) in lower {
            let hello = self.hello(Purpose::Control, node, None);
            let deadline = self.started + self.setup.config.connect_limit;
            self.dialling.insert(node);
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
        let (identity, strangers) = (self.identity(), self.setup.strangers.clone());
        let on_inbound = move |connection: Inbound| {
            // Peers with another job do not concern the loop, so a flood of them does not either.
            let reason = identity.check(&connection.hello).err();
            let Some(reason @ Refusal::OtherJob) = reason else {
                return drop(inbound.send(NodeEvent::Inbound(connection)));
            };
            if strangers.is_told(reason.kind()) {
                let _ = inbound.try_send(NodeEvent::Refused {
                    peer: connection.peer_addr.to_string(),
                    reason: identity.explain(&reason, &connection.hello),
                });
            }
            let _ = connection.refuse(reason);
        };
        let strangers = self.setup.strangers.clone();
        let on_refused = move |connection: RefusedConnection| {
            if strangers.is_told(connection.kind.words()) {
                let peer = connection.peer_addr.map_or_else(String::new, |addr| addr.to_string());
                let _ = refused.try_send(NodeEvent::Refused { peer, reason: connection.text });
            }
        };
        let limits = ListenerLimits::default();
        let listener = Listener::start(listener, limits, on_inbound, on_refused);
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
                self.durable_tick()?;
                self.tell_strangers(false);
                progress_at = now + PROGRESS_INTERVAL;
            }
            self.close_if_due()?;
            let forming_until = self.started + self.setup.config.connect_limit;
            let is_waiting = self.is_joining() || self.is_loading();
            if self.current.is_none() && !is_waiting && now >= forming_until {
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
            NodeEvent::Refused { peer, reason } => {
                self.tell(What::Refused { peer, reason, more: 0 });
                Ok(())
            }
            NodeEvent::Dialled { node, result } => self.on_dialled(node, result),
            NodeEvent::Found { result } => self.on_found(result),
            NodeEvent::Linked { view, node, result } => match result {
                Ok((stream, _welcome)) => self.on_link(view, node, stream),
                Err(error) => {
                    if matches!(error, DialError::Refused { .. }) {
                        self.refused_by = Some(node);
                    }
                    self.step(Input::ConnectFailed { view, node, why: error.to_string() })
                }
            },
            // An earlier start may still have something on its way.
            NodeEvent::Control { node, incarnation, .. }
                if self.controls.get(&node).is_none_or(|(known, _)| *known != incarnation) =>
            {
                Ok(())
            }
            NodeEvent::Control { node, event: ControlEvent::Message(message, _held), .. } => {
                if let Message::Received { view, bytes } = &message
                    && let Some(current) = self.current.as_mut().filter(|_| self.present.is(*view))
                {
                    current.watches.received(node, *bytes);
                }
                self.on_catalogue(node, &message)?;
                self.on_dropped_there(node, &message);
                self.on_durable_message(node, &message)?;
                self.step(Input::Message { from: node, message })
            }
            NodeEvent::Control { node, incarnation, event: ControlEvent::Lost(why) } => {
                // Those who are not in a view together may connect anew.
                if !self.is_member(node, incarnation) {
                    self.controls.remove(&node);
                    self.tell_gone_early(node);
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
            NodeEvent::Register(reply) => {
                if !matches!(reply, RegisterReply::Unavailable { .. }) {
                    self.tell_register_back();
                }
                self.step(Input::Register(reply))
            }
            NodeEvent::Loaded(loaded) => self.on_loaded(loaded),
            NodeEvent::Written(outcome) => self.on_durable_outcome(outcome),
            NodeEvent::Fault(FaultKind::Panic) => {
                if let Some(running) = self.running() {
                    running.shared.panic_next();
                }
                Ok(())
            }
            // All other faults come from outside, by a launcher.
            NodeEvent::Fault(_) => Ok(()),
            NodeEvent::Interrupted(signal) => {
                let text = format!("interrupted by {signal}: this node has left the run");
                Err(Error::new(Kind::Interrupted, text))
            }
        }
    }

    /// Leaves at once: it first tells the others that it is gone, and then waits only briefly for its
    /// workers, which may be in the job's own code for arbitrarily long.
    fn leave(&mut self) {
        let until = Instant::now() + LEAVE_LIMIT;
        for (_, connection) in self.controls.values() {
            // A peer that does not receive the farewell sees the end.
            if Instant::now() < until {
                connection.close();
            }
        }
        self.controls.clear();
        if let Some(running) = self.running() {
            running.stop();
        }
        self.await_joined(LEAVE_LIMIT);
        if let Some(listener) = self.listener.take() {
            listener.shutdown();
        }
    }

    /// Ends the remaining threads and connections, and lets the sinks finish.
    fn close(&mut self, finished: bool) -> Result<()> {
        if !finished && let Some(running) = self.running() {
            running.stop();
        }
        self.await_joined(JOIN_LIMIT);
        let mut cleaned = Ok(());
        if finished {
            cleaned = self.end_durable();
            for action in std::mem::take(&mut self.when_done) {
                let done = action().map_err(|error| {
                    Error::input("the job is done, but its output is not as it should be")
                        .because(error)
                });
                cleaned = cleaned.and(done);
            }
        }
        for (_, connection) in self.controls.values() {
            connection.close();
        }
        if let Some(listener) = self.listener.take() {
            listener.shutdown();
        }
        cleaned
    }

    /// Waits for the threads of the last generation: they may still be sending what peers need. Those that do
    /// not end in time are abandoned, since the process is about to end.
    fn await_joined(&mut self, limit: Duration) {
        self.join_until(Instant::now() + limit);
        if self.present.has_threads()
            && let Some(running) = self.generations.get_mut(&self.present.number())
        {
            running.abandon();
        }
    }

    fn join_until(&mut self, until: Instant) {
        let view = self.present.number();
        while self.present.has_threads() {
            let left = until.saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(left) {
                Ok(NodeEvent::Ended(ended)) if ended.view == view => {
                    if self.present.worker_ended(view, ended.worker, false).is_last {
                        self.join_threads(view);
                    }
                }
                Ok(NodeEvent::Joined { view: joined }) if joined == view => {
                    // Nobody asks for evidence any more.
                    let _ = self.present.joined(view);
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

fn incarnation_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Time distinguishes the starts of a node; two starts within one microsecond are impossible.
    now.unwrap_or_default().as_micros() as u64
}

fn no_register(_location: &str) -> Result<Run> {
    Err(Error::internal("the run is known already"))
}
