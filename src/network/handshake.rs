//! How every connection opens: the dialer says who it is and what it wants, the acceptor answers.
//!
//! Each of the two sends one message: eight bytes of magic, the protocol version and the length of
//! the rest as big-endian `u32`, then JSON. The first 16 bytes have this form in every version. No byte after
//! the message is read, so that the connection can then be used for anything.

use std::io::{self, Read, Write};
use std::time::Duration;

use ringfence_operators::ids::{Incarnation, NodeId, ViewNumber};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the handshake and of everything that is spoken after it.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// The longest JSON in a handshake. A stranger cannot make a node hold more than this.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

/// How long a peer may take for its side of a handshake.
pub(crate) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(2);

const MAGIC: [u8; 8] = *b"ringfnce";
const PREFIX_BYTES: usize = 16;

/// The purpose of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Messages between two nodes, for the lifetime of both processes.
    Control,
    /// Nothing but the answer: it says which run the acceptor is in.
    Find,
    /// Frames of one generation.
    Data {
        /// The view that the generation is built for.
        view: ViewNumber,
        /// The digest of that view.
        digest: String,
    },
}

/// The first message of a dialer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The run that the dialer belongs to. Empty, for a control connection only: "tell me yours".
    pub run: String,
    /// The job: a hash of executable and arguments.
    pub job: String,
    /// The dialling node.
    pub node: NodeId,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// Where the dialer itself listens.
    pub address: String,
    /// What the connection is for.
    pub purpose: Purpose,
    /// How many jobs this program ran before: their processes meet at the same addresses.
    #[serde(default)]
    pub round: u32,
    /// Whom the dialer believes to find here.
    pub to_node: NodeId,
    /// Which start of it, if the dialer knows.
    pub to_incarnation: Option<Incarnation>,
}

/// The answer of an acceptor to a dialer that it accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// Who answers.
    pub node: NodeId,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// The run that the acceptor belongs to; empty while it does not know the run.
    pub run: String,
    /// Where the register is, for a dialer that does not know.
    pub register: Option<String>,
}

/// Why an acceptor refuses a dialer.
///
/// The dialer may be a stranger: a refusal repeats at most what the dialer itself has sent, and contains no
/// text. Anything else that the acceptor knows it reports to its own user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    /// The two speak different versions of the protocol.
    #[error("the other node speaks version {here} of the protocol, this node speaks {yours}")]
    Version {
        /// The acceptor's version, which precedes every answer anyway.
        here: u32,
        /// The dialer's.
        yours: u32,
    },
    /// The two run different programs, or the same program with different arguments.
    #[error(
        "this node belongs to another job: start the same program everywhere, with the same arguments; \
         the other node reports both jobs"
    )]
    OtherJob,
    /// The two belong to different runs of the job.
    #[error("this node belongs to another run; the other node reports both runs")]
    OtherRun,
    /// The dialer runs a later job of the same program than the acceptor: it should try again soon.
    #[error("an earlier job of this program is still running there")]
    EarlierJob,
    /// Another node listens at this address.
    #[error(
        "a node other than {wanted} listens there: give all nodes the same addresses in the same order"
    )]
    WrongNode {
        /// The node that the dialer looks for.
        wanted: NodeId,
    },
    /// The node at this address was restarted.
    #[error("the node there was restarted: it is not incarnation {wanted}")]
    OtherIncarnation {
        /// The one that the dialer looks for.
        wanted: Incarnation,
    },
    /// The dialer is in a view that is over.
    #[error("view {yours} of this node has already ended there")]
    StaleView {
        /// The dialer's.
        yours: ViewNumber,
    },
    /// The acceptor has already ended its part in the dialer's view.
    #[error("the node there has already ended its part in view {view}")]
    Ended {
        /// The view.
        view: ViewNumber,
    },
    /// The dialer is ahead: it should try again soon.
    #[error("the node there does not know yet what this node refers to")]
    NotYet,
    /// The two disagree on what one view says.
    #[error("view {view} of this node differs from view {view} there")]
    OtherDigest {
        /// The view of both.
        view: ViewNumber,
    },
    /// The dialer is in no view that the acceptor knows.
    #[error("node {node} is not a member there")]
    NotAMember {
        /// The dialer.
        node: NodeId,
    },
    /// The two are already connected for this purpose.
    #[error("node {node} is already connected there")]
    AlreadyConnected {
        /// The dialer.
        node: NodeId,
    },
    /// A later start of the dialer is here.
    #[error("a later start of node {node} is connected there: this process has been replaced")]
    Restarted {
        /// The dialer.
        node: NodeId,
    },
    /// The acceptor is stopping.
    #[error("the node there is stopping")]
    Stopping,
    /// The hello could be read but made no sense.
    #[error("the node there could not interpret the hello")]
    Malformed,
}

