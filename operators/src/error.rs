//! What can be wrong with a job, as seen from inside a worker.

use std::any::Any;
use std::panic::resume_unwind;

use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::text::cut;

/// A reason for which a job cannot go on; the whole job ends with it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JobError {
    /// Two protected operators have the same name, so their state could not be distinguished.
    #[error("two protected operators are named \"{name}\": give each its own name")]
    DuplicateName {
        /// The name that was used twice.
        name: OperatorName,
    },
    /// Two names of a job would be the same in the vault, so their state could not be distinguished.
    #[error("{one} and {other} cannot be distinguished in a checkpoint: rename one of them")]
    NameCollision {
        /// What was named first.
        one: String,
        /// What was named second.
        other: String,
    },
    /// A protected operator has an invalid name.
    #[error("the name \"{name}\" {what}")]
    BadName {
        /// The name, or its beginning.
        name: OperatorName,
        /// What is wrong with it.
        what: String,
    },
    /// Two workers have built different things.
    #[error(
        "the workers do not build the same job: as item {position} {one}, but {other}; all workers must build \
         the same dataflows, with the same names, types and operators in the same order: decide by a worker's \
         index or by local files only within closures and in what is fed, never what is built"
    )]
    Differs {
        /// The position of the difference in what they have built, from 1.
        position: usize,
        /// What one of them has there.
        one: String,
        /// What the other has there.
        other: String,
    },
    /// A name holds state but the job has no operator of that name.
    #[error(
        "there is state for \"{name}\" but the job has no protected operator of that name: \
         restore the operator's name, or drop its state by starting afresh: on a new register, and with another \
         directory for --durable"
    )]
    UnknownName {
        /// The name found in the checkpoint.
        name: OperatorName,
    },
    /// A protected operator was built after the worker had taken its first step.
    #[error(
        "\"{name}\" was built after this worker's first step: build all dataflows with protected \
         operators before the first step, since they are restored and committed together"
    )]
    BuiltLate {
        /// The operator that was built late.
        name: OperatorName,
    },
    /// A source could not be listed, opened, or read.
    #[error("source \"{operator}\": {what}")]
    Source {
        /// The name of the source.
        operator: OperatorName,
        /// What failed; names the file or other object.
        what: String,
    },
    /// A hand-fed input was fed incorrectly, or cannot be journaled.
    #[error("input \"{operator}\": {what}")]
    Input {
        /// The name of the input.
        operator: OperatorName,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A sink could not be opened, prepared, or written.
    #[error("sink \"{operator}\": {what}")]
    Sink {
        /// The name of the sink.
        operator: OperatorName,
        /// What failed; names the file or other object.
        what: String,
    },
    /// Two sinks of a worker have the same target, or the target of one is inside the other's.
    #[error(
        "sink \"{second}\" would write to {second_target}, and sink \"{first}\" to {first_target}: give \
         each sink its own target, outside of all others"
    )]
    SharedTarget {
        /// The sink that was built first.
        first: OperatorName,
        /// Where it writes.
        first_target: String,
        /// The sink that was built second.
        second: OperatorName,
        /// Where it would write.
        second_target: String,
    },
    /// State could not be encoded, decoded, or restored.
    #[error("state of \"{operator}\" in partition {partition}: {what}")]
    State {
        /// The operator whose state it is.
        operator: OperatorName,
        /// The partition that the state belongs to.
        partition: PartitionId,
        /// What is wrong with it.
        what: String,
    },
    /// No copy of a partition is on the node that should run it.
    #[error("no copy of \"{operator}\" partition {partition} at epoch {resume} is on this node")]
    NoCopy {
        /// The operator whose state is missing.
        operator: OperatorName,
        /// The partition that is missing.
        partition: PartitionId,
        /// The epoch from which the view resumes.
        resume: Epoch,
    },
    /// A record arrived for an epoch that is already committed.
    #[error(
        "\"{operator}\" received a record of epoch {epoch}, but epochs up to {resume} are committed: \
         records must come from protected sources, which never repeat a committed epoch"
    )]
    LateRecord {
        /// The operator that received the record.
        operator: OperatorName,
        /// The epoch of the record.
        epoch: Epoch,
        /// The epoch from which the view resumes.
        resume: Epoch,
    },
    /// A record reached a worker that cannot keep it.
    #[error("\"{operator}\": {what}")]
    Misplaced {
        /// The operator that received the record.
        operator: OperatorName,
        /// What arrived, and where.
        what: String,
    },
    /// A batch contains epochs on both sides of a checkpoint.
    #[error(
        "\"{operator}\" received a batch of epochs {first} to {last}, but epoch {checkpoint} is a checkpoint: \
         send records of different epochs in separate batches"
    )]
    SpansCheckpoint {
        /// The operator that received the batch.
        operator: OperatorName,
        /// The first epoch of the batch.
        first: Epoch,
        /// The last epoch of the batch.
        last: Epoch,
        /// The checkpoint between them.
        checkpoint: Epoch,
    },
    /// Protected state was used outside of the closure that it was made for.
    #[error(
        "state \"{name}\" was used outside of its operator's closure, where a change would belong to no \
         epoch: use it only within the closure that its constructor returns"
    )]
    OutsideOperator {
        /// The state's name, with its operator's name before the dot.
        name: OperatorName,
    },
    /// Two constructors of one operator gave one name to states of different types.
    #[error(
        "state \"{name}\" has different types in different partitions: every call of the constructor must \
         make the same states"
    )]
    StateType {
        /// The state's name, with its operator's name before the dot.
        name: OperatorName,
    },
    /// The vault refused something that this generation handed to it.
    #[error("\"{operator}\": {what}")]
    Vault {
        /// The operator whose snapshot was refused.
        operator: OperatorName,
        /// What the vault said.
        what: String,
    },
    /// The job has dropped the clock of checkpoints.
    #[error(
        "the dataflow that chooses checkpoints was dropped: `installed_dataflows` lists it, too, so drop only \
         what the job has built, by the number that `next_dataflow_index` gave before"
    )]
    ClockDropped,
    /// An input that is not protected is part of a dataflow with protected operators.
    #[error(
        "{place} an operator without inputs was built that is not protected (timely's `input_from`, \
         `to_stream` or the like): after a failure it would begin anew, with epochs that are committed. Feed \
         a `FencedInput` or `FencedSession` instead, or read a source by `to_stream_fenced`; if nothing of it \
         reaches a protected operator, build it within `scope.vouched(..)` or in a dataflow of its own"
    )]
    Unprotected {
        /// Which protected operators were built before and after it.
        place: String,
    },
    /// The job protects nothing.
    #[error("the job has no protected operator: use at least one verb that ends in `_fenced`")]
    NothingProtected,
}

