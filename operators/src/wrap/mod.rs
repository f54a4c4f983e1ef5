//! Existing operators, protected: `unary_frontier_fenced` and similar verbs.
//!
//! A wrapped operator keeps the closure that it has under timely, with two changes. The closure is made once
//! for each partition rather than once for each worker, so that a partition can move to another worker. And
//! whatever the closure keeps between calls it gets from [`State`], which moves with the partition.

mod capabilities;
mod held;
mod list;
mod map;
mod ordered_map;
mod pact;
mod parcel;
mod port;
mod slot;
mod stage;
mod stash;
mod state;
mod value;

pub use capabilities::Capabilities;
pub use list::List;
pub use map::{Entry, Map};
pub use ordered_map::{OrderedEntry, OrderedMap};
pub use pact::KeyedPact;
pub use port::PartitionPuller;
pub use slot::Guard;
pub use stash::{Stash, StashEntry, StashQueue};
pub use state::State;
pub use value::Value;

use std::rc::Rc;

use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{InputHandleCore, OutputBuilder, OutputBuilderSession};
use timely::dataflow::{Scope, Stream};
use timely::progress::Timestamp;
use timely::progress::frontier::MutableAntichain;
use timely::{Container, ContainerBuilder};

use crate::fence::careful::Careful;
use crate::fence::catalogue::Item;
use crate::fence::{Fence, HasFence};
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::protected::outlet::Outlet;
use crate::rounds::frames::Frames;
use crate::rounds::replicate::commit;
use crate::time::FencedTime;
use pact::PartitionPact;
use port::{Gate, Port};
use stage::{Parts, Stage};
use state::Store;

/// An input of a wrapped operator, as its closure sees it: timely's own handle.
pub type PartitionInput<T, C> = InputHandleCore<T, C, PartitionPuller<T, C>>;

