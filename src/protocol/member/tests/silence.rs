//! Members that fall silent: when they are suspected, given up, and heard again.

use std::collections::BTreeSet;

use super::*;

/// A silence that nobody else shares lasts half as long again.
const SUSPECT_MS: u64 = 600;

/// Node 0 of three, from 10 ms to `until_ms`, with beats of `heard` every 50 ms.
fn hearing(
    machine: &mut Machine,
    from_ms: u64,
    until_ms: u64,
    heard: &[u64],
) -> Vec<(u64, Output)> {
    let mut outputs = Vec::new();
    for now_ms in (from_ms..=until_ms).step_by(10) {
        let beats = heard.iter().filter(|_| now_ms % 50 == 0);
        let inputs = beats.map(|&node| said(node, Message::Beat { suspects: BTreeSet::new() }));
        for input in inputs.chain([Input::Tick]) {
            outputs.extend(machine.handle(now_ms, input).into_iter().map(|out| (now_ms, out)));
        }
    }
    outputs
}

#[test]
fn every_member_hears_that_a_node_lives() {
    let mut lowest = running_with(0, 3, SUSPECT_MS);
    let outputs = hearing(&mut lowest, 10, 1_000, &[1, 2]);
    for to in [1, 2] {
        let beats = outputs.iter().filter(|(_, output)| {
            matches!(output, Output::Send(node, Message::Beat { suspects })
                if node.0 == to && suspects.is_empty())
        });
        assert_eq!(beats.count(), 20);
    }
    assert_eq!(outputs.len(), 40, "{outputs:?}");
}

#[test]
fn a_member_that_falls_silent_is_suspected_then_given_up() {
    let mut lowest = running_with(0, 3, SUSPECT_MS);
    let outputs = hearing(&mut lowest, 10, 1_000, &[1]);
    let at = |wanted: &dyn Fn(&Output) -> bool| {
        outputs.iter().find(|(_, output)| wanted(output)).map(|(now_ms, _)| *now_ms)
    };
    let suspected =
        at(&|output| matches!(output, Output::Report(Event::Silent { node: NodeId(2), .. })));
    assert_eq!(suspected, Some(200));
    let told = at(&|output| {
        matches!(output, Output::Send(NodeId(1), Message::Beat { suspects })
            if *suspects == BTreeSet::from([NodeId(2)]))
    });
    assert_eq!(told, Some(200), "the others are asked at once");
    assert_eq!(at(&|output| matches!(output, Output::StopGeneration { .. })), Some(900));

    lowest.handle(1_000, read(V2, None));
    lowest.handle(1_010, stopped(3, 0));
    lowest.handle(1_020, said(1, Message::Evidence(evidence(&first_view(3), 1))));
    let outputs = hearing(&mut lowest, 1_030, 1_450, &[1]);
    let reads = outputs.iter().find(|(_, output)| matches!(output, Output::ReadView(_)));
    assert_eq!(reads.map(|(now_ms, _)| *now_ms), Some(1_370), "3/5 of {SUSPECT_MS} ms later");
    let outputs = lowest.handle(1_460, read(V2, None));
    assert!(
        matches!(&outputs[..], [Output::Propose(view)] if view.member(NodeId(2)).is_none()),
        "{outputs:?}"
    );
}

#[test]
fn a_false_alarm_costs_a_change_of_views_and_no_member() {
    let mut lowest = running_with(0, 3, SUSPECT_MS);
    hearing(&mut lowest, 10, 900, &[1]);
    lowest.handle(910, read(V2, None));
    lowest.handle(910, stopped(3, 0));
    lowest.handle(920, said(1, Message::Evidence(evidence(&first_view(3), 1))));
    let outputs = lowest.handle(1_000, said(2, Message::Evidence(evidence(&first_view(3), 2))));
    assert!(outputs.contains(&Output::ReadView(V2)), "{outputs:?}");
    let outputs = lowest.handle(1_010, read(V2, None));
    assert!(
        matches!(&outputs[..], [Output::Propose(view)] if view.members.len() == 3),
        "{outputs:?}"
    );
}

#[test]
fn a_member_that_is_still_silent_in_the_next_view_is_given_up_at_once() {
    let mut lowest = running_with(0, 3, SUSPECT_MS);
    hearing(&mut lowest, 10, 500, &[1, 2]);
    lowest.handle(510, Input::LinkLost { view: V1, node: NodeId(1), why: "reset".to_owned() });
    lowest.handle(510, read(V2, None));
    lowest.handle(520, stopped(3, 0));
    for node in [1, 2] {
        lowest.handle(520, said(node, Message::Evidence(evidence(&first_view(3), node))));
    }
    let proposed = lowest.handle(520, read(V2, None));
    let [.., Output::Propose(view)] = &proposed[..] else { panic!("{proposed:?}") };
    hearing(&mut lowest, 530, 1_450, &[1]);
    lowest.handle(1_460, Input::Register(RegisterReply::Created { number: V2 }));
    let outputs = lowest.handle(1_460, read(V2, Some(view.clone())));
    let at = |wanted: &Output| outputs.iter().position(|output| output == wanted);
    let installed = at(&Output::Install(view.clone()));
    assert!(installed.is_some(), "{outputs:?}");
    assert!(at(&Output::StopGeneration { view: V2 }) > installed, "{outputs:?}");
}

/// As where they lost each other, but that the higher node's connection still stands and carries nothing.
#[test]
fn of_two_nodes_of_which_one_does_not_hear_the_other_the_higher_one_leaves() {
    let mut node = running_with(2, 3, SUSPECT_MS);
    hearing(&mut node, 10, 1_000, &[0]);
    node.handle(1_010, read(V2, None));
    node.handle(1_010, stopped(3, 2));
    let first = first_view(3);
    let all = |view: &View| {
        let all = [0, 1, 2].map(|node| (NodeId(node), (Incarnation(1), evidence(view, node))));
        next_view(view, &all.into()).unwrap().view
    };
    let second = all(&first);
    let outputs = node.handle(1_020, read(V2, Some(second.clone())));
    assert!(outputs.contains(&Output::StopGeneration { view: V2 }), "{outputs:?}");
    let given = evidence(&second, 2);
    node.handle(1_030, Input::GenerationStopped { view: V2, evidence: given, awaited: Vec::new() });
    let third = all(&second);
    let outputs = node.handle(1_040, read(third.number, Some(third)));
    assert!(matches!(failure(&outputs), ProtocolError::CutOff { .. }), "{outputs:?}");
}
