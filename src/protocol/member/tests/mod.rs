//! One machine at a time, told what happens around it.

use ringfence_operators::ids::{
    Epoch, Incarnation, NodeId, OperatorName, PartitionId, Spot, ViewNumber,
};

use super::super::message::{
    Event, Input, Message, Output, ProtocolError, RegisterReply, StopReason, WorkerPanic,
};
use super::super::plan::{PlanError, next_view};
use super::super::samples_tests::copies_of;
use super::super::view::{CopyEvidence, Evidence, ReplicaSpan, View};
use super::{Machine, MemberConfig, MemberLimits, Phase};

mod joining;
mod silence;

const V1: ViewNumber = ViewNumber(1);
const V2: ViewNumber = ViewNumber(2);
/// So long that nobody ever beats.
const NEVER_MS: u64 = 1_000_000_000;

fn machine(node: u64, nodes: u64) -> Machine {
    machine_with(node, nodes, NEVER_MS)
}

fn machine_with(node: u64, nodes: u64, suspect_ms: u64) -> Machine {
    Machine::new(MemberConfig {
        run: "run".to_owned(),
        node: NodeId(node),
        incarnation: Incarnation(1),
        address: format!("h:{node}"),
        nodes: (0..nodes).map(NodeId).collect(),
        is_restart: false,
        durable: None,
        workers_per_node: 1,
        partitions: 6,
        backups: 1,
        limits: MemberLimits::from_suspect_ms(suspect_ms),
    })
}

/// A panic on a record of partition 4.
fn boom() -> WorkerPanic {
    let spot = Spot {
        operator: Some(OperatorName::new("counts")),
        partition: Some(PartitionId(4)),
        epoch: Some(Epoch(9)),
    };
    WorkerPanic { message: "boom".to_owned(), spot, ..WorkerPanic::default() }
}

fn up(node: u64) -> Input {
    Input::PeerUp { node: NodeId(node), incarnation: Incarnation(1), address: format!("h:{node}") }
}

fn lost(node: u64) -> Input {
    Input::PeerLost {
        node: NodeId(node),
        incarnation: Incarnation(1),
        why: "end of file".to_owned(),
    }
}

fn said(from: u64, message: Message) -> Input {
    Input::Message { from: NodeId(from), message }
}

fn read(number: ViewNumber, view: Option<View>) -> Input {
    Input::Register(RegisterReply::Read { number, view, done: false })
}

fn first_view(nodes: u64) -> View {
    let mut lowest = machine(0, nodes);
    let mut outputs = Vec::new();
    (1..nodes).for_each(|node| outputs.extend(lowest.handle(0, up(node))));
    outputs.extend(lowest.handle(0, Input::Started { done: false }));
    match outputs.pop() {
        Some(Output::Propose(view)) => view,
        other => panic!("{other:?}"),
    }
}

/// A machine whose generation of view 1 runs.
fn running(node: u64, nodes: u64) -> Machine {
    running_with(node, nodes, NEVER_MS)
}

fn running_with(node: u64, nodes: u64, suspect_ms: u64) -> Machine {
    let mut machine = machine_with(node, nodes, suspect_ms);
    (0..nodes).filter(|peer| *peer != node).for_each(|peer| drop(machine.handle(0, up(peer))));
    let started = machine.handle(0, Input::Started { done: false });
    if node == 0 {
        machine.handle(0, Input::Register(RegisterReply::Created { number: V1 }));
    } else {
        assert_eq!(started, [Output::ReadView(V1)]);
    }
    let outputs = machine.handle(0, read(V1, Some(first_view(nodes))));
    assert!(outputs.contains(&Output::Install(first_view(nodes))), "{outputs:?}");
    machine.handle(0, Input::GenerationRunning { view: V1 });
    assert_eq!(machine.phase(), &Phase::Running);
    machine
}

fn evidence(view: &View, node: u64) -> Evidence {
    let copies = copies_of(view, NodeId(node), Some(Epoch(5)));
    Evidence {
        view: view.number,
        recorded: Some(Epoch(5)),
        copies,
        operators: Vec::new(),
        journals: false,
        dropped: Vec::new(),
    }
}

