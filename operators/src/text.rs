//! Text about failures, cut to what every report, console and message has room for.

/// The longest text that is quoted about a failure: a panic's message, a record, an error text.
///
/// A longer text is cut where it is created, so that no report, console, control message or message to the
/// launcher ever has to refuse it.
pub const TEXT_BYTES_MAX: usize = 4 << 10;

/// Cuts a text about a failure to [`TEXT_BYTES_MAX`] bytes, and appends its original length.
///
/// ```
/// use ringfence_operators::text::{TEXT_BYTES_MAX, cut};
///
/// assert_eq!(cut("short".to_owned()), "short");
/// let long = cut("x".repeat(1_000_000));
/// assert!(long.ends_with("... (cut: it has 1000000 bytes)"));
/// assert!(long.len() < TEXT_BYTES_MAX + 50);
/// ```
pub fn cut(text: String) -> String {
    cut_to(text, TEXT_BYTES_MAX)
}

/// Cuts a text to `bytes_max` bytes, between two characters, and appends its original length.
pub fn cut_to(mut text: String, bytes_max: usize) -> String {
    let length = text.len();
    if length > bytes_max {
        let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.shrink_to_fit();
        text.push_str(&format!("... (cut: it has {length} bytes)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_byte_less_than_the_limit_the_limit_and_one_more() {
        for length in [0, TEXT_BYTES_MAX - 1, TEXT_BYTES_MAX] {
            assert_eq!(cut("x".repeat(length)), "x".repeat(length));
        }
        let text = cut("x".repeat(TEXT_BYTES_MAX + 1));
        let kept = "x".repeat(TEXT_BYTES_MAX);
        assert_eq!(text, format!("{kept}... (cut: it has {} bytes)", TEXT_BYTES_MAX + 1));
    }

    proptest! {
        #[test]
        fn what_is_kept_is_the_beginning(text in "\\PC{0,40}", limit in 0usize..60) {
            let cut = cut_to(text.clone(), limit);
            if text.len() <= limit {
                prop_assert_eq!(cut, text);
            } else {
                let (kept, note) = cut.rsplit_once("... (cut: ").unwrap();
                prop_assert!(text.starts_with(kept) && kept.len() <= limit);
                prop_assert!(limit - kept.len() < 4);
                prop_assert_eq!(note, format!("it has {} bytes)", text.len()));
            }
        }
    }
}
