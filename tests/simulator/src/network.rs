//! Network: connections between processes, which delay, break, and keep order.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{Incarnation, NodeId, ViewNumber};

use super::faults::Fault;
use super::process::{Dial, Early, ProcessId};
use super::trace::digest;
use super::world::{Happening, World, address};
use ringfence::internals::protocol::message::{Input, Message};
use ringfence::internals::protocol::present::{Answer, Caller, Why};

/// How long making a data connection may take; the same as in a real node.
const LINK_LIMIT_US: u64 = 5_000_000;

/// How long a caller waits before it tries again.
const DIAL_PAUSE_US: u64 = 50_000;

/// A connection in one direction. Data connections are those of one view.
type Direction = (NodeId, NodeId, Option<ViewNumber>);

/// What is wrong between which nodes, and how far each connection is.
#[derive(Default)]
pub(super) struct Network {
    /// When the last message of a connection arrives: the next comes later.
    busy_until_us: BTreeMap<Direction, u64>,
    cut_until_us: BTreeMap<(NodeId, NodeId), u64>,
    slow_until_us: BTreeMap<(NodeId, NodeId), u64>,
    /// The number of the latest frame that reached each node, of those in order of sending.
    latest_sent: BTreeMap<NodeId, u64>,
    sent: u64,
}

impl Network {
    pub(super) fn heal(&mut self) {
        self.cut_until_us.clear();
        self.slow_until_us.clear();
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId, until_us: u64) {
        self.cut_until_us.insert((from, to), until_us);
    }

    pub(super) fn slow(&mut self, from: NodeId, to: NodeId, until_us: u64) {
        self.slow_until_us.insert((from, to), until_us);
    }
}

impl World {
    /// Sends something over a connection, behind all that was sent over it before.
    pub(super) fn send(
        &mut self,
        from: NodeId,
        to: ProcessId,
        view: Option<ViewNumber>,
        happening: Happening,
    ) {
        let mut delay_us = 20 + self.chance.below(self.shape.latency_us);
        let pair = (from, to.node);
        if self.network.slow_until_us.get(&pair).is_some_and(|until_us| *until_us > self.now_us) {
            delay_us += self.chance.below(50 * self.shape.latency_us);
        }
        let cut_until_us = self.network.cut_until_us.get(&pair).copied().unwrap_or(0);
        let at_us = self.now_us.max(cut_until_us) + delay_us;
        let busy_until_us = self.network.busy_until_us.entry((from, to.node, view)).or_default();
        *busy_until_us = at_us.max(*busy_until_us);
        let at_us = *busy_until_us;
        self.at(at_us, to, happening);
    }

    // Control connections.

    pub(super) fn connect(&mut self, one: ProcessId, other: ProcessId) {
        for (here, there) in [(one, other), (other, one)] {
            if let Some(process) = self.alive(here) {
                process.controls.insert(there);
                process.met.insert(there.node, there.incarnation);
            }
            let input = Input::PeerUp {
                node: there.node,
                incarnation: there.incarnation,
                address: address(there),
            };
            self.send(there.node, here, None, Happening::Control(input));
        }
    }

    /// A process calls a member, which answers if it is that start of it.
    pub(super) fn connect_to(&mut self, id: ProcessId, node: NodeId, incarnation: Incarnation) {
        let there = self.processes.get(&node).filter(|process| process.is_alive());
        let there =
            there.map(|process| process.id).filter(|there| there.incarnation == incarnation);
        let Some(there) = there else { return };
        if self.alive(id).is_some_and(|process| !process.controls.contains(&there)) {
            self.connect(id, there);
        }
    }

    pub(super) fn send_message(&mut self, from: ProcessId, to: NodeId, message: Message) {
        let Some(process) = self.alive(from) else { return };
        // Dropped if the connection is gone.
        let Some(peer) = process.controls.iter().find(|peer| peer.node == to).copied() else {
            return;
        };
        let input = Input::Message { from: from.node, message };
        self.send(from.node, peer, None, Happening::Control(input));
    }

    /// Ends a control connection at both ends.
    pub(super) fn disconnect(&mut self, one: ProcessId, other: ProcessId, why: &str) {
        for (here, there) in [(one, other), (other, one)] {
            if let Some(process) = self.alive(here) {
                process.controls.remove(&there);
            }
            let (node, incarnation) = there.who();
            let input = Input::PeerLost { node, incarnation, why: why.to_owned() };
            self.send(there.node, here, None, Happening::Control(input));
        }
    }

