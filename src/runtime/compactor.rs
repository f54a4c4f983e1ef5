//! The thread that folds deltas into replicas, off the workers' threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ringfence_operators::vault::MemoryVault;

/// How much is folded before the most urgent work is determined again.
const COMPACT_BYTES: usize = 1 << 20;

/// How long the thread rests when there is nothing to fold.
const COMPACT_PAUSE: Duration = Duration::from_millis(5);

/// The thread that folds deltas into replicas, off the workers' threads.
pub(super) struct Compactor {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Compactor {
    pub(super) fn start(vault: Arc<MemoryVault>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                // What cannot be folded is found again, and reported, when its replica is opened.
                if vault.compact(COMPACT_BYTES).unwrap_or(0) == 0 {
                    thread::sleep(COMPACT_PAUSE);
                }
            }
        });
        Compactor { stop, thread: Some(thread) }
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to report.
            let _ = thread.join();
        }
    }
}
