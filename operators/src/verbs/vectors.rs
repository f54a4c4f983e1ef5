//! Streams of other containers than vectors: the compiler is to say what to do with them.
//!
//! Verbs whose records are named in their closures are there for streams of vectors. A stream of another
//! container has none of them, and so finds these, which say so. For a stream of vectors, or of a container
//! that is still to be inferred, the compiler takes the real ones, since these need one more reference.

use timely::dataflow::Stream;
use timely::progress::Timestamp;

/// A container that is a vector.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "protected verbs take streams of vectors, and `{Self}` is no `Vec`",
    label = "this verb is for streams of `Vec`",
    note = "put an operator in front that unpacks it into a `Vec` of records, or use `unary_frontier_fenced` \
            and its kin, which take any container"
)]
pub trait IsVec {}

impl<D> IsVec for Vec<D> {}

/// The verbs of streams of vectors, where they are not.
#[doc(hidden)]
#[allow(missing_docs)]
pub trait OnlyVectors<C>: Sized {
    fn sink_fenced<S>(self, name: &str, sink: S)
    where
        C: IsVec,
    {
        let _ = (name, sink);
    }

    fn inspect_fenced<L>(self, name: &str, look: L)
    where
        C: IsVec,
    {
        let _ = (name, look);
    }

    fn fold_fenced<K, I, F>(self, name: &str, key: K, init: I, fold: F)
    where
        C: IsVec,
    {
        let _ = (name, key, init, fold);
    }

    fn stateful_fenced<K, L>(self, name: &str, key: K, logic: L)
    where
        C: IsVec,
    {
        let _ = (name, key, logic);
    }

    #[expect(clippy::wrong_self_convention, reason = "the name is differential's")]
    fn as_collection_fenced(self)
    where
        C: IsVec,
    {
    }
}

impl<T: Timestamp, C> OnlyVectors<C> for &Stream<'_, T, C> {}
