//! Slot: one partition's part of one named state, which handles of all kinds use.
//!
//! INVARIANT: a slot is used only during its partition's turn, by the closure that it was made for. At any
//! other time a change would belong to no epoch.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::ops::Deref;
use std::rc::Rc;

use crate::codec::{Codec, Postcard};
use crate::data::{Data, Plain};
use crate::error::JobError;
use crate::fence::Fence;
use crate::ids::{OperatorName, PartitionId};
use crate::protected::partitions::Partitions;
use crate::state::{KeyedTable, hash_key};

/// The partition whose closure is running.
#[derive(Default)]
pub(crate) struct Turn(Cell<Option<PartitionId>>);

impl Turn {
    pub(crate) fn set(&self, partition: Option<PartitionId>) {
        self.0.set(partition);
    }
}

/// A value of protected state that is being read.
pub struct Guard<'a, V>(Held<'a, V>);

enum Held<'a, V> {
    InPlace(Ref<'a, V>),
    Copied(V),
    Borrowed(&'a V),
}

impl<'a, V> Guard<'a, V> {
    pub(super) fn borrowed(value: &'a V) -> Self {
        Guard(Held::Borrowed(value))
    }
}

impl<V> Deref for Guard<'_, V> {
    type Target = V;

    fn deref(&self) -> &V {
        match &self.0 {
            Held::InPlace(value) => value,
            Held::Copied(value) => value,
            Held::Borrowed(value) => value,
        }
    }
}

impl<V: std::fmt::Debug> std::fmt::Debug for Guard<'_, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// One partition's part of one named state.
pub(crate) struct Slot<K: Data + Eq, V: Plain, C: Codec<V> = Postcard> {
    states: Rc<RefCell<Partitions<K, V, C>>>,
    partition: PartitionId,
    turn: Rc<Turn>,
    fence: Fence,
    name: OperatorName,
    scratch: RefCell<Vec<u8>>,
}

impl<K: Data + Eq, V: Plain, C: Codec<V>> Slot<K, V, C> {
    pub(super) fn new(
        states: Rc<RefCell<Partitions<K, V, C>>>,
        partition: PartitionId,
        turn: Rc<Turn>,
        fence: &Fence,
        name: OperatorName,
    ) -> Self {
        let (fence, scratch) = (fence.clone(), RefCell::default());
        Slot { states, partition, turn, fence, name, scratch }
    }

    #[inline]
    fn check(&self) {
        if self.turn.0.get() != Some(self.partition) {
            self.outside();
        }
    }

    #[cold]
    fn outside(&self) -> ! {
        self.fence.fail(JobError::OutsideOperator { name: self.name.clone() })
    }

    /// Ends the job: this state cannot be used.
    pub(super) fn refuse(&self, what: String) -> ! {
        self.fence.unusable(&self.name, self.partition, what)
    }

    #[inline]
    pub(super) fn hash(&self, key: &K) -> u64 {
        let hasher = self.fence.generation().settings.hasher;
        match hash_key::<K, Postcard>(hasher, key, &mut self.scratch.borrow_mut()) {
            Ok(hash) => hash,
            Err(error) => self.refuse(format!("a key cannot be encoded: {error}")),
        }
    }

    /// The table, for changing it.
    #[inline]
    pub(super) fn table(&self) -> RefMut<'_, KeyedTable<K, V, Postcard, C>> {
        self.check();
        RefMut::map(self.states.borrow_mut(), |states| states.table(self.partition))
    }

    /// The table as far as it is decoded.
    #[inline]
    fn peek(&self) -> Ref<'_, KeyedTable<K, V, Postcard, C>> {
        self.check();
        match Ref::filter_map(self.states.borrow(), |states| states.peek(self.partition)) {
            Ok(table) => table,
            Err(_) => self.outside(),
        }
    }

    /// The whole table.
    pub(super) fn whole(&self) -> Ref<'_, KeyedTable<K, V, Postcard, C>> {
        if !self.peek().is_decoded() {
            self.table().decode_some(usize::MAX);
        }
        self.peek()
    }

    pub(super) fn get(&self, key: &K) -> Option<Guard<'_, V>> {
        let hash = self.hash(key);
        let table = match Ref::filter_map(self.peek(), |table| table.peek(hash, key)) {
            Ok(value) => return Some(Guard(Held::InPlace(value))),
            Err(table) => table,
        };
        if table.is_decoded() {
            return None;
        }
        // Another value may currently be read, and then the table must stay as it is.
        table.read(hash, key).map(|value| Guard(Held::Copied(value)))
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<RefMut<'_, V>> {
        let hash = self.hash(key);
        RefMut::filter_map(self.table(), |table| table.get_mut(hash, key)).ok()
    }

    pub(super) fn get_or_insert_with(&mut self, key: K, init: impl FnOnce() -> V) -> RefMut<'_, V> {
        let hash = self.hash(&key);
        RefMut::map(self.table(), |table| table.get_or_insert_with(hash, key, init))
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hash(&key);
        self.table().insert(hash, key, value)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.take(key)
    }

    /// Removes a key while others use the state, but none of its values.
    pub(super) fn take(&self, key: &K) -> Option<V> {
        let hash = self.hash(key);
        self.table().remove(hash, key)
    }

    /// All keys and values, copied.
    pub(super) fn entries(&self) -> Vec<(K, V)> {
        let table = self.whole();
        // A list that grows step by step would be moved again and again.
        let mut entries = Vec::with_capacity(table.decoded());
        entries.extend(table.iter().map(|(key, value)| (key.clone(), value.clone())));
        entries
    }

    pub(super) fn keys(&self) -> Vec<K> {
        let table = self.whole();
        let mut keys = Vec::with_capacity(table.decoded());
        keys.extend(table.iter().map(|(key, _)| key.clone()));
        keys
    }

    pub(super) fn drain(&mut self) -> Vec<(K, V)> {
        let entries = self.entries();
        self.table().retain(|_, _| false);
        entries
    }
}