impl Refusal {
    /// Whether the same hello may be accepted a moment later.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self, Refusal::NotYet | Refusal::EarlierJob)
    }

    /// The kind of the refused dialer, in a few words, by which refusals are counted.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Refusal::Version { .. } => "the dialer speaks another version of the protocol",
            Refusal::OtherJob => "the dialer has another job",
            Refusal::OtherRun => "the dialer belongs to another run",
            Refusal::EarlierJob => "the dialer runs a later job of this program",
            Refusal::WrongNode { .. } => "the dialer wants another node",
            Refusal::OtherIncarnation { .. } => "the dialer wants another start of this node",
            Refusal::StaleView { .. } => "the dialer is in a view that is over",
            Refusal::Ended { .. } => "the dialer is in a view that has ended here",
            Refusal::NotYet => "the dialer is ahead",
            Refusal::OtherDigest { .. } => "the dialer has another view of this number",
            Refusal::NotAMember { .. } => "the dialer is no member",
            Refusal::AlreadyConnected { .. } => "the dialer is connected already",
            Refusal::Restarted { .. } => "the dialer is an earlier start of a node that is here",
            Refusal::Stopping => "this node is stopping",
            Refusal::Malformed => "the hello makes no sense",
        }
    }
}

/// The identity of the acceptor: what a hello can be checked against without knowing any view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// This run; empty while it is not known.
    pub run: String,
    /// This job.
    pub job: String,
    /// How many jobs this program ran before.
    pub round: u32,
    /// This node.
    pub node: NodeId,
    /// This start of it.
    pub incarnation: Incarnation,
}

impl Identity {
    /// Returns why `hello` was meant for another job, run, node or incarnation, if it was.
    ///
    /// Job and run come first: a dialer that does not know them learns nothing else.
    pub(crate) fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.job != self.job {
            return Err(Refusal::OtherJob);
        }
        if hello.round > self.round {
            return Err(Refusal::EarlierJob);
        }
        if hello.round < self.round {
            return Err(Refusal::OtherRun);
        }
        // While a cluster forms, a side that does not know the run yet learns it from the other.
        let may_learn =
            hello.purpose == Purpose::Control && (hello.run.is_empty() || self.run.is_empty());
        let may_learn = may_learn || hello.purpose == Purpose::Find;
        if hello.run != self.run && !may_learn {
            // Frames never flow before the run is known here, which may be a moment late.
            return Err(if self.run.is_empty() { Refusal::NotYet } else { Refusal::OtherRun });
        }
        if hello.to_node != self.node {
            return Err(Refusal::WrongNode { wanted: hello.to_node });
        }
        if let Some(wanted) = hello.to_incarnation
            && wanted != self.incarnation
        {
            return Err(Refusal::OtherIncarnation { wanted });
        }
        if hello.address.len() > ADDRESS_BYTES_MAX || hello.address.contains(char::is_control) {
            return Err(Refusal::Malformed);
        }
        Ok(())
    }

    /// Why `hello` is refused, for the user of this side: it quotes both sides, but of a stranger only plain
    /// names.
    pub(crate) fn explain(&self, reason: &Refusal, hello: &Hello) -> String {
        let kind = reason.kind();
        match reason {
            Refusal::OtherJob => format!("{kind}: {}, here is {}", name(&hello.job), self.job),
            Refusal::OtherRun => format!("{kind}: {}, here is {}", name(&hello.run), self.run),
            Refusal::WrongNode { wanted } => {
                format!("{kind}: node {wanted}, here is {}", self.node)
            }
            Refusal::OtherIncarnation { wanted } => {
                format!("{kind}: incarnation {wanted}, here is {}", self.incarnation)
            }
            Refusal::StaleView { yours } => format!("{kind}: node {}, view {yours}", hello.node),
            Refusal::Ended { view } | Refusal::OtherDigest { view } => {
                format!("{kind}: node {}, view {view}", hello.node)
            }
            Refusal::NotAMember { node }
            | Refusal::AlreadyConnected { node }
            | Refusal::Restarted { node } => format!("{kind}: node {node}"),
            _ => kind.to_owned(),
        }
    }
}

