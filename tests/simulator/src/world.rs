//! World: the nodes of one simulated run, the queue of what is to happen, and virtual time.
//!
//! Everything is decided by the seed: who is slow, what overtakes what, when something fails. A
//! message of one connection never overtakes another of the same connection, since a connection keeps
//! order; between connections there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringfence_operators::fence::generation::Clock;
use ringfence_operators::ids::{Incarnation, NodeId, ViewNumber};

use super::chance::Chance;
use super::faults::{Fault, FaultCounts};
use super::ledger::Reports;
use super::network::Network;
use super::plant::Plant;
use super::process::{Dial, End, Process, ProcessId};
use super::program::Outside;
use super::shape::Shape;
use super::target::Target;
use super::trace::Trace;
use super::vault::WatchedVault;
use super::witness::Witness;
use ringfence::internals::protocol::invariants::OneViewPerNumber;
use ringfence::internals::protocol::member::{Machine, MemberConfig, Phase};
use ringfence::internals::protocol::message::{Input, Output};
use ringfence::internals::protocol::present::Present;
use ringfence::internals::protocol::view::{ClusterShape, View};
use ringfence::internals::register::{MemoryRegister, Register, RunRecord};
use ringfence::internals::witness::FailureAccount;

/// The id of every simulated run.
pub(super) const RUN: &str = "simulated";

/// More events than this without a commit mean that somebody is busy without end. How many a whole run may take
/// depends on its job: a long one with all scenes takes some 400,000, the longest more than a million.
const EVENTS_WITHOUT_COMMIT_MAX: u64 = 1_000_000;

/// How long the job may take to finish once nothing fails any more.
const LIVENESS_US: u64 = 300_000_000;

/// What is to happen at a process.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// Something on the node itself.
    Local(Input),
    /// Something on a control connection.
    Control(Input),
    /// A deadline of the protocol.
    Tick,
    /// A question reaches the register.
    Ask(Output),
    /// Somebody wants a data connection.
    Dial(Dial),
    /// A data connection stands.
    Linked { peer: ProcessId, view: ViewNumber },
    /// A data connection was refused, or took too long.
    NotLinked { peer: NodeId, view: ViewNumber, why: &'static str },
    /// Bytes came in on a data connection.
    Frames { from: NodeId, view: ViewNumber, bytes: Vec<u8>, sent: u64 },
    /// A data connection ended.
    LinkEnded { from: NodeId, view: ViewNumber },
    /// A worker runs.
    Step { view: ViewNumber },
    /// All threads of a generation have ended.
    Joined { view: ViewNumber },
    /// A process that hung goes on.
    Wake,
    /// The compactor runs.
    Compact,
    /// A worker learns that it is to leave, later than its node; or only with a planted bug.
    StopLate { view: ViewNumber },
    /// The vault closes, after evidence was given; only with a planted bug.
    CloseLate { view: ViewNumber },
}

/// One simulated run.
pub(super) struct World {
    pub(super) chance: Chance,
    pub(super) shape: Shape,
    pub(super) now_us: u64,
    pub(super) clock: Arc<AtomicU64>,
    sequence: u64,
    pub(super) queue: BTreeMap<(u64, u64), (ProcessId, Happening)>,
    /// The latest process of each node.
    pub(super) processes: BTreeMap<NodeId, Process>,
    starts: u64,
    pub(super) network: Network,
    pub(super) register: MemoryRegister,
    pub(super) views: BTreeMap<ViewNumber, View>,
    pub(super) believed: OneViewPerNumber,
    pub(super) witness: Witness,
    pub(super) target: Target,
    pub(super) outside: Outside,
    pub(super) plant: Option<Plant>,
    /// Whether faults are still injected.
    pub(super) faults: bool,
    pub(super) faults_left: u64,
    /// Whether a recovery was under way when the present event began.
    pub(super) recovering: bool,
    /// The nodes of which others may think for good reason that they are gone.
    pub(super) troubled: BTreeSet<NodeId>,
    pub(super) register_slow_until_us: u64,
    pub(super) counts: FaultCounts,
    pub(super) recoveries: BTreeSet<ViewNumber>,
    /// The views that were ended on purpose.
    pub(super) planned: BTreeSet<ViewNumber>,
    pub(super) trace: Trace,
    pub(super) broken: Option<String>,
    pub(super) events: u64,
    /// How many there had been when somebody last learned of a commit.
    pub(super) events_at_commit: u64,
    /// Views that a planted bug has put in the place of others.
    pub(super) reused: BTreeMap<ViewNumber, View>,
    /// Who is to be started again, and when.
    pub(super) absent: BTreeSet<(u64, ProcessId)>,
    /// The ends of processes that were started again.
    pub(super) former: Vec<(ProcessId, End)>,
    pub(super) reports: Reports,
}

