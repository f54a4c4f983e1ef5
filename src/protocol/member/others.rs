//! The others, as far as this node knows them.

use ringfence_operators::ids::{Incarnation, NodeId, PartitionId, ViewNumber};

use super::super::message::{Message, Output, StopReason};
use super::super::view::{Evidence, View};
use super::Machine;

/// What is known of another node's present incarnation.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) incarnation: Incarnation,
    pub(super) address: String,
    pub(super) up: bool,
    pub(super) done: bool,
    /// Whether it asks to be taken in.
    pub(super) asks: bool,
    /// The latest stop and the latest evidence; newer ones replace older ones.
    pub(super) stop: Option<(ViewNumber, StopReason)>,
    pub(super) evidence: Option<Evidence>,
    /// Of which view and which partitions its workers may still bring live state.
    pub(super) awaiting: Option<(ViewNumber, Vec<PartitionId>)>,
}

impl Peer {
    /// One whose connection has just come to stand.
    pub(super) fn new(incarnation: Incarnation, address: String) -> Self {
        Peer {
            incarnation,
            address,
            up: true,
            done: false,
            asks: false,
            stop: None,
            evidence: None,
            awaiting: None,
        }
    }
}

impl Machine {
    pub(super) fn number(&self) -> ViewNumber {
        self.view.as_ref().map_or(ViewNumber(0), |view| view.number)
    }

    pub(super) fn next_number(&self) -> ViewNumber {
        ViewNumber(self.number().0 + 1)
    }

    pub(super) fn partitions(&self) -> u32 {
        self.view.as_ref().map_or(self.config.partitions, |view| view.partitions)
    }

    /// Whether this incarnation of this node is a member of `view`.
    pub(super) fn is_in(&self, view: &View) -> bool {
        view.member(self.config.node)
            .is_some_and(|member| member.incarnation == self.config.incarnation)
    }

    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.view.as_ref().is_some_and(|view| view.member(node).is_some())
    }

    /// Whether the connection to the incarnation of `node` that is in the current view stands.
    pub(super) fn is_up(&self, node: NodeId) -> bool {
        let member = self.view.as_ref().and_then(|view| view.member(node));
        let Some(peer) = self.peers.get(&node) else { return false };
        peer.up && member.is_none_or(|member| member.incarnation == peer.incarnation)
    }

    /// Whether the incarnation of `node` that is in the current view is known to have ended.
    ///
    /// One that was never connected is not gone: it may be about to connect.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        let member = self.view.as_ref().and_then(|view| view.member(node));
        let Some(peer) = self.peers.get(&node) else { return false };
        // The end of an earlier start says nothing of the one that is in the view.
        let is_earlier = member.is_some_and(|member| peer.incarnation < member.incarnation);
        !is_earlier && !self.is_up(node)
    }

    /// Whether nothing can be heard of `node`: its connection has ended, or carries nothing.
    pub(super) fn is_unheard(&self, node: NodeId) -> bool {
        self.is_gone(node) || self.detector.is_silent(node)
    }

    pub(super) fn has_finished(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.done)
    }

    pub(super) fn other_members(&self) -> impl Iterator<Item = NodeId> + '_ {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.map(|member| member.node).filter(|node| *node != self.config.node)
    }

    pub(super) fn connected_members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.other_members().filter(|node| self.is_up(*node))
    }

    pub(super) fn broadcast(&mut self, message: &Message) {
        let nodes: Vec<NodeId> = match &self.view {
            Some(_) => self.connected_members().collect(),
            None => self.peers.iter().filter(|(_, peer)| peer.up).map(|(node, _)| *node).collect(),
        };
        self.outputs.extend(nodes.into_iter().map(|node| Output::Send(node, message.clone())));
    }
}