/// The longest address that a dialer may say it listens at: a host name and a port.
const ADDRESS_BYTES_MAX: usize = 300;

/// The longest name of a stranger that is quoted.
const NAME_BYTES_MAX: usize = 64;

/// The name that a stranger gives, if it is a plain name.
fn name(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match text.len() {
        0 => "it names none".to_owned(),
        length if length <= NAME_BYTES_MAX && text.bytes().all(is_plain) => text.to_owned(),
        length => format!("{length} bytes that are no name"),
    }
}

/// The acceptor's message in a handshake, as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Welcome(Welcome),
    Refused { reason: Refusal },
}

/// Why a handshake failed on this side.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer took longer than it may.
    #[error("the peer was silent for too long")]
    TimedOut,
    /// The peer closed the connection first.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The first bytes are not those of this protocol.
    #[error("the peer does not speak this protocol")]
    Garbage,
    /// The peer speaks another version.
    #[error("the peer speaks version {theirs} of the protocol, this is {PROTOCOL_VERSION}")]
    Version {
        /// The peer's version.
        theirs: u32,
    },
    /// The peer announced more than a handshake may hold.
    #[error("the peer announced {length} bytes, at most {HANDSHAKE_BYTES_MAX} are accepted")]
    TooLong {
        /// What it announced.
        length: u32,
    },
    /// The message is malformed. The parser's text is not repeated, since it quotes the peer.
    #[error("the peer's handshake cannot be read, at column {column}")]
    Malformed {
        /// The column of the error.
        column: usize,
    },
    /// Our own message has no JSON form.
    #[error("this handshake cannot be encoded: {0}")]
    Encode(#[source] serde_json::Error),
    /// Our own message is longer than a handshake may be, because one of its fields is far too long.
    #[error("this handshake has {length} bytes, at most {HANDSHAKE_BYTES_MAX} can be sent")]
    OursTooLong {
        /// Its length.
        length: usize,
    },
    /// The connection failed.
    #[error("the connection failed during the handshake: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => HandshakeError::TimedOut,
            io::ErrorKind::UnexpectedEof => HandshakeError::Closed,
            _ => HandshakeError::Io(error),
        }
    }
}

impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io(error) => error,
            HandshakeError::TimedOut => io::Error::new(io::ErrorKind::TimedOut, error),
            HandshakeError::Closed => io::Error::new(io::ErrorKind::UnexpectedEof, error),
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Writes one side of a handshake.
pub(crate) fn write_message<T: Serialize>(
    writer: &mut impl Write,
    message: &T,
) -> Result<(), HandshakeError> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut bytes, message).map_err(HandshakeError::Encode)?;
    let length = bytes.len() - PREFIX_BYTES;
    if length > HANDSHAKE_BYTES_MAX {
        return Err(HandshakeError::OursTooLong { length });
    }
    bytes[12..PREFIX_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    // One write, so that it travels as one packet.
    writer.write_all(&bytes)?;
    Ok(writer.flush()?)
}

/// Reads one side of a handshake, and nothing after it.
pub(crate) fn read_message<T: DeserializeOwned>(
    reader: &mut impl Read,
) -> Result<T, HandshakeError> {
    // Only the magic at first: a short line of another protocol is garbage, not silence.
    let mut magic = [0; MAGIC.len()];
    let mut filled = 0;
    while filled < magic.len() {
        match reader.read(&mut magic[filled..]) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        if magic[..filled] != MAGIC[..filled] {
            return Err(HandshakeError::Garbage);
        }
    }
    let theirs = read_number(reader)?;
    let length = read_number(reader)?;
    if length as usize > HANDSHAKE_BYTES_MAX {
        return Err(HandshakeError::TooLong { length });
    }
    let mut bytes = vec![0; length as usize];
    reader.read_exact(&mut bytes)?;
    // Only now: closing a socket that holds unread bytes would destroy the refusal on its way.
    if theirs != PROTOCOL_VERSION {
        return Err(HandshakeError::Version { theirs });
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| HandshakeError::Malformed { column: error.column() })
}

fn read_number(reader: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}
