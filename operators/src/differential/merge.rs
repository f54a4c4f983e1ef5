//! Merge: the updates of many sorted chunks, as one sorted sequence.
//!
//! A trace's batch is sorted over all partitions of its worker, but each chunk is sorted by itself. There are
//! too many chunks, hundreds, to compare their heads for each update. But keys are spread over partitions by
//! their hash, so the keys of a few partitions are a fair sample of all keys. They divide the key space into
//! ranges of some thousand updates. Each range is gathered from all chunks, read one after the other, and
//! sorted while it is in the processor's cache (sample sort: Frazer and McKellar, "Samplesort", J. ACM 17,
//! 1970). A partition has few large chunks and may have many small ones, as they arrived. The small ones are
//! first sorted together and then read as one.

use std::marker::PhantomData;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;

use super::chunk::{ChunkReader, Update, advance_times, decode, numbered, sum_up};
use super::layout::Room;
use super::sort::Sorter;
use crate::codec::{Codec, CodecError, Postcard};
use crate::data::Data;
use crate::ids::Epoch;
use crate::time::FencedTime;

/// About how many updates are sorted at a time.
const RANGE_UPDATES: usize = 4096;

/// A chunk is small if it is less than one part in this many of its partition.
const LARGE_CHUNKS_MAX: usize = 8;

/// At most one in this many partitions provides the keys of the sample.
const SAMPLED_ONE_IN: usize = 64;

/// How much more room is reserved than the sample suggests.
const ROOM_RATIO: f64 = 1.06;

/// The updates of many sorted chunks, some for each of several partitions, before they are merged.
pub(super) struct Merge<'a, K, V, T, R> {
    partitions: &'a [Vec<&'a [u8]>],
    /// Keys that divide the updates into ranges of about equal size, ascending.
    bounds: Vec<K>,
    room: Room,
    updates: PhantomData<fn(V, T, R)>,
}

impl<'a, K, V, T, R> Merge<'a, K, V, T, R>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
{
    /// Takes a sample, on which the rest is based.
    pub(super) fn new(partitions: &'a [Vec<&'a [u8]>]) -> Result<Self, CodecError> {
        let sampled = &partitions[..partitions.len().div_ceil(SAMPLED_ONE_IN)];
        let mut sample: Vec<Update<K, V, T, R>> = Vec::new();
        for chunk in sampled.iter().flatten() {
            decode(chunk, &mut sample)?;
        }
        Sorter::default().sort(&mut sample);
        let (mut vals, mut last) = (0, (0, 0));
        for (place, _) in numbered(&sample) {
            vals += usize::from(place != last);
            last = place;
        }
        let all = length(partitions) as f64 / length(sampled).max(1) as f64;
        let scaled = |count: usize| (count as f64 * all * ROOM_RATIO) as usize;
        let room = Room { keys: scaled(last.0), vals: scaled(vals) };
        let step = (RANGE_UPDATES * sampled.len() / partitions.len().max(1)).max(1);
        let mut bounds: Vec<K> =
            sample.into_iter().map(|((key, _), _, _)| key).skip(step).step_by(step).collect();
        bounds.dedup();
        Ok(Merge { partitions, bounds, room, updates: PhantomData })
    }

    /// The approximate number of keys and values.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// Hands out all updates: ascending, consolidated, with times advanced to `since`, and with all updates
    /// of a key at once.
    pub(super) fn run(
        self,
        since: Epoch,
        mut take: impl FnMut(&mut Vec<Update<K, V, T, R>>),
    ) -> Result<(), CodecError> {
        let Merge { partitions, bounds, .. } = self;
        let mut readers = Vec::new();
        let mut small: Vec<Update<K, V, T, R>> = Vec::new();
        for chunks in partitions {
            let bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
            for chunk in chunks {
                if chunk.len() * LARGE_CHUNKS_MAX < bytes {
                    decode(chunk, &mut small)?
                } else {
                    readers.push(ChunkReader::<K, T>::new(chunk)?)
                }
            }
        }
        Sorter::default().sort(&mut small);
        let mut small = small.into_iter().peekable();
        let (mut updates, mut sorter) = (Vec::new(), Sorter::default());
        for (index, bound) in bounds.iter().map(Some).chain([None]).enumerate() {
            let is_wanted = |key: &K| bound.is_none_or(|bound| key < bound);
            for reader in &mut readers {
                reader.read_while(is_wanted, &mut updates)?;
            }
            updates.extend(std::iter::from_fn(|| small.next_if(|((key, _), _, _)| is_wanted(key))));
            readers.retain(|reader| !reader.is_done());
            advance_times(&mut updates, since);
            sorter.sort(&mut updates);
            if let (Some(before), Some(((least, _), _, _))) =
                (index.checked_sub(1).and_then(|before| bounds.get(before)), updates.first())
                && least < before
            {
                return Err(CodecError::Decode {
                    format: <Postcard as Codec<K>>::FORMAT,
                    type_name: std::any::type_name::<K>(),
                    length: length(partitions),
                    cause: "the updates of a chunk are not sorted by key".to_owned(),
                });
            }
            sum_up(&mut updates);
            take(&mut updates);
            updates.clear();
        }
        Ok(())
    }
}

