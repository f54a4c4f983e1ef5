//! What users see while a job runs: a bar on a terminal, and otherwise a line now and then.
//!
//! All of it goes to standard error. Important events (a fault, a failure, a new view, a recovery) are
//! printed at once; the progress in between is a bar, or at most one line per second.

use std::collections::BTreeSet;

use ringfence_operators::ids::{NodeId, ViewNumber, named_nodes};

use super::screen::{Progress, Shown};
use super::summary::{counted, thousands};
use super::{Event, Summary, What};
use crate::chaos::FaultKind;

/// The least time between two plain lines of progress.
const PROGRESS_LINE_INTERVAL_MS: f64 = 1_000.0;

/// How many error texts are remembered, so that each is printed once.
const ERRORS_TOLD_MAX: usize = 64;

/// Puts events into words. A [`Screen`](super::Screen) shows what it returns.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    /// Whether there is a bar, which may move at every event.
    has_bar: bool,
    /// The number of processes that share the input: this one reports its own part.
    parts: usize,
    /// The node of this process, if it is a node: its error is returned, and the caller prints it.
    own: Option<NodeId>,
    next_line_ms: f64,
    view_told: Option<ViewNumber>,
    failure_told: usize,
    errors_told: BTreeSet<String>,
    /// The greatest fraction shown: rereading after a failure does not reduce it.
    fraction_shown: f64,
}

impl Console {
    /// A console of one of `parts` processes that each report their own part; `own` is its node, if it is a
    /// node.
    pub(crate) fn new(has_bar: bool, parts: usize, own: Option<NodeId>) -> Self {
        Console {
            has_bar,
            parts: parts.max(1),
            own,
            next_line_ms: 0.0,
            view_told: None,
            failure_told: 0,
            errors_told: BTreeSet::new(),
            fraction_shown: 0.0,
        }
    }

    /// What to show for `event`; `summary` has already folded it, and `alive` is the number of nodes alive.
    pub(crate) fn tell(&mut self, event: &Event, summary: &Summary, alive: usize) -> Vec<Shown> {
        let mut shown: Vec<Shown> =
            self.words(event, summary).into_iter().map(Shown::Line).collect();
        let moves = matches!(event.what, What::Progress { .. } | What::Commit { .. });
        if moves && (self.has_bar || event.at_ms >= self.next_line_ms) {
            self.next_line_ms = event.at_ms + PROGRESS_LINE_INTERVAL_MS;
            shown.push(Shown::Progress(self.progress(summary, alive)));
        }
        shown
    }

    /// SUBTLE: the fraction never falls. After a failure the nodes begin at the resume epoch again, and
    /// count what a successor has taken over only when it reads; the line of the view says so.
    fn progress(&mut self, summary: &Summary, alive: usize) -> Progress {
        let fraction = summary.fraction().map(|part| {
            self.fraction_shown = self.fraction_shown.max((part * self.parts as f64).min(1.0));
            self.fraction_shown
        });
        let text = format!(
            "{}, {}/s, {}, {} alive",
            counted(summary.records(), "record"),
            thousands(summary.records_per_second() as u64),
            counted(summary.commits(), "commit"),
            counted(alive as u64, "node"),
        );
        Progress { fraction, text }
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
            // Every survivor reports a failure; the first one has told the others.
            What::Failure { what, suspect, evidence, .. }
                if summary.failures().len() > self.failure_told =>
            {
                self.failure_told = summary.failures().len();
                let suspect = suspect.map_or(String::new(), |node| format!(" (node {node})"));
                vec![format!("{} noticed: {what}{suspect}: {evidence}", who())]
            }
            What::Restarted { target, restarts, .. } => {
                let restarts = counted(u64::from(*restarts), "restart");
                vec![format!("starting node {target} again ({restarts} lately)")]
            }
            What::View { number, .. } if self.view_told.is_none_or(|told| told < *number) => {
                self.view_told = Some(*number);
                words_of_view(&event.what)
            }
            What::Quarantined { operator, partition, epoch, record } => vec![format!(
                "{} set a record apart that \"{operator}\" cannot process (partition {partition}, epoch \
                 {epoch}): {record}",
                who()
            )],
            What::FailureReport(report) => vec![report.to_string()],
            What::Refilled { partitions, took_ms, .. } => {
                let more = counted(u64::from(*partitions), "more partition");
                vec![format!("{} has complete copies of {more}, after {took_ms:.0} ms", who())]
            }
            What::Refused { reason, more, .. } if *more > 0 => {
                vec![format!("{} refused {}: {reason}", who(), counted(*more, "more connection"))]
            }
            What::Refused { peer, reason, .. } => {
                vec![format!("{} refused a connection from {peer}: {reason}", who())]
            }
            What::Message { text } => vec![format!("{}: {text}", who())],
            What::Error { .. } if self.own.is_some() && event.node.node() == self.own => Vec::new(),
            What::Error { message, .. } => {
                // One node's error ends the job on all nodes, and each of them says why and which node it
                // was.
                let repeats = |told: &String| {
                    message.contains(told.as_str()) || told.contains(message.as_str())
                };
                if self.errors_told.iter().any(repeats) {
                    return Vec::new();
                }
                if self.errors_told.len() < ERRORS_TOLD_MAX && !message.is_empty() {
                    self.errors_told.insert(message.clone());
                }
                vec![format!("{}: error: {message}", who())]
            }
            _ => Vec::new(),
        }
    }
}

