//! Merge: the updates of many sorted chunks, as one sorted sequence.
//!
//! A trace's batch is sorted over all partitions of its worker, and each chunk is sorted by itself. Hundreds
//! of chunks are too many to compare their heads for each update. But keys are spread over partitions by
//! their hash, so the keys of a few partitions are a fair sample of all, and cut the key space into ranges
//! of some hundred updates. Each range is gathered from all chunks, read one after the other, and sorted
//! while it is in the processor's cache (sample sort: Frazer and McKellar, "Samplesort", J. ACM 17, 1970).

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;

use super::chunk::{ChunkReader, Update, advance_times, decode, sum_up};
use crate::codec::{Codec, CodecError, Postcard};
use crate::data::Data;
use crate::ids::Epoch;
use crate::time::FencedTime;

/// About how many updates are sorted at a time.
const RANGE_UPDATES: usize = 512;

/// The partitions whose keys are the sample are at most one in so many.
const SAMPLED_ONE_IN: usize = 64;

/// Hands out the updates of all `partitions`, each some sorted chunks: ascending, consolidated, and with
/// times advanced to `since`.
pub(super) fn merge<K, V, T, R>(
    partitions: &[Vec<&[u8]>],
    since: Epoch,
    mut take: impl FnMut(&mut Vec<Update<K, V, T, R>>),
) -> Result<(), CodecError>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
{
    let bounds = bounds::<K, V, T, R>(partitions)?;
    let chunks = partitions.iter().flatten();
    let mut readers = chunks
        .map(|chunk| ChunkReader::<K, T>::new(chunk))
        .collect::<Result<Vec<_>, CodecError>>()?;
    let mut updates: Vec<Update<K, V, T, R>> = Vec::new();
    for (index, bound) in bounds.iter().map(Some).chain([None]).enumerate() {
        for reader in &mut readers {
            reader.read_while(|key| bound.is_none_or(|bound| key < bound), &mut updates)?;
        }
        if index % SAMPLED_ONE_IN == 0 {
            readers.retain(|reader| !reader.is_done());
        }
        advance_times(&mut updates, since);
        updates.sort_unstable_by(|(data, time, _), (other, other_time, _)| {
            data.cmp(other).then_with(|| time.cmp(other_time))
        });
        if let (Some(before), Some(((least, _), _, _))) =
            (index.checked_sub(1).and_then(|before| bounds.get(before)), updates.first())
            && least < before
        {
            return Err(CodecError::Decode {
                format: <Postcard as Codec<K>>::FORMAT,
                type_name: std::any::type_name::<K>(),
                length: partitions.iter().flatten().map(|chunk| chunk.len()).sum(),
                cause: "the updates of a chunk are not sorted by key".to_owned(),
            });
        }
        sum_up(&mut updates);
        take(&mut updates);
        updates.clear();
    }
    Ok(())
}

/// Keys between which there is about a range of updates each, ascending.
fn bounds<K, V, T, R>(partitions: &[Vec<&[u8]>]) -> Result<Vec<K>, CodecError>
where
    K: Data + Ord,
    V: Data,
    T: Data,
    R: Data,
{
    let mut sample: Vec<Update<K, V, T, R>> = Vec::new();
    let sampled = partitions.len().div_ceil(SAMPLED_ONE_IN);
    for chunk in partitions.iter().take(sampled).flatten() {
        decode(chunk, &mut sample)?;
    }
    sample.sort_unstable_by(|((key, _), _, _), ((other, _), _, _)| key.cmp(other));
    let step = (RANGE_UPDATES * sampled / partitions.len().max(1)).max(1);
    let mut bounds: Vec<K> =
        sample.into_iter().map(|((key, _), _, _)| key).skip(step).step_by(step).collect();
    bounds.dedup();
    Ok(bounds)
}
