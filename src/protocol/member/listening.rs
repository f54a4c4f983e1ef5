//! Listening to the others: beats, silences, and what follows from them.

use super::super::detector::Verdict;
use super::super::message::{Event, Message, Output, Suspicion};
use super::{Machine, Phase};

impl Machine {
    /// Beats when it is time, and judges the silence of the others.
    pub(super) fn listen(&mut self) {
        for verdict in self.detector.judge(self.now_ms) {
            let asks = matches!(verdict, Verdict::Suspected { .. });
            self.on_verdict(verdict);
            if asks {
                self.beat_at_ms = self.now_ms;
            }
        }
        if self.beat_at_ms <= self.now_ms && !self.is_over() {
            self.beat_at_ms = self.now_ms + self.config.limits.detector.beat_ms;
            let suspects = self.detector.suspects();
            self.broadcast(&Message::Beat { suspects });
        }
    }

    pub(super) fn on_verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Suspected { node, silent_ms } => {
                self.outputs.push(Output::Report(Event::Silent { node, silent_ms }));
            }
            Verdict::Cleared { node, silent_ms } => {
                self.outputs.push(Output::Report(Event::HeardAgain { node, silent_ms }));
            }
            // Who has finished has every right to be silent.
            Verdict::Convicted { node, .. } if self.has_finished(node) => {}
            Verdict::Convicted { node, silent_ms, votes } => {
                self.suspect(self.number(), Suspicion::Silent { node, silent_ms, votes });
            }
        }
    }

    /// Watches the members that are connected; a node that is not can be heard by nobody.
    pub(super) fn watch(&mut self) {
        let members: Vec<_> = match self.phase {
            Phase::Forming | Phase::Joining => Vec::new(),
            _ => self.connected_members().collect(),
        };
        self.detector.watch(self.now_ms, members);
    }
}