/// Timely's operators from closures, protected.
///
/// Each verb replaces timely's verb without the suffix, with two differences.
///
/// **The constructor runs once for each partition** that the worker owns, and again after each failure. It
/// gets a [`State`] in place of timely's `OperatorInfo`, and creates from it whatever its closure keeps
/// between calls. Anything else that the closure captures starts afresh after a failure.
///
/// **Records belong to partitions.** With timely's unmodified
/// [`Exchange`](timely::dataflow::channels::pact::Exchange), a record belongs to partition
/// `f(record) % partitions`. With [`Pipeline`](timely::dataflow::channels::pact::Pipeline), records stay on
/// their worker, in the lowest partition that it owns.
///
/// A closure sees what it would see under timely, with a restricted order: it gets no records and sees no
/// frontier beyond the next checkpoint before all state is sealed there. What it sends must belong to the
/// epoch that it acts on; it must keep what it sends later in a [`Stash`] until then. A closure that sends
/// because a frontier has moved, and not because of a record, must hold the time at which it sends in a stash
/// or in [`Capabilities`]: several epochs may be passed in one step if nothing holds them.
///
/// The states as of the last committed checkpoint survive. Later records are replayed, and no state has
/// already absorbed them.
pub trait OperatorFenced<'scope, T: Timestamp, C1: Container> {
    /// As timely's `unary_frontier`, with state that survives.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::channels::pact::Exchange;
    ///
    /// // Counts the records of each key, and tells each epoch's counts once it is complete.
    /// let counts = testing::run(2, |scope, output| {
    ///     per_share(|_share| 0..6u64)
    ///         .to_stream_fenced(scope, "numbers")
    ///         .unary_frontier_fenced(Exchange::new(|n: &u64| n % 3), "counts", |_, state| {
    ///             let mut counts = state.map("counts");
    ///             let mut changed = state.stash("changed");
    ///             move |(input, frontier), output| {
    ///                 input.for_each(|capability, numbers| {
    ///                     for n in numbers.drain(..) {
    ///                         *counts.entry(n % 3).or_insert(0u64) += 1;
    ///                         changed.push(capability.delayed(capability.least().unwrap(), 0), n % 3);
    ///                     }
    ///                 });
    ///                 for (capability, mut keys) in changed.ready(frontier) {
    ///                     keys.sort();
    ///                     keys.dedup();
    ///                     let mut session = output.session(&capability);
    ///                     for key in keys {
    ///                         session.give((key, *counts.get(&key).unwrap()));
    ///                     }
    ///                 }
    ///             }
    ///         })
    ///         .sink_fenced("told", output);
    /// });
    /// assert!((0..3).all(|key| counts.contains(&(key, 4))));
    /// ```
    fn unary_frontier_fenced<CB, B, L, P>(
        self,
        pact: P,
        name: &str,
        constructor: B,
    ) -> Stream<'scope, T, CB::Container>
    where
        T: FencedTime,
        CB: ContainerBuilder,
        B: FnMut(Capability<T>, &mut State<T>) -> L,
        L: FnMut(
                (&mut PartitionInput<T, C1>, &MutableAntichain<T>),
                &mut OutputBuilderSession<'_, T, CB>,
            ) + 'static,
        P: KeyedPact<C1>;

    /// As timely's `unary`, with state that survives.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::channels::pact::Exchange;
    ///
    /// // Lets each number through once.
    /// let distinct = testing::run(2, |scope, output| {
    ///     per_share(|_share| (0..10u64).map(|n| n % 4))
    ///         .to_stream_fenced(scope, "numbers")
    ///         .unary_fenced(Exchange::new(|n: &u64| *n), "distinct", |_, state| {
    ///             let mut seen = state.map("seen");
    ///             move |input, output| {
    ///                 input.for_each(|capability, numbers| {
    ///                     let new = numbers.drain(..).filter(|n| seen.insert(*n, ()).is_none());
    ///                     output.session(&capability).give_iterator(new);
    ///                 });
    ///             }
    ///         })
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(distinct.len(), 4);
    /// ```
    fn unary_fenced<CB, B, L, P>(
        self,
        pact: P,
        name: &str,
        constructor: B,
    ) -> Stream<'scope, T, CB::Container>
    where
        T: FencedTime,
        CB: ContainerBuilder,
        B: FnMut(Capability<T>, &mut State<T>) -> L,
        L: FnMut(&mut PartitionInput<T, C1>, &mut OutputBuilderSession<'_, T, CB>) + 'static,
        P: KeyedPact<C1>;

    /// As timely's `binary_frontier`, with state that survives.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::channels::pact::Exchange;
    ///
    /// // Tells once both inputs have ended what came on the left and not on the right.
    /// let left_only = testing::run(2, |scope, output| {
    ///     let left = per_share(|share| 3 * share.index..6).to_stream_fenced(scope, "left");
    ///     let right = per_share(|_share| 3..9u64).to_stream_fenced(scope, "right");
    ///     let by = || Exchange::new(|n: &u64| *n);
    ///     left.binary_frontier_fenced(right, by(), by(), "left only", |capability, state| {
    ///         let mut seen = state.map("seen");
    ///         let mut held = state.capabilities("held").starting_with(capability);
    ///         move |(left, left_frontier), (right, right_frontier), output| {
    ///             left.for_each(|_, numbers| for n in numbers.drain(..) { *seen.entry(n).or_insert(0) |= 1 });
    ///             right.for_each(|_, numbers| for n in numbers.drain(..) { *seen.entry(n).or_insert(0) |= 2 });
    ///             if left_frontier.is_empty() && right_frontier.is_empty() {
    ///                 if let Some(capability) = held.iter().next() {
    ///                     let left_only = seen.iter().filter(|(_, sides)| *sides == 1);
    ///                     output.session(capability).give_iterator(left_only.map(|(n, _)| n));
    ///                 }
    ///                 held.downgrade_all([0u64; 0]);
    ///             }
    ///         }
    ///     })
    ///     .sink_fenced("out", output);
    /// });
    /// assert_eq!(left_only.iter().sum::<u64>(), 1 + 2);
    /// ```
    fn binary_frontier_fenced<C2, CB, B, L, P1, P2>(
        self,
        other: Stream<'scope, T, C2>,
        pact1: P1,
        pact2: P2,
        name: &str,
        constructor: B,
    ) -> Stream<'scope, T, CB::Container>
    where
        T: FencedTime,
        C2: Container,
        CB: ContainerBuilder,
        B: FnMut(Capability<T>, &mut State<T>) -> L,
        L: FnMut(
                (&mut PartitionInput<T, C1>, &MutableAntichain<T>),
                (&mut PartitionInput<T, C2>, &MutableAntichain<T>),
                &mut OutputBuilderSession<'_, T, CB>,
            ) + 'static,
        P1: KeyedPact<C1>,
        P2: KeyedPact<C2>;

    /// As timely's `binary`, with state that survives.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::channels::pact::Exchange;
    ///
    /// // Joins two streams by key.
    /// let joined = testing::run(2, |scope, output| {
    ///     let left = per_share(|_| (0..3u64).map(|n| (n, 'l'))).to_stream_fenced(scope, "left");
    ///     let right = per_share(|_| (1..4u64).map(|n| (n, 'r'))).to_stream_fenced(scope, "right");
    ///     let by = || Exchange::new(|(n, _): &(u64, char)| *n);
    ///     left.binary_fenced(right, by(), by(), "join", |_, state| {
    ///         let mut lefts = state.map::<u64, Vec<char>>("left");
    ///         let mut rights = state.map::<u64, Vec<char>>("right");
    ///         move |left, right, output| {
    ///             left.for_each(|capability, records| {
    ///                 let mut session = output.session(&capability);
    ///                 for (n, letter) in records.drain(..) {
    ///                     lefts.entry(n).or_default().push(letter);
    ///                     let other = rights.get(&n);
    ///                     session.give_iterator(other.iter().flat_map(|it| it.iter()).map(|r| (n, letter, *r)));
    ///                 }
    ///             });
    ///             right.for_each(|capability, records| {
    ///                 let mut session = output.session(&capability);
    ///                 for (n, letter) in records.drain(..) {
    ///                     rights.entry(n).or_default().push(letter);
    ///                     let other = lefts.get(&n);
    ///                     session.give_iterator(other.iter().flat_map(|it| it.iter()).map(|l| (n, *l, letter)));
    ///                 }
    ///             });
    ///         }
    ///     })
    ///     .sink_fenced("out", output);
    /// });
    /// // Two workers send each key on either side: keys 1 and 2 meet four times.
    /// assert_eq!(joined.len(), 8);
    /// assert!(joined.contains(&(1, 'l', 'r')) && joined.contains(&(2, 'l', 'r')));
    /// ```
    fn binary_fenced<C2, CB, B, L, P1, P2>(
        self,
        other: Stream<'scope, T, C2>,
        pact1: P1,
        pact2: P2,
        name: &str,
        constructor: B,
    ) -> Stream<'scope, T, CB::Container>
    where
        T: FencedTime,
        C2: Container,
        CB: ContainerBuilder,
        B: FnMut(Capability<T>, &mut State<T>) -> L,
        L: FnMut(
                &mut PartitionInput<T, C1>,
                &mut PartitionInput<T, C2>,
                &mut OutputBuilderSession<'_, T, CB>,
            ) + 'static,
        P1: KeyedPact<C1>,
        P2: KeyedPact<C2>;
}

