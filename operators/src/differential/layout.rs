//! Layout: the batches of traces, read and written in their memory layout.
//!
//! Differential's cursors read any batch, and its builders accept updates as they arrive. Here whole batches
//! are read, and are written from updates that are already sorted and summed. Reading takes a quarter of the
//! time, and writing a third if memory is reserved beforehand.

use std::ops::Range;
use std::rc::Rc;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::trace::implementations::ord_neu::key_batch::{
    OrdKeyBatch, OrdKeyStorage,
};
use differential_dataflow::trace::implementations::ord_neu::layers::{Upds, Vals};
use differential_dataflow::trace::implementations::ord_neu::val_batch::{
    OrdValBatch, OrdValStorage,
};
use differential_dataflow::trace::implementations::{KeySpine, OffsetList, ValSpine, Vector};
use differential_dataflow::trace::{Navigable, Trace, TraceReader};

use super::chunk::Update;
use crate::data::Data;
use crate::time::FencedTime;

/// A trace that can be protected: its batches can be read and written whole.
pub(super) trait Kept<K, V, T, R>: Trace<Time = T, Batch: Navigable> + 'static {
    /// Writes a batch.
    type Writer: BatchWriter<K, V, T, R, Batch = Self::Batch>;

    /// Calls `visit` with each update of a batch, in order, and with the numbers of its key and value.
    fn for_each(batch: &Self::Batch, visit: impl FnMut((usize, usize), &K, &V, &T, &R));

    /// The times of all updates of a batch, possibly with duplicates.
    fn times(batch: &Self::Batch) -> &[T];
}

/// For how many keys and values to reserve memory. Excess memory is not touched before it is used; if the
/// reserve is too small, more is reserved on the way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    pub(super) keys: usize,
    pub(super) vals: usize,
}

/// Writes a batch from sorted updates, no two of which have the same key, value and time.
pub(super) trait BatchWriter<K, V, T, R> {
    type Batch;

    fn new(room: Room) -> Self;

    /// Appends updates, all of each key at once.
    fn push(&mut self, updates: &mut Vec<Update<K, V, T, R>>);

    /// The batch; `None` if there were no updates.
    fn done(self) -> Option<Self::Batch>;
}

impl<K, V, T, R> Kept<K, V, T, R> for ValSpine<K, V, T, R>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice,
    R: Data + Semigroup + Ord,
{
    type Writer = ValWriter<K, V, T, R>;

    fn for_each(batch: &Self::Batch, mut visit: impl FnMut((usize, usize), &K, &V, &T, &R)) {
        let OrdValStorage { keys, vals, upds } = &batch.storage;
        let mut updates = updates(&upds.offs);
        let mut vals_begin = vals.offs.index(0);
        for (index, key) in keys.iter().enumerate() {
            let vals_end = vals.offs.index(index + 1);
            for place in vals_begin..vals_end {
                for update in updates.next().unwrap_or_default() {
                    let (time, diff) = (&upds.times[update], &upds.diffs[update]);
                    visit((index, place), key, &vals.vals[place], time, diff);
                }
            }
            vals_begin = vals_end;
        }
    }

    fn times(batch: &Self::Batch) -> &[T] {
        &batch.storage.upds.times
    }
}

impl<K, T, R> Kept<K, (), T, R> for KeySpine<K, T, R>
where
    K: Data + Ord,
    T: FencedTime + Lattice,
    R: Data + Semigroup + Ord,
{
    type Writer = KeyWriter<K, T, R>;

    fn for_each(batch: &Self::Batch, mut visit: impl FnMut((usize, usize), &K, &(), &T, &R)) {
        let OrdKeyStorage { keys, upds } = &batch.storage;
        for (index, (key, updates)) in keys.iter().zip(updates(&upds.offs)).enumerate() {
            for update in updates {
                visit((index, 0), key, &(), &upds.times[update], &upds.diffs[update]);
            }
        }
    }

    fn times(batch: &Self::Batch) -> &[T] {
        &batch.storage.upds.times
    }
}

