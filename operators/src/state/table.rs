//! Table: an open-addressing hash table for the keys of one partition.
//!
//! The caller provides the hash, which routing has already computed once per record. Each slot has one
//! control byte, kept separately: occupied, dirty, and a tag of six bits; a probe reads eight of them at
//! once. Partition, tag and bucket come from disjoint bits of the hash (see [`crate::hash`]).
//!
//! INVARIANT: the bucket is the top of the lower 32 bits, so slots stand nearly in the order of those
//! bits, whatever the capacity. A table that grows, a delta sealed from it and a replica that folds
//! the delta all run through memory in the same order.
//!
//! SUBTLE: as a consequence, keys that are inserted in that order crowd at the front of a table that is too
//! small for them. A table therefore also grows when an entry would be too far from its bucket.
//!
//! Removal shifts later entries back (Knuth, The Art of Computer Programming 3, 6.4, algorithm R)
//! and leaves no tombstones; 32 bits of each hash are kept in what is padding for most keys, so that
//! neither shifting nor growing needs a hash of a key.

use std::mem;

/// Control byte of an occupied slot.
const OCCUPIED: u8 = 0x80;
/// Set while the slot's key has changed since the last seal.
const DIRTY: u8 = 0x40;
const EACH: u64 = 0x0101_0101_0101_0101;
const GROUP: usize = 8;
const CAPACITY_MIN: usize = 16;
/// An entry further than this from its bucket makes a table grow that is at least an eighth full.
const DISPLACEMENT_MAX: usize = 128;

/// A slot: free, or a key with its value.
#[derive(Clone, Debug, Default)]
enum Slot<K, V> {
    #[default]
    Free,
    /// A key that is known to be absent: it hides what a replica holds, and what is to be sealed as
    /// removed.
    Ghost {
        bits: u32,
        key: K,
    },
    Full {
        bits: u32,
        key: K,
        value: V,
    },
}

impl<K, V> Slot<K, V> {
    #[inline]
    fn bits(&self) -> u32 {
        match self {
            Slot::Free => 0,
            Slot::Ghost { bits, .. } | Slot::Full { bits, .. } => *bits,
        }
    }
}

/// A hash table for the keys of one partition, whose caller knows each key's hash.
///
/// Equal keys must have equal hashes; otherwise a key may not be found.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    /// One byte per slot, and the first group once more at the end.
    control: Vec<u8>,
    slots: Vec<Slot<K, V>>,
    occupied: usize,
    ghosts: usize,
    /// 32 minus the base-2 logarithm of the capacity.
    shift: u32,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table { control: Vec::new(), slots: Vec::new(), occupied: 0, ghosts: 0, shift: 32 }
    }
}

/// A slot's position: valid until the next insertion or removal.
pub(super) type Position = usize;

#[inline]
fn tag_of(hash: u64) -> u8 {
    OCCUPIED | ((hash >> 32) as u8 & 0x3f)
}

impl<K: Eq, V> Table<K, V> {
    /// Makes an empty table, which allocates nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty table with room for `keys`.
    pub fn with_capacity(keys: usize) -> Self {
        let mut table = Self::new();
        table.reserve(keys);
        table
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.occupied - self.ghosts
    }

    /// Returns whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the value of a key.
    #[inline]
    pub fn get(&self, hash: u64, key: &K) -> Option<&V> {
        self.value(self.find(hash, key)?)
    }