impl<'scope, T: Timestamp, C1: Container> OperatorFenced<'scope, T, C1> for Stream<'scope, T, C1> {
    fn unary_frontier_fenced<CB, B, L, P>(
        self,
        pact: P,
        name: &str,
        constructor: B,
    ) -> Stream<'scope, T, CB::Container>
    where
        T: FencedTime,
        CB: ContainerBuilder,
        B: FnMut(Capability<T>, &mut State<T>) -> L,
        L: FnMut(
                (&mut PartitionInput<T, C1>, &MutableAntichain<T>),
                &mut OutputBuilderSession<'_, T, CB>,
            ) + 'static,
        P: KeyedPact<C1>,
    {
        let mut wrapping = Wrapping::new(self.fence(), name, self.scope(), true, P::IS_LOCAL);
        let mut input = wrapping.input(self, pact);
        wrapping.build(constructor, move |logic: &mut L, frontiers, output| {
            logic((&mut input, &frontiers[0]), output);
        })
    }

    fn unary_fenced<CB, B, L, P>(
        self,
        pact: P,
        name: &str,
        constructor: B,
    ) -> Stream<'scope, T, CB::Container>
    where
        T: FencedTime,
        CB: ContainerBuilder,
        B: FnMut(Capability<T>, &mut State<T>) -> L,
        L: FnMut(&mut PartitionInput<T, C1>, &mut OutputBuilderSession<'_, T, CB>) + 'static,
        P: KeyedPact<C1>,
    {
        let mut wrapping = Wrapping::new(self.fence(), name, self.scope(), false, P::IS_LOCAL);
        let mut input = wrapping.input(self, pact);
        wrapping.build(constructor, move |logic: &mut L, _frontiers, output| {
            logic(&mut input, output);
        })
    }

    fn binary_frontier_fenced<C2, CB, B, L, P1, P2>(
        self,
        other: Stream<'scope, T, C2>,
        pact1: P1,
        pact2: P2,
        name: &str,
        constructor: B,
    ) -> Stream<'scope, T, CB::Container>
    where
        T: FencedTime,
        C2: Container,
        CB: ContainerBuilder,
        B: FnMut(Capability<T>, &mut State<T>) -> L,
        L: FnMut(
                (&mut PartitionInput<T, C1>, &MutableAntichain<T>),
                (&mut PartitionInput<T, C2>, &MutableAntichain<T>),
                &mut OutputBuilderSession<'_, T, CB>,
            ) + 'static,
        P1: KeyedPact<C1>,
        P2: KeyedPact<C2>,
    {
        let is_local = P1::IS_LOCAL || P2::IS_LOCAL;
        let mut wrapping = Wrapping::new(self.fence(), name, self.scope(), true, is_local);
        let mut left = wrapping.input(self, pact1);
        let mut right = wrapping.input(other, pact2);
        wrapping.build(constructor, move |logic: &mut L, frontiers, output| {
            logic((&mut left, &frontiers[0]), (&mut right, &frontiers[1]), output);
        })
    }

    fn binary_fenced<C2, CB, B, L, P1, P2>(
        self,
        other: Stream<'scope, T, C2>,
        pact1: P1,
        pact2: P2,
        name: &str,
        constructor: B,
    ) -> Stream<'scope, T, CB::Container>
    where
        T: FencedTime,
        C2: Container,
        CB: ContainerBuilder,
        B: FnMut(Capability<T>, &mut State<T>) -> L,
        L: FnMut(
                &mut PartitionInput<T, C1>,
                &mut PartitionInput<T, C2>,
                &mut OutputBuilderSession<'_, T, CB>,
            ) + 'static,
        P1: KeyedPact<C1>,
        P2: KeyedPact<C2>,
    {
        let is_local = P1::IS_LOCAL || P2::IS_LOCAL;
        let mut wrapping = Wrapping::new(self.fence(), name, self.scope(), false, is_local);
        let mut left = wrapping.input(self, pact1);
        let mut right = wrapping.input(other, pact2);
        wrapping.build(constructor, move |logic: &mut L, _frontiers, output| {
            logic(&mut left, &mut right, output);
        })
    }
}

