//! Each property notices what it is for.

use super::super::plan::next_view;
use super::super::view::{ClusterShape, CopyEvidence, Member, ReplicaSpan};
use super::*;

/// Three nodes, of which the last dies after epoch 5.
fn views() -> (View, View) {
    let member = |node| Member {
        node: NodeId(node),
        incarnation: Incarnation(1),
        address: format!("h:{node}"),
        evidence: None,
    };
    let shape = ClusterShape { nodes: 3, workers_per_node: 1, partitions: 9, backups: 2 };
    let first = View::first("run", (0..3).map(member).collect(), &shape);
    let evidence = |node| {
        let span = ReplicaSpan { from: Some(Epoch(2)), through: Some(Epoch(5)) };
        let copy = |(partition, place): (PartitionId, &super::super::assignment::Place)| {
            let live = place.owner.node == node;
            CopyEvidence { partition, replica: (!live).then_some(span), live }
        };
        let copies = first.assignment.iter().map(copy).collect();
        (
            Incarnation(1),
            Evidence {
                view: first.number,
                recorded: Some(Epoch(5)),
                copies,
                operators: Vec::new(),
                journals: false,
                dropped: Vec::new(),
            },
        )
    };
    let given = [0, 1].map(|node| (NodeId(node), evidence(NodeId(node)))).into();
    let second = next_view(&first, &given).unwrap().view;
    (first, second)
}

fn violation(break_it: fn(&mut View)) -> Violation {
    let (first, mut second) = views();
    break_it(&mut second);
    successor(&first, &second).unwrap_err()
}

/// A partition of node 2, the dead one, and one of node 0.
fn owned_by(view: &View, node: u64) -> usize {
    let owned = |place: &super::super::assignment::Place| place.owner.node == NodeId(node);
    view.assignment.places.iter().position(owned).unwrap()
}

#[test]
fn a_computed_view_breaks_nothing() {
    let (first, second) = views();
    assert_eq!(successor(&first, &second), Ok(()));
}

#[test]
fn each_property_notices() {
    assert!(matches!(violation(|view| view.partitions = 0), Violation::Damaged(_)));
    assert!(matches!(
        violation(|view| view.previous = Some(view.digest())),
        Violation::Lineage { .. }
    ));
    assert!(matches!(violation(|view| view.backups = 3), Violation::Shape { .. }));
    assert!(matches!(
        violation(|view| view.members[0].incarnation.0 = 9),
        Violation::Stranger { .. }
    ));
    assert!(matches!(
        violation(|view| view.resume = Some(Epoch(6))),
        Violation::ResumeUnfounded { .. }
    ));
    let emptied = violation(|view| {
        let taken = owned_by(view, 0);
        let evidence = view.members[0].evidence.as_mut().unwrap();
        evidence.copies.retain(|copy| copy.partition.0 as usize != taken);
    });
    assert!(matches!(emptied, Violation::OwnerHoldsNothing { .. }), "{emptied}");
    let hollow = violation(|view| {
        let taken = owned_by(view, 0);
        let evidence = view.members[1].evidence.as_mut().unwrap();
        evidence.copies.retain(|copy| copy.partition.0 as usize != taken);
    });
    assert!(matches!(hollow, Violation::BackupHoldsNothing { .. }), "{hollow}");
    let partial = violation(|view| {
        let taken = owned_by(view, 0);
        let copy = &mut view.members[1].evidence.as_mut().unwrap().copies[taken];
        copy.replica = Some(ReplicaSpan { from: Some(Epoch(6)), through: Some(Epoch(9)) });
    });
    assert!(
        matches!(partial, Violation::BackupHoldsNothing { .. }),
        "a base above the resume epoch: {partial}"
    );
}

#[test]
fn needless_moves_are_noticed() {
    let (first, mut second) = views();
    let stays =
        first.assignment.places.iter().position(|place| place.owner.node == NodeId(0)).unwrap();
    let place = &mut second.assignment.places[stays];
    (place.owner, place.backups) = (place.backups[0], Vec::new());
    assert!(matches!(successor(&first, &second), Err(Violation::MovedNeedlessly { .. })));
}

#[test]
fn gaps_and_falls_are_noticed() {
    let (first, second) = views();
    assert!(matches!(numbers_have_no_gaps(&second, &second), Err(Violation::Gap { .. })));
    assert!(matches!(resume_never_falls(&second, &first), Err(Violation::ResumeFell { .. })));
    assert!(released_epochs_stay(Some(Epoch(5)), &second).is_ok());
    assert!(matches!(
        released_epochs_stay(Some(Epoch(6)), &second),
        Err(Violation::ReleasedEpochLost { .. })
    ));
}

#[test]
fn a_second_view_of_a_number_is_noticed() {
    let (first, second) = views();
    let mut believed = OneViewPerNumber::default();
    believed.believe(&first).unwrap();
    believed.believe(&second).unwrap();
    believed.believe(&second).unwrap();
    let rival = View { backups: 1, ..second };
    assert_eq!(believed.believe(&rival), Err(Violation::TwoViews { number: ViewNumber(2) }));
}
