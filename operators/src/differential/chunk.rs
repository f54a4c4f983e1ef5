//! Chunk: encoded updates, the unit in which traces and hydrated edges travel and are kept.
//!
//! The state of one partition is the sum of its chunks, in any order. So a replica can merge them by itself,
//! and a copy can be filled while new chunks arrive. Updates are stored back to back. Each begins with a byte
//! that says which of its parts equal those of the previous update and are omitted.

use std::cmp::Ordering;
use std::marker::PhantomData;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;

use crate::codec::{Codec, CodecError, Postcard};
use crate::data::Data;
use crate::ids::Epoch;
use crate::state::{CHUNK_BYTES_MAX, ChunkMerger};
use crate::time::FencedTime;

/// A buffer of more bytes than this is freed between chunks.
const SPARE_BYTES_MAX: usize = 4 << 10;

const SAME_KEY: u8 = 1;
const SAME_VAL: u8 = 2;
const SAME_TIME: u8 = 4;

/// An update, in the form in which differential's batches are built.
pub(super) type Update<K, V, T, R> = ((K, V), T, R);

/// The order of updates in a batch: by key, value and time.
pub(super) fn order<K: Ord, V: Ord, T: Ord, R>(
    (data, time, _): &Update<K, V, T, R>,
    (other, other_time, _): &Update<K, V, T, R>,
) -> Ordering {
    data.cmp(other).then_with(|| time.cmp(other_time))
}

/// Updates with the numbers of their keys and values: adjacent equal keys or values have equal numbers.
pub(super) fn numbered<K: Eq, V: Eq, T, R>(
    updates: &[Update<K, V, T, R>],
) -> impl Iterator<Item = ((usize, usize), &Update<K, V, T, R>)> {
    let (mut place, mut last) = ((0, 0), None::<&(K, V)>);
    updates.iter().map(move |update| {
        let data = &update.0;
        place = match last {
            Some(last) if last.0 == data.0 && last.1 == data.1 => place,
            Some(last) if last.0 == data.0 => (place.0, place.1 + 1),
            _ => (place.0 + 1, 0),
        };
        last = Some(data);
        (place, update)
    })
}

/// Writes one chunk.
pub(super) struct ChunkWriter<T> {
    bytes: Vec<u8>,
    /// The numbers of the key and value of the last update, as the caller counts them.
    last: Option<(usize, usize)>,
    last_time: Option<T>,
}

impl<T> Default for ChunkWriter<T> {
    fn default() -> Self {
        ChunkWriter { bytes: Vec::new(), last: None, last_time: None }
    }
}

impl<T: Data + Eq> ChunkWriter<T> {
    /// Begins another chunk, in the buffer of this one unless that is large.
    pub(super) fn begin_anew(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(SPARE_BYTES_MAX);
        (self.last, self.last_time) = (None, None);
    }

