//! What several nodes and the launcher say of failures, and what the ledger makes of it.

use super::*;
use crate::report::{FailurePlace, Origin, Phases, Takeover};
use ringfence_operators::ids::{Epoch, OperatorName, PartitionId};

fn connection_lost(view: u64, node: u64, by: u64) -> What {
    What::Observed(Box::new(Observation {
        view: ViewNumber(view),
        component: Component::Node,
        place: FailurePlace::node(NodeId(node)),
        cause: Cause::ConnectionLost,
        evidence: vec![Clue::Connection { seen_by: NodeId(by), text: "end of file".to_owned() }],
    }))
}

fn ended(view: u64, node: u64, cause: Cause, clue: Clue) -> What {
    What::Observed(Box::new(Observation {
        view: ViewNumber(view),
        component: Component::Process,
        place: FailurePlace::node(NodeId(node)),
        cause,
        evidence: vec![clue],
    }))
}

fn killed(view: u64, node: u64) -> What {
    ended(view, node, Cause::Killed, Clue::Signal { number: 9, name: "SIGKILL".to_owned() })
}

fn panicked(view: u64, node: u64, worker: u32) -> What {
    What::Observed(Box::new(Observation {
        view: ViewNumber(view),
        component: Component::Worker,
        place: FailurePlace {
            worker: Some(worker),
            operator: Some(OperatorName::new("counts")),
            partition: Some(PartitionId(4)),
            epoch: Some(Epoch(9)),
            ..FailurePlace::node(NodeId(node))
        },
        cause: Cause::Panic,
        evidence: vec![Clue::Panic { message: "no".to_owned(), location: None }],
    }))
}

fn link_lost(view: u64, node: u64, by: u64) -> What {
    What::Observed(Box::new(Observation {
        view: ViewNumber(view),
        component: Component::Link,
        place: FailurePlace { peer: Some(NodeId(by)), ..FailurePlace::node(NodeId(node)) },
        cause: Cause::ConnectionLost,
        evidence: vec![Clue::Connection { seen_by: NodeId(by), text: "reset".to_owned() }],
    }))
}

fn view(number: u64, members: &[u64]) -> What {
    What::View {
        number: ViewNumber(number),
        members: members.iter().copied().map(NodeId).collect(),
        resume: Some(Epoch(5)),
        moved_partitions: 85,
        under_replicated: 0,
        takeovers: vec![Takeover { node: NodeId(members[0]), partitions: 85 }],
        joined: Vec::new(),
    }
}

fn recovered(view: u64, stop: f64) -> What {
    What::Recovered {
        view: ViewNumber(view),
        phases_ms: Phases { stop, ..Phases::default() },
        records_replayed: 10,
        records_at_resume: 0,
        keys_rewound: 0,
        partitions_restored: 0,
        epochs_rewound: 3,
        bytes_opened: 100,
    }
}

const LAUNCHER: u64 = u64::MAX;

fn fold(ledger: &mut FailureLedger, events: Vec<(u64, What)>) -> Vec<FailureReport> {
    let mut reports = Vec::new();
    for (at, (node, what)) in events.into_iter().enumerate() {
        let origin = if node == LAUNCHER { Origin::LAUNCHER } else { NodeId(node).into() };
        reports.extend(ledger.fold(&Event::at(at as f64, origin, what)));
    }
    reports
}

fn started(nodes: &[u64]) -> FailureLedger {
    let mut ledger = FailureLedger::new();
    fold(&mut ledger, vec![(nodes[0], view(1, nodes))]);
    ledger
}

