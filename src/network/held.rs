//! Held: bytes of messages that have been received and wait to be handled.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Counts the bytes that are held, and makes callers wait that would hold more.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: usize,
    bytes: Mutex<usize>,
    let_go: Condvar,
}

impl Budget {
    pub(crate) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Budget { limit_bytes, bytes: Mutex::new(0), let_go: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        // No code that can panic runs under this lock.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds some bytes; waits until there is room for them, or until nothing else is held.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let has_no_room =
            |held: &mut usize| *held > 0 && held.saturating_add(bytes) > self.limit_bytes;
        let held = self.let_go.wait_while(self.lock(), has_no_room);
        *held.unwrap_or_else(PoisonError::into_inner) += bytes;
        Held { budget: Arc::clone(self), bytes }
    }
}

/// Bytes that count as held until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.budget.lock() -= self.bytes;
        self.budget.let_go.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn up_to_the_limit_nobody_waits_and_beyond_it_everybody_does() {
        for (bytes, waits) in [(9, false), (10, false), (11, true)] {
            let budget = Budget::new(100);
            let first = budget.hold(90);
            let (sender, held) = mpsc::channel();
            let other = thread::spawn(move || sender.send(budget.hold(bytes)));
            if waits {
                assert!(held.recv_timeout(Duration::from_millis(50)).is_err(), "{bytes} bytes");
            } else {
                held.recv_timeout(Duration::from_secs(10)).unwrap();
            }
            drop(first);
            other.join().unwrap().unwrap();
        }
    }

    #[test]
    fn what_is_larger_than_the_limit_is_held_alone() {
        let budget = Budget::new(10);
        drop(budget.hold(1_000));
        assert_eq!(*budget.lock(), 0);
    }
}
