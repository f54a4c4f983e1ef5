//! The tables that the ring proposes: balance, and no takeover by anyone without a copy.

use proptest::prelude::*;

use super::*;

fn ring(nodes: impl IntoIterator<Item = u64>, workers: u32) -> Ring {
    let worker = |node| (0..workers).map(move |worker| WorkerId { node: NodeId(node), worker });
    Ring::new(nodes.into_iter().flat_map(worker))
}

fn loads(assignment: &Assignment, ring: &Ring) -> Vec<usize> {
    ring.workers().map(|worker| assignment.owned_by(worker).count()).collect()
}

/// What the survivors hold when all of them stored everything.
fn copies(assignment: &Assignment, alive: &[u64]) -> Vec<Copies> {
    let lives = |worker: &WorkerId| alive.contains(&worker.node.0);
    let copy = |place: &Place| Copies {
        live: lives(&place.owner),
        replicas: place
            .backups
            .iter()
            .filter(|backup| lives(backup))
            .map(|backup| backup.node)
            .collect(),
    };
    assignment.places.iter().map(copy).collect()
}

#[test]
fn one_worker_is_its_own_backup() {
    let table = Assignment::first(&ring([7], 1), 4, 1);
    for place in &table.places {
        assert_eq!(place.backups, [place.owner]);
    }
}

#[test]
fn one_node_backs_up_on_its_other_workers() {
    let table = Assignment::first(&ring([7], 3), 64, 5);
    for place in &table.places {
        assert_eq!(place.backups.len(), 1);
        assert_ne!(place.backups[0], place.owner);
    }
}

#[test]
fn backups_clip_to_the_cluster() {
    let table = Assignment::first(&ring(0..3, 2), 16, 9);
    assert!(table.places.iter().all(|place| place.backups.len() == 2));
    assert_eq!((backups_max(1), backups_max(2), backups_max(5)), (1, 1, 4));
}

/// A node of three dies: its share of the load falls on both others about alike.
#[test]
fn a_death_burdens_the_others_alike() {
    let table = Assignment::first(&ring(0..3, 2), 256, 1);
    let took = table.next(&ring([0, 2], 2), &copies(&table, &[0, 2]), 1, &BTreeSet::new()).unwrap();
    let loads = loads(&took.assignment, &ring([0, 2], 2));
    assert!(loads.iter().all(|load| (62..=66).contains(load)), "{loads:?}");
    assert_eq!(took.moved.len(), 86);
}

#[test]
fn a_lost_partition_is_named() {
    let table = Assignment::first(&ring(0..3, 1), 12, 1);
    let error = table.next(&ring([1], 1), &copies(&table, &[1]), 1, &BTreeSet::new()).unwrap_err();
    assert!(!error.partitions.is_empty());
    assert_eq!(error.holders, [NodeId(0), NodeId(2)]);
    assert!(error.to_string().starts_with("no surviving copy of partitions "), "{error}");
    assert!(error.to_string().ends_with("they were held by nodes 0, 2"), "{error}");
}

/// The only other node is gone: a survivor that took over goes on as its own backup, and says so.
#[test]
fn the_last_node_is_its_own_backup() {
    let table = Assignment::first(&ring(0..2, 1), 8, 1);
    let took = table.next(&ring([1], 1), &copies(&table, &[1]), 1, &BTreeSet::new()).unwrap();
    for (partition, place) in took.assignment.iter() {
        let moved = took.moved.contains(&partition);
        assert_eq!(
            place.backups.len(),
            usize::from(moved),
            "an owner with live state alone has no replica"
        );
    }
    assert_eq!(took.under_replicated.len(), 8);
}

#[test]
fn json_is_compact_and_comes_back() {
    let table = Assignment::first(&ring(0..2, 1), 3, 1);
    let json = serde_json::to_string(&table).unwrap();
    assert_eq!(json, "[[[[0,0],[1,0]],[]],[[[0,0],[1,0]],[]],[[[1,0],[0,0]],[]]]");
    assert_eq!(serde_json::from_str::<Assignment>(&json).unwrap(), table);
    assert!(serde_json::from_str::<Assignment>("[[]]").is_err());
}

/// Node 1 of three dies: what it held is filled on nodes that have no copy yet, and evenly so.
#[test]
fn lost_backups_are_filled_on_the_next_nodes() {
    let table = Assignment::first(&ring(0..4, 1), 40, 1);
    let survivors = ring([0, 2, 3], 1);
    let copies: Vec<Copies> = table
        .places
        .iter()
        .map(|place| Copies {
            live: place.owner.node != NodeId(1),
            replicas: place.backups.iter().map(|b| b.node).filter(|n| *n != NodeId(1)).collect(),
        })
        .collect();
    let took = table.next(&survivors, &copies, 1, &BTreeSet::new()).unwrap();
    let mut filled = [0; 4];
    for (partition, place) in took.assignment.iter() {
        let lacks = took.under_replicated.contains(&partition);
        assert_eq!(lacks, !place.filling.is_empty(), "{place:?}");
        for worker in &place.filling {
            assert_ne!(worker.node, place.owner.node);
            assert!(!copies[partition.0 as usize].replicas.contains(&worker.node), "{place:?}");
            filled[worker.node.0 as usize] += 1;
        }
    }
    let total: usize = filled.iter().sum();
    assert_eq!(total, took.under_replicated.len());
    assert_eq!(filled[1], 0);
    assert!(
        filled.iter().max().unwrap() - filled[0].min(filled[2]).min(filled[3]) <= 5,
        "{filled:?}"
    );
}