#[test]
fn a_killed_process_is_one_failure_whoever_tells_first() {
    for launcher_first in [true, false] {
        let mut events = vec![(0, connection_lost(1, 1, 0)), (2, connection_lost(1, 1, 2))];
        events.insert(if launcher_first { 0 } else { 2 }, (LAUNCHER, killed(1, 1)));
        events.extend([(0, view(2, &[0, 2])), (2, view(2, &[0, 2]))]);
        events.extend([(0, recovered(2, 7.0)), (2, recovered(2, 5.0))]);
        let mut ledger = started(&[0, 1, 2]);
        let reports = fold(&mut ledger, events);
        let [report] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!((report.component, report.cause), (Component::Process, Cause::Killed));
        assert_eq!((report.certainty, report.place.node), (Certainty::Certain, Some(NodeId(1))));
        assert_eq!(report.noticed_by, [NodeId(0), NodeId(2)]);
        let Consequence::Recovered { view, left, .. } = &report.consequence else {
            panic!("{report:?}");
        };
        assert_eq!((*view, &left[..]), (ViewNumber(2), &[NodeId(1)][..]));
        let cost = report.cost.unwrap();
        assert_eq!((cost.phases_ms.stop, cost.records_replayed), (7.0, 20));
        assert_eq!((cost.epochs_rewound, cost.partitions_moved, cost.bytes_opened), (3, 85, 200));
        assert!(ledger.finish(None).is_empty());
        assert_eq!(ledger.reports(), reports);
        let text = report.to_string();
        for part in ["process killed", "certain", "SIGKILL", "node 0 took over 85", "3 epochs"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}

#[test]
fn a_status_that_comes_after_the_view_belongs_to_the_same_failure() {
    let mut ledger = started(&[0, 1]);
    fold(
        &mut ledger,
        vec![(0, connection_lost(1, 1, 0)), (0, view(2, &[0])), (LAUNCHER, killed(2, 1))],
    );
    let reports = fold(&mut ledger, vec![(0, recovered(2, 1.0))]);
    assert_eq!((reports.len(), reports[0].cause), (1, Cause::Killed));
    // What is said of it after that is no other failure.
    fold(&mut ledger, vec![(LAUNCHER, ended(2, 1, Cause::Exited, Clue::ExitCode { code: 1 }))]);
    assert!(ledger.finish(None).is_empty());
}

#[test]
fn a_panic_is_told_once_by_the_node_and_its_peers() {
    let mut ledger = started(&[0, 1, 2]);
    let mut events = vec![(1, panicked(1, 1, 0)), (0, panicked(1, 1, 0)), (0, link_lost(1, 1, 0))];
    events.extend([0, 1, 2].map(|node| (node, view(2, &[0, 1, 2]))));
    events.extend([0, 1, 2].map(|node| (node, recovered(2, 1.0))));
    let reports = fold(&mut ledger, events);
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((report.component, report.cause), (Component::Worker, Cause::Panic));
    assert_eq!((report.place.worker, report.place.partition), (Some(0), Some(PartitionId(4))));
    // The same worker may panic again in the next view: that is another failure.
    fold(&mut ledger, vec![(1, panicked(2, 1, 0))]);
    let rest = ledger.finish(Some("too many"));
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].consequence, Consequence::Ended { why: "too many".to_owned() });
    assert_eq!(rest[0].cost, None);
}

#[test]
fn a_panic_and_a_kill_of_other_nodes_are_two_failures_with_one_recovery() {
    let mut ledger = started(&[0, 1, 2]);
    let mut events = vec![(0, panicked(1, 0, 0)), (LAUNCHER, killed(1, 1))];
    events.extend([(0, connection_lost(1, 1, 0)), (0, view(2, &[0, 2]))]);
    events.extend([(0, recovered(2, 1.0)), (2, recovered(2, 1.0))]);
    let reports = fold(&mut ledger, events);
    let causes: Vec<Cause> = reports.iter().map(|report| report.cause).collect();
    assert_eq!(causes, [Cause::Panic, Cause::Killed]);
    assert!(reports.iter().all(|report| report.cost == reports[0].cost));
}