/// The clock of one generation: virtual time since it was made.
struct VirtualClock {
    now_us: Arc<AtomicU64>,
    since_us: u64,
}

impl Clock for VirtualClock {
    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now_us.load(Ordering::Relaxed).saturating_sub(self.since_us))
    }

    fn is_virtual(&self) -> bool {
        true
    }
}

impl World {
    pub(super) fn new(seed: u64, plant: Option<Plant>, traced: bool) -> Self {
        let mut chance = Chance::new(seed);
        let shape = Shape::new(seed, &mut chance);
        let witness = Witness::default();
        witness.lock().plant = plant;
        let target = Target::new(witness.clone());
        let outside = Outside::new(witness.clone());
        let mut world = World {
            now_us: 0,
            clock: Arc::default(),
            sequence: 0,
            queue: BTreeMap::new(),
            processes: BTreeMap::new(),
            starts: 0,
            network: Network::default(),
            register: MemoryRegister::new(),
            views: BTreeMap::new(),
            believed: OneViewPerNumber::default(),
            witness,
            target,
            outside,
            plant,
            faults: true,
            faults_left: shape.faults_max,
            recovering: false,
            troubled: BTreeSet::new(),
            register_slow_until_us: 0,
            counts: FaultCounts::default(),
            recoveries: BTreeSet::new(),
            planned: BTreeSet::new(),
            trace: Trace::new(traced),
            broken: None,
            events: 0,
            events_at_commit: 0,
            reused: BTreeMap::new(),
            absent: BTreeSet::new(),
            former: Vec::new(),
            reports: Reports::new(seed.is_multiple_of(2)),
            chance,
            shape,
        };
        world.note(None, "shape", 0, |world| format!("{:?}", world.shape));
        let record = RunRecord {
            run: RUN.to_owned(),
            job: "the simulated job".to_owned(),
            cluster: ClusterShape {
                nodes: world.shape.nodes as u32,
                workers_per_node: 1,
                partitions: world.shape.partitions,
                backups: world.shape.backups,
            },
        };
        let opened = world.register.open_run(&record);
        debug_assert!(opened.is_ok(), "a fresh register opens: {opened:?}");
        for node in (0..world.shape.nodes).map(NodeId) {
            world.start(node, Incarnation(1));
        }
        world
    }

    /// Runs the safety phase with faults, then the liveness phase without.
    pub(super) fn run(&mut self) {
        let faults_us = self.shape.faults_us;
        self.drain(faults_us);
        self.calm();
        self.drain(faults_us + LIVENESS_US);
        if self.broken.is_none() {
            self.judge();
            self.judge_reports();
        }
    }

