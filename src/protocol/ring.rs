//! The ring: SHA-1 positions of the workers and of the partitions.
//!
//! A position depends on nothing but the name of the thing, so every node computes the same ring
//! from the same members, and a member that leaves moves nobody else's position. The construction is
//! that of Karger et al., *Consistent Hashing and Random Trees* (STOC 1997), with many points for
//! each worker as in Stoica et al., *Chord* (SIGCOMM 2001, section 6.1), whose SHA-1 it keeps: a
//! position is computed once for each view, never for a record.

use std::collections::BTreeSet;

use ringfence_operators::ids::{PartitionId, WorkerId};
use sha1::{Digest, Sha1};

/// The number of points that each worker has on the ring unless told otherwise.
pub const POINTS_PER_WORKER: u32 = 64;

/// Where the workers stand on the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// INVARIANT: ascending by position, then by worker.
    points: Vec<(u64, WorkerId)>,
    workers: BTreeSet<WorkerId>,
}

impl Ring {
    /// Places `workers` on the ring with [`POINTS_PER_WORKER`] points each.
    pub fn new(workers: impl IntoIterator<Item = WorkerId>) -> Self {
        Self::with_points(workers, POINTS_PER_WORKER)
    }

    /// Places `workers` on the ring with `points_per_worker` points each (at least one).
    pub fn with_points(
        workers: impl IntoIterator<Item = WorkerId>,
        points_per_worker: u32,
    ) -> Self {
        let workers: BTreeSet<WorkerId> = workers.into_iter().collect();
        let mut points: Vec<(u64, WorkerId)> = workers
            .iter()
            .flat_map(|&worker| {
                (0..points_per_worker.max(1)).map(move |i| (worker_position(worker, i), worker))
            })
            .collect();
        points.sort_unstable();
        Ring { points, workers }
    }

    /// Returns the workers on the ring, ascending.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.workers.iter().copied()
    }

    /// Returns the number of workers on the ring.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Returns whether no worker is on the ring.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Returns every worker once, in the order in which one meets them clockwise from `partition`.
    pub fn walk(&self, partition: PartitionId) -> impl Iterator<Item = WorkerId> + '_ {
        let position = partition_position(partition);
        let start = self.points.partition_point(|&(point, _)| point < position);
        let mut met = BTreeSet::new();
        self.points[start..]
            .iter()
            .chain(&self.points[..start])
            .filter_map(move |&(_, worker)| met.insert(worker).then_some(worker))
    }
}

/// Returns the position of a worker's `i`-th point.
pub fn worker_position(worker: WorkerId, i: u32) -> u64 {
    position(&format!("worker/{}/{}/{i}", worker.node, worker.worker))
}

/// Returns the position of a partition.
pub fn partition_position(partition: PartitionId) -> u64 {
    position(&format!("partition/{partition}"))
}

fn position(name: &str) -> u64 {
    let digest = Sha1::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |position, &byte| position << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use ringfence_operators::ids::NodeId;

    use super::*;

    fn worker(node: u64, worker: u32) -> WorkerId {
        WorkerId { node: NodeId(node), worker }
    }

    /// The values come from `printf 'worker/0/0/0' | sha1sum`: views written by one release must
    /// mean the same to the next.
    #[test]
    fn positions_are_those_of_sha1sum() {
        assert_eq!(worker_position(worker(0, 0), 0), 0x9313_4959_6ab5_4c2e);
        assert_eq!(worker_position(worker(2, 1), 63), 0xcde0_9510_3181_1375);
        assert_eq!(partition_position(PartitionId(0)), 0xd35a_08a5_66b0_3ffb);
        assert_eq!(partition_position(PartitionId(255)), 0xd98d_3b8c_d6a0_a668);
    }

    #[test]
    fn a_walk_meets_every_worker_once() {
        let ring = Ring::new((0..3).flat_map(|node| [worker(node, 0), worker(node, 1)]));
        for partition in (0..256).map(PartitionId) {
            let walk: Vec<_> = ring.walk(partition).collect();
            assert_eq!(walk.len(), 6);
            assert_eq!(walk.iter().collect::<BTreeSet<_>>().len(), 6);
        }
        let walk: Vec<String> =
            ring.walk(PartitionId(0)).map(|worker| worker.to_string()).collect();
        assert_eq!(walk.join(" "), "0/1 0/0 1/0 2/1 2/0 1/1");
    }

    #[test]
    fn a_leaver_moves_nobody_else() {
        let all = Ring::new((0..4).map(|node| worker(node, 0)));
        let without = Ring::new([0, 1, 3].map(|node| worker(node, 0)));
        for partition in (0..64).map(PartitionId) {
            let left: Vec<_> =
                all.walk(partition).filter(|worker| worker.node != NodeId(2)).collect();
            assert_eq!(left, without.walk(partition).collect::<Vec<_>>());
        }
    }
}