    /// Returns the value of a key, to be changed.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let position = self.find(hash, key)?;
        self.value_mut(position)
    }

    /// Returns the value of a key, made by `init` if there is none.
    #[inline]
    pub fn get_or_insert_with(&mut self, hash: u64, key: K, init: impl FnOnce() -> V) -> &mut V {
        let position = match self.find(hash, &key) {
            Some(position) => position,
            None => self.insert_new(hash, key, Some(init())),
        };
        match &mut self.slots[position] {
            Slot::Full { value, .. } => value,
            // An untracked table holds no ghosts, and a found slot is not free.
            _ => unreachable!("slot {position} is not full"),
        }
    }

    /// Sets the value of a key and returns the one it had.
    pub fn insert(&mut self, hash: u64, key: K, value: V) -> Option<V> {
        match self.find(hash, &key) {
            Some(position) => self.replace(position, Some(value)),
            None => {
                self.insert_new(hash, key, Some(value));
                None
            }
        }
    }

    /// Removes a key and returns the value it had.
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<V> {
        let position = self.find(hash, key)?;
        self.erase(position)
    }

    /// Returns keys and values, in arbitrary order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Full { key, value, .. } => Some((key, value)),
            _ => None,
        })
    }

    /// Makes room for `more` keys.
    pub fn reserve(&mut self, more: usize) {
        let wanted = (self.occupied + more) * 4 / 3 + 1;
        if wanted > self.slots.len() {
            self.resize(wanted.next_power_of_two().max(CAPACITY_MIN));
        }
    }

    /// Returns the position of a key, whether it is full or a ghost.
    #[inline]
    pub(super) fn find(&self, hash: u64, key: &K) -> Option<Position> {
        if self.slots.is_empty() {
            return None;
        }
        let (mask, bits) = (self.slots.len() - 1, hash as u32);
        let wanted = EACH * u64::from(tag_of(hash));
        let mut at = self.bucket(bits);
        loop {
            let group = self.group(at);
            // Bytes that equal the tag, apart from the dirty bit. A byte above an equal one may also be
            // set: the key decides.
            let difference = (group & !(EACH * u64::from(DIRTY))) ^ wanted;
            let mut equal = difference.wrapping_sub(EACH) & !difference & (EACH << 7);
            while equal != 0 {
                let position = (at + (equal.trailing_zeros() / 8) as usize) & mask;
                match &self.slots[position] {
                    Slot::Full { bits: b, key: k, .. } | Slot::Ghost { bits: b, key: k }
                        if *b == bits && k == key =>
                    {
                        return Some(position);
                    }
                    _ => equal &= equal - 1,
                }
            }
            if !group & (EACH << 7) != 0 {
                return None;
            }
            at = (at + GROUP) & mask;
        }
    }

    /// Inserts a key that is not there: with `None`, as a ghost.
    pub(super) fn insert_new(&mut self, hash: u64, key: K, value: Option<V>) -> Position {
        if (self.occupied + 1) * 4 > self.slots.len() * 3 {
            self.resize((self.slots.len() * 2).max(CAPACITY_MIN));
        }
        let bits = hash as u32;
        let position = loop {
            let (position, displacement) = self.free_position(bits);
            if displacement > DISPLACEMENT_MAX && self.occupied * 8 > self.slots.len() {
                self.resize(self.slots.len() * 2);
                continue;
            }
            break position;
        };
        self.occupied += 1;
        self.slots[position] = match value {
            Some(value) => Slot::Full { bits, key, value },
            None => {
                self.ghosts += 1;
                Slot::Ghost { bits, key }
            }
        };
        self.set_control(position, tag_of(hash));
        position
    }

    #[inline]
    fn bucket(&self, bits: u32) -> usize {
        (u64::from(bits) >> self.shift) as usize
    }

    #[inline]
    fn group(&self, at: usize) -> u64 {
        let bytes = &self.control[at..at + GROUP];
        u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ])
    }

    /// Returns the first free position from the bucket on, and how far it is.
    #[inline]
    fn free_position(&self, bits: u32) -> (Position, usize) {
        let mask = self.slots.len() - 1;
        let (mut at, mut distance) = (self.bucket(bits), 0);
        loop {
            let free = !self.group(at) & (EACH << 7);
            if free != 0 {
                let step = (free.trailing_zeros() / 8) as usize;
                return ((at + step) & mask, distance + step);
            }
            at = (at + GROUP) & mask;
            distance += GROUP;
        }
    }

    #[inline]
    fn set_control(&mut self, position: Position, byte: u8) {
        self.control[position] = byte;
        if position < GROUP {
            let mirror = self.slots.len() + position;
            self.control[mirror] = byte;
        }
    }

    #[cold]
    fn resize(&mut self, capacity: usize) {
        assert!(capacity.is_power_of_two() && capacity <= 1 << 32, "capacity {capacity}");
        let slots = mem::take(&mut self.slots);
        let control = mem::take(&mut self.control);
        self.slots.resize_with(capacity, || Slot::Free);
        self.control = vec![0; capacity + GROUP];
        self.shift = 32 - capacity.trailing_zeros();
        for (slot, byte) in slots.into_iter().zip(control) {
            if byte & OCCUPIED != 0 {
                let (position, _) = self.free_position(slot.bits());
                self.slots[position] = slot;
                self.set_control(position, byte);
            }
        }
    }

    /// Frees a slot and shifts back what stood behind it. Returns the value, if it was no ghost.
    pub(super) fn erase(&mut self, position: Position) -> Option<V> {
        let mask = self.slots.len() - 1;
        let erased = mem::take(&mut self.slots[position]);
        let (mut hole, mut next) = (position, position);
        loop {
            next = (next + 1) & mask;
            let byte = self.control[next];
            if byte & OCCUPIED == 0 {
                break;
            }
            // An entry may move to the hole if that is not before its bucket, going round.
            let bucket = self.bucket(self.slots[next].bits());
            if (next.wrapping_sub(bucket) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.slots[hole] = mem::take(&mut self.slots[next]);
                self.set_control(hole, byte);
                hole = next;
            }
        }
        self.set_control(hole, 0);
        self.occupied -= 1;
        match erased {
            Slot::Full { value, .. } => Some(value),
            Slot::Ghost { .. } => {
                self.ghosts -= 1;
                None
            }
            Slot::Free => unreachable!("slot {position} was free"),
        }
    }

    /// Sets the value of a slot, `None` for a ghost, and returns the one it had.
    pub(super) fn replace(&mut self, position: Position, value: Option<V>) -> Option<V> {
        let slot = &mut self.slots[position];
        let (bits, key, before) = match mem::take(slot) {
            Slot::Full { bits, key, value } => (bits, key, Some(value)),
            Slot::Ghost { bits, key } => (bits, key, None),
            Slot::Free => unreachable!("slot {position} is free"),
        };
        self.ghosts -= usize::from(before.is_none());
        self.ghosts += usize::from(value.is_none());
        *slot = match value {
            Some(value) => Slot::Full { bits, key, value },
            None => Slot::Ghost { bits, key },
        };
        before
    }

    /// Returns the key of an occupied slot.
    #[inline]
    pub(super) fn key(&self, position: Position) -> Option<&K> {
        match &self.slots[position] {
            Slot::Full { key, .. } | Slot::Ghost { key, .. } => Some(key),
            Slot::Free => None,
        }
    }

    /// Returns the value of a slot, unless it is a ghost.
    #[inline]
    pub(super) fn value(&self, position: Position) -> Option<&V> {
        match &self.slots[position] {
            Slot::Full { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Returns the value of a slot, unless it is a ghost.
    #[inline]
    pub(super) fn value_mut(&mut self, position: Position) -> Option<&mut V> {
        match &mut self.slots[position] {
            Slot::Full { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Returns the number of slots: positions are below it.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Calls `change` with the key and value of a slot, unless it is a ghost.
    pub(super) fn change(&mut self, position: Position, change: impl FnOnce(&K, &mut V)) {
        if let Slot::Full { key, value, .. } = &mut self.slots[position] {
            change(key, value);
        }
    }

    /// Returns whether the slot is marked dirty.
    #[inline]
    pub(super) fn is_dirty(&self, position: Position) -> bool {
        self.control[position] & DIRTY != 0
    }

    /// Marks the slot dirty, or clean.
    #[inline]
    pub(super) fn mark(&mut self, position: Position, dirty: bool) {
        let byte = self.control[position] & !DIRTY;
        self.set_control(position, if dirty { byte | DIRTY } else { byte });
    }

    /// Calls `visit` with the position of every dirty slot, in order, until it fails.
    #[inline]
    pub(super) fn try_each_dirty<E>(
        &self,
        mut visit: impl FnMut(Position) -> Result<(), E>,
    ) -> Result<(), E> {
        for at in (0..self.slots.len()).step_by(GROUP) {
            let mut dirty = self.group(at) & (EACH * u64::from(DIRTY));
            while dirty != 0 {
                visit(at + (dirty.trailing_zeros() / 8) as usize)?;
                dirty &= dirty - 1;
            }
        }
        Ok(())
    }

    /// Marks every slot clean.
    pub(super) fn clean(&mut self) {
        self.control.iter_mut().for_each(|byte| *byte &= !DIRTY);
    }

    /// Returns the value of an occupied slot, made by `init` if it is a ghost.
    #[inline]
    pub(super) fn value_or_insert_with(
        &mut self,
        position: Position,
        init: impl FnOnce() -> V,
    ) -> &mut V {
        if let Slot::Ghost { .. } = self.slots[position] {
            self.replace(position, Some(init()));
        }
        match &mut self.slots[position] {
            Slot::Full { value, .. } => value,
            _ => unreachable!("slot {position} is not full"),
        }
    }

    /// Returns the positions of the entries whose 32 bits of hash are in `from..to`.
    ///
    /// Which entries these are does not depend on where they stand. So a caller that goes through all of
    /// them in steps misses none, even if the table grows and entries move between two steps.
    pub(super) fn positions_between(&self, from: u64, to: u64) -> Vec<Position> {
        let mut positions = Vec::new();
        if self.slots.is_empty() || from >= to {
            return positions;
        }
        let mask = self.slots.len() - 1;
        let last_bucket = ((to - 1) >> self.shift) as usize;
        let mut at = (from >> self.shift) as usize;
        let mut left = self.slots.len();
        // An entry stands at its bucket or behind, with no free slot between.
        while left > 0 && (at <= last_bucket || self.control[at & mask] & OCCUPIED != 0) {
            let position = at & mask;
            let is_occupied = self.control[position] & OCCUPIED != 0;
            if is_occupied && (from..to).contains(&u64::from(self.slots[position].bits())) {
                positions.push(position);
            }
            at += 1;
            left -= 1;
        }
        positions
    }

    /// Erases the ghosts among ascending positions.
    pub(super) fn erase_ghosts(&mut self, positions: &[Position]) {
        // Erasing shifts only later entries, so going down keeps the remaining positions valid.
        for &position in positions.iter().rev() {
            if matches!(self.slots[position], Slot::Ghost { .. }) {
                self.erase(position);
            }
        }
        // A cluster that wraps round the end is the exception: then every slot is checked.
        self.erase_clean_ghosts();
    }

    /// Erases every ghost that is not dirty.
    pub(super) fn erase_clean_ghosts(&mut self) {
        let mut position = 0;
        while position < self.slots.len() && self.ghosts > 0 {
            // An entry that is shifted into this position must be checked too. One that wraps round to
            // the end is checked there.
            if matches!(self.slots[position], Slot::Ghost { .. }) && !self.is_dirty(position) {
                self.erase(position);
            } else {
                position += 1;
            }
        }
    }

    /// Returns roughly how many bytes the table occupies, without what keys and values own elsewhere.
    pub fn memory_bytes(&self) -> usize {
        self.slots.capacity() * mem::size_of::<Slot<K, V>>() + self.control.capacity()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::hash::KeyHasher;

    #[test]
    fn a_slot_of_two_words_takes_three() {
        assert_eq!(mem::size_of::<Slot<u64, u64>>(), 24);
    }

    /// Few distinct hashes, so that clusters are long and wrap round the end.
    fn crowded(key: u16) -> u64 {
        match key % 4 {
            0 => u64::MAX,
            1 => 0xffff_fff0 | u64::from(key) << 40,
            2 => KeyHasher::Rapid.hash(&key.to_le_bytes()),
            _ => u64::from(key % 32) << 27,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn it_does_what_an_ordered_map_does(steps in proptest::collection::vec((0_u16..400, 0_u8..3, any::<u32>()), 0..1500)) {
            let mut table = Table::new();
            let mut model = BTreeMap::new();
            for (key, what, value) in steps {
                let hash = crowded(key);
                match what {
                    0 => prop_assert_eq!(table.remove(hash, &key), model.remove(&key)),
                    1 => prop_assert_eq!(table.insert(hash, key, value), model.insert(key, value)),
                    _ => {
                        *table.get_or_insert_with(hash, key, || 5) ^= value;
                        *model.entry(key).or_insert(5) ^= value;
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.get(hash, &key), model.get(&key));
                prop_assert_eq!(table.get_mut(hash, &key), model.get_mut(&key));
            }
            for key in 0..400 {
                prop_assert_eq!(table.get(crowded(key), &key), model.get(&key));
            }
            let read: BTreeMap<_, _> = table.iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(read, model);
        }
    }

    #[test]
    fn keys_that_come_in_the_order_of_their_hashes_do_not_crowd() {
        let mut hashes: Vec<u64> =
            (0..50_000_u64).map(|key| KeyHasher::Rapid.hash(&key.to_le_bytes())).collect();
        hashes.sort_by_key(|hash| *hash as u32);
        let mut table = Table::new();
        for &hash in &hashes {
            table.insert(hash, hash, ());
            let (_, displacement) = table.free_position(hash as u32);
            assert!(
                displacement <= 2 * DISPLACEMENT_MAX || table.occupied * 8 <= table.slots.len() + 8
            );
        }
        assert!(hashes.iter().all(|hash| table.get(*hash, hash).is_some()));
        assert!(table.slots.len() <= 50_000 * 8 * 2);
    }

    #[test]
    fn equal_hashes_do_not_make_a_table_grow_without_end() {
        let mut table = Table::new();
        for key in 0..2_000_u32 {
            table.insert(7, key, key);
        }
        assert!(table.slots.len() <= 2_000 * 16, "{}", table.slots.len());
        assert!((0..2_000).all(|key| table.get(7, &key) == Some(&key)));
    }
}