/// The number of bytes in all chunks.
fn length(partitions: &[Vec<&[u8]>]) -> usize {
    partitions.iter().flatten().map(|chunk| chunk.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::chunk::{advance, encode};
    use super::*;
    use proptest::prelude::*;
    use timely::order::Product;

    type Time = Product<u64, u32>;
    type TestUpdate = Update<String, u8, Time, i64>;

    fn updates() -> impl Strategy<Value = Vec<TestUpdate>> {
        let update = ("[a-f]{1,2}", 0u8..3, 0u64..6, 0u32..3, -2i64..3)
            .prop_map(|(key, val, outer, inner, diff)| ((key, val), Time::new(outer, inner), diff));
        proptest::collection::vec(update, 0..40)
    }

    proptest! {
        #[test]
        fn it_is_what_sorting_all_gives(
            partitions in proptest::collection::vec(proptest::collection::vec(updates(), 0..20), 0..6),
        ) {
            let mut all: Vec<TestUpdate> = partitions.iter().flatten().flatten().cloned().collect();
            advance(&mut all, Epoch(6));
            let chunks: Vec<Vec<Vec<u8>>> = partitions
                .into_iter()
                .map(|chunks| {
                    let sorted = chunks.into_iter().map(|mut chunk| {
                        chunk.sort();
                        encode(&chunk).unwrap()
                    });
                    sorted.flatten().collect()
                })
                .collect();
            let views: Vec<Vec<&[u8]>> =
                chunks.iter().map(|chunks| chunks.iter().map(Vec::as_slice).collect()).collect();
            let mut merged: Vec<TestUpdate> = Vec::new();
            let merge = Merge::new(&views).unwrap();
            merge.run(Epoch(6), |updates| merged.append(updates)).unwrap();
            prop_assert_eq!(merged, all);
        }

        #[test]
        fn any_bytes_are_updates_or_an_error(
            bytes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4),
        ) {
            let views = vec![bytes.iter().map(Vec::as_slice).collect()];
            if let Ok(merge) = Merge::<String, u64, Time, i64>::new(&views) {
                let _ = merge.run(Epoch(0), |_| ());
            }
        }
    }

    #[test]
    fn many_ranges_are_one_sequence() {
        let all: Vec<Update<u64, (), u64, isize>> = (0..80_000).map(|n| ((n, ()), 0, 1)).collect();
        let mut partitions = vec![Vec::new(); 70];
        for (update, partition) in all.iter().zip((0..70).cycle()) {
            partitions[partition].push(*update);
        }
        let chunks: Vec<Vec<Vec<u8>>> =
            partitions.iter().map(|updates| encode(updates).unwrap()).collect();
        let views: Vec<Vec<&[u8]>> =
            chunks.iter().map(|chunks| chunks.iter().map(Vec::as_slice).collect()).collect();
        let (mut merged, mut most) = (Vec::new(), 0);
        let merge = Merge::<u64, (), u64, isize>::new(&views).unwrap();
        let room = merge.room();
        let run = merge.run(Epoch(0), |updates| {
            most = most.max(updates.len());
            merged.append(updates);
        });
        run.unwrap();
        assert_eq!(merged, all);
        assert!((72_000..92_000).contains(&room.keys) && room.vals == room.keys, "{room:?}");
        assert!(most < 4 * RANGE_UPDATES, "{most} updates in a range");
    }

    #[test]
    fn a_chunk_that_is_not_sorted_is_refused() {
        let descending: Vec<Update<u64, (), u64, isize>> =
            (0..80_000).rev().map(|n| ((n, ()), 0, 1)).collect();
        let chunks = encode(&descending).unwrap();
        let views = vec![chunks.iter().map(Vec::as_slice).collect()];
        let merge = Merge::<u64, (), u64, isize>::new(&views).unwrap();
        let error = merge.run(Epoch(0), |_| ()).unwrap_err();
        assert!(error.to_string().contains("not sorted"), "{error}");
    }
}
