//! A steady rate at which a worker reads, whatever shards its records are of.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// Since when this worker reads, and how much it has. Each generation has new threads.
    static READ: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

/// Returns how many records this worker may read now at `rate` records per second, and counts them as read.
/// Waits for `pause` where there are none yet: the worker has nothing else to do at this rate.
pub fn due(rate: u64, pause: Duration, records_max: u64) -> u64 {
    let (since, read) = READ.get().unwrap_or_else(|| (Instant::now(), 0));
    let allowed = || (since.elapsed().as_secs_f64() * rate as f64) as u64;
    if allowed() <= read {
        std::thread::sleep(pause);
    }
    let due = allowed().saturating_sub(read).min(records_max);
    READ.set(Some((since, read + due)));
    due
}
