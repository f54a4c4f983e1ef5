//! Quiet: simulated panics say nothing on standard error; what they said is kept.

use std::cell::{Cell, RefCell};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Keeps panics of this thread quiet while it lives.
pub(super) struct Quiet;

impl Quiet {
    pub(super) fn new() -> Self {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if QUIET.get() { LAST.set(Some(info.to_string())) } else { before(info) }
            }));
        });
        QUIET.set(true);
        LAST.set(None);
        Quiet
    }

    /// What the last panic said, with its place.
    pub(super) fn last() -> String {
        LAST.take().unwrap_or_else(|| "an unwind without a panic".to_owned())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}
