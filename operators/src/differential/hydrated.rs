//! Collections that come again from a protected edge, for differential's verbs as they are.

use differential_dataflow::collection::AsCollection;
use differential_dataflow::difference::{Abelian, Multiply, Semigroup};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::{ExchangeData, Hashable, VecCollection};
use timely::dataflow::Scope;
use timely::dataflow::operators::vec::Filter;
use timely::progress::Timestamp;
use timely::progress::timestamp::Refines;

use super::collection::{FencedCollection, Joined};
use crate::fence::HasFence;
use crate::time::FencedTime;

/// A collection that follows from protected edges alone ([`FencedCollection::fenced`]).
///
/// After a failure it comes again as a whole, at the epoch that the job resumes from, so that all of
/// differential's verbs may be used, which then compute again what they kept. It cannot be mixed with a
/// [`FencedCollection`], of which only what is new comes: together they would be wrong. Either protect the
/// other's edge, too, or take only what is new of this one, by [`into_fenced`](Self::into_fenced).
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

impl<'scope, T, D, R> HydratedCollection<'scope, T, D, R>
where
    T: FencedTime,
    D: Clone + 'static,
    R: Clone + Semigroup + 'static,
{
    /// Only what is new after a failure: for protected verbs, which have the rest, and for timely's.
    pub fn into_fenced(self) -> FencedCollection<'scope, T, D, R> {
        let first = self.updates.inner.fence().first_epoch();
        #[cfg(feature = "planted")]
        let first = match crate::planted::is(crate::planted::Planted::ReleasedEpochPasses) {
            true => crate::ids::Epoch(first.0.saturating_sub(1)),
            false => first,
        };
        let new = self.updates.inner.filter(move |(_, time, _)| time.epoch() >= first);
        FencedCollection::of(new.as_collection())
    }

    pub(super) fn exact(self) -> FencedCollection<'scope, T, D, R> {
        self.into_fenced()
    }

    /// Applies any code of differential's to the collection.
    ///
    /// It must use nothing from outside but what it is given: a collection that does not come again from
    /// a protected edge would make wrong what does.
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
    pub fn distinct(self) -> HydratedCollection<'scope, T, K, isize> {
        HydratedCollection::of(self.updates.distinct())
    }

    /// Differential's `threshold`.
    pub fn threshold<R2: Ord + Abelian + 'static>(
        self,
        threshold: impl FnMut(&K, &R) -> R2 + 'static,
    ) -> HydratedCollection<'scope, T, K, R2> {
        HydratedCollection::of(self.updates.threshold(threshold))
    }

    /// Differential's `count`.
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
