//! The view register: write-once views, so that there is at most one view for every number.
//!
//! The safety of the whole protocol rests on one promise: of all attempts to create a view with a given
//! number, exactly one succeeds, and every node reads that view ever after. The register decides nothing
//! else. It needs no consensus protocol of its own: a store that can create a name once is enough (Herlihy,
//! *Wait-Free Synchronization*, TOPLAS 1991: compare-and-swap decides for any number of processes). A
//! register belongs to one run; nothing in it is ever changed or deleted.
//!
//! | file | register |
//! | --- | --- |
//! | [`memory`] | for one process, for tests and simulators |
//! | [`directory`] | for one machine, or a shared file system with atomic hard links |

use std::path::PathBuf;

use ringfence_operators::ids::ViewNumber;
use serde::{Deserialize, Serialize};

use crate::protocol::message::{Output, RegisterReply};
use crate::protocol::view::{ClusterShape, View};

pub mod directory;
pub mod memory;

#[cfg(test)]
mod conformance_tests;

pub use directory::DirectoryRegister;
pub use memory::MemoryRegister;

/// What a register belongs to: one run of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// The id of the run, chosen by the node that opened it first.
    pub run: String,
    /// A hash of the executable and its arguments: nodes of one run have the same.
    pub job: String,
    /// The cluster that the run began with.
    pub cluster: ClusterShape,
}

/// The mark of a complete run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoneRecord {
    /// The run.
    pub run: String,
    /// The view in which it was completed.
    pub view: ViewNumber,
}

/// The result of an attempt to create a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// This view now has its number.
    Created,
    /// There already is a view with this number: read it.
    Exists,
}

/// A store of write-once views.
///
/// Every method may be called from any thread and any process, and again after any error. After
/// [`RegisterError::Unavailable`] a write may have happened or not: reading, or trying again, settles the
/// question.
pub trait Register: Send + Sync {
    /// Claims the register for `record`, or joins the run that claimed it, and returns the winner's record.
    ///
    /// Fails if the run is done, or if the register belongs to another job or another cluster.
    fn open_run(&self, record: &RunRecord) -> Result<RunRecord, RegisterError>;

    /// Creates the view of `view.number`, if there is none yet.
    ///
    /// When this returns `Created`, the view is durable and every node reads it. Of many callers with the
    /// same number, one gets `Created`. Fails if there is no view with the previous number.
    fn create_view(&self, view: &View) -> Result<Creation, RegisterError>;

    /// Returns the view of `number`, if there is one.
    fn read_view(&self, number: ViewNumber) -> Result<Option<View>, RegisterError>;

    /// Returns the number of the latest view, if there is one.
    fn latest(&self) -> Result<Option<ViewNumber>, RegisterError>;

    /// Marks the run as complete. Marking it again changes nothing.
    fn mark_done(&self, record: &DoneRecord) -> Result<(), RegisterError>;

    /// Returns whether the run is marked as complete.
    fn done(&self) -> Result<bool, RegisterError>;
}

/// Asks the register what a member's state machine wants to know, and returns the input for the state
/// machine.
///
/// Returns `None` if `output` is not a question for the register.
pub fn answer(register: &dyn Register, run: &str, output: &Output) -> Option<RegisterReply> {
    let reply = match output {
        Output::ReadView(number) => register.read_view(*number).and_then(|view| {
            let done = register.done()?;
            Ok(RegisterReply::Read { number: *number, view, done })
        }),
        Output::Propose(view) => register.create_view(view).map(|creation| match creation {
            Creation::Created => RegisterReply::Created { number: view.number },
            Creation::Exists => RegisterReply::Exists { number: view.number },
        }),
        Output::MarkDone(view) => {
            let record = DoneRecord { run: run.to_owned(), view: *view };
            register.mark_done(&record).map(|()| RegisterReply::DoneMarked)
        }
        _ => return None,
    };
    Some(reply.unwrap_or_else(|error| {
        if error.is_transient() {
            RegisterReply::Unavailable { why: error.to_string() }
        } else {
            RegisterReply::Unusable { message: error.to_string() }
        }
    }))
}

/// Why a register did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The store did not answer. The call may have taken effect or not; it may be repeated.
    #[error("the register did not answer at {path}: {error}")]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// What is stored is not what a register stores. Look at the file, or use a fresh register.
    #[error(
        "{place} is not part of a register of this release: {problem}; look at it, or use a fresh register"
    )]
    Damaged {
        /// The file or name.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The value to be stored is larger than a register will read back.
    #[error(
        "{place} would have {bytes} bytes, and may have {limit}: give the job fewer partitions"
    )]
    TooLarge {
        /// The file or name.
        place: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The run is complete. Use a fresh register to run the job again.
    #[error("run {run} in {place} is done already; use a fresh register to run the job again")]
    Done {
        /// The run.
        run: String,
        /// Where the register is.
        place: String,
    },
    /// The register belongs to another job. Use a separate register for each job.
    #[error(
        "{place} belongs to run {run} of another job (its hash is {found}, this job's is {expected}); \
         start the same executable with the same arguments on every node, or use a fresh register"
    )]
    OtherJob {
        /// Where the register is.
        place: String,
        /// The run that it belongs to.
        run: String,
        /// The hash of this job.
        expected: String,
        /// The hash of the job that it belongs to.
        found: String,
    },
    /// The register belongs to a cluster with a different shape.
    #[error(
        "{place} belongs to run {run} of a cluster of {found:?}, this node expects {expected:?}; use the same flags on every node"
    )]
    OtherCluster {
        /// Where the register is.
        place: String,
        /// The run that it belongs to.
        run: String,
        /// What this node expects.
        expected: ClusterShape,
        /// What the run began with.
        found: ClusterShape,
    },
    /// A view cannot be created, because its predecessor does not exist or the run was not opened.
    #[error("view {number} cannot be created in {place}: what comes before it is missing")]
    Gap {
        /// Where the register is.
        place: String,
        /// The number.
        number: ViewNumber,
    },
    /// The view or mark belongs to a different run than the register.
    #[error("{place} belongs to run {expected}, not to run {found}")]
    OtherRun {
        /// Where the register is.
        place: String,
        /// The run of the register.
        expected: String,
        /// The run that was named.
        found: String,
    },
}

impl RegisterError {
    /// Returns whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, RegisterError::Unavailable { .. })
    }
}

/// Checks that a node with `own` record may join the run of the `winner`.
fn check_run(
    place: &str,
    own: &RunRecord,
    winner: &RunRecord,
    done: bool,
) -> Result<(), RegisterError> {
    let place = place.to_owned();
    let run = winner.run.clone();
    if own.job != winner.job {
        return Err(RegisterError::OtherJob {
            place,
            run,
            expected: own.job.clone(),
            found: winner.job.clone(),
        });
    }
    if own.cluster != winner.cluster {
        let (expected, found) = (own.cluster.clone(), winner.cluster.clone());
        return Err(RegisterError::OtherCluster { place, run, expected, found });
    }
    if done {
        return Err(RegisterError::Done { run, place });
    }
    Ok(())
}

/// Checks that what is to be written belongs to the register's run.
fn check_same_run(place: &str, register: &RunRecord, run: &str) -> Result<(), RegisterError> {
    if register.run == run {
        return Ok(());
    }
    let (expected, found) = (register.run.clone(), run.to_owned());
    Err(RegisterError::OtherRun { place: place.to_owned(), expected, found })
}
