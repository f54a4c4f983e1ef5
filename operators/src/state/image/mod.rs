//! Replica base: encoded entries in one arena, with an index by the hash of the encoded key.
//!
//! A key is looked up, overwritten or removed without decoding anything. The index has the bucket
//! order of [`Table`](super::Table), so that a delta sealed from a table folds almost sequentially.
//! Hashes are always [`KeyHasher::Rapid`], whatever the operator routes by.
//!
//! INVARIANT: keys are distinct, and less than half of the arena is dead after every fold.

use std::mem;

use crate::codec::push_varint;
use crate::hash::KeyHasher;
use crate::ids::Epoch;
use crate::snapshot::{BaseRef, BaseWriter, Entry, SnapshotError, Subject, push_bytes, take_bytes};

const CAPACITY_MIN: usize = 16;
/// An entry further than this from its bucket makes an index grow that is at least an eighth full.
const DISPLACEMENT_MAX: usize = 128;
/// Entries begin at multiples of a unit, so that 32 bits address the arena. It has this many bits at first,
/// and grows with the arena.
const UNIT_BITS: u32 = 2;
/// How many units 32 bits address.
const UNITS_MAX: u64 = u32::MAX as u64 - 1;
/// The most keys that a base may have: more do not fit an index by 32 bits of hashes.
pub const REPLICA_KEYS_MAX: u64 = 3 << 30;
/// Fewer dead bytes than this are not worth a compaction.
const DEAD_BYTES_MIN: usize = 4096;

/// Where an entry stands: 32 bits of its hash, and 1 more than its offset in units.
/// Zero stands for a free bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    bits: u32,
    at: u32,
}

/// The encoded entries of one partition at one epoch, indexed by key.
#[derive(Clone, Debug)]
pub struct ReplicaBase {
    subject: Subject,
    epoch: Option<Epoch>,
    arena: Vec<u8>,
    /// The base-2 logarithm of the unit at whose multiples entries begin.
    unit_bits: u32,
    /// How many units can be addressed: [`UNITS_MAX`], but for tests.
    units_max: u64,
    dead_bytes: usize,
    index: Vec<Bucket>,
    len: usize,
    /// 32 minus the base-2 logarithm of the index's capacity.
    shift: u32,
}

/// Compares keys; short ones, the most common, without a call.
#[inline]
fn same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    match (left.first_chunk::<8>(), right.first_chunk::<8>()) {
        (Some(a), Some(b)) => {
            u64::from_le_bytes(*a) == u64::from_le_bytes(*b) && left[8..] == right[8..]
        }
        _ => left.iter().zip(right).all(|(a, b)| a == b),
    }
}

/// Reads the entry at the start of `bytes`: key, value, and its length without padding.
#[inline]
fn read(bytes: &[u8]) -> (&[u8], &[u8], usize) {
    let parts = take_bytes(bytes)
        .and_then(|(key, rest)| take_bytes(rest).map(|(value, rest)| (key, value, rest)));
    match parts {
        Some((key, value, rest)) => (key, value, bytes.len() - rest.len()),
        // Only `append` writes to the arena.
        None => unreachable!("an arena holds a malformed entry"),
    }
}

impl ReplicaBase {
    /// Makes the base from which every chain of deltas starts: no entries, before any epoch.
    pub fn new(subject: Subject) -> Self {
        ReplicaBase {
            subject,
            epoch: None,
            arena: Vec::new(),
            unit_bits: UNIT_BITS,
            units_max: UNITS_MAX,
            dead_bytes: 0,
            index: Vec::new(),
            len: 0,
            shift: 32,
        }
    }

    /// Makes the base of a copy that is being filled: without entries, though its partition may have
    /// had some at `epoch`.
    pub(super) fn beginning_at(subject: Subject, epoch: Option<Epoch>) -> Self {
        ReplicaBase { epoch, ..ReplicaBase::new(subject) }
    }

