//! Witness: what all parts of a simulation tell to one place, where it is held against the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_operators::ids::{Epoch, ViewNumber};

use super::faults::Fault;
use super::plant::Plant;
use super::process::ProcessId;
use crate::conduct::Conduct;

/// What is about to go wrong inside a process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Armed {
    /// The process ends at this many calls of its vault or sinks from now.
    pub(super) crash_after: Option<u32>,
    /// The next snapshot that comes in is cut short.
    pub(super) tear: bool,
    /// A bit of the next snapshot that comes in is flipped.
    pub(super) flip: bool,
    /// So many releases fail, every other one after it has happened.
    pub(super) release_failures: u32,
    /// So long every release takes.
    pub(super) release_us: u64,
}

/// A record of a run, shared by vaults, sinks and the simulator.
#[derive(Clone, Default)]
pub(super) struct Witness(Arc<Mutex<Inner>>);

#[derive(Default)]
pub(super) struct Inner {
    pub(super) conduct: Conduct,
    pub(super) plant: Option<Plant>,
    pub(super) armed: BTreeMap<ProcessId, Armed>,
    /// The latest view in which anything was recorded, up to where, and in how many steps.
    commits: (ViewNumber, Option<Epoch>, u64),
    /// Processes that ended in the middle of an activation.
    pub(super) crashed: BTreeSet<ProcessId>,
    /// How long the current step of a process takes beyond the usual.
    pub(super) spent_us: u64,
    pub(super) fired: Vec<Fault>,
    broken: Option<String>,
}

impl Inner {
    /// Notes that somebody has recorded an epoch.
    pub(super) fn commits(&mut self, view: ViewNumber, epoch: Epoch) {
        let (latest, recorded, steps) = &mut self.commits;
        if view > *latest {
            (*latest, *recorded, *steps) = (view, None, 0);
        }
        if view == *latest && *recorded < Some(epoch) {
            (*recorded, *steps) = (Some(epoch), *steps + 1);
        }
    }

    /// How many commits a view has, where it is the latest.
    pub(super) fn commits_in(&self, view: ViewNumber) -> u64 {
        let (latest, _, steps) = self.commits;
        if view == latest { steps } else { 0 }
    }
}

impl Witness {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is broken, if nothing was before.
    pub(super) fn check<E: Display>(&self, name: &str, held: Result<(), E>) {
        if let Err(error) = held {
            self.lock().broken.get_or_insert_with(|| format!("{name}: {error}"));
        }
    }

    /// Returns what is broken.
    pub(super) fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    pub(super) fn is_planted(&self, plant: Plant) -> bool {
        self.lock().plant == Some(plant)
    }

    /// Ends the process here, in the middle of an activation, if that is due.
    pub(super) fn perhaps_crash(&self, process: ProcessId) {
        let mut inner = self.lock();
        let Some(armed) = inner.armed.get_mut(&process) else { return };
        match armed.crash_after {
            None => return,
            Some(left @ 1..) => {
                armed.crash_after = Some(left - 1);
                return;
            }
            Some(0) => armed.crash_after = None,
        }
        inner.crashed.insert(process);
        drop(inner);
        resume_unwind(Box::new("the simulated process ends here"));
    }

    pub(super) fn releases(&self, process: ProcessId, view: ViewNumber, epoch: Epoch) {
        let held = self.lock().conduct.releases(process.who(), view, epoch);
        self.check("release", held);
    }
}
