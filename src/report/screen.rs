//! The screen: lines on standard error, and a bar if that is a terminal.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The progress of a run, for human readers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    /// The fraction of the input that has been read, from 0 to 1; `None` if its size is not known.
    pub fraction: Option<f64>,
    /// The rest in words.
    pub text: String,
}

/// One thing to show.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shown {
    /// One or more separate lines.
    Line(String),
    /// A line of a node's standard error: any bytes, after a prefix.
    Forwarded {
        /// The node that the line is from.
        prefix: String,
        /// The line.
        line: Vec<u8>,
    },
    /// The progress of the run.
    Progress(Progress),
}

/// Standard error, and standard output for the lines of the job itself, coordinated with a bar.
///
/// Clones share the bar. Every call may wait for the reader.
#[derive(Clone, Debug)]
pub(crate) struct Screen {
    /// `None` if standard error is not a terminal.
    bar: Option<ProgressBar>,
    /// Whether standard output is the same terminal, most likely.
    shares_terminal: bool,
    /// Serialises the lines of standard output.
    output_turn: Arc<Mutex<()>>,
}

impl Default for Screen {
    fn default() -> Self {
        Screen::new()
    }
}

/// The steps of the bar: tenths of a percent.
const BAR_STEPS: u64 = 1_000;

impl Screen {
    /// A screen, with a bar if standard error is a terminal.
    pub(crate) fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::stderr());
            bar.with_style(style(false))
        });
        let shares_terminal = bar.is_some() && stdout().is_terminal();
        Screen { bar, shares_terminal, output_turn: Arc::default() }
    }

    /// Whether there is a bar, which is cheap to move.
    pub(crate) fn has_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Shows one thing.
    pub(crate) fn show(&self, shown: &Shown) {
        let print = |parts: &[&[u8]]| self.apart(|| write_to(&mut stderr().lock(), parts));
        match (shown, &self.bar) {
            (Shown::Line(text), _) => print(&[without_controls(text).as_bytes(), b"\n"]),
            (Shown::Forwarded { prefix, line }, _) => print(&[prefix.as_bytes(), line, b"\n"]),
            (Shown::Progress(progress), Some(bar)) => {
                bar.set_style(style(progress.fraction.is_some()));
                let steps = progress.fraction.unwrap_or(0.0).clamp(0.0, 1.0) * BAR_STEPS as f64;
                bar.set_position(steps as u64);
                bar.set_message(progress.text.clone());
            }
            (Shown::Progress(Progress { fraction, text }), None) => {
                // Rounded down: 100 means that everything has been read.
                let percent = fraction.map(|part| format!("{:3.0}%  ", (part * 100.0).floor()));
                print(&[percent.unwrap_or_default().as_bytes(), text.as_bytes(), b"\n"]);
            }
        }
    }

    /// Prints `line`, which belongs to the job, on standard output after `prefix`.
    pub(crate) fn forward_output(&self, prefix: &str, line: &[u8]) {
        let _turn = self.output_turn.lock().unwrap_or_else(PoisonError::into_inner);
        let print = || write_to(&mut stdout().lock(), &[prefix.as_bytes(), line, b"\n"]);
        if self.shares_terminal { self.apart(print) } else { print() }
    }

    /// Removes the bar.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn apart(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// A bar that shows no percentage while the size of the input is not known.
fn style(has_size: bool) -> ProgressStyle {
    let template = if has_size { "{bar:30} {percent:>3}%  {msg}" } else { "{msg}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Control characters could move the cursor, or forge lines of others.
fn without_controls(text: &str) -> String {
    let is_harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(is_harmless) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len() + 16), |mut safe, c| {
        if is_harmless(c) {
            safe.push(c)
        } else {
            safe.extend(c.escape_default())
        }
        safe
    })
}

/// A closed terminal or pipe is no reason to stop a job.
fn write_to(target: &mut impl Write, parts: &[&[u8]]) {
    let _ = target.write_all(&parts.concat()).and_then(|()| target.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(without_controls("a\u{1b}[2Jb\r"), "a\\u{1b}[2Jb\\r");
        assert_eq!(without_controls("two\n\tlines"), "two\n\tlines");
    }
}
