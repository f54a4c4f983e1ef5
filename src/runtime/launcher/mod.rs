//! The launcher: starts the node processes of `--local`, supervises them, and injects faults if requested.
//!
//! A node is this same program, started again with the same arguments and `NODE_VARIABLE` in its
//! environment. The launcher takes no part in the job: a run whose launcher is gone ends, and the nodes reach
//! all agreements without it.
//!
//! One loop owns the processes and decides; threads only read and put what they read into its inbox.
//! Since only the loop reaps processes, a signal can never hit another process with a reused number.

mod comebacks;
mod outputs;
mod process;
mod register;

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sys::signal::Signal;
use ringfence_operators::ids::{NodeId, named_nodes};

use super::channel::{self, Start, ToLauncher, ToNode};
use super::injector::{Deed, Injector, RunState};
use super::interrupts::Interrupts;
use super::memory_kills::MemoryKills;
use super::outlets::ProcessDesk;
use crate::chaos::{Fault, FaultKind};
use crate::config::{Config, Mode};
use crate::durable::resumption::Resumption;
use crate::error::{Error, Kind, Result};
use crate::network::Held;
use crate::report::{
    Cause, Clue, Component, Event, FailurePlace, FailureReport, Observation, Origin, Summary, What,
    now_ms,
};
use comebacks::Comebacks;
use process::Node;
use register::RegisterDirectory;

/// How long the end of a process may go unnoticed if its channel does not show it.
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long the output of an ended process is awaited, should a process of its own hold it open.
const OUTPUT_DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// What the inbox holds; when it is full, nodes wait with their events.
const INBOX_MAX: usize = 4_096;

/// Runs the nodes of a `--local` configuration and returns a summary of the run, and its failures.
///
/// It succeeds if at least one node finished, and every other node also finished, was ended by a signal, or
/// was excluded by the others. Otherwise the error names a node, how it ended, and the last thing that it
/// said. However this returns, no node process is left.
///
/// A fresh register directory is used unless the configuration names one; it is removed after a
/// success, and kept and named after a failure.
///
/// `turn` names the job among those of the program.
///
/// Must be called from a thread that outlives the call: nodes die with the thread that started them.
pub(crate) fn run(config: &Config, turn: Option<&str>) -> Result<(Summary, Vec<FailureReport>)> {
    let Mode::Local(nodes) = config.mode() else {
        return Err(Error::internal("the launcher runs where --local is given, and nowhere else"));
    };
    let desk = ProcessDesk::start(config, Origin::LAUNCHER, 1)?;
    let register = RegisterDirectory::of(config)?;
    let fresh = format!("{:x}-{:x}", now_ms() as u64, std::process::id());
    let run = Resumption::find(config, &fresh)?.map_or(fresh, |found| found.run);
    let (sender, inbox) = bounded(INBOX_MAX);
    let interrupted = sender.clone();
    let interrupts = Interrupts::watch(move |signal| {
        let _ = interrupted.send(Inbox::Interrupted(signal));
    })?;
    let mut launcher = Launcher {
        config,
        turn,
        register: &register,
        sender,
        run,
        has_begun: false,
        comebacks: Comebacks::new(config.node_restarts),
        nodes: Vec::with_capacity(nodes),
        inbox,
        injector: Injector::new(config),
        desk,
        memory_kills: MemoryKills::watch(),
        reaped_at: Instant::now(),
    };
    let result = launcher.run(nodes);
    launcher.nodes.iter_mut().for_each(Node::end);
    let told = launcher.desk.end(&result, launcher.injector.waiting());
    drop(interrupts);
    match result {
        Ok(()) => Ok(told),
        // Who ends a job on purpose does not look into it.
        Err(error) if error.kind() == Kind::Interrupted => Err(error),
        Err(error) => Err(register.keep(error)),
    }
}

/// What reaches the launcher's loop.
enum Inbox {
    /// A node says something; the bytes of it count until it is handled.
    Message(NodeId, ToLauncher, Held),
    ChannelEnded(NodeId, Option<String>),
    OutputEnded(NodeId),
    Interrupted(Signal),
}

