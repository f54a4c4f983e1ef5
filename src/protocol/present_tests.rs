//! A node's part in its view: who may connect, when workers start, and when evidence is due.

use std::collections::BTreeSet;

use ringfence_operators::ids::{Incarnation, NodeId, PartitionId, ViewNumber};

use super::message::Input;
use super::present::{ABANDONED_MAX, Answer, Caller, Due, Present, PresentLimits, Standing, Why};
use super::view::{ClusterShape, CopyEvidence, Evidence, Member, View};

const WORKERS: usize = 2;

/// Calls and connections are numbers.
type Tested = Present<u32, u32>;

fn member(node: u64) -> Member {
    Member {
        node: NodeId(node),
        incarnation: Incarnation(1),
        address: String::new(),
        evidence: None,
    }
}

/// A view of nodes 0 to 2.
fn view(number: u64) -> View {
    let shape =
        ClusterShape { nodes: 3, workers_per_node: WORKERS as u32, partitions: 8, backups: 1 };
    let first = View::first("run", (0..3).map(member).collect(), &shape);
    View { number: ViewNumber(number), ..first }
}

/// Node 1 of three.
fn present() -> Tested {
    let limits = PresentLimits { hand_over_ms: 250, await_ms: 1_000 };
    Present::new(NodeId(1), (0..3).map(NodeId).collect(), WORKERS, limits)
}

/// Node 1, whose generation of `number` runs.
fn running(number: u64) -> Tested {
    let mut present = present();
    run(&mut present, number);
    present
}

fn run(present: &mut Tested, number: u64) {
    present.install(view(number));
    assert!(present.link(ViewNumber(number), NodeId(0), 0));
    assert!(present.link(ViewNumber(number), NodeId(2), 2));
    assert!(present.start().is_some());
}

/// What node `node` is answered that wants a connection for a view.
fn answer(present: &Tested, node: u64, number: u64) -> Answer {
    let digest = view(number).digest().0;
    let incarnation = Incarnation(1);
    let known = Some(incarnation);
    let view = ViewNumber(number);
    present.answer(&Caller { node: NodeId(node), incarnation, view, digest: &digest, known })
}

fn evidence(number: u64) -> Evidence {
    Evidence {
        view: ViewNumber(number),
        recorded: None,
        copies: Vec::new(),
        operators: Vec::new(),
        journals: false,
        dropped: Vec::new(),
    }
}

/// The partitions of which `due` says that they may still come.
fn awaited(present: &Tested, due: Due, evidence: Evidence) -> Vec<PartitionId> {
    match present.testify(due, evidence) {
        Input::GenerationStopped { awaited, .. } | Input::EvidenceGrown { awaited, .. } => awaited,
        other => panic!("no evidence: {other:?}"),
    }
}

fn owned(number: u64, worker: u32) -> BTreeSet<PartitionId> {
    let view = view(number);
    let own = |owner: ringfence_operators::ids::WorkerId| {
        owner.node == NodeId(1) && owner.worker == worker
    };
    view.assignment.iter().filter(|(_, place)| own(place.owner)).map(|(p, _)| p).collect()
}

#[test]
fn a_generation_starts_once_all_data_connections_stand_and_then_never_again() {
    let mut present = present();
    assert!(present.install(view(1)).is_empty());
    let lower: Vec<NodeId> = present.lower().iter().map(|member| member.node).collect();
    assert_eq!(lower, [NodeId(0)], "the others connect to this one");
    assert_eq!(present.start(), None);
    assert!(present.link(ViewNumber(1), NodeId(0), 10));
    assert_eq!(present.start(), None);
    assert!(present.link(ViewNumber(1), NodeId(2), 12));
    assert_eq!(present.start(), Some(vec![Some(10), None, Some(12)]));
    assert!(present.is_started() && present.has_threads());
    assert_eq!(present.start(), None);
}

#[test]
fn what_was_never_started_gives_evidence_at_once_and_does_not_start_later() {
    let mut present = present();
    present.install(view(1));
    present.link(ViewNumber(1), NodeId(0), 0);
    assert_eq!(present.stop(5, ViewNumber(1)), Some(Due::Close));
    assert!(present.is_stopping());
    assert!(!present.link(ViewNumber(1), NodeId(2), 2), "it is closed again");
    assert_eq!(present.start(), None);
    assert_eq!(answer(&present, 2, 1), Answer::Refuse(Why::Ended));
    assert_eq!(present.next_deadline(), None);
}

#[test]
fn evidence_is_due_when_all_threads_are_joined() {
    let mut present = running(1);
    assert_eq!(present.stop(10, ViewNumber(1)), None);
    assert!(!present.worker_ended(ViewNumber(1), 0, false).is_last);
    let last = present.worker_ended(ViewNumber(1), 1, false);
    assert_eq!((last.standing, last.is_last), (Standing::InTime, true));
    assert_eq!(present.due(10_000), None, "all have ended");
    assert_eq!(present.joined(ViewNumber(1)), Some(Due::Close));
    assert_eq!(awaited(&present, Due::Close, evidence(1)), []);
}

#[test]
fn a_complete_job_has_no_evidence_to_give() {
    let mut present = running(1);
    present.worker_ended(ViewNumber(1), 0, true);
    assert!(!present.is_finished());
    present.worker_ended(ViewNumber(1), 1, true);
    assert!(present.is_finished());
    assert_eq!(present.joined(ViewNumber(1)), None);
}