#[test]
fn the_last_node_fills_a_copy_of_its_own() {
    let table = Assignment::first(&ring(0..2, 2), 8, 1);
    let copies: Vec<Copies> = table
        .places
        .iter()
        .map(|place| Copies {
            live: place.owner.node == NodeId(0),
            replicas: place.backups.iter().map(|b| b.node).filter(|n| *n == NodeId(0)).collect(),
        })
        .collect();
    let took = table.next(&ring([0], 2), &copies, 1, &BTreeSet::new()).unwrap();
    for place in &took.assignment.places {
        let guards: Vec<WorkerId> = place.fed().collect();
        assert_eq!(guards.len(), 1, "{place:?}");
        assert_ne!(guards[0], place.owner, "another worker of the node");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_first_table_is_balanced(nodes in 1u64..7, workers in 1u32..4, partitions in 1u32..300, backups in 0u32..4) {
        let ring = ring(0..nodes, workers);
        let table = Assignment::first(&ring, partitions, backups);
        prop_assert_eq!(&table, &Assignment::first(&ring, partitions, backups));
        prop_assert_eq!(table.places.len(), partitions as usize);
        let loads = loads(&table, &ring);
        prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        for place in &table.places {
            prop_assert_eq!(place.backups.len() as u32, backups.min(backups_max(nodes as usize)));
            let nodes_of: BTreeSet<_> = place.backups.iter().map(|backup| backup.node).collect();
            prop_assert_eq!(nodes_of.len(), place.backups.len());
            prop_assert!(nodes == 1 || !nodes_of.contains(&place.owner.node));
        }
        let mut backup_load = Load::default();
        table.places.iter().flat_map(|place| &place.backups).for_each(|backup| backup_load.add(*backup));
        let mean = (partitions as usize * table.places[0].backups.len()).div_ceil(ring.len());
        let most = ring.workers().map(|worker| backup_load.of(worker)).max().unwrap();
        prop_assert!(most <= mean + mean / 2 + 2, "{} over {}", most, mean);
    }

    #[test]
    fn only_holders_take_over(
        nodes in 2u64..7, workers in 1u32..4, partitions in 1u32..200, backups in 1u32..4,
        dead in proptest::collection::vec(0u64..7, 1..4), panicked in proptest::option::of(0u64..7),
    ) {
        let table = Assignment::first(&ring(0..nodes, workers), partitions, backups);
        let alive: Vec<u64> = (0..nodes).filter(|node| !dead.contains(node)).collect();
        prop_assume!(!alive.is_empty());
        let mut copies = copies(&table, &alive);
        for (copies, place) in copies.iter_mut().zip(&table.places) {
            copies.live &= Some(place.owner.node.0) != panicked || place.owner.worker > 0;
        }
        let after = ring(alive.iter().copied(), workers);
        let next = table.next(&after, &copies, backups, &BTreeSet::new());
        prop_assert_eq!(&next, &table.next(&after, &copies, backups, &BTreeSet::new()));
        let lost = copies.iter().filter(|copies| !copies.live && copies.replicas.is_empty()).count();
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                prop_assert_eq!(error.partitions.len(), lost);
                return Ok(());
            }
        };
        prop_assert_eq!(lost, 0);
        prop_assert_eq!(&next.moved, &table.moved(&next.assignment));
        prop_assert_eq!(&next.under_replicated, &next.assignment.under_replicated(backups));
        for ((partition, place), (copies, old)) in next.assignment.iter().zip(copies.iter().zip(&table.places)) {
            if copies.live {
                prop_assert_eq!(place.owner, old.owner, "partition {} moved needlessly", partition);
            } else {
                prop_assert!(copies.replicas.contains(&place.owner.node));
            }
            let elsewhere = copies.replicas.iter().filter(|node| **node != place.owner.node).count();
            for backup in &place.backups {
                prop_assert!(copies.replicas.contains(&backup.node));
                prop_assert!(elsewhere == 0 || backup.node != place.owner.node);
            }
            prop_assert_eq!(place.backups.len(), match elsewhere {
                0 => usize::from(copies.replicas.contains(&place.owner.node)),
                _ => elsewhere.min(backups as usize),
            });
        }
    }

    /// Where everybody holds everything, nobody carries more than the mean, rounded up.
    #[test]
    fn takeovers_stay_balanced(nodes in 2u64..7, workers in 1u32..4, partitions in 1u32..200, dead in 0u64..7) {
        let dead = dead % nodes;
        let table = Assignment::first(&ring(0..nodes, workers), partitions, nodes as u32 - 1);
        let alive: Vec<u64> = (0..nodes).filter(|node| *node != dead).collect();
        let after = ring(alive.iter().copied(), workers);
        let next = table.next(&after, &copies(&table, &alive), nodes as u32 - 1, &BTreeSet::new()).unwrap();
        let most = loads(&next.assignment, &after).into_iter().max().unwrap();
        prop_assert!(most <= (partitions as usize).div_ceil(after.len()));
    }
}
