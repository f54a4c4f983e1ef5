//! The registrar: queries the register on its own thread.
//!
//! A register may be slow or hang, and a node that waits for it must still send heartbeats, receive messages,
//! and tell its user what it is waiting for.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, unbounded};

use crate::protocol::message::{Output, RegisterReply};
use crate::register::{Register, answer};

/// Asks one question at a time.
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

    /// Asks a question; the answer arrives as an event.
    pub(super) fn ask(&self, question: Output) {
        // An error means that the thread has panicked, which its own message has reported.
        let _ = self.questions.send(question);
    }
}