/// A wrapped operator that is being built.
struct Wrapping<'scope, T: FencedTime> {
    fence: Fence,
    name: OperatorName,
    scope: Scope<'scope, T>,
    builder: OperatorBuilder<'scope, T>,
    /// The operator's partitions, by their number within the operator.
    partitions: Rc<[PartitionId]>,
    ports: Vec<Rc<dyn Gate>>,
    follows_frontier: bool,
}

impl<'scope, T: FencedTime> Wrapping<'scope, T> {
    fn new(
        fence: Fence,
        name: &str,
        scope: Scope<'scope, T>,
        follows_frontier: bool,
        is_local: bool,
    ) -> Self {
        let name = fence.admit("wrapped operator", name, scope);
        let builder = OperatorBuilder::new(name.to_string(), scope);
        let partitions: Rc<[PartitionId]> = if is_local {
            // Each worker needs a partition for the records that stay there.
            (0..fence.generation().routes.partitions()).map(PartitionId).collect()
        } else {
            fence.partitions_of_operator().into()
        };
        if is_local {
            fence.require_partitions(&name, "records of a `Pipeline` input stay at their worker");
        }
        fence.compare(Item::partitions(&name, partitions.len()));
        Wrapping { fence, name, scope, builder, partitions, ports: Vec::new(), follows_frontier }
    }

