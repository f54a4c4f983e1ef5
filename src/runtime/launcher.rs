//! The launcher: starts the node processes of `--local`, watches over them, and makes them fail on
//! purpose where that was asked for.
//!
//! A node is this same program, started again with the same arguments and [`NODE_VARIABLE`] in its
//! environment. The launcher has no part in the job: a run whose launcher is gone ends, and whatever
//! the nodes agree on they agree on without it.
//!
//! One loop owns the processes and decides; threads only read and put what they read into its inbox.
//! Since the loop alone reaps processes, a signal can never hit a stranger with a reused number.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use ringfence_operators::ids::{NodeId, ViewNumber};
use ringfence_operators::text::cut;

use super::channel::{self, Start, ToLauncher, ToNode};
use super::injector::{Deed, Injector, Standing};
use super::lines::{each_cut_line, each_line};
use super::memory_kills::MemoryKills;
use crate::chaos::{Fault, FaultKind};
use crate::config::{Config, Mode, NODE_VARIABLE};
use crate::error::{Error, Kind, Result};
use crate::report::{
    Cause, Clue, Component, Console, Event, FailureLedger, FailurePlace, FailureReport,
    Observation, Origin, ReportFile, Summary, What, now_ms,
};

/// How long the end of a process may go unnoticed where its channel does not tell of it.
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long the output of an ended process is awaited, should a process of its own hold it open.
const OUTPUT_DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// What the inbox holds; when it is full, nodes wait with their events.
const INBOX_MAX: usize = 4_096;

/// The exit code after an interrupt that came when the launcher had already ended its work.
const EXIT_INTERRUPTED: i32 = 130;

/// Runs the nodes of a `--local` configuration and returns what the run came to.
///
/// It succeeds if at least one node finished and every other one did too, was ended by a signal, or
/// was left behind by the others.
/// Otherwise the error names a node, how it ended, and the last that it said. However this returns,
/// no node process is left.
///
/// A fresh register directory is used unless the configuration names one; it is removed after a
/// success, and kept and named after a failure.
///
/// Must be called from a thread that outlives the call: nodes die with the thread that started them.
pub fn run(config: &Config) -> Result<Summary> {
    run_and_report(config).map(|(summary, _failures)| summary)
}

/// Like [`run`], and returns the failures besides.
pub(crate) fn run_and_report(config: &Config) -> Result<(Summary, Vec<FailureReport>)> {
    let Mode::Local(nodes) = config.mode() else {
        return Err(Error::internal("the launcher runs where --local is given, and nowhere else"));
    };
    let report = config.report_path().map(ReportFile::open).transpose()?;
    let register = RegisterDirectory::of(config)?;
    let (sender, inbox) = bounded(INBOX_MAX);
    let interrupts = Interrupts::watch(sender.clone())?;
    let mut launcher = Launcher {
        nodes: Vec::with_capacity(nodes),
        inbox,
        injector: Injector::new(config),
        summary: Summary::new(),
        config: config.clone(),
        ledger: FailureLedger::new(),
        memory_kills: MemoryKills::watch(),
        console: Console::new(),
        report,
        started: false,
        reaped_at: Instant::now(),
    };
    let result = launcher.run(config, nodes, &register, sender);
    launcher.end_all();
    launcher.summary.set_faults_unfired(launcher.injector.waiting());
    let error = result.as_ref().err().map(ToString::to_string);
    let reports = launcher.ledger.finish(error.as_deref());
    let result = result.and(launcher.report(reports));
    launcher.console.finish();
    drop(interrupts);
    match result {
        Ok(()) => Ok((launcher.summary, launcher.ledger.reports().to_vec())),
        Err(error) => Err(register.keep(error)),
    }
}

/// One node process.
struct Node {
    id: NodeId,
    child: Child,
    channel: UnixStream,
    address: Option<String>,
    status: Option<ExitStatus>,
    /// Whether it was killed on purpose.
    is_killed: bool,
    /// The last that it said about itself: an error event, or else a line on standard error.
    last_error: Option<String>,
    last_line: Arc<Mutex<String>>,
    /// Whether it has said that the others went on without it.
    excluded: bool,
    /// What it may still be heard through: two outputs and its channel.
    outputs_open: usize,
    /// Whether all that it had to tell is told.
    channel_ended: bool,
    end_told: bool,
}

