//! Injected failures: what to break and when.
//!
//! A [`FaultSchedule`] and [`RandomFaults`] say what is due; the launcher and the runtime query them and
//! inject the faults. They break connections with the [`Proxy`], which sits between nodes and has no thread
//! of its own.

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
