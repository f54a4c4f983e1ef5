//! Strangers: refused connections, counted by kind, so that a flood of them results in a few lines.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::report::Tally;

/// A tally that listener threads and a node's loop share.
#[derive(Clone, Debug)]
pub(crate) struct Strangers {
    since: Instant,
    tally: Arc<Mutex<Tally>>,
}

impl Default for Strangers {
    fn default() -> Self {
        Strangers { since: Instant::now(), tally: Arc::default() }
    }
}

impl Strangers {
    /// Counts one of `kind`, and returns whether to report it with its own line.
    pub(crate) fn is_told(&self, kind: &'static str) -> bool {
        let now_ms = self.now_ms();
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).count(kind, now_ms)
    }

    /// For each kind, how many were counted but not reported, once a minute has passed or at the end.
    pub(crate) fn counted(&self, is_end: bool) -> Vec<(&'static str, u64)> {
        let now_ms = self.now_ms();
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if is_end { tally.rest() } else { tally.due(now_ms) }
    }

    fn now_ms(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }
}
