//! Hanging workers: those that do not return from what they are doing.
//!
//! A worker that has nothing to do looks like one that hangs. So a worker that was quiet for a while is
//! poked: an operator of its dataflow is activated, which makes it show a sign of life unless it is stuck in
//! an operator or in the job's own code.

use std::time::{Duration, Instant};

use ringfence_operators::fence::generation::Generation;

/// The longest time between two checks that counts in full: a node that was asleep for longer saw nothing.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// A worker hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hung {
    /// The index of the worker within the node.
    pub(super) worker: u32,
    /// How long it has shown no sign of life.
    pub(super) busy: Duration,
}

/// Watches the workers of one generation.
#[derive(Debug)]
pub(super) struct HangWatch {
    limit: Duration,
    looked: Option<Instant>,
    workers: Vec<Quiet>,
}

/// Since when a worker has shown no sign of life.
#[derive(Clone, Copy, Debug, Default)]
struct Quiet {
    pulse: u64,
    lasted: Duration,
    told: bool,
}

impl HangWatch {
    pub(super) fn new(limit: Duration) -> Self {
        HangWatch { limit, looked: None, workers: Vec::new() }
    }

    /// Returns a worker that has shown no sign of life for too long, once.
    ///
    /// A worker that is still building its dataflow is not watched: that may take as long as necessary.
    pub(super) fn look(&mut self, now: Instant, generation: &Generation) -> Option<Hung> {
        let passed = self.looked.map_or(Duration::ZERO, |at| now - at).min(LOOK_MAX);
        self.looked = Some(now);
        let pulses = generation.pulses();
        self.workers.resize(pulses.len(), Quiet::default());
        let mut hung = None;
        let mut poke = false;
        for ((worker, quiet), pulse) in (0_u32..).zip(&mut self.workers).zip(pulses) {
            if pulse == 0 || pulse != quiet.pulse {
                *quiet = Quiet { pulse, ..Quiet::default() };
                continue;
            }
            quiet.lasted += passed;
            poke |= quiet.lasted >= self.limit / 4;
            if quiet.lasted >= self.limit && !quiet.told {
                quiet.told = true;
                hung = hung.or(Some(Hung { worker, busy: quiet.lasted }));
            }
        }
        if poke {
            generation.poke();
        }
        hung
    }
}
