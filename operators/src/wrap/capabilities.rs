//! Capabilities: the times at which an operator may still send something.

use std::borrow::Borrow;
use std::collections::btree_map::{self, BTreeMap};
use std::rc::Rc;

use timely::dataflow::operators::Capability;
use timely::progress::frontier::MutableAntichain;

use super::held::HeldTimes;
use super::slot::Slot;
use crate::time::FencedTime;

/// One partition's protected set of capabilities.
///
/// A capability that a closure merely captures is lost with its worker, and with it the right to send at its
/// time. A capability in this set is held again after a failure.
///
/// [`State::capabilities`](super::State::capabilities) makes it. It can be used only within the closure of
/// the partition that it was made for: elsewhere it ends the job.
pub struct Capabilities<T: FencedTime> {
    slot: Slot<T, ()>,
    held: BTreeMap<T, Capability<T>>,
    times: Rc<HeldTimes<T>>,
    is_first: bool,
}

impl<T: FencedTime> Capabilities<T> {
    /// Opens the set: the capabilities in it come from `origin`.
    pub(super) fn open(
        slot: Slot<T, ()>,
        times: &Rc<HeldTimes<T>>,
        origin: &Capability<T>,
        is_first: bool,
    ) -> Self {
        let mut held = BTreeMap::new();
        for time in slot.keys() {
            times.hold(&time);
            let capability = origin.delayed(&time);
            held.insert(time, capability);
        }
        Capabilities { slot, held, times: Rc::clone(times), is_first }
    }

    /// Puts a capability into the set at the very start of the job, but not when the set was restored: then
    /// the set is what it was.
    ///
    /// It is meant for the capability that the constructor gets.
    pub fn starting_with(mut self, capability: Capability<T>) -> Self {
        if self.is_first {
            self.insert(capability);
        }
        self
    }

    /// Holds a capability; returns whether its time was not held before.
    pub fn insert(&mut self, capability: Capability<T>) -> bool {
        let time = capability.time().clone();
        let is_new = !self.held.contains_key(&time);
        if is_new {
            self.slot.insert(time.clone(), ());
            self.times.hold(&time);
            self.held.insert(time, capability);
        }
        is_new
    }

    /// Removes a time, and returns its capability.
    pub fn remove(&mut self, time: &T) -> Option<Capability<T>> {
        let capability = self.held.remove(time)?;
        self.slot.remove(time);
        self.times.release(time);
        Some(capability)
    }

    /// Takes the capabilities of the times that `frontier` has passed, in order.
    pub fn ready(&mut self, frontier: &MutableAntichain<T>) -> Vec<Capability<T>> {
        let is_passed = |time: &&T| !frontier.less_equal(*time);
        let passed: Vec<T> = self.held.keys().filter(is_passed).cloned().collect();
        passed.iter().filter_map(|time| self.remove(time)).collect()
    }

    /// A capability for `time`, from one that is held for an earlier time.
    pub fn delayed(&self, time: &T) -> Option<Capability<T>> {
        self.held.values().find_map(|capability| capability.try_delayed(time))
    }

    /// Moves the set to those times of `frontier` that it can reach, and releases all others; an empty
    /// frontier empties it.
    pub fn downgrade_all<B: Borrow<T>>(&mut self, frontier: impl IntoIterator<Item = B>) {
        let delayed = |time: B| self.delayed(time.borrow());
        let moved: Vec<Capability<T>> = frontier.into_iter().filter_map(delayed).collect();
        let is_left = |time: &&T| !moved.iter().any(|capability| capability.time() == *time);
        let left: Vec<T> = self.held.keys().filter(is_left).cloned().collect();
        for capability in moved {
            self.insert(capability);
        }
        for time in left {
            self.remove(&time);
        }
    }

    /// The capabilities, in the order of their times.
    pub fn iter(&self) -> impl Iterator<Item = &Capability<T>> {
        self.held.values()
    }

    /// The times, in order.
    pub fn keys(&self) -> btree_map::Keys<'_, T, Capability<T>> {
        self.held.keys()
    }

    /// The capability of a time.
    pub fn get(&self, time: &T) -> Option<&Capability<T>> {
        self.held.get(time)
    }

    /// The number of times held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no time is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
