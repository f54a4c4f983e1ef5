//! Sessions: collections that the program changes by hand.

use differential_dataflow::collection::AsCollection;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::collection::FencedCollection;
use crate::data::Data;
use crate::ids::Share;
use crate::time::EpochTime;
use crate::verbs::input::{FencedInput, InStep, InputShare};

/// A collection that the program changes, epoch by epoch: differential's `InputSession`, journaled.
///
/// It is a [`FencedInput`] of changes, and the description of [`FencedInput`] applies: changes are made to
/// shares, an epoch enters the dataflow once it is closed and in the journals of all backups, and after a
/// failure the program continues from [`resume`](FencedSession::resume).
///
/// ```
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing;
///
/// let mut rows = testing::run_workers(2, |worker, output| {
///     let mut edges = FencedSession::<u64, (u32, u32)>::new("edges");
///     worker.dataflow(|scope| {
///         let edges = edges.to_collection(scope);
///         edges.count_fenced("edges seen").sink_fenced("out", output);
///     });
///     for round in edges.resume()..3 {
///         edges.insert_to(0, (1, 2));
///         edges.advance_to(round + 1);
///         worker.step();
///     }
/// });
/// rows.sort();
/// assert_eq!(rows.len(), 5);
/// assert_eq!(rows[4], (((1, 2), 3), 2, 1));
/// ```
pub struct FencedSession<T: EpochTime, D: Data, R: Data = isize> {
    input: FencedInput<T, (D, R)>,
}

impl<T, D, R> FencedSession<T, D, R>
where
    T: EpochTime + Lattice,
    D: Data,
    R: Data + Semigroup,
{
    /// Creates a session. Its name identifies its journal, so it must be used only once in a job.
    pub fn new(name: &str) -> Self {
        FencedSession { input: FencedInput::new(name) }
    }

    /// Makes the session part of a dataflow; returns the collection that it changes.
    pub fn to_collection<'scope>(
        &mut self,
        scope: Scope<'scope, T>,
    ) -> FencedCollection<'scope, T, D, R> {
        let changes = self.input.to_stream(scope);
        let updates = changes.unary(Pipeline, "Updates", |_, _| {
            |input, output| {
                input.for_each(|capability, changes| {
                    let Some(time) = capability.stamp().iter().min().cloned() else { return };
                    let updates = changes.drain(..).map(|(data, diff)| (data, time.clone(), diff));
                    output.session(&capability).give_iterator(updates);
                });
            }
        });
        FencedCollection::of(updates.as_collection())
    }

    /// The first time at which to change the collection: see [`FencedInput::resume`].
    pub fn resume(&self) -> T {
        self.input.resume()
    }

    /// The time at which changes are currently made.
    pub fn time(&self) -> &T {
        self.input.time()
    }

    /// The shares that this worker has: those of [`Fence::shares`](crate::fence::Fence::shares).
    pub fn shares(&self) -> Vec<Share> {
        self.input.shares()
    }

    /// The number of all shares, on all workers.
    pub fn share_count(&self) -> u64 {
        self.input.share_count()
    }

    /// One share of this worker; `None` if it is on another worker.
    pub fn share(&mut self, index: u64) -> Option<SessionShare<'_, T, D, R>> {
        self.input.share(index).map(|share| SessionShare { share })
    }

    /// Changes a record's multiplicity, for a share; does nothing if the share is on another worker.
    pub fn update_to(&mut self, share: u64, data: D, diff: R) {
        self.input.send_to(share, (data, diff));
    }

    /// Changes a record's multiplicity, for the only share of this worker: see [`FencedInput::send`].
    pub fn update(&mut self, data: D, diff: R) {
        self.input.send((data, diff));
    }

    /// Closes the current epoch and all others before `time`.
    pub fn advance_to(&mut self, time: T) {
        self.input.advance_to(time);
    }

    /// Does nothing, since [`advance_to`](FencedSession::advance_to) has already closed the epoch. It exists
    /// for programs that were written for differential's `InputSession`.
    pub fn flush(&mut self) {}

    /// Closes the session, as dropping it does: the current epoch is its last.
    pub fn close(self) {}
}

impl<T: EpochTime + Lattice, D: Data> FencedSession<T, D, isize> {
    /// Inserts a record, for a share; does nothing if the share is on another worker.
    pub fn insert_to(&mut self, share: u64, data: D) {
        self.update_to(share, data, 1);
    }

    /// Removes a record, for a share; does nothing if the share is on another worker.
    pub fn remove_to(&mut self, share: u64, data: D) {
        self.update_to(share, data, -1);
    }

    /// Inserts a record, for the only share of this worker: see [`FencedInput::send`].
    pub fn insert(&mut self, data: D) {
        self.update(data, 1);
    }

    /// Removes a record, for the only share of this worker: see [`FencedInput::send`].
    pub fn remove(&mut self, data: D) {
        self.update(data, -1);
    }
}

impl<T, D, R> InStep<T> for FencedSession<T, D, R>
where
    T: EpochTime + Lattice,
    D: Data,
    R: Data + Semigroup,
{
    fn resume(&self) -> T {
        self.input.resume()
    }

    fn begin_at(&mut self, time: T) {
        self.input.begin_at(time);
    }
}

/// One share of a [`FencedSession`].
pub struct SessionShare<'a, T: EpochTime, D: Data, R: Data> {
    share: InputShare<'a, T, (D, R)>,
}

impl<T: EpochTime, D: Data, R: Data> SessionShare<'_, T, D, R> {
    /// The index of the share.
    pub fn index(&self) -> u64 {
        self.share.index()
    }

    /// The first time that is not in this share's journal: see [`InputShare::resume`].
    pub fn resume(&self) -> T {
        self.share.resume()
    }

    /// How many changes the share's journal has: see [`InputShare::records`].
    pub fn records(&self) -> u64 {
        self.share.records()
    }

    /// Changes a record's multiplicity.
    pub fn update(&mut self, data: D, diff: R) {
        self.share.send((data, diff));
    }
}

impl<T: EpochTime, D: Data> SessionShare<'_, T, D, isize> {
    /// Inserts a record.
    pub fn insert(&mut self, data: D) {
        self.update(data, 1);
    }

    /// Removes a record.
    pub fn remove(&mut self, data: D) {
        self.update(data, -1);
    }
}
