//! The channel between a launcher and one node: JSON lines in both directions.
//!
//! It is a pair of connected sockets, and the node's end is its standard input. So it needs neither a name
//! nor a port, no other process can connect to it, and each side sees at once when the other is gone.
//!
//! INVARIANT: a node does not outlive its launcher. The end of the channel ends the process; on Linux the
//! kernel also kills it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ringfence_operators::ids::NodeId;
use ringfence_operators::text::cut_to;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::chaos::FaultKind;
use crate::config::NODE_VARIABLE;
use crate::error::{Error, Result};
use crate::report::Event;

/// The greatest length of a message; a longer one is garbage.
///
/// The sender cuts the texts in it to fit, so that the event itself is always reported.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The first length to which the texts of a message are cut that does not fit.
const TEXT_BYTES: usize = 16 << 10;

/// The environment variable by which a launcher tells a node that it starts again where it listened before.
pub(super) const ADDRESS_VARIABLE: &str = "RINGFENCE_ADDRESS";

/// The exit code of a node whose launcher is gone.
const EXIT_WITHOUT_LAUNCHER: i32 = 1;

/// A message from a node to its launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToLauncher {
    /// The node listens; it waits for [`ToNode::Start`] now.
    Hello {
        /// Where other nodes reach it.
        address: String,
    },
    /// Something happened.
    Event(Event),
}

/// A message from a launcher to a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToNode {
    /// All nodes listen: connect and begin.
    Start(Start),
    /// Inject a failure.
    Fault(FaultKind),
}

/// The information that a node needs to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The unique name of this run.
    pub run: String,
    /// The register directory.
    pub register: PathBuf,
    /// All nodes in order, the receiver among them, and where each listens.
    pub peers: Vec<(NodeId, String)>,
    /// The process number of the launcher.
    pub launcher_process_id: u32,
    /// Whether the receiver was started in the place of a process that has ended.
    #[serde(default)]
    pub is_restart: bool,
}

/// The argument of a node's callback.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FromLauncher {
    /// The launcher has sent a message.
    Message(ToNode),
    /// The launcher is gone; the process ends once the callback returns.
    Gone,
}

/// A node's end of the channel. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Supervision {
    node: NodeId,
    stream: Arc<Mutex<UnixStream>>,
}

impl Supervision {
    /// Takes the channel from standard input, which is empty from then on.
    ///
    /// Returns `None` in a process that no launcher started. Must be called at most once. A process that a
    /// launcher started should call it early: from then on the process dies with its launcher.
    pub(crate) fn from_env() -> Result<Option<Self>> {
        let Ok(node) = std::env::var(NODE_VARIABLE) else { return Ok(None) };
        let node = node.parse().map_err(|_| {
            Error::usage(format!(
                "{NODE_VARIABLE}={node:?} is not a node number; only the launcher sets it"
            ))
        })?;
        let lost = |problem: &str| {
            Error::usage(format!(
                "{NODE_VARIABLE} is set, but {problem}; only the launcher sets it"
            ))
        };
        let stdin = std::io::stdin();
        let fd = stdin.as_fd().try_clone_to_owned();
        let stream =
            UnixStream::from(fd.map_err(|e| lost("there is no standard input").because(e))?);
        stream.peer_addr().map_err(|e| lost("standard input is not a channel").because(e))?;
        // Processes that the node starts must not hold the channel open.
        let nothing = std::fs::File::open("/dev/null")
            .map_err(|e| Error::internal("cannot open /dev/null").because(e))?;
        nix::unistd::dup2_stdin(&nothing)
            .map_err(|e| Error::internal("cannot replace standard input").because(e))?;
        #[cfg(target_os = "linux")]
        if let Err(error) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL) {
            return Err(Error::internal("cannot tie this process to its launcher").because(error));
        }
        Ok(Some(Supervision::over(NodeId(node), stream)))
    }

    fn over(node: NodeId, stream: UnixStream) -> Self {
        Supervision { node, stream: Arc::new(Mutex::new(stream)) }
    }

    /// The node that this process is.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Tells the launcher where this node listens.
    pub(crate) fn hello(&self, address: impl Into<String>) -> Result<()> {
        self.send(&ToLauncher::Hello { address: address.into() })
    }

    /// Tells the launcher what happened.
    pub(crate) fn event(&self, event: Event) -> Result<()> {
        self.send(&ToLauncher::Event(event))
    }

    /// Sends `message`. An error means that the launcher is gone and that this process is about to end; a
    /// caller may ignore it.
    pub(crate) fn send(&self, message: &ToLauncher) -> Result<()> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        send(&stream, message)
            .map_err(|error| Error::job("the launcher of this node is gone").because(error))
    }

    /// Starts the thread that calls `on` with each message, and finally with [`FromLauncher::Gone`]. When
    /// that call returns, the process ends at once.
    pub(crate) fn listen(&self, mut on: impl FnMut(FromLauncher) + Send + 'static) -> Result<()> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
        let stream = stream.map_err(|e| Error::internal("cannot share the channel").because(e))?;
        let listen = move || {
            // Garbage ends the channel just as its end does: nothing after it can be interpreted.
            let _ = receive(stream, |message| on(FromLauncher::Message(message)));
            on(FromLauncher::Gone);
            std::process::exit(EXIT_WITHOUT_LAUNCHER);
        };
        let thread = thread::Builder::new().name("ringfence:supervision".to_owned()).spawn(listen);
        thread.map_err(|e| Error::internal("cannot start a thread").because(e))?;
        Ok(())
    }
}

