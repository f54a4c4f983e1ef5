//! Failures on purpose: what to break and when.
//!
//! This module decides; it breaks nothing itself. The launcher and the runtime ask the
//! [`FaultSchedule`] what is due and do it.

mod fault;
mod schedule;

pub use fault::{Fault, FaultKind, FaultParseError, When};
pub use schedule::FaultSchedule;
