//! Collections that are exact after a failure: each change arrives once, at its time.

use differential_dataflow::VecCollection;
use differential_dataflow::collection::AsCollection;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::Timestamp;
use timely::progress::timestamp::Refines;

use crate::time::FencedTime;

/// A collection that delivers, after a failure, exactly the changes after the last commit.
///
/// It comes from input that is replayed ([`FencedSession`](super::FencedSession), [`AsCollectionFenced`]),
/// and from protected verbs, whose names end in `_fenced`. Verbs that keep nothing from one epoch to the next
/// are the same as differential's. Unprotected verbs that do keep something are deliberately missing: after a
/// failure they would begin empty. To use them, go through [`fenced`](FencedCollection::fenced), an edge that
/// delivers again everything that it has carried.
pub struct FencedCollection<'scope, T: Timestamp, D: Clone + 'static, R: Clone + 'static = isize> {
    pub(super) updates: VecCollection<'scope, T, D, R>,
}

impl<T: Timestamp, D: Clone + 'static, R: Clone + 'static> Clone for FencedCollection<'_, T, D, R> {
    fn clone(&self) -> Self {
        FencedCollection { updates: self.updates.clone() }
    }
}

/// The result of joining two records with the same key.
pub type Joined<K, V, V2> = (K, (V, V2));

/// Turns a stream of updates into a collection.
pub trait AsCollectionFenced<'scope, T: Timestamp, D: Clone + 'static, R: Clone + 'static> {
    /// The collection that has these changes.
    ///
    /// The stream itself must be exact: it must come from a fenced source or a protected operator, and
    /// nothing in between may keep anything from one epoch to the next. Timely cannot check this; the job
    /// vouches for it.
    ///
    /// ```
    /// use ringfence_operators::differential::AsCollectionFenced;
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    ///
    /// let counts = testing::run(2, |scope, output| {
    ///     per_share(|_share| (0..6u64).map(|n| (n % 3, 0, 1isize)))
    ///         .to_stream_fenced(scope, "numbers")
    ///         .as_collection_fenced()
    ///         .count_fenced("counts")
    ///         .sink_fenced("out", output);
    /// });
    /// let last: isize = counts.iter().map(|((_, count), _, diff)| count * diff).sum();
    /// assert_eq!(last, 12);
    /// ```
    #[expect(clippy::wrong_self_convention, reason = "the name is differential's")]
    fn as_collection_fenced(self) -> FencedCollection<'scope, T, D, R>;
}

impl<'scope, T, D, R> AsCollectionFenced<'scope, T, D, R> for StreamVec<'scope, T, (D, T, R)>
where
    T: FencedTime + Lattice,
    D: Clone + 'static,
    R: Clone + Semigroup + 'static,
{
    fn as_collection_fenced(self) -> FencedCollection<'scope, T, D, R> {
        // An update may have a time before that of its batch, which would be seen too late.
        let updates = self.unary(Pipeline, "AsCollectionFenced", |_, _| {
            |input, output| {
                input.for_each(|capability, updates| {
                    if let Some(least) = capability.stamp().iter().min() {
                        updates.iter_mut().for_each(|(_, time, _)| time.join_assign(least));
                    }
                    output.session(&capability).give_container(updates);
                });
            }
        });
        FencedCollection { updates: updates.as_collection() }
    }
}

impl<'scope, T, D, R> FencedCollection<'scope, T, D, R>
where
    T: Timestamp,
    D: Clone + 'static,
    R: Clone + Semigroup + 'static,
{
    pub(super) fn exact(self) -> Self {
        self
    }

    /// The stream of changes, for timely's operators and their protected forms.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::operators::vec::Map;
    ///
    /// let rows = testing::run_collection([5], |numbers, output| {
    ///     numbers
    ///         .into_stream()
    ///         .map(|(number, _time, diff)| (number, diff))
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [(5, 1)]);
    /// ```
    pub fn into_stream(self) -> StreamVec<'scope, T, (D, T, R)> {
        self.updates.inner
    }
}

impl<'outer, T, D, R> FencedCollection<'outer, T, D, R>
where
    T: Timestamp,
    D: Clone + 'static,
    R: Clone + Semigroup + 'static,
{
    /// Takes a collection out of an iterative scope, as differential's `leave`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    /// use timely::order::Product;
    ///
    /// let rows = testing::run_collection([5], |numbers, output| {
    ///     let outer = numbers.scope();
    ///     outer
    ///         .scoped::<Product<u64, u64>, _, _>("inner", |inner| numbers.enter(inner).leave(outer))
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [(5, 0, 1)]);
    /// ```
    pub fn leave<'scope, TOuter>(
        self,
        outer: Scope<'scope, TOuter>,
    ) -> FencedCollection<'scope, TOuter, D, R>
    where
        TOuter: Timestamp,
        T: Refines<TOuter>,
    {
        FencedCollection::of(self.updates.leave(outer))
    }
}
