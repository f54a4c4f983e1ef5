//! Identifiers: small types, so that an epoch cannot be confused with a view number.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number! {
    /// The outer part of a job's timestamp: the unit in which input is committed.
    Epoch(u64), ""
}
number! {
    /// A fixed slot of the key space: the unit of ownership, checkpoint and takeover.
    PartitionId(u32), ""
}
number! {
    /// The stable identity of one process of the cluster, the same across its restarts.
    NodeId(u64), ""
}
number! {
    /// One start of a node's process: a restarted node is unknown to the others until it is admitted.
    Incarnation(u64), ""
}
number! {
    /// The number of an agreed membership. Numbers start at 1, only grow and have no gaps.
    ViewNumber(u64), ""
}

/// Nodes with their noun: `node 1`, `nodes 0, 2`.
#[doc(hidden)]
pub fn named_nodes<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let names: Vec<String> = nodes.into_iter().map(ToString::to_string).collect();
    format!("node{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

/// One worker thread of one node, the same across generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// The node whose process runs the thread.
    pub node: NodeId,
    /// The index of the thread within its process.
    pub worker: u32,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.worker)
    }
}

/// The name of a protected operator, which identifies its state across generations and restarts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperatorName(pub Arc<str>);

impl OperatorName {
    /// Names an operator.
    pub fn new(name: &str) -> Self {
        OperatorName(name.into())
    }
}

/// Escapes control characters: the job chooses the name, and a terminal would obey them.
impl fmt::Display for OperatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(&self.0, f)
    }
}

/// `text` with its control characters escaped, for people and terminals.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // Writing to a string cannot fail.
    let _ = write_escaped(text, &mut shown);
    shown
}

fn write_escaped(text: &str, to: &mut impl fmt::Write) -> fmt::Result {
    let is_control = |c: char| c.is_control();
    let mut rest = text;
    while let Some(at) = rest.find(is_control) {
        let (plain, from) = rest.split_at(at);
        to.write_str(plain)?;
        let mut characters = from.chars();
        if let Some(control) = characters.next() {
            write!(to, "{}", control.escape_default())?;
        }
        rest = characters.as_str();
    }
    to.write_str(rest)
}

/// One share of a hand-fed input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The index of the share, below `count`.
    pub index: u64,
    /// The number of shares, fixed for the whole run.
    pub count: u64,
}

/// A place in a job, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Spot {
    /// The protected operator; absent outside of protected operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorName>,
    /// The partition whose record or shard was being worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionId>,
    /// The epoch that was being worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// What is known of the panic of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPanic {
    /// The index of the worker within its node.
    pub worker: u32,
    /// The panic's message; a long message is cut, see [`crate::text`].
    pub message: String,
    /// Where the panic began, as `file:line:column`; `None` for an unwind that no hook saw.
    pub location: Option<String>,
    /// Where in the job it happened.
    pub spot: Spot,
    /// The record that could not be processed, as text. It is kept only in partitions that are watched
    /// because one of their records made a worker panic before.
    pub record: Option<String>,
}

impl fmt::Display for WorkerPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} panicked", self.worker)?;
        if let Some(operator) = &self.spot.operator {
            write!(f, " in operator \"{operator}\"")?;
        }
        if let Some(partition) = self.spot.partition {
            write!(f, ", partition {partition}")?;
        }
        if let Some(epoch) = self.spot.epoch {
            write!(f, ", epoch {epoch}")?;
        }
        if let Some(location) = &self.location {
            write!(f, ", at {location}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(record) = &self.record {
            write!(f, "; the record was {record}")?;
        }
        Ok(())
    }
}
