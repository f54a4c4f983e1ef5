//! What the tests of this room share.

use ringfence_operators::ids::{Epoch, NodeId};

use super::view::{CopyEvidence, ReplicaSpan, View};

/// The copies of a node that has stopped in good order, and stored everything up to `through`.
pub(super) fn copies_of(view: &View, node: NodeId, through: Option<Epoch>) -> Vec<CopyEvidence> {
    let span = ReplicaSpan { from: None, through };
    let places = view.assignment.iter().filter_map(|(partition, place)| {
        let backup = place.backups.iter().any(|backup| backup.node == node);
        let live = place.owner.node == node;
        let replica = backup.then_some(span);
        (backup || live).then_some(CopyEvidence { partition, replica, live })
    });
    places.collect()
}
