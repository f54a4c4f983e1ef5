//! Reports of what happened, for programs and for people.
//!
//! Nodes and launcher state what happened as [`Event`]s. A single desk writes these events to the
//! [`ReportFile`], folds them into the [`Summary`] and the [`FailureLedger`], and lets the [`Console`] put
//! them into words for the [`Screen`]. Nothing here writes to standard output, which belongs to the job.

mod console;
mod desk;
mod event;
mod failure;
mod file;
mod ledger;
mod screen;
mod summary;
mod tally;
mod timeline;

pub use console::Console;
pub(crate) use desk::{Desk, OnFailure, Outlets};
pub use event::{Event, Origin, Phases, Takeover, What, now_ms};
pub use failure::{
    Cause, Certainty, Clue, Component, Consequence, Cost, FailurePlace, FailureReport, Observation,
};
pub use file::ReportFile;
pub use ledger::FailureLedger;
pub use screen::{Screen, Shown, Standing};
pub use summary::{FailureRecord, FaultRecord, Recovery, Summary};
pub(crate) use summary::{counted, named_nodes};
pub use tally::{TALLY_INTERVAL_MS, TOLD_OF_A_KIND_MAX, Tally};
pub use timeline::Timeline;
