//! What a view file may and may not say.

use super::*;

pub(crate) fn view(nodes: u64, workers_per_node: u32) -> View {
    let member = |node| Member {
        node: NodeId(node),
        incarnation: Incarnation(10 + node),
        address: format!("127.0.0.1:{}", 7000 + node),
        evidence: None,
    };
    let shape = ClusterShape { nodes: nodes as u32, workers_per_node, partitions: 6, backups: 1 };
    View::first("run", (0..nodes).map(member).collect(), &shape)
}

#[test]
fn indices_are_those_of_timely() {
    let mut view = view(3, 2);
    view.members.remove(1);
    assert_eq!(view.process_index(NodeId(2)), Some(1));
    assert_eq!(view.process_index(NodeId(1)), None);
    assert_eq!(view.worker_index(WorkerId { node: NodeId(2), worker: 1 }), Some(3));
    assert_eq!(view.worker_index(WorkerId { node: NodeId(2), worker: 2 }), None);
    assert_eq!(
        view.workers().map(|worker| view.worker_index(worker).unwrap()).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
}

/// Views written by one release are read by the next: their digest must not change.
#[test]
fn the_digest_is_that_of_the_json() {
    let view = view(2, 1);
    let json = serde_json::to_string(&view).unwrap();
    assert_eq!(
        json,
        "{\"run\":\"run\",\"number\":1,\"previous\":null,\"resume\":null,\"members\":[\
         {\"node\":0,\"incarnation\":10,\"address\":\"127.0.0.1:7000\",\"evidence\":null},\
         {\"node\":1,\"incarnation\":11,\"address\":\"127.0.0.1:7001\",\"evidence\":null}],\
         \"workers_per_node\":1,\"partitions\":6,\"backups\":1,\"assignment\":\
         [[[[0,0],[1,0]],[]],[[[0,0],[1,0]],[]],[[[0,0],[1,0]],[]],\
         [[[1,0],[0,0]],[]],[[[1,0],[0,0]],[]],[[[1,0],[0,0]],[]]]}"
    );
    assert!(view.digest().is_well_formed());
    let read: View = serde_json::from_str(&json).unwrap();
    assert_eq!(read.digest(), view.digest());
    let other = View { resume: Some(Epoch(1)), ..read };
    assert_ne!(other.digest(), view.digest());
}

#[test]
fn evidence_is_compact() {
    let span = ReplicaSpan { from: None, through: Some(Epoch(7)) };
    let evidence = Evidence {
        view: ViewNumber(1),
        recorded: Some(Epoch(6)),
        copies: vec![
            CopyEvidence { partition: PartitionId(3), replica: Some(span), live: false },
            CopyEvidence { partition: PartitionId(4), replica: None, live: true },
        ],
        operators: vec![OperatorName::new("counts")],
        journals: true,
        dropped: Vec::new(),
    };
    let json = serde_json::to_string(&evidence).unwrap();
    assert_eq!(
        json,
        "{\"view\":1,\"recorded\":6,\"copies\":[[3,[null,7],false],[4,null,true]],\"operators\":[\"counts\"],\
         \"journals\":true}"
    );
    assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
    assert_eq!(evidence.copy(PartitionId(3)).unwrap().replica, Some(span));
    assert_eq!(evidence.copy(PartitionId(5)), None);
}

#[test]
fn a_good_view_is_valid() {
    view(3, 2).validate().unwrap();
    view(1, 1).validate().unwrap();
}

#[test]
fn each_fault_has_its_name() {
    let fault = |change: fn(&mut View)| {
        let mut view = view(3, 1);
        change(&mut view);
        view.validate().unwrap_err().to_string()
    };
    let evidence = |view| Evidence {
        view,
        recorded: None,
        copies: Vec::new(),
        operators: Vec::new(),
        journals: false,
        dropped: Vec::new(),
    };
    assert_eq!(fault(|view| view.run.clear()), "the view names no run");
    assert!(fault(|view| view.number.0 = 0).contains("number 0"));
    assert!(fault(|view| view.partitions = 0).contains("0 partitions"));
    assert!(fault(|view| view.partitions = u32::MAX).contains("4294967295 partitions"));
    assert!(fault(|view| view.members.clear()).contains("0 workers"));
    assert!(fault(|view| view.workers_per_node = u32::MAX).contains("workers"));
    assert!(fault(|view| view.members.swap(0, 1)).contains("node 1 stands before node 0"));
    assert!(fault(|view| view.members[2].node = NodeId(1)).contains("node 1 stands before node 1"));
    assert!(fault(|view| view.members[2].address.clear()).contains("node 2 has no address"));
    assert!(fault(|view| view.resume = Some(Epoch(1))).contains("view 1"));
    assert!(fault(|view| view.number.0 = 2).contains("view 2"));
    assert!(fault(|view| view.partitions = 7).contains("6 partitions, expected 7"));
    assert!(
        fault(|view| view.assignment.places[1].owner.worker = 9)
            .contains("/9, which is not in the view")
    );
    assert!(fault(|view| view.assignment.places[1].backups[0].node = NodeId(9)).contains("9/0"));
    assert!(
        fault(|view| {
            let backup = view.assignment.places[0].backups[0];
            view.assignment.places[0].backups.push(backup);
        })
        .contains("twice")
    );
    assert!(fault(|view| view.backups = 0).contains("1 backups"));

    let mut second = view(3, 1);
    second.number = ViewNumber(2);
    second.previous = Some(ViewDigest("x".repeat(40)));
    assert!(second.validate().unwrap_err().to_string().contains("is not the digest"));
    second.previous = Some(view(3, 1).digest());
    assert!(matches!(second.validate(), Err(ViewError::EvidenceView { .. })));
    second.members.iter_mut().for_each(|member| member.evidence = Some(evidence(ViewNumber(1))));
    second.validate().unwrap();
    second.members[1].evidence.as_mut().unwrap().recorded = Some(Epoch(3));
    assert!(matches!(second.validate(), Err(ViewError::ResumeTooLow { .. })));
    second.resume = Some(Epoch(3));
    second.validate().unwrap();
    let span = ReplicaSpan { from: Some(Epoch(2)), through: Some(Epoch(1)) };
    let copy = CopyEvidence { partition: PartitionId(0), replica: Some(span), live: false };
    second.members[1].evidence.as_mut().unwrap().copies.push(copy);
    assert!(matches!(second.validate(), Err(ViewError::Evidence { .. })));
}