    /// Appends an update, whose key `write_key` writes. Its `place` distinguishes keys and values without
    /// comparing them: those with equal numbers are equal.
    #[inline]
    pub(super) fn push<V: Data, R: Data>(
        &mut self,
        place: (usize, usize),
        write_key: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
        val: &V,
        time: &T,
        diff: &R,
    ) -> Result<(), CodecError> {
        let same_key = self.last.is_some_and(|(key, _)| key == place.0);
        let same_val = self.last == Some(place);
        let same_time = self.last_time.as_ref() == Some(time);
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        self.bytes
            .push(flag(same_key, SAME_KEY) | flag(same_val, SAME_VAL) | flag(same_time, SAME_TIME));
        if !same_key {
            write_key(&mut self.bytes)?;
        }
        if !same_val {
            Postcard::encode(val, &mut self.bytes)?;
        }
        if !same_time {
            Postcard::encode(time, &mut self.bytes)?;
            self.last_time = Some(time.clone());
        }
        self.last = Some(place);
        Postcard::encode(diff, &mut self.bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads one chunk, in pieces.
///
/// It has always read the key of the next update.
pub(super) struct ChunkReader<'a, K, T> {
    /// What follows the next update's key.
    bytes: &'a [u8],
    next: Option<(u8, K)>,
    time: Option<T>,
}

impl<'a, K: Data, T: Data> ChunkReader<'a, K, T> {
    pub(super) fn new(mut bytes: &'a [u8]) -> Result<Self, CodecError> {
        let next = match bytes.split_off_first() {
            None => None,
            Some(flags) if flags & SAME_KEY != 0 => return Err(malformed::<K>(bytes.len())),
            Some(&flags) => Some((flags, Postcard::take(&mut bytes)?)),
        };
        Ok(ChunkReader { bytes, next, time: None })
    }

    pub(super) fn is_done(&self) -> bool {
        self.next.is_none()
    }

    /// Appends updates until the next one's key is not `wanted`.
    #[inline]
    pub(super) fn read_while<V: Data, R: Data>(
        &mut self,
        wanted: impl Fn(&K) -> bool,
        updates: &mut Vec<Update<K, V, T, R>>,
    ) -> Result<(), CodecError> {
        let Some((mut flags, mut key)) = self.next.take() else { return Ok(()) };
        // Everything that belongs to one key is read at once, so an omitted value is known.
        let begin = updates.len();
        let mut bytes = self.bytes;
        loop {
            if !wanted(&key) {
                self.next = Some((flags, key));
                break;
            }
            let val = match updates.get(begin..).and_then(<[_]>::last) {
                Some(((_, val), _, _)) if flags & SAME_VAL != 0 => val.clone(),
                None if flags & SAME_VAL != 0 => return Err(malformed::<K>(bytes.len())),
                _ => Postcard::take(&mut bytes)?,
            };
            if flags & SAME_TIME == 0 {
                self.time = Some(Postcard::take(&mut bytes)?);
            }
            let Some(time) = self.time.clone() else {
                return Err(malformed::<K>(bytes.len()));
            };
            let diff = Postcard::take(&mut bytes)?;
            let Some(&next_flags) = bytes.split_off_first() else {
                updates.push(((key, val), time, diff));
                break;
            };
            let next_key =
                if next_flags & SAME_KEY != 0 { key.clone() } else { Postcard::take(&mut bytes)? };
            updates.push(((key, val), time, diff));
            (flags, key) = (next_flags, next_key);
        }
        self.bytes = bytes;
        Ok(())
    }
}

/// Appends the updates of a chunk.
pub(super) fn decode<K: Data, V: Data, T: Data, R: Data>(
    bytes: &[u8],
    updates: &mut Vec<Update<K, V, T, R>>,
) -> Result<(), CodecError> {
    ChunkReader::new(bytes)?.read_while(|_key| true, updates)
}

fn malformed<K: Data>(length: usize) -> CodecError {
    CodecError::Decode {
        format: <Postcard as Codec<K>>::FORMAT,
        type_name: std::any::type_name::<K>(),
        length,
        cause: "the first update of a chunk leaves parts out".to_owned(),
    }
}

/// Advances times to the beginning of `since`; later times cannot tell the difference.
pub(super) fn advance_times<K, V, T, R>(updates: &mut [Update<K, V, T, R>], since: Epoch)
where
    T: FencedTime + Lattice,
{
    let first = T::first_of(since);
    for (_, time, _) in updates {
        time.join_assign(&first);
    }
}

/// Sums equal updates, which are adjacent.
pub(super) fn sum_up<K: Eq, V: Eq, T: Eq, R: Semigroup>(updates: &mut Vec<Update<K, V, T, R>>) {
    updates.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0 && next.1 == kept.1;
        if is_same {
            kept.2.plus_equals(&next.2);
        }
        is_same
    });
    updates.retain(|(_, _, diff)| !diff.is_zero());
}

/// Advances times to the beginning of `since`, sorts, and sums equal updates; later times cannot tell the
/// difference.
pub(super) fn advance<K, V, T, R>(updates: &mut Vec<Update<K, V, T, R>>, since: Epoch)
where
    K: Ord,
    V: Ord,
    T: FencedTime + Lattice,
    R: Semigroup,
{
    advance_times(updates, since);
    // Chunks are sorted, so the updates of several chunks are a few runs, which a stable sort merges.
    updates.sort_by(order);
    sum_up(updates);
}