#[test]
fn a_worker_that_does_not_leave_is_not_waited_for_but_what_it_has_is_awaited() {
    let mut present = running(1);
    present.stop(10, ViewNumber(1));
    present.worker_ended(ViewNumber(1), 0, false);
    assert_eq!(present.next_deadline(), Some(260));
    assert_eq!(present.due(259), None);
    assert_eq!(present.due(260), Some(Due::CloseEarly));
    assert_eq!(present.asked_since_ms(260), Some(250));
    assert!(present.is_awaiting());
    let late: BTreeSet<PartitionId> =
        awaited(&present, Due::CloseEarly, evidence(1)).into_iter().collect();
    assert_eq!(late, owned(1, 1), "of the worker that has not left");
    assert!(!late.is_empty());

    // What has come is not awaited any more.
    let come = *late.first().expect("it owns something");
    let copy = CopyEvidence { partition: come, replica: None, live: true };
    let grown = awaited(&present, Due::Grow, Evidence { copies: vec![copy], ..evidence(1) });
    assert_eq!(grown.len() + 1, late.len());

    let last = present.worker_ended(ViewNumber(1), 1, false);
    assert_eq!((last.standing, last.is_last), (Standing::Late, true));
    assert_eq!(awaited(&present, Due::Grow, evidence(1)), []);
    assert!(!present.is_awaiting());
    assert_eq!(present.joined(ViewNumber(1)), None, "evidence was given");
}

#[test]
fn a_late_worker_is_awaited_no_longer_than_one_that_hangs() {
    let mut present = running(1);
    present.stop(0, ViewNumber(1));
    assert_eq!(present.due(300), Some(Due::CloseEarly));
    assert_eq!(present.due(300), None, "once");
    assert_eq!(present.next_deadline(), Some(1_300));
    assert_eq!(present.due(1_300), Some(Due::Grow));
    assert_eq!(awaited(&present, Due::Grow, evidence(1)), []);
    assert_eq!((present.next_deadline(), present.due(9_999)), (None, None));
    assert_eq!(
        present.worker_ended(ViewNumber(1), 0, true).standing,
        Standing::Late,
        "what it handed over still counts"
    );
    assert!(!present.is_finished());
}

#[test]
fn the_end_of_a_worker_of_an_earlier_view_says_nothing_of_the_present_one() {
    let mut present = running(1);
    present.stop(0, ViewNumber(1));
    present.due(250);
    run(&mut present, 2);
    assert!(present.hosts(ViewNumber(1)));
    let first = present.worker_ended(ViewNumber(1), 0, false);
    assert_eq!((first.standing, first.is_last), (Standing::Over, false));
    assert!(!present.has_any_ended());
    assert!(present.worker_ended(ViewNumber(1), 1, false).is_last);
    assert_eq!(present.joined(ViewNumber(1)), None);
    assert!(!present.hosts(ViewNumber(1)) && present.hosts(ViewNumber(2)));
}

#[test]
fn generations_with_threads_left_are_bounded() {
    let mut present = running(1);
    for number in 1..=ABANDONED_MAX as u64 {
        present.stop(0, ViewNumber(number));
        assert_eq!(present.due(250), Some(Due::CloseEarly), "view {number}");
        run(&mut present, number + 1);
    }
    let last = ViewNumber(ABANDONED_MAX as u64 + 1);
    present.stop(0, last);
    assert_eq!((present.next_deadline(), present.due(9_999)), (None, None));
    // Until an earlier one leaves.
    present.joined(ViewNumber(3));
    assert_eq!(present.due(9_999), Some(Due::CloseEarly));
}

#[test]
fn who_is_ahead_by_a_view_waits_and_has_one_place() {
    let mut present = present();
    assert_eq!(answer(&present, 2, 1), Answer::Wait);
    present.wait(NodeId(2), 20);
    present.wait(NodeId(2), 21);
    assert_eq!(answer(&present, 2, 2), Answer::Wait, "who is in no view may be taken in by any");
    assert_eq!(answer(&present, 0, 1), Answer::Refuse(Why::NotAMember), "this one connects to it");
    assert_eq!(answer(&present, 7, 1), Answer::Refuse(Why::NotAMember));
    assert_eq!(present.install(view(1)), [21], "the latest");
    assert_eq!(present.waiting().count(), 0);
    assert_eq!(answer(&present, 2, 1), Answer::Accept);
}

#[test]
fn only_a_start_that_has_a_control_connection_may_wait() {
    let digest = view(2).digest().0;
    let caller = |incarnation, known| Caller {
        node: NodeId(2),
        incarnation: Incarnation(incarnation),
        view: ViewNumber(2),
        digest: &digest,
        known,
    };
    let mut present = present();
    let first = Caller { view: ViewNumber(1), ..caller(1, None) };
    assert_eq!(present.answer(&first), Answer::Wait, "the control connection may be on its way");
    present.install(view(1));
    assert_eq!(present.answer(&caller(1, None)), Answer::Refuse(Why::NotAMember));
    assert_eq!(present.answer(&caller(2, Some(Incarnation(1)))), Answer::Refuse(Why::NotAMember));
    assert_eq!(present.answer(&caller(1, Some(Incarnation(1)))), Answer::Wait);
}

#[test]
fn each_refusal_says_why() {
    let mut present = running(2);
    assert_eq!(answer(&present, 2, 1), Answer::Refuse(Why::Stale));
    assert_eq!(answer(&present, 2, 2), Answer::Refuse(Why::AlreadyConnected));
    present.install(view(3));
    assert_eq!(answer(&present, 7, 3), Answer::Refuse(Why::NotAMember));
    present.link(ViewNumber(3), NodeId(2), 2);
    assert_eq!(answer(&present, 2, 3), Answer::Refuse(Why::AlreadyConnected));
    let known = Some(Incarnation(1));
    let (node, incarnation, view) = (NodeId(2), Incarnation(1), ViewNumber(3));
    let other = Caller { node, incarnation, view, digest: "another", known };
    assert_eq!(present.answer(&other), Answer::Refuse(Why::OtherDigest));
}
