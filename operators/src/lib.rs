//! The operators of Ringfence: everything that runs inside a timely worker.
//!
//! | module | noun |
//! | --- | --- |
//! | [`ids`] | epoch, partition, node, view: the names of things |
//! | [`time`] | what a timestamp must be so that epochs can be cut from it |
//! | [`data`], [`codec`], [`hash`] | what records and state must be, how they are encoded and hashed |
//! | `route` | key -> partition -> owner |
//! | [`fence`] | the per-worker handle behind every verb |
//! | [`generation`] | what all workers of a process share while one view lasts |
//! | [`worker`] | a worker's life in one generation: build, run, leave, tear down |
//! | [`whereabouts`] | which operator, epoch and partition a worker is at |
//! | [`state`] | keyed state with dirty keys and undo, and its encoded replica |
//! | [`snapshot`] | the encoded forms: deltas and bases |
//! | [`vault`] | a node's store of replicas and of live state between generations |
//! | `protect` | what all protected operators share: restore, take turns, seal, leave |
//! | `checkpoints`, `clock` | which epochs are checkpoints, as far as a worker knows; what chooses them |
//! | `replicate`, `commit`, `frames`, `pieces` | the two rounds of the commit, and the bytes they carry |
//! | `alarm` | wakes an operator later |
//! | [`journal`] | the encoded form of what was fed by hand |
//! | [`source`], [`input`], [`stateful`], [`sink`] | the verbs |
//! | [`wrap`] | existing operators, protected |
//! | [`differential`] | differential's collections and arrangements, protected |
//! | [`feedback`], [`inspect`] | loops whose turns are epochs; a look at what is committed |
//! | `paths` | paths as text, and the one name of a place |
//! | `quarantine` | records that nobody can process |
//! | [`text`] | how much of a text is told of a failure |
//! | [`catalogue`] | what a worker has built, compared with what the others have |
//! | [`origins`] | which operators bring something in, and whether they are protected |
//! | `dropped` | dataflows that a job ends by dropping them |
//! | `careful` | what of the job's is dropped with care |
//! | [`error`] | what can be wrong with a job |
//! | [`prelude`] | what a job imports |
//! | [`testing`] | a small harness without a cluster |

mod alarm;
mod careful;
pub mod catalogue;
mod checkpoints;
mod clock;
pub mod codec;
mod commit;
pub mod data;
pub mod differential;
mod dropped;
pub mod error;
pub mod feedback;
pub mod fence;
mod frames;
pub mod generation;
pub mod hash;
pub mod ids;
pub mod input;
pub mod inspect;
pub mod journal;
pub mod origins;
mod panics;
mod paths;
mod pieces;
#[cfg(feature = "planted")]
pub mod planted;
pub mod prelude;
mod protect;
mod quarantine;
mod replicate;
mod route;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod state;
pub mod stateful;
pub mod testing;
pub mod text;
pub mod time;
pub mod vault;
#[doc(hidden)]
pub mod vectors;
pub mod whereabouts;
pub mod worker;
pub mod wrap;