    /// Loses what is on its way from one node to another on one connection, from some moment on.
    pub(super) fn lose_in_flight(&mut self, from: NodeId, to: NodeId, view: Option<ViewNumber>) {
        let from_us = self.now_us + self.chance.below(self.shape.latency_us);
        self.queue.retain(|(at_us, _), (target, happening)| {
            let is_of_it = target.node == to
                && match happening {
                    Happening::Control(Input::Message { from: sender, .. }) => {
                        view.is_none() && *sender == from
                    }
                    Happening::Frames { from: sender, view: of, .. } => {
                        view == Some(*of) && *sender == from
                    }
                    _ => false,
                };
            !is_of_it || *at_us < from_us
        });
    }

    // Data connections.

    /// Asks the lower members of a process's view for data connections.
    pub(super) fn dial_lower(&mut self, id: ProcessId) {
        let Some(process) = self.alive(id) else { return };
        let (view, digest) = (process.present.number(), process.present.digest());
        let digest = digest.map_or_else(String::new, |digest| digest.0.clone());
        let lower: Vec<_> = process
            .present
            .lower()
            .iter()
            .map(|member| (member.node, member.incarnation))
            .collect();
        for (node, incarnation) in lower {
            let there = self.processes.get(&node).filter(|process| process.is_alive());
            let there = there.filter(|process| process.id.incarnation == incarnation);
            let Some(to) = there.map(|process| process.id) else {
                let refusal = Happening::NotLinked { peer: node, view, why: "refused" };
                self.send(node, id, Some(view), refusal);
                continue;
            };
            let dial = Dial { from: id, view, digest: digest.clone() };
            if self.faults && self.chance.one_in(8) {
                // A connection that breaks before it is answered is made again.
                self.fired(Fault::DialAgain, Some(id.node), || format!("to node {node}"));
                for _ in 0..self.chance.between(1, 3) {
                    self.send(id.node, to, Some(view), Happening::Dial(dial.clone()));
                }
            }
            self.send(id.node, to, Some(view), Happening::Dial(dial));
            let why = "it took too long";
            self.after(LINK_LIMIT_US, id, Happening::NotLinked { peer: node, view, why });
        }
    }

    pub(super) fn on_dial(&mut self, id: ProcessId, dial: Dial) {
        let (peer, view) = (dial.from, dial.view);
        let Some(process) = self.alive(id) else { return };
        let caller = Caller {
            node: peer.node,
            incarnation: peer.incarnation,
            view,
            digest: &dial.digest,
            known: process.met.get(&peer.node).copied(),
        };
        match process.present.answer(&caller) {
            Answer::Accept => {
                self.send(id.node, peer, Some(view), Happening::Linked { peer: id, view });
                self.on_linked(id, peer, view);
            }
            Answer::Wait => {
                process.present.wait(peer.node, dial);
                self.check_waiting(id);
            }
            // The caller tries again.
            Answer::Refuse(Why::NotYet) => self.after(DIAL_PAUSE_US, id, Happening::Dial(dial)),
            Answer::Refuse(_) => {
                let why = "refused: it has left that view";
                let refusal = Happening::NotLinked { peer: id.node, view, why };
                self.send(id.node, peer, Some(view), refusal);
            }
        }
    }

    /// Checks that what waits is bounded.
    fn check_waiting(&mut self, id: ProcessId) {
        let Some(process) = self.alive(id) else { return };
        let (next, has_view) = (process.present.number().0 + 1, process.present.view().is_some());
        let waiting: Vec<NodeId> = process.present.waiting().map(|(node, _)| node).collect();
        let nodes: BTreeSet<NodeId> = waiting.iter().copied().collect();
        let are_next = process.present.waiting().all(|(_, dial)| dial.view.0 == next || !has_view);
        if nodes.len() < waiting.len() || !are_next {
            self.violate(format!(
                "waiting: {} connections of nodes {nodes:?} wait at node {}",
                waiting.len(),
                id.node
            ));
        }
    }

