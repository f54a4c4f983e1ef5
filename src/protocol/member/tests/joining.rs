//! A process that comes back is taken in by a planned view, and comes to its share by another.

use super::*;

const V3: ViewNumber = ViewNumber(3);

fn started_again(node: u64, incarnation: u64) -> Machine {
    let mut config = machine(node, 3).config;
    config.incarnation = Incarnation(incarnation);
    config.address = format!("h:{node}");
    Machine::new(config)
}

fn up_again(node: u64, incarnation: u64) -> Input {
    let incarnation = Incarnation(incarnation);
    Input::PeerUp { node: NodeId(node), incarnation, address: format!("h:{node}") }
}

/// The view of nodes 0 and 1, after node 2 has died.
fn second_view() -> View {
    let first = first_view(3);
    let all = [0, 1].map(|node| (NodeId(node), (Incarnation(1), evidence(&first, node)))).into();
    next_view(&first, &all).unwrap().view
}

/// Node 0 in view 2, where everybody has caught up.
fn lowest_of_two() -> Machine {
    let mut lowest = running(0, 3);
    lowest.handle(10, lost(2));
    lowest.handle(10, read(V2, None));
    lowest.handle(11, said(1, Message::Evidence(evidence(&first_view(3), 1))));
    lowest.handle(12, stopped(3, 0));
    lowest.handle(12, read(V2, None));
    lowest.handle(13, Input::Register(RegisterReply::Created { number: V2 }));
    lowest.handle(13, read(V2, Some(second_view())));
    lowest.handle(14, Input::GenerationRunning { view: V2 });
    lowest
}

fn caught_up(lowest: &mut Machine) {
    lowest.handle(15, Input::CaughtUp { view: V2 });
    lowest.handle(15, said(1, Message::CaughtUp { view: V2 }));
}

fn is_stopped(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::StopGeneration { .. }))
}

