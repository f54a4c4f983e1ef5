//! What the examples share: options, inputs, output, and the check of the word count.

#![allow(dead_code, unreachable_pub, reason = "each example uses its own part of this")]

pub mod auction;
pub mod churn;
pub mod graph;
pub mod job;
pub mod lines;
pub mod options;
pub mod orders;
pub mod random;
pub mod text;
pub mod verify;
pub mod weather;

/// The words of a line: its maximal runs of ASCII letters, in lower case.
pub fn words(line: &str) -> impl Iterator<Item = String> + '_ {
    line.split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_word_is_a_run_of_ascii_letters() {
        let words: Vec<String> = super::words("Don't re-read 2nd CAFÉ, naïve x").collect();
        assert_eq!(words, ["don", "t", "re", "read", "nd", "caf", "na", "ve", "x"]);
    }
}
