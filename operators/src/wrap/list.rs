//! List: protected state with the methods of a vector.

use std::cell::{Cell, RefMut};

use super::slot::{Guard, Slot};
use crate::data::Data;

/// One partition's protected list, with the methods of `std`'s `Vec`.
///
/// Each item is stored under its index. So pushing, popping or setting an item costs one item at the next
/// checkpoint, and removing an item costs all later ones. Items are read and changed through guards.
///
/// [`State::list`](super::State::list) makes it. It can be used only within the closure of the partition that
/// it was made for: elsewhere it ends the job.
pub struct List<V: Data> {
    /// INVARIANT: the keys are 0 to `length`, without gaps.
    slot: Slot<u64, V>,
    length: Cell<Option<u64>>,
}

impl<V: Data> List<V> {
    pub(super) fn new(slot: Slot<u64, V>) -> Self {
        List { slot, length: Cell::new(None) }
    }

    /// The length, which is found in a few steps if it is not known: nothing is decoded for it.
    fn length(&self) -> u64 {
        if let Some(length) = self.length.get() {
            return length;
        }
        let (mut within, mut beyond) = (0, 1);
        while self.slot.contains(&(beyond - 1)) {
            (within, beyond) = (beyond, beyond * 2);
        }
        while within + 1 < beyond {
            let middle = within + (beyond - within) / 2;
            if self.slot.contains(&(middle - 1)) { within = middle } else { beyond = middle }
        }
        self.length.set(Some(within));
        within
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.length() as usize
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.length() == 0
    }

    /// The item at `index`.
    pub fn get(&self, index: usize) -> Option<Guard<'_, V>> {
        self.slot.get(&(index as u64))
    }

    /// A copy of the item at `index`, which must exist: corresponds to `list[index]` for a vector.
    ///
    /// # Panics
    ///
    /// Panics if `index` is not below the length.
    pub fn at(&self, index: usize) -> V {
        match self.get(index) {
            Some(item) => item.clone(),
            None => panic!("index {index} is beyond a list of {} items", self.len()),
        }
    }

    /// The item at `index`, for changing it.
    pub fn get_mut(&mut self, index: usize) -> Option<RefMut<'_, V>> {
        self.slot.get_mut(&(index as u64))
    }

    /// The last item.
    pub fn last(&self) -> Option<Guard<'_, V>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// Sets the item at `index`, which must exist, and returns the previous one.
    ///
    /// # Panics
    ///
    /// Panics if `index` is not below the length.
    pub fn set(&mut self, index: usize, value: V) -> V {
        let length = self.len();
        match self.get_mut(index) {
            Some(mut item) => std::mem::replace(&mut *item, value),
            None => panic!("index {index} is beyond a list of {length} items"),
        }
    }

    /// Appends an item.
    pub fn push(&mut self, value: V) {
        let length = self.length();
        self.slot.insert(length, value);
        self.length.set(Some(length + 1));
    }

    /// Removes the last item and returns it.
    pub fn pop(&mut self) -> Option<V> {
        let last = self.length().checked_sub(1)?;
        self.length.set(Some(last));
        self.slot.remove(&last)
    }

    /// Copies of all items, in order.
    pub fn iter(&self) -> std::vec::IntoIter<V> {
        let item = |index| self.slot.get(&index).map(|item| item.clone());
        (0..self.length()).filter_map(item).collect::<Vec<_>>().into_iter()
    }

    /// Removes all items and returns them, in order.
    pub fn drain(&mut self) -> std::vec::IntoIter<V> {
        let mut entries = self.slot.drain();
        self.length.set(Some(0));
        entries.sort_by_key(|(index, _)| *index);
        entries.into_iter().map(|(_, item)| item).collect::<Vec<_>>().into_iter()
    }

    /// Removes every item for which `keep` returns `false`; later items move up.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        let length = self.length();
        let mut kept = 0;
        for index in 0..length {
            let wanted = self.slot.get(&index).is_some_and(|item| keep(&item));
            if wanted {
                if kept < index
                    && let Some(item) = self.slot.remove(&index)
                {
                    self.slot.insert(kept, item);
                }
                kept += 1;
            } else {
                self.slot.remove(&index);
            }
        }
        self.length.set(Some(kept));
    }

    /// Removes all items.
    pub fn clear(&mut self) {
        self.slot.table().retain(|_, _| false);
        self.length.set(Some(0));
    }
}

impl<V: Data> Extend<V> for List<V> {
    fn extend<I: IntoIterator<Item = V>>(&mut self, items: I) {
        for item in items {
            self.push(item);
        }
    }
}
