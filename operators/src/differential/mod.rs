//! Differential dataflow, protected.
//!
//! There are two approaches, which one job may combine. **Protected verbs** ([`FencedCollection`], names that
//! end in `_fenced`) keep the arrangements that differential makes: each batch of updates is encoded once,
//! when it is made, and sent to the backups. After a failure the arrangements are restored, and nothing old
//! is computed or emitted. **Hydrated edges** ([`FencedCollection::fenced`]) keep only what passes an edge:
//! after a failure it arrives again, and everything downstream, which may use any of differential's verbs, is
//! recomputed.
//!
//! All updates through the last committed epoch survive, with their times advanced to it. Nothing that a job
//! could observe is lost.
//!
//! The two kinds of collections have different types, so that unprotected state cannot be built by mistake: a
//! [`FencedCollection`] has no verbs that would keep unprotected state, and the two kinds cannot be mixed.

//! # How an arrangement survives
//!
//! | room | step |
//! | --- | --- |
//! | `log` | an arrangement's updates, on their way to the replicas |
//! | `waiting` | updates of epochs that have not begun |
//! | `chunk` | an epoch's updates encoded, sorted by key: what replicas keep, and the vault merges |
//! | `contents`, `merge` | after a failure: the contents of the chunks, as one sorted sequence |
//! | `layout` | that sequence as a batch of a trace, written in its memory layout |
//! | `restored` | a trace that begins with that batch, and reports only what is new to its readers |
//! | `derive` | a verb that continues from its restored output |
//! | `hydrate` | the other approach: an edge whose contents arrive again |

mod arrange;
mod arranged;
mod chunk;
mod collection;
mod contents;
mod derive;
mod hydrate;
mod hydrated;
mod layout;
mod log;
mod merge;
mod missing;
mod restored;
mod session;
mod sort;
mod stateless;
mod variable;
mod verbs;
mod view;
mod waiting;

pub use arrange::FencedTrace;
pub use arranged::{FencedArranged, Reduced, SharedTrace};
pub use collection::{AsCollectionFenced, FencedCollection, Joined};
pub use hydrated::HydratedCollection;
pub use missing::Invertible;
#[doc(hidden)]
pub use missing::MayForget;
pub use restored::Restored;
pub use session::{FencedSession, SessionShare};
pub use variable::{FencedVariable, HydratedVariable};
pub use view::View;
