//! Collections that arrive again from a protected edge, for differential's unmodified verbs.

use differential_dataflow::collection::AsCollection;
use differential_dataflow::difference::{Abelian, Multiply, Semigroup};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::{ExchangeData, Hashable, VecCollection};
use timely::dataflow::Scope;
use timely::dataflow::operators::vec::Filter;
use timely::progress::Timestamp;
use timely::progress::timestamp::Refines;

use super::collection::{FencedCollection, Joined};
use super::hydrate::hydrate;
use crate::data::Data;
use crate::fence::HasFence;
use crate::planted::{self, Planted};
use crate::time::{EpochTime, FencedTime};

/// A collection that is derived from protected edges only ([`FencedCollection::fenced`]).
///
/// After a failure it arrives again as a whole, at the epoch that the job resumes from. So all of
/// differential's verbs may be used; they recompute what they kept. It cannot be mixed with a
/// [`FencedCollection`], which delivers only what is new: the combination would be wrong. Either protect the
/// other collection's edge as well, or take only what is new from this one with
/// [`into_fenced`](Self::into_fenced).
pub struct HydratedCollection<'scope, T: Timestamp, D: Clone + 'static, R: Clone + 'static = isize>
{
    pub(super) updates: VecCollection<'scope, T, D, R>,
}

impl<T: Timestamp, D: Clone + 'static, R: Clone + 'static> Clone
    for HydratedCollection<'_, T, D, R>
{
    fn clone(&self) -> Self {
        HydratedCollection { updates: self.updates.clone() }
    }
}

impl<'scope, T, D, R> FencedCollection<'scope, T, D, R>
where
    T: EpochTime + Lattice + Data,
    D: Data + Ord,
    R: Data + Semigroup,
{
    /// Protects this edge: any of differential's verbs may follow, unmodified.
    ///
    /// The contents of the collection survive. After a failure they arrive again, at the epoch that the job
    /// resumes from, and everything downstream is recomputed; sinks release only what is new. The
    /// recomputation takes as long as computing everything from the edge's contents. To have it available at
    /// once, use the protected verbs instead.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    ///
    /// let mut counts = testing::run_workers(2, |worker, output| {
    ///     let mut words = FencedSession::<u64, String>::new("words");
    ///     worker.dataflow(|scope| {
    ///         words
    ///             .to_collection(scope)
    ///             .fenced("words seen")
    ///             .count()
    ///             .sink_fenced("counts", output);
    ///     });
    ///     for round in words.resume()..2 {
    ///         words.insert_to(0, "word".to_owned());
    ///         words.advance_to(round + 1);
    ///         worker.step();
    ///     }
    /// });
    /// counts.sort();
    /// let word = || "word".to_owned();
    /// assert_eq!(counts, [((word(), 1), 0, 1), ((word(), 1), 1, -1), ((word(), 2), 1, 1)]);
    /// ```
    pub fn fenced(self, name: &str) -> HydratedCollection<'scope, T, D, R> {
        HydratedCollection::of(hydrate(self.updates, name))
    }
}

impl<'scope, T, D, R> HydratedCollection<'scope, T, D, R>
where
    T: FencedTime,
    D: Clone + 'static,
    R: Clone + Semigroup + 'static,
{
    /// Takes only what is new after a failure: for protected verbs, which have kept the rest, and for
    /// timely's verbs.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     let counts = numbers.fenced("numbers seen").count();
    ///     // From here on there is only what is new, for verbs that have kept the rest.
    ///     counts.into_fenced().distinct_fenced("counts seen").sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((5, 2), 0, 1)]);
    /// ```
    pub fn into_fenced(self) -> FencedCollection<'scope, T, D, R> {
        let first = self.updates.inner.fence().first_epoch();
        let first = if planted::is(Planted::ReleasedEpochPasses) {
            crate::ids::Epoch(first.0.saturating_sub(1))
        } else {
            first
        };
        let new = self.updates.inner.filter(move |(_, time, _)| time.epoch() >= first);
        FencedCollection::of(new.as_collection())
    }

    pub(super) fn exact(self) -> FencedCollection<'scope, T, D, R> {
        self.into_fenced()
    }

    /// Applies any code that uses differential's own collections.
    ///
    /// The code must use no other collection from outside: combining it with a collection that does not
    /// arrive again from a protected edge would give wrong results.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers
    ///         .fenced("numbers seen")
    ///         .apply(|numbers| numbers.map(|number| number % 4).distinct())
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [(1, 0, 1)]);
    /// ```
    pub fn apply<D2, R2>(
        self,
        logic: impl for<'any> FnOnce(VecCollection<'any, T, D, R>) -> VecCollection<'any, T, D2, R2>,
    ) -> HydratedCollection<'scope, T, D2, R2>
    where
        D2: Clone + 'static,
        R2: Clone + Semigroup + 'static,
    {
        HydratedCollection::of(logic(self.updates))
    }
}

