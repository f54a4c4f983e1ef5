//! The next view, from what the survivors say they hold.

use super::super::samples_tests::copies_of;
use super::super::view::{ClusterShape, ReplicaSpan};
use super::*;

fn first(nodes: u64, backups: u32) -> View {
    let member = |node| Member {
        node: NodeId(node),
        incarnation: Incarnation(1),
        address: format!("h:{node}"),
        evidence: None,
    };
    let shape = ClusterShape { nodes: nodes as u32, workers_per_node: 1, partitions: 12, backups };
    View::first("run", (0..nodes).map(member).collect(), &shape)
}

/// What `node` holds if it stored everything up to `through` and recorded `recorded`.
fn evidence(
    view: &View,
    node: u64,
    recorded: Option<u64>,
    through: Option<u64>,
) -> (NodeId, (Incarnation, Evidence)) {
    let node = NodeId(node);
    let copies = copies_of(view, node, through.map(Epoch));
    let operators = vec![OperatorName::new("counts")];
    (
        node,
        (
            Incarnation(1),
            Evidence {
                view: view.number,
                recorded: recorded.map(Epoch),
                copies,
                operators,
                journals: false,
                dropped: Vec::new(),
            },
        ),
    )
}

#[test]
fn the_greatest_record_is_the_resume_epoch() {
    let view = first(3, 1);
    let plan = next_view(
        &view,
        &[evidence(&view, 0, Some(4), Some(5)), evidence(&view, 2, Some(5), Some(5))].into(),
    );
    let plan = plan.unwrap();
    assert_eq!(plan.view.resume, Some(Epoch(5)));
    assert_eq!(plan.left, [NodeId(1)]);
    assert_eq!(
        plan.moved,
        view.assignment
            .owned_by(
                view.assignment
                    .places
                    .iter()
                    .map(|place| place.owner)
                    .find(|owner| owner.node == NodeId(1))
                    .unwrap()
            )
            .collect::<Vec<_>>()
    );
    crate::protocol::invariants::successor(&view, &plan.view).unwrap();
}

/// Node 2 crashed after node 0 had recorded epoch 5; node 1 stored it too but was stopped before it
/// learned that its replica is complete. Its replica must count.
#[test]
fn what_anyone_recorded_is_stored_by_every_backup() {
    let view = first(3, 1);
    let plan = next_view(
        &view,
        &[evidence(&view, 0, Some(5), Some(5)), evidence(&view, 1, Some(3), Some(3))].into(),
    );
    assert_eq!(plan.unwrap().view.resume, Some(Epoch(5)));
}

/// A restarted generation that recorded nothing resumes where the register says, not from nothing.
#[test]
fn the_resume_epoch_never_falls() {
    let view = first(3, 2);
    let all = [0, 1, 2].map(|node| evidence(&view, node, Some(7), Some(8)));
    let second = next_view(&view, &all.into()).unwrap().view;
    let plan = next_view(&second, &[evidence(&second, 1, None, Some(7))].into()).unwrap();
    assert_eq!(plan.view.resume, Some(Epoch(7)));
    assert_eq!(plan.under_replicated.len(), 12);
}

#[test]
fn a_replica_that_begins_above_or_ends_below_is_none() {
    let view = first(2, 1);
    let (node, (incarnation, mut short)) = evidence(&view, 1, None, Some(2));
    let second =
        next_view(&view, &[0, 1].map(|node| evidence(&view, node, Some(3), Some(3))).into())
            .unwrap()
            .view;
    short.view = second.number;
    let lost = next_view(&second, &[(node, (incarnation, short.clone()))].into()).unwrap_err();
    assert!(matches!(lost, PlanError::Lost { .. }), "{lost}");
    for copy in &mut short.copies {
        copy.replica =
            copy.replica.map(|_| ReplicaSpan { from: Some(Epoch(4)), through: Some(Epoch(9)) });
    }
    let lost = next_view(&second, &[(node, (incarnation, short))].into()).unwrap_err();
    assert!(lost.to_string().contains(
        "of operators counts is lost: its holders were nodes 0, 1, and gone are nodes 0"
    ));
}

/// What was fed by hand is acknowledged before anything is committed: a node that had no part in a
/// partition holds none of its journals, though it holds all of nothing else.
#[test]
fn before_the_first_commit_journals_stay_with_those_who_have_them() {
    let view = first(4, 1);
    let given = |journals: bool| -> BTreeMap<_, _> {
        [0, 1, 2]
            .map(|node| {
                let (node, (incarnation, evidence)) = evidence(&view, node, None, None);
                (node, (incarnation, Evidence { journals, ..evidence }))
            })
            .into()
    };
    let plan = next_view(&view, &given(false)).unwrap();
    assert_eq!(plan.under_replicated, []);
    let plan = next_view(&view, &given(true)).unwrap();
    for (partition, place) in plan.view.assignment.iter() {
        let before = view.assignment.place(partition).unwrap();
        let had = |node| before.owner.node == node || before.feeds(node);
        assert!(had(place.owner.node), "{partition} goes to {}", place.owner);
        assert!(place.backups.iter().all(|backup| had(backup.node)));
        // A new owner that nobody else backs is its own backup until the other one is filled.
        let others = place.fed().filter(|fed| fed.node != place.owner.node);
        assert_eq!(others.count(), 1, "{partition} gets its backup");
    }
    crate::protocol::invariants::successor(&view, &plan.view).unwrap();
}

#[test]
fn journals_that_died_with_all_who_had_them_are_lost() {
    let view = first(3, 1);
    let (node, (incarnation, alone)) = evidence(&view, 0, None, None);
    let nothing = [(node, (incarnation, alone.clone()))].into();
    assert!(next_view(&view, &nothing).is_ok());
    let journals = Evidence { journals: true, ..alone };
    let lost = next_view(&view, &[(node, (incarnation, journals))].into()).unwrap_err();
    assert!(matches!(lost, PlanError::Lost { .. }), "{lost}");
}

/// A panicked worker's live state is no copy: its partitions move, those of the others stay.
#[test]
fn a_panicked_worker_loses_its_partitions() {
    let view = first(2, 1);
    let (node, (incarnation, mut panicked)) = evidence(&view, 0, Some(1), Some(1));
    panicked.copies.iter_mut().for_each(|copy| copy.live = false);
    let plan = next_view(
        &view,
        &[(node, (incarnation, panicked)), evidence(&view, 1, Some(1), Some(1))].into(),
    );
    let plan = plan.unwrap();
    assert_eq!(plan.moved.len(), 6);
    assert!(plan.view.assignment.places.iter().all(|place| place.owner.node == NodeId(1)));
    assert_eq!(plan.left, []);
}

#[test]
fn strangers_and_other_views_are_refused() {
    let view = first(2, 1);
    assert!(matches!(next_view(&view, &BTreeMap::new()), Err(PlanError::NoEvidence { .. })));
    let (node, (_, good)) = evidence(&view, 0, None, None);
    let reborn = [(node, (Incarnation(2), good.clone()))].into();
    assert!(matches!(next_view(&view, &reborn), Err(PlanError::NotAMember { .. })));
    let other = Evidence { view: ViewNumber(2), ..good };
    assert!(matches!(
        next_view(&view, &[(node, (Incarnation(1), other))].into()),
        Err(PlanError::OtherView { .. })
    ));
}
