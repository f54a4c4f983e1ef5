//! What happened, told to programs and to people.
//!
//! Nodes and launcher state what happened as [`Event`]s. The same events are written to the
//! [`ReportFile`], folded into the [`Summary`], and told in words on the [`Console`]. Nothing here
//! writes to standard output, which is the job's own.

mod console;
mod event;
mod file;
mod summary;
mod timeline;

pub use console::Console;
pub use event::{Event, Origin, Phases, What, now_ms};
pub use file::ReportFile;
pub use summary::{FailureRecord, FaultRecord, Recovery, Summary};
pub use timeline::Timeline;
