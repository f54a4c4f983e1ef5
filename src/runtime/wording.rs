//! What went wrong, in the words and kinds that callers and people get.

use ringfence_operators::error::JobError;
use ringfence_operators::ids::{NodeId, OperatorName, ViewNumber};

use crate::error::{Error, Kind};
use crate::protocol::message::{ProtocolError, Suspicion};
use crate::protocol::plan::PlanError;
use crate::register::RegisterError;
use crate::report::What;

/// What node `here` tells of a suspicion; nothing where another node told it first.
pub(super) fn failure_of(here: NodeId, view: ViewNumber, what: &Suspicion) -> Option<What> {
    let mut operator: Option<&OperatorName> = None;
    let evidence = what.to_string();
    let (text, suspect, worker) = match what {
        Suspicion::PeerLost { node, .. } | Suspicion::Gone { node } => {
            ("node lost", Some(*node), None)
        }
        Suspicion::LinkLost { node, .. } => ("link lost", Some(*node), None),
        Suspicion::ConnectFailed { node, .. } => ("connection failed", Some(*node), None),
        Suspicion::Silent { node, .. } => ("node silent", Some(*node), None),
        Suspicion::WorkerPanicked { panic } => {
            operator = panic.spot.operator.as_ref();
            ("worker panicked", Some(here), Some(panic.worker))
        }
        Suspicion::WorkerHung { worker, .. } => ("worker hung", Some(here), Some(*worker)),
        Suspicion::Stopped { .. } => return None,
    };
    let operator = operator.map(OperatorName::to_string);
    Some(What::Failure { view, what: text.to_owned(), suspect, worker, operator, evidence })
}

pub(super) fn job_failed(error: &JobError) -> Error {
    let kind = match error {
        JobError::Source { .. } | JobError::Sink { .. } => Kind::Input,
        JobError::NoCopy { .. } => Kind::Lost,
        _ => Kind::Job,
    };
    Error::new(kind, error.to_string())
}

pub(super) fn register_failed(error: RegisterError) -> Error {
    Error::new(Kind::Register, error.to_string())
}

pub(super) fn protocol_failed(error: ProtocolError) -> Error {
    let kind = match &error {
        ProtocolError::Excluded { .. } | ProtocolError::CutOff { .. } => Kind::Excluded,
        ProtocolError::Plan(PlanError::Lost { .. }) => Kind::Lost,
        ProtocolError::RunStarted { .. }
        | ProtocolError::RunDone
        | ProtocolError::OtherRun { .. }
        | ProtocolError::BadView { .. }
        | ProtocolError::Diverged { .. }
        | ProtocolError::Register { .. } => Kind::Register,
        ProtocolError::Misquoted { .. } | ProtocolError::Plan(_) => Kind::Internal,
        _ => Kind::Job,
    };
    Error::new(kind, error.to_string())
}
