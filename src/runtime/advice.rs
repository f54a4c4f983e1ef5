//! Advice: what to do about panics that result from how workers end.

/// Texts in panics about a lock that was held when its holder unwound.
const POISON: [&str; 2] = ["PoisonError", "previously been poisoned"];

/// Texts in panics about an output that nobody reads.
const CLOSED_OUTPUT: [&str; 2] = ["failed printing to stdout", "failed printing to stderr"];

/// What to do about a panic with this message, if that is known.
pub(super) fn on_panic(message: &str) -> Option<&'static str> {
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if says(&POISON) {
        return Some(
            "a worker leaves its view by unwinding, which poisons a std lock that it holds: take the lock with \
             lock().unwrap_or_else(PoisonError::into_inner), or do not hold it while the worker steps; see \
             docs/failures.md#locks-of-the-job",
        );
    }
    if says(&CLOSED_OUTPUT) {
        return Some(
            "nobody reads the job's output any more, and println! panics then: use writeln! and ignore \
             its error; see docs/failures.md#outputs-that-nobody-reads",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_and_closed_outputs_are_known() {
        let lock = std::sync::Mutex::new(());
        let _ = std::panic::catch_unwind(|| {
            let _held = lock.lock();
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        let message = format!("called `Result::unwrap()` on an `Err` value: {:?}", lock.lock());
        assert!(on_panic(&message).is_some_and(|text| text.contains("into_inner")), "{message}");
        let printing = "failed printing to stdout: Broken pipe (os error 32)";
        assert!(on_panic(printing).is_some_and(|text| text.contains("writeln!")));
        assert_eq!(on_panic("index out of bounds"), None);
    }
}