/// A view in words.
fn words_of_view(what: &What) -> Vec<String> {
    let What::View { number, members, resume, moved_partitions, under_replicated, joined, .. } =
        what
    else {
        return Vec::new();
    };
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    let mut text = format!("view {number}: nodes {}", members.join(", "));
    if number.0 > 1 {
        let resume = resume.map_or("the beginning".into(), |e| format!("epoch {e}"));
        let moved = counted(u64::from(*moved_partitions), "partition");
        text += &format!("; {moved} moved; resuming after {resume}");
    }
    if !joined.is_empty() {
        text += &format!("; {} taken in", named_nodes(joined));
    }
    if *under_replicated > 0 {
        let few = counted(u64::from(*under_replicated), "partition");
        text += &format!("; {few} with too few backups until they are rebuilt");
    }
    vec![text]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_operators::ids::Epoch;

    fn tell(console: &mut Console, summary: &mut Summary, node: u64, what: What) -> Vec<String> {
        let event = Event::at(0.0, NodeId(node), what);
        summary.fold(&event);
        console.words(&event, summary)
    }

    #[test]
    fn a_view_is_told_once() {
        let (mut console, mut summary) = (Console::new(false, 1, None), Summary::new());
        let view = What::View {
            number: ViewNumber(2),
            members: vec![NodeId(0), NodeId(2)],
            resume: Some(Epoch(31)),
            moved_partitions: 85,
            under_replicated: 0,
            takeovers: Vec::new(),
            joined: Vec::new(),
        };
        let told = tell(&mut console, &mut summary, 0, view.clone());
        assert_eq!(told, ["view 2: nodes 0, 2; 85 partitions moved; resuming after epoch 31"]);
        assert!(tell(&mut console, &mut summary, 2, view).is_empty());
    }

    #[test]
    fn an_error_is_told_once_whoever_repeats_it() {
        let (mut console, mut summary) = (Console::new(false, 1, None), Summary::new());
        let error = |message: &str| What::Error { message: message.to_owned(), excluded: false };
        let mut told = |node, text| tell(&mut console, &mut summary, node, error(text));
        assert_eq!(told(1, "disk full"), ["node 1: error: disk full"]);
        assert!(told(0, "node 1 ended the job: disk full").is_empty());
        assert!(told(1, "disk full").is_empty());
        assert_eq!(told(2, "node 0 ended the job: no memory").len(), 1);
        assert!(told(0, "no memory").is_empty());
    }

    #[test]
    fn the_own_error_is_left_to_whoever_gets_it() {
        let (mut console, mut summary) = (Console::new(false, 2, Some(NodeId(1))), Summary::new());
        let error = What::Error { message: "disk full".to_owned(), excluded: false };
        assert!(tell(&mut console, &mut summary, 1, error).is_empty());
    }

    fn shown(console: &mut Console, summary: &mut Summary, what: What) -> Progress {
        summary.fold(&Event::at(0.0, NodeId(0), what));
        console.progress(summary, 1)
    }

    #[test]
    fn a_percentage_neither_falls_nor_comes_from_nowhere() {
        let (mut console, mut summary) = (Console::new(false, 1, None), Summary::new());
        let progress = |consumed, total| What::Progress { consumed, total, records: 1 };
        let unknown = shown(&mut console, &mut summary, progress(700, 0));
        assert_eq!(
            (unknown.fraction, unknown.text.as_str()),
            (None, "1 record, 0/s, 0 commits, 1 node alive")
        );
        let mut fraction =
            |consumed| shown(&mut console, &mut summary, progress(consumed, 1_000)).fraction;
        assert_eq!(fraction(600), Some(0.6));
        assert_eq!(fraction(0), Some(0.6));
        assert_eq!(fraction(700), Some(0.7));
        // One of three processes by hand sees a third of the input.
        let (mut console, mut summary) = (Console::new(false, 3, None), Summary::new());
        assert_eq!(shown(&mut console, &mut summary, progress(100, 300)).fraction, Some(1.0));
    }
}
