//! Verbs of fenced collections whose arrangements survive.

use differential_dataflow::difference::{Multiply, Semigroup};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::trace::implementations::{KeyBatcher, KeySpine, ValBatcher, ValSpine};

use super::arrange::{FencedTrace, arrange};
use super::arranged::FencedArranged;
use super::collection::{FencedCollection, Joined};
use super::missing::Invertible;
use crate::data::Data;
use crate::time::FencedTime;

impl<'scope, T, K, V, R> FencedCollection<'scope, T, (K, V), R>
where
    T: FencedTime + Lattice + Data,
    K: Data + Ord + std::fmt::Debug,
    V: Data + Ord + std::fmt::Debug,
    R: Data + Semigroup + Ord,
{
    /// Arranges the collection by key, as differential's `arrange_by_key`: protected.
    ///
    /// The arrangement survives: after a failure it is restored without any record passing again.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([(1, 'a')], |pairs, output| {
    ///     let by_key = pairs.arrange_by_key_fenced("by key");
    ///     by_key.as_collection(|key, val| (*key, *val)).sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, 'a'), 0, 1)]);
    /// ```
    pub fn arrange_by_key_fenced(
        self,
        name: &str,
    ) -> FencedArranged<'scope, FencedTrace<ValSpine<K, V, T, R>>> {
        FencedArranged {
            arranged: arrange::<K, V, T, R, ValBatcher<K, V, T, R>, _>(
                self.updates.inner,
                name,
                ValBatcher::<K, V, T, R>::new,
            ),
        }
    }

    /// Derives new values from all values of a key, as differential's `reduce`: protected.
    ///
    /// The arrangements of the input, `NAME/input`, and of the output survive: see [the verb of
    /// arrangements](FencedArranged::reduce_fenced).
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let greatest = testing::run_collection([(0, 3), (0, 9), (0, 4)], |numbers, output| {
    ///     numbers
    ///         .reduce_fenced("greatest", |_key, values, out| {
    ///             out.extend(values.last().map(|(value, _)| (**value, 1isize)));
    ///         })
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(greatest, [((0, 9), 0, 1)]);
    /// ```
    pub fn reduce_fenced<V2, R2>(
        self,
        name: &str,
        logic: impl FnMut(&K, &[(&V, R)], &mut Vec<(V2, R2)>) + 'static,
    ) -> FencedCollection<'scope, T, (K, V2), R2>
    where
        V2: Data + Ord + std::fmt::Debug,
        R2: Data + Invertible + Ord,
    {
        let input = self.arrange_by_key_fenced(&format!("{name}/input"));
        input.reduce_fenced(name, logic).as_collection(|key, val| (key.clone(), val.clone()))
    }

    /// Joins two collections by key, as differential's `join`: protected.
    ///
    /// The arrangements of both survive: `NAME/left` and `NAME/right`.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([(1, 'a')], |pairs, output| {
    ///     pairs.clone().join_fenced("with itself", pairs).sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, ('a', 'a')), 0, 1)]);
    /// ```
    pub fn join_fenced<V2, R2>(
        self,
        name: &str,
        other: FencedCollection<'scope, T, (K, V2), R2>,
    ) -> FencedCollection<'scope, T, Joined<K, V, V2>, <R as Multiply<R2>>::Output>
    where
        V2: Data + Ord + std::fmt::Debug,
        R2: Data + Semigroup + Ord + std::fmt::Debug,
        R: Multiply<R2, Output: Clone + Semigroup + 'static>,
    {
        self.join_map_fenced(name, other, |key, left, right| {
            (key.clone(), (left.clone(), right.clone()))
        })
    }

    /// Joins two collections by key and makes a record from each match, as differential's `join_map`:
    /// protected.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let both = testing::run_collections([(1, 'l')], [(1, 'r'), (2, 'r')], |left, right, output| {
    ///     left.join_map_fenced("both", right, |_key, left, right| (*left, *right))
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(both, [(('l', 'r'), 0, 1)]);
    /// ```
    pub fn join_map_fenced<V2, R2, D>(
        self,
        name: &str,
        other: FencedCollection<'scope, T, (K, V2), R2>,
        mut logic: impl FnMut(&K, &V, &V2) -> D + 'static,
    ) -> FencedCollection<'scope, T, D, <R as Multiply<R2>>::Output>
    where
        V2: Data + Ord + std::fmt::Debug,
        R2: Data + Semigroup + Ord + std::fmt::Debug,
        R: Multiply<R2, Output: Clone + Semigroup + 'static>,
        D: differential_dataflow::Data,
    {
        let left = self.arrange_by_key_fenced(&format!("{name}/left"));
        let right = other.arrange_by_key_fenced(&format!("{name}/right"));
        left.join_core(right, move |key, left, right| Some(logic(key, left, right)))
    }

    /// Keeps the records whose keys are in another collection, as differential's `semijoin`: protected.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collections([(1, 'a'), (2, 'b')], [2], |pairs, keys, output| {
    ///     pairs.semijoin_fenced("wanted", keys).sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((2, 'b'), 0, 1)]);
    /// ```
    pub fn semijoin_fenced<R2>(
        self,
        name: &str,
        other: FencedCollection<'scope, T, K, R2>,
    ) -> FencedCollection<'scope, T, (K, V), <R as Multiply<R2>>::Output>
    where
        R2: Data + Semigroup + Ord + std::fmt::Debug,
        R: Multiply<R2, Output: Clone + Semigroup + 'static>,
    {
        let left = self.arrange_by_key_fenced(&format!("{name}/left"));
        let right = other.arrange_by_self_fenced(&format!("{name}/right"));
        left.join_core(right, |key, val, ()| Some((key.clone(), val.clone())))
    }

    /// Keeps the records whose keys are not in another collection, as differential's `antijoin`:
    /// protected.
    ///
    /// The keys of the other collection must be distinct.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collections([(1, 'a'), (2, 'b')], [2], |pairs, keys, output| {
    ///     pairs.antijoin_fenced("rest", keys).sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((1, 'a'), 0, 1)]);
    /// ```
    pub fn antijoin_fenced<R2>(
        self,
        name: &str,
        other: FencedCollection<'scope, T, K, R2>,
    ) -> FencedCollection<'scope, T, (K, V), R>
    where
        R2: Data + Semigroup + Ord + std::fmt::Debug,
        R: Multiply<R2, Output = R> + Invertible,
    {
        self.clone().concat(self.semijoin_fenced(name, other).negate())
    }
}

impl<'scope, T, K, R> FencedCollection<'scope, T, K, R>
where
    T: FencedTime + Lattice + Data,
    K: Data + Ord + std::fmt::Debug,
    R: Data + Semigroup + Ord + std::fmt::Debug,
{
    /// Arranges the collection by its records, as differential's `arrange_by_self`: protected.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers.arrange_by_self_fenced("numbers seen").count_total().sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((5, 2), 0, 1)]);
    /// ```
    pub fn arrange_by_self_fenced(
        self,
        name: &str,
    ) -> FencedArranged<'scope, FencedTrace<KeySpine<K, T, R>>> {
        FencedArranged {
            arranged: arrange::<K, (), T, R, KeyBatcher<K, T, R>, _>(
                self.updates.map(|key| (key, ())).inner,
                name,
                KeyBatcher::<K, T, R>::new,
            ),
        }
    }

    /// Counts the occurrences of each record, as differential's `count`: protected.
    ///
    /// The arrangement of the input, `NAME/input`, survives, and so does that of the counts, which is derived
    /// from it.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers.count_fenced("counts").sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [((5, 2), 0, 1)]);
    /// ```
    pub fn count_fenced(self, name: &str) -> FencedCollection<'scope, T, (K, R), isize> {
        self.arrange_by_self_fenced(&format!("{name}/input"))
            .reduce_fenced(name, |_key, values, out| out.push((values[0].1.clone(), 1)))
            .as_collection(|key, count| (key.clone(), count.clone()))
    }

    /// Keeps one of each record, as differential's `distinct`: protected.
    ///
    /// The arrangements of the input, `NAME/input`, and of the output survive.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers.distinct_fenced("distinct").sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [(5, 0, 1)]);
    /// ```
    pub fn distinct_fenced(self, name: &str) -> FencedCollection<'scope, T, K, isize> {
        self.threshold_fenced(name, |_key, _count| 1)
    }

    /// Derives a new multiplicity from that of each record, as differential's `threshold`: protected.
    ///
    /// The arrangements of the input, `NAME/input`, and of the output survive.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let rows = testing::run_collection([5, 5], |numbers, output| {
    ///     numbers.threshold_fenced("pairs", |_number, count| count / 2).sink_fenced("out", output);
    /// });
    /// assert_eq!(rows, [(5, 0, 1)]);
    /// ```
    pub fn threshold_fenced<R2>(
        self,
        name: &str,
        mut threshold: impl FnMut(&K, &R) -> R2 + 'static,
    ) -> FencedCollection<'scope, T, K, R2>
    where
        R2: Data + Invertible + Ord,
    {
        self.arrange_by_self_fenced(&format!("{name}/input"))
            .threshold_fenced(name, move |key, count| threshold(key, count))
            .as_collection(|key, ()| key.clone())
    }
}
