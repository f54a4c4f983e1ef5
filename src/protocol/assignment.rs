//! The assignment: which worker owns each partition, and which workers hold its replicas.
//!
//! It is an explicit table, not a function of the members, because after a failure a partition may
//! only go to a node that holds a copy of it. The ring proposes; the table, once in a view, decides.
//!
//! Loads are bounded as in Mirrokni, Thorup and Zadimoghaddam, *Consistent Hashing with Bounded
//! Loads* (SODA 2018): a partition walks clockwise to the first worker with room. The paper's bound
//! is a factor c > 1 over the mean, which trades balance for few moves when members change. Here
//! the table remembers who has what and a partition whose owner lives never moves, so the tight bound
//! costs no move: a worker owns `floor(P / W)` or one more. Measured with 256 partitions on 3 nodes of
//! 2 workers: 41 to 43 for each worker, where c = 1.25 gives 30 to 54 and no bound 29 to 55.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{NodeId, PartitionId, WorkerId};
use serde::{Deserialize, Serialize};

use super::balance::{move_backups, move_owners};
use super::ranges::{Ranges, list};
use super::ring::Ring;

/// Who owns each partition and who backs it up.
///
/// In JSON it is, for each partition, one list of `[node, worker]` pairs, the owner first, and one of
/// those whose copies are being filled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Assignment {
    /// The place of each partition; the index is the partition.
    pub places: Vec<Place>,
}

/// Where one partition lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PlaceLists", into = "PlaceLists")]
pub struct Place {
    /// The worker that runs the partition.
    pub owner: WorkerId,
    /// The workers whose nodes hold its replicas, at most one for each node.
    pub backups: Vec<WorkerId>,
    /// The workers whose nodes are to hold replicas, too, and are being sent what they lack. Until
    /// one has all of it, it holds nothing that counts.
    pub filling: Vec<WorkerId>,
}

type PlaceLists = (Vec<(NodeId, u32)>, Vec<(NodeId, u32)>);

impl Place {
    /// Returns the workers that are sent every delta.
    pub fn fed(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.backups.iter().chain(&self.filling).copied()
    }

    /// Returns whether `node` is sent every delta.
    pub fn feeds(&self, node: NodeId) -> bool {
        self.fed().any(|worker| worker.node == node)
    }
}

/// Which surviving nodes hold a complete copy of one partition at the resume epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Whether the previous owner survives with live state that can be rewound.
    pub live: bool,
    /// The surviving nodes whose vaults hold an encoded replica.
    pub replicas: BTreeSet<NodeId>,
}

/// The outcome of a takeover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// The new table.
    pub assignment: Assignment,
    /// The partitions whose owner changed, ascending.
    pub moved: Vec<PartitionId>,
    /// The partitions with fewer backups on other nodes than asked for, ascending.
    pub under_replicated: Vec<PartitionId>,
}

/// No surviving node holds a complete copy of some partitions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no surviving copy of partitions {}: they were held by nodes {}",
    Ranges(.partitions), list(.holders)
)]
pub struct LostPartitions {
    /// The partitions, ascending.
    pub partitions: Vec<PartitionId>,
    /// The nodes that owned or backed them up, ascending.
    pub holders: Vec<NodeId>,
}

/// Returns the greatest number of backups that a cluster of `nodes` nodes can keep.
///
/// A single node is its own backup: its vault holds a replica apart from the live state, which
/// protects from the panic of a worker.
pub fn backups_max(nodes: usize) -> u32 {
    u32::try_from(nodes.saturating_sub(1)).unwrap_or(u32::MAX).max(1)
}

