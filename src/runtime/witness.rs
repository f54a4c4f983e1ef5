//! What a node observed of a failure, as its part of the report.

use std::sync::Arc;

use ringfence_operators::error::JobError;
use ringfence_operators::fence::whereabouts::Whereabouts;
use ringfence_operators::ids::{NodeId, OperatorName, Spot, ViewNumber};

use crate::protocol::message::{ProtocolError, Suspicion, WorkerPanic};
use crate::report::{Cause, Clue, Component, FailurePlace, Observation, What};

/// What a node reports about the failures that end a view: the cause of each, not its consequences.
///
/// SUBTLE: survivors that stop also close their links. A lost link is reported only if nothing else
/// explains it, once the next view is agreed.
#[derive(Debug, Default)]
pub struct FailureAccount {
    /// Whether the current view's failure has been reported, by this node or by another.
    is_told: bool,
    lost_link: Vec<What>,
}

impl FailureAccount {
    /// Returns what node `here` must report now about a suspicion of which it saw this.
    pub fn suspect(
        &mut self,
        here: NodeId,
        what: &Suspicion,
        seen: Option<Observation>,
    ) -> Vec<What> {
        let failure = seen.as_ref().and_then(|seen| conclusion(what, seen));
        let seen = seen.map(|seen| What::Observed(Box::new(seen)));
        let told = failure.into_iter().chain(seen).collect();
        match what {
            Suspicion::LinkLost { .. } => {
                if self.lost_link.is_empty() {
                    self.lost_link = told;
                }
                Vec::new()
            }
            // The other end has lost the same link: that explains nothing.
            Suspicion::Stopped { reason, .. } if reason.lost_link == Some(here) => Vec::new(),
            _ => {
                self.is_told = true;
                told
            }
        }
    }

    /// The view ends on purpose, which explains whatever links are lost by it.
    pub fn explain(&mut self) {
        self.is_told = true;
    }

    /// Returns what is left to report when the next view is agreed.
    pub fn agree(&mut self) -> Vec<What> {
        let lost_link = std::mem::take(&mut self.lost_link);
        if std::mem::take(&mut self.is_told) { Vec::new() } else { lost_link }
    }
}

/// What node `here`, whose workers are at these places, concludes from a suspicion; `None` if another node
/// reports it.
pub fn of_suspicion(
    here: NodeId,
    view: ViewNumber,
    what: &Suspicion,
    is_refused: bool,
    workers: &[Arc<Whereabouts>],
) -> Option<Observation> {
    let connection = |node: NodeId, component, text: String| Observation {
        view,
        component,
        place: FailurePlace {
            peer: (component == Component::Link).then_some(here),
            ..FailurePlace::node(node)
        },
        cause: if is_refused { Cause::Refused } else { Cause::ConnectionLost },
        evidence: vec![Clue::Connection { seen_by: here, text }],
    };
    match what {
        Suspicion::PeerLost { node, why } => Some(connection(*node, Component::Node, why.clone())),
        Suspicion::Gone { node } => {
            let text = "it was gone before the view was known".to_owned();
            Some(connection(*node, Component::Node, text))
        }
        Suspicion::LinkLost { node, why } | Suspicion::ConnectFailed { node, why } => {
            Some(connection(*node, Component::Link, why.clone()))
        }
        Suspicion::Silent { node, silent_ms, votes } => {
            let mut evidence = vec![Clue::Silence { ms: *silent_ms }];
            if !votes.is_empty() {
                evidence.push(Clue::Votes { nodes: votes.iter().copied().collect() });
            }
            evidence.extend(workers.first().and_then(|worker| of_commit(worker)));
            Some(Observation {
                view,
                component: Component::Node,
                place: FailurePlace::node(*node),
                cause: Cause::Silent,
                evidence,
            })
        }
        Suspicion::WorkerHung { worker, busy_ms } => {
            let place = workers.iter().find(|place| place.worker() == *worker as usize)?;
            Some(of_hung_worker(here, view, place, *busy_ms))
        }
        Suspicion::WorkerPanicked { panic } => Some(of_panic(here, view, panic)),
        Suspicion::Planned { .. } => None,
        Suspicion::Stopped { node, reason } => {
            reason.panic.as_ref().map(|panic| of_panic(*node, view, panic))
        }
    }
}

/// What a node that saw this concludes from a suspicion; `None` if another node reported it first.
fn conclusion(what: &Suspicion, seen: &Observation) -> Option<What> {
    let text = match what {
        Suspicion::PeerLost { .. } | Suspicion::Gone { .. } => "node lost",
        Suspicion::LinkLost { .. } => "link lost",
        Suspicion::ConnectFailed { .. } => "connection failed",
        Suspicion::Silent { .. } => "node silent",
        Suspicion::WorkerPanicked { .. } => "worker panicked",
        Suspicion::WorkerHung { .. } => "worker hung",
        Suspicion::Stopped { .. } | Suspicion::Planned { .. } => return None,
    };
    Some(What::Failure {
        view: seen.view,
        what: text.to_owned(),
        suspect: seen.place.node,
        worker: seen.place.worker,
        operator: seen.place.operator.as_ref().map(OperatorName::to_string),
        evidence: what.to_string(),
    })
}

