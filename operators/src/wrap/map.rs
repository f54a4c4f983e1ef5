//! Map: protected state with the methods of a hash map.

use std::cell::RefMut;

use super::slot::{Guard, Slot};
use crate::codec::{Codec, Postcard};
use crate::data::{Data, Plain};

/// One partition's protected map, with the methods of `std`'s `HashMap`.
///
/// Values are read and changed through guards, which dereference to them. A value that is borrowed mutably
/// counts as changed, whether it is or not, and is sent to the backups at the next checkpoint. After a
/// failure a map is available at once, whatever its size; methods that visit all keys ([`iter`](Map::iter),
/// [`len`](Map::len), [`retain`](Map::retain) and the like) decode all of them when first called.
///
/// [`State::map`](super::State::map) makes it, and [`State::map_with`](super::State::map_with) makes it with
/// your own encoding of its values. It can be used only within the closure of the partition that it was made
/// for: elsewhere it ends the job.
pub struct Map<K: Data + Eq, V: Plain, C: Codec<V> = Postcard> {
    slot: Slot<K, V, C>,
}

impl<K: Data + Eq, V: Plain, C: Codec<V>> Map<K, V, C> {
    pub(super) fn new(slot: Slot<K, V, C>) -> Self {
        Map { slot }
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
        self.slot.insert(key, value)
    }

    /// Removes a key and returns the value it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.slot.remove(key)
    }

    /// The entry of a key, for reading and inserting.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V, C> {
        Entry { slot: &mut self.slot, key }
    }

    /// Changes the value of a key, which `init` makes first if there is none: the fastest way to do so.
    #[inline]
    pub fn update<R>(
        &mut self,
        key: K,
        init: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        let hash = self.slot.hash(&key);
        self.slot.table().update(hash, key, init, change)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.slot.whole().decoded()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies of all keys and values, in arbitrary order.
    pub fn iter(&self) -> std::vec::IntoIter<(K, V)> {
        self.slot.entries().into_iter()
    }

    /// Copies of all keys, in arbitrary order.
    pub fn keys(&self) -> std::vec::IntoIter<K> {
        self.slot.keys().into_iter()
    }

    /// Copies of all values, in arbitrary order.
    pub fn values(&self) -> impl Iterator<Item = V> + use<K, V, C> {
        self.iter().map(|(_, value)| value)
    }

    /// Calls `visit` with each key and value, in place.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) {
        self.slot.whole().iter().for_each(|(key, value)| visit(key, value));
    }

    /// Calls `change` with each key and value: all of them count as changed.
    pub fn for_each_mut(&mut self, change: impl FnMut(&K, &mut V)) {
        self.slot.table().for_each_mut(change);
    }

    /// Removes every key for which `keep` returns `false`.
    ///
    /// Values are only read here, so those that stay count as unchanged.
    pub fn retain(&mut self, keep: impl FnMut(&K, &V) -> bool) {
        self.slot.table().retain(keep);
    }

    /// Removes all keys and returns them with their values.
    pub fn drain(&mut self) -> std::vec::IntoIter<(K, V)> {
        self.slot.drain().into_iter()
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.retain(|_, _| false);
    }
}

impl<K: Data + Eq, V: Plain, C: Codec<V>> Extend<(K, V)> for Map<K, V, C> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

/// The entry of a key in a [`Map`] or an [`OrderedMap`](super::OrderedMap).
pub struct Entry<'a, K: Data + Eq, V: Plain, C: Codec<V> = Postcard> {
    pub(super) slot: &'a mut Slot<K, V, C>,
    pub(super) key: K,
}

impl<'a, K: Data + Eq, V: Plain, C: Codec<V>> Entry<'a, K, V, C> {
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
        self.slot.get_or_insert_with(self.key, init)
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
        if let Some(mut value) = self.slot.get_mut(&self.key) {
            change(&mut value);
        }
        self
    }
}