impl Assignment {
    /// Assigns `partitions` to the workers of `ring`, with `backups` replicas each.
    ///
    /// Every worker owns `floor(partitions / workers)` of them or one more. Backups lie on as many
    /// other nodes, spread so that the death of a node burdens all others alike; `backups` is
    /// clipped to [`backups_max`]. On a single node the backup is another of its workers, on a
    /// single worker the worker itself. An empty ring gives an empty table.
    pub fn first(ring: &Ring, partitions: u32, backups: u32) -> Self {
        if ring.is_empty() {
            return Assignment::default();
        }
        let owners = first_owners(ring, partitions);
        let mut workers_of = BTreeMap::<NodeId, usize>::new();
        ring.workers().for_each(|worker| *workers_of.entry(worker.node).or_default() += 1);
        let mut owned_by = BTreeMap::<NodeId, usize>::new();
        owners.iter().for_each(|owner| *owned_by.entry(owner.node).or_default() += 1);

        let backups = backups.min(backups_max(workers_of.len())) as usize;
        let total_max = (owners.len() * backups).div_ceil(ring.len());
        let mut total = Load::default();
        let mut from_node = BTreeMap::<NodeId, Load>::new();
        let place = |(partition, owner): (PartitionId, WorkerId)| {
            let others = ring.len() - workers_of[&owner.node];
            let from_max = (owned_by[&owner.node] * backups).div_ceil(others.max(1));
            let from = from_node.entry(owner.node).or_default();
            let walk: Vec<WorkerId> = ring.walk(partition).collect();
            let mut chosen: Vec<WorkerId> = Vec::with_capacity(backups);
            for _ in 0..backups {
                let apart = |worker: &&WorkerId| {
                    worker.node != owner.node
                        && chosen.iter().all(|backup| backup.node != worker.node)
                };
                let beside = |worker: &&WorkerId| others == 0 && **worker != owner;
                let mut candidates: Vec<WorkerId> = walk.iter().filter(apart).copied().collect();
                if candidates.is_empty() {
                    candidates = walk.iter().filter(beside).copied().collect();
                }
                let room = |worker: &WorkerId| {
                    total.of(*worker) < total_max && from.of(*worker) < from_max
                };
                let backup =
                    candidates.iter().copied().find(room).or_else(|| total.least(&candidates));
                let backup = backup.unwrap_or(owner);
                total.add(backup);
                from.add(backup);
                chosen.push(backup);
            }
            Place { owner, backups: chosen, filling: Vec::new() }
        };
        let places = (0..partitions).map(PartitionId).zip(owners).map(place).collect();
        Assignment { places }
    }

    /// Assigns the partitions anew among the survivors on `ring`, moving no state.
    ///
    /// `copies` says for each partition which survivors hold a copy. A partition whose owner
    /// survives with live state stays. Any other goes to a worker of a node that holds a replica:
    /// the first clockwise with room under the mean load, else the least loaded. Its backups are
    /// the other holders of replicas, up to `backups` of them; if there is none, the owner's own
    /// node goes on as its backup where it holds a replica. A partition with fewer backups on other
    /// nodes counts as under-replicated, and the next nodes clockwise that have room are filled to
    /// become its backups; where there is no other node, the owner's own.
    ///
    /// Where `lean` nodes hold replicas, they are given their share, which is the only reason for which a
    /// partition of a survivor moves.
    ///
    /// Fails, and names the partitions, if nobody holds a copy of some.
    pub fn next(
        &self,
        ring: &Ring,
        copies: &[Copies],
        backups: u32,
        lean: &BTreeSet<NodeId>,
    ) -> Result<Takeover, LostPartitions> {
        assert_eq!(copies.len(), self.places.len(), "one entry of copies for each partition");
        self.check_lost(copies)?;
        let mut owners = self.next_owners(ring, copies);
        move_owners(&mut owners, ring, copies, lean);
        let mut takeover = Takeover {
            assignment: Assignment::default(),
            moved: Vec::new(),
            under_replicated: Vec::new(),
        };
        let mut load = Load::default();
        for ((partition, old), (copies, owner)) in self.iter().zip(copies.iter().zip(owners)) {
            let mut holders: Vec<NodeId> =
                copies.replicas.iter().copied().filter(|node| *node != owner.node).collect();
            // The holders of the previous view come first, in their order: nothing moves needlessly.
            holders.sort_by_key(|node| {
                old.backups.iter().position(|b| b.node == *node).unwrap_or(usize::MAX)
            });
            holders.truncate(backups as usize);
            if (holders.len() as u32) < backups {
                takeover.under_replicated.push(partition);
            }
            if holders.is_empty() && backups > 0 && copies.replicas.contains(&owner.node) {
                holders.push(owner.node);
            }
            let mut chosen = Vec::with_capacity(holders.len());
            for node in holders {
                let before = old
                    .backups
                    .iter()
                    .copied()
                    .find(|backup| backup.node == node && *backup != owner);
                let candidates: Vec<WorkerId> = ring
                    .walk(partition)
                    .filter(|worker| worker.node == node && *worker != owner)
                    .collect();
                let backup = before.or_else(|| load.least(&candidates)).unwrap_or(owner);
                load.add(backup);
                chosen.push(backup);
            }
            if owner != old.owner {
                takeover.moved.push(partition);
            }
            takeover.assignment.places.push(Place { owner, backups: chosen, filling: Vec::new() });
        }
        move_backups(&mut takeover.assignment, ring, copies, lean);
        fill(ring, &mut takeover.assignment, backups);
        Ok(takeover)
    }

