//! Two to five machines, a register and a network, under a seed.
//!
//! Each seed is a story of its own: slow and stalled links, nodes that pause for seconds, false
//! alarms, panics, crashes at any moment (also in the middle of a recovery, also of the proposer),
//! restarts under a new incarnation, a register that loses its answers. In every step agreement and
//! the truth of what the vaults hold are checked; then the faults stop, and what is left must come to
//! run one view, and then to finish.
//!
//! A failing run prints its seed; `RINGFENCE_SEED=17 cargo test -p ringfence-simulator members` replays it
//! and tells all of it.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{Epoch, Incarnation, NodeId, PartitionId, ViewNumber};

use crate::chance::Chance;
use ringfence::internals::protocol::invariants::{
    OneViewPerNumber, released_epochs_stay, successor,
};
use ringfence::internals::protocol::member::{Machine, MemberConfig, MemberLimits, Phase};
use ringfence::internals::protocol::message::{
    Event, Input, Output, ProtocolError, RegisterReply, WorkerPanic,
};
use ringfence::internals::protocol::plan::PlanError;
use ringfence::internals::protocol::view::{ReplicaSpan, View};

mod copies;

const SEEDS: u64 = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
const FAULTS_END_MS: u64 = 12_000;
const STEPS_MAX: u64 = 60_000;
/// So long that nobody ever beats.
const NEVER_MS: u64 = 10_000_000;

/// What is to happen to a node; it is dropped if the node has another incarnation by then.
#[derive(Clone, Debug)]
enum Happening {
    Local(Input),
    /// From the control connection of this peer.
    Wire(NodeId, Input),
    Execute(Output),
    Stop(ViewNumber),
    Work,
    Wake,
}

struct Node {
    machine: Machine,
    incarnation: Incarnation,
    alive: bool,
    paused_until_ms: u64,
    /// The view whose generation is up.
    generation: Option<ViewNumber>,
    panicked: bool,
    replicas: BTreeMap<PartitionId, ReplicaSpan>,
    /// Copies that are being filled; a span once they are whole.
    filling: BTreeMap<PartitionId, Option<ReplicaSpan>>,
    live: BTreeSet<PartitionId>,
    error: Option<ProtocolError>,
}

#[derive(Default)]
struct Tally {
    crashes: u64,
    panics: u64,
    views_max: u64,
    lost: u64,
    excluded: u64,
    finished: u64,
    running: u64,
    joined: u64,
    moved: u64,
}

