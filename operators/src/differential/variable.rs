//! Variables: collections that are defined in terms of each other.

use differential_dataflow::VecCollection;
use differential_dataflow::difference::{Abelian, Semigroup};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::iterate::VecVariable;
use timely::dataflow::scope::Iterative;
use timely::order::Product;
use timely::progress::Timestamp;

use super::collection::FencedCollection;
use super::hydrated::HydratedCollection;

/// The variable of a kind of collection.
macro_rules! variable {
    ($variable:ident, $collection:ident, $kind:literal) => {
        #[doc = concat!("A ", $kind, " collection that is defined after it is used, as differential's `Variable`.")]
        ///
        /// It lives in an iterative scope, and passes what it is set to from each round to the next. The
        /// verbs in the loop keep its state, as they do outside of it. There are no variables outside of
        /// iterative scopes: what is in flight from one epoch to another would be lost with a worker.
        ///
        /// ```
        /// use ringfence_operators::prelude::*;
        /// use ringfence_operators::testing;
        ///
        /// // Counts down from 4 by turns: an even number is followed by an odd one, and so on.
        /// let rows = testing::run_collection([4u64], |numbers, output| {
        ///     let scope = numbers.scope();
        ///     let odd = scope.iterative::<u64, _, _>(|nested| {
        ///         let numbers = numbers.enter(nested);
        ///         let (even_next, even) = FencedVariable::new_from(numbers);
        ///         let (odd_next, odd) = FencedVariable::new(nested);
        ///         let down = |n: u64| n.checked_sub(1);
        ///         odd_next.set(even.clone().flat_map(down).distinct_fenced("odd"));
        ///         even_next.set(even.concat(odd.clone().flat_map(down)).distinct_fenced("even"));
        ///         odd.leave(scope)
        ///     });
        ///     odd.consolidate().sink_fenced("out", output);
        /// });
        /// assert_eq!(rows, [(1, 0, 1), (3, 0, 1)]);
        /// ```
        pub struct $variable<'scope, T, D, R = isize>
        where
            T: Timestamp + Lattice,
            D: Clone + 'static,
            R: Semigroup + Clone + 'static,
        {
            variable: VecVariable<'scope, Product<T, u64>, D, R>,
        }

        impl<'scope, T, D, R> $variable<'scope, T, D, R>
        where
            T: Timestamp + Lattice,
            D: Clone + 'static,
            R: Abelian + Clone + 'static,
        {
            /// A variable that is empty in the first round, and its collection.
            pub fn new(
                scope: Iterative<'scope, T, u64>,
            ) -> (Self, $collection<'scope, Product<T, u64>, D, R>) {
                Self::of(VecVariable::new(scope, Product::new(Default::default(), 1)))
            }

            /// A variable that is `source` in the first round, and its collection.
            pub fn new_from(
                source: $collection<'scope, Product<T, u64>, D, R>,
            ) -> (Self, $collection<'scope, Product<T, u64>, D, R>) {
                let step = Product::new(Default::default(), 1);
                Self::of(VecVariable::new_from(source.updates, step))
            }

            fn of(
                (variable, updates): (
                    VecVariable<'scope, Product<T, u64>, D, R>,
                    VecCollection<'scope, Product<T, u64>, D, R>,
                ),
            ) -> (Self, $collection<'scope, Product<T, u64>, D, R>) {
                ($variable { variable }, $collection { updates })
            }

            /// Defines the variable in each round except the first.
            pub fn set(self, result: $collection<'scope, Product<T, u64>, D, R>) {
                self.variable.set(result.updates);
            }
        }
    };
}

variable!(FencedVariable, FencedCollection, "fenced");
variable!(HydratedVariable, HydratedCollection, "hydrated");
