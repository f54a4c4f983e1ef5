//! The verbs of differential that both kinds of collections offer and that keep nothing.

use differential_dataflow::collection::AsCollection;
use differential_dataflow::difference::{Abelian, Multiply, Semigroup};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::iterate::Variable;
use differential_dataflow::{VecCollection, consolidation};
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::probe;
use timely::dataflow::scope::Iterative;
use timely::dataflow::{Scope, StreamVec};
use timely::order::Product;
use timely::progress::Timestamp;
use timely::progress::timestamp::Refines;

use super::collection::FencedCollection;
use super::hydrated::HydratedCollection;
use crate::data::Data;
use crate::fence::HasFence;
use crate::protected::route::to_owner;
use crate::time::{EpochTime, FencedTime};
use crate::verbs::sink::{Sink, SinkFenced};

/// The verbs of differential that both kinds of collections offer: those that keep nothing.
macro_rules! stateless {
    ($collection:ident) => {
        impl<'scope, T, D, R> $collection<'scope, T, D, R>
        where
            T: Timestamp,
            D: Clone + 'static,
            R: Clone + Semigroup + 'static,
        {
            pub(super) fn of(updates: VecCollection<'scope, T, D, R>) -> Self {
                $collection { updates }
            }

            /// The scope of the collection.
            pub fn scope(&self) -> Scope<'scope, T> {
                self.updates.inner.scope()
            }

            /// Applies a function to each record, as differential's `map`.
            pub fn map<D2: Clone + 'static>(
                self,
                logic: impl FnMut(D) -> D2 + 'static,
            ) -> $collection<'scope, T, D2, R> {
                $collection::of(self.updates.map(logic))
            }

            /// Makes any number of records from each record, as differential's `flat_map`.
            pub fn flat_map<I>(
                self,
                logic: impl FnMut(D) -> I + 'static,
            ) -> $collection<'scope, T, I::Item, R>
            where
                I: IntoIterator<Item: Clone + 'static>,
            {
                $collection::of(self.updates.flat_map(logic))
            }

            /// Keeps the records that a predicate holds for, as differential's `filter`.
            pub fn filter(self, logic: impl FnMut(&D) -> bool + 'static) -> Self {
                $collection::of(self.updates.filter(logic))
            }

            /// Concatenates two collections, as differential's `concat`.
            pub fn concat(self, other: Self) -> Self {
                $collection::of(self.updates.concat(other.updates))
            }

            /// Negates all multiplicities, as differential's `negate`.
            pub fn negate(self) -> Self
            where
                R: Abelian,
            {
                $collection::of(self.updates.negate())
            }

            /// Makes records with multiplicities from each record, as differential's `explode`.
            ///
            /// ```
            /// use ringfence_operators::testing;
            ///
            /// let rows = testing::run_collection([5, 5], |numbers, output| {
            ///     numbers.explode(|number| Some((number % 2, number as isize))).sink_fenced("out", output);
            /// });
            /// assert_eq!(rows, [(1, 0, 10)]);
            /// ```
            pub fn explode<D2, R2, I>(
                self,
                logic: impl FnMut(D) -> I + 'static,
            ) -> $collection<'scope, T, D2, <R2 as Multiply<R>>::Output>
            where
                D2: Clone + 'static,
                R2: Semigroup + Multiply<R, Output: Clone + Semigroup + 'static> + 'static,
                I: IntoIterator<Item = (D2, R2)>,
            {
                $collection::of(self.updates.explode(logic))
            }

            /// Calls `look` with each change as it passes; after a failure, with some of them again.
            pub fn inspect(self, look: impl FnMut(&(D, T, R)) + 'static) -> Self {
                $collection::of(self.updates.inspect(look))
            }

            /// Returns a probe of the collection's progress.
            pub fn probe(self) -> (probe::Handle<T>, Self) {
                let (handle, updates) = self.updates.inner.probe();
                (handle, $collection::of(updates.as_collection()))
            }

            /// As [`probe`](Self::probe), with an existing handle.
            pub fn probe_with(self, handle: &probe::Handle<T>) -> Self {
                $collection::of(self.updates.probe_with(handle))
            }

            /// Brings the collection into an iterative scope, as differential's `enter`.
            pub fn enter<'inner, TInner>(
                self,
                child: Scope<'inner, TInner>,
            ) -> $collection<'inner, TInner, D, R>
            where
                TInner: Timestamp + Refines<T>,
            {
                $collection::of(self.updates.enter(child))
            }

            /// Brings each record into an iterative scope at its own round, as differential's `enter_at`.
            ///
            /// ```
            /// use ringfence_operators::testing;
            ///
            /// let rows = testing::run_collection([9u64], |numbers, output| {
            ///     let scope = numbers.scope();
            ///     // Small numbers take part from the first round, others later.
            ///     let all = scope.iterative::<u64, _, _>(|nested| {
            ///         numbers.enter_at(nested, |number| number / 4).distinct_fenced("all").leave(scope)
            ///     });
            ///     all.sink_fenced("out", output);
            /// });
            /// assert_eq!(rows, [(9, 0, 1)]);
            /// ```
            pub fn enter_at<'inner, TInner>(
                self,
                child: Iterative<'inner, T, TInner>,
                initial: impl FnMut(&D) -> TInner + Clone + 'static,
            ) -> $collection<'inner, Product<T, TInner>, D, R>
            where
                TInner: Timestamp + std::hash::Hash,
            {
                $collection::of(self.updates.enter_at(child, initial))
            }

            /// Iterates to a fixed point, as differential's `iterate`: `logic` turns the collection of one
            /// round into that of the next.
            ///
            /// The verbs in the loop keep its state, as they do outside of it.
            ///
            /// ```
            /// use ringfence_operators::testing;
            ///
            /// let rows = testing::run_collection([5], |numbers, output| {
            ///     // All numbers that repeated halving leads to.
            ///     numbers
            ///         .iterate(|_scope, numbers| {
            ///             let halves = numbers.clone().map(|number| number / 2);
            ///             numbers.concat(halves).distinct_fenced("all")
            ///         })
            ///         .sink_fenced("out", output);
            /// });
            /// assert_eq!(rows, [(0, 0, 1), (1, 0, 1), (2, 0, 1), (5, 0, 1)]);
            /// ```
            pub fn iterate<F>(self, logic: F) -> Self
            where
                T: Lattice,
                R: Abelian,
                F: for<'inner> FnOnce(
                    Iterative<'inner, T, u64>,
                    $collection<'inner, Product<T, u64>, D, R>,
                ) -> $collection<'inner, Product<T, u64>, D, R>,
            {
                let outer = self.scope();
                outer.scoped("Iterate", |scope| {
                    let (variable, round) = Variable::new_from(
                        self.updates.enter(scope),
                        Product::new(Default::default(), 1),
                    );
                    let result = logic(scope, $collection::of(round)).updates;
                    variable.set(result.clone());
                    $collection::of(result.leave(outer))
                })
            }
        }

        impl<'scope, T, D, R> $collection<'scope, T, D, R>
        where
            T: FencedTime + Lattice,
            D: differential_dataflow::ExchangeData + differential_dataflow::Hashable,
            R: differential_dataflow::ExchangeData + Semigroup,
        {
            /// Sums the changes of each record and time, as differential's `consolidate`.
            pub fn consolidate(self) -> Self {
                $collection::of(self.updates.consolidate())
            }
        }

        impl<'scope, T, D, R> $collection<'scope, T, D, R>
        where
            T: EpochTime + Lattice + Data,
            D: Data + Ord,
            R: Data + Semigroup + Ord,
        {
            /// Releases the changes of each epoch to a sink, exactly once: `(data, time, diff)`, with one
            /// row for each record and time that has changed.
            ///
            /// The description of `sink_fenced` for streams also applies here.
            ///
            /// ```
            /// # use ringfence_operators::prelude::*;
            /// # use ringfence_operators::testing;
            /// let mut changes = testing::run_workers(2, |worker, output| {
            ///     let mut words = FencedSession::<u64, String>::new("words");
            ///     worker.dataflow(|scope| {
            ///         words.to_collection(scope).sink_fenced("out", output);
            ///     });
            ///     for round in words.resume()..2 {
            ///         for share in words.shares() {
            ///             words.update_to(share.index, "word".to_owned(), 1 - 2 * round as isize);
            ///         }
            ///         words.advance_to(round + 1);
            ///         worker.step();
            ///     }
            /// });
            /// changes.sort();
            /// // Two shares put the word in and took it out again.
            /// assert_eq!(changes, [("word".to_owned(), 0, 2), ("word".to_owned(), 1, -2)]);
            /// ```
            pub fn sink_fenced<S: Sink<(D, T, R)>>(
                self,
                name: &str,
                sink: S,
            ) -> StreamVec<'scope, T, ()> {
                changes(self.exact().updates, name).sink_fenced(name, sink)
            }
        }
    };
}