    /// Returns the partitions with their places, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &Place)> {
        (0..).map(PartitionId).zip(&self.places)
    }

    /// Returns the place of `partition`, if it is in the table.
    pub fn place(&self, partition: PartitionId) -> Option<&Place> {
        self.places.get(partition.0 as usize)
    }

    /// Returns the partitions that `worker` owns, ascending.
    pub fn owned_by(&self, worker: WorkerId) -> impl Iterator<Item = PartitionId> + '_ {
        self.iter().filter(move |(_, place)| place.owner == worker).map(|(partition, _)| partition)
    }

    /// Returns the partitions that have fewer than `backups` backups on nodes other than their owner's.
    pub fn under_replicated(&self, backups: u32) -> Vec<PartitionId> {
        let apart = |place: &Place| {
            place.backups.iter().filter(|b| b.node != place.owner.node).count() as u32
        };
        self.iter()
            .filter(|(_, place)| apart(place) < backups)
            .map(|(partition, _)| partition)
            .collect()
    }

    /// Returns the partitions that another worker owns in `next`.
    pub fn moved(&self, next: &Assignment) -> Vec<PartitionId> {
        let pairs = self.iter().zip(&next.places);
        pairs
            .filter(|((_, old), new)| old.owner != new.owner)
            .map(|((partition, _), _)| partition)
            .collect()
    }

    fn check_lost(&self, copies: &[Copies]) -> Result<(), LostPartitions> {
        let mut partitions = Vec::new();
        let mut holders = BTreeSet::new();
        for ((partition, place), copies) in self.iter().zip(copies) {
            if !copies.live && copies.replicas.is_empty() {
                partitions.push(partition);
                holders.insert(place.owner.node);
                holders.extend(place.backups.iter().map(|backup| backup.node));
            }
        }
        if partitions.is_empty() {
            return Ok(());
        }
        Err(LostPartitions { partitions, holders: holders.into_iter().collect() })
    }

    fn next_owners(&self, ring: &Ring, copies: &[Copies]) -> Vec<WorkerId> {
        let mut owners: Vec<WorkerId> = self.places.iter().map(|place| place.owner).collect();
        let mut load = Load::default();
        let mut orphans = Vec::new();
        for ((partition, place), copies) in self.iter().zip(copies) {
            if copies.live {
                load.add(place.owner);
            } else {
                orphans.push(partition);
            }
        }
        // Those with the least choice choose first; the sort is stable, so ties keep their order.
        orphans.sort_by_key(|partition| copies[partition.0 as usize].replicas.len());
        let load_max = owners.len().div_ceil(ring.len().max(1));
        for partition in orphans {
            let holders = &copies[partition.0 as usize].replicas;
            let candidates: Vec<WorkerId> =
                ring.walk(partition).filter(|worker| holders.contains(&worker.node)).collect();
            let owner = candidates.iter().copied().find(|worker| load.of(*worker) < load_max);
            let Some(owner) = owner.or_else(|| load.least(&candidates)) else {
                unreachable!(
                    "partition {partition} has holders {holders:?}, of which none is on the ring"
                );
            };
            load.add(owner);
            owners[partition.0 as usize] = owner;
        }
        owners
    }
}