struct Launcher<'a> {
    config: &'a Config,
    /// The job of the program that is run.
    turn: Option<&'a str>,
    register: &'a RegisterDirectory,
    /// For those who read what nodes say.
    sender: Sender<Inbox>,
    /// The run, once all nodes were let to begin.
    /// The id of the run.
    run: String,
    /// Whether the nodes were told to begin.
    has_begun: bool,
    comebacks: Comebacks,
    nodes: Vec<Node>,
    inbox: Receiver<Inbox>,
    injector: Injector,
    desk: ProcessDesk,
    memory_kills: MemoryKills,
    reaped_at: Instant,
}

impl Launcher<'_> {
    fn run(&mut self, nodes: usize) -> Result<()> {
        for index in 0..nodes {
            let (id, display) = (NodeId(index as u64), &self.desk.outlets().display);
            let node = Node::spawn(self.config, self.turn, id, None, display, &self.sender)?;
            self.nodes.push(node);
        }
        let deadline = Instant::now() + self.config.connect_limit;
        while self.nodes.iter().any(|node| node.status.is_none()) {
            self.step()?;
            if !self.has_begun {
                self.try_start(deadline)?;
            } else if !self.has_formed() {
                self.check_all_there()?;
            } else {
                self.bring_back()?;
            }
        }
        self.drain_outputs(|_| true)?;
        self.tell_ends(|_| true);
        self.verdict()
    }

    /// Whether the nodes have begun to work together.
    fn has_formed(&self) -> bool {
        let summary = self.desk.summary();
        summary.view().is_some() || summary.first_commit_ms().is_some()
    }

    /// The others do not wait for a node that ends before the first view: it had no work, so there is nothing
    /// with which they could continue.
    fn check_all_there(&mut self) -> Result<()> {
        if self.nodes.iter().all(|node| node.status.is_none()) {
            return Ok(());
        }
        // What it has told is still on its way here, perhaps.
        self.drain_outputs(|node| node.status.is_some())?;
        let finished = self.desk.summary().finished();
        let is_missing = |node: &&Node| node.status.is_some() && !finished.contains(&node.id);
        let missing = self.nodes.iter().filter(is_missing);
        match missing.max_by_key(|node| node.last_error.is_some()) {
            Some(node) if !self.has_formed() => {
                Err(Error::job(format!("{} before the first view", node.ending())))
            }
            _ => Ok(()),
        }
    }

    /// Waits for something to happen, and does what follows from it.
    fn step(&mut self) -> Result<()> {
        let wait = self.injector.next_due_in(now_ms(), self.desk.summary().first_commit_ms());
        match self.inbox.recv_timeout(wait.min(EXIT_POLL_INTERVAL)) {
            Ok(item) => self.handle(item)?,
            Err(RecvTimeoutError::Timeout) => {}
            // The interrupt watcher holds a sender forever.
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
            Inbox::Message(id, ToLauncher::Hello { address }, _held) => {
                self.node(id).address = Some(address);
                self.welcome_back(id);
                Ok(())
            }
            Inbox::Message(id, ToLauncher::Event(event), _held) => {
                if let What::Error { message, excluded } = &event.what {
                    let node = self.node(id);
                    node.last_error = Some(message.clone());
                    node.excluded = *excluded;
                }
                let silent = match &event.what {
                    What::Observed(seen) if seen.cause == Cause::Silent => seen.place.node,
                    _ => None,
                };
                self.publish(event);
                silent.into_iter().for_each(|node| self.look_at(node));
                Ok(())
            }
            Inbox::ChannelEnded(id, garbage) => {
                if let Some(garbage) = garbage {
                    let text =
                        format!("node {id} sent a message that cannot be understood: {garbage}");
                    self.say(text);
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
                let text = format!("interrupted by {signal}; all nodes were ended");
                Err(Error::new(Kind::Interrupted, text))
            }
        }
    }

    /// Lets all nodes begin as soon as the last one listens.
    fn try_start(&mut self, deadline: Instant) -> Result<()> {
        if let Some(index) = self.nodes.iter().position(|node| node.status.is_some()) {
            self.drain_outputs(|node| node.status.is_some())?;
            let ended = &self.nodes[index];
            let advice = if ended.status.is_some_and(|status| status.success()) {
                ": its program came to an end without this job; its arguments must lead it to the same call \
                 of execute, with the same closure"
            } else {
                ""
            };
            return Err(Error::job(format!("{} before all nodes were up{advice}", ended.ending())));
        }
        let missing: Vec<_> = self.nodes.iter().filter(|node| node.address.is_none()).collect();
        if missing.is_empty() {
            let address = |node: &Node| (node.id, node.address.clone().unwrap_or_default());
            let addresses: Vec<(NodeId, String)> = self.nodes.iter().map(address).collect();
            self.injector.stand_between(&addresses)?;
            for node in &self.nodes {
                let start = self.start_of(node.id, false);
                // A node that is gone already is noticed by the next look at it.
                let _ = channel::send(&node.channel, &start);
            }
            self.has_begun = true;
        } else if Instant::now() > deadline {
            let missing: Vec<NodeId> = missing.iter().map(|node| node.id).collect();
            let limit_ms = self.config.connect_limit.as_millis();
            let names = named_nodes(&missing);
            return Err(Error::new(Kind::Network, format!("not up after {limit_ms} ms: {names}")));
        }
        Ok(())
    }

    fn inject_due(&mut self) -> Result<()> {
        let members = self.desk.summary().members();
        let lives = |node: &&Node| node.status.is_none() && members.contains(&node.id);
        let standing = RunState {
            now_ms: now_ms(),
            first_commit_ms: self.desk.summary().first_commit_ms(),
            fraction: self.desk.summary().fraction(),
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
            self.say(text);
            return Ok(());
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
        self.publish(Event::at(at_ms, Origin::LAUNCHER, what));
        let replay = self.injector.replay_of(&fault);
        replay.into_iter().for_each(|text| self.say(text));
        Ok(())
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
        self.say(text);
        Ok(())
    }

    /// Checks whether processes have ended: all of them, or one whose channel says that it is about to end.
    fn reap(&mut self, only: Option<NodeId>) -> Result<()> {
        for node in &mut self.nodes {
            if only.is_none_or(|id| id == node.id) {
                node.reap()?;
            }
        }
        self.tell_ends(|node| node.channel_ended);
        Ok(())
    }

    /// Checks whether the process of a node that others do not hear is stopped.
    fn look_at(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id.0 as usize).filter(|node| node.status.is_none()) else {
            return;
        };
        if let Some(state @ ('T' | 't')) = node.state() {
            let seen = Observation {
                view: self.desk.summary().view().unwrap_or_default(),
                component: Component::Process,
                place: FailurePlace::node(id),
                cause: Cause::Hung,
                evidence: vec![Clue::ProcessState { state }],
            };
            self.publish(Event::now(Origin::LAUNCHER, What::Observed(Box::new(seen))));
        }
    }

    /// Reports the ends of processes, once they can send nothing more themselves.
    fn tell_ends(&mut self, is_due: impl Fn(&Node) -> bool) {
        let mut ended = Vec::new();
        let view = self.desk.summary().view().unwrap_or_default();
        for node in self.nodes.iter_mut().filter(|node| is_due(node) && !node.end_told) {
            node.end_told = node.status.is_some();
            if node.status.is_some_and(|status| !status.success()) {
                // What it said is told already.
                ended.push(What::Message { text: node.how_it_ended() });
                let seen = node.observed_end(view, &mut self.memory_kills);
                ended.extend(seen.map(|seen| What::Observed(Box::new(seen))));
            }
        }
        ended.into_iter().for_each(|what| self.publish(Event::now(Origin::LAUNCHER, what)));
    }

    /// Handles the remaining output of ended nodes.
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
        let members = self.desk.summary().members();
        let is_left =
            |node: &Node| node.excluded || (!members.is_empty() && !members.contains(&node.id));
        let failed = |node: &&Node| {
            let has_failed = |status: ExitStatus| status.code().is_some_and(|code| code != 0);
            !is_left(node) && !node.was_in_vain && node.status.is_some_and(has_failed)
        };
        // The node that ended the job says why; the others say that and which node it was, which is longer.
        let said = |node: &&Node| node.last_error.as_ref().map_or(usize::MAX, String::len);
        let blamed = self.nodes.iter().filter(failed).min_by_key(said);
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
    fn publish(&mut self, event: Event) {
        let alive = self.nodes.iter().filter(|node| node.status.is_none()).count();
        self.desk.publish(event, alive);
    }

    /// Prints a line from the launcher itself.
    fn say(&mut self, text: String) {
        self.publish(Event::now(Origin::LAUNCHER, What::Message { text }));
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}

#[cfg(test)]
mod tests;
