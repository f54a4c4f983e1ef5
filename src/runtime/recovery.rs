//! What a node notes about its recoveries, from the first suspicion until it has caught up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ringfence_operators::fence::generation::Notice;
use ringfence_operators::ids::ViewNumber;

use super::catch_up::CatchUp;
use super::stopwatch::Stopwatch;
use crate::report::What;

/// The recovery in progress, if there is one.
#[derive(Debug, Default)]
pub(crate) struct RecoveryLog {
    watch: Option<Stopwatch>,
    view: ViewNumber,
    restoring: BTreeMap<usize, Duration>,
    records_replayed: u64,
    records_at_resume: u64,
    keys_rewound: u64,
    bytes_opened: u64,
    /// Since the first suspicion; what a failed attempt had begun is also rewound.
    epochs_rewound: u64,
    /// By worker; the same partitions are opened by every operator.
    partitions_restored: BTreeMap<usize, u32>,
}

impl RecoveryLog {
    pub(crate) fn suspected(&mut self, now: Instant) {
        self.watch.get_or_insert_with(|| Stopwatch::start(now));
    }

    pub(crate) fn stopped(&mut self, now: Instant) {
        if let Some(watch) = &mut self.watch {
            watch.stopped(now);
        }
    }

    pub(crate) fn agreed(&mut self, now: Instant) {
        if let Some(watch) = &mut self.watch {
            watch.agreed(now);
        }
    }

    pub(crate) fn connected(&mut self, now: Instant) {
        if let Some(watch) = &mut self.watch {
            watch.connected(now);
        }
    }

    /// Notes how many epochs were begun and are processed again.
    pub(crate) fn rewound(&mut self, epochs: u64) {
        if self.watch.is_some() {
            self.epochs_rewound = self.epochs_rewound.max(epochs);
        }
    }

    /// The workers of `view` begin to build; what an earlier attempt restored counts no longer.
    pub(crate) fn building(&mut self, view: ViewNumber) {
        let (watch, epochs_rewound) = (self.watch.take(), self.epochs_rewound);
        *self = RecoveryLog { watch, view, epochs_rewound, ..RecoveryLog::default() };
    }

    /// Notes what a worker of `view` told, which has been counted as `catch_up` says; returns what to report once
    /// the recovery is over.
    pub(crate) fn note(
        &mut self,
        view: ViewNumber,
        notice: &Notice,
        catch_up: &CatchUp,
        now: Instant,
    ) -> Option<What> {
        if view != self.view {
            return None;
        }
        let watch = self.watch.as_mut()?;
        match notice {
            Notice::Restored { worker, opened, bytes_opened, keys_rewound, elapsed, .. } => {
                self.bytes_opened += *bytes_opened as u64;
                let restored = self.partitions_restored.entry(*worker).or_default();
                *restored = (*restored).max(*opened as u32);
                self.keys_rewound += *keys_rewound as u64;
                let total = self.restoring.entry(*worker).or_default();
                *total += *elapsed;
                watch.restored(*total);
            }
            Notice::Resumed { records, replaying } => {
                self.records_replayed += replaying;
                self.records_at_resume += records;
            }
            Notice::Built { .. } if catch_up.is_built() => watch.built(now),
            Notice::Committed { .. } => watch.committed(now),
            _ => {}
        }
        if catch_up.is_over() {
            watch.replayed(now);
        }
        if !watch.is_over() {
            return None;
        }
        let phases_ms = watch.phases();
        self.watch = None;
        let epochs_rewound = std::mem::take(&mut self.epochs_rewound);
        Some(What::Recovered {
            view,
            phases_ms,
            records_replayed: self.records_replayed,
            records_at_resume: self.records_at_resume,
            keys_rewound: self.keys_rewound,
            partitions_restored: self.partitions_restored.values().sum(),
            epochs_rewound,
            bytes_opened: self.bytes_opened,
        })
    }
}
