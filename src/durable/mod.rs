//! The durable tier: what outlives every process of a cluster.
//!
//! Durability follows memory. Every so often the lowest member of the view picks the epoch that is committed,
//! and each node writes what is new of its partitions as a [`segment`]. When all have, the lowest member
//! writes a [`manifest`] that names the segments of the epoch: now it is **durable**. A cluster that starts on
//! a store with a manifest resumes from it.
//!
//! | file | noun |
//! | --- | --- |
//! | [`store`], [`directory`] | immutable objects under names, on a local disk |
//! | [`segment`] | what one node wrote at one durable checkpoint |
//! | [`manifest`] | which segments make up the state at an epoch |
//! | [`writer`] | the thread that writes both |
//! | [`resumption`] | what a start of a cluster finds and goes on from |
//! | [`restore`] | replicas from segments |

pub(crate) mod directory;
pub(crate) mod manifest;
pub(crate) mod restore;
pub(crate) mod resumption;
pub(crate) mod segment;
pub(crate) mod store;
pub(crate) mod writer;

use ringfence_operators::snapshot::SnapshotError;

use self::store::{Store, StoreError};
use crate::error::{Error, Kind};

/// What is wrong with a durable tier.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DurableError {
    /// The store did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is not what was written.
    #[error("{name} in {place} is damaged: {problem}")]
    Damaged {
        /// The object.
        name: String,
        /// The store.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// A block of a segment is not what was written.
    #[error("partition {partition} of operator {operator:016x} in {name} in {place} is damaged")]
    Block {
        /// The segment.
        name: String,
        /// The store.
        place: String,
        /// The operator's number.
        operator: u64,
        /// The partition.
        partition: u32,
        /// What is wrong.
        #[source]
        error: SnapshotError,
    },
    /// An object has a format that this release cannot read.
    #[error("{place} has format {actual}, and this release reads format {expected}")]
    Version {
        /// The object.
        place: String,
        /// The version that this release reads.
        expected: u32,
        /// The version of the object.
        actual: u32,
    },
}

/// What a user is told of a durable tier that cannot be used.
pub(crate) fn store_error(error: DurableError) -> Error {
    Error::new(Kind::Input, "the durable tier cannot be used").because(error)
}

impl DurableError {
    /// The manifest of a number is not there.
    pub(crate) fn gone(store: &dyn Store, number: u64) -> Self {
        DurableError::damaged(store, &manifest::name_of(number), "it is not there".to_owned())
    }

    fn damaged(store: &dyn Store, name: &str, problem: String) -> Self {
        DurableError::Damaged { name: name.to_owned(), place: store.place(), problem }
    }
}

#[cfg(test)]
mod tests;
