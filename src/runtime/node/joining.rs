//! Joining: how a process of a run that is under way finds the members of the newest view.

use std::time::{Duration, Instant};

use ringfence_operators::ids::{Incarnation, NodeId};

use super::{Node, NodeEvent};
use crate::network::Purpose;

/// How long one attempt to reach a member may take; the protocol says when to try again.
const REACH_LIMIT: Duration = Duration::from_secs(2);

impl Node {
    /// Dials a member that the protocol wants to talk to, unless that is done already.
    pub(super) fn connect_to(&mut self, node: NodeId, incarnation: Incarnation, address: String) {
        if self.controls.contains_key(&node) || !self.dialling.insert(node) {
            return;
        }
        // What this node was told itself goes before what others say.
        let address = self.setup.nodes.get(&node).cloned().unwrap_or(address);
        let hello = self.hello(Purpose::Control, node, Some(incarnation));
        let deadline = Instant::now() + REACH_LIMIT;
        self.spawn_dial(address, hello, deadline, move |result| NodeEvent::Dialled {
            node,
            result,
        });
    }
}
