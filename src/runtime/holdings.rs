//! Holdings: what a view assigns to a node, and what a stopped node holds of it.

use ringfence_operators::fence::generation::Routes;
use ringfence_operators::ids::{NodeId, PartitionId, ViewNumber};
use ringfence_operators::vault::{Inventory, Role};

use crate::protocol::view::{CopyEvidence, Evidence, ReplicaSpan, View};

/// The role of `node` for a partition in `view`.
pub fn role_of(view: &View, node: NodeId, partition: PartitionId) -> Role {
    let place = view.assignment.place(partition);
    Role {
        owner: place.is_some_and(|place| place.owner.node == node),
        backup: place.is_some_and(|place| place.feeds(node)),
    }
}

/// The routes of a view, in timely's worker numbers.
pub fn routes_of(view: &View) -> Routes {
    let index = |worker| view.worker_index(worker).expect("a valid view names only its members");
    let mut routes = Routes::default();
    for (_, place) in view.assignment.iter() {
        routes.owners.push(index(place.owner));
        routes.backups.push(place.fed().map(index).collect());
        routes.filling.push(!place.filling.is_empty());
    }
    routes
}

/// The evidence of a node whose vault holds this, now that its generation of `view` has ended.
pub fn evidence_of(inventory: Inventory, view: ViewNumber) -> Evidence {
    let copies = inventory.partitions.iter().map(|(&partition, copies)| CopyEvidence {
        partition,
        replica: copies.replica.map(|span| ReplicaSpan { from: span.from, through: span.through }),
        live: copies.live,
    });
    Evidence {
        view,
        recorded: inventory.recorded,
        copies: copies.collect(),
        journals: inventory.journals,
        operators: inventory.operators.into_values().collect(),
        dropped: inventory.dropped.into_iter().collect(),
    }
}