impl JobError {
    /// The same error with no more words than are told of a failure.
    ///
    /// What sources and sinks say comes from outside, and may be of any length.
    pub(crate) fn cut(mut self) -> Self {
        match &mut self {
            JobError::Source { what, .. }
            | JobError::Input { what, .. }
            | JobError::Sink { what, .. }
            | JobError::State { what, .. }
            | JobError::Misplaced { what, .. }
            | JobError::Vault { what, .. } => *what = cut(std::mem::take(what)),
            JobError::Differs { one, other, .. } | JobError::NameCollision { one, other } => {
                *one = cut(std::mem::take(one));
                *other = cut(std::mem::take(other));
            }
            _ => {}
        }
        self
    }
}

/// How a worker leaves its generation early: the payload of an unwind that no panic hook prints.
#[derive(Debug)]
pub enum Leave {
    /// The supervisor asked all workers to stop.
    Stopped,
    /// The job cannot go on.
    Failed(JobError),
    /// This generation cannot go on, but the next one can: what is wrong is not kept.
    Damaged(JobError),
}

impl Leave {
    /// Leaves the worker: unwinds to the runtime, which tears the generation down.
    pub(crate) fn now(self) -> ! {
        resume_unwind(Box::new(self))
    }

    /// Tells an unwind of ours from a panic of the user's, which it gives back.
    pub fn from_payload(payload: Box<dyn Any + Send>) -> Result<Leave, Box<dyn Any + Send>> {
        payload.downcast::<Leave>().map(|leave| *leave)
    }
}
