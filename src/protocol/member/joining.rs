//! Joining: how a process that is in no view asks to be taken in, and how members remember that it did.
//!
//! It reads all views in order, as everybody does, so it knows every start of a node that was ever a member. It
//! connects to the members of the newest one, and asks once it is connected to all of them: else a view with it in
//! it could not be connected. It asks all, so that whoever is lowest when it can be taken in has heard of it. Then
//! it waits for a view that has it as a member, and installs that as everybody does.
//!
//! INVARIANT: who joins holds nothing, gives no evidence and proposes nothing, until a view has it as a member.

use ringfence_operators::ids::{Incarnation, NodeId, ViewNumber};

use super::super::assignment::backups_max;
use super::super::message::{Event, Message, Output, ProtocolError};
use super::super::planted::{self, Planted};
use super::super::view::{Evidence, Member, View};
use super::{Machine, MemberConfig, Phase};

/// How far a process is that asks to be taken in.
#[derive(Clone, Debug, Default)]
pub(super) struct Joining {
    /// In which view all members have been asked over connections that still stand.
    asked: Option<ViewNumber>,
    /// Since when some member of the newest view cannot be reached.
    pub(super) unreached_since_ms: Option<u64>,
}

impl Machine {
    /// Whether this process is in no view yet.
    pub(super) fn is_outside(&self) -> bool {
        matches!(self.phase, Phase::Forming | Phase::Joining)
    }

    /// Takes note of a view of which this process is no member, and goes on to ask its members.
    pub(super) fn look_in(&mut self, view: View) {
        if let Err(error) = self.check_shape(&view) {
            return self.fail(error);
        }
        if self.phase == Phase::Forming {
            self.outputs.push(Output::Report(Event::Joining { view: view.number }));
        }
        self.phase = Phase::Joining;
        self.meet(&view);
        self.view = Some(view);
        self.joining = Joining::default();
        self.poll_at_ms = self.now_ms;
        if planted::is(Planted::JoinerTestifies) {
            self.testify_outside();
        }
        // There may be a newer one.
        self.ask_to_read();
    }

    /// The planted bug of a joiner that gives evidence of what it had no part in.
    fn testify_outside(&mut self) {
        let (view, recorded) = (self.number(), self.view.as_ref().and_then(|view| view.resume));
        let evidence = Evidence {
            view,
            recorded,
            copies: Vec::new(),
            operators: Vec::new(),
            journals: false,
            dropped: Vec::new(),
        };
        self.outputs.push(Output::Report(Event::Stopped { view, recorded }));
        self.broadcast(&Message::Evidence(evidence));
    }

    fn check_shape(&self, view: &View) -> Result<(), ProtocolError> {
        let MemberConfig { partitions, workers_per_node, backups, nodes, .. } = &self.config;
        let backups = *backups.min(&backups_max(nodes.len()));
        let expected = [view.partitions, view.workers_per_node, view.backups];
        let found = [*partitions, *workers_per_node, backups];
        if expected == found {
            return Ok(());
        }
        Err(ProtocolError::OtherShape { number: view.number, expected, found })
    }

    /// Connects to who is not connected, asks who is, and gives up if that takes too long.
    pub(super) fn advance_joining(&mut self) {
        let unreached: Vec<Member> = self.unreached().cloned().collect();
        if unreached.is_empty() {
            self.joining.unreached_since_ms = None;
            if self.joining.asked != Some(self.number()) {
                self.joining.asked = Some(self.number());
                self.broadcast(&Message::Join);
            }
        }
        let is_due = self.poll_at_ms <= self.now_ms;
        if is_due {
            self.poll_at_ms = self.now_ms + self.config.limits.register_retry_ms;
            self.ask_to_read();
        }
        if unreached.is_empty() {
            return;
        }
        let (limit_ms, number) = (self.config.limits.reach_limit_ms, self.number());
        let since_ms = *self.joining.unreached_since_ms.get_or_insert(self.now_ms);
        if since_ms + limit_ms <= self.now_ms {
            let nodes = unreached.iter().map(|member| member.node).collect();
            return self.fail(ProtocolError::NobodyReached { number, limit_ms, nodes });
        }
        if is_due {
            self.connect(unreached);
        }
    }

    pub(super) fn joining_deadline(&self) -> u64 {
        let since_ms = self.joining.unreached_since_ms;
        let limit_ms = since_ms.map(|since| since + self.config.limits.reach_limit_ms);
        limit_ms.map_or(self.poll_at_ms, |limit| limit.min(self.poll_at_ms))
    }

    /// The members that are not connected. An earlier start of this node is one: it has ended, and while it is in
    /// the newest view, the others have not gone on without it, if there are any.
    fn unreached(&self) -> impl Iterator<Item = &Member> {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.filter(|member| member.node == self.config.node || !self.is_up(member.node))
    }

    fn connect(&mut self, mut members: Vec<Member>) {
        members.retain(|member| member.node != self.config.node);
        let connect = |Member { node, incarnation, address, .. }| Output::Connect {
            node,
            incarnation,
            address,
        };
        self.outputs.extend(members.into_iter().map(connect));
    }

    /// A connection of this process has come to stand or has ended: what was asked over it counts no more.
    pub(super) fn ask_anew(&mut self) {
        self.joining.asked = None;
    }

    /// Connects a newcomer to those who came with it: the higher one of two calls.
    pub(super) fn connect_newcomers(&mut self) {
        let Some(view) = self.view.as_ref().filter(|view| view.is_newcomer(self.config.node))
        else {
            return;
        };
        let lower = view.members.iter().filter(|member| member.node < self.config.node);
        let missing =
            lower.filter(|member| view.is_newcomer(member.node) && !self.is_up(member.node));
        let missing = missing.cloned().collect();
        self.connect(missing);
    }

    // Those who are asked.

    /// Remembers that a process asks to be taken in.
    pub(super) fn on_join(&mut self, from: NodeId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.asks = true;
        }
    }

    /// Takes note of who is in a view: each of these starts can be taken in no more.
    pub(super) fn meet(&mut self, view: &View) {
        for member in &view.members {
            let met = self.met.entry(member.node).or_insert(member.incarnation);
            *met = member.incarnation.max(*met);
            if view.is_newcomer(member.node) {
                self.late.insert(member.node, member.incarnation);
            }
            if let Some(peer) = self.peers.get_mut(&member.node)
                && peer.incarnation <= member.incarnation
                && !planted::is(Planted::EndedTakenIn)
            {
                peer.asks = false;
            }
        }
    }

    /// Those who ask and can be taken in, as the members that they would be.
    pub(super) fn askers(&self) -> impl Iterator<Item = Member> + '_ {
        let is_new = |node: &NodeId, incarnation: Incarnation| {
            self.met.get(node).is_none_or(|met| *met < incarnation)
                || planted::is(Planted::EndedTakenIn)
        };
        let asking = self.peers.iter().filter(move |(node, peer)| {
            peer.up && peer.asks && !self.is_member(**node) && is_new(node, peer.incarnation)
        });
        asking.map(|(node, peer)| Member {
            node: *node,
            incarnation: peer.incarnation,
            address: peer.address.clone(),
            evidence: None,
        })
    }
}