    fn input<C: Container, P: KeyedPact<C>>(
        &mut self,
        stream: Stream<'scope, T, C>,
        pact: P,
    ) -> PartitionInput<T, C> {
        let port = Port::new(&self.fence, &self.name, &self.partitions);
        let input = self.builder.new_input(stream, PartitionPact::new(pact, &port));
        self.ports.push(port);
        input
    }

    /// Builds the operator: `constructor` makes the closure of a partition, and `call` calls it.
    fn build<CB, L>(
        self,
        mut constructor: impl FnMut(Capability<T>, &mut State<T>) -> L,
        mut call: impl FnMut(&mut L, &[MutableAntichain<T>], &mut OutputBuilderSession<'_, T, CB>)
        + 'static,
    ) -> Stream<'scope, T, CB::Container>
    where
        CB: ContainerBuilder,
        L: 'static,
    {
        let Wrapping { fence, name, scope, mut builder, partitions, ports, follows_frontier } =
            self;
        let activator = scope.activator_for(builder.operator_info().address);
        fence.checkpoints().wake_on_decision(activator.clone());
        let (output, stream) = builder.new_output();
        let (frames_output, frames) = builder.new_output::<Frames>();
        let mut ids = Vec::new();
        let (inner_fence, inner_name) = (fence.clone(), name.clone());
        builder.build(|capabilities| {
            let (fence, name) = (inner_fence, inner_name);
            let mut capabilities = capabilities.into_iter();
            let Some(origin) = capabilities.next() else {
                unreachable!("timely gives one capability for each output");
            };
            let outlet = Outlet::new(&fence, frames_output, capabilities.next());
            let first = origin.delayed(&fence.resume_time());
            let store = Store::new(&fence, &name, origin);
            let mut logics = Vec::new();
            let is_here = |partition: &PartitionId| {
                fence.generation().routes.owner(*partition) == fence.worker()
            };
            let owned: Vec<_> = partitions.iter().copied().filter(is_here).collect();
            // On a worker without partitions, one constructor still runs, to make the names known.
            let only_names = owned.is_empty();
            for (number, &partition) in partitions.iter().enumerate() {
                if is_here(&partition) || (only_names && number == 0) {
                    store.turn().set(Some(partition));
                    let mut state = store.state_of(partition, number, partitions.len());
                    let logic = constructor(first.clone(), &mut state);
                    logics.push(Careful::new(&fence, &name, logic));
                }
            }
            // If everything is committed to its end, closures would only hold their times open.
            if only_names || fence.generation().resume >= Some(Epoch::END) {
                logics.clear();
            }
            store.turn().set(None);
            store.begin();
            ids = store.ids();
            let mut output = OutputBuilder::from(output);
            let parts = Parts {
                fence,
                name,
                ports,
                store,
                outlet,
                partitions: owned,
                activator,
                follows_frontier,
            };
            let mut stage = Stage::new(parts);
            move |frontiers| {
                let mut session = output.activate();
                stage.activate(frontiers, |index, shown| {
                    call(&mut logics[index], shown, &mut session);
                });
            }
        });
        commit(frames, &fence, &name, ids);
        stream
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod container_tests;
