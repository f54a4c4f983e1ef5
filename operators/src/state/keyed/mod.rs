//! Keyed table: the live state of one partition, which knows what changed and how to undo it.
//!
//! - The first change of a key after a seal marks its slot and keeps what the key was before; every
//!   further change of it costs one test of a bit.
//! - A seal writes the marked keys as one delta and files what they were before under its epoch.
//! - A rewind undoes, newest first, to exactly the state at an epoch: its cost is what changed since.
//! - A replica may be attached: its keys are decoded when first touched, or in the background. A key
//!   that came from the replica counts as unchanged.
//!
//! INVARIANT: a slot is dirty if and only if its key stands once in the open undo list.
//! INVARIANT: while a replica is attached, a key that is absent but may be in the replica is a
//! ghost.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

use super::image::ReplicaBase;
use super::table::{Position, Table};
use crate::codec::{Codec, CodecError, Postcard, fingerprint_of};
use crate::hash::KeyHasher;
use crate::ids::Epoch;
use crate::snapshot::{DeltaWriter, Subject};

/// The position that means that [`KeyedTable::touch_some`] has gone through all keys.
pub const FILLED: u64 = 1 << 32;

/// How many emptied undo lists are kept for the next intervals.
const SPARE_LISTS_MAX: usize = 2;

/// Keyed state could not be encoded, opened or rewound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A key or value could not be encoded or decoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A seal names an epoch that is not after the one before.
    #[error("epoch {epoch} is sealed after epoch {sealed}")]
    Sealed {
        /// The epoch that was to be sealed.
        epoch: Epoch,
        /// The epoch sealed last.
        sealed: Epoch,
    },
    /// A rewind asks for a state whose undo lists are gone: the caller pruned what was not recorded.
    #[error("state at {wanted:?} is gone: undo lists are pruned through {pruned:?}")]
    Pruned {
        /// The epoch asked for.
        wanted: Option<Epoch>,
        /// The oldest epoch to which a rewind is possible.
        pruned: Option<Epoch>,
    },
    /// The replica's entries are of other types or in another encoding.
    #[error("a replica has the codec fingerprint {actual:08x}, and the state {expected:08x}")]
    Fingerprint {
        /// The fingerprint of the table's types and codec.
        expected: u32,
        /// The fingerprint of the replica.
        actual: u32,
    },
}

/// What a rewind did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewound {
    /// How many changes were undone: a key counts once for each interval in which it changed.
    pub keys: usize,
    /// How many sealed epochs with changes were undone.
    pub epochs: usize,
}

/// What keys were before they first changed in an interval.
type Undo<K, V> = Vec<(K, Option<V>)>;

/// The changes that one sealed epoch made.
#[derive(Debug)]
struct Interval<K, V> {
    epoch: Epoch,
    previous: Option<Epoch>,
    undo: Undo<K, V>,
}

/// A replica that is being decoded.
#[derive(Debug)]
struct Attached {
    base: Arc<ReplicaBase>,
    /// Places before this one are decoded.
    decoded: usize,
}

/// The live state of one partition of one operator.
///
/// `C` encodes keys and `W` values, which is the same codec unless said otherwise. Hashes are those of
/// [`hash_key`] with the codec of the keys and the same hasher.
///
/// # Panics
///
/// Reading a key panics if an attached replica's entry does not decode: its bytes and its types were
/// checked before, so the codec refuses what it wrote itself.
#[derive(Debug)]
pub struct KeyedTable<K, V, C = Postcard, W = C> {
    table: Table<K, V>,
    open: Undo<K, V>,
    attached: Option<Attached>,
    hasher: KeyHasher,
    scratch: Vec<u8>,
    sealed: VecDeque<Interval<K, V>>,
    spare: Vec<Undo<K, V>>,
    /// The epoch of the last delta.
    last: Option<Epoch>,
    /// The epoch of the last seal, with changes or without.
    through: Option<Epoch>,
    /// The oldest epoch to which a rewind is possible.
    floor: Option<Epoch>,
    codecs: PhantomData<fn() -> (C, W)>,
}

