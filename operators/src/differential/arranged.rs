//! Arrangements that survive.

use differential_dataflow::difference::{Multiply, Semigroup};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::operators::count::CountTotal;
use differential_dataflow::trace::implementations::{KeyBuilder, KeySpine, ValBuilder, ValSpine};
use differential_dataflow::trace::wrappers::enter::TraceEnter;
use differential_dataflow::trace::{BatchCursor, Cursor, Navigable, Trace, TraceReader};
use timely::dataflow::Scope;
use timely::order::TotalOrder;
use timely::progress::timestamp::Refines;

use super::arrange::FencedTrace;
use super::collection::FencedCollection;
use super::derive::reduce;
use super::missing::Invertible;
use super::restored::Restored;
use crate::data::Data;
use crate::fence::HasFence;
use crate::time::FencedTime;

/// A protected arrangement, which several operators and dataflows can read.
///
/// [`arrange_by_key_fenced`](FencedCollection::arrange_by_key_fenced) and similar verbs make it. After a
/// failure it contains what was committed, and only later changes arrive.
pub struct FencedArranged<'scope, Tr: TraceReader> {
    pub(super) arranged: Arranged<'scope, Tr>,
}

impl<Tr: TraceReader + Clone> Clone for FencedArranged<'_, Tr> {
    fn clone(&self) -> Self {
        FencedArranged { arranged: self.arranged.clone() }
    }
}

/// The arrangement of a reduction's output.
pub type Reduced<'scope, K, V, T, R> = FencedArranged<'scope, FencedTrace<ValSpine<K, V, T, R>>>;

/// A protected arrangement outside of any dataflow, which can be imported into other dataflows of the same
/// worker.
pub struct SharedTrace<Tr: Trace<Time: FencedTime> + 'static> {
    trace: FencedTrace<Tr>,
}

impl<Tr: Trace<Time: FencedTime> + 'static> SharedTrace<Tr> {
    /// Imports the arrangement into a dataflow, as differential's `import`.
    ///
    /// All dataflows must be built before the worker's first step, as always with protected operators.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    ///
    /// let mut rows = testing::run_workers(2, |worker, output| {
    ///     let mut words = FencedSession::<u64, (u8, char)>::new("words");
    ///     let mut trace = worker.dataflow(|scope| {
    ///         words.to_collection(scope).arrange_by_key_fenced("by key").trace()
    ///     });
    ///     worker.dataflow(|scope| {
    ///         let words = trace.import(scope);
    ///         words.as_collection(|key, word| (*key, *word)).sink_fenced("out", output);
    ///     });
    ///     words.insert_to(0, (1, 'a'));
    /// });
    /// assert_eq!(rows, [((1, 'a'), 0, 1)]);
    /// ```
    pub fn import<'scope>(
        &mut self,
        scope: Scope<'scope, Tr::Time>,
    ) -> FencedArranged<'scope, FencedTrace<Tr>> {
        let import = || self.trace.import(scope);
        FencedArranged { arranged: scope.fence().origins().knowing(scope, import) }
    }
}

impl<Tr: Trace<Time: FencedTime> + 'static> FencedArranged<'_, FencedTrace<Tr>> {
    /// The arrangement without its dataflow: see [`SharedTrace::import`].
    pub fn trace(self) -> SharedTrace<Tr> {
        SharedTrace { trace: self.arranged.trace }
    }
}

