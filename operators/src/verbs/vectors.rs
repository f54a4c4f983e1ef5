//! Streams of containers other than vectors: the compiler should say what to do with them.
//!
//! Verbs whose closures take records exist for streams of vectors only. On a stream of another container, the
//! compiler finds the verbs of this module, whose errors say so. On a stream of vectors, or of a container
//! that is still to be inferred, the compiler chooses the real verbs, since those of this module need one
//! more reference.

use timely::dataflow::Stream;
use timely::progress::Timestamp;

/// A container that is a vector.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "protected verbs take streams of vectors, and `{Self}` is not a `Vec`",
    label = "this verb is for streams of `Vec`",
    note = "put an operator in front that unpacks it into a `Vec` of records, or use `unary_frontier_fenced` \
            and its kin, which take any container"
)]
pub trait IsVec {}

impl<D> IsVec for Vec<D> {}

/// Stand-ins for the verbs of streams of vectors, on streams of other containers.
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
