//! The verbs: what a job calls in place of timely's operators.
//!
//! | module | noun |
//! | --- | --- |
//! | [`source`] | input that is read in shards |
//! | [`input`] | input that the program feeds by hand |
//! | [`stateful`] | keyed state and timers |
//! | [`sink`] | results that are released once they are committed |
//! | [`feedback`] | loops whose iterations are epochs |
//! | [`inspect`] | a look at what is committed |
//! | `quarantine` | records that cannot be processed |
//! | `vectors` | what the compiler says about streams of other containers |

pub mod feedback;
pub mod input;
pub mod inspect;
pub(crate) mod quarantine;
pub mod sink;
pub mod source;
pub mod stateful;
#[doc(hidden)]
pub mod vectors;