/// What reaches the launcher's loop.
enum Inbox {
    Message(NodeId, ToLauncher),
    ChannelEnded(NodeId, Option<String>),
    OutputEnded(NodeId),
    Interrupted(Signal),
}

struct Launcher {
    nodes: Vec<Node>,
    inbox: Receiver<Inbox>,
    injector: Injector,
    summary: Summary,
    config: Config,
    ledger: FailureLedger,
    memory_kills: MemoryKills,
    console: Console,
    report: Option<ReportFile>,
    started: bool,
    reaped_at: Instant,
}

impl Launcher {
    fn run(
        &mut self,
        config: &Config,
        nodes: usize,
        register: &RegisterDirectory,
        sender: Sender<Inbox>,
    ) -> Result<()> {
        for index in 0..nodes {
            self.nodes.push(spawn(config, NodeId(index as u64), &self.console, &sender)?);
        }
        let deadline = Instant::now() + config.connect_limit();
        while self.nodes.iter().any(|node| node.status.is_none()) {
            self.step()?;
            if !self.started {
                self.try_start(register, deadline, config.connect_limit())?;
            }
        }
        self.drain_outputs(|_| true)?;
        self.tell_ends(|_| true)?;
        self.verdict()
    }

    /// Waits for something to happen, and does what follows from it.
    fn step(&mut self) -> Result<()> {
        let wait = self.injector.next_due_in(now_ms(), self.summary.first_commit_ms());
        match self.inbox.recv_timeout(wait.min(EXIT_POLL_INTERVAL)) {
            Ok(item) => self.handle(item)?,
            Err(RecvTimeoutError::Timeout) => {}
            // The interrupt watcher holds a sender for ever.
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::internal("the launcher's inbox is closed"));
            }
        }
        if self.reaped_at.elapsed() >= EXIT_POLL_INTERVAL {
            self.reap(None)?;
            self.reaped_at = Instant::now();
        }
        self.inject_due()
    }

    fn handle(&mut self, item: Inbox) -> Result<()> {
        match item {
            Inbox::Message(id, ToLauncher::Hello { address }) => {
                self.node(id).address = Some(address);
                Ok(())
            }
            Inbox::Message(id, ToLauncher::Event(event)) => {
                if let What::Error { message, excluded } = &event.what {
                    let node = self.node(id);
                    node.last_error = Some(message.clone());
                    node.excluded = *excluded;
                }
                let silent = match &event.what {
                    What::Observed(seen) if seen.cause == Cause::Silent => seen.place.node,
                    _ => None,
                };
                self.publish(event)?;
                silent.map_or(Ok(()), |node| self.look_at(node))
            }
            Inbox::ChannelEnded(id, garbage) => {
                if let Some(garbage) = garbage {
                    let text = format!("node {id} sent what cannot be understood: {garbage}");
                    self.publish(Event::now(Origin::LAUNCHER, What::Message { text }))?;
                }
                let node = self.node(id);
                node.channel_ended = true;
                node.outputs_open -= 1;
                self.reap(Some(id))
            }
            Inbox::OutputEnded(id) => {
                self.node(id).outputs_open -= 1;
                Ok(())
            }
            Inbox::Interrupted(signal) => {
                Err(Error::job(format!("interrupted by {signal}; all nodes were ended")))
            }
        }
    }

    /// Lets all nodes begin as soon as the last one listens.
    fn try_start(
        &mut self,
        register: &RegisterDirectory,
        deadline: Instant,
        limit: Duration,
    ) -> Result<()> {
        if let Some(index) = self.nodes.iter().position(|node| node.status.is_some()) {
            self.drain_outputs(|node| node.status.is_some())?;
            let how = self.nodes[index].ending();
            return Err(Error::job(format!("{how} before all nodes were up")));
        }
        let missing: Vec<_> = self.nodes.iter().filter(|node| node.address.is_none()).collect();
        if missing.is_empty() {
            let address = |node: &Node| (node.id, node.address.clone().unwrap_or_default());
            let addresses: Vec<(NodeId, String)> = self.nodes.iter().map(address).collect();
            self.injector.stand_between(&addresses)?;
            let run = format!("{:x}-{:x}", now_ms() as u64, std::process::id());
            for node in &self.nodes {
                let start = ToNode::Start(Start {
                    run: run.clone(),
                    register: register.path(),
                    peers: self.injector.addresses_for(node.id, &addresses),
                    launcher_process_id: std::process::id(),
                });
                // A node that is gone already is noticed by the next look at it.
                let _ = channel::send(&node.channel, &start);
            }
            self.started = true;
        } else if Instant::now() > deadline {
            let names: Vec<String> = missing.iter().map(|node| node.id.to_string()).collect();
            return Err(Error::new(
                Kind::Network,
                format!("node(s) {} were not up after {} ms", names.join(", "), limit.as_millis()),
            ));
        }
        Ok(())
    }

    fn inject_due(&mut self) -> Result<()> {
        let members = self.summary.members();
        let lives = |node: &&Node| node.status.is_none() && members.contains(&node.id);
        let standing = Standing {
            now_ms: now_ms(),
            first_commit_ms: self.summary.first_commit_ms(),
            fraction: self.summary.fraction(),
            nodes: self.nodes.iter().map(|node| node.id).collect(),
            present: self.nodes.iter().filter(lives).map(|node| node.id).collect(),
        };
        for deed in self.injector.due(&standing) {
            match deed {
                Deed::Begin(fault) => self.inject(fault)?,
                Deed::End(fault) => self.end_fault(fault)?,
            }
        }
        Ok(())
    }

    fn inject(&mut self, fault: Fault) -> Result<()> {
        self.reap(Some(fault.node))?;
        if self.node(fault.node).status.is_some() {
            let text = format!("fault {fault} was not needed: node {} has ended", fault.node);
            return self.publish(Event::now(Origin::LAUNCHER, What::Message { text }));
        }
        let at_ms = now_ms();
        let node = &mut self.nodes[fault.node.0 as usize];
        // Done before it is told, so that telling does not stand between the stamp and the deed.
        let result = match fault.kind {
            FaultKind::Kill => {
                node.is_killed = true;
                node.child.kill()
            }
            FaultKind::Panic => channel::send(&node.channel, &ToNode::Fault(fault.kind)),
            FaultKind::Stop => node.signal(Signal::SIGSTOP),
            FaultKind::Cut | FaultKind::Slow => {
                self.injector.disturb(Deed::Begin(fault));
                Ok(())
            }
        };
        result.map_err(|e| Error::internal(format!("fault {fault} failed")).because(e))?;
        let until_ms = self.injector.has_begun(fault, at_ms);
        let what = What::Fault { kind: fault.kind, target: fault.node, until_ms };
        self.publish(Event::at(at_ms, Origin::LAUNCHER, what))?;
        let Some(text) = self.injector.replay_of(&fault) else { return Ok(()) };
        self.publish(Event::now(Origin::LAUNCHER, What::Message { text }))
    }

    /// Undoes a fault whose time has passed.
    fn end_fault(&mut self, fault: Fault) -> Result<()> {
        let id = fault.node;
        let text = match fault.kind {
            FaultKind::Kill | FaultKind::Panic => return Ok(()),
            FaultKind::Stop => {
                self.reap(Some(id))?;
                if self.node(id).status.is_some() || self.injector.is_held(id, fault.kind) {
                    return Ok(());
                }
                let result = self.node(id).signal(Signal::SIGCONT);
                result.map_err(|error| {
                    Error::internal(format!("cannot continue node {id}")).because(error)
                })?;
                format!("node {id} goes on (SIGCONT)")
            }
            FaultKind::Cut => format!("node {id} is no longer cut off"),
            FaultKind::Slow => format!("node {id} is no longer slowed down"),
        };
        self.injector.disturb(Deed::End(fault));
        self.publish(Event::now(Origin::LAUNCHER, What::Message { text }))
    }

    /// Looks whether processes have ended: all, or one whose channel says that it is about to.
    fn reap(&mut self, only: Option<NodeId>) -> Result<()> {
        for node in &mut self.nodes {
            if node.status.is_none() && only.is_none_or(|id| id == node.id) {
                node.status = node.child.try_wait().map_err(|error| {
                    Error::internal(format!("cannot wait for node {}", node.id)).because(error)
                })?;
            }
        }
        self.tell_ends(|node| node.channel_ended)
    }

    /// Looks whether the process of a node that others do not hear is stopped.
    fn look_at(&mut self, id: NodeId) -> Result<()> {
        let Some(node) = self.nodes.get(id.0 as usize).filter(|node| node.status.is_none()) else {
            return Ok(());
        };
        match process_state(node.child.id()) {
            Some(state @ ('T' | 't')) => {
                let seen = Observation {
                    view: self.summary.view().unwrap_or_default(),
                    component: Component::Process,
                    place: FailurePlace::node(id),
                    cause: Cause::Hung,
                    evidence: vec![Clue::ProcessState { state }],
                };
                self.publish(Event::now(Origin::LAUNCHER, What::Observed(Box::new(seen))))
            }
            _ => Ok(()),
        }
    }

    /// Tells of the ends of processes, once they cannot say anything more themselves.
    fn tell_ends(&mut self, is_due: impl Fn(&Node) -> bool) -> Result<()> {
        let mut ended = Vec::new();
        let view = self.summary.view().unwrap_or_default();
        for node in self.nodes.iter_mut().filter(|node| is_due(node) && !node.end_told) {
            node.end_told = node.status.is_some();
            if node.status.is_some_and(|status| !status.success()) {
                ended.push(What::Message { text: node.ending() });
                let seen = node.observed_end(view, &mut self.memory_kills);
                ended.extend(seen.map(|seen| What::Observed(Box::new(seen))));
            }
        }
        ended.into_iter().try_for_each(|what| self.publish(Event::now(Origin::LAUNCHER, what)))
    }

    /// Takes in what ended nodes still had to say.
    fn drain_outputs(&mut self, of: impl Fn(&Node) -> bool) -> Result<()> {
        let deadline = Instant::now() + OUTPUT_DRAIN_LIMIT;
        while self.nodes.iter().any(|node| of(node) && node.outputs_open > 0) {
            match self.inbox.recv_deadline(deadline) {
                Ok(item) => self.handle(item)?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn verdict(&mut self) -> Result<()> {
        // A node that the others went on without is a part of the failure that they survived, whether
        // it has learned that or has ended by something else before.
        let members = self.summary.members();
        let is_left =
            |node: &Node| node.excluded || (!members.is_empty() && !members.contains(&node.id));
        let failed = |node: &&Node| {
            let has_failed = |status: ExitStatus| status.code().is_some_and(|code| code != 0);
            !is_left(node) && node.status.is_some_and(has_failed)
        };
        // The first node to say an error is likelier to be the cause than the first in number.
        let blamed = self.nodes.iter().filter(failed).max_by_key(|node| node.last_error.is_some());
        if let Some(node) = blamed {
            return Err(Error::job(node.ending()));
        }
        if !self.nodes.iter().any(|node| node.status.is_some_and(|status| status.success())) {
            let endings: Vec<String> = self.nodes.iter().map(Node::ending).collect();
            return Err(Error::job(format!("no node finished: {}", endings.join("; "))));
        }
        Ok(())
    }

    /// Writes, folds and tells `event`.
    fn publish(&mut self, mut event: Event) -> Result<()> {
        self.summary.complete(&mut event);
        self.summary.fold(&event);
        self.write(&event)?;
        let reports = self.ledger.fold(&event);
        self.report(reports)
    }

    /// Tells everybody of failures whose reports are complete.
    fn report(&mut self, reports: Vec<FailureReport>) -> Result<()> {
        reports.into_iter().try_for_each(|report| {
            self.config.tell_failure(&report);
            self.write(&Event::now(Origin::LAUNCHER, What::FailureReport(Box::new(report))))
        })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        if let Some(report) = &mut self.report {
            report.append(event)?;
        }
        let alive = self.nodes.iter().filter(|node| node.status.is_none()).count();
        self.console.tell(event, &self.summary, alive);
        Ok(())
    }

    fn end_all(&mut self) {
        for node in &mut self.nodes {
            if node.status.is_none() {
                // Either fails only where the process is gone already.
                let _ = node.child.kill();
                let _ = node.child.wait();
            }
        }
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}

impl Node {
    /// What its status shows of a failure.
    ///
    /// An exit code before the first view is an error of the start, which speaks for itself.
    fn observed_end(
        &self,
        view: ViewNumber,
        memory_kills: &mut MemoryKills,
    ) -> Option<Observation> {
        let status = self.status?;
        let mut evidence = Vec::new();
        let cause = match (status.code(), status.signal()) {
            (Some(_), _) if view == ViewNumber(0) => return None,
            (Some(code), _) => {
                evidence.push(Clue::ExitCode { code });
                evidence.extend(self.last_error.clone().map(|text| Clue::Error { text }));
                Cause::Exited
            }
            (None, Some(number)) => {
                let name = Signal::try_from(number).map_or_else(
                    |_| format!("signal {number}"),
                    |signal| signal.as_str().to_owned(),
                );
                evidence.push(Clue::Signal { number, name });
                let kills = memory_kills.since_last();
                match kills.filter(|_| number == Signal::SIGKILL as i32 && !self.is_killed) {
                    Some((kills, counted_by)) => {
                        let counted_by = counted_by.to_owned();
                        evidence.push(Clue::OutOfMemoryKills { kills, counted_by });
                        Cause::OutOfMemory
                    }
                    None => Cause::Killed,
                }
            }
            (None, None) => Cause::Exited,
        };
        Some(Observation {
            view,
            component: Component::Process,
            place: FailurePlace::node(self.id),
            cause,
            evidence,
        })
    }

    /// Sends `signal` to the process, which must not have been reaped.
    fn signal(&self, signal: Signal) -> std::io::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// How it ended, and the last that it said.
    fn ending(&self) -> String {
        let how = match self.status {
            None => "is still running".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => match Signal::try_from(signal) {
                    Ok(signal) => format!("was ended by {signal}"),
                    Err(_) => format!("was ended by signal {signal}"),
                },
                (None, None) => format!("ended: {status}"),
            },
        };
        let line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said = self.last_error.clone().unwrap_or(line);
        let said = if said.is_empty() { said } else { format!(": {said}") };
        format!("node {} {how}{said}", self.id)
    }
}

/// The one-letter state of a process, where the system has a `/proc`.
fn process_state(process_id: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
    // The name before it stands in parentheses and may hold anything, parentheses too.
    text.rsplit_once(") ")?.1.chars().next()
}

fn spawn(config: &Config, id: NodeId, console: &Console, sender: &Sender<Inbox>) -> Result<Node> {
    let cannot = |error: std::io::Error| {
        Error::internal(format!("cannot start the process of node {id}")).because(error)
    };
    let (channel, theirs) = UnixStream::pair().map_err(cannot)?;
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    match config.node_arguments() {
        Some(args) => command.args(args),
        None => command.args(std::env::args_os().skip(1)),
    };
    let mut child = command
        .env(NODE_VARIABLE, id.to_string())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let last_line = Arc::default();
    let node = Node {
        id,
        child,
        channel,
        address: None,
        status: None,
        is_killed: false,
        last_error: None,
        last_line: Arc::clone(&last_line),
        excluded: false,
        outputs_open: 3,
        channel_ended: false,
        end_told: false,
    };
    let forward = (stdout.map(Output::Standard), stderr.map(Output::Error));
    start_readers(&node, forward, console, sender).map(|()| node).map_err(cannot)
}

/// The pipes of a node, by what they are for.
enum Output {
    Standard(std::process::ChildStdout),
    Error(std::process::ChildStderr),
}

fn start_readers(
    node: &Node,
    outputs: (Option<Output>, Option<Output>),
    console: &Console,
    sender: &Sender<Inbox>,
) -> std::io::Result<()> {
    let id = node.id;
    let (stream, inbox) = (node.channel.try_clone()?, sender.clone());
    thread::Builder::new().name(format!("ringfence:channel-{id}")).spawn(move || {
        let result = channel::receive(stream, |message| {
            // Nobody listens any more once the launcher is done.
            let _ = inbox.send(Inbox::Message(id, message));
        });
        // A connection that broke ends like one that was closed; only garbage is worth a word.
        let garbage = result.err().filter(|e| e.get_ref().is_some()).map(|e| e.to_string());
        let _ = inbox.send(Inbox::ChannelEnded(id, garbage));
    })?;
    for output in [outputs.0, outputs.1].into_iter().flatten() {
        let (console, inbox) = (console.clone(), sender.clone());
        let last_line = Arc::clone(&node.last_line);
        thread::Builder::new().name(format!("ringfence:output-{id}")).spawn(move || {
            let prefix = format!("[node {id}] ");
            match output {
                Output::Standard(pipe) => {
                    each_line(pipe, |line| console.forward_output(&prefix, line));
                }
                Output::Error(pipe) => each_cut_line(pipe, |line| {
                    console.forward_error(&prefix, line);
                    let text = cut(String::from_utf8_lossy(line).trim().to_owned());
                    if !text.is_empty() {
                        *last_line.lock().unwrap_or_else(PoisonError::into_inner) = text;
                    }
                }),
            }
            let _ = inbox.send(Inbox::OutputEnded(id));
        })?;
    }
    Ok(())
}

/// Where the views of a run are kept.
enum RegisterDirectory {
    Named(PathBuf),
    Fresh(tempfile::TempDir),
}

impl RegisterDirectory {
    fn of(config: &Config) -> Result<Self> {
        if let Some(path) = config.register_path() {
            return Ok(RegisterDirectory::Named(path.to_owned()));
        }
        let fresh = tempfile::Builder::new().prefix("ringfence-register-").tempdir();
        fresh.map(RegisterDirectory::Fresh).map_err(|error| {
            let text = "cannot create a directory for the register";
            Error::new(Kind::Register, text).because(error)
        })
    }

    fn path(&self) -> PathBuf {
        match self {
            RegisterDirectory::Named(path) => path.clone(),
            RegisterDirectory::Fresh(fresh) => fresh.path().to_owned(),
        }
    }

    /// Keeps a register that holds something for whoever looks into `error`.
    fn keep(self, error: Error) -> Error {
        let used = std::fs::read_dir(self.path()).is_ok_and(|mut entries| entries.next().is_some());
        match self {
            RegisterDirectory::Fresh(fresh) if used => {
                let path = fresh.keep();
                error.noting(&format!("the register is kept in {}", path.display()))
            }
            _ => error,
        }
    }
}

/// Turns an interrupt from the terminal, or a request to terminate, into a message to the loop.
///
/// The signals are blocked in this thread, and in those that it starts from here on; node processes
/// start without the block. Dropping this lets the signals through again.
///
/// SUBTLE: in a program that has started other threads before, the kernel may give the signal to one
/// of those, and then it ends the launcher at once. The nodes end all the same, since their channel
/// does; only the fresh register directory is left behind.
struct Interrupts {
    blocked: SigSet,
    over: Arc<AtomicBool>,
}

impl Interrupts {
    fn watch(inbox: Sender<Inbox>) -> Result<Self> {
        let blocked = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        let cannot = |error| Error::internal("cannot block signals").because(error);
        blocked.thread_block().map_err(cannot)?;
        let over = Arc::new(AtomicBool::new(false));
        let (signals, is_over) = (blocked, Arc::clone(&over));
        let watch = move || {
            while let Ok(signal) = signals.wait() {
                if is_over.load(Ordering::SeqCst) {
                    std::process::exit(EXIT_INTERRUPTED);
                }
                let _ = inbox.send(Inbox::Interrupted(signal));
            }
        };
        let thread = thread::Builder::new().name("ringfence:interrupts".to_owned()).spawn(watch);
        thread.map_err(|error| Error::internal("cannot start a thread").because(error))?;
        Ok(Interrupts { blocked, over })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Fails for a signal set that is no set; it was one when they were blocked.
        let _ = self.blocked.thread_unblock();
    }
}

#[cfg(test)]
#[path = "launcher_tests.rs"]
mod tests;
