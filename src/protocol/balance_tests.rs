//! A newcomer comes to its share in two steps, and nothing else moves.

use super::super::assignment::Takeover;
use super::*;

fn ring(nodes: impl IntoIterator<Item = u64>, workers: u32) -> Ring {
    let workers_of = |node| (0..workers).map(move |worker| WorkerId { node: NodeId(node), worker });
    Ring::new(nodes.into_iter().flat_map(workers_of))
}

/// What the nodes of a table hold of it.
fn copies(table: &Assignment) -> Vec<Copies> {
    let of = |place: &super::super::assignment::Place| Copies {
        live: true,
        replicas: place.backups.iter().map(|backup| backup.node).collect(),
    };
    table.places.iter().map(of).collect()
}

fn owned(table: &Assignment, node: u64) -> usize {
    table.places.iter().filter(|place| place.owner.node == NodeId(node)).count()
}

/// Two of three nodes are left, and the third comes back.
fn shrunk(workers: u32) -> Assignment {
    let all = Assignment::first(&ring(0..3, workers), 256, 1);
    let gone = |place: &super::super::assignment::Place| place.owner.node == NodeId(2);
    let mut held = copies(&all);
    for (place, copies) in all.places.iter().zip(&mut held) {
        copies.live = !gone(place);
        copies.replicas.remove(&NodeId(2));
    }
    let next = all.next(&ring(0..2, workers), &held, 1, &BTreeSet::new()).unwrap();
    let mut table = next.assignment;
    // The refill is over.
    for place in &mut table.places {
        let filled = std::mem::take(&mut place.filling);
        if !filled.is_empty() {
            place.backups = filled;
        }
    }
    table
}

#[test]
fn only_who_owns_next_to_nothing_is_lean() {
    let all = Assignment::first(&ring(0..3, 2), 256, 1);
    assert_eq!(lean_nodes(&all, &ring(0..3, 2)), [].into());
    assert_eq!(lean_nodes(&shrunk(2), &ring(0..2, 2)), [].into());
    assert_eq!(lean_nodes(&shrunk(2), &ring(0..3, 2)), [NodeId(2)].into());
    let few = Assignment::first(&ring(0..2, 1), 2, 1);
    assert_eq!(lean_nodes(&few, &ring(0..3, 1)), [].into(), "there is nothing to share out");
}

#[test]
fn a_newcomer_is_filled_first_and_owns_its_share_then() {
    for workers in [1, 2] {
        let (before, ring) = (shrunk(workers), ring(0..3, workers));
        let lean = lean_nodes(&before, &ring);
        let held = copies(&before);
        let mut wanted = held.clone();
        wanted.iter_mut().for_each(|copies| copies.replicas.extend(&lean));
        let goal = before.next(&ring, &wanted, 1, &lean).unwrap().assignment;

        let Takeover { assignment: mut filling, moved, .. } =
            before.next(&ring, &held, 1, &lean).unwrap();
        assert_eq!(moved, [], "it holds nothing yet");
        fill_towards(&mut filling, &goal, &held, &lean);
        let filled = filling.places.iter().filter(|place| !place.filling.is_empty()).count();
        let share = 256 / ring.len() * workers as usize;
        assert_eq!(filled, 2 * share, "as many to own as to back up");

        let mut whole = copies(&filling);
        for (place, copies) in filling.places.iter().zip(&mut whole) {
            copies.replicas.extend(place.filling.iter().map(|worker| worker.node));
        }
        let after = filling.next(&ring, &whole, 1, &lean).unwrap();
        let pairs = after.assignment.places.iter().zip(&goal.places).enumerate();
        let differing: Vec<_> = pairs.filter(|(_, (after, goal))| after != goal).collect();
        assert!(differing.is_empty(), "{} differ: {:?}", differing.len(), differing.first());
        assert_eq!(owned(&after.assignment, 2), share);
        assert_eq!(after.moved.len(), share, "nothing else moves");
        assert!(
            after
                .moved
                .iter()
                .all(|p| { after.assignment.places[p.0 as usize].owner.node == NodeId(2) })
        );
        assert_eq!(after.under_replicated, []);
        let backed = after.assignment.places.iter().filter(|place| place.feeds(NodeId(2))).count();
        assert_eq!(backed, share);
        assert_eq!(lean_nodes(&after.assignment, &ring), [].into());
    }
}

#[test]
fn only_what_is_whole_moves() {
    let (before, ring) = (shrunk(1), ring(0..3, 1));
    let mut some = copies(&before);
    some[..10].iter_mut().for_each(|copies| copies.replicas.extend([NodeId(2)]));
    let after = before.next(&ring, &some, 1, &[NodeId(2)].into()).unwrap();
    assert!(owned(&after.assignment, 2) <= 10);
    assert!(after.moved.iter().all(|partition| partition.0 < 10), "{:?}", after.moved);
}