/// Writes `message` as one line.
pub(super) fn send<M: Serialize>(mut stream: &UnixStream, message: &M) -> std::io::Result<()> {
    let mut line = encode(message, MESSAGE_BYTES_MAX)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Encodes a message in less than `bytes_max` bytes: if it has more, its texts are cut to fit.
fn encode<M: Serialize>(message: &M, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    let line = serde_json::to_vec(message)?;
    if line.len() < bytes_max {
        return Ok(line);
    }
    let mut text_bytes = TEXT_BYTES;
    while text_bytes > 0 {
        let mut value = serde_json::to_value(message)?;
        cut_texts(&mut value, text_bytes);
        let line = serde_json::to_vec(&value)?;
        if line.len() < bytes_max {
            return Ok(line);
        }
        text_bytes /= 2;
    }
    let what = format!("a message has {} bytes, but may have at most {bytes_max}", line.len());
    Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
}

/// Cuts each text in a message to `bytes_max` bytes.
fn cut_texts(value: &mut serde_json::Value, bytes_max: usize) {
    use serde_json::Value;
    match value {
        Value::String(text) => *text = cut_to(std::mem::take(text), bytes_max),
        Value::Array(values) => values.iter_mut().for_each(|value| cut_texts(value, bytes_max)),
        Value::Object(fields) => {
            fields.values_mut().for_each(|value| cut_texts(value, bytes_max));
        }
        _ => {}
    }
}

/// Calls `on` with each message until the other side is gone, or until something cannot be read.
pub(super) fn receive<M: DeserializeOwned>(
    stream: UnixStream,
    mut on: impl FnMut(M),
) -> std::io::Result<()> {
    receive_sized(stream, |message, _bytes| on(message))
}

/// The same, with the length of each message.
pub(super) fn receive_sized<M: DeserializeOwned>(
    stream: UnixStream,
    mut on: impl FnMut(M, usize),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.by_ref().take(MESSAGE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        // A line without an end was being written when its writer died.
        if length == 0 || (line.last() != Some(&b'\n') && length < MESSAGE_BYTES_MAX) {
            return Ok(());
        }
        on(serde_json::from_slice(&line)?, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::What;

    #[test]
    fn messages_arrive_in_order_until_the_other_side_is_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let supervision = Supervision::over(NodeId(3), theirs);
        supervision.hello("127.0.0.1:9").unwrap();
        let event = Event::at(1.5, NodeId(3), What::Message { text: "hi".to_owned() });
        supervision.event(event.clone()).unwrap();
        drop(supervision);
        let mut got = Vec::new();
        receive(ours, |message: ToLauncher| got.push(message)).unwrap();
        let hello = ToLauncher::Hello { address: "127.0.0.1:9".to_owned() };
        assert_eq!(got, [hello, ToLauncher::Event(event)]);
    }

    #[test]
    fn a_torn_line_is_the_end_and_garbage_is_an_error() {
        for (bytes, is_ok) in [(&b"{\"fault\":"[..], true), (b"garbage\n", false)] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(bytes).unwrap();
            drop(theirs);
            let result = receive(ours, |message: ToNode| panic!("got {message:?}"));
            assert_eq!(result.is_ok(), is_ok);
        }
    }

    #[test]
    fn long_texts_are_cut_and_their_messages_arrive() {
        // One text of each length around the limit; and many texts that are too long together.
        let around = (MESSAGE_BYTES_MAX - 200..MESSAGE_BYTES_MAX + 200).step_by(7);
        let one = |length| What::Message { text: "ä".repeat(length / 2) };
        let mut whats: Vec<What> = around.chain([3 * MESSAGE_BYTES_MAX]).map(one).collect();
        whats.push(What::Error { message: "\u{1}".repeat(MESSAGE_BYTES_MAX), excluded: true });
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sent = whats.clone();
        let writer = thread::spawn(move || {
            let supervision = Supervision::over(NodeId(3), theirs);
            for what in sent {
                supervision.event(Event::at(1.5, NodeId(3), what)).unwrap();
            }
        });
        let mut got = Vec::new();
        receive(ours, |message: ToLauncher| got.push(message)).unwrap();
        writer.join().unwrap();
        assert_eq!(got.len(), whats.len());
        for (message, what) in got.into_iter().zip(whats) {
            let ToLauncher::Event(event) = message else { panic!("{message:?}") };
            match (event.what, what) {
                (What::Message { text }, What::Message { text: all }) if text == all => {
                    assert!(all.len() < MESSAGE_BYTES_MAX);
                }
                (What::Message { text }, What::Message { text: all })
                | (What::Error { message: text, .. }, What::Error { message: all, .. }) => {
                    assert!(all.len() > MESSAGE_BYTES_MAX - 200, "{} bytes", all.len());
                    assert!(
                        text.ends_with(&format!("(cut: it has {} bytes)", all.len())),
                        "{text}"
                    );
                }
                (got, sent) => panic!("{got:?} of {sent:?}"),
            }
        }
    }

    #[test]
    fn many_texts_are_cut_to_what_fits_together() {
        let texts: Vec<String> = (0..300).map(|_| "x".repeat(500)).collect();
        let line = encode(&texts, 20_000).unwrap();
        assert!((5_000..20_000).contains(&line.len()), "{} bytes", line.len());
        let got: Vec<String> = serde_json::from_slice(&line).unwrap();
        assert!(got.iter().all(|text| text.ends_with("(cut: it has 500 bytes)")));
        let numbers: Vec<u64> = (0..10_000).collect();
        assert!(encode(&numbers, 20_000).is_err(), "numbers cannot be cut");
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = thread::spawn(move || {
            let block = [b'x'; 1 << 16];
            while theirs.write_all(&block).is_ok() {}
        });
        assert!(receive(ours, |message: ToNode| panic!("got {message:?}")).is_err());
        writer.join().unwrap();
    }
}
