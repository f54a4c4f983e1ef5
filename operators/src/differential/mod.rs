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