#[test]
fn a_second_failure_in_a_recovery_waits_for_the_last_view() {
    let mut ledger = started(&[0, 1, 2]);
    let mut events = vec![(0, connection_lost(1, 2, 0)), (0, view(2, &[0, 1]))];
    events.extend([(1, recovered(2, 1.0)), (0, connection_lost(2, 1, 0)), (0, view(3, &[0]))]);
    assert!(fold(&mut ledger, events).is_empty());
    let reports = fold(&mut ledger, vec![(0, recovered(3, 1.0))]);
    let left: Vec<_> = reports
        .iter()
        .map(|report| match &report.consequence {
            Consequence::Recovered { left, .. } => left.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(left, [vec![NodeId(2), NodeId(1)], vec![NodeId(1)]]);
}

#[test]
fn both_ends_of_a_lost_link_are_one_failure() {
    let mut ledger = started(&[0, 1, 2]);
    fold(&mut ledger, vec![(0, link_lost(1, 1, 0)), (1, link_lost(1, 0, 1))]);
    let reports = ledger.finish(None);
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((report.component, report.certainty), (Component::Link, Certainty::Probable));
    assert_eq!((report.place.node, report.place.peer), (Some(NodeId(1)), Some(NodeId(0))));
}

#[test]
fn one_witness_suspects_and_two_make_it_probable() {
    let mut ledger = started(&[0, 1, 2]);
    fold(&mut ledger, vec![(0, connection_lost(1, 1, 0))]);
    assert_eq!(ledger.open[0].report.certainty, Certainty::Suspected);
    fold(&mut ledger, vec![(2, connection_lost(1, 1, 2))]);
    assert_eq!(ledger.open[0].report.certainty, Certainty::Probable);
}

#[test]
fn a_kill_for_lack_of_memory_is_certain_only_in_our_own_group() {
    for (counted_by, certainty) in
        [("cgroup", Certainty::Certain), ("machine", Certainty::Probable)]
    {
        let mut ledger = started(&[0, 1]);
        let clue = Clue::OutOfMemoryKills { kills: 1, counted_by: counted_by.to_owned() };
        fold(&mut ledger, vec![(LAUNCHER, killed(1, 1))]);
        fold(&mut ledger, vec![(LAUNCHER, ended(1, 1, Cause::OutOfMemory, clue))]);
        let reports = ledger.finish(None);
        assert_eq!((reports.len(), reports[0].cause), (1, Cause::OutOfMemory));
        assert_eq!(reports[0].certainty, certainty);
        assert_eq!(reports[0].evidence.len(), 2);
    }
}

#[test]
fn a_failure_on_purpose_says_so_once() {
    let mut ledger = started(&[0, 1]);
    let fault = |kind| What::Fault { kind, target: NodeId(1), until_ms: None };
    fold(&mut ledger, vec![(LAUNCHER, fault(FaultKind::Panic)), (1, panicked(1, 1, 0))]);
    fold(&mut ledger, vec![(LAUNCHER, killed(1, 1))]);
    let reports = ledger.finish(None);
    let on_purpose: Vec<bool> = reports.iter().map(FailureReport::is_on_purpose).collect();
    assert_eq!(on_purpose, [true, false]);
}

#[test]
fn a_node_by_itself_waits_for_nobody() {
    let mut ledger = FailureLedger::of(NodeId(0));
    let events = vec![
        (0, view(1, &[0, 1, 2])),
        (0, connection_lost(1, 1, 0)),
        (0, view(2, &[0, 2])),
        (0, recovered(2, 1.0)),
    ];
    assert_eq!(fold(&mut ledger, events).len(), 1);
}

#[test]
fn a_process_that_ends_after_a_panic_adds_to_that_failure() {
    let mut ledger = started(&[0]);
    fold(&mut ledger, vec![(0, panicked(1, 0, 0))]);
    let exit = ended(1, 0, Cause::Exited, Clue::ExitCode { code: 1 });
    fold(&mut ledger, vec![(LAUNCHER, exit)]);
    let reports = ledger.finish(Some("no"));
    assert_eq!((reports.len(), reports[0].cause), (1, Cause::Panic));
}

#[test]
fn who_is_left_out_without_a_word_was_silent_and_may_explain_itself_later() {
    let mut ledger = started(&[0, 1, 2]);
    let mut events = vec![(0, panicked(1, 0, 0)), (0, view(2, &[0, 2]))];
    events.extend([(0, recovered(2, 1.0)), (2, recovered(2, 1.0))]);
    let reports = fold(&mut ledger, events);
    let causes: Vec<_> = reports.iter().map(|r| (r.id, r.cause, r.certainty)).collect();
    let silent = (2, Cause::Silent, Certainty::Suspected);
    assert_eq!(causes, [(1, Cause::Panic, Certainty::Certain), silent]);
    // What it thinks of the others is of no interest, what it says of itself is.
    assert!(fold(&mut ledger, vec![(1, connection_lost(1, 0, 1))]).is_empty());
    let mut hung = panicked(1, 1, 0);
    if let What::Observed(observation) = &mut hung {
        observation.cause = Cause::Hung;
        observation.evidence = vec![Clue::Silence { ms: 5000 }];
    }
    let amended = fold(&mut ledger, vec![(1, hung)]);
    let [report] = &amended[..] else { panic!("{amended:?}") };
    assert_eq!((report.id, report.cause), (2, Cause::Hung));
    assert!(report.place.operator.is_some() && report.cost.is_some(), "{report:?}");
    assert!(matches!(report.consequence, Consequence::Recovered { .. }));
    // Its end is no better explanation.
    let exit = ended(2, 1, Cause::Exited, Clue::ExitCode { code: 1 });
    fold(&mut ledger, vec![(1, What::Error { message: "left out".to_owned(), excluded: true })]);
    assert!(fold(&mut ledger, vec![(LAUNCHER, exit)]).is_empty());
    assert!(ledger.finish(None).is_empty());
    assert_eq!(ledger.reports().len(), 2);
}