/// Gives the evidence of both members of view 2; returns what is proposed.
fn proposed(lowest: &mut Machine) -> View {
    let second = second_view();
    lowest.handle(20, read(V3, None));
    lowest.handle(20, said(1, Message::Evidence(evidence(&second, 1))));
    let (view, evidence) = (V2, evidence(&second, 0));
    lowest.handle(20, Input::GenerationStopped { view, evidence, awaited: Vec::new() });
    match lowest.handle(21, read(V3, None)).pop() {
        Some(Output::Propose(view)) => view,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_in_no_view_reads_all_of_them_connects_and_asks() {
    let mut joiner = started_again(2, 9);
    joiner.handle(0, up(0));
    assert_eq!(joiner.handle(0, Input::Started { done: false }), [Output::ReadView(V1)]);
    let outputs = joiner.handle(1, read(V1, Some(first_view(3))));
    assert_eq!(joiner.phase(), &Phase::Joining);
    assert!(outputs.contains(&Output::ReadView(V2)), "{outputs:?}");
    let dials = |outputs: &[Output]| {
        let dial = |output: &Output| match output {
            Output::Connect { node, .. } => Some(node.0),
            _ => None,
        };
        outputs.iter().filter_map(dial).collect::<Vec<_>>()
    };
    assert_eq!(dials(&outputs), [1], "of its own former start it wants nothing");
    let outputs = joiner.handle(2, read(V2, Some(second_view())));
    assert_eq!(sent(&outputs), [], "nothing is asked before all can be reached");
    let outputs = joiner.handle(3, up(1));
    assert_eq!(sent(&outputs), [(0, &Message::Join), (1, &Message::Join)]);
    assert_eq!(sent(&joiner.handle(4, read(V3, None))), [], "once is enough");
    // A connection that breaks is made again, and asked over again.
    joiner.handle(5, lost(1));
    assert_eq!(sent(&joiner.handle(6, up(1))).len(), 2);
}

#[test]
fn a_planned_view_waits_until_all_have_caught_up_and_something_is_committed() {
    let mut lowest = lowest_of_two();
    lowest.handle(14, up_again(2, 9));
    assert!(!is_stopped(&lowest.handle(14, said(2, Message::Join))));
    assert!(!is_stopped(&lowest.handle(14, Input::Committed { view: V2, epoch: Epoch(6) })));
    lowest.handle(15, said(1, Message::CaughtUp { view: V2 }));
    assert!(!is_stopped(&lowest.handle(15, Input::Committed { view: V2, epoch: Epoch(6) })));
    assert!(!is_stopped(&lowest.handle(15, Input::CaughtUp { view: V2 })));
    let outputs = lowest.handle(16, Input::Committed { view: V2, epoch: Epoch(6) });
    assert!(is_stopped(&outputs));
    let told = |output: &Output| match output {
        Output::Send(NodeId(1), Message::Stop { reason, .. }) => reason.planned,
        _ => false,
    };
    assert!(outputs.iter().any(told), "{outputs:?}");
    let third = proposed(&mut lowest);
    assert!(third.planned && third.is_newcomer(NodeId(2)));
    assert_eq!(third.member(NodeId(2)).unwrap().incarnation, Incarnation(9));
    assert!(third.assignment.places.iter().all(|place| place.owner.node != NodeId(2)));
    assert!(third.assignment.places.iter().any(|place| place.feeds(NodeId(2))));
}

#[test]
fn where_nothing_is_committed_the_wait_is_bounded() {
    let mut lowest = lowest_of_two();
    lowest.handle(14, up_again(2, 9));
    lowest.handle(14, said(2, Message::Join));
    caught_up(&mut lowest);
    assert_eq!(lowest.next_deadline(), Some(1_015));
    assert!(!is_stopped(&lowest.handle(1_014, Input::Tick)));
    assert!(is_stopped(&lowest.handle(1_015, Input::Tick)));
}

#[test]
fn a_failure_in_between_makes_it_a_usual_change_and_the_request_stays() {
    let mut lowest = lowest_of_two();
    lowest.handle(14, up_again(2, 9));
    lowest.handle(14, said(2, Message::Join));
    caught_up(&mut lowest);
    assert!(is_stopped(&lowest.handle(16, Input::Committed { view: V2, epoch: Epoch(6) })));
    lowest.handle(17, read(V3, None));
    lowest.handle(18, lost(1));
    let (view, mut evidence) = (V2, evidence(&second_view(), 0));
    let span = ReplicaSpan { from: None, through: Some(Epoch(5)) };
    let copy = |p| CopyEvidence { partition: PartitionId(p), replica: Some(span), live: false };
    evidence.copies = (0..6).map(copy).collect();
    lowest.handle(20, Input::GenerationStopped { view, evidence, awaited: Vec::new() });
    let outputs = lowest.handle(21, read(V3, None));
    let Some(Output::Propose(third)) = outputs.last() else { panic!("{outputs:?}") };
    assert!(!third.planned && third.members.len() == 1);
    assert_eq!(lowest.askers().count(), 1);
}

#[test]
fn two_who_ask_are_taken_in_together_and_one_that_has_gone_is_not() {
    let mut lowest = lowest_of_two();
    for (node, incarnation) in [(2, 9), (2, 10)] {
        lowest.handle(14, up_again(node, incarnation));
        lowest.handle(14, said(node, Message::Join));
    }
    let gone = Input::PeerLost {
        node: NodeId(2),
        incarnation: Incarnation(9),
        why: "end of file".to_owned(),
    };
    lowest.handle(15, gone);
    let askers: Vec<_> = lowest.askers().map(|member| member.incarnation).collect();
    assert_eq!(askers, [Incarnation(10)]);
}

#[test]
fn who_was_a_member_is_not_taken_in_again() {
    let mut lowest = lowest_of_two();
    // Node 2 was only cut off: it lives, and its connection stands again.
    lowest.handle(14, up_again(2, 1));
    lowest.handle(14, said(2, Message::Join));
    assert_eq!(lowest.askers().count(), 0);
}

#[test]
fn a_new_start_of_a_member_ends_the_one_that_is_in_the_view() {
    let mut member = running(0, 3);
    let outputs = member.handle(10, up_again(2, 9));
    assert!(is_stopped(&outputs), "{outputs:?}");
    assert_eq!(member.missing().collect::<Vec<_>>(), [NodeId(1)]);
}

#[test]
fn a_newcomer_installs_the_view_that_takes_it_in() {
    let mut lowest = lowest_of_two();
    lowest.handle(14, up_again(2, 9));
    lowest.handle(14, said(2, Message::Join));
    caught_up(&mut lowest);
    lowest.handle(16, Input::Committed { view: V2, epoch: Epoch(6) });
    let third = proposed(&mut lowest);
    let mut joiner = started_again(2, 9);
    joiner.handle(0, Input::Started { done: false });
    joiner.handle(1, read(V1, Some(first_view(3))));
    joiner.handle(2, read(V2, Some(second_view())));
    let outputs = joiner.handle(3, read(V3, Some(third.clone())));
    assert!(outputs.contains(&Output::Install(third)), "{outputs:?}");
}

#[test]
fn who_reaches_nobody_gives_up_and_says_whom() {
    let mut joiner = started_again(2, 9);
    joiner.handle(0, Input::Started { done: false });
    joiner.handle(1, read(V1, Some(first_view(3))));
    joiner.handle(2, read(V2, None));
    let outputs = joiner.handle(30_001, Input::Tick);
    let error = failure(&outputs);
    assert!(matches!(error, ProtocolError::NobodyReached { .. }), "{error:?}");
    assert!(error.to_string().contains("nodes 0, 1, 2 of view 1"), "{error}");
}

#[test]
fn who_has_another_shape_is_told_both() {
    let mut config = machine(2, 3).config;
    (config.incarnation, config.partitions) = (Incarnation(9), 12);
    let mut joiner = Machine::new(config);
    joiner.handle(0, Input::Started { done: false });
    let outputs = joiner.handle(1, read(V1, Some(first_view(3))));
    let text = failure(&outputs).to_string();
    assert!(text.contains("has 6 partitions") && text.contains("has 12 partitions"), "{text}");
}

#[test]
fn who_asks_when_the_run_is_done_ends_well() {
    let mut joiner = started_again(2, 9);
    joiner.handle(0, Input::Started { done: false });
    joiner.handle(1, read(V1, Some(first_view(3))));
    let done = RegisterReply::Read { number: V2, view: None, done: true };
    let outputs = joiner.handle(2, Input::Register(done));
    assert_eq!(outputs.last(), Some(&Output::Finish));
    let mut late = started_again(2, 9);
    late.config.is_restart = true;
    assert_eq!(late.handle(0, Input::Started { done: true }), [Output::Finish]);
}

/// A seed of the simulator waited forever here: all members but this node itself were there, for there were none.
#[test]
fn who_was_the_last_member_before_finds_nobody() {
    let mut joiner = started_again(0, 9);
    joiner.handle(0, Input::Started { done: false });
    let alone = first_view(1);
    joiner.handle(1, read(V1, Some(alone)));
    joiner.handle(2, read(V2, None));
    let outputs = joiner.handle(30_001, Input::Tick);
    assert!(matches!(failure(&outputs), ProtocolError::NobodyReached { .. }), "{outputs:?}");
}

#[test]
fn nothing_is_planned_once_everything_is_committed() {
    let mut lowest = lowest_of_two();
    lowest.handle(14, up_again(2, 9));
    lowest.handle(14, said(2, Message::Join));
    lowest.handle(14, Input::Committed { view: V2, epoch: Epoch::END });
    caught_up(&mut lowest);
    assert!(!is_stopped(&lowest.handle(5_000, Input::Tick)));
}
