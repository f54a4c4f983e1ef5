//! The state machine of one node: stop, report, propose, install.
//!
//! ```text
//! Forming -> Installing -> Running -> Stopping -> Gathering -> Proposing
//!    |           ^                                    |            |
//! Joining -------+------------------------------------+------------+
//! Finishing -> Finished, from any of them; Failed, from any of them
//! ```
//!
//! Safety rests on three things, and none of them is a clock or the verdict that somebody is dead:
//! evidence is given only after the generation has stopped for good; a view is computed from evidence
//! alone; and the register lets one view of each number exist. Time only decides who proposes
//! first, and how long a slow member is waited for. The order is that of the view change in Oki and
//! Liskov's *Viewstamped Replication* (PODC 1988), with the register in the place of a majority.
//!
//! INVARIANT: evidence of a view is given first in `Stopping`, and from then on this node takes part in no
//! view but the next. It may be given again with more copies in it, when a worker leaves late, and nothing
//! is ever taken back. INVARIANT: the register is asked one thing at a time.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{Incarnation, NodeId, PartitionId, ViewNumber};

use super::detector::Detector;
use super::message::{Event, Input, Message, Output, ProtocolError, StopReason, Suspicion};
use super::view::{ClusterShape, Evidence, Member, View};
use asking::Asking;
use joining::Joining;
use others::Peer;
use planning::Planning;
use progress::Progress;
use restarts::Restarts;

mod asking;
mod config;
mod gathering;
mod installing;
mod joining;
mod listening;
mod others;
mod planning;
mod progress;
mod restarts;

pub use config::{MemberConfig, MemberLimits, SUSPECT_MS};
pub use gathering::Gathering;
pub use progress::VIEWS_WITHOUT_COMMIT_MAX;

/// Where a node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for the first view.
    Forming,
    /// Is in no view, and asks the members of the newest to be taken in.
    Joining,
    /// Has a view and builds its generation.
    Installing,
    /// The generation runs.
    Running,
    /// Waits for its workers to be joined.
    Stopping {
        /// Since when.
        since_ms: u64,
    },
    /// Has given evidence and waits for that of the others.
    Gathering(Gathering),
    /// Has proposed a view and waits for the register.
    Proposing,
    /// The job is complete; waits for the register and for the others to know.
    Finishing {
        /// When to wait no longer; `None` until the register knows.
        until_ms: Option<u64>,
    },
    /// The process ends with success.
    Finished,
    /// The process ends with an error.
    Failed,
}

/// The state machine of one node.
#[derive(Clone, Debug)]
pub struct Machine {
    config: MemberConfig,
    now_ms: u64,
    phase: Phase,
    view: Option<View>,
    /// What this node reported of `view`, each time it grew: the next quotes one of these unchanged, or
    /// this node is not in it.
    given: Vec<Evidence>,
    /// The partitions whose live state may still come from this node's own workers.
    awaited: Vec<PartitionId>,
    /// The members of `view` that this node could not hear when it was installed, nor since.
    cut_off: BTreeSet<NodeId>,
    peers: BTreeMap<NodeId, Peer>,
    started: bool,
    poll_at_ms: u64,
    detector: Detector,
    beat_at_ms: u64,
    /// When this node learned that the run is done while its own generation was still up.
    done_seen_ms: Option<u64>,
    register: Asking,
    restarts: Restarts,
    progress: Progress,
    /// The latest start of each node that was ever a member.
    met: BTreeMap<NodeId, Incarnation>,
    /// Of these, the starts that were taken in by later views than the first.
    late: BTreeMap<NodeId, Incarnation>,
    joining: Joining,
    planning: Planning,
    outputs: Vec<Output>,
}

impl Machine {
    /// Returns the machine of a node that has just started.
    pub fn new(config: MemberConfig) -> Self {
        assert!(
            config.nodes.contains(&config.node),
            "node {} is one of {:?}",
            config.node,
            config.nodes
        );
        let detector = Detector::new(config.limits.detector);
        let beat_at_ms = config.limits.detector.beat_ms;
        Machine {
            config,
            now_ms: 0,
            phase: Phase::Forming,
            view: None,
            given: Vec::new(),
            awaited: Vec::new(),
            cut_off: BTreeSet::new(),
            peers: BTreeMap::new(),
            started: false,
            poll_at_ms: 0,
            detector,
            beat_at_ms,
            done_seen_ms: None,
            register: Asking::default(),
            restarts: Restarts::default(),
            progress: Progress::default(),
            met: BTreeMap::new(),
            late: BTreeMap::new(),
            joining: Joining::default(),
            planning: Planning::default(),
            outputs: Vec::new(),
        }
    }

