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

use std::fmt::Display;
use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};

/// Prints a line on standard output. Where nobody reads it any more there is nobody to tell.
pub fn say(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// A fresh directory for the output of a run that named none. It is told at once, since it stays whatever
/// comes of the run, unless the run removes it in the end.
pub fn fresh_output(name: &str) -> std::io::Result<PathBuf> {
    let directory = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir()?.keep();
    let _ = writeln!(
        stderr(),
        "output goes to {} (--remove-output removes it in the end)",
        directory.display()
    );
    Ok(directory)
}

/// Removes what [`fresh_output`] made.
pub fn remove_output(directory: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(directory)?;
    say(format_args!("{} is removed", directory.display()));
    Ok(())
}

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
