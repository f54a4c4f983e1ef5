//! Stash: items that wait until their time is complete, with the capability to respond at that time.

use std::collections::BTreeMap;
use std::ops::RangeFull;
use std::rc::Rc;

use timely::dataflow::operators::Capability;
use timely::progress::frontier::MutableAntichain;

use super::held::HeldTimes;
use super::slot::Slot;
use crate::data::Data;
use crate::planted::{self, Planted};
use crate::time::FencedTime;

/// One partition's protected stash: items by time, each time with its capability.
///
/// It replaces the map from capabilities to lists that operators keep until a frontier has passed. After a
/// failure, items and capabilities are restored, and items are ready in the same epochs.
///
/// [`State::stash`](super::State::stash) makes it. It can be used only within the closure of the partition
/// that it was made for: elsewhere it ends the job.
pub struct Stash<T: FencedTime, D: Data> {
    /// Items by their time, and by a number that orders the items of one time.
    slot: Slot<(T, u64), D>,
    times: BTreeMap<T, Pending<T>>,
    held: Rc<HeldTimes<T>>,
}

/// What is kept in memory for one time.
struct Pending<T: FencedTime> {
    capability: Capability<T>,
    /// The numbers of its items, which ascend.
    numbers: Vec<u64>,
}

impl<T: FencedTime, D: Data> Stash<T, D> {
    /// Opens the stash: the capabilities of its items come from `origin`.
    pub(super) fn open(
        slot: Slot<(T, u64), D>,
        held: &Rc<HeldTimes<T>>,
        origin: &Capability<T>,
    ) -> Self {
        let mut times = BTreeMap::<T, Pending<T>>::new();
        let keys = slot.keys();
        let keys = if planted::is(Planted::StashNotHeld) { Vec::new() } else { keys };
        for (time, number) in keys {
            let pending = times.entry(time).or_insert_with_key(|time| {
                held.hold(time);
                Pending { capability: origin.delayed(time), numbers: Vec::new() }
            });
            pending.numbers.push(number);
        }
        times.values_mut().for_each(|pending| pending.numbers.sort_unstable());
        Stash { slot, times, held: Rc::clone(held) }
    }

    /// Keeps an item until the capability's time.
    pub fn push(&mut self, capability: Capability<T>, item: D) {
        self.entry(capability).push(item);
    }