/// Returns the hash of a key, by way of its encoding in `scratch`.
#[inline]
pub fn hash_key<K, C: Codec<K>>(
    hasher: KeyHasher,
    key: &K,
    scratch: &mut Vec<u8>,
) -> Result<u64, CodecError> {
    scratch.clear();
    C::encode(key, scratch)?;
    Ok(hasher.hash(scratch))
}

#[cold]
fn undecodable(error: &CodecError) -> ! {
    panic!("an attached replica holds an entry that its codec refuses: {error}")
}

impl<K, V, C, W> KeyedTable<K, V, C, W>
where
    K: Clone + Eq + 'static,
    V: Clone + 'static,
    C: Codec<K>,
    W: Codec<V>,
{
    /// Makes empty state, before any epoch.
    pub fn new(hasher: KeyHasher) -> Self {
        KeyedTable {
            table: Table::new(),
            open: Vec::new(),
            attached: None,
            hasher,
            scratch: Vec::new(),
            sealed: VecDeque::new(),
            spare: Vec::new(),
            last: None,
            through: None,
            floor: None,
            codecs: PhantomData,
        }
    }

    /// Returns the hash of a key.
    pub fn hash_of(&mut self, key: &K) -> Result<u64, CodecError> {
        hash_key::<K, C>(self.hasher, key, &mut self.scratch)
    }

    /// Changes the value of a key, made by `init` first if there is none.
    #[inline]
    pub fn update<R>(
        &mut self,
        hash: u64,
        key: K,
        init: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        let position = match self.table.find(hash, &key) {
            Some(position) => self.touched(position),
            None => self.admit(hash, key),
        };
        change(self.table.value_or_insert_with(position, init))
    }

    /// Returns the value of a key.
    #[inline]
    pub fn get(&mut self, hash: u64, key: &K) -> Option<&V> {
        let position = self.locate(hash, key)?;
        self.table.value(position)
    }

    /// Returns the value of a key, if it is decoded.
    #[inline]
    pub fn peek(&self, hash: u64, key: &K) -> Option<&V> {
        self.table.value(self.table.find(hash, key)?)
    }

    /// Returns a copy of the value of a key, and leaves the table as it is.
    pub fn read(&self, hash: u64, key: &K) -> Option<V> {
        if let Some(position) = self.table.find(hash, key) {
            return self.table.value(position).cloned();
        }
        let attached = self.attached.as_ref()?;
        let mut encoded = Vec::new();
        let rapid = match hash_key::<K, C>(KeyHasher::Rapid, key, &mut encoded) {
            Ok(rapid) => rapid,
            Err(error) => panic!("a key that was hashed cannot be encoded again: {error}"),
        };
        let bytes = attached.base.get_hashed(rapid, &encoded)?;
        Some(W::decode(bytes).unwrap_or_else(|error| undecodable(&error)))
    }

    /// Returns whether no attached replica is left to be decoded.
    #[inline]
    pub fn is_decoded(&self) -> bool {
        self.attached.is_none()
    }

    /// Returns the number of keys that are decoded.
    pub fn decoded(&self) -> usize {
        self.table.len()
    }

    /// Returns all keys and values that are decoded.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.table.iter()
    }

    /// Returns the value of a key, which `init` makes if there is none, for changing it: it counts as
    /// changed.
    #[inline]
    pub fn get_or_insert_with(&mut self, hash: u64, key: K, init: impl FnOnce() -> V) -> &mut V {
        let position = match self.table.find(hash, &key) {
            Some(position) => self.touched(position),
            None => self.admit(hash, key),
        };
        self.table.value_or_insert_with(position, init)
    }

    /// Returns the value of a key, for changing it: it counts as changed.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let position = self.locate(hash, key)?;
        self.table.value(position)?;
        self.touched(position);
        self.table.value_mut(position)
    }

    /// Sets the value of a key and returns the one it had.
    pub fn insert(&mut self, hash: u64, key: K, value: V) -> Option<V> {
        let position = match self.table.find(hash, &key) {
            Some(position) => self.touched(position),
            None => self.admit(hash, key),
        };
        self.table.replace(position, Some(value))
    }

    /// Removes a key and returns the value it had.
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<V> {
        let position = self.locate(hash, key)?;
        self.table.value(position)?;
        self.touched(position);
        self.table.replace(position, None)
    }

    /// Removes every key for which `keep` returns false. Decodes what an attached replica still holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.decode_some(usize::MAX);
        for position in 0..self.table.capacity() {
            if let (Some(key), Some(value)) = (self.table.key(position), self.table.value(position))
                && !keep(key, value)
            {
                self.touched(position);
                self.table.replace(position, None);
            }
        }
    }

    /// Calls `change` with every key and its value: all of them count as changed. Decodes what an
    /// attached replica still holds.
    pub fn for_each_mut(&mut self, mut change: impl FnMut(&K, &mut V)) {
        self.decode_some(usize::MAX);
        for position in 0..self.table.capacity() {
            if self.table.value(position).is_some() {
                self.touched(position);
                self.table.change(position, &mut change);
            }
        }
    }

    /// Calls `visit` with every key and value. Decodes what an attached replica still holds.
    pub fn for_each(&mut self, mut visit: impl FnMut(&K, &V)) {
        self.decode_some(usize::MAX);
        self.table.iter().for_each(|(key, value)| visit(key, value));
    }

    /// Returns the number of keys. Decodes what an attached replica still holds.
    pub fn len(&mut self) -> usize {
        self.decode_some(usize::MAX);
        self.table.len()
    }

    /// Returns whether there are no keys. Decodes what an attached replica still holds.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Returns the number of keys that changed since the last seal.
    pub fn dirty(&self) -> usize {
        self.open.len()
    }

    /// Returns the epoch of the last delta, the predecessor of the next.
    pub fn last(&self) -> Option<Epoch> {
        self.last
    }

    /// Returns roughly how many bytes it occupies, without what keys and values own elsewhere.
    pub fn memory_bytes(&self) -> usize {
        let undo = self.sealed.iter().map(|interval| interval.undo.capacity()).sum::<usize>();
        let spare = self.spare.iter().map(Vec::capacity).sum::<usize>();
        let entries = undo + spare + self.open.capacity();
        self.table.memory_bytes() + entries * size_of::<(K, Option<V>)>()
    }

    /// Appends what changed since the last seal to `out`, as one delta that leads to `epoch`.
    ///
    /// Returns its number of entries, or `None` when nothing changed and nothing was written. On an
    /// error `out` and the state are as before.
    pub fn seal(
        &mut self,
        epoch: Epoch,
        subject: Subject,
        out: &mut Vec<u8>,
    ) -> Result<Option<u64>, StateError> {
        if self.open.is_empty() {
            self.check_after_sealed(epoch)?;
            self.through = Some(epoch);
            return Ok(None);
        }
        self.seal_delta(epoch, subject, false, out).map(Some)
    }

    /// As [`seal`](KeyedTable::seal), at the end of a filling: writes a delta even if nothing changed. It
    /// says that a copy that has received all deltas since the filling began has every key.
    ///
    /// Call it once [`touch_some`](KeyedTable::touch_some) has gone through all keys.
    pub fn seal_filled(
        &mut self,
        epoch: Epoch,
        subject: Subject,
        out: &mut Vec<u8>,
    ) -> Result<u64, StateError> {
        self.seal_delta(epoch, subject, true, out)
    }

    fn check_after_sealed(&self, epoch: Epoch) -> Result<(), StateError> {
        match self.through.filter(|sealed| *sealed >= epoch) {
            Some(sealed) => Err(StateError::Sealed { epoch, sealed }),
            None => Ok(()),
        }
    }

    fn seal_delta(
        &mut self,
        epoch: Epoch,
        subject: Subject,
        completes: bool,
        out: &mut Vec<u8>,
    ) -> Result<u64, StateError> {
        self.check_after_sealed(epoch)?;
        let mut ghosts = Vec::new();
        let mut writer = DeltaWriter::new(out, subject, epoch, self.last);
        let table = &self.table;
        table.try_each_dirty(|position| match (table.key(position), table.value(position)) {
            (Some(key), Some(value)) => {
                writer.put(|bytes| C::encode(key, bytes), |bytes| W::encode(value, bytes))
            }
            (Some(key), None) => {
                ghosts.push(position);
                writer.remove(|bytes| C::encode(key, bytes))
            }
            (None, _) => unreachable!("slot {position} is dirty and free"),
        })?;
        if completes {
            writer.completes();
        }
        let entries = writer.finish();
        assert_eq!(entries, self.open.len() as u64, "a dirty slot stands once in the undo list");
        self.table.clean();
        if self.attached.is_none() {
            self.table.erase_ghosts(&ghosts);
        }
        let undo = std::mem::replace(&mut self.open, self.spare.pop().unwrap_or_default());
        self.sealed.push_back(Interval { epoch, previous: self.last, undo });
        self.last = Some(epoch);
        self.through = Some(epoch);
        Ok(entries)
    }

    /// Returns the epoch of the last seal, with changes or without.
    pub fn sealed(&self) -> Option<Epoch> {
        self.through
    }

    /// Counts about `keys_max` keys as changed, so that the next seal sends them, and returns from
    /// where to go on: 0 to begin with, [`FILLED`] once all keys had their turn.
    ///
    /// Keys that are added in the meantime count as changed anyway, so none is missed. Nothing is touched
    /// in state with an attached replica.
    pub fn touch_some(&mut self, from: u64, keys_max: usize) -> u64 {
        if self.attached.is_some() || from >= FILLED {
            return from;
        }
        let keys = self.table.len().max(1) as u128;
        let width = (u128::from(FILLED) * keys_max as u128).div_ceil(keys);
        let to = u64::try_from(width).unwrap_or(FILLED).saturating_add(from).min(FILLED);
        for position in self.table.positions_between(from, to) {
            self.touched(position);
        }
        to
    }

    /// Forgets how to undo what was sealed at or below `epoch`: to be called once it is recorded.
    pub fn prune(&mut self, epoch: Epoch) {
        while self.sealed.front().is_some_and(|interval| interval.epoch <= epoch) {
            if let Some(mut interval) = self.sealed.pop_front() {
                self.floor = Some(interval.epoch);
                if self.spare.len() < SPARE_LISTS_MAX {
                    interval.undo.clear();
                    self.spare.push(interval.undo);
                }
            }
        }
    }

    /// Undoes everything after `to`, including what is not sealed; `None` is before anything.
    ///
    /// Afterwards state and last epoch are exactly what they were when `to` had been sealed. If `to`
    /// was pruned nothing changes. After a codec error the state must be discarded.
    pub fn rewind(&mut self, to: Option<Epoch>) -> Result<Rewound, StateError> {
        if to < self.floor {
            return Err(StateError::Pruned { wanted: to, pruned: self.floor });
        }
        let mut rewound = Rewound::default();
        let mut open = std::mem::take(&mut self.open);
        rewound.keys += self.undo(&mut open)?;
        self.open = open;
        while self.sealed.back().is_some_and(|interval| Some(interval.epoch) > to) {
            let Some(mut interval) = self.sealed.pop_back() else { break };
            rewound.keys += self.undo(&mut interval.undo)?;
            rewound.epochs += 1;
            self.last = interval.previous;
        }
        self.through = self.through.min(to);
        Ok(rewound)
    }

    /// Attaches a replica's state at epoch `at` to empty state: it becomes the state at `at`.
    ///
    /// Nothing is decoded yet. There is no rewind below `at`.
    ///
    /// # Panics
    ///
    /// Panics if the state was used before.
    pub fn attach(&mut self, base: Arc<ReplicaBase>, at: Option<Epoch>) -> Result<(), StateError> {
        assert!(
            self.table.memory_bytes() == 0 && self.through.is_none() && self.attached.is_none(),
            "a replica is attached to state that is in use"
        );
        assert!(base.epoch() <= at, "a replica at {:?} is attached at {at:?}", base.epoch());
        let (expected, actual) = (fingerprint_of::<K, V, C, W>(), base.subject().fingerprint);
        if expected != actual {
            return Err(StateError::Fingerprint { expected, actual });
        }
        (self.last, self.through, self.floor) = (base.epoch(), at, at);
        if !base.is_empty() {
            self.attached = Some(Attached { base, decoded: 0 });
        }
        Ok(())
    }

    /// Decodes up to about `keys_max` keys of an attached replica; returns whether none are left.
    ///
    /// The replica is dropped when none are left.
    pub fn decode_some(&mut self, keys_max: usize) -> bool {
        let Some(mut attached) = self.attached.take() else {
            return true;
        };
        if attached.decoded == 0 {
            // Keys arrive in the order of the table, and would crowd in one that is too small.
            self.table.reserve(attached.base.len());
        }
        let mut keys = 0;
        while attached.decoded < attached.base.places() && keys < keys_max {
            if let Some((key_bytes, value_bytes)) = attached.base.at(attached.decoded) {
                let key = C::decode(key_bytes).unwrap_or_else(|error| undecodable(&error));
                let hash = self.hasher.hash(key_bytes);
                if self.table.find(hash, &key).is_none() {
                    let value = W::decode(value_bytes).unwrap_or_else(|error| undecodable(&error));
                    self.table.insert_new(hash, key, Some(value));
                }
                keys += 1;
            }
            attached.decoded += 1;
        }
        if attached.decoded < attached.base.places() {
            self.attached = Some(attached);
            return false;
        }
        self.table.erase_clean_ghosts();
        true
    }

    /// Marks an occupied slot and keeps what it was before, unless that is done already.
    #[inline]
    fn touched(&mut self, position: Position) -> Position {
        if !self.table.is_dirty(position) {
            self.first_touch(position);
        }
        position
    }

    #[inline]
    fn first_touch(&mut self, position: Position) {
        if let Some(key) = self.table.key(position) {
            self.open.push((key.clone(), self.table.value(position).cloned()));
            self.table.mark(position, true);
        }
    }

    /// Makes a marked slot for a key that is not in the table: a ghost, unless the replica has it.
    #[inline(never)]
    fn admit(&mut self, hash: u64, key: K) -> Position {
        if let Some(position) = self.load(hash, &key) {
            return self.touched(position);
        }
        self.open.push((key.clone(), None));
        let position = self.table.insert_new(hash, key, None);
        self.table.mark(position, true);
        position
    }

    #[inline]
    fn locate(&mut self, hash: u64, key: &K) -> Option<Position> {
        match self.table.find(hash, key) {
            Some(position) => Some(position),
            None if self.attached.is_none() => None,
            None => self.load(hash, key),
        }
    }

    /// Moves a key that is not in the table from the replica to it.
    fn load(&mut self, hash: u64, key: &K) -> Option<Position> {
        let attached = self.attached.as_ref()?;
        let rapid = match hash_key::<K, C>(KeyHasher::Rapid, key, &mut self.scratch) {
            Ok(rapid) => rapid,
            Err(error) => panic!("a key that was hashed cannot be encoded again: {error}"),
        };
        let bytes = attached.base.get_hashed(rapid, &self.scratch)?;
        let value = W::decode(bytes).unwrap_or_else(|error| undecodable(&error));
        Some(self.table.insert_new(hash, key.clone(), Some(value)))
    }

    /// Puts keys back to what they were, newest first, and empties the list.
    fn undo(&mut self, undo: &mut Undo<K, V>) -> Result<usize, StateError> {
        let keys = undo.len();
        while let Some((key, before)) = undo.pop() {
            let hash = self.hash_of(&key)?;
            match (self.table.find(hash, &key), before) {
                (Some(position), None) if self.attached.is_none() => {
                    self.table.erase(position);
                }
                (Some(position), before) => {
                    self.table.mark(position, false);
                    self.table.replace(position, before);
                }
                (None, Some(value)) => {
                    self.table.insert_new(hash, key, Some(value));
                }
                // A ghost that a seal erased.
                (None, None) => {}
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests;