    /// Returns what it is the state of.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// Returns the epoch of the last delta in it; `None` before the first.
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the encoded value of an encoded key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.get_hashed(KeyHasher::Rapid.hash(key), key)
    }

    /// Returns the encoded value of an encoded key, whose [`KeyHasher::Rapid`] hash is known.
    #[inline]
    pub(super) fn get_hashed(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
        let place = self.find(hash as u32, key)?;
        let (_, value, _) = read(&self.arena[self.offset(place)..]);
        Some(value)
    }

    /// Returns encoded keys and values, in arbitrary order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.places()).filter_map(|place| self.at(place))
    }

    /// Returns the number of places, free ones included.
    pub(super) fn places(&self) -> usize {
        self.index.len()
    }

    /// Returns the entry at a place, unless the place is free.
    #[inline]
    pub(super) fn at(&self, place: usize) -> Option<(&[u8], &[u8])> {
        if self.index[place].at == 0 {
            return None;
        }
        let (key, value, _) = read(&self.arena[self.offset(place)..]);
        Some((key, value))
    }

    /// Returns the bytes of the encoded entries in it.
    pub fn encoded_bytes(&self) -> usize {
        self.arena.len().saturating_sub(self.dead_bytes)
    }

    /// Returns roughly how many bytes it occupies.
    pub fn memory_bytes(&self) -> usize {
        self.arena.capacity() + self.index.capacity() * mem::size_of::<Bucket>()
    }

    /// Applies one delta's entries, all of them or none, after which the base stands at `epoch`.
    pub(super) fn apply<'a, I>(
        &mut self,
        epoch: Epoch,
        bytes: usize,
        entries: I,
    ) -> Result<(), SnapshotError>
    where
        I: Iterator<Item = Result<Entry<'a>, SnapshotError>> + Clone,
    {
        assert!(self.epoch < Some(epoch), "epoch {epoch} folded into {:?}", self.epoch);
        let mut puts = 0;
        for entry in entries.clone() {
            puts += usize::from(entry?.value.is_some());
        }
        self.address(bytes as u64, puts as u64)?;
        if puts > self.len {
            // Entries arrive in the order of the index, and would crowd in one that is too small.
            self.reserve(puts);
        }
        for entry in entries {
            let entry = entry?;
            match entry.value {
                Some(value) => self.put(entry.key, value),
                None => self.remove(entry.key),
            }
        }
        self.epoch = Some(epoch);
        self.compact_if_dead();
        Ok(())
    }

    /// Gives some keys other values, or none; the epoch stays.
    ///
    /// For another form of the same state. On an error nothing has changed.
    pub(super) fn rewrite<'a, I>(&mut self, entries: I) -> Result<(), SnapshotError>
    where
        I: Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    {
        let (mut bytes, mut puts) = (0, 0);
        for (key, value) in entries.clone() {
            if let Some(value) = value {
                // Both lengths are varints.
                bytes += (key.len() + value.len() + 20) as u64;
                puts += 1;
            }
        }
        self.address(bytes, puts)?;
        // Removals make room first, so that old and new are not both in the arena for long.
        entries.clone().for_each(|(key, _)| self.remove(key));
        self.compact_if_dead();
        for (key, value) in entries {
            if let Some(value) = value {
                self.put(key, value);
            }
        }
        let wanted = (self.len * 2).next_power_of_two().max(CAPACITY_MIN);
        if wanted * 4 < self.index.len() {
            self.resize(wanted);
        }
        Ok(())
    }

    /// Makes 32 bits address what is there and `puts` entries of `bytes` bytes more. On an error, which
    /// says that there would be too many keys, nothing has changed.
    fn address(&mut self, bytes: u64, puts: u64) -> Result<(), SnapshotError> {
        let keys = (self.len as u64).saturating_add(puts);
        if keys > REPLICA_KEYS_MAX {
            return Err(SnapshotError::Full { keys, limit_keys: REPLICA_KEYS_MAX });
        }
        let bytes = self.arena.len() as u64 + bytes;
        // Each entry grows by less than a unit.
        let is_enough = |unit_bits: u32, entries: u64| {
            bytes.saturating_add(entries << unit_bits) <= self.units_max << unit_bits
        };
        if is_enough(self.unit_bits, puts) {
            return Ok(());
        }
        let mut unit_bits = self.unit_bits + 1;
        // Existing entries grow as well. There are fewer entries than units, so some unit is large enough.
        while !is_enough(unit_bits, keys) && unit_bits < 30 {
            unit_bits += 1;
        }
        self.compact_to(unit_bits);
        Ok(())
    }

    /// How much of the arena an entry of `length` bytes takes.
    #[inline]
    fn padded(&self, length: usize) -> usize {
        length.next_multiple_of(1 << self.unit_bits)
    }

    /// Holds the invariant that less than half of the arena is dead.
    fn compact_if_dead(&mut self) {
        if self.dead_bytes > DEAD_BYTES_MIN && self.dead_bytes * 2 > self.arena.len() {
            self.compact();
        }
    }

    #[inline]
    fn offset(&self, place: usize) -> usize {
        (self.index[place].at as usize - 1) << self.unit_bits
    }

    #[inline]
    fn bucket(&self, bits: u32) -> usize {
        (u64::from(bits) >> self.shift) as usize
    }

    #[inline]
    fn find(&self, bits: u32, key: &[u8]) -> Option<usize> {
        if self.index.is_empty() {
            return None;
        }
        let mask = self.index.len() - 1;
        let mut place = self.bucket(bits);
        loop {
            let Bucket { bits: there, at } = self.index[place];
            if at == 0 {
                return None;
            }
            if there == bits {
                let entry = &self.arena[(at as usize - 1) << self.unit_bits..];
                if take_bytes(entry).is_some_and(|(found, _)| same(found, key)) {
                    return Some(place);
                }
            }
            place = (place + 1) & mask;
        }
    }

    #[inline]
    fn put(&mut self, key: &[u8], value: &[u8]) {
        let bits = KeyHasher::Rapid.hash(key) as u32;
        if let Some(place) = self.find(bits, key) {
            let offset = self.offset(place);
            let (_, before, length) = read(&self.arena[offset..]);
            if before.len() == value.len() {
                let end = offset + length;
                self.arena[end - value.len()..end].copy_from_slice(value);
            } else {
                self.dead_bytes += self.padded(length);
                self.index[place].at = self.append(key, value);
            }
            return;
        }
        let at = self.append(key, value);
        self.insert(Bucket { bits, at });
    }

    fn append(&mut self, key: &[u8], value: &[u8]) -> u32 {
        let offset = self.arena.len();
        push_bytes(key, &mut self.arena);
        push_varint(value.len() as u64, &mut self.arena);
        self.arena.extend_from_slice(value);
        self.arena.resize(self.padded(self.arena.len()), 0);
        ((offset >> self.unit_bits) + 1) as u32
    }

    fn insert(&mut self, new: Bucket) {
        if (self.len + 1) * 4 > self.index.len() * 3 {
            self.resize((self.index.len() * 2).max(CAPACITY_MIN));
        }
        let place = loop {
            let (place, displacement) = self.free_place(new.bits);
            if displacement > DISPLACEMENT_MAX && self.len * 8 > self.index.len() {
                self.resize(self.index.len() * 2);
                continue;
            }
            break place;
        };
        self.index[place] = new;
        self.len += 1;
    }

    #[inline]
    fn free_place(&self, bits: u32) -> (usize, usize) {
        let mask = self.index.len() - 1;
        let (mut place, mut distance) = (self.bucket(bits), 0);
        while self.index[place].at != 0 {
            place = (place + 1) & mask;
            distance += 1;
        }
        (place, distance)
    }

    fn reserve(&mut self, more: usize) {
        let wanted = ((self.len + more) * 4 / 3 + 1).next_power_of_two().max(CAPACITY_MIN);
        if wanted > self.index.len() {
            self.resize(wanted);
        }
    }

    fn resize(&mut self, capacity: usize) {
        assert!(capacity.is_power_of_two() && capacity <= 1 << 32, "capacity {capacity}");
        let index = mem::replace(&mut self.index, vec![Bucket::default(); capacity]);
        self.shift = 32 - capacity.trailing_zeros();
        for place in index.into_iter().filter(|place| place.at != 0) {
            let (free, _) = self.free_place(place.bits);
            self.index[free] = place;
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let Some(mut hole) = self.find(KeyHasher::Rapid.hash(key) as u32, key) else {
            return;
        };
        let (_, _, length) = read(&self.arena[self.offset(hole)..]);
        self.dead_bytes += self.padded(length);
        self.len -= 1;
        let mask = self.index.len() - 1;
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let place = self.index[next];
            if place.at == 0 {
                break;
            }
            let bucket = self.bucket(place.bits);
            if (next.wrapping_sub(bucket) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.index[hole] = place;
                hole = next;
            }
        }
        self.index[hole] = Bucket::default();
    }

    /// Rewrites the live entries in the order of the index.
    fn compact(&mut self) {
        self.compact_to(self.unit_bits);
    }

    /// Rewrites the live entries at multiples of another unit.
    fn compact_to(&mut self, unit_bits: u32) {
        let mut arena = Vec::with_capacity(self.arena.len() - self.dead_bytes);
        for place in self.index.iter_mut().filter(|place| place.at != 0) {
            let entry = &self.arena[(place.at as usize - 1) << self.unit_bits..];
            let (_, _, length) = read(entry);
            place.at = ((arena.len() >> unit_bits) + 1) as u32;
            arena.extend_from_slice(&entry[..length]);
            arena.resize(arena.len().next_multiple_of(1 << unit_bits), 0);
        }
        self.arena = arena;
        self.unit_bits = unit_bits;
        self.dead_bytes = 0;
    }

    /// Appends the entries as a base in ascending order of their keys, and returns its digest.
    pub fn to_base(&self, bytes: &mut Vec<u8>) -> [u8; 20] {
        let mut entries: Vec<_> = self.iter().collect();
        entries.sort_unstable();
        let mut writer = BaseWriter::new(bytes, self.subject, self.epoch);
        entries.into_iter().for_each(|(key, value)| writer.put(key, value));
        writer.finish()
    }

    /// Reads a base that must be of `subject`; its digest is checked.
    pub fn from_base(subject: Subject, bytes: &[u8]) -> Result<Self, SnapshotError> {
        let base = BaseRef::parse(bytes)?;
        let header = base.header();
        if header.subject != subject {
            return Err(SnapshotError::Subject { expected: subject, actual: header.subject });
        }
        let mut image = ReplicaBase::new(subject);
        image.address(header.payload_bytes, header.entries)?;
        for (index, entry) in base.entries().enumerate() {
            let entry = entry?;
            let value = entry.value.ok_or(SnapshotError::Entry { index: index as u64 })?;
            image.put(entry.key, value);
        }
        image.epoch = header.epoch;
        Ok(image)
    }
}

#[cfg(test)]
mod tests;
