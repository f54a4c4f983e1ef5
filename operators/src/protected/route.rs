//! The route of a record: key -> hash -> partition -> owner.

use std::marker::PhantomData;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange as ExchangePact;
use timely::dataflow::operators::Exchange;
use timely::progress::Timestamp;

use crate::codec::{CodecError, Postcard};
use crate::data::Data;
use crate::fence::Fence;
use crate::hash::KeyHasher;
use crate::ids::OperatorName;
use crate::state::hash_key;

/// Hashes keys by their encoded form, so that all builds on all nodes agree.
pub(crate) struct KeyRoute<K> {
    hasher: KeyHasher,
    encoded: Vec<u8>,
    key: PhantomData<K>,
}

impl<K: Data> KeyRoute<K> {
    pub(crate) fn new(hasher: KeyHasher) -> Self {
        KeyRoute { hasher, encoded: Vec::new(), key: PhantomData }
    }

    /// The hash of a key; the route, the partition's table and the replicas all use it.
    #[inline]
    pub(crate) fn hash(&mut self, key: &K) -> Result<u64, CodecError> {
        hash_key::<K, Postcard>(self.hasher, key, &mut self.encoded)
    }

    /// The hash of a record's key; ends the job where the key cannot be encoded.
    #[inline]
    pub(crate) fn hash_or_fail(&mut self, key: &K, fence: &Fence, name: &OperatorName) -> u64 {
        self.hash(key).unwrap_or_else(|error| {
            fence.misplaced(name, format!("a key cannot be encoded: {error}"))
        })
    }

    /// The encoded form of the key that was hashed last.
    #[inline]
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

/// Sends the records of workers without partitions to workers that have some. If every worker has a
/// partition, nothing moves and nothing is built.
pub(crate) fn to_somebody<'scope, T: Timestamp, D: Data>(
    records: StreamVec<'scope, T, D>,
    fence: &Fence,
) -> StreamVec<'scope, T, D> {
    if !fence.some_have_no_partition() {
        return records;
    }
    let (here, owners) = (fence.worker(), &fence.generation().routes.owners);
    let target = if fence.owned().is_empty() { owners[here % owners.len()] } else { here };
    records.exchange(move |_record| target as u64)
}

/// The pact that sends each record to the owner of its key's partition, according to the view's table.
///
/// It is timely's own exchange: its function may return the worker directly, since an owner's index is always
/// below the number of workers.
pub(crate) fn to_owner<D, K>(
    fence: &Fence,
    name: &OperatorName,
    key: impl Fn(&D) -> K + 'static,
) -> ExchangePact<D, impl FnMut(&D) -> u64 + 'static>
where
    D: Data,
    K: Data,
{
    let (fence, name) = (fence.clone(), name.clone());
    let mut route = KeyRoute::new(fence.generation().settings.hasher);
    ExchangePact::new(move |record: &D| {
        let hash = route.hash_or_fail(&key(record), &fence, &name);
        fence.generation().routes.owner_of_hash(hash) as u64
    })
}
