//! State: what a protected operator keeps between records, and what is kept to undo it.
//!
//! [`KeyedTable`] is the live state of one partition; [`Replica`] is its encoded copy on a backup.
//! Both follow the same chain of deltas: at every sealed epoch they hold the same entries.
//! The state of a trace is a log of chunks instead, and a replica of it holds the same sum ([`ChunkId`]).

mod chunks;
mod image;
mod keyed;
mod replica;
mod table;

pub use chunks::{CHUNK_BYTES_MAX, ChunkId, ChunkMerger};
pub use image::{REPLICA_KEYS_MAX, ReplicaBase};
pub use keyed::{FILLED, KeyedTable, Rewound, StateError, hash_key};
pub use replica::{PENDING_WHILE_SHARED_BYTES_MIN, Replica};
pub use table::Table;
