//! How every connection opens: the dialer says who it is and what it wants, the acceptor answers.
//!
//! Each of the two sends one message: eight bytes of magic, the protocol version and the length of
//! the rest as big-endian `u32`, then JSON. The first 16 bytes have this form in every version. No
//! byte behind the message is read, so that the connection can then be used for anything.

use std::io::{self, Read, Write};
use std::time::Duration;

use ringfence_operators::ids::{Incarnation, NodeId, ViewNumber};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the handshake and of everything that is spoken after it.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest JSON in a handshake. A stranger can make a node hold no more than this.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

/// How long a peer may take for its side of a handshake.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(2);

const MAGIC: [u8; 8] = *b"ringfnce";
const PREFIX_BYTES: usize = 16;

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Messages between two nodes, for the life of both processes.
    Control,
    /// Frames of one generation.
    Data {
        /// The view that the generation is built for.
        view: ViewNumber,
        /// The digest of that view.
        digest: String,
    },
}

/// What a dialer says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The run that the dialer belongs to. Empty, for a control connection only: "tell me yours".
    pub run: String,
    /// The job: a hash of executable and arguments.
    pub job: String,
    /// Who dials.
    pub node: NodeId,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// Where the dialer itself listens.
    pub address: String,
    /// What the connection is for.
    pub purpose: Purpose,
    /// Whom the dialer believes to find here.
    pub to_node: NodeId,
    /// Which start of it, if the dialer knows.
    pub to_incarnation: Option<Incarnation>,
}

/// What an acceptor says to a dialer it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Who answers.
    pub node: NodeId,
    /// Which start of it.
    pub incarnation: Incarnation,
    /// The run that the acceptor belongs to; empty while it does not know.
    pub run: String,
    /// Where the register is, for a dialer that was not told.
    pub register: Option<String>,
}

/// Why an acceptor does not take a dialer. "Here" is the acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The two speak different versions of the protocol.
    #[error("version {here} of the protocol is spoken here, the dialer speaks {yours}")]
    Version {
        /// The acceptor's.
        here: u32,
        /// The dialer's.
        yours: u32,
    },
    /// The two run different programs, or the same with different arguments.
    #[error("job {here} runs here, the dialer has job {yours}: start the same program everywhere")]
    OtherJob {
        /// The acceptor's.
        here: String,
        /// The dialer's.
        yours: String,
    },
    /// The two belong to different runs of the job.
    #[error("run {here} is going on here, the dialer belongs to run {yours}")]
    OtherRun {
        /// The acceptor's.
        here: String,
        /// The dialer's.
        yours: String,
    },
    /// Another node listens at this address.
    #[error("node {here} listens at this address, the dialer wants node {wanted}")]
    WrongNode {
        /// The acceptor.
        here: NodeId,
        /// Whom the dialer looks for.
        wanted: NodeId,
    },
    /// The node at this address was restarted.
    #[error("this is incarnation {here} of the node, the dialer wants {wanted}")]
    OtherIncarnation {
        /// The acceptor's.
        here: Incarnation,
        /// The one that the dialer looks for.
        wanted: Incarnation,
    },
    /// A later start of the dialing node is known here.
    #[error("incarnation {known} of the dialing node is known here, this one is {yours}")]
    OldIncarnation {
        /// The one known.
        known: Incarnation,
        /// The dialer's.
        yours: Incarnation,
    },
    /// The dialer is in a view that is over.
    #[error("view {here} is installed here, the dialer is still in view {yours}")]
    StaleView {
        /// The acceptor's.
        here: ViewNumber,
        /// The dialer's.
        yours: ViewNumber,
    },
    /// The acceptor has ended its part in the dialer's view already.
    #[error("this node has ended its part in view {view} already")]
    Ended {
        /// The view.
        view: ViewNumber,
    },
    /// The dialer is ahead: to be tried again soon.
    #[error("view {yours} is not installed here yet")]
    NotYet {
        /// The dialer's.
        yours: ViewNumber,
    },
    /// The two disagree on what one view says.
    #[error("view {view} has digest {here} here, the dialer has {yours}")]
    OtherDigest {
        /// The view of both.
        view: ViewNumber,
        /// The acceptor's.
        here: String,
        /// The dialer's.
        yours: String,
    },
    /// The dialer is in no view that the acceptor knows.
    #[error("node {node} is not a member here")]
    NotAMember {
        /// The dialer.
        node: NodeId,
    },
    /// The two are connected for this purpose already.
    #[error("node {node} is connected here already")]
    AlreadyConnected {
        /// The dialer.
        node: NodeId,
    },
    /// Another process has this number here, or had it before it died.
    #[error(
        "another process is or was node {node} here, and one that is started again cannot rejoin a \
         run yet: the job goes on without it"
    )]
    Restarted {
        /// The dialer.
        node: NodeId,
    },
    /// The acceptor is on its way out.
    #[error("this node is stopping")]
    Stopping,
    /// The hello could be read and made no sense.
    #[error("the hello makes no sense: {what}")]
    Malformed {
        /// What was wrong.
        what: String,
    },
}

impl Refusal {
    /// Whether the same hello may be taken a moment later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Refusal::NotYet { .. })
    }
}

/// Who answers at this address: what can be told from a hello without knowing any view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// This run; empty while it is not known.
    pub run: String,
    /// This job.
    pub job: String,
    /// This node.
    pub node: NodeId,
    /// This start of it.
    pub incarnation: Incarnation,
}

impl Identity {
    /// Returns why `hello` was meant for another job, run, node or incarnation, if it was.
    pub fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.job != self.job {
            return Err(Refusal::OtherJob { here: self.job.clone(), yours: hello.job.clone() });
        }
        if hello.to_node != self.node {
            return Err(Refusal::WrongNode { here: self.node, wanted: hello.to_node });
        }
        if let Some(wanted) = hello.to_incarnation
            && wanted != self.incarnation
        {
            return Err(Refusal::OtherIncarnation { here: self.incarnation, wanted });
        }
        // While a cluster forms, a side that does not know the run yet learns it from the other.
        let may_learn =
            hello.purpose == Purpose::Control && (hello.run.is_empty() || self.run.is_empty());
        if hello.run != self.run && !may_learn {
            return Err(Refusal::OtherRun { here: self.run.clone(), yours: hello.run.clone() });
        }
        Ok(())
    }
}

/// The acceptor's side of a handshake, as it is sent.
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
    #[error("the peer announced {length} bytes, at most {HANDSHAKE_BYTES_MAX} are taken")]
    TooLong {
        /// What it announced.
        length: u32,
    },
    /// The message is not what it should be.
    #[error("the peer's handshake cannot be read: {0}")]
    Malformed(#[source] serde_json::Error),
    /// Our own message is longer than a handshake may be: a field of it is far too long.
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
    serde_json::to_writer(&mut bytes, message).map_err(HandshakeError::Malformed)?;
    let length = bytes.len() - PREFIX_BYTES;
    if length > HANDSHAKE_BYTES_MAX {
        return Err(HandshakeError::OursTooLong { length });
    }
    bytes[12..PREFIX_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    // One write, so that it travels as one packet.
    writer.write_all(&bytes)?;
    Ok(writer.flush()?)
}

/// Reads one side of a handshake, and nothing behind it.
pub(crate) fn read_message<T: DeserializeOwned>(
    reader: &mut impl Read,
) -> Result<T, HandshakeError> {
    // The magic alone first: a short line of another protocol is garbage, not silence.
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
    serde_json::from_slice(&bytes).map_err(HandshakeError::Malformed)
}

fn read_number(reader: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}