struct Simulation {
    chance: Chance,
    now_ms: u64,
    sequence: u64,
    limits: MemberLimits,
    shape: (u32, u32, u32),
    queue: BTreeMap<(u64, u64), (NodeId, Incarnation, Happening)>,
    nodes: BTreeMap<NodeId, Node>,
    wire_free_ms: BTreeMap<(NodeId, NodeId), u64>,
    views: BTreeMap<ViewNumber, View>,
    done: bool,
    believed: OneViewPerNumber,
    stored: BTreeMap<(ViewNumber, NodeId), Option<Epoch>>,
    recorded: BTreeMap<(ViewNumber, NodeId), Option<Epoch>>,
    released: Option<Epoch>,
    faults: bool,
    tally: Tally,
    trace: Option<Vec<String>>,
    /// Whether the story is printed as it goes.
    is_told: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let nodes = 2 + chance.below(4);
        let shape =
            (1 + chance.below(2) as u32, 4 + chance.below(8) as u32, 1 + chance.below(3) as u32);
        // Beats are most of what happens, so only some stories have them.
        let suspect_ms = if chance.one_in(10) { 3_000 } else { NEVER_MS };
        let mut simulation = Simulation {
            chance,
            now_ms: 0,
            sequence: 0,
            limits: MemberLimits::from_suspect_ms(suspect_ms),
            shape,
            queue: BTreeMap::new(),
            nodes: BTreeMap::new(),
            wire_free_ms: BTreeMap::new(),
            views: BTreeMap::new(),
            done: false,
            believed: OneViewPerNumber::default(),
            stored: BTreeMap::new(),
            recorded: BTreeMap::new(),
            released: None,
            faults: true,
            tally: Tally::default(),
            trace: None,
            is_told: false,
        };
        let all: BTreeSet<NodeId> = (0..nodes).map(NodeId).collect();
        all.iter().for_each(|node| simulation.start(*node, Incarnation(1), &all));
        simulation
    }

    /// Starts a process: it reads the register, and only then do its connections come to stand.
    fn start(&mut self, node: NodeId, incarnation: Incarnation, all: &BTreeSet<NodeId>) {
        let (workers_per_node, partitions, backups) = self.shape;
        let config = MemberConfig {
            run: "run".to_owned(),
            node,
            incarnation,
            address: format!("{node}:{incarnation}"),
            nodes: all.clone(),
            is_restart: incarnation > Incarnation(1),
            durable: None,
            workers_per_node,
            partitions,
            backups,
            limits: self.limits.clone(),
        };
        let fresh = Node {
            machine: Machine::new(config),
            incarnation,
            alive: true,
            paused_until_ms: 0,
            generation: None,
            panicked: false,
            replicas: BTreeMap::new(),
            filling: BTreeMap::new(),
            live: BTreeSet::new(),
            error: None,
        };
        self.nodes.insert(node, fresh);
        let started = Input::Started { done: self.done };
        self.after(node, 0, Happening::Local(started));
        let peers: Vec<NodeId> = self.alive().filter(|peer| *peer != node).collect();
        peers.into_iter().for_each(|peer| self.connect(node, peer));
    }

    /// A connection comes to stand, at each end in its own time.
    fn connect(&mut self, node: NodeId, peer: NodeId) {
        let up = |node: &Node, id| Input::PeerUp {
            node: id,
            incarnation: node.incarnation,
            address: format!("{id}:{}", node.incarnation),
        };
        let (there, here) = (up(&self.nodes[&node], node), up(&self.nodes[&peer], peer));
        self.wire(node, peer, there);
        self.wire(peer, node, here);
    }

    fn alive(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().filter(|(_, node)| node.alive).map(|(id, _)| *id)
    }

    fn after(&mut self, node: NodeId, delay_ms: u64, happening: Happening) {
        self.at(node, self.now_ms + delay_ms, happening);
    }

    fn at(&mut self, node: NodeId, at_ms: u64, happening: Happening) {
        self.sequence += 1;
        let incarnation = self.nodes[&node].incarnation;
        self.queue.insert((at_ms.max(self.now_ms), self.sequence), (node, incarnation, happening));
    }

    /// Sends over a connection: in order, after a delay that is at times very long.
    fn wire(&mut self, from: NodeId, to: NodeId, input: Input) {
        let delay_ms = if self.faults && self.chance.one_in(60) {
            self.chance.below(6_000)
        } else {
            self.chance.below(20)
        };
        let free_ms = self.wire_free_ms.entry((from, to)).or_default();
        *free_ms = (*free_ms).max(self.now_ms + delay_ms);
        let at_ms = *free_ms;
        self.at(to, at_ms, Happening::Wire(from, input));
    }

    /// A safety phase with faults, a liveness phase without, and the end.
    fn run(&mut self) {
        let mut next_fault_ms = self.chance.below(200);
        while next_fault_ms < FAULTS_END_MS {
            self.drain(next_fault_ms);
            self.inject();
            next_fault_ms += 1 + self.chance.below(3_000);
        }
        self.drain(FAULTS_END_MS);
        self.faults = false;
        self.drain(FAULTS_END_MS + 120_000);
        self.check_liveness();
        self.complete();
        self.drain(FAULTS_END_MS + 150_000);
        self.check_end();
    }

    /// Lets happen what is due until then.
    fn drain(&mut self, until_ms: u64) {
        let mut steps = 0;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until_ms) {
            let ((at_ms, sequence), (id, incarnation, happening)) = entry.remove_entry();
            steps += 1;
            assert!(steps < STEPS_MAX, "the machines are busy without end");
            self.now_ms = at_ms;
            let Some(node) =
                self.nodes.get(&id).filter(|node| node.alive && node.incarnation == incarnation)
            else {
                continue;
            };
            match node.paused_until_ms {
                until_ms if until_ms > at_ms => {
                    self.queue.insert((until_ms, sequence), (id, incarnation, happening));
                }
                _ => self.happen(id, happening),
            }
        }
        self.now_ms = until_ms;
    }

    fn note(&mut self, line: impl Fn(u64) -> String) {
        if self.is_told {
            println!("{}", line(self.now_ms));
        }
        if let Some(trace) = &mut self.trace {
            trace.push(line(self.now_ms));
        }
    }

    fn happen(&mut self, id: NodeId, happening: Happening) {
        match happening {
            Happening::Local(input) | Happening::Wire(_, input) => {
                if let Input::GenerationRunning { view } = input {
                    self.after(id, 1, Happening::Work);
                    let delay_ms = self.chance.below(50);
                    self.after(id, delay_ms, Happening::Local(Input::CaughtUp { view }));
                    debug_assert_eq!(self.nodes[&id].machine.view().unwrap().number, view);
                }
                self.feed(id, input);
            }
            Happening::Wake => self.feed(id, Input::Tick),
            Happening::Execute(output) => self.execute(id, output),
            Happening::Stop(view) => {
                let evidence = self.evidence(id, view);
                self.nodes.get_mut(&id).unwrap().generation = None;
                self.feed(id, Input::GenerationStopped { view, evidence, awaited: Vec::new() });
            }
            Happening::Work => self.work(id),
        }
    }

    fn feed(&mut self, id: NodeId, input: Input) {
        self.note(|now_ms| format!("{now_ms} {id} {input:?}"));
        let now_ms = self.now_ms;
        let node = self.nodes.get_mut(&id).unwrap();
        let before = node.machine.next_deadline();
        let number_before = node.machine.view().map(|view| view.number);
        let outputs = node.machine.handle(now_ms, input);
        let deadline = node.machine.next_deadline();
        assert!(
            deadline.is_none_or(|at| at > now_ms),
            "node {id} has work left at {now_ms}: {:?}",
            node.machine
        );
        let view = node.machine.view().filter(|view| Some(view.number) != number_before);
        if let Some(view) = view {
            self.believed.believe(view).unwrap();
        }
        if let Some(at_ms) = deadline.filter(|at| Some(*at) != before) {
            self.at(id, at_ms, Happening::Wake);
        }
        outputs.into_iter().for_each(|output| self.carry_out(id, output));
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        self.note(|_| format!("  {output:?}"));
        match output {
            Output::Send(to, message) => {
                if self.nodes[&to].alive {
                    self.wire(id, to, Input::Message { from: id, message });
                }
            }
            Output::Propose(_) | Output::ReadView(_) | Output::MarkDone(_) => {
                let delay_ms = self.chance.below(10);
                self.after(id, delay_ms, Happening::Execute(output));
            }
            Output::Connect { node, incarnation, .. } => {
                let there = &self.nodes[&node];
                if there.alive && there.incarnation == incarnation {
                    self.connect(id, node);
                }
            }
            Output::Install(view) => self.install(id, &view),
            Output::StopGeneration { view } => {
                let delay_ms = if self.faults && self.chance.one_in(40) {
                    6_000
                } else {
                    self.chance.below(10)
                };
                self.after(id, delay_ms, Happening::Stop(view));
            }
            Output::Report(Event::ViewAgreed { number, joined, moved, left, .. }) => {
                self.tally.joined += joined.iter().filter(|node| **node == id).count() as u64;
                self.tally.moved +=
                    u64::from(left.is_empty() && joined.is_empty() && !moved.is_empty());
                self.tally.views_max = self.tally.views_max.max(number.0);
            }
            Output::Report(_) => {}
            Output::Finish => {
                assert!(self.done, "node {id} finished and the register does not know");
                self.tally.finished += 1;
                self.end(id);
            }
            Output::Fail(error) => {
                self.check_error(id, &error);
                self.nodes.get_mut(&id).unwrap().error = Some(error);
                self.end(id);
            }
        }
    }

    /// What the register does: at its own time, and at times without an answer.
    fn execute(&mut self, id: NodeId, output: Output) {
        let silent = self.faults && self.chance.one_in(30);
        let happens = !silent || self.chance.one_in(2);
        let mut reply = RegisterReply::Unavailable { why: "no answer".to_owned() };
        if happens {
            let told = self.ask(id, output);
            if !silent {
                reply = told;
            }
        }
        let delay_ms = self.chance.below(10);
        self.after(id, delay_ms, Happening::Local(Input::Register(reply)));
    }

    fn ask(&mut self, id: NodeId, output: Output) -> RegisterReply {
        match output {
            Output::ReadView(number) => RegisterReply::Read {
                number,
                view: self.views.get(&number).cloned(),
                done: self.done,
            },
            Output::Propose(view) => {
                let number = view.number;
                if self.views.contains_key(&number) {
                    return RegisterReply::Exists { number };
                }
                assert!(
                    view.member(id).is_some(),
                    "node {id} proposes view {number} without itself"
                );
                if let Some(previous) = self.views.get(&ViewNumber(number.0 - 1)) {
                    successor(previous, &view).unwrap();
                    self.check_newcomers(previous, &view);
                } else {
                    assert_eq!(number, ViewNumber(1));
                    view.validate().unwrap();
                }
                released_epochs_stay(self.released, &view).unwrap();
                self.believed.believe(&view).unwrap();
                for member in &view.members {
                    self.stored.insert((number, member.node), view.resume);
                }
                self.views.insert(number, view);
                RegisterReply::Created { number }
            }
            Output::MarkDone(_) => {
                self.done = true;
                RegisterReply::DoneMarked
            }
            other => unreachable!("the register is not asked {other:?}"),
        }
    }

    fn inject(&mut self) {
        let alive: Vec<NodeId> = self.alive().collect();
        let Some(&id) = alive.get(self.chance.below(alive.len() as u64) as usize) else { return };
        let peer = NodeId(self.chance.below(self.nodes.len() as u64));
        let view = self.nodes[&id].machine.view().map_or(ViewNumber(1), |view| view.number);
        let why = "injected".to_owned();
        match self.chance.below(12) {
            0 | 1 if alive.len() > 1 => self.crash(id),
            2 => {
                self.nodes.get_mut(&id).unwrap().paused_until_ms =
                    self.now_ms + self.chance.below(8_000)
            }
            3 => {
                let worker = self.chance.below(u64::from(self.shape.0)) as u32;
                let node = self.nodes.get_mut(&id).unwrap();
                if node.generation == Some(view) {
                    self.tally.panics += 1;
                    node.panicked = true;
                    let owner = ringfence_operators::ids::WorkerId { node: id, worker };
                    let table = &self.views[&view].assignment;
                    node.live.retain(|partition| table.place(*partition).unwrap().owner != owner);
                    let input = Input::WorkerPanicked {
                        view,
                        panic: WorkerPanic { worker, message: why, ..WorkerPanic::default() },
                    };
                    self.after(id, 0, Happening::Local(input));
                }
            }
            4 | 5 if peer != id => {
                self.after(id, 0, Happening::Local(Input::LinkLost { view, node: peer, why }))
            }
            6 if peer != id => {
                self.after(id, 0, Happening::Local(Input::ConnectFailed { view, node: peer, why }))
            }
            7 if !self.nodes[&peer].alive => {
                let all = self.nodes.keys().copied().collect();
                let incarnation = Incarnation(self.nodes[&peer].incarnation.0 + 1);
                self.start(peer, incarnation, &all);
            }
            8 if self.chance.one_in(4) => self.complete(),
            _ => {}
        }
    }

    fn crash(&mut self, id: NodeId) {
        self.tally.crashes += 1;
        // What lies in the dead node's buffers may be delivered or not.
        for to in self.nodes.keys().copied().collect::<Vec<_>>() {
            if self.chance.one_in(2) {
                self.queue.retain(|_, (node, _, happening)| {
                    *node != to || !matches!(happening, Happening::Wire(from, Input::Message { .. }) if *from == id)
                });
            }
        }
        self.end(id);
    }

    /// The process ends: its connections close behind what it had sent.
    fn end(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).unwrap().alive = false;
        let peers: Vec<NodeId> = self.alive().collect();
        for peer in peers {
            let incarnation = self.nodes[&id].incarnation;
            let why = "end of file".to_owned();
            self.wire(id, peer, Input::PeerLost { node: id, incarnation, why });
        }
    }

    /// The input ends: if all members run, each of them learns in its own time that all is released.
    fn complete(&mut self) {
        let Some((&view, members)) =
            self.views.last_key_value().map(|(number, view)| (number, &view.members))
        else {
            return;
        };
        let runs = |id: NodeId| {
            let node = &self.nodes[&id];
            let is_up = node.alive && node.generation == Some(view) && !node.panicked;
            is_up && matches!(node.machine.phase(), Phase::Running)
        };
        let members: Vec<NodeId> = members.iter().map(|member| member.node).collect();
        if members.iter().all(|member| runs(*member)) {
            for member in members {
                let delay_ms = self.chance.below(50);
                self.after(member, delay_ms, Happening::Local(Input::GenerationFinished { view }));
            }
        }
    }

    fn check_error(&mut self, id: NodeId, error: &ProtocolError) {
        match error {
            ProtocolError::Excluded { .. } | ProtocolError::CutOff { .. } => {
                self.tally.excluded += 1;
            }
            ProtocolError::Plan(PlanError::Lost { .. }) => {
                self.tally.lost += 1;
                let excused = self.tally.crashes + self.tally.panics > 0
                    || self.nodes.values().any(|node| node.error.is_some());
                assert!(excused, "node {id} lost state and nothing had failed: {error}");
            }
            ProtocolError::NobodyReached { number, .. } => {
                let view = &self.views[number];
                let gone = view.members.iter().find(|member| {
                    let node = &self.nodes[&member.node];
                    !node.alive || node.incarnation != member.incarnation
                });
                assert!(gone.is_some(), "node {id} reached nobody, and all are there: {error}");
            }
            ProtocolError::RunDone
            | ProtocolError::StopLimit { .. }
            | ProtocolError::Peer { .. } => {}
            other => panic!("node {id} failed with {other:?}"),
        }
    }

    /// After the faults: everybody alive runs the same view with all of its members, or waits for the first.
    fn check_liveness(&mut self) {
        let latest = self.views.keys().last().copied();
        for id in self.alive() {
            let machine = &self.nodes[&id].machine;
            match (machine.phase(), latest) {
                (Phase::Running, Some(latest)) => {
                    let view = machine.view().unwrap();
                    assert_eq!(view.number, latest, "node {id} runs an old view");
                    let gone = view.members.iter().find(|member| !self.nodes[&member.node].alive);
                    assert_eq!(gone, None, "node {id} runs a view with a dead member");
                }
                (Phase::Forming, None) if self.nodes.values().any(|node| !node.alive) => {}
                (phase, _) => panic!("node {id} stays {phase:?}"),
            }
        }
    }

    fn check_end(&mut self) {
        self.tally.running =
            self.alive().filter(|id| self.nodes[id].machine.view().is_some()).count() as u64;
    }
}

