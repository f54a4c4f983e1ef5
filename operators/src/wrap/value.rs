//! Value: one protected value.

use std::cell::RefMut;

use super::slot::{Guard, Slot};
use crate::data::Data;

/// One partition's protected value.
///
/// [`State::value`](super::State::value) makes it. It can be used only within the closure of the partition
/// that it was made for: elsewhere it ends the job.
pub struct Value<V: Data> {
    slot: Slot<(), V>,
    /// The value until it is set.
    initial: V,
}

impl<V: Data> Value<V> {
    pub(super) fn new(slot: Slot<(), V>, initial: V) -> Self {
        Value { slot, initial }
    }

    /// The value.
    pub fn get(&self) -> Guard<'_, V> {
        self.slot.get(&()).unwrap_or_else(|| Guard::borrowed(&self.initial))
    }

    /// The value, for changing it.
    pub fn get_mut(&mut self) -> RefMut<'_, V> {
        let Value { slot, initial } = self;
        slot.get_or_insert_with((), || initial.clone())
    }

    /// Sets the value and returns the previous one.
    pub fn set(&mut self, value: V) -> V {
        self.slot.insert((), value).unwrap_or_else(|| self.initial.clone())
    }

    /// Changes the value.
    pub fn update<R>(&mut self, change: impl FnOnce(&mut V) -> R) -> R {
        change(&mut self.get_mut())
    }
}
