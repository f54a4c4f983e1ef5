//! Protected feedback: loops whose iterations are epochs.
//!
//! A record that reaches the end of such a loop at one time comes back at a later one. A checkpoint between
//! the two would miss it: the sender has sent the record at the checkpoint, but the receiver has not received
//! it. So the loop keeps the records that are in flight across a checkpoint as part of it, and sends them
//! again after a failure.
//!
//! INVARIANT: the state at a checkpoint holds exactly the records that arrived at or before it and come back
//! after it.

use std::collections::{BTreeMap, BTreeSet};

use timely::Container;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::channels::pushers::Output;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::frontier::Antichain;
use timely::progress::{PathSummary, Timestamp};

use crate::data::Data;
use crate::fence::{Fence, HasFence};
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::planted::{self, Planted};
use crate::protected::outlet::Outlet;
use crate::protected::partitions::Partitions;
use crate::protected::turns::{complete, time_of};
use crate::rounds::replicate::commit;
use crate::time::{EpochTime, FencedTime, passed};

/// How many keys of an opened replica are decoded at each activation until none are left.
const DECODE_KEYS: usize = 512;

/// Loops in the outermost scope.
pub trait FeedbackFenced<'scope, T: Timestamp> {
    /// As timely's `feedback`: returns a stream of what is later connected to the handle, with times advanced
    /// by `summary`.
    ///
    /// Within an iterative scope, use timely's own `feedback` and `loop_variable`: an epoch is complete only
    /// when the loop has come to rest, and then no record is in flight.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::operators::Concat;
    /// use timely::dataflow::operators::vec::{Filter, Map};
    ///
    /// // Counts down, one step in each epoch.
    /// let numbers = testing::run(2, |scope, output| {
    ///     let (handle, again) = scope.feedback_fenced(1);
    ///     let all = per_share(|_share| [3u64].into_iter())
    ///         .to_stream_fenced(scope, "threes")
    ///         .concat(again);
    ///     all.clone().sink_fenced("out", output);
    ///     all.filter(|n| *n > 0).map(|n| n - 1).connect_loop_fenced("down", handle);
    /// });
    /// assert_eq!(numbers.len(), 8);
    /// ```
    fn feedback_fenced<C: Container>(
        &self,
        summary: T::Summary,
    ) -> (LoopHandle<'scope, T, C>, Stream<'scope, T, C>);
}

/// The end of a loop, to be passed to [`connect_loop_fenced`](ConnectLoopFenced::connect_loop_fenced).
pub struct LoopHandle<'scope, T: Timestamp, C: Container> {
    builder: OperatorBuilder<'scope, T>,
    summary: T::Summary,
    output: Output<T, C>,
}

impl<'scope, T: Timestamp> FeedbackFenced<'scope, T> for Scope<'scope, T> {
    fn feedback_fenced<C: Container>(
        &self,
        summary: T::Summary,
    ) -> (LoopHandle<'scope, T, C>, Stream<'scope, T, C>) {
        let mut builder = OperatorBuilder::new("Feedback".to_owned(), *self);
        let (output, stream) = builder.new_output();
        (LoopHandle { builder, summary, output }, stream)
    }
}

/// The ends of loops.
pub trait ConnectLoopFenced<'scope, T: Timestamp, C: Container> {
    /// As timely's `connect_loop`: sends the stream to the beginning of the loop, with times advanced.
    ///
    /// Records in flight across a checkpoint are part of it. If every epoch is a checkpoint, that is every
    /// record once; with a clock for checkpoints it is only a few.
    fn connect_loop_fenced(self, name: &str, handle: LoopHandle<'scope, T, C>)
    where
        T: EpochTime,
        C: Data;
}

impl<'scope, T: Timestamp, C: Container> ConnectLoopFenced<'scope, T, C> for Stream<'scope, T, C> {
    fn connect_loop_fenced(self, name: &str, handle: LoopHandle<'scope, T, C>)
    where
        T: EpochTime,
        C: Data,
    {
        let (fence, scope) = (self.fence(), self.scope());
        let name = fence.admit("connect_loop_fenced", name, scope);
        fence.require_partitions(&name, "records of a loop stay at their worker");
        let LoopHandle { mut builder, summary, output } = handle;
        let activator = scope.activator_for(builder.operator_info().address);
        fence.checkpoints().wake_on_decision(activator.clone());
        let turn = [(0, Antichain::from_elem(summary.clone()))];
        let mut input = builder.new_input_connection(self, Pipeline, turn);
        let (frames_output, frames) =
            builder.new_output_connection([(0, Antichain::from_elem(Default::default()))]);
        let mut turning = Turning::<T, C>::restore(&fence, &name);
        let ids = vec![turning.states.id()];
        let (inner_fence, inner_name) = (fence.clone(), name.clone());
        builder.build(move |capabilities| {
            let (fence, name) = (inner_fence, inner_name);
            let mut output = OutputBuilder::<T, NoopBuilder<C>>::from(output);
            let mut capabilities = capabilities.into_iter();
            let mut origin = capabilities.next();
            let mut outlet = Outlet::new(&fence, frames_output, capabilities.next());
            let mut decoded = fence.generation().resume.is_none();
            move |frontiers| {
                let _active = fence.check(&name);
                let mut output = output.activate();
                if let Some(origin) = origin.take() {
                    turning.again(&origin, |capability, mut records| {
                        output.session_with_builder(capability).give_container(&mut records);
                    });
                }
                input.for_each(|capability, records| {
                    let time = time_of(&fence, &name, capability.stamp());
                    let Some(back) = summary.results_in(&time) else { return };
                    turning.note(time.epoch(), &back, records);
                    let capability = capability.delayed(&back, 0);
                    output.session_with_builder(&capability).give_container(records);
                });
                let through = passed(&frontiers[0]).max(fence.generation().resume);
                turning.seal(through, &mut outlet);
                if !decoded {
                    decoded = turning.states.decode_some(DECODE_KEYS);
                    if !decoded {
                        activator.activate();
                    }
                }
            }
        });
        commit(frames, &fence, &name, ids);
    }
}

