//! Where a panic began: the location in the source, which only a panic hook can see.
//!
//! Catching a panic yields its payload, which has no location; timely, user code and this crate may all have
//! been running. So there is a hook. It is installed once per process, makes a note for workers only, and
//! always calls the previous hook: code that prints, logs or counts panics continues to do so. A program that
//! later sets its own hook without calling the previous one loses only the locations in its reports.

use std::any::Any;
use std::cell::RefCell;
use std::panic;
use std::sync::Once;

use crate::text::cut;

static INSTALLED: Once = Once::new();

thread_local! {
    /// Where the last panic of this thread began.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on, notes where panics begin.
pub(crate) fn watch() {
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            // A panic while the note is being made, or while the thread ends, gets no note.
            let _ = LOCATION.try_with(|note| {
                if let Ok(mut note) = note.try_borrow_mut() {
                    *note = location;
                }
            });
            before(info);
        }));
    });
    forget();
}

/// Forgets where a panic of this thread began, because it was caught and is handled.
pub(crate) fn forget() {
    LOCATION.with_borrow_mut(|note| *note = None);
}

/// Where the panic that this thread has just caught began: `file:line:column`. An unwind that no hook sees,
/// such as [`resume_unwind`](std::panic::resume_unwind), has no location.
pub(crate) fn location() -> Option<String> {
    LOCATION.with_borrow_mut(Option::take)
}

/// What a panic said, as much of it as is told.
pub(crate) fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    cut(text.unwrap_or_else(|| "a panic without a message".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, resume_unwind};

    use super::*;

    #[test]
    fn a_panic_is_located_and_an_unwind_is_not() {
        watch();
        let line = line!() + 1;
        assert!(catch_unwind(|| panic!("on purpose")).is_err());
        let place = location().unwrap();
        assert!(place.contains(&format!("panics.rs:{line}:")), "{place}");
        assert!(catch_unwind(|| resume_unwind(Box::new("on purpose"))).is_err());
        assert_eq!(location(), None);
    }
}