fn of_panic(node: NodeId, view: ViewNumber, panic: &WorkerPanic) -> Observation {
    let WorkerPanic { worker, message, location, spot, record } = panic.clone();
    let mut evidence = vec![Clue::Panic { message, location }];
    evidence.extend(record.map(|text| Clue::Record { text }));
    Observation {
        view,
        component: Component::Worker,
        place: place(node, Some(worker), spot),
        cause: Cause::Panic,
        evidence,
    }
}

/// A worker of this node that does not return from where it is.
pub(super) fn of_hung_worker(
    here: NodeId,
    view: ViewNumber,
    worker: &Whereabouts,
    limit_ms: u64,
) -> Observation {
    let mut evidence = vec![Clue::Silence { ms: limit_ms }];
    evidence.extend(of_commit(worker));
    Observation {
        view,
        component: Component::Worker,
        place: place(here, Some(worker.worker() as u32), worker.spot()),
        cause: Cause::Hung,
        evidence,
    }
}

/// The operator that holds back the commit, as a worker sees it.
pub(super) fn of_commit(worker: &Whereabouts) -> Option<Clue> {
    let (operator, stored_through) = worker.held_back_by()?;
    Some(Clue::HeldBack { operator, stored_through })
}

/// The error with which a worker of this node ended the job.
pub(super) fn of_job_error(here: NodeId, view: ViewNumber, error: &JobError) -> Observation {
    let (component, cause, operator, partition) = match error {
        JobError::Source { operator, .. } => {
            (Component::Source, Cause::SourceFailed, Some(operator), None)
        }
        JobError::Sink { operator, .. } => {
            (Component::Sink, Cause::SinkFailed, Some(operator), None)
        }
        JobError::State { operator, partition, .. } => {
            (Component::Job, Cause::JobFailed, Some(operator), Some(*partition))
        }
        JobError::NoCopy { operator, partition, .. } => {
            (Component::Job, Cause::JobFailed, Some(operator), Some(*partition))
        }
        JobError::LateRecord { operator, .. }
        | JobError::Input { operator, .. }
        | JobError::Misplaced { operator, .. }
        | JobError::SpansCheckpoint { operator, .. }
        | JobError::Vault { operator, .. } => {
            (Component::Job, Cause::JobFailed, Some(operator), None)
        }
        JobError::DuplicateName { name }
        | JobError::OutsideOperator { name }
        | JobError::StateType { name }
        | JobError::SharedTarget { second: name, .. }
        | JobError::UnknownName { name }
        | JobError::BuiltLate { name } => (Component::Job, Cause::JobFailed, Some(name), None),
        JobError::BadName { name, .. } => (Component::Job, Cause::JobFailed, Some(name), None),
        JobError::NothingProtected
        | JobError::ClockDropped
        | JobError::Unprotected { .. }
        | JobError::Differs { .. }
        | JobError::NameCollision { .. } => (Component::Job, Cause::JobFailed, None, None),
    };
    let epoch = match error {
        JobError::LateRecord { epoch, .. } => Some(*epoch),
        _ => None,
    };
    Observation {
        view,
        component,
        place: place(here, None, Spot { operator: operator.cloned(), partition, epoch }),
        cause,
        evidence: vec![Clue::Error { text: error.to_string() }],
    }
}

/// The register did not answer, or has invalid contents.
pub(super) fn of_register(here: NodeId, view: ViewNumber, text: String) -> Observation {
    Observation {
        view,
        component: Component::Register,
        place: FailurePlace::node(here),
        cause: Cause::RegisterUnavailable,
        evidence: vec![Clue::Error { text }],
    }
}

/// The error with which the protocol ends this node, if it is a failure that was not reported yet.
///
/// `stalled_ms` is how long the node's own loop stood still at most.
pub fn of_protocol_error(
    here: NodeId,
    view: ViewNumber,
    error: &ProtocolError,
    stalled_ms: Option<u64>,
) -> Option<Observation> {
    let text = error.to_string();
    match error {
        ProtocolError::Register { .. }
        | ProtocolError::BadView { .. }
        | ProtocolError::OtherRun { .. }
        | ProtocolError::Diverged { .. } => Some(of_register(here, view, text)),
        // The node that ended the job has said why.
        ProtocolError::Peer { .. } => None,
        ProtocolError::Excluded { .. } => {
            let mut evidence = vec![Clue::Error { text }];
            evidence.extend(stalled_ms.map(|ms| Clue::Silence { ms }));
            Some(Observation {
                view,
                component: if stalled_ms.is_some() { Component::Process } else { Component::Node },
                place: FailurePlace::node(here),
                // The node itself knows best whether it was stopped or merely not heard.
                cause: if stalled_ms.is_some() { Cause::Hung } else { Cause::Partitioned },
                evidence,
            })
        }
        _ => None,
    }
}