stateless!(FencedCollection);
stateless!(HydratedCollection);

/// The changes of a collection, summed for each record and time, and sent once the time is complete.
fn changes<'scope, T, D, R>(
    collection: VecCollection<'scope, T, D, R>,
    name: &str,
) -> StreamVec<'scope, T, (D, T, R)>
where
    T: EpochTime + Lattice + Data,
    D: Data + Ord,
    R: Data + Semigroup + Ord,
{
    let fence = collection.inner.fence();
    let name = crate::ids::OperatorName::new(name);
    let pact = to_owner(&fence, &name, |(data, _, _): &(D, T, R)| data.clone());
    collection.inner.unary_frontier(pact, &format!("Changes: {name}"), |_, _| {
        let mut waiting = std::collections::BTreeMap::new();
        move |(input, frontier), output| {
            input.for_each(|capability, updates| {
                for update in updates.drain(..) {
                    let (_, updates) = waiting
                        .entry(update.1.clone())
                        .or_insert_with(|| (capability.delayed(&update.1, 0), Vec::new()));
                    updates.push(update);
                }
            });
            while let Some(entry) = waiting.first_entry()
                && !frontier.less_equal(entry.key())
            {
                let (capability, mut updates) = entry.remove();
                consolidation::consolidate_updates(&mut updates);
                output.session(&capability).give_iterator(updates.drain(..));
            }
        }
    })
}
