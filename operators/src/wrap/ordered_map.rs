//! Ordered map: protected state with the methods of an ordered map.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeSet;
use std::ops::RangeBounds;

use super::map::Entry;
use super::slot::{Guard, Slot};
use crate::data::Data;

/// One partition's protected map in the order of its keys, with the methods of `std`'s `BTreeMap`.
///
/// Everything that a [`Map`](super::Map) promises also applies here. The order is kept separately from the
/// map, in memory only: after a failure it is rebuilt on first use, which decodes all keys. Methods that do
/// not use the order do not wait for it.
pub struct OrderedMap<K: Data + Ord, V: Data> {
    slot: Slot<K, V>,
    /// All keys, once the order has been used.
    order: RefCell<Option<BTreeSet<K>>>,
}

impl<K: Data + Ord, V: Data> OrderedMap<K, V> {
    pub(super) fn new(slot: Slot<K, V>) -> Self {
        OrderedMap { slot, order: RefCell::new(None) }
    }

    fn order(&self) -> RefMut<'_, BTreeSet<K>> {
        RefMut::map(self.order.borrow_mut(), |order| {
            order.get_or_insert_with(|| self.slot.keys().into_iter().collect())
        })
    }

    fn note(&mut self, key: &K) {
        if let Some(order) = self.order.get_mut()
            && !order.contains(key)
        {
            order.insert(key.clone());
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<Guard<'_, V>> {
        self.slot.get(key)
    }

    /// The value of a key, for changing it.
    pub fn get_mut(&mut self, key: &K) -> Option<RefMut<'_, V>> {
        self.slot.get_mut(key)
    }

    /// Whether the key has a value.
    pub fn contains_key(&self, key: &K) -> bool {
        self.slot.contains(key)
    }

    /// Sets the value of a key and returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.note(&key);
        self.slot.insert(key, value)
    }

    /// Removes a key and returns the value it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        if let Some(order) = self.order.get_mut() {
            order.remove(key);
        }
        self.slot.remove(key)
    }

    /// The entry of a key, for reading and inserting.
    pub fn entry(&mut self, key: K) -> OrderedEntry<'_, K, V> {
        OrderedEntry { map: self, key }
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.order().len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.order().is_empty()
    }

    /// The least key.
    pub fn first_key(&self) -> Option<K> {
        self.order().first().cloned()
    }

    /// The greatest key.
    pub fn last_key(&self) -> Option<K> {
        self.order().last().cloned()
    }

    /// The least key and its value.
    pub fn first_key_value(&self) -> Option<(K, Guard<'_, V>)> {
        let key = self.first_key()?;
        let value = self.slot.get(&key)?;
        Some((key, value))
    }

    /// The greatest key and its value.
    pub fn last_key_value(&self) -> Option<(K, Guard<'_, V>)> {
        let key = self.last_key()?;
        let value = self.slot.get(&key)?;
        Some((key, value))
    }

    /// Removes the least key and returns it with its value.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let key = self.order().pop_first()?;
        let value = self.slot.remove(&key)?;
        Some((key, value))
    }

    /// Removes the greatest key and returns it with its value.
    pub fn pop_last(&mut self) -> Option<(K, V)> {
        let key = self.order().pop_last()?;
        let value = self.slot.remove(&key)?;
        Some((key, value))
    }

    /// Copies of the keys in a range and their values, in order.
    pub fn range(&self, range: impl RangeBounds<K>) -> std::vec::IntoIter<(K, V)> {
        let keys: Vec<K> = self.order().range(range).cloned().collect();
        let with_value = |key: K| self.slot.get(&key).map(|value| (key.clone(), value.clone()));
        keys.into_iter().filter_map(with_value).collect::<Vec<_>>().into_iter()
    }

    /// Copies of all keys and values, in order.
    pub fn iter(&self) -> std::vec::IntoIter<(K, V)> {
        self.range(..)
    }

    /// Copies of all keys, in order.
    pub fn keys(&self) -> std::vec::IntoIter<K> {
        self.order().iter().cloned().collect::<Vec<_>>().into_iter()
    }

    /// Copies of all values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = V> + use<K, V> {
        self.iter().map(|(_, value)| value)
    }

    /// Calls `change` with each key and value, in arbitrary order: all of them count as changed.
    pub fn for_each_mut(&mut self, change: impl FnMut(&K, &mut V)) {
        self.slot.table().for_each_mut(change);
    }

    /// Removes every key for which `keep` returns `false`; it is called in arbitrary order.
    pub fn retain(&mut self, keep: impl FnMut(&K, &V) -> bool) {
        self.slot.table().retain(keep);
        *self.order.get_mut() = None;
    }

    /// Removes all keys and returns them with their values, in order.
    pub fn drain(&mut self) -> std::vec::IntoIter<(K, V)> {
        let mut entries = self.slot.drain();
        *self.order.get_mut() = None;
        entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        entries.into_iter()
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.retain(|_, _| false);
    }
}

impl<K: Data + Ord, V: Data> Extend<(K, V)> for OrderedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

/// The entry of a key in an [`OrderedMap`].
pub struct OrderedEntry<'a, K: Data + Ord, V: Data> {
    map: &'a mut OrderedMap<K, V>,
    key: K,
}

impl<'a, K: Data + Ord, V: Data> OrderedEntry<'a, K, V> {
    /// The key.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The value, which is set to `value` if there was none.
    pub fn or_insert(self, value: V) -> RefMut<'a, V> {
        self.or_insert_with(|| value)
    }

    /// The value, made by `init` if there was none.
    pub fn or_insert_with(self, init: impl FnOnce() -> V) -> RefMut<'a, V> {
        self.map.note(&self.key);
        Entry { slot: &mut self.map.slot, key: self.key }.or_insert_with(init)
    }

    /// The value, which is set to the default if there was none.
    pub fn or_default(self) -> RefMut<'a, V>
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }

    /// Changes the value if there is one.
    pub fn and_modify(self, change: impl FnOnce(&mut V)) -> Self {
        if let Some(mut value) = self.map.slot.get_mut(&self.key) {
            change(&mut value);
        }
        self
    }
}
