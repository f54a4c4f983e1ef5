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

pub(crate) use control::{ControlConnection, ControlEvent, ControlLimits, ControlSendError};
pub(crate) use dial::{DialError, dial};
pub(crate) use frame::LinkEnds;
pub(crate) use handshake::{Hello, Identity, Purpose, Refusal, Welcome};
pub(crate) use held::Budget;
pub(crate) use held::Held;
pub(crate) use link::{Link, LinkCloser, LinkLoss, LinkTraffic};
pub(crate) use listener::{Inbound, Listener, ListenerLimits, RefusedConnection};

pub(crate) use resolve::{Resolved, resolve};

#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod timely_tests;
