//! Connections between nodes: moves bytes and reports events, and decides nothing of the protocol.
//!
//! Every node listens on one port. A connection to it opens with a handshake ([`Hello`], answered by
//! [`Welcome`] or a [`Refusal`]) and then becomes one of two things:
//!
//! - a [`ControlConnection`], one for each pair of nodes, for the lifetime of both processes: small messages,
//!   and an event when it ends;
//! - a [`Link`], one for each pair of nodes and generation: the stream that timely uses, which sees complete
//!   frames or a clean end, whatever happens to the connection.
//!
//! The pieces: [`Listener`] accepts and reads the [`Hello`]; [`dial`] connects and sends one. Any
//! end of a connection is a suspicion, never proof that a process died.

mod control;
mod deadline;
mod dial;
mod frame;
mod handshake;
mod held;
mod link;
mod listener;
mod resolve;

pub use control::{ControlConnection, ControlEvent, ControlLimits, ControlLoss, ControlSendError};
pub use dial::{DialError, dial};
pub use frame::{CHANNEL_MAX, FRAME_BYTES_MAX, HeaderFault, LinkEnds, LossReason};
pub use handshake::{
    HANDSHAKE_BYTES_MAX, HANDSHAKE_TIME_MAX, HandshakeError, Hello, Identity, PROTOCOL_VERSION,
    Purpose, Refusal, Welcome,
};
pub(crate) use held::Budget;
pub use held::Held;
pub use link::{Link, LinkCloser, LinkLoss, LinkTraffic};
pub use listener::{
    HANDSHAKES_MAX, Inbound, Listener, ListenerLimits, RefusedConnection, RefusedKind,
};

pub use resolve::{Resolved, resolve};

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod timely_tests;
