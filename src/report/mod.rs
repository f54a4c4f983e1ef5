//! Reports of what happened, for programs and for people.
//!
//! Nodes and launcher state what happened as [`Event`]s. A single desk writes these events to the
//! report file, folds them into the [`Summary`] and the failure ledger, and lets the console put them into
//! words for the screen. Nothing here writes to standard output, which belongs to the job.

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

pub(crate) use console::Console;
pub(crate) use desk::{Desk, OnFailure, Outlets};
pub(crate) use event::now_ms;
pub use event::{Event, Origin, Phases, Takeover, What};
pub use failure::{
    Cause, Certainty, Clue, Component, Consequence, Cost, FailurePlace, FailureReport, Observation,
};
pub(crate) use file::ReportFile;
#[doc(hidden)]
pub use ledger::FailureLedger;
pub(crate) use screen::{Screen, Shown};
pub(crate) use summary::counted;
pub use summary::{FailureRecord, FaultRecord, Recovery, Summary};
pub(crate) use tally::Tally;
pub(crate) use timeline::Timeline;