    pub(super) fn on_linked(&mut self, id: ProcessId, peer: ProcessId, view: ViewNumber) {
        let Some(process) = self.alive(id) else { return };
        if process.present.link(view, peer.node, Early::default()) {
            self.start_if_linked(id);
        } else {
            // It has given the view up meanwhile, and closes the connection at once.
            self.send(id.node, peer, Some(view), Happening::LinkEnded { from: id.node, view });
        }
    }

    pub(super) fn on_not_linked(
        &mut self,
        id: ProcessId,
        peer: NodeId,
        view: ViewNumber,
        why: &str,
    ) {
        let Some(process) = self.alive(id) else { return };
        let present = &process.present;
        let is_open = present.is(view) && !present.is_stopping() && !present.is_started();
        if is_open && present.linked().all(|node| node != peer) {
            self.feed(id, Input::ConnectFailed { view, node: peer, why: why.to_owned() });
        }
    }

    /// Sends what a worker has put out.
    pub(super) fn send_frames(&mut self, id: ProcessId, view: ViewNumber) {
        let Some(process) = self.alive(id) else { return };
        let Some(present) = process.present.view().filter(|present| present.number == view) else {
            return;
        };
        let Some(running) = process.running() else { return };
        let sent = running.wire.take_sent();
        let members: Vec<_> = present.members.iter().map(|m| (m.node, m.incarnation)).collect();
        let linked = running.links.clone();
        for (index, bytes) in sent {
            let (node, incarnation) = members[index];
            let there = self.processes.get(&node).filter(|process| process.is_alive());
            let there = there.filter(|process| process.id.incarnation == incarnation);
            // A broken connection swallows what is written to it.
            let Some(to) = there.map(|process| process.id).filter(|_| linked.contains(&node))
            else {
                continue;
            };
            self.network.sent += 1;
            let sent = self.network.sent;
            self.note(Some(id.node), "send", digest(&bytes), |_| {
                format!("{} bytes to node {node} in view {view}", bytes.len())
            });
            let happening = Happening::Frames { from: id.node, view, bytes, sent };
            self.send(id.node, to, Some(view), happening);
        }
    }

    pub(super) fn on_frames(
        &mut self,
        id: ProcessId,
        from: NodeId,
        view: ViewNumber,
        bytes: Vec<u8>,
        sent: u64,
    ) {
        let latest = self.network.latest_sent.entry(id.node).or_default();
        let overtaken = *latest > sent;
        *latest = sent.max(*latest);
        if overtaken {
            self.fired(Fault::Reordering, Some(id.node), String::new);
        }
        let Some(process) = self.alive(id).filter(|process| process.present.is(view)) else {
            return;
        };
        if let Some(early) = process.present.link_mut(from) {
            return early.frames.push(bytes);
        }
        let index = process.present.view().and_then(|view| view.process_index(from));
        if let (Some(index), Some(running)) = (index, process.running())
            && running.links.contains(&from)
        {
            running.wire.deliver(index, bytes);
            let delay_us = 10 + self.chance.below(200);
            self.schedule_step(id, view, delay_us);
        }
    }

    pub(super) fn on_link_ended(&mut self, id: ProcessId, from: NodeId, view: ViewNumber) {
        let Some(process) = self.alive(id).filter(|process| process.present.is(view)) else {
            return;
        };
        if let Some(early) = process.present.link_mut(from) {
            early.is_over = true;
            return;
        }
        let has_finished = process.present.is_finished();
        let running = process.generations.get_mut(&view);
        // Who closed its own end, or has finished, is not told.
        let was_open = running.is_some_and(|running| running.links.remove(&from));
        if was_open && !has_finished {
            let why = "the connection was closed".to_owned();
            self.feed(id, Input::LinkLost { view, node: from, why });
        }
    }

    /// Closes a process's data connections of its present view; what it had sent still arrives.
    pub(super) fn close_links(&mut self, id: ProcessId) {
        let Some(process) = self.alive(id) else { return };
        let (view, linked) = (process.present.number(), process.linked());
        let has_finished = process.present.is_finished();
        if let Some(running) = process.generations.get_mut(&view) {
            running.links.clear();
        }
        // A clean end is no loss.
        for node in linked.into_iter().filter(|_| !has_finished) {
            let there = self.processes.get(&node).filter(|process| process.is_alive());
            if let Some(to) = there.map(|process| process.id) {
                self.send(id.node, to, Some(view), Happening::LinkEnded { from: id.node, view });
            }
        }
    }
}