    /// Takes in what happened and returns what to do, in order.
    ///
    /// `now_ms` counts from any fixed moment and never falls.
    pub fn handle(&mut self, now_ms: u64, input: Input) -> Vec<Output> {
        self.now_ms = self.now_ms.max(now_ms);
        if !self.is_over() {
            self.take_in(input);
            self.advance();
        }
        std::mem::take(&mut self.outputs)
    }

    /// Returns when [`Input::Tick`] is due at the latest, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.is_over() {
            return None;
        }
        let limits = &self.config.limits;
        let own = match &self.phase {
            Phase::Forming => self.started.then_some(self.poll_at_ms),
            Phase::Joining => Some(self.joining_deadline()),
            Phase::Installing | Phase::Running => {
                let done = self.done_seen_ms.map(|seen| seen + limits.done_wait_ms);
                done.or_else(|| self.planning_deadline())
            }
            Phase::Stopping { since_ms } => Some(since_ms + limits.stop_limit_ms),
            Phase::Gathering(gathering) => {
                let due_ms = self.propose_at(gathering).min(gathering.poll_at_ms);
                self.register.is_idle().then_some(due_ms)
            }
            Phase::Finishing { until_ms } => *until_ms,
            Phase::Proposing | Phase::Finished | Phase::Failed => None,
        };
        let beat = self.peers.values().any(|peer| peer.up).then_some(self.beat_at_ms);
        let register = [self.register.retry_at_ms, self.register.complain_at_ms];
        own.into_iter().chain(register.into_iter().flatten()).chain(beat).min()
    }

    /// Returns where the node stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Returns the latest view that the node knows; it is a member of it, unless it asks to be taken in.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Returns whether the node has finished or failed.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Finished | Phase::Failed)
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Started { done } => self.on_started(done),
            Input::PeerUp { node, incarnation, address } => {
                self.on_peer_up(node, incarnation, address)
            }
            Input::PeerLost { node, incarnation, why } => {
                self.on_peer_lost(node, incarnation, why);
            }
            Input::Message { from, message } => self.on_message(from, message),
            Input::LinkLost { view, node, why } => {
                self.suspect_peer(view, node, Suspicion::LinkLost { node, why })
            }
            Input::ConnectFailed { view, node, why } => {
                self.suspect_peer(view, node, Suspicion::ConnectFailed { node, why });
            }
            Input::WorkerPanicked { view, panic } => {
                self.suspect(view, Suspicion::WorkerPanicked { panic: panic.clone() });
                self.count_panic(self.config.node, view, panic);
            }
            Input::WorkerHung { view, worker, busy_ms } => {
                self.suspect(view, Suspicion::WorkerHung { worker, busy_ms });
            }
            Input::GenerationRunning { view } => self.on_running(view),
            Input::GenerationStopped { view, evidence, awaited } => {
                self.on_stopped(view, evidence, awaited);
            }
            Input::EvidenceGrown { view, evidence, awaited } => {
                self.on_evidence_grown(view, evidence, awaited);
            }
            Input::CaughtUp { view } => self.on_caught_up(self.config.node, view),
            Input::Committed { view, epoch } => self.on_committed(view, epoch),
            Input::Refilled { view } => self.on_refilled(self.config.node, view),
            Input::GenerationFinished { view } => self.on_finished(view),
            Input::FatalError { message } => self.fail_all(ProtocolError::Local { message }),
            Input::Register(reply) => self.on_reply(reply),
            Input::Tick => {}
        }
    }

    /// Does what is due, whatever came in: a deadline that passed, or a condition that now holds.
    fn advance(&mut self) {
        self.listen();
        self.complain();
        if self.register.retry_at_ms.is_some_and(|at| at <= self.now_ms) {
            self.register.retry_at_ms = None;
            if self.register.mark_wanted {
                self.ask_to_mark();
            } else {
                self.ask_to_read();
            }
        }
        self.plan();
        let limits = &self.config.limits;
        match &self.phase {
            Phase::Joining => self.advance_joining(),
            Phase::Forming if self.started && self.poll_at_ms <= self.now_ms => self.try_to_form(),
            Phase::Installing | Phase::Running
                if self
                    .done_seen_ms
                    .is_some_and(|seen| seen + limits.done_wait_ms <= self.now_ms) =>
            {
                self.finish_marked();
            }
            Phase::Stopping { since_ms } if since_ms + limits.stop_limit_ms <= self.now_ms => {
                let (view, limit_ms) = (self.number(), limits.stop_limit_ms);
                self.fail(ProtocolError::StopLimit { view, limit_ms });
            }
            Phase::Gathering(_) => self.advance_gathering(),
            _ => {}
        }
        if let Phase::Finishing { until_ms: Some(until_ms) } = self.phase {
            let all_know =
                self.other_members().all(|node| self.is_gone(node) || self.has_finished(node));
            if all_know || until_ms <= self.now_ms {
                self.finish();
            }
        }
    }

    // Forming.

    fn on_started(&mut self, done: bool) {
        if done && self.config.is_restart {
            // What it was started again for is complete.
            self.finish();
        } else if done {
            self.fail(ProtocolError::RunDone);
        } else {
            // SUBTLE: a view that exists already may be the first of this very process: it is proposed
            // once all control connections stand, perhaps before this one has reached the register.
            // Reading it tells.
            self.started = true;
        }
    }

    fn on_peer_up(&mut self, node: NodeId, incarnation: Incarnation, address: String) {
        let known = self.peers.get(&node).map(|peer| peer.incarnation);
        if !self.config.nodes.contains(&node) || node == self.config.node {
            return;
        }
        // A connection that ended stays ended, except between those who are not in a view together.
        let is_again = known == Some(incarnation) && !self.is_outside() && self.is_member(node);
        if is_again || known > Some(incarnation) {
            return;
        }
        self.peers.insert(node, Peer::new(incarnation, address));
        self.watch();
        if self.is_outside() {
            self.poll_at_ms = self.now_ms;
            self.ask_anew();
        } else if self.is_up(node) && self.is_member(node) {
            self.greet(node);
        } else if self.is_member(node) {
            self.suspect(self.number(), Suspicion::Gone { node });
        }
    }

    /// Tells a member what it missed.
    ///
    /// SUBTLE: the first view is proposed when all connections of the lowest node stand. Two others may
    /// know the view, or even have stopped it again, before they are connected to each other.
    fn greet(&mut self, node: NodeId) {
        let view = self.number();
        let mut missed = vec![Message::ViewCreated { number: view }];
        match &self.phase {
            Phase::Stopping { .. } | Phase::Gathering(_) | Phase::Proposing => {
                let why = "it had stopped before the connection stood".to_owned();
                let reason = StopReason { why, ..StopReason::default() };
                missed.push(Message::Stop { view, reason });
            }
            Phase::Finishing { until_ms: Some(_) } => missed.push(Message::Done),
            _ => {}
        }
        missed.extend(self.testimony());
        missed.extend(self.known_of_own(node));
        self.outputs.extend(missed.into_iter().map(|message| Output::Send(node, message)));
    }

    fn try_to_form(&mut self) {
        self.poll_at_ms = self.now_ms + self.config.limits.register_retry_ms;
        let is_lowest = self.config.nodes.first() == Some(&self.config.node);
        let mut others = self.config.nodes.iter().filter(|node| **node != self.config.node);
        let all_up = others.all(|node| self.peers.get(node).is_some_and(|peer| peer.up));
        if !is_lowest || !all_up {
            return self.ask_to_read();
        }
        if !self.register.is_idle() {
            return;
        }
        let member = |node, incarnation, address: &String| Member {
            node,
            incarnation,
            address: address.clone(),
            evidence: None,
        };
        let this = member(self.config.node, self.config.incarnation, &self.config.address);
        let others =
            self.peers.iter().map(|(node, peer)| member(*node, peer.incarnation, &peer.address));
        let members: Vec<Member> = std::iter::once(this).chain(others).collect();
        let shape = ClusterShape {
            nodes: members.len() as u32,
            workers_per_node: self.config.workers_per_node,
            partitions: self.config.partitions,
            backups: self.config.backups,
        };
        let first = View::first(&self.config.run, members, &shape);
        self.ask_to_create(first.resuming(self.config.durable));
    }

    // Suspicions.

    fn on_peer_lost(&mut self, node: NodeId, incarnation: Incarnation, why: String) {
        let was_up = self.is_up(node);
        let known = self.peers.get_mut(&node).filter(|peer| peer.incarnation == incarnation);
        let Some(peer) = known else { return };
        peer.up = false;
        let had_finished = peer.done;
        self.watch();
        match &mut self.phase {
            Phase::Forming | Phase::Joining => {
                self.poll_at_ms = self.now_ms;
                self.ask_anew();
            }
            Phase::Gathering(gathering) => gathering.reconsider(),
            _ => {}
        }
        if was_up && !had_finished && self.is_member(node) {
            self.suspect(self.number(), Suspicion::PeerLost { node, why });
        }
    }

    /// Suspects, unless the peer ended because it had finished.
    fn suspect_peer(&mut self, view: ViewNumber, node: NodeId, what: Suspicion) {
        if !self.has_finished(node) {
            self.suspect(view, what);
        }
    }

    fn suspect(&mut self, view: ViewNumber, what: Suspicion) {
        if self.view.is_none() || view != self.number() || self.done_seen_ms.is_some() {
            return;
        }
        let reason = StopReason::from(&what);
        self.progress.ends_because(view, &reason.why);
        // Who stops closes its links, for whatever reason it does.
        let is_of_links = reason.lost_link.is_some() || what.is_of_links();
        let event = match what {
            _ if reason.planned => Event::Planned { view, why: reason.why.clone() },
            what => Event::Suspicion { view, what },
        };
        match self.phase {
            Phase::Installing | Phase::Running => {}
            Phase::Stopping { .. } | Phase::Gathering(_) | Phase::Proposing => {
                let is_known = self.is_ended_by_plan() && (is_of_links || reason.planned);
                if !is_known {
                    self.outputs.push(Output::Report(event));
                }
                return;
            }
            Phase::Forming
            | Phase::Joining
            | Phase::Finishing { .. }
            | Phase::Finished
            | Phase::Failed => return,
        }
        if reason.planned {
            self.ends_by_plan(view);
        }
        self.phase = Phase::Stopping { since_ms: self.now_ms };
        self.outputs.push(Output::StopGeneration { view });
        self.broadcast(&Message::Stop { view, reason });
        self.outputs.push(Output::Report(event));
        // It may be no failure at all: the others may be done, or have gone on long ago.
        self.ask_to_read();
    }

    // Messages.

    fn on_message(&mut self, from: NodeId, message: Message) {
        let number = self.number();
        if self.peers.get(&from).is_some_and(|peer| peer.up) {
            self.cut_off.remove(&from);
            let verdict = match &message {
                Message::Beat { suspects } => {
                    self.detector.beat(self.now_ms, from, suspects.clone())
                }
                _ => self.detector.heard(self.now_ms, from),
            };
            verdict.into_iter().for_each(|verdict| self.on_verdict(verdict));
        }
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.up) else { return };
        match message {
            Message::Stop { view, reason } => {
                if peer.stop.as_ref().is_none_or(|(known, _)| *known < view) {
                    peer.stop = Some((view, reason.clone()));
                }
                self.look_for(view);
                if view == number && self.is_member(from) {
                    self.stopped_by(from, view, reason);
                }
            }
            Message::Evidence(evidence) => {
                let view = evidence.view;
                if peer.evidence.as_ref().is_none_or(|known| known.view <= view) {
                    peer.evidence = Some(evidence);
                }
                self.look_for(view);
                self.reconsider();
            }
            Message::Awaiting { view, partitions } => {
                peer.awaiting = Some((view, partitions));
                self.reconsider();
            }
            Message::ViewCreated { number } => self.look_for(number),
            Message::Join => self.on_join(from),
            Message::CaughtUp { view } => self.on_caught_up(from, view),
            Message::Refilled { view } => self.on_refilled(from, view),
            // That it came says that the sender lives; what it says is for the connections' owner.
            Message::Beat { .. }
            | Message::Received { .. }
            | Message::Catalogue { .. }
            | Message::CatalogueItem { .. }
            | Message::Dropped { .. }
            | Message::DurableOrder(_)
            | Message::DurableWritten { .. }
            | Message::Durable { .. } => {}
            Message::Done => {
                peer.done = true;
                self.on_done_known();
            }
            Message::Fatal { message } => {
                let concerns_us = self.view.is_none() || self.is_member(from);
                if concerns_us && !matches!(self.phase, Phase::Finishing { .. }) {
                    self.fail(ProtocolError::Peer { node: from, message });
                }
            }
        }
    }

    /// Stops because a member has, and counts the panic if that is why.
    fn stopped_by(&mut self, node: NodeId, view: ViewNumber, reason: StopReason) {
        let panic = reason.panic.clone();
        self.suspect(view, Suspicion::Stopped { node, reason });
        if let Some(panic) = panic {
            self.count_panic(node, view, *panic);
        }
    }

    /// Reads the register if somebody knows of a view that is newer than ours.
    fn look_for(&mut self, number: ViewNumber) {
        if number > self.number() {
            self.ask_to_read();
        }
    }

    // The generation.

    fn on_running(&mut self, view: ViewNumber) {
        if self.phase == Phase::Installing && view == self.number() {
            self.phase = Phase::Running;
            self.outputs.push(Output::Report(Event::Running { view }));
        }
    }

    fn on_stopped(&mut self, view: ViewNumber, evidence: Evidence, awaited: Vec<PartitionId>) {
        if !matches!(self.phase, Phase::Stopping { .. }) || view != self.number() {
            return;
        }
        self.outputs.push(Output::Report(Event::Stopped { view, recorded: evidence.recorded }));
        self.give(evidence, awaited);
        self.gather(0);
    }

    fn on_evidence_grown(
        &mut self,
        view: ViewNumber,
        evidence: Evidence,
        awaited: Vec<PartitionId>,
    ) {
        if matches!(self.phase, Phase::Gathering(_) | Phase::Proposing) && view == self.number() {
            self.give(evidence, awaited);
            self.reconsider();
        }
    }

    /// Gives evidence, to all members.
    ///
    /// SUBTLE: what was given before stays a promise. It said of copies that are here that they are, and
    /// they still are: so a view that quotes earlier evidence is as right as one that quotes the last.
    fn give(&mut self, evidence: Evidence, awaited: Vec<PartitionId>) {
        assert_eq!(
            evidence.view,
            self.number(),
            "evidence is of the view whose generation stopped"
        );
        assert_eq!(
            evidence.validate(self.partitions()),
            Ok(()),
            "the evidence of node {}",
            self.config.node
        );
        if let Some(before) = self.given.last() {
            let grown = super::invariants::evidence_grows(self.config.node, before, &evidence);
            assert_eq!(grown, Ok(()), "evidence is never taken back");
        }
        let is_first = self.given.is_empty();
        self.given.push(evidence);
        self.awaited = awaited;
        // SUBTLE: nobody must at any moment take what was given for all there is. So what may still come is
        // said before the evidence that lacks it, and that it came after the evidence that has it.
        let mut testimony = self.testimony();
        if !is_first {
            testimony.reverse();
        }
        testimony.iter().for_each(|message| self.broadcast(message));
    }

    /// What this node says of the view that it has stopped, to who has heard nothing of it yet.
    fn testimony(&self) -> Vec<Message> {
        let Some(evidence) = self.given.last() else { return Vec::new() };
        let mut testimony = Vec::new();
        if self.given.len() > 1 || !self.awaited.is_empty() {
            let (view, partitions) = (evidence.view, self.awaited.clone());
            testimony.push(Message::Awaiting { view, partitions });
        }
        testimony.push(Message::Evidence(evidence.clone()));
        testimony
    }

    fn on_finished(&mut self, view: ViewNumber) {
        let may_finish =
            matches!(self.phase, Phase::Installing | Phase::Running | Phase::Stopping { .. });
        if !may_finish || view != self.number() {
            return;
        }
        self.outputs.push(Output::Report(Event::Finishing { view }));
        if self.done_seen_ms.is_some() {
            return self.finish_marked();
        }
        self.phase = Phase::Finishing { until_ms: None };
        self.ask_to_mark();
    }

    // The end.

    fn on_done_known(&mut self) {
        match self.phase {
            // The last progress messages are on their way: let the generation end by itself.
            Phase::Installing | Phase::Running => {
                self.done_seen_ms = self.done_seen_ms.or(Some(self.now_ms))
            }
            Phase::Stopping { .. } | Phase::Gathering(_) | Phase::Proposing => self.finish_marked(),
            Phase::Forming => self.fail(ProtocolError::RunDone),
            Phase::Joining => self.finish(),
            Phase::Finishing { until_ms: None } => self.finish_marked(),
            Phase::Finishing { .. } | Phase::Finished | Phase::Failed => {}
        }
    }

    fn finish_marked(&mut self) {
        self.phase =
            Phase::Finishing { until_ms: Some(self.now_ms + self.config.limits.done_wait_ms) };
        self.broadcast(&Message::Done);
    }

    fn finish(&mut self) {
        self.phase = Phase::Finished;
        self.outputs.push(Output::Finish);
    }

    fn fail(&mut self, error: ProtocolError) {
        self.phase = Phase::Failed;
        self.outputs.push(Output::Fail(error));
    }

    fn fail_all(&mut self, error: ProtocolError) {
        self.broadcast(&Message::Fatal { message: error.to_string() });
        self.fail(error);
    }
}

#[cfg(test)]
mod tests;
