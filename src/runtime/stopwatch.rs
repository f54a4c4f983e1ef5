//! The stopwatch of a recovery: when each of its phases ended on this node.

use std::time::{Duration, Instant};

use crate::report::Phases;

/// Times one recovery, from the first suspicion until the node has caught up.
///
/// Each phase begins where the one before ended. A second failure in the middle starts no new
/// stopwatch: the phases that are done again simply end later.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    suspected: Instant,
    stopped: Option<Instant>,
    agreed: Option<Instant>,
    connected: Option<Instant>,
    built: Option<Instant>,
    replayed: Option<Instant>,
    committed: Option<Instant>,
    /// The longest that a worker took to rewind and restore; part of building.
    restoring: Duration,
}

impl Stopwatch {
    pub(crate) fn start(now: Instant) -> Self {
        Stopwatch {
            suspected: now,
            stopped: None,
            agreed: None,
            connected: None,
            built: None,
            replayed: None,
            committed: None,
            restoring: Duration::ZERO,
        }
    }

    /// The generation has stopped, and the results of an earlier attempt no longer count.
    pub(crate) fn stopped(&mut self, now: Instant) {
        *self = Stopwatch { stopped: Some(now), ..Stopwatch::start(self.suspected) };
    }

    pub(crate) fn agreed(&mut self, now: Instant) {
        self.agreed = Some(now);
    }

    pub(crate) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    pub(crate) fn restored(&mut self, worker_total: Duration) {
        self.restoring = self.restoring.max(worker_total);
    }

    pub(crate) fn built(&mut self, now: Instant) {
        self.built = Some(now);
    }

    /// The node's sources have read again what they had read before the failure.
    pub(crate) fn replayed(&mut self, now: Instant) {
        self.replayed.get_or_insert(now);
    }

    /// An epoch of the new view is committed.
    pub(crate) fn committed(&mut self, now: Instant) {
        self.committed.get_or_insert(now);
    }

    /// Whether the node has caught up to where it was before the failure.
    pub(crate) fn is_over(&self) -> bool {
        self.built.is_some() && self.replayed.is_some() && self.committed.is_some()
    }

    /// The phases of a recovery that is over.
    pub(crate) fn phases(&self) -> Phases {
        let stopped = self.stopped.unwrap_or(self.suspected);
        let agreed = self.agreed.unwrap_or(stopped);
        let connected = self.connected.unwrap_or(agreed);
        let built = self.built.unwrap_or(connected);
        let replayed = self.replayed.unwrap_or(built);
        let committed = self.committed.unwrap_or(replayed);
        let ms =
            |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        let restore = self.restoring.as_secs_f64() * 1e3;
        Phases {
            detect: None,
            stop: ms(self.suspected, stopped),
            agree: ms(stopped, agreed),
            connect: ms(agreed, connected),
            build: (ms(connected, built) - restore).max(0.0),
            restore,
            replay: ms(built, replayed),
            caught_up: ms(replayed, committed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_add_up() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut watch = Stopwatch::start(begin);
        watch.stopped(at(1));
        watch.agreed(at(3));
        watch.connected(at(6));
        watch.restored(Duration::from_millis(2));
        watch.built(at(10));
        assert!(!watch.is_over());
        watch.replayed(at(15));
        watch.committed(at(21));
        watch.committed(at(99));
        assert!(watch.is_over());
        let phases = watch.phases();
        assert_eq!(
            (phases.stop, phases.agree, phases.connect, phases.build, phases.restore),
            (1.0, 2.0, 3.0, 2.0, 2.0)
        );
        assert_eq!((phases.replay, phases.caught_up), (5.0, 6.0));
    }
}