/// The records of a loop that are in flight.
struct Turning<T: EpochTime, C: Container + Data> {
    fence: Fence,
    name: OperatorName,
    /// The records in flight across the last checkpoint, by the epoch in which they come back.
    states: Partitions<(u64, u64), (T, C)>,
    /// The same in the order in which it comes back. Two partitions may use one number: they were run by
    /// different workers.
    kept: BTreeSet<(u64, PartitionId, u64)>,
    /// The records that have arrived since and may be in flight across the next checkpoint, by the epoch in
    /// which they arrived.
    since: BTreeMap<Epoch, Vec<(T, C)>>,
    next_number: u64,
    /// Whether a seal is due at the next checkpoint.
    begun: bool,
}

impl<T: EpochTime, C: Container + Data> Turning<T, C> {
    fn restore(fence: &Fence, name: &OperatorName) -> Self {
        let mut states = Partitions::<(u64, u64), (T, C)>::restore(fence, name, &mut |_| {});
        let (mut kept, mut next_number) = (BTreeSet::new(), 0);
        for partition in states.owned().to_vec() {
            states.table(partition).for_each(|key, _| {
                next_number = next_number.max(key.1 + 1);
                kept.insert((key.0, partition, key.1));
            });
        }
        Turning {
            fence: fence.clone(),
            name: name.clone(),
            states,
            kept,
            since: BTreeMap::new(),
            next_number,
            begun: false,
        }
    }

    /// Sends again what was on its way across the checkpoint.
    fn again(&mut self, origin: &Capability<T>, mut send: impl FnMut(&Capability<T>, C)) {
        for partition in self.states.owned().to_vec() {
            self.states.table(partition).for_each(|_, (time, records)| {
                send(&origin.delayed(time), records.clone());
            });
        }
    }

    /// Notes records that come back at `back`.
    fn note(&mut self, came: Epoch, back: &T, records: &C) {
        if planted::is(Planted::TurnsLeftOut) {
            return;
        }
        let checkpoints = self.fence.checkpoints();
        let comes = back.epoch();
        let next = checkpoints.at_or_after(came).unwrap_or(Epoch::END);
        // Once their next epoch has begun, every checkpoint that is still to be chosen is after it.
        if next < comes || !checkpoints.admit(comes) {
            let batch = (back.clone(), records.clone());
            self.since.entry(came).or_default().push(batch);
        }
    }

    /// Seals what is due when all epochs through `through` are complete.
    fn seal(&mut self, through: Option<Epoch>, outlet: &mut Outlet<T>) {
        let waits = loop {
            let came = self.since.first_key_value().map(|(epoch, _)| *epoch);
            let back = self.kept.first().map(|(comes, ..)| Epoch(*comes));
            let next = came.into_iter().chain(back).min();
            if !self.begun
                && let Some(next) = next.filter(|next| Some(*next) <= through)
            {
                self.begun = outlet.begin(next);
                if !self.begun {
                    break Some(next);
                }
            }
            let Some(time) = outlet.due(through) else { break None };
            self.begun = false;
            self.fence.whereabouts().set_epoch(time.epoch());
            self.cut(time.epoch());
            outlet.seal(&time, &mut self.states);
        };
        outlet.pass(complete(through, waits), &mut self.states);
    }

    /// Updates the state to what it must be at `checkpoint`.
    fn cut(&mut self, checkpoint: Epoch) {
        while let Some(&(comes, partition, number)) = self.kept.first()
            && comes <= checkpoint.0
        {
            let key = (comes, number);
            let hash = self.states.hash(partition, &key);
            self.states.table(partition).remove(hash, &key);
            self.kept.pop_first();
        }
        while let Some(entry) = self.since.first_entry()
            && *entry.key() <= checkpoint
        {
            for (back, records) in entry.remove() {
                let comes = back.epoch();
                if comes > checkpoint {
                    let Some(&partition) = self.states.owned().first() else {
                        let what = "records reached a worker that runs no partition";
                        self.fence.misplaced(&self.name, what)
                    };
                    let key = (comes.0, self.next_number);
                    self.next_number += 1;
                    let hash = self.states.hash(partition, &key);
                    self.states.table(partition).insert(hash, key, (back, records));
                    self.kept.insert((key.0, partition, key.1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
