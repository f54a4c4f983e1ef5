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

/// Hashes keys by their encoded form, so that every build of every node agrees.
pub(crate) struct KeyRoute<K> {
    hasher: KeyHasher,
    encoded: Vec<u8>,
    key: PhantomData<K>,
}

impl<K: Data> KeyRoute<K> {
    pub(crate) fn new(hasher: KeyHasher) -> Self {
        KeyRoute { hasher, encoded: Vec::new(), key: PhantomData }
    }

    /// The hash of a key; one hash serves the route, the partition's table and the replicas.
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

/// Brings the records of workers that run no partition to workers that do. Nothing moves, and nothing is
/// built, where every worker has one.
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

/// The pact that brings each record to the owner of its key's partition, by the view's table.
///
/// Timely's own exchange does it: its function may name the worker outright, since an owner's index
/// is always below the number of workers.
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
