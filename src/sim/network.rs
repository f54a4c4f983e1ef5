//! Network: connections between processes, which delay, break, and keep order.

use std::collections::BTreeMap;

use ringfence_operators::ids::{NodeId, ViewNumber};

use super::faults::Fault;
use super::process::{Dial, ProcessId};
use super::trace::digest;
use super::world::{Happening, World, address};
use crate::protocol::message::{Input, Message};

/// How long making a data connection may take; the same as in a real node.
const LINK_LIMIT_US: u64 = 5_000_000;

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
            }
            let input = Input::PeerUp {
                node: there.node,
                incarnation: there.incarnation,
                address: address(there),
            };
            self.send(there.node, here, None, Happening::Control(input));
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
        let Some(current) = self.alive(id).and_then(|process| process.current.as_ref()) else {
            return;
        };
        let (view, digest) = (current.view.number, current.digest.clone());
        let lower: Vec<_> = current.view.members[..current.index]
            .iter()
            .map(|member| (member.node, member.incarnation))
            .collect();
        for (node, incarnation) in lower {
            let there = self.processes.get(&node).filter(|process| process.is_alive());
            let there = there.filter(|process| process.id.incarnation == incarnation);
            match there.map(|process| process.id) {
                Some(to) => {
                    let dial = Dial { from: id, view, digest: digest.clone() };
                    self.send(id.node, to, Some(view), Happening::Dial(dial));
                    let why = "it took too long";
                    let refusal = Happening::NotLinked { peer: node, view, why };
                    self.after(LINK_LIMIT_US, id, refusal);
                }
                None => {
                    let refusal = Happening::NotLinked { peer: node, view, why: "refused" };
                    self.send(node, id, Some(view), refusal);
                }
            }
        }
    }

    pub(super) fn on_dial(&mut self, id: ProcessId, dial: Dial) {
        let (peer, view) = (dial.from, dial.view);
        let Some(process) = self.alive(id) else { return };
        let here = process.current.as_ref().map_or(ViewNumber(0), |current| current.view.number);
        if view > here {
            process.waiting.push(dial);
            return;
        }
        let accepted = process.current(view).is_some_and(|current| {
            let member = current.view.member(peer.node);
            current.digest == dial.digest
                && member.is_some_and(|member| member.incarnation == peer.incarnation)
                && !current.stop_wanted
                && current.running.is_none()
                && !current.links.contains_key(&peer.node)
        });
        if !accepted {
            let why = "refused: it has left that view";
            let refusal = Happening::NotLinked { peer: id.node, view, why };
            return self.send(id.node, peer, Some(view), refusal);
        }
        self.send(id.node, peer, Some(view), Happening::Linked { peer: id, view });
        self.on_linked(id, peer, view);
    }

    pub(super) fn on_linked(&mut self, id: ProcessId, peer: ProcessId, view: ViewNumber) {
        let Some(process) = self.alive(id) else { return };
        match process.current(view).filter(|current| !current.stop_wanted) {
            Some(current) => {
                current.links.insert(peer.node, Vec::new());
                self.start_if_linked(id);
            }
            // It has given the view up meanwhile, and closes the connection at once.
            None => {
                self.send(id.node, peer, Some(view), Happening::LinkEnded { from: id.node, view })
            }
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
        let is_open = process.current(view).is_some_and(|current| {
            !current.stop_wanted && current.running.is_none() && !current.links.contains_key(&peer)
        });
        if is_open {
            self.feed(id, Input::ConnectFailed { view, node: peer, why: why.to_owned() });
        }
    }

    /// Sends what a worker has put out.
    pub(super) fn send_frames(&mut self, id: ProcessId, view: ViewNumber) {
        let Some(current) = self.alive(id).and_then(|process| process.current(view)) else {
            return;
        };
        let Some(running) = &current.running else { return };
        let sent = running.wire.take_sent();
        let members: Vec<NodeId> = current.view.members.iter().map(|member| member.node).collect();
        let linked: Vec<NodeId> = current.links.keys().copied().collect();
        let incarnations: Vec<_> =
            current.view.members.iter().map(|member| member.incarnation).collect();
        for (index, bytes) in sent {
            let node = members[index];
            let there = self.processes.get(&node).filter(|process| process.is_alive());
            let there = there.filter(|process| process.id.incarnation == incarnations[index]);
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
        let Some(current) = self.alive(id).and_then(|process| process.current(view)) else {
            return;
        };
        let Some(index) = current.view.process_index(from) else { return };
        let Some(early) = current.links.get_mut(&from) else { return };
        match &current.running {
            Some(running) => {
                running.wire.deliver(index, bytes);
                let delay_us = 10 + self.chance.below(200);
                self.schedule_step(id, view, delay_us);
            }
            None => early.push(bytes),
        }
    }

    pub(super) fn on_link_ended(&mut self, id: ProcessId, from: NodeId, view: ViewNumber) {
        let Some(current) = self.alive(id).and_then(|process| process.current(view)) else {
            return;
        };
        // Who closed its own end, or has finished, is not told.
        let was_open = current.links.remove(&from).is_some() && !current.stop_wanted;
        if was_open && !current.finished {
            let why = "the connection was closed".to_owned();
            self.feed(id, Input::LinkLost { view, node: from, why });
        }
    }

    /// Closes a process's data connections of a view; what it had sent still arrives.
    pub(super) fn close_links(&mut self, id: ProcessId, view: ViewNumber) {
        let Some(current) = self.alive(id).and_then(|process| process.current(view)) else {
            return;
        };
        let finished = current.finished;
        let linked: Vec<NodeId> = std::mem::take(&mut current.links).into_keys().collect();
        // A clean end is no loss.
        for node in linked.into_iter().filter(|_| !finished) {
            let there = self.processes.get(&node).filter(|process| process.is_alive());
            if let Some(to) = there.map(|process| process.id) {
                self.send(id.node, to, Some(view), Happening::LinkEnded { from: id.node, view });
            }
        }
    }
}