/// Says which seed it was, if the test panics in it.
struct Receipt(u64);

impl Drop for Receipt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay with: RINGFENCE_SEED={} cargo test -p ringfence-simulator members",
                self.0
            );
        }
    }
}

/// Plays the seeds that leave `remainder`; two tests share them out to two threads.
fn play(remainder: u64) {
    let chosen = std::env::var("RINGFENCE_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = chosen.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut total = Tally::default();
    for seed in seeds.filter(|seed| seed % 2 == remainder) {
        let receipt = Receipt(seed);
        let mut simulation = Simulation::new(seed);
        simulation.is_told = chosen.is_some();
        simulation.run();
        let tally = simulation.tally;
        assert_eq!(tally.running, 0, "after the input ended, nobody who has a view still runs");
        drop(receipt);
        total.crashes += tally.crashes;
        total.panics += tally.panics;
        total.views_max = total.views_max.max(tally.views_max);
        total.lost += tally.lost;
        total.joined += tally.joined;
        total.moved += tally.moved;
        total.excluded += tally.excluded;
        total.finished += tally.finished;
    }
    println!(
        "{} crashes, {} panics, up to {} views, {} nodes finished, {} were excluded, {} stopped for lost state, \
         {} were taken in, {} saw partitions move on purpose",
        total.crashes,
        total.panics,
        total.views_max,
        total.finished,
        total.excluded,
        total.lost,
        total.joined,
        total.moved
    );
    if chosen.is_none() {
        let fired = [
            total.crashes,
            total.panics,
            total.finished,
            total.excluded,
            total.lost,
            total.joined,
            total.moved,
        ];
        assert!(
            fired.iter().all(|count| *count > 10) && total.views_max > 4,
            "each kind of story was told"
        );
    }
}

#[test]
fn survivors_agree_and_go_on_after_even_seeds() {
    play(0);
}

#[test]
fn survivors_agree_and_go_on_after_odd_seeds() {
    play(1);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in [1, 2, 3] {
        let [one, two] = [0, 1].map(|_| {
            let mut simulation = Simulation::new(seed);
            simulation.trace = Some(Vec::new());
            simulation.run();
            simulation.trace.unwrap()
        });
        assert!(!one.is_empty() && one == two, "seed {seed}");
    }
}