fn stopped(nodes: u64, node: u64) -> Input {
    Input::GenerationStopped {
        view: V1,
        evidence: evidence(&first_view(nodes), node),
        awaited: Vec::new(),
    }
}

fn sent(outputs: &[Output]) -> Vec<(u64, &Message)> {
    let sent = |output| match output {
        &Output::Send(to, ref message) => Some((to.0, message)),
        _ => None,
    };
    outputs.iter().filter_map(sent).collect()
}

fn failure(outputs: &[Output]) -> &ProtocolError {
    match outputs.last() {
        Some(Output::Fail(error)) => error,
        _ => panic!("no failure in {outputs:?}"),
    }
}

#[test]
fn a_single_node_forms_by_itself() {
    let machine = running(0, 1);
    assert_eq!(machine.view().unwrap().members.len(), 1);
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn nobody_proposes_before_the_register_was_read_and_all_are_up() {
    let mut lowest = machine(0, 3);
    assert_eq!(lowest.handle(0, up(1)), []);
    assert_eq!(lowest.handle(0, Input::Started { done: false }), [Output::ReadView(V1)]);
    assert_eq!(lowest.handle(1, read(V1, None)), []);
    assert!(matches!(lowest.handle(2, up(2))[..], [Output::Propose(_)]));
}

#[test]
fn a_run_that_is_done_is_not_begun_again() {
    let outputs = machine(1, 3).handle(0, Input::Started { done: true });
    assert!(failure(&outputs).to_string().contains("on a fresh register"));
}

/// Node 2 dies. The survivors stop, report, and the lowest of them proposes at once.
#[test]
fn stop_report_propose_install() {
    let mut lowest = running(0, 3);
    let outputs = lowest.handle(10, lost(2));
    assert_eq!(outputs[0], Output::StopGeneration { view: V1 });
    assert!(matches!(sent(&outputs)[..], [(1, Message::Stop { view: V1, .. })]), "{outputs:?}");
    assert_eq!(outputs.last(), Some(&Output::ReadView(V2)));
    lowest.handle(10, read(V2, None));

    let first = first_view(3);
    // The evidence of node 1 comes before our own stop: it is kept, and nothing is proposed yet.
    assert_eq!(lowest.handle(11, said(1, Message::Evidence(evidence(&first, 1)))), []);
    let outputs = lowest.handle(12, stopped(3, 0));
    assert_eq!(sent(&outputs), [(1, &Message::Evidence(evidence(&first, 0)))]);
    assert_eq!(outputs.last(), Some(&Output::ReadView(V2)), "read, in case the others are done");
    let outputs = lowest.handle(12, read(V2, None));
    let all = [0, 1].map(|node| (NodeId(node), (Incarnation(1), evidence(&first, node)))).into();
    let second = next_view(&first, &all).unwrap().view;
    assert_eq!(outputs, [Output::Propose(second.clone())]);
    lowest.handle(13, Input::Register(RegisterReply::Created { number: V2 }));
    let outputs = lowest.handle(13, read(V2, Some(second.clone())));
    assert!(outputs.contains(&Output::Install(second)));
    assert_eq!(sent(&outputs), [(1, &Message::ViewCreated { number: V2 })]);
}

/// The others wait their turn, and propose if the lowest does not.
#[test]
fn the_next_in_rank_proposes_later() {
    let mut second = running(1, 3);
    second.handle(10, lost(2));
    second.handle(10, read(V2, None));
    second.handle(11, said(0, Message::Evidence(evidence(&first_view(3), 0))));
    second.handle(12, stopped(3, 1));
    assert_eq!(second.next_deadline(), Some(512));
    assert_eq!(second.handle(511, Input::Tick), []);
    assert_eq!(second.handle(512, Input::Tick), [Output::ReadView(V2)]);
    assert!(matches!(second.handle(512, read(V2, None))[..], [Output::Propose(_)]));
}

/// A member that is silent but not gone is waited for; then the view is made without it.
#[test]
fn a_silent_member_is_waited_for() {
    let mut lowest = running(0, 3);
    lowest.handle(10, Input::LinkLost { view: V1, node: NodeId(1), why: "reset".to_owned() });
    lowest.handle(10, read(V2, None));
    lowest.handle(20, stopped(3, 0));
    let mut other = lowest.clone();
    assert_eq!(ticking(&mut other, 3_990), None, "two are missing");
    lowest.handle(30, said(1, Message::Evidence(evidence(&first_view(3), 1))));
    assert_eq!(ticking(&mut lowest, 1_990), None, "one is missing");
    let Some(Output::Propose(view)) = ticking(&mut lowest, 2_050) else { panic!("{lowest:?}") };
    assert_eq!(view.members.len(), 2);
}

/// Lets time pass, by ticks of 10 ms and with a register in which there is nothing new, until the
/// machine wants anything but to read it.
fn ticking(machine: &mut Machine, until_ms: u64) -> Option<Output> {
    for now_ms in (40..=until_ms).step_by(10) {
        let mut wanted = None;
        let mut outputs = machine.handle(now_ms, Input::Tick);
        while let Some(output) = outputs.pop() {
            match output {
                Output::ReadView(number) => {
                    outputs.extend(machine.handle(now_ms, read(number, None)));
                }
                other => wanted = Some(other),
            }
        }
        if wanted.is_some() {
            return wanted;
        }
    }
    None
}

/// Nobody tells a node that is cut off of a view in which it is not: it finds out by itself.
#[test]
fn a_node_that_waits_reads_the_register_now_and_then() {
    let mut third = running(2, 3);
    third.handle(10, lost(0));
    third.handle(10, read(V2, None));
    third.handle(20, stopped(3, 2));
    assert_eq!(third.next_deadline(), Some(520));
    assert_eq!(third.handle(520, Input::Tick), [Output::ReadView(V2)]);
    let given = [(0, evidence(&first_view(3), 0)), (1, evidence(&first_view(3), 1))];
    let given = given.map(|(node, evidence)| (NodeId(node), (Incarnation(1), evidence)));
    let without = next_view(&first_view(3), &given.into()).unwrap().view;
    let outputs = third.handle(521, read(V2, Some(without)));
    assert!(matches!(failure(&outputs), ProtocolError::Excluded { .. }), "{outputs:?}");
}

/// A node that was left out is told so even where the others have finished meanwhile.
#[test]
fn a_node_that_was_left_out_is_not_told_that_it_has_finished() {
    let mut third = running(2, 3);
    third.handle(10, lost(0));
    let given = [(0, evidence(&first_view(3), 0)), (1, evidence(&first_view(3), 1))];
    let given = given.map(|(node, evidence)| (NodeId(node), (Incarnation(1), evidence)));
    let without = next_view(&first_view(3), &given.into()).unwrap().view;
    let reply = RegisterReply::Read { number: V2, view: Some(without), done: true };
    let outputs = third.handle(11, Input::Register(reply));
    assert!(matches!(failure(&outputs), ProtocolError::Excluded { .. }), "{outputs:?}");
}

/// Alone, node 0 would have to give up what node 1 owned with its backup on node 2. It waits for both.
#[test]
fn a_possible_holder_is_waited_for_longer() {
    let mut lowest = running(0, 3);
    lowest.handle(10, Input::LinkLost { view: V1, node: NodeId(1), why: "reset".to_owned() });
    lowest.handle(10, read(V2, None));
    lowest.handle(20, stopped(3, 0));
    let waits = ticking(&mut lowest, 4_100);
    assert!(matches!(waits, Some(Output::Report(Event::Waiting { .. }))), "{waits:?}");
    assert_eq!(ticking(&mut lowest, 29_900), None);
    lowest.handle(29_900, lost(1));
    lowest.handle(29_900, lost(2));
    let outputs = lowest.handle(29_901, read(V2, None));
    assert!(
        matches!(failure(&outputs), ProtocolError::Plan(PlanError::Lost { .. })),
        "{outputs:?}"
    );
}

#[test]
fn a_node_that_others_went_on_without_ends() {
    let mut slow = running(2, 3);
    assert_eq!(
        slow.handle(9_000, said(0, Message::ViewCreated { number: V2 })),
        [Output::ReadView(V2)]
    );
    let first = first_view(3);
    let all = [0, 1].map(|node| (NodeId(node), (Incarnation(1), evidence(&first, node)))).into();
    let outputs = slow.handle(9_000, read(V2, Some(next_view(&first, &all).unwrap().view)));
    assert!(matches!(failure(&outputs), ProtocolError::Excluded { number: V2, .. }));
}

/// Two nodes lost each other and all others reach both: they changed views without end, each of them
/// suspecting the other anew in every one.
#[test]
fn of_two_nodes_that_lost_each_other_the_higher_one_leaves() {
    for (this, other) in [(1, 2), (2, 1)] {
        let mut node = running(this, 3);
        node.handle(10, lost(other));
        node.handle(10, stopped(3, this));
        let first = first_view(3);
        let all = |view: &View| {
            let all = [0, 1, 2].map(|node| (NodeId(node), (Incarnation(1), evidence(view, node))));
            next_view(view, &all.into()).unwrap().view
        };
        let second = all(&first);
        let outputs = node.handle(20, read(V2, Some(second.clone())));
        assert!(outputs.contains(&Output::Install(second.clone())), "{outputs:?}");
        assert!(outputs.contains(&Output::StopGeneration { view: V2 }), "{outputs:?}");
        let given = evidence(&second, this);
        node.handle(
            30,
            Input::GenerationStopped { view: V2, evidence: given, awaited: Vec::new() },
        );
        let third = all(&second);
        let outputs = node.handle(40, read(third.number, Some(third.clone())));
        if this < other {
            assert!(outputs.contains(&Output::Install(third)), "{outputs:?}");
        } else {
            assert!(matches!(failure(&outputs), ProtocolError::CutOff { .. }), "{outputs:?}");
        }
    }
}

/// A node started again before the first view; the end of its first start was noticed after the second
/// had connected, and counted for the second.
#[test]
fn the_loss_of_an_earlier_start_is_no_loss_of_the_present_one() {
    let mut node = machine(1, 2);
    node.handle(0, up(0));
    let again =
        Input::PeerUp { node: NodeId(0), incarnation: Incarnation(2), address: "h:0".to_owned() };
    node.handle(1, again);
    node.handle(2, Input::Started { done: false });
    let mut first = first_view(2);
    first.members[0].incarnation = Incarnation(2);
    node.handle(3, read(V1, Some(first)));
    node.handle(4, Input::GenerationRunning { view: V1 });
    assert_eq!(node.handle(5, lost(0)), []);
    assert_eq!(node.phase(), &Phase::Running);
}

#[test]
fn a_view_that_misquotes_us_is_refused() {
    let mut node = running(1, 2);
    node.handle(10, Input::WorkerPanicked { view: V1, panic: boom() });
    node.handle(10, read(V2, None));
    node.handle(11, stopped(2, 1));
    let first = first_view(2);
    let mut other = evidence(&first, 1);
    other.recorded = Some(Epoch(4));
    let all =
        [(NodeId(0), (Incarnation(1), evidence(&first, 0))), (NodeId(1), (Incarnation(1), other))]
            .into();
    node.handle(12, said(0, Message::ViewCreated { number: V2 }));
    let outputs = node.handle(12, read(V2, Some(next_view(&first, &all).unwrap().view)));
    assert_eq!(failure(&outputs), &ProtocolError::Misquoted { number: V2 });
}

#[test]
fn what_is_said_of_old_views_changes_nothing() {
    let mut node = running(0, 2);
    let old = ViewNumber(0);
    let why = String::new();
    let panic = Some(Box::new(boom()));
    let reason = StopReason { why: why.clone(), panic, ..StopReason::default() };
    assert_eq!(node.handle(1, said(1, Message::Stop { view: old, reason })), []);
    assert_eq!(node.handle(1, Input::LinkLost { view: old, node: NodeId(1), why }), []);
    assert_eq!(node.handle(1, Input::WorkerPanicked { view: old, panic: boom() }), []);
    assert_eq!(node.handle(1, Input::GenerationFinished { view: old }), []);
    assert_eq!(node.handle(1, lost(9)), []);
    assert_eq!(node.phase(), &Phase::Running);
}

/// Evidence without the live state of some partitions, whose workers are in the job's own code.
fn early(nodes: u64, node: u64) -> (Evidence, Vec<PartitionId>) {
    let mut early = evidence(&first_view(nodes), node);
    let awaited = early.copies.iter().filter(|copy| copy.live).map(|copy| copy.partition);
    let awaited = awaited.collect();
    early.copies.iter_mut().for_each(|copy| copy.live = false);
    early.copies.retain(|copy| copy.replica.is_some());
    (early, awaited)
}

/// Node 1 dies, and with it the backups of what node 0 owns. The worker of node 0 is busy.
#[test]
fn a_busy_worker_is_waited_for_where_nobody_else_has_its_state() {
    let mut node = running(0, 2);
    node.handle(10, lost(1));
    node.handle(10, read(V2, None));
    let (evidence_early, awaited) = early(2, 0);
    let mut gives = |awaited: &[PartitionId], now_ms| {
        let mut outputs = node.handle(
            now_ms,
            Input::GenerationStopped {
                view: V1,
                evidence: evidence_early.clone(),
                awaited: awaited.to_vec(),
            },
        );
        outputs.extend(node.handle(now_ms, read(V2, None)));
        (node.clone(), outputs)
    };
    let (mut waits, outputs) = gives(&awaited, 300);
    let Some(Output::Report(Event::WaitingForWorkers { nodes, partitions, .. })) = outputs.last()
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((&nodes[..], partitions), (&[NodeId(0)][..], &awaited));
    assert_eq!(ticking(&mut waits, 9_000), None, "it waits as long as the node does");

    // It comes back, and nothing is lost.
    let grown = evidence(&first_view(2), 0);
    let mut back = waits.clone();
    let came = |evidence: &Evidence| Input::EvidenceGrown {
        view: V1,
        evidence: evidence.clone(),
        awaited: Vec::new(),
    };
    assert_eq!(back.handle(9_010, came(&grown)), [Output::ReadView(V2)]);
    let outputs = back.handle(9_010, read(V2, None));
    let [Output::Propose(view)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(view.members[0].evidence.as_ref(), Some(&grown));

    // It does not, and the node gives up.
    assert_eq!(waits.handle(9_010, came(&evidence_early)), [Output::ReadView(V2)]);
    let outputs = waits.handle(9_010, read(V2, None));
    assert!(matches!(failure(&outputs), ProtocolError::Plan(PlanError::Lost { .. })));
}

/// With a copy elsewhere nobody waits for a busy worker, and a view may quote either of its reports.
#[test]
fn a_view_may_quote_evidence_that_has_grown_since() {
    let first = first_view(3);
    let mut other = running(1, 3);
    other.handle(10, lost(2));
    other.handle(10, read(V2, None));
    let (report, awaited) = early(3, 1);
    let stopped_early =
        Input::GenerationStopped { view: V1, evidence: report.clone(), awaited: awaited.clone() };
    let outputs = other.handle(300, stopped_early);
    let awaiting = Message::Awaiting { view: V1, partitions: awaited.clone() };
    let given = Message::Evidence(report.clone());
    assert_eq!(sent(&outputs), [(0, &awaiting), (0, &given)]);
    let grown = evidence(&first, 1);
    let came = Input::EvidenceGrown { view: V1, evidence: grown.clone(), awaited: Vec::new() };
    let outputs = other.handle(310, came);
    let nobody = Message::Awaiting { view: V1, partitions: Vec::new() };
    // What came is said before that it came: between the two, nobody may think that it is lost.
    assert_eq!(sent(&outputs), [(0, &Message::Evidence(grown.clone())), (0, &nobody)]);
    // Node 0 has a replica of everything.
    let mut whole = evidence(&first, 0);
    let span = ReplicaSpan { from: None, through: Some(Epoch(5)) };
    let replica = |(partition, _)| CopyEvidence { partition, replica: Some(span), live: false };
    whole.copies = first.assignment.iter().map(replica).collect();
    for quoted in [&report, &grown] {
        let mut member = other.clone();
        let both = [(0, &whole), (1, quoted)];
        let both = both.map(|(node, given)| (NodeId(node), (Incarnation(1), given.clone())));
        let plan = next_view(&first, &both.into()).unwrap();
        let outputs = member.handle(320, read(V2, Some(plan.view.clone())));
        assert!(outputs.contains(&Output::Install(plan.view)), "{outputs:?}");
    }
}

#[test]
fn workers_that_do_not_stop_end_the_process() {
    let mut node = running(0, 2);
    node.handle(10, lost(1));
    node.handle(10, read(V2, None));
    assert_eq!(node.next_deadline(), Some(5_010));
    let outputs = node.handle(5_010, Input::Tick);
    assert_eq!(failure(&outputs), &ProtocolError::StopLimit { view: V1, limit_ms: 5_000 });
    assert!(node.is_over() && node.next_deadline().is_none());
}

/// Done is marked, then said; a node leaves when the others have said it too.
#[test]
fn the_last_to_know_ends_the_run() {
    let mut node = running(0, 3);
    let outputs = node.handle(10, Input::GenerationFinished { view: V1 });
    assert_eq!(outputs.last(), Some(&Output::MarkDone(V1)));
    let outputs = node.handle(11, Input::Register(RegisterReply::DoneMarked));
    assert_eq!(sent(&outputs), [(1, &Message::Done), (2, &Message::Done)]);
    assert_eq!(node.handle(12, said(1, Message::Done)), []);
    assert_eq!(node.handle(13, lost(2)), [Output::Finish], "a lost member is waited for no longer");
}

#[test]
fn a_finished_node_does_not_wait_forever() {
    let mut node = running(0, 2);
    node.handle(10, Input::GenerationFinished { view: V1 });
    let outputs =
        node.handle(10, Input::Register(RegisterReply::Unavailable { why: "busy".to_owned() }));
    assert!(matches!(outputs[..], [Output::Report(_)]));
    assert_eq!(node.handle(510, Input::Tick), [Output::MarkDone(V1)]);
    node.handle(600, Input::Register(RegisterReply::DoneMarked));
    assert_eq!(node.next_deadline(), Some(2_600));
    assert_eq!(node.handle(2_600, Input::Tick), [Output::Finish]);
}

/// Node 1 said that it is done, and left. That is no failure: our own generation ends by itself.
#[test]
fn an_end_after_done_is_no_failure() {
    let mut node = running(0, 2);
    node.handle(10, said(1, Message::Done));
    assert_eq!(node.handle(11, lost(1)), []);
    assert_eq!(
        node.handle(11, Input::LinkLost { view: V1, node: NodeId(1), why: String::new() }),
        []
    );
    let outputs = node.handle(12, Input::GenerationFinished { view: V1 });
    assert_eq!(outputs.last(), Some(&Output::Finish));
}

/// Node 1 marked the run as done and died before it could say so: the register tells.
#[test]
fn trouble_after_done_is_no_failure() {
    let mut node = running(0, 2);
    node.handle(10, lost(1));
    let outputs = node
        .handle(10, Input::Register(RegisterReply::Read { number: V2, view: None, done: true }));
    assert_eq!(outputs.last(), Some(&Output::Finish));
}

#[test]
fn a_fatal_error_ends_all() {
    let mut node = running(0, 2);
    let outputs = node.handle(10, Input::FatalError { message: "line 3 is no number".to_owned() });
    let [(1, said_to_1)] = sent(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!(failure(&outputs).to_string(), "line 3 is no number");
    let outputs = running(1, 2).handle(11, said(0, said_to_1.clone()));
    assert_eq!(failure(&outputs).to_string(), "node 0 ended the job: line 3 is no number");
}

/// An answer that did not come may have been a yes: the register is read before anything else is tried.
#[test]
fn an_unanswered_proposal_is_settled_by_reading() {
    let mut lowest = running(0, 2);
    lowest.handle(10, lost(1));
    lowest.handle(10, read(V2, None));
    let first = first_view(2);
    lowest.handle(10, stopped(2, 0));
    let outputs = lowest.handle(10, read(V2, None));
    let [Output::Propose(second)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(second.previous, Some(first.digest()));
    lowest.handle(20, Input::Register(RegisterReply::Unavailable { why: "timeout".to_owned() }));
    assert_eq!(lowest.handle(520, Input::Tick), [Output::ReadView(V2)]);
    let outputs = lowest.handle(521, read(V2, Some(second.clone())));
    assert!(outputs.contains(&Output::Install(second.clone())), "our own proposal had been stored");
}

/// Node 0 formed the view before nodes 1 and 2 were connected to each other. That is no failure, and
/// what one of them said meanwhile is said again when they are.
#[test]
fn members_may_connect_after_the_view_is_agreed() {
    let mut node = machine(1, 3);
    node.handle(0, up(0));
    node.handle(0, Input::Started { done: false });
    let outputs = node.handle(0, read(V1, Some(first_view(3))));
    assert!(!outputs.contains(&Output::StopGeneration { view: V1 }), "{outputs:?}");
    node.handle(10, Input::ConnectFailed { view: V1, node: NodeId(2), why: "refused".to_owned() });
    node.handle(11, stopped(3, 1));
    let outputs = node.handle(12, up(2));
    let first = first_view(3);
    assert_eq!(sent(&outputs)[0], (2, &Message::ViewCreated { number: V1 }));
    assert!(matches!(sent(&outputs)[1], (2, Message::Stop { view: V1, .. })));
    assert_eq!(sent(&outputs)[2], (2, &Message::Evidence(evidence(&first, 1))));
}

#[test]
fn a_panic_beyond_the_budget_ends_the_job_on_both_sides() {
    let tight = |node| {
        let mut machine = running(node, 2);
        machine.set_restarts(0, 1_000);
        machine
    };
    let (mut one, mut other) = (tight(0), tight(1));
    let outputs = one.handle(10, Input::WorkerPanicked { view: V1, panic: boom() });
    let text = failure(&outputs).to_string();
    for part in ["node 0", "\"counts\"", "partition 4", "epoch 9", "boom", "--restarts"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let [(1, stop), (1, Message::Fatal { .. })] = sent(&outputs)[..] else {
        panic!("{outputs:?}");
    };
    let outputs = other.handle(11, said(0, stop.clone()));
    assert_eq!(failure(&outputs).to_string(), text);
    let watched = (OperatorName::new("counts"), PartitionId(4));
    assert!(other.watched().contains(&watched));
}

#[test]
fn a_panic_within_the_budget_only_ends_the_view() {
    let mut node = running(0, 2);
    node.set_restarts(1, 1_000);
    let outputs = node.handle(10, Input::WorkerPanicked { view: V1, panic: boom() });
    assert!(outputs.contains(&Output::StopGeneration { view: V1 }), "{outputs:?}");
    assert!(matches!(node.phase(), Phase::Stopping { .. }));
    // What a second worker of the same view says makes it no second restart.
    node.handle(10, Input::WorkerPanicked { view: V1, panic: boom() });
    assert!(matches!(node.phase(), Phase::Stopping { .. }));
}

#[test]
fn the_end_of_an_earlier_start_is_not_that_of_the_one_in_the_view() {
    let mut machine = machine(1, 2);
    machine.handle(0, Input::Started { done: false });
    machine.handle(0, up(0));
    let why = "end of file".to_owned();
    machine.handle(1, Input::PeerLost { node: NodeId(0), incarnation: Incarnation(1), why });
    let mut view = first_view(2);
    view.members[0].incarnation = Incarnation(2);
    machine.handle(2, read(V1, Some(view)));
    let again =
        Input::PeerUp { node: NodeId(0), incarnation: Incarnation(2), address: "h:0".to_owned() };
    for outputs in
        [machine.handle(3, Input::GenerationRunning { view: V1 }), machine.handle(4, again)]
    {
        let stops = outputs.iter().any(|output| matches!(output, Output::StopGeneration { .. }));
        assert!(!stops, "{outputs:?}");
    }
    assert_eq!(machine.phase(), &Phase::Running);
}
