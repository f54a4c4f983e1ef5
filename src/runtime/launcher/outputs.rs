//! What a node says: its channel and its two outputs, each read by a thread.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use ringfence_operators::text::cut;

use super::Inbox;
use super::process::Node;
use crate::network::Budget;
use crate::report::{Event, What};
use crate::runtime::channel::{self, ToLauncher};
use crate::runtime::lines::{each_cut_line, each_line};
use crate::runtime::outlets::Display;

/// How many bytes of a node's messages may wait to be handled; where there are more, the node waits.
const UNHANDLED_BYTES_MAX: usize = 4 << 20;

/// How long a line that looks like a repeated error is held back for the error itself.
const ERROR_ORDER_MAX: Duration = Duration::from_millis(20);

/// The pipes of a node, by what they are for.
pub(super) enum Output {
    Standard(std::process::ChildStdout),
    Error(std::process::ChildStderr),
}

pub(super) fn start_readers(
    node: &Node,
    outputs: (Option<Output>, Option<Output>),
    display: &Display,
    sender: &Sender<Inbox>,
) -> std::io::Result<()> {
    let id = node.id;
    let (stream, inbox) = (node.channel.try_clone()?, sender.clone());
    let told_error = Arc::clone(&node.told_error);
    thread::Builder::new().name(format!("ringfence:channel-{id}")).spawn(move || {
        let budget = Budget::new(UNHANDLED_BYTES_MAX);
        let result = channel::receive_sized(stream, |message, bytes| {
            if let ToLauncher::Event(Event { what: What::Error { message, .. }, .. }) = &message {
                *told_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.clone());
            }
            // Nobody listens any more once the launcher is done.
            let _ = inbox.send(Inbox::Message(id, message, budget.hold(bytes)));
        });
        // A connection that broke ends like one that was closed; only garbage is worth a word.
        let garbage = result.err().filter(|e| e.get_ref().is_some()).map(|e| e.to_string());
        let _ = inbox.send(Inbox::ChannelEnded(id, garbage));
    })?;
    for output in [outputs.0, outputs.1].into_iter().flatten() {
        let (display, inbox) = (display.clone(), sender.clone());
        let last_line = Arc::clone(&node.last_line);
        let told_error = Arc::clone(&node.told_error);
        thread::Builder::new().name(format!("ringfence:output-{id}")).spawn(move || {
            let prefix = format!("[node {id}] ");
            match output {
                Output::Standard(pipe) => {
                    each_line(pipe, |line| display.forward_output(&prefix, line));
                }
                Output::Error(pipe) => each_cut_line(pipe, |line| {
                    if !repeats(line, &told_error) {
                        display.forward_error(&prefix, line);
                    }
                    let text = cut(String::from_utf8_lossy(line).trim().to_owned());
                    if !text.is_empty() {
                        *last_line.lock().unwrap_or_else(PoisonError::into_inner) = text;
                    }
                }),
            }
            let _ = inbox.send(Inbox::OutputEnded(id));
        })?;
    }
    Ok(())
}

/// Whether `line` is what a program prints at its end of an error that it has told already.
///
/// The error comes first but on another way, so that it may be a moment late here.
fn repeats(line: &[u8], told_error: &Mutex<Option<String>>) -> bool {
    let line = String::from_utf8_lossy(line);
    let Some(text) = line.strip_prefix("error: ").or_else(|| line.strip_prefix("Error: ")) else {
        return false;
    };
    let until = Instant::now() + ERROR_ORDER_MAX;
    loop {
        // Of a text of several lines only the first is compared.
        let told = told_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match told {
            Some(told) => return text.starts_with(told.lines().next().unwrap_or(&told)),
            None if Instant::now() >= until => return false,
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}