impl<'scope, Tr> FencedArranged<'scope, Tr>
where
    Tr: TraceReader<Batch: Navigable> + Clone + 'static,
{
    /// Brings the arrangement into an iterative scope, as differential's `enter`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([(1u8, '2'), (2, '3')], |pairs, output| {
    ///     let by_key = pairs.clone().arrange_by_key_fenced("by key");
    ///     // All keys that can be reached from key 1.
    ///     let begin = pairs.filter(|(key, _)| *key == 1).map(|(key, _)| key);
    ///     begin
    ///         .iterate(|scope, keys| {
    ///             let keys_seen = keys.clone().arrange_by_self_fenced("keys");
    ///             by_key
    ///                 .enter(scope)
    ///                 .join_core(keys_seen, |_key, next, ()| Some(*next as u8 - b'0'))
    ///                 .concat(keys)
    ///                 .distinct_fenced("all keys")
    ///         })
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [(1, 0, 1), (2, 0, 1), (3, 0, 1)]);
    /// ```
    pub fn enter<'inner, TInner>(
        self,
        child: Scope<'inner, TInner>,
    ) -> FencedArranged<'inner, TraceEnter<Tr, TInner>>
    where
        TInner: Refines<Tr::Time> + Lattice,
    {
        FencedArranged { arranged: self.arranged.enter(child) }
    }

    /// The collection that is arranged, as differential's `as_collection`.
    pub fn as_collection<K, V, R, D>(
        self,
        mut logic: impl FnMut(&K, &V) -> D + 'static,
    ) -> FencedCollection<'scope, Tr::Time, D, R>
    where
        K: 'static,
        V: 'static,
        R: Clone + Semigroup + 'static,
        D: differential_dataflow::Data,
        for<'a> BatchCursor<Tr>:
            Cursor<Key<'a> = &'a K, Val<'a> = &'a V, Time = Tr::Time, Diff = R>,
    {
        FencedCollection::of(self.arranged.as_collection(move |key, val| logic(key, val)))
    }

    /// Joins two arrangements, as differential's `join_core`.
    ///
    /// It keeps nothing but its arrangements, which are protected.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([(1, 'a')], |pairs, output| {
    ///     let by_key = pairs.arrange_by_key_fenced("by key");
    ///     by_key
    ///         .clone()
    ///         .join_core(by_key, |key, left, right| Some((*key, *left, *right)))
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, 'a', 'a'), 0, 1)]);
    /// ```
    pub fn join_core<Tr2, K, V, V2, R, R2, I>(
        self,
        other: FencedArranged<'scope, Tr2>,
        mut result: impl FnMut(&K, &V, &V2) -> I + 'static,
    ) -> FencedCollection<'scope, Tr::Time, I::Item, <R as Multiply<R2>>::Output>
    where
        K: Ord + Clone + 'static,
        V: 'static,
        V2: 'static,
        Tr2: TraceReader<Batch: Navigable, Time = Tr::Time> + Clone + 'static,
        for<'a> BatchCursor<Tr>: Cursor<
                Key<'a> = &'a K,
                Val<'a> = &'a V,
                Time = Tr::Time,
                Diff = R,
                KeyContainer = Vec<K>,
            >,
        for<'a> BatchCursor<Tr2>:
            Cursor<Key<'a> = &'a K, Val<'a> = &'a V2, Time = Tr::Time, Diff = R2>,
        R: Multiply<R2, Output: Clone + Semigroup + 'static> + Clone,
        I: IntoIterator<Item: differential_dataflow::Data>,
    {
        let joined = self
            .arranged
            .join_core::<Tr2, I, _, R, R2, Vec<K>>(other.arranged, move |key, left, right| {
                result(key, left, right)
            });
        FencedCollection::of(joined)
    }

    /// Derives new values from all values of a key, as differential's `reduce_abelian`: protected.
    ///
    /// It returns the arrangement of the output, which is restored after a failure: in an iterative scope it
    /// is kept; elsewhere `logic` is called once for each key. So `logic` must be deterministic, as
    /// differential requires anyway.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([(1, 'a'), (1, 'b')], |pairs, output| {
    ///     pairs
    ///         .arrange_by_key_fenced("by key")
    ///         .reduce_fenced("last", |_key, values, out| {
    ///             out.extend(values.last().map(|(value, _)| (**value, 1isize)));
    ///         })
    ///         .as_collection(|key, value| (*key, *value))
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, 'b'), 0, 1)]);
    /// ```
    pub fn reduce_fenced<K, V, R, V2, R2>(
        self,
        name: &str,
        logic: impl FnMut(&K, &[(&V, R)], &mut Vec<(V2, R2)>) + 'static,
    ) -> Reduced<'scope, K, V2, Tr::Time, R2>
    where
        Tr::Time: FencedTime + Data,
        K: Data + Ord + std::fmt::Debug,
        V: 'static,
        V2: Data + Ord + std::fmt::Debug,
        R: Semigroup + 'static,
        R2: Data + Invertible + Ord,
        for<'a> BatchCursor<Tr>: Cursor<
                Key<'a> = &'a K,
                Val<'a> = &'a V,
                Time = Tr::Time,
                Diff = R,
                KeyContainer = Vec<K>,
            >,
    {
        let fence = self.arranged.stream.fence();
        let name = fence.admit("reduction", name, self.arranged.stream.scope());
        let arranged = reduce::<K, V, R, V2, R2, Tr, _, _>(
            &fence,
            &name,
            self.arranged,
            logic,
            |input, logic| {
                input.reduce_abelian::<_, ValBuilder<K, V2, Tr::Time, R2>, Restored<ValSpine<K, V2, Tr::Time, R2>>, Vec<K>, _>(
                    &name.to_string(),
                    logic,
                    |built, key, updates| {
                        built.clear();
                        built.extend(updates.drain(..).map(|(val, time, diff)| ((key.clone(), val), time, diff)));
                    },
                )
            },
        );
        FencedArranged { arranged }
    }

    /// Derives a new multiplicity from that of each key: protected.
    pub(super) fn threshold_fenced<K, R, R2>(
        self,
        name: &str,
        mut threshold: impl FnMut(&K, &R) -> R2 + 'static,
    ) -> FencedArranged<'scope, FencedTrace<KeySpine<K, Tr::Time, R2>>>
    where
        Tr::Time: FencedTime + Data,
        K: Data + Ord + std::fmt::Debug,
        R: Semigroup + 'static,
        R2: Data + Invertible + Ord,
        for<'a> BatchCursor<Tr>: Cursor<
                Key<'a> = &'a K,
                Val<'a> = &'a (),
                Time = Tr::Time,
                Diff = R,
                KeyContainer = Vec<K>,
            >,
    {
        let fence = self.arranged.stream.fence();
        let name = fence.admit("reduction", name, self.arranged.stream.scope());
        let logic = move |key: &K, values: &[(&(), R)], output: &mut Vec<((), R2)>| {
            output.push(((), threshold(key, &values[0].1)));
        };
        let arranged = reduce::<K, (), R, (), R2, Tr, _, _>(
            &fence,
            &name,
            self.arranged,
            logic,
            |input, logic| {
                input.reduce_abelian::<_, KeyBuilder<K, Tr::Time, R2>, Restored<KeySpine<K, Tr::Time, R2>>, Vec<K>, _>(
                    &name.to_string(),
                    logic,
                    |built, key, updates| {
                        built.clear();
                        built.extend(updates.drain(..).map(|(val, time, diff)| ((key.clone(), val), time, diff)));
                    },
                )
            },
        );
        FencedArranged { arranged }
    }

    /// Counts the occurrences of each record, as differential's `count_total`, for totally ordered times. It
    /// keeps nothing but the arrangement.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers.arrange_by_self_fenced("numbers seen").count_total().sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((5, 2), 0, 1)]);
    /// ```
    pub fn count_total<K, R>(self) -> FencedCollection<'scope, Tr::Time, (K, R), isize>
    where
        Tr::Time: TotalOrder,
        K: differential_dataflow::ExchangeData,
        R: differential_dataflow::ExchangeData + Semigroup,
        for<'a> BatchCursor<Tr>: Cursor<
                Key<'a> = &'a K,
                Val<'a> = &'a (),
                Time = Tr::Time,
                Diff = R,
                DiffGat<'a> = &'a R,
            >,
        R: for<'a> Semigroup<&'a R>,
    {
        FencedCollection::of(self.arranged.count_total())
    }
}