/// Gives every worker `floor(P / W)` partitions, and one more to as many as there are left over.
fn first_owners(ring: &Ring, partitions: u32) -> Vec<WorkerId> {
    let share = partitions as usize / ring.len();
    let mut left_over = partitions as usize % ring.len();
    let mut load = Load::default();
    let mut owners = Vec::with_capacity(partitions as usize);
    for partition in (0..partitions).map(PartitionId) {
        let has_room = |worker: &WorkerId| {
            load.of(*worker) < share || (left_over > 0 && load.of(*worker) == share)
        };
        let Some(owner) = ring.walk(partition).find(has_room) else {
            unreachable!("the shares of all workers add up to all partitions");
        };
        if load.of(owner) == share {
            left_over -= 1;
        }
        load.add(owner);
        owners.push(owner);
    }
    owners
}

/// Chooses who is to be filled so that every partition has `backups` backups on other nodes again.
fn fill(ring: &Ring, assignment: &mut Assignment, backups: u32) {
    let places = assignment.places.iter().flat_map(|place| &place.backups);
    let mut load = Load::default();
    places.for_each(|backup| load.add(*backup));
    let load_max = (assignment.places.len() * backups as usize).div_ceil(ring.len().max(1));
    for (partition, place) in (0..).map(PartitionId).zip(&mut assignment.places) {
        let owner = place.owner;
        let apart = |worker: &WorkerId| worker.node != owner.node;
        let mut lacking = (backups as usize)
            .saturating_sub(place.backups.iter().filter(|backup| apart(backup)).count());
        while lacking > 0 {
            let free: Vec<WorkerId> =
                ring.walk(partition).filter(|worker| !place.feeds(worker.node)).collect();
            let mut candidates: Vec<WorkerId> = free.iter().copied().filter(apart).collect();
            // Alone, a node fills a copy for the panics of its own workers.
            if candidates.is_empty() && place.fed().next().is_none() {
                candidates = free.iter().copied().filter(|worker| *worker != owner).collect();
                if candidates.is_empty() {
                    candidates.push(owner);
                }
            }
            let room = candidates.iter().copied().find(|worker| load.of(*worker) < load_max);
            let Some(chosen) = room.or_else(|| load.least(&candidates)) else { break };
            load.add(chosen);
            place.filling.push(chosen);
            lacking -= 1;
        }
    }
}

/// How many partitions each worker has been given so far.
#[derive(Default)]
pub(super) struct Load(BTreeMap<WorkerId, usize>);

impl Load {
    pub(super) fn of(&self, worker: WorkerId) -> usize {
        self.0.get(&worker).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, worker: WorkerId) {
        *self.0.entry(worker).or_default() += 1;
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        *self.0.entry(worker).or_default() -= 1;
    }

    /// The first of the least loaded.
    fn least(&self, candidates: &[WorkerId]) -> Option<WorkerId> {
        candidates.iter().copied().rev().max_by_key(|worker| Reverse(self.of(*worker)))
    }
}

impl TryFrom<PlaceLists> for Place {
    type Error = String;

    fn try_from((holders, filling): PlaceLists) -> Result<Self, String> {
        let worker = |(node, worker)| WorkerId { node, worker };
        let mut holders = holders.into_iter().map(worker);
        let owner = holders.next().ok_or("a partition has no owner")?;
        let filling = filling.into_iter().map(worker).collect();
        Ok(Place { owner, backups: holders.collect(), filling })
    }
}

impl From<Place> for PlaceLists {
    fn from(place: Place) -> Self {
        let pair = |worker: WorkerId| (worker.node, worker.worker);
        let holders = std::iter::once(place.owner).chain(place.backups).map(pair).collect();
        (holders, place.filling.into_iter().map(pair).collect())
    }
}

#[cfg(test)]
#[path = "assignment_tests.rs"]
mod tests;
