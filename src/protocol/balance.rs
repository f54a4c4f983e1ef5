//! Balance: how a member that owns far less than its share comes to own it.
//!
//! After a failure no partition of a survivor moves, and a process that was taken in again begins with nothing. So
//! a table has to be evened out on purpose, in two steps, each of which is a planned view. The first names the
//! lean node as one whose copies are being filled, for just those partitions that it would hold if it had copies of
//! all. The second moves them, as far as it holds whole copies by then.
//!
//! Movement is minimal: a lean worker is given as many partitions as every worker has at least, `floor(P / W)`, and
//! only from workers that have more. Those come first for which it stands first on the ring. It becomes a backup in
//! the same way, in the place of a node that backs up more than its share.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{NodeId, PartitionId, WorkerId};

use super::assignment::{Assignment, Copies, Load};
use super::ring::Ring;

/// Returns the nodes on `ring` that own less than half of what is their share of `table`.
///
/// A failure alone makes none: who survives keeps what it owned and is given more.
pub fn lean_nodes(table: &Assignment, ring: &Ring) -> BTreeSet<NodeId> {
    let share = table.places.len() / ring.len().max(1);
    let mut counts = BTreeMap::<NodeId, (usize, usize)>::new();
    ring.workers().for_each(|worker| counts.entry(worker.node).or_default().0 += share);
    for place in &table.places {
        counts.entry(place.owner.node).or_default().1 += 1;
    }
    let lean = counts.into_iter().filter(|(_, (share, owned))| 2 * owned < *share);
    lean.map(|(node, _)| node).collect()
}

/// Moves to each worker of a `lean` node what its share of `owners` lacks, where its node holds a replica.
pub(super) fn move_owners(
    owners: &mut [WorkerId],
    ring: &Ring,
    copies: &[Copies],
    lean: &BTreeSet<NodeId>,
) {
    let share = owners.len() / ring.len().max(1);
    let mut load = Load::default();
    owners.iter().for_each(|owner| load.add(*owner));
    for worker in ring.workers().filter(|worker| lean.contains(&worker.node)) {
        for partition in nearest(ring, worker, owners.len()) {
            if load.of(worker) >= share {
                break;
            }
            let owner = owners[partition];
            let is_spare = load.of(owner) > share && !lean.contains(&owner.node);
            if is_spare && copies[partition].replicas.contains(&worker.node) {
                load.remove(owner);
                load.add(worker);
                owners[partition] = worker;
            }
        }
    }
}

/// Lets each `lean` node back up its share, where it holds a replica and another backs up more than that.
pub(super) fn move_backups(
    table: &mut Assignment,
    ring: &Ring,
    copies: &[Copies],
    lean: &BTreeSet<NodeId>,
) {
    let total: usize = table.places.iter().map(|place| place.backups.len()).sum();
    let share = total / ring.len().max(1);
    let mut load = Load::default();
    table.places.iter().flat_map(|place| &place.backups).for_each(|backup| load.add(*backup));
    for worker in ring.workers().filter(|worker| lean.contains(&worker.node)) {
        for partition in nearest(ring, worker, table.places.len()) {
            if load.of(worker) >= share {
                break;
            }
            let place = &mut table.places[partition];
            let is_held = copies[partition].replicas.contains(&worker.node);
            if !is_held || place.owner.node == worker.node || place.feeds(worker.node) {
                continue;
            }
            let is_spare = |backup: &&mut WorkerId| load.of(**backup) > share;
            if let Some(backup) = place.backups.iter_mut().find(is_spare) {
                load.remove(*backup);
                load.add(worker);
                *backup = worker;
            }
        }
    }
}

/// Lets `table` fill copies at `lean` nodes for all that they hold in `goal`, and do not hold now.
pub(super) fn fill_towards(
    table: &mut Assignment,
    goal: &Assignment,
    copies: &[Copies],
    lean: &BTreeSet<NodeId>,
) {
    for ((place, goal), copies) in table.places.iter_mut().zip(&goal.places).zip(copies) {
        for worker in std::iter::once(goal.owner).chain(goal.fed()) {
            let is_wanted = lean.contains(&worker.node) && !copies.replicas.contains(&worker.node);
            if is_wanted && place.owner.node != worker.node && !place.feeds(worker.node) {
                place.filling.push(worker);
            }
        }
    }
}

/// The partitions, those first from which one meets `worker` first.
fn nearest(ring: &Ring, worker: WorkerId, partitions: usize) -> Vec<usize> {
    let rank =
        |partition: &usize| ring.walk(PartitionId(*partition as u32)).position(|met| met == worker);
    let mut nearest: Vec<usize> = (0..partitions).collect();
    nearest.sort_by_cached_key(rank);
    nearest
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
