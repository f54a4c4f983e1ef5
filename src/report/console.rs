//! What a person sees while a job runs: a bar on a terminal, else a line now and then.
//!
//! All of it goes to standard error. What is important (a fault, a failure, a new view, a recovery)
//! is told at once and in words; the progress between is a bar, or at most one line each second.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ringfence_operators::ids::ViewNumber;

use super::summary::thousands;
use super::{Event, Summary, What};
use crate::chaos::FaultKind;

/// The least time between two plain lines of progress.
const PROGRESS_LINE_INTERVAL_MS: f64 = 1_000.0;

/// A voice on standard error that keeps lines and progress bar apart.
///
/// Clones share the bar, so that several threads may print.
#[derive(Clone, Debug)]
pub struct Console {
    /// `None` where standard error is no terminal.
    bar: Option<ProgressBar>,
    /// Serialises lines where no bar does.
    turn: Arc<std::sync::Mutex<()>>,
    next_line_ms: f64,
    view_told: Option<ViewNumber>,
    failure_told: usize,
}

impl Default for Console {
    fn default() -> Self {
        Console::new()
    }
}

impl Console {
    /// A console with a bar where standard error is a terminal.
    pub fn new() -> Self {
        Console::with_bar(stderr().is_terminal())
    }

    fn with_bar(wanted: bool) -> Self {
        let bar = wanted.then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Console { bar, turn: Arc::default(), next_line_ms: 0.0, view_told: None, failure_told: 0 }
    }

    /// Tells `event` in words where it is worth telling; `summary` has folded it already, and
    /// `alive` is the number of nodes that are.
    pub fn tell(&mut self, event: &Event, summary: &Summary, alive: usize) {
        for line in self.words(event, summary) {
            self.line(&line);
        }
        if matches!(event.what, What::Progress { .. } | What::Commit { .. }) {
            self.progress(event.at_ms, summary, alive);
        }
    }

    /// Prints `text` as lines of its own on standard error.
    pub fn line(&self, text: &str) {
        self.apart(|| write_to(&mut stderr().lock(), &[text.as_bytes(), b"\n"]));
    }

    /// Prints `line` on standard error behind `prefix`; `line` may have any bytes.
    pub fn forward_error(&self, prefix: &str, line: &[u8]) {
        self.apart(|| write_to(&mut stderr().lock(), &[prefix.as_bytes(), line, b"\n"]));
    }

    /// Prints `line` on standard output behind `prefix`: it is the job's own.
    pub fn forward_output(&self, prefix: &str, line: &[u8]) {
        self.apart(|| write_to(&mut stdout().lock(), &[prefix.as_bytes(), line, b"\n"]));
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn apart(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => {
                let _turn = self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                print();
            }
        }
    }

    fn progress(&mut self, now_ms: f64, summary: &Summary, alive: usize) {
        let (consumed, total) = (summary.consumed_bytes(), summary.total_bytes());
        let text = format!(
            "{} records, {}/s, {} commits, {alive} nodes alive",
            thousands(summary.records()),
            thousands(summary.records_per_second() as u64),
            thousands(summary.commits()),
        );
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(consumed));
            bar.set_position(consumed);
            bar.set_message(text);
        } else if now_ms >= self.next_line_ms {
            self.next_line_ms = now_ms + PROGRESS_LINE_INTERVAL_MS;
            let percent = summary.fraction().map_or(0.0, |fraction| fraction * 100.0);
            self.line(&format!("{percent:3.0}%  {text}"));
        }
    }

    fn words(&mut self, event: &Event, summary: &Summary) -> Vec<String> {
        let who = || event.node.node().map_or("launcher".to_owned(), |node| format!("node {node}"));
        match &event.what {
            What::Fault { kind, target, until_ms } => {
                let lasting = until_ms
                    .map_or(String::new(), |until| format!(" for {:.0} ms", until - event.at_ms));
                vec![match kind {
                    FaultKind::Kill => format!("killing node {target} now (SIGKILL)"),
                    FaultKind::Panic => format!("making a worker of node {target} panic now"),
                    FaultKind::Stop => format!("stopping node {target} now (SIGSTOP){lasting}"),
                    FaultKind::Cut => format!("cutting node {target} off now{lasting}"),
                    FaultKind::Slow => format!("slowing node {target} down now{lasting}"),
                }]
            }
            // Every survivor tells of a failure; the first one has told the others.
            What::Failure { what, suspect, evidence, .. }
                if summary.failures().len() > self.failure_told =>
            {
                self.failure_told = summary.failures().len();
                let suspect = suspect.map_or(String::new(), |node| format!(" (node {node})"));
                vec![format!("{} noticed: {what}{suspect}: {evidence}", who())]
            }
            What::View { number, members, resume, moved_partitions, under_replicated, .. }
                if self.view_told.is_none_or(|told| told < *number) =>
            {
                self.view_told = Some(*number);
                let members: Vec<String> = members.iter().map(ToString::to_string).collect();
                let mut text = format!("view {number}: nodes {}", members.join(", "));
                if number.0 > 1 {
                    let resume = resume.map_or("the beginning".into(), |e| format!("epoch {e}"));
                    text +=
                        &format!("; {moved_partitions} partitions moved; resuming after {resume}");
                }
                if *under_replicated > 0 {
                    text += &format!(
                        "; {under_replicated} partitions have too few backups until they are rebuilt"
                    );
                }
                vec![text]
            }
            What::Quarantined { operator, partition, epoch, record } => vec![format!(
                "{} set a record apart that \"{operator}\" cannot process (partition {partition}, epoch \
                 {epoch}): {record}",
                who()
            )],
            What::FailureReport(report) => vec![report.to_string()],
            What::Refilled { partitions, took_ms, .. } => {
                vec![format!(
                    "{} has whole copies of {partitions} more partitions, after {took_ms:.0} ms",
                    who()
                )]
            }
            What::Refused { peer, reason } => {
                vec![format!("{} refused a connection from {peer}: {reason}", who())]
            }
            What::Message { text } => vec![format!("{}: {text}", who())],
            What::Error { message, .. } => vec![format!("{}: error: {message}", who())],
            _ => Vec::new(),
        }
    }
}

/// A closed terminal or pipe is no reason to stop a job.
fn write_to(target: &mut impl Write, parts: &[&[u8]]) {
    let _ = target.write_all(&parts.concat()).and_then(|()| target.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_operators::ids::{Epoch, NodeId};

    fn tell(console: &mut Console, summary: &mut Summary, node: u64, what: What) -> Vec<String> {
        let event = Event::at(0.0, NodeId(node), what);
        summary.fold(&event);
        console.words(&event, summary)
    }

    #[test]
    fn a_view_is_told_once() {
        let (mut console, mut summary) = (Console::with_bar(false), Summary::new());
        let view = What::View {
            number: ViewNumber(2),
            members: vec![NodeId(0), NodeId(2)],
            resume: Some(Epoch(31)),
            moved_partitions: 85,
            under_replicated: 0,
            takeovers: Vec::new(),
        };
        let told = tell(&mut console, &mut summary, 0, view.clone());
        assert_eq!(told, ["view 2: nodes 0, 2; 85 partitions moved; resuming after epoch 31"]);
        assert!(tell(&mut console, &mut summary, 2, view).is_empty());
    }
}
