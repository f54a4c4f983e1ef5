//! Turns: which of the jobs of a program a process has a part in.
//!
//! A program may run several jobs. With `--local` each has a launcher and nodes of its own, and every node
//! runs the whole program: it takes part in its job and passes the others by. Processes started by hand
//! take part in all, and meet at the same addresses each time: they count them.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// The environment variable by which a launcher tells a child which job of the program it is for.
pub(super) const TURN_VARIABLE: &str = "RINGFENCE_TURN";

/// How many jobs of each closure have begun here, and whether one is running.
static BEGUN: Mutex<BTreeMap<TypeId, (u32, bool)>> = Mutex::new(BTreeMap::new());

/// How many jobs this process has taken part in as one of several that were started by hand.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

/// A job of this program, from its beginning to its end here.
#[derive(Debug)]
pub(super) struct Turn {
    closure: TypeId,
    number: u32,
}

impl Turn {
    /// Begins a job of the closure `F`. Two of one closure at a time could not be told apart.
    pub(super) fn begin<F: 'static>() -> Result<Self> {
        let closure = TypeId::of::<F>();
        let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, runs) = begun.entry(closure).or_insert((0, false));
        if *runs {
            return Err(Error::config(
                "this job runs in this program already, and with --local its nodes could not know which \
                 of the two they belong to: run one after the other, or from a closure of its own",
            ));
        }
        let number = *count;
        (*count, *runs) = (number + 1, true);
        Ok(Turn { closure, number })
    }

    /// The name by which a node finds the job of its launcher. It is the same in all processes of one
    /// executable.
    pub(super) fn name(&self) -> String {
        format!("{:?}#{}", self.closure, self.number)
    }

    /// Whether this process, a child, was started for this job.
    pub(super) fn is_ours(&self) -> bool {
        std::env::var(TURN_VARIABLE).map_or(true, |name| name == self.name())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut begun = BEGUN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, runs)) = begun.get_mut(&self.closure) {
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
        let first = Turn::begin::<One>().unwrap();
        assert!(Turn::begin::<One>().unwrap_err().to_string().contains("one after the other"));
        let other = Turn::begin::<Other>().unwrap();
        assert_ne!(first.name(), other.name());
        let name = first.name();
        drop(first);
        assert_ne!(Turn::begin::<One>().unwrap().name(), name);
    }
}