/// The positions of the updates of each value, bounded by `offsets`. A value without updates repeats the
/// previous update, as in all of differential's layouts.
fn updates(offsets: &OffsetList) -> impl Iterator<Item = Range<usize>> {
    let mut begin = offsets.index(0);
    (1..offsets.len()).map(move |index| {
        let end = offsets.index(index);
        let range = begin.min(end.saturating_sub(1))..end;
        begin = end;
        range
    })
}

/// Writes the times and differences of a batch.
struct UpdatesWriter<T, R> {
    lists: Upds<OffsetList, Vec<T>, Vec<R>>,
    /// How many updates of the current value were written so far.
    open: usize,
    total: usize,
}

impl<T: Ord + Clone + 'static, R: Ord + Clone + 'static> UpdatesWriter<T, R> {
    fn new(room: Room) -> Self {
        // Most updates equal the previous one and take only an offset.
        let mut offs = OffsetList::with_capacity(room.vals + 1);
        offs.push(0);
        UpdatesWriter {
            lists: Upds { offs, times: Vec::new(), diffs: Vec::new() },
            open: 0,
            total: 0,
        }
    }

    /// Appends an update; `is_last` says whether it is the last one of its value.
    #[inline]
    fn push(&mut self, time: T, diff: R, is_last: bool) {
        let Upds { offs, times, diffs } = &mut self.lists;
        let is_only = is_last && self.open == 0;
        if !(is_only && times.last() == Some(&time) && diffs.last() == Some(&diff)) {
            times.push(time);
            diffs.push(diff);
        }
        self.open += 1;
        if is_last {
            self.total += self.open;
            self.open = 0;
            offs.push(times.len());
        }
    }
}

/// Writes a batch of keys and values.
pub(super) struct ValWriter<K, V, T, R> {
    keys: Vec<K>,
    vals: Vals<OffsetList, Vec<V>>,
    updates: UpdatesWriter<T, R>,
}

impl<K, V, T, R> BatchWriter<K, V, T, R> for ValWriter<K, V, T, R>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice,
    R: Data + Semigroup + Ord,
{
    type Batch = <ValSpine<K, V, T, R> as TraceReader>::Batch;

    fn new(room: Room) -> Self {
        let mut offs = OffsetList::with_capacity(room.keys + 1);
        offs.push(0);
        let vals = Vals { offs, vals: Vec::with_capacity(room.vals) };
        ValWriter { keys: Vec::with_capacity(room.keys), vals, updates: UpdatesWriter::new(room) }
    }

    fn push(&mut self, updates: &mut Vec<Update<K, V, T, R>>) {
        let mut rest = updates.drain(..);
        while let Some(((key, val), time, diff)) = rest.next() {
            let (is_keys_last, is_vals_last) = match rest.as_slice().first() {
                Some(((next, next_val), _, _)) if *next == key => (false, *next_val != val),
                _ => (true, true),
            };
            self.updates.push(time, diff, is_vals_last);
            if is_vals_last {
                self.vals.vals.push(val);
            }
            if is_keys_last {
                self.vals.offs.push(self.vals.vals.len());
                self.keys.push(key);
            }
        }
    }

    fn done(self) -> Option<Self::Batch> {
        let ValWriter { keys, vals, updates: UpdatesWriter { lists: upds, total: updates, .. } } =
            self;
        let storage = OrdValStorage { keys, vals, upds };
        (updates > 0).then(|| Rc::new(OrdValBatch { storage, updates }))
    }
}

/// Writes a batch of keys without values.
pub(super) struct KeyWriter<K, T, R> {
    keys: Vec<K>,
    updates: UpdatesWriter<T, R>,
}

