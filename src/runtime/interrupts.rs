//! Interrupts: signals that ask a process to end, for all jobs that run in it.
//!
//! Once installed, a handler stays (it is impossible to know what to restore), so its thread lives as long as
//! the process. While no job runs, it does what the system would have done.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use nix::sys::signal::Signal;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::error::{EXIT_INTERRUPTED, Error, Result};

/// The signals that ask a process to end: from a terminal, from a supervisor, from a closed terminal.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

type OnInterrupt = Box<dyn Fn(Signal) + Send>;

/// The callbacks to notify.
struct Watchers {
    next: u64,
    /// With whether it has been called once.
    by_number: BTreeMap<u64, (OnInterrupt, bool)>,
}

static WATCHERS: Mutex<Watchers> = Mutex::new(Watchers { next: 0, by_number: BTreeMap::new() });

/// Keeps one callback registered until it is dropped.
pub(super) struct Interrupts {
    number: u64,
}

impl Interrupts {
    /// Calls `on`, on a separate thread, with each signal that asks this process to end. The second signal
    /// ends the process at once.
    pub(super) fn watch(on: impl Fn(Signal) + Send + 'static) -> Result<Self> {
        start()?;
        let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = watchers.next;
        watchers.next += 1;
        watchers.by_number.insert(number, (Box::new(on), false));
        Ok(Interrupts { number })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.by_number.remove(&self.number);
    }
}

/// Installs the handlers, once per process.
fn start() -> Result<()> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        let ignored = ignored_signals();
        let wanted = SIGNALS.map(|signal| signal as i32).into_iter();
        let wanted = wanted.filter(|number| ignored & (1 << (number - 1)) == 0);
        let mut signals = Signals::new(wanted).map_err(|error| error.to_string())?;
        let watch = move || signals.forever().for_each(on_signal);
        let thread = thread::Builder::new().name("ringfence:interrupts".to_owned()).spawn(watch);
        thread.map(drop).map_err(|error| error.to_string())
    });
    started.clone().map_err(|why| Error::internal("cannot watch for signals").because(why))
}

fn on_signal(number: i32) {
    let Ok(signal) = Signal::try_from(number) else { return };
    let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
    if watchers.by_number.is_empty() {
        let _ = emulate_default_handler(number);
        return;
    }
    if watchers.by_number.values().all(|(_, told)| *told) {
        std::process::exit(EXIT_INTERRUPTED);
    }
    for (on, told) in watchers.by_number.values_mut().filter(|(_, told)| !*told) {
        *told = true;
        on(signal);
    }
}

/// The signals that this process was told to ignore, as under `nohup`: one bit for each signal.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