/// Encodes sorted updates.
pub(super) fn encode<K, V, T, R>(updates: &[Update<K, V, T, R>]) -> Result<Vec<Vec<u8>>, CodecError>
where
    K: Data + Eq,
    V: Data + Eq,
    T: Data + Eq,
    R: Data,
{
    let mut chunks = Vec::new();
    let mut writer = ChunkWriter::default();
    for (place, (data, time, diff)) in numbered(updates) {
        writer.push(place, |bytes| Postcard::encode(&data.0, bytes), &data.1, time, diff)?;
        if writer.len() >= CHUNK_BYTES_MAX {
            chunks.push(std::mem::take(&mut writer).into_bytes());
        }
    }
    if !writer.is_empty() {
        chunks.push(writer.into_bytes());
    }
    Ok(chunks)
}

/// Merges chunks of updates of these types, on whichever node keeps them.
pub(super) struct UpdateMerger<K, V, T, R>(PhantomData<fn(K, V, T, R)>);

impl<K, V, T, R> UpdateMerger<K, V, T, R> {
    pub(super) fn new() -> Self {
        UpdateMerger(PhantomData)
    }
}

impl<K, V, T, R> ChunkMerger for UpdateMerger<K, V, T, R>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
{
    fn merge(&self, chunks: &[&[u8]], since: Epoch) -> Result<Vec<Vec<u8>>, CodecError> {
        let mut updates = Vec::new();
        for chunk in chunks {
            decode::<K, V, T, R>(chunk, &mut updates)?;
        }
        advance(&mut updates, since);
        encode(&updates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use timely::order::Product;

    type Time = Product<u64, u32>;

    fn sum(
        updates: &[Update<String, u8, Time, i64>],
        since: u64,
    ) -> Vec<Update<String, u8, Time, i64>> {
        let mut updates = updates.to_vec();
        advance(&mut updates, Epoch(since));
        updates
    }

    proptest! {
        #[test]
        fn merging_changes_no_sum(
            all in proptest::collection::vec(("[a-c]{1,2}", 0u8..3, 0u64..6, 0u32..3, -2i64..3), 0..60),
            cuts in proptest::collection::vec(0usize..60, 0..4),
            since in 6u64..9,
        ) {
            let all: Vec<_> = all
                .into_iter()
                .map(|(key, val, outer, inner, diff)| ((key, val), Time::new(outer, inner), diff))
                .collect();
            let mut chunks = Vec::new();
            let mut begin = 0;
            for end in cuts.into_iter().chain([all.len()]) {
                let (end, mut part) = (end.clamp(begin, all.len()), Vec::new());
                part.extend_from_slice(&all[begin..end]);
                part.sort();
                chunks.extend(encode(&part).unwrap());
                begin = end;
            }
            let views: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let merger = UpdateMerger::<String, u8, Time, i64>::new();
            let mut merged = Vec::new();
            for chunk in merger.merge(&views, Epoch(5)).unwrap() {
                decode::<String, u8, Time, i64>(&chunk, &mut merged).unwrap();
            }
            prop_assert!(merged.iter().all(|(_, time, _)| time.outer == 5));
            prop_assert_eq!(sum(&merged, since), sum(&all, since));
        }

        #[test]
        fn any_bytes_are_updates_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut updates: Vec<Update<String, u64, Time, i64>> = Vec::new();
            let _ = decode(&bytes, &mut updates);
        }
    }

    #[test]
    fn equal_parts_are_left_out() {
        let updates: Vec<Update<u64, u64, u64, i64>> =
            (0..100).map(|n| ((u64::MAX, n / 2), 7, 1)).collect();
        let chunks = encode(&updates).unwrap();
        assert_eq!(chunks.len(), 1);
        assert!(chunks[0].len() < 100 * 4, "{} bytes", chunks[0].len());
        let mut decoded = Vec::new();
        decode(&chunks[0], &mut decoded).unwrap();
        assert_eq!(decoded, updates);
    }
}