    fn drain(&mut self, until_us: u64) {
        while self.broken.is_none()
            && let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until_us)
        {
            let ((at_us, _), (id, happening)) = entry.remove_entry();
            self.now_us = at_us;
            self.clock.store(at_us, Ordering::Relaxed);
            self.events += 1;
            self.bring_back();
            if self.events - self.events_at_commit > EVENTS_WITHOUT_COMMIT_MAX {
                self.violate("liveness: somebody is busy without end".to_owned());
            }
            let Some(process) = self.alive(id) else { continue };
            if let Happening::Wake = happening {
                self.wake(id);
                continue;
            }
            // SUBTLE: what waits keeps its order, also against what comes at the very moment of waking.
            if process.hung_until_us > at_us || !process.backlog.is_empty() {
                if process.backlog.is_empty() {
                    let until_us = process.hung_until_us;
                    self.at(until_us, id, Happening::Wake);
                }
                if let Some(process) = self.alive(id) {
                    process.backlog.push(happening);
                }
                continue;
            }
            let worker_hung_until_us = process.worker_hung_until_us;
            if worker_hung_until_us > at_us && matches!(happening, Happening::Step { .. }) {
                self.at(worker_hung_until_us, id, happening);
                continue;
            }
            self.recovering = self.in_recovery();
            self.perhaps_fail(id);
            if self.alive(id).is_some() {
                self.happen(id, happening);
            }
            self.settle(id);
        }
        self.now_us = self.now_us.max(until_us.min(self.now_us));
    }

    /// A process that hung takes what has come in.
    fn wake(&mut self, id: ProcessId) {
        let now_us = self.now_us;
        let Some(process) = self.alive(id) else { return };
        // It may have been made to hang for longer.
        if process.hung_until_us > now_us {
            let until_us = process.hung_until_us;
            return self.at(until_us, id, Happening::Wake);
        }
        let backlog = std::mem::take(&mut process.backlog);
        // A real worker is a thread of its own: it may be quicker or slower than the node's loop.
        let head_start_us = if self.chance.one_in(2) { self.chance.below(50_000) } else { 0 };
        for happening in backlog {
            let is_data = matches!(
                happening,
                Happening::Frames { .. }
                    | Happening::LinkEnded { .. }
                    | Happening::Step { .. }
                    | Happening::Dial(_)
                    | Happening::Linked { .. }
                    | Happening::NotLinked { .. }
            );
            self.after(if is_data { 0 } else { head_start_us }, id, happening);
        }
        self.note(Some(id.node), "wake", 0, |_| "with all that has come in".to_owned());
    }

    /// What follows from any event: faults that fired inside it, and what it broke.
    fn settle(&mut self, id: ProcessId) {
        let fired = std::mem::take(&mut self.witness.lock().fired);
        for fault in fired {
            self.fired(fault, Some(id.node), String::new);
        }
        if let Some(broken) = self.witness.broken() {
            self.violate(broken);
        }
    }

    pub(super) fn violate(&mut self, what: String) {
        if self.broken.is_none() {
            self.note(None, "VIOLATION", 0, |_| what.clone());
            self.broken = Some(what);
        }
    }

    pub(super) fn note(
        &mut self,
        node: Option<NodeId>,
        what: &'static str,
        word: u64,
        words: impl FnOnce(&World) -> String,
    ) {
        let mut trace = std::mem::take(&mut self.trace);
        trace.note(self.now_us, node, what, word, || words(self));
        self.trace = trace;
    }

    pub(super) fn fired(
        &mut self,
        fault: Fault,
        node: Option<NodeId>,
        words: impl FnOnce() -> String,
    ) {
        self.counts.note(fault, self.recovering);
        if fault != Fault::Reordering {
            self.note(node, "FAULT", fault as u64, |_| format!("{fault:?} {}", words()));
        }
    }

    /// Whether somebody who has a view is not running it.
    pub(super) fn in_recovery(&self) -> bool {
        self.processes.values().filter(|process| process.is_alive()).any(|process| {
            let is_first = process.machine.view().is_none_or(|view| view.number.0 == 1);
            match process.machine.phase() {
                Phase::Installing => !is_first,
                Phase::Stopping { .. } | Phase::Gathering(_) | Phase::Proposing => true,
                _ => false,
            }
        })
    }

    /// How many processes were taken in.
    pub(super) fn joined(&self) -> u64 {
        let newcomers = |view: &View| {
            view.members.iter().filter(|member| view.is_newcomer(member.node)).count() as u64
        };
        self.views.values().map(newcomers).sum()
    }

    /// How many planned views moved partitions.
    pub(super) fn moved(&self) -> u64 {
        let pairs = self.views.values().zip(self.views.values().skip(1));
        let has_moved = |(before, after): &(&View, &View)| {
            after.planned && !before.assignment.moved(&after.assignment).is_empty()
        };
        pairs.filter(has_moved).count() as u64
    }

    // Time.

    pub(super) fn at(&mut self, at_us: u64, id: ProcessId, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at_us.max(self.now_us), self.sequence), (id, happening));
    }

    pub(super) fn after(&mut self, delay_us: u64, id: ProcessId, happening: Happening) {
        self.at(self.now_us + delay_us, id, happening);
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(VirtualClock { now_us: Arc::clone(&self.clock), since_us: self.now_us })
    }

    // Processes.

    pub(super) fn alive(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.processes.get_mut(&id.node).filter(|process| process.id == id && process.is_alive())
    }

    pub(super) fn alive_ids(&self) -> Vec<ProcessId> {
        let alive = self.processes.values().filter(|process| process.is_alive());
        alive.map(|process| process.id).collect()
    }

    /// Starts a process with empty memory, and connects it to all others.
    pub(super) fn start(&mut self, node: NodeId, incarnation: Incarnation) {
        self.starts += 1;
        let id = ProcessId { node, incarnation, start: self.starts };
        let config = MemberConfig {
            run: RUN.to_owned(),
            node,
            incarnation,
            address: address(id),
            nodes: (0..self.shape.nodes).map(NodeId).collect(),
            is_restart: incarnation > Incarnation(1),
            durable: None,
            workers_per_node: 1,
            partitions: self.shape.partitions,
            backups: self.shape.backups,
            limits: self.shape.limits.clone(),
        };
        let vault = WatchedVault::new(self.shape.partitions, id, self.witness.clone());
        let process = Process {
            id,
            machine: Machine::new(config),
            vault: Arc::new(vault),
            gauges: Arc::default(),
            present: Present::new(
                node,
                (0..self.shape.nodes).map(NodeId).collect(),
                1,
                self.shape.present_limits,
            ),
            generations: BTreeMap::new(),
            controls: BTreeSet::new(),
            met: BTreeMap::new(),
            gave_up_in: None,
            failures: FailureAccount::default(),
            end: None,
            hung_until_us: 0,
            backlog: Vec::new(),
            worker_hung_until_us: 0,
            slow_until_us: 0,
            wake_at_ms: None,
        };
        if let Some(former) = self.processes.insert(node, process)
            && let Some(end) = former.end
        {
            self.former.push((former.id, end));
        }
        self.note(Some(node), "start", incarnation.0, |_| format!("incarnation {incarnation}"));
        let done = self.register.done().unwrap_or(false);
        let delay_us = self.chance.below(5_000);
        self.after(delay_us, id, Happening::Local(Input::Started { done }));
        self.after(delay_us, id, Happening::Compact);
        for peer in self.alive_ids().into_iter().filter(|peer| peer.node != node) {
            self.connect(id, peer);
        }
    }

    /// Faults stop: what hangs wakes, what is cut heals, and who is missed in the first view comes.
    fn calm(&mut self) {
        self.faults = false;
        self.network.heal();
        self.register_slow_until_us = 0;
        self.witness.lock().armed.clear();
        let now_us = self.now_us;
        for process in self.processes.values_mut() {
            process.hung_until_us = process.hung_until_us.min(now_us);
            process.slow_until_us = 0;
        }
        for id in self.alive_ids() {
            self.wake(id);
        }
        self.note(None, "calm", 0, |_| "no more faults".to_owned());
        if self.views.is_empty() {
            let gone = self.processes.values().filter(|process| !process.is_alive());
            let gone: Vec<ProcessId> = gone.map(|process| process.id).collect();
            for id in gone {
                self.start(id.node, Incarnation(id.incarnation.0 + 1));
            }
        }
    }
}

/// Where a process listens.
pub(super) fn address(id: ProcessId) -> String {
    format!("{}:{}", id.node, id.incarnation)
}
