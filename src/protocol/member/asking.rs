//! Asking the register: one thing at a time, and again if it did not answer.
//!
//! A question that was not answered may have taken effect. So an unanswered proposal is never simply
//! repeated: the register is read first, and the read tells who won.

use super::super::message::{Event, Output, ProtocolError, RegisterReply};
use super::super::view::View;
use super::{Machine, Phase};

/// The one question that the register is being asked, and what comes next.
#[derive(Clone, Debug, Default)]
pub(super) struct Asking {
    pub(super) asked: Option<Question>,
    /// When to tell that the register takes long to answer.
    pub(super) complain_at_ms: Option<u64>,
    pub(super) retry_at_ms: Option<u64>,
    pub(super) read_again: bool,
    pub(super) mark_wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Read,
    Propose,
    MarkDone,
}

impl Asking {
    /// Whether nothing is being asked, nor waits to be asked again.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_none() && self.retry_at_ms.is_none()
    }
}

impl Machine {
    pub(super) fn on_reply(&mut self, reply: RegisterReply) {
        let asked = self.register.asked.take();
        self.register.complain_at_ms = None;
        match reply {
            // Who was left out learns that, and not that the others have finished without it.
            RegisterReply::Read { number, view: Some(view), done: true }
                if number == self.next_number() && self.view.is_some() && !self.is_in(&view) =>
            {
                self.consider(view)
            }
            RegisterReply::Read { done: true, .. } => self.on_done_known(),
            RegisterReply::Read { number, view: Some(view), .. }
                if number == self.next_number() =>
            {
                self.consider(view)
            }
            RegisterReply::Read { number, view: None, .. } if number == self.next_number() => {
                self.on_no_view()
            }
            RegisterReply::Read { .. } => {}
            RegisterReply::Created { number } | RegisterReply::Exists { number }
                if number != self.next_number() => {}
            RegisterReply::Created { .. } | RegisterReply::Exists { .. } => {
                // Whether we won or lost, the register has the view; one path installs it.
                self.back_to_gathering();
                self.register.read_again = true;
            }
            RegisterReply::DoneMarked => {
                if matches!(self.phase, Phase::Finishing { until_ms: None }) {
                    self.finish_marked();
                }
            }
            RegisterReply::Unavailable { why } => {
                self.back_to_gathering();
                self.register.mark_wanted |= asked == Some(Question::MarkDone);
                self.register.retry_at_ms =
                    Some(self.now_ms + self.config.limits.register_retry_ms);
                self.outputs.push(Output::Report(Event::RegisterUnavailable { why }));
            }
            RegisterReply::Unusable { message } => self.fail(ProtocolError::Register { message }),
        }
        let is_idle = self.register.is_idle() && !self.is_over();
        if is_idle && self.register.mark_wanted {
            self.ask_to_mark();
        } else if is_idle && std::mem::take(&mut self.register.read_again) {
            self.ask_to_read();
        }
    }

    pub(super) fn on_no_view(&mut self) {
        let Phase::Gathering(gathering) = &mut self.phase else { return };
        if std::mem::take(&mut gathering.reading) {
            self.propose();
        }
    }

    pub(super) fn ask_to_read(&mut self) {
        if !self.register.is_idle() {
            self.register.read_again = true;
        } else if !matches!(self.phase, Phase::Finishing { .. }) {
            self.ask(Question::Read, Output::ReadView(self.next_number()));
        }
    }

    fn ask(&mut self, question: Question, output: Output) {
        self.register.asked = Some(question);
        self.register.complain_at_ms = Some(self.now_ms + self.config.limits.register_slow_ms);
        self.outputs.push(output);
    }

    /// Tells, once a question, that the register takes long. There is nothing else to do: whether the
    /// question took effect is not known before the answer.
    pub(super) fn complain(&mut self) {
        if self.register.complain_at_ms.is_some_and(|at| at <= self.now_ms) {
            self.register.complain_at_ms = None;
            let why = format!("no answer for {} ms", self.config.limits.register_slow_ms);
            self.outputs.push(Output::Report(Event::RegisterUnavailable { why }));
        }
    }

    pub(super) fn ask_to_create(&mut self, view: View) {
        debug_assert_eq!(view.validate(), Ok(()));
        assert_eq!(self.register.asked, None, "the register is asked one thing at a time");
        self.ask(Question::Propose, Output::Propose(view));
    }

    pub(super) fn ask_to_mark(&mut self) {
        self.register.mark_wanted = !self.register.is_idle();
        if !self.register.mark_wanted {
            self.ask(Question::MarkDone, Output::MarkDone(self.number()));
        }
    }
}
