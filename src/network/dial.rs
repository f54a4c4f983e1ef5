//! Connecting to another node's listener.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_operators::ids::{Incarnation, NodeId};

use super::deadline::Deadline;
use super::handshake::{
    Answer, HandshakeError, Hello, Refusal, Welcome, read_message, write_message,
};

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// How long one attempt to connect may take: a host that is down answers nothing at all.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a node could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The node answered and refused: the connection certainly does not exist.
    #[error("node {node} at {address} refused: {reason}")]
    Refused {
        /// Whom we wanted.
        node: NodeId,
        /// Where.
        address: String,
        /// Its reason.
        reason: Refusal,
    },
    /// Another process accepted the connection: the address is wrong or belongs to another process.
    #[error(
        "{address} answered as node {node} (incarnation {incarnation}){}",
        if *is_other_run { " of another run" } else { "" }
    )]
    WrongPeer {
        /// Where.
        address: String,
        /// Who answered.
        node: NodeId,
        /// Which start of it.
        incarnation: Incarnation,
        /// Whether it belongs to another run.
        is_other_run: bool,
    },
    /// The peer is not a node of this version, so trying again would not help.
    #[error("no handshake with {address}: {error}")]
    Handshake {
        /// Where.
        address: String,
        /// What went wrong.
        #[source]
        error: HandshakeError,
    },
    /// Nobody answered until the deadline. The last attempt's error says how it failed.
    #[error("no answer from {address}: {error}")]
    Unreachable {
        /// Where.
        address: String,
        /// How the last attempt failed.
        #[source]
        error: io::Error,
    },
}

/// How one attempt failed.
enum Failure {
    Again(io::Error),
    Final(DialError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Again(error)
    }
}

/// Connects to `address`, sends `hello` and returns the connection once it is accepted.
///
/// Tries until `deadline`, with pauses of 5 ms that grow to 200 ms, while nothing listens, the connection
/// breaks, or the refusal is temporary. An established connection is waited for until `deadline`. An address
/// that is a host name is resolved again each time (the resolver has its own time limit, which may exceed the
/// deadline). Any other answer ends the attempts: a refusal, or a peer that is not the node, incarnation or
/// run that `hello` names. The connection has no timeouts and sends without delay.
pub(crate) fn dial(
    address: &str,
    hello: &Hello,
    deadline: Instant,
) -> Result<(TcpStream, Welcome), DialError> {
    let mut pause = PAUSE_MIN;
    loop {
        let error = match attempt(address, hello, deadline) {
            Ok(connected) => return Ok(connected),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again(error)) => error,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DialError::Unreachable { address: address.to_owned(), error });
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn attempt(
    address: &str,
    hello: &Hello,
    deadline: Instant,
) -> Result<(TcpStream, Welcome), Failure> {
    let stream = connect(address, deadline)?;
    stream.set_nodelay(true)?;
    // SUBTLE: an attempt may not be given up while the connection is established. A slow node accepts it
    // later, and then refuses the next one, since this node is already connected.
    let mut limited = Deadline::new(&stream, deadline);
    // A refusal may be waiting even if the hello could not be sent completely.
    let said = write_message(&mut limited, hello);
    let answer = match (read_message(&mut limited), said) {
        (Ok(answer), _) => answer,
        (Err(error), Ok(())) | (Err(_), Err(error)) => {
            return Err(match error {
                HandshakeError::Closed | HandshakeError::TimedOut | HandshakeError::Io(_) => {
                    Failure::Again(error.into())
                }
                error => {
                    Failure::Final(DialError::Handshake { address: address.to_owned(), error })
                }
            });
        }
    };
    let welcome = match answer {
        Answer::Welcome(welcome) => welcome,
        Answer::Refused { reason } if reason.is_temporary() => {
            return Err(Failure::Again(io::Error::other(reason)));
        }
        Answer::Refused { reason } => {
            let (node, address) = (hello.to_node, address.to_owned());
            return Err(Failure::Final(DialError::Refused { node, address, reason }));
        }
    };
    let other_run = !hello.run.is_empty() && !welcome.run.is_empty() && hello.run != welcome.run;
    let other_start = hello.to_incarnation.is_some_and(|wanted| wanted != welcome.incarnation);
    if welcome.node != hello.to_node || other_start || other_run {
        let Welcome { node, incarnation, .. } = welcome;
        let (address, is_other_run) = (address.to_owned(), other_run);
        return Err(Failure::Final(DialError::WrongPeer {
            address,
            node,
            incarnation,
            is_other_run,
        }));
    }
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok((stream, welcome))
}

/// Connects to the first of the addresses of `address` that accepts the connection.
fn connect(address: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let resolved: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    for socket_address in resolved {
        let left = deadline.saturating_duration_since(Instant::now());
        // A deadline in the past still allows one quick attempt.
        let limit = left.clamp(Duration::from_millis(1), CONNECT_TIME_MAX);
        match TcpStream::connect_timeout(&socket_address, limit) {
            // SUBTLE: on loopback, with nobody listening on a port of the ephemeral range, the
            // kernel may pick that very port for us and connect the socket to itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                last = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
