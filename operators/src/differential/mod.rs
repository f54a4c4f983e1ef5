//! Differential dataflow, protected.
//!
//! Two ways, which one job may mix. **Protected verbs** ([`FencedCollection`], names that end in
//! `_fenced`) keep the arrangements that differential makes: each batch of updates is encoded once, when
//! it is made, and sent to the backups; after a failure the arrangements are there again and nothing old
//! is computed or emitted. **Hydrated edges** ([`FencedCollection::fenced`]) keep only what passes an edge:
//! after a failure it comes again, and what follows, any of differential's verbs, is computed anew.
//!
//! What survives: all updates through the last committed epoch, with their times advanced to it. What
//! does not: nothing that a job could observe.
//!
//! The collections have types of their own, so that state that nothing protects cannot be built by
//! mistake: a verb that would keep any is missing from a [`FencedCollection`], and the two kinds do not mix.

//! # How an arrangement survives
//!
//! | room | step |
//! | --- | --- |
//! | `log` | an arrangement's updates, on their way to the replicas |
//! | `waiting` | those of epochs that are not begun |
//! | `chunk` | an epoch's updates encoded, sorted by key: what replicas keep, and the vault merges |
//! | `contents`, `merge` | after a failure: what the chunks hold, as one sorted sequence |
//! | `layout` | that sequence as a batch of a trace, written as it lies in memory |
//! | `restored` | a trace that begins with that batch, and shows what follows only what is new |
//! | `derive` | a verb that goes on from its restored output in place of computing it anew |
//! | `hydrate` | the other way: an edge whose contents come again |

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
