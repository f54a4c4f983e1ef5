//! Turns: the jobs of a program in which a process takes part.
//!
//! A program may run several jobs. With `--local` each job has its own launcher and nodes, and every node
//! runs the whole program: it takes part in its own job and skips the others. Processes started by hand take
//! part in all jobs and meet at the same addresses each time, so they count the jobs.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// The environment variable that tells a launcher's child for which job of the program it was started.
pub(super) const TURN_VARIABLE: &str = "RINGFENCE_TURN";

/// The key of a job among those of its program: its closure, and the arguments of its nodes, which may lead
/// them directly to it.
type Key = (TypeId, Vec<OsString>);

/// How many jobs of each key have begun here, and whether one is running.
static BEGUN: Mutex<BTreeMap<Key, (u32, bool)>> = Mutex::new(BTreeMap::new());

/// How many jobs this process has taken part in as one of several that were started by hand.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

/// A job of this program, from its beginning to its end here.
#[derive(Debug)]
pub(super) struct Turn {
    key: Key,
    number: u32,
}

impl Turn {
    /// Begins a job of the closure `F` whose nodes have these arguments. Two simultaneous jobs with the same
    /// key could not be distinguished.
    pub(super) fn begin<F: 'static>(args: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let key = (TypeId::of::<F>(), args.into_iter().collect());
        let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, runs) = begun.entry(key.clone()).or_insert((0, false));
        if *runs {
            return Err(Error::config(
                "this job runs in this program already, and with --local its nodes could not know which \
                 of the two they belong to: run one after the other, or from a closure of its own",
            ));
        }
        let number = *count;
        (*count, *runs) = (number + 1, true);
        Ok(Turn { key, number })
    }

    /// The name by which a node, which already has the arguments, finds the job of its launcher. It is the
    /// same in all processes of one executable.
    pub(super) fn name(&self) -> String {
        format!("{:?}#{}", self.key.0, self.number)
    }

    /// Whether this process, a child, was started for this job.
    pub(super) fn is_ours(&self) -> bool {
        std::env::var(TURN_VARIABLE).map_or(true, |name| name == self.name())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, runs)) = begun.get_mut(&self.key) {
            *runs = false;
        }
    }
}

/// How many jobs came before this one, in a process that was started by hand.
pub(super) fn next_round() -> u32 {
    ROUNDS.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One;
    struct Other;

    #[test]
    fn jobs_of_one_closure_come_one_after_the_other() {
        let first = Turn::begin::<One>([]).unwrap();
        assert!(Turn::begin::<One>([]).unwrap_err().to_string().contains("one after the other"));
        let other = Turn::begin::<Other>([]).unwrap();
        assert_ne!(first.name(), other.name());
        // Nodes that are led to a job by their arguments come to it first.
        let led = Turn::begin::<One>(["led".into()]).unwrap();
        assert_eq!(led.name(), first.name());
        let name = first.name();
        drop(first);
        assert_ne!(Turn::begin::<One>([]).unwrap().name(), name);
    }
}
