//! The operators of Ringfence: everything that runs inside a timely worker.
//!
//! | module | noun |
//! | --- | --- |
//! | [`ids`] | epoch, partition, share, node, view: the names of things |
//! | [`time`] | what a timestamp must provide so that it can be divided into epochs |
//! | [`data`], [`codec`], [`hash`] | requirements on records and state, and how they are encoded and hashed |
//! | [`error`] | what can be wrong with a job |
//! | `text`, `paths` | how much of a text a failure report quotes; paths as text |
//! | `snapshot` | the encoded forms: deltas, bases and journals |
//! | `state` | keyed state with dirty keys and undo, and its encoded replica |
//! | `vault` | a node's store of replicas and of live state between generations |
//! | [`fence`] | the per-worker handle behind every verb, and what the workers of a process share |
//! | `rounds` | the two rounds of the commit, and the bytes they carry |
//! | `protected` | what all protected operators share: restore, route, take turns, seal, leave |
//! | [`verbs`] | source, input, stateful, sink, feedback, inspect |
//! | [`wrap`] | existing operators, protected |
//! | [`differential`] | differential's collections and arrangements, protected |
//! | `worker` | the life of a worker within one generation: build, run, leave, tear down |
//! | [`prelude`] | what a job imports |
//! | [`testing`] | a small harness without a cluster |
//! | `planted` | planted bugs, which the simulator must find |

pub mod codec;
pub mod data;
pub mod differential;
pub mod error;
pub mod fence;
pub mod hash;
pub mod ids;
mod paths;
#[cfg(not(feature = "planted"))]
#[allow(unreachable_pub, reason = "public where bugs are planted")]
mod planted;
#[cfg(feature = "planted")]
pub mod planted;
pub mod prelude;
mod protected;
mod rounds;
#[doc(hidden)]
pub mod snapshot;
#[doc(hidden)]
pub mod state;
pub mod testing;
#[doc(hidden)]
pub mod text;
pub mod time;
#[doc(hidden)]
pub mod vault;
pub mod verbs;
#[doc(hidden)]
pub mod worker;
pub mod wrap;