impl<K, T, R> BatchWriter<K, (), T, R> for KeyWriter<K, T, R>
where
    K: Data + Ord,
    T: FencedTime + Lattice,
    R: Data + Semigroup + Ord,
{
    type Batch = <KeySpine<K, T, R> as TraceReader>::Batch;

    fn new(room: Room) -> Self {
        KeyWriter { keys: Vec::with_capacity(room.keys), updates: UpdatesWriter::new(room) }
    }

    fn push(&mut self, updates: &mut Vec<Update<K, (), T, R>>) {
        let mut rest = updates.drain(..);
        while let Some(((key, ()), time, diff)) = rest.next() {
            let is_last = rest.as_slice().first().is_none_or(|((next, ()), _, _)| *next != key);
            self.updates.push(time, diff, is_last);
            if is_last {
                self.keys.push(key);
            }
        }
    }

    fn done(self) -> Option<Self::Batch> {
        let KeyWriter { keys, updates: UpdatesWriter { lists: upds, total: updates, .. } } = self;
        let storage = OrdKeyStorage { keys, upds };
        let value = OrdKeyBatch::<Keys<K, T, R>>::create_value();
        (updates > 0).then(|| Rc::new(OrdKeyBatch { storage, updates, value }))
    }
}

/// The layout of batches of keys without values.
type Keys<K, T, R> = Vector<((K, ()), T, R)>;

#[cfg(test)]
mod tests {
    use differential_dataflow::trace::Builder;
    use differential_dataflow::trace::implementations::{KeyBuilder, ValBuilder};
    use proptest::prelude::*;
    use timely::order::Product;

    use super::super::chunk::advance;
    use super::*;
    use crate::ids::Epoch;

    type Time = Product<u64, u32>;
    type TestUpdate<V> = Update<String, V, Time, i64>;

    /// Pieces of a sorted sequence, each with all updates of its keys.
    fn pieces<V: Ord + Clone>(mut updates: Vec<TestUpdate<V>>) -> Vec<Vec<TestUpdate<V>>> {
        advance(&mut updates, Epoch(0));
        let mut pieces: Vec<Vec<TestUpdate<V>>> = vec![Vec::new()];
        for same in updates.chunk_by(|((key, _), _, _), ((other, _), _, _)| key == other) {
            match pieces.last_mut() {
                Some(piece) if piece.len() < 4 => piece.extend_from_slice(same),
                _ => pieces.push(same.to_vec()),
            }
        }
        pieces
    }

    fn update() -> impl Strategy<Value = TestUpdate<u8>> {
        ("[a-f]{1,2}", 0u8..3, 0u64..2, 0u32..2, -2i64..3)
            .prop_map(|(key, val, outer, inner, diff)| ((key, val), Time::new(outer, inner), diff))
    }

    proptest! {
        #[test]
        fn batches_are_those_that_differential_builds(
            updates in proptest::collection::vec(update(), 0..60),
        ) {
            let mut builder = ValBuilder::<String, u8, Time, i64>::default();
            let mut writer = ValWriter::new(Room { keys: 3, vals: 5 });
            for mut piece in pieces(updates.clone()) {
                builder.push(&mut piece.clone());
                writer.push(&mut piece);
            }
            let (built, written) = (builder.done().map(Rc::from), writer.done());
            let bytes = |batch: &Rc<_>| postcard::to_stdvec::<OrdValBatch<_>>(batch).unwrap();
            prop_assert_eq!(written.as_ref().map(bytes), built.as_ref().map(bytes));

            let keys: Vec<TestUpdate<()>> =
                updates.into_iter().map(|((key, _), time, diff)| ((key, ()), time, diff)).collect();
            let mut builder = KeyBuilder::<String, Time, i64>::default();
            let mut writer = KeyWriter::new(Room::default());
            for mut piece in pieces(keys) {
                builder.push(&mut piece.clone());
                writer.push(&mut piece);
            }
            let (built, written) = (builder.done().map(Rc::from), writer.done());
            let bytes = |batch: &Rc<_>| postcard::to_stdvec::<OrdKeyBatch<_>>(batch).unwrap();
            prop_assert_eq!(written.as_ref().map(bytes), built.as_ref().map(bytes));
        }
    }
}
