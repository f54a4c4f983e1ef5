//! Failures on purpose: what to break and when.
//!
//! A [`FaultSchedule`] and [`RandomFaults`] say what is due; the launcher and the runtime ask them
//! and do it. The [`Proxy`] is what they break connections with: it stands between nodes and has no
//! thread of its own.

mod fault;
mod pipe;
mod proxy;
#[cfg(test)]
mod proxy_tests;
mod random;
mod schedule;

pub use fault::{Fault, FaultKind, FaultParseError, When};
pub use proxy::{Proxy, ProxyHandle, Route};
pub use random::{RandomFaults, RandomLimits, RandomSpec};
pub use schedule::FaultSchedule;