impl<'scope, T, K, V, R> HydratedCollection<'scope, T, (K, V), R>
where
    T: Timestamp + Lattice,
    K: ExchangeData + Hashable,
    V: ExchangeData,
    R: ExchangeData + Semigroup,
{
    /// Differential's `reduce`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([(1, 'a'), (1, 'b')], |pairs, output| {
    ///     pairs
    ///         .fenced("pairs seen")
    ///         .reduce(|_key, values, out| out.extend(values.last().map(|(value, _)| (**value, 1isize))))
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, 'b'), 0, 1)]);
    /// ```
    pub fn reduce<V2, R2>(
        self,
        logic: impl FnMut(&K, &[(&V, R)], &mut Vec<(V2, R2)>) + 'static,
    ) -> HydratedCollection<'scope, T, (K, V2), R2>
    where
        V2: differential_dataflow::Data,
        R2: Ord + Abelian + 'static,
    {
        HydratedCollection::of(self.updates.reduce(logic))
    }

    /// Differential's `join`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([(1, 'a')], |pairs, output| {
    ///     let pairs = pairs.fenced("pairs seen");
    ///     pairs.clone().join(pairs).sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, ('a', 'a')), 0, 1)]);
    /// ```
    pub fn join<V2, R2>(
        self,
        other: HydratedCollection<'scope, T, (K, V2), R2>,
    ) -> HydratedCollection<'scope, T, Joined<K, V, V2>, <R as Multiply<R2>>::Output>
    where
        V2: ExchangeData,
        R2: ExchangeData + Semigroup,
        R: Multiply<R2, Output: Semigroup + 'static>,
    {
        HydratedCollection::of(self.updates.join(other.updates))
    }

    /// Differential's `join_map`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([(1, 'a')], |pairs, output| {
    ///     let pairs = pairs.fenced("pairs seen");
    ///     pairs
    ///         .clone()
    ///         .join_map(pairs, |key, left, right| (*key, *left, *right))
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, 'a', 'a'), 0, 1)]);
    /// ```
    pub fn join_map<V2, R2, D>(
        self,
        other: HydratedCollection<'scope, T, (K, V2), R2>,
        logic: impl FnMut(&K, &V, &V2) -> D + 'static,
    ) -> HydratedCollection<'scope, T, D, <R as Multiply<R2>>::Output>
    where
        V2: ExchangeData,
        R2: ExchangeData + Semigroup,
        R: Multiply<R2, Output: Semigroup + 'static>,
        D: differential_dataflow::Data,
    {
        HydratedCollection::of(self.updates.join_map(other.updates, logic))
    }

    /// Differential's `semijoin`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collections([(1, 'a'), (2, 'b')], [2], |pairs, keys, output| {
    ///     pairs.fenced("pairs seen").semijoin(keys.fenced("keys seen")).sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((2, 'b'), 0, 1)]);
    /// ```
    pub fn semijoin<R2>(
        self,
        other: HydratedCollection<'scope, T, K, R2>,
    ) -> HydratedCollection<'scope, T, (K, V), <R as Multiply<R2>>::Output>
    where
        R2: ExchangeData + Semigroup,
        R: Multiply<R2, Output: Semigroup + 'static>,
    {
        HydratedCollection::of(self.updates.semijoin(other.updates))
    }

    /// Differential's `antijoin`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collections([(1, 'a'), (2, 'b')], [2], |pairs, keys, output| {
    ///     pairs.fenced("pairs seen").antijoin(keys.fenced("keys seen")).sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, 'a'), 0, 1)]);
    /// ```
    pub fn antijoin<R2>(self, other: HydratedCollection<'scope, T, K, R2>) -> Self
    where
        R2: ExchangeData + Semigroup,
        R: Multiply<R2, Output = R> + Abelian + 'static,
    {
        HydratedCollection::of(self.updates.antijoin(other.updates))
    }
}

impl<'scope, T, K, R> HydratedCollection<'scope, T, K, R>
where
    T: Timestamp + Lattice,
    K: ExchangeData + Hashable,
    R: ExchangeData + Semigroup,
{
    /// Differential's `distinct`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers.fenced("numbers seen").distinct().sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [(5, 0, 1)]);
    /// ```
    pub fn distinct(self) -> HydratedCollection<'scope, T, K, isize> {
        HydratedCollection::of(self.updates.distinct())
    }

    /// Differential's `threshold`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers
    ///         .fenced("numbers seen")
    ///         .threshold(|_number, count| count / 2)
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [(5, 0, 1)]);
    /// ```
    pub fn threshold<R2: Ord + Abelian + 'static>(
        self,
        threshold: impl FnMut(&K, &R) -> R2 + 'static,
    ) -> HydratedCollection<'scope, T, K, R2> {
        HydratedCollection::of(self.updates.threshold(threshold))
    }

    /// Differential's `count`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers.fenced("numbers seen").count().sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((5, 2), 0, 1)]);
    /// ```
    pub fn count(self) -> HydratedCollection<'scope, T, (K, R), isize> {
        HydratedCollection::of(self.updates.count())
    }
}

impl<T, D, R> HydratedCollection<'_, T, D, R>
where
    T: Timestamp,
    D: Clone + 'static,
    R: Clone + Semigroup + 'static,
{
    /// Differential's `leave`.
    pub fn leave<'outer, TOuter>(
        self,
        outer: Scope<'outer, TOuter>,
    ) -> HydratedCollection<'outer, TOuter, D, R>
    where
        TOuter: Timestamp,
        T: Refines<TOuter>,
    {
        HydratedCollection::of(self.updates.leave(outer))
    }
}
