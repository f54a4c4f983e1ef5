//! What went wrong, in the words and kinds that callers and users get.

use ringfence_operators::error::JobError;

use crate::error::{Error, Kind};
use crate::protocol::message::ProtocolError;
use crate::protocol::plan::PlanError;
use crate::register::RegisterError;

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
        ProtocolError::OtherShape { .. }
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