fn place(node: NodeId, worker: Option<u32>, spot: Spot) -> FailurePlace {
    let mut place = FailurePlace::node(node);
    let Spot { operator, partition, epoch } = spot;
    (place.worker, place.operator) = (worker, operator);
    (place.partition, place.epoch) = (partition, epoch);
    place
}

#[cfg(test)]
mod tests {
    use ringfence_operators::ids::{Epoch, Incarnation, OperatorName};

    use super::*;
    use crate::protocol::message::StopReason;

    const HERE: NodeId = NodeId(0);
    const VIEW: ViewNumber = ViewNumber(3);

    #[test]
    fn a_refused_connection_is_told_from_a_broken_one() {
        let what = Suspicion::ConnectFailed { node: NodeId(1), why: "stale view".to_owned() };
        for (is_refused, cause) in [(true, Cause::Refused), (false, Cause::ConnectionLost)] {
            let seen = of_suspicion(HERE, VIEW, &what, is_refused, &[]).unwrap();
            assert_eq!((seen.component, seen.cause), (Component::Link, cause));
            assert_eq!((seen.place.node, seen.place.peer), (Some(NodeId(1)), Some(HERE)));
        }
    }

    #[test]
    fn a_silent_node_is_told_with_the_votes() {
        let votes = [NodeId(2)].into();
        let what = Suspicion::Silent { node: NodeId(1), silent_ms: 640, votes };
        let seen = of_suspicion(HERE, VIEW, &what, false, &[]).unwrap();
        assert_eq!((seen.component, seen.cause), (Component::Node, Cause::Silent));
        let votes = Clue::Votes { nodes: vec![NodeId(2)] };
        assert_eq!(seen.evidence, [Clue::Silence { ms: 640 }, votes]);
    }

    #[test]
    fn a_node_that_was_left_out_knows_whether_it_stood_still() {
        let error =
            ProtocolError::Excluded { number: VIEW, node: HERE, incarnation: Incarnation(1) };
        let seen = |stalled| of_protocol_error(HERE, VIEW, &error, stalled).unwrap();
        assert_eq!((seen(None).component, seen(None).cause), (Component::Node, Cause::Partitioned));
        let hung = seen(Some(4_000));
        assert_eq!((hung.component, hung.cause), (Component::Process, Cause::Hung));
        assert!(hung.evidence.contains(&Clue::Silence { ms: 4_000 }));
    }

    #[test]
    fn what_the_register_says_is_told_of_the_register() {
        let error = ProtocolError::Register { message: "no space left".to_owned() };
        let seen = of_protocol_error(HERE, VIEW, &error, None).unwrap();
        assert_eq!((seen.component, seen.cause), (Component::Register, Cause::RegisterUnavailable));
        let says = |clue: &Clue| clue.to_string().contains("no space left");
        assert!(seen.evidence.iter().any(says), "{seen:?}");
    }

    #[test]
    fn an_error_of_the_job_names_its_operator() {
        let operator = OperatorName::new("counts");
        let late =
            JobError::LateRecord { operator: operator.clone(), epoch: Epoch(4), resume: Epoch(5) };
        let seen = of_job_error(HERE, VIEW, &late);
        assert_eq!((seen.component, seen.cause), (Component::Job, Cause::JobFailed));
        assert_eq!((seen.place.operator, seen.place.epoch), (Some(operator), Some(Epoch(4))));
    }

    #[test]
    fn a_lost_link_is_told_only_where_nothing_else_explains_it() {
        let lost = Suspicion::LinkLost { node: NodeId(1), why: "reset".to_owned() };
        let gone = Suspicion::PeerLost { node: NodeId(1), why: "end of file".to_owned() };
        let tell = |account: &mut FailureAccount, what: &Suspicion| {
            account.suspect(HERE, what, of_suspicion(HERE, VIEW, what, false, &[])).len()
        };
        let mut account = FailureAccount::default();
        assert_eq!((tell(&mut account, &lost), account.agree().len()), (0, 2));
        assert_eq!((tell(&mut account, &lost), tell(&mut account, &gone)), (0, 2));
        assert_eq!(account.agree(), [], "the lost node explains the link");
        assert_eq!(account.agree(), [], "each view has its own account");
    }

    #[test]
    fn a_stop_is_told_only_with_its_panic() {
        let stopped = |panic| Suspicion::Stopped {
            node: NodeId(2),
            reason: StopReason { panic, ..StopReason::default() },
        };
        assert_eq!(of_suspicion(HERE, VIEW, &stopped(None), false, &[]), None);
        let panic =
            WorkerPanic { worker: 1, record: Some("7".to_owned()), ..WorkerPanic::default() };
        let stop = stopped(Some(Box::new(panic)));
        let seen = of_suspicion(HERE, VIEW, &stop, false, &[]).unwrap();
        assert_eq!((seen.place.node, seen.place.worker), (Some(NodeId(2)), Some(1)));
        assert!(seen.evidence.contains(&Clue::Record { text: "7".to_owned() }));
    }
}
