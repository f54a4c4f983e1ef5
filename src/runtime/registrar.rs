//! The registrar: asks the register, on a thread of its own.
//!
//! A register may be slow or hang, and a node that waits for it must still beat, hear the others, and
//! tell its user what it waits for.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, unbounded};

use crate::protocol::message::{Output, RegisterReply};
use crate::register::{Register, answer};

/// Asks one question after the other.
pub(super) struct Registrar {
    // The protocol asks one thing at a time, so that this never holds more than one.
    questions: Sender<Output>,
}

impl Registrar {
    /// Starts the thread. It ends with the registrar, unless it hangs in the register: then with the
    /// process.
    pub(super) fn start(
        register: Arc<dyn Register>,
        run: String,
        answered: impl Fn(RegisterReply) + Send + 'static,
    ) -> Self {
        let (questions, asked) = unbounded::<Output>();
        thread::spawn(move || {
            for question in asked {
                if let Some(reply) = answer(register.as_ref(), &run, &question) {
                    answered(reply);
                }
            }
        });
        Registrar { questions }
    }

    /// Asks; the answer comes by itself.
    pub(super) fn ask(&self, question: Output) {
        // An error says that the thread has panicked, which its own message told.
        let _ = self.questions.send(question);
    }
}