    /// The items of the capability's time, for adding to them.
    pub fn entry(&mut self, capability: Capability<T>) -> StashEntry<'_, T, D> {
        StashEntry { stash: self, capability }
    }

    /// Takes what is complete: the times that `frontier` has passed, in order, with their items in the order
    /// in which they were added.
    pub fn ready(&mut self, frontier: &MutableAntichain<T>) -> Vec<(Capability<T>, Vec<D>)> {
        self.take_where(|time| !frontier.less_equal(time))
    }

    /// As [`ready`](Stash::ready), for operators with two inputs: takes what both frontiers have passed.
    pub fn ready_in_both(
        &mut self,
        left: &MutableAntichain<T>,
        right: &MutableAntichain<T>,
    ) -> Vec<(Capability<T>, Vec<D>)> {
        self.take_where(|time| !left.less_equal(time) && !right.less_equal(time))
    }

    /// Takes the times for which `is_wanted` returns `true`, in order, with their items.
    pub fn take_where(
        &mut self,
        mut is_wanted: impl FnMut(&T) -> bool,
    ) -> Vec<(Capability<T>, Vec<D>)> {
        let wanted: Vec<T> = self.times.keys().filter(|time| is_wanted(time)).cloned().collect();
        wanted.into_iter().filter_map(|time| self.take(&time)).collect()
    }

    /// Takes one time, with its items.
    pub fn take(&mut self, time: &T) -> Option<(Capability<T>, Vec<D>)> {
        let Pending { capability, numbers } = self.times.remove(time)?;
        self.held.release(time);
        let slot = &mut self.slot;
        let item = |number| slot.remove(&(time.clone(), number));
        Some((capability, numbers.into_iter().filter_map(item).collect()))
    }

    /// Iterates over the waiting times, in order, each with the items that wait for it.
    ///
    /// This is for existing loops over a map from capabilities to lists: look at the capability, drain the
    /// list, and [`retain`](Stash::retain) what is not empty.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::channels::pact::Exchange;
    ///
    /// // Tells each epoch's records in order.
    /// let sorted = testing::run(2, |scope, output| {
    ///     per_share(|_share| [3u64, 1, 2].into_iter())
    ///         .to_stream_fenced(scope, "numbers")
    ///         .unary_frontier_fenced(Exchange::new(|_: &u64| 0), "sorted", |_, state| {
    ///             let mut queues = state.stash("queues");
    ///             move |(input, frontier), output| {
    ///                 input.for_each(|capability, numbers| {
    ///                     if let Some(capability) = capability.retain_least(0) {
    ///                         queues.entry(capability).or_default().extend(numbers.drain(..));
    ///                     }
    ///                 });
    ///                 for (capability, queue) in queues.iter_mut() {
    ///                     if !frontier.less_equal(capability.time()) {
    ///                         let mut numbers: Vec<u64> = queue.drain(..).collect();
    ///                         numbers.sort();
    ///                         output.session(capability).give_iterator(numbers.into_iter());
    ///                     }
    ///                 }
    ///                 queues.retain(|_capability, queue| !queue.is_empty());
    ///             }
    ///         })
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(sorted.iter().filter(|n| **n == 3).count(), 2);
    /// ```
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Capability<T>, StashQueue<'_, T, D>)> {
        let Stash { slot, times, .. } = self;
        let slot = &*slot;
        times.iter_mut().map(move |(time, pending)| {
            let Pending { capability, numbers } = pending;
            (&*capability, StashQueue { slot, time, numbers })
        })
    }

    /// Drops every time for which `keep` returns `false`, with its items, and releases its capability.
    pub fn retain(&mut self, mut keep: impl FnMut(&Capability<T>, &StashQueue<'_, T, D>) -> bool) {
        let Stash { slot, times, held } = self;
        let slot = &*slot;
        times.retain(|time, pending| {
            let Pending { capability, numbers } = pending;
            let mut queue = StashQueue { slot, time, numbers };
            let wanted = keep(capability, &queue);
            if !wanted {
                queue.take();
                held.release(time);
            }
            wanted
        });
    }

    /// Drops every item for which `keep` returns `false`; the capability of a time without items is released.
    pub fn retain_items(&mut self, mut keep: impl FnMut(&T, &D) -> bool) {
        let Stash { slot, times, held } = self;
        times.retain(|time, pending| {
            pending.numbers.retain(|&number| {
                let key = (time.clone(), number);
                let wanted = slot.get(&key).is_some_and(|item| keep(time, &item));
                if !wanted {
                    slot.remove(&key);
                }
                wanted
            });
            if pending.numbers.is_empty() {
                held.release(time);
            }
            !pending.numbers.is_empty()
        });
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.times.values().map(|pending| pending.numbers.len()).sum()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The times for which items wait, in order.
    pub fn times(&self) -> impl Iterator<Item = &T> {
        self.times.keys()
    }

    /// Copies of all items with their times, in order.
    pub fn iter(&self) -> std::vec::IntoIter<(T, D)> {
        let mut all = Vec::new();
        for (time, pending) in &self.times {
            for &number in &pending.numbers {
                if let Some(item) = self.slot.get(&(time.clone(), number)) {
                    all.push((time.clone(), item.clone()));
                }
            }
        }
        all.into_iter()
    }
}

/// The items of one time in a [`Stash`].
pub struct StashEntry<'a, T: FencedTime, D: Data> {
    stash: &'a mut Stash<T, D>,
    capability: Capability<T>,
}

impl<T: FencedTime, D: Data> StashEntry<'_, T, D> {
    /// Returns these items; if there are none, the list is empty. It mirrors the method of a map's entry.
    pub fn or_default(self) -> Self {
        self
    }

    /// Adds an item.
    pub fn push(&mut self, item: D) {
        let Stash { slot, times, held } = &mut *self.stash;
        let time = self.capability.time();
        let pending = times.entry(time.clone()).or_insert_with(|| {
            held.hold(time);
            Pending { capability: self.capability.clone(), numbers: Vec::new() }
        });
        let number = pending.numbers.last().map_or(0, |last| last + 1);
        pending.numbers.push(number);
        slot.insert((time.clone(), number), item);
    }
}

impl<T: FencedTime, D: Data> Extend<D> for StashEntry<'_, T, D> {
    fn extend<I: IntoIterator<Item = D>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.push(item));
    }
}

/// The items that wait for one time, as [`Stash::iter_mut`] shows them.
pub struct StashQueue<'a, T: FencedTime, D: Data> {
    slot: &'a Slot<(T, u64), D>,
    time: &'a T,
    numbers: &'a mut Vec<u64>,
}

impl<T: FencedTime, D: Data> StashQueue<'_, T, D> {
    /// Takes the items, in the order in which they were added. The range must be `..`, because all items are
    /// taken or none.
    pub fn drain(mut self, _all: RangeFull) -> std::vec::IntoIter<D> {
        self.take().into_iter()
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    fn take(&mut self) -> Vec<D> {
        let take = |number| self.slot.take(&(self.time.clone(), number));
        self.numbers.drain(..).filter_map(take).collect()
    }
}
