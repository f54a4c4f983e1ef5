//! What a node saw of a failure, as its part of the report.

use ringfence_operators::error::JobError;
use ringfence_operators::ids::{NodeId, Spot, ViewNumber};
use ringfence_operators::whereabouts::Whereabouts;

use crate::protocol::message::{ProtocolError, Suspicion, WorkerPanic};
use crate::report::{Cause, Clue, Component, FailurePlace, Observation};

/// What node `here` makes of a suspicion; nothing where another node tells it.
pub(super) fn of_suspicion(
    here: NodeId,
    view: ViewNumber,
    what: &Suspicion,
    is_refused: bool,
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
        Suspicion::WorkerPanicked { panic } => Some(of_panic(here, view, panic)),
        Suspicion::Stopped { node, panic, .. } => {
            panic.as_ref().map(|panic| of_panic(*node, view, panic))
        }
    }
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

/// A worker of this node that does not come back from where it is.
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

/// Which operator holds back the commit, as a worker sees it.
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
        | JobError::Misplaced { operator, .. }
        | JobError::Vault { operator, .. } => {
            (Component::Job, Cause::JobFailed, Some(operator), None)
        }
        JobError::DuplicateName { name }
        | JobError::UnknownName { name }
        | JobError::SecondDataflow { name } => (Component::Job, Cause::JobFailed, Some(name), None),
        JobError::NothingProtected => (Component::Job, Cause::JobFailed, None, None),
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

/// The register did not answer, or holds what it must not.
pub(super) fn of_register(here: NodeId, view: ViewNumber, text: String) -> Observation {
    Observation {
        view,
        component: Component::Register,
        place: FailurePlace::node(here),
        cause: Cause::RegisterUnavailable,
        evidence: vec![Clue::Error { text }],
    }
}

/// The error with which the protocol ends this node, where it is a failure that was not told yet.
///
/// `stalled_ms` is how long the node's own loop stood still at most.
pub(super) fn of_protocol_error(
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
        ProtocolError::Peer { node, .. } => Some(Observation {
            view,
            component: Component::Job,
            place: FailurePlace::node(*node),
            cause: Cause::JobFailed,
            evidence: vec![Clue::Error { text }],
        }),
        ProtocolError::Excluded { .. } => {
            let mut evidence = vec![Clue::Error { text }];
            evidence.extend(stalled_ms.map(|ms| Clue::Silence { ms }));
            Some(Observation {
                view,
                component: if stalled_ms.is_some() { Component::Process } else { Component::Node },
                place: FailurePlace::node(here),
                // It knows best whether it stood still or was merely not heard.
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
