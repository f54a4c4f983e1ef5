//! Restore: replicas of partitions from the segments of a manifest.

use std::collections::BTreeMap;

use ringfence_operators::ids::PartitionId;
use ringfence_operators::snapshot::{SnapshotError, Subject, frames};
use ringfence_operators::state::Replica;

use super::DurableError;
use super::manifest::Manifest;
use super::segment::{Block, read_index};
use super::store::Store;
use crate::protocol::durability::SegmentRecord;

/// A block and the segment that it is in.
type Located<'a> = (&'a SegmentRecord, Block);

/// The blocks that make up one partition of one operator: a base, if there is one, and what follows it.
type Chains<'a> = BTreeMap<(u64, PartitionId), Vec<Located<'a>>>;

/// Returns the blocks of each partition for which `wanted` is true, in the order in which they are applied.
pub(crate) fn chains<'a>(
    store: &dyn Store,
    manifest: &'a Manifest,
    wanted: &dyn Fn(PartitionId) -> bool,
) -> Result<Chains<'a>, DurableError> {
    let mut chains = Chains::new();
    for segment in &manifest.segments {
        for block in read_index(store, segment)? {
            if !wanted(PartitionId(block.partition.0 % manifest.partitions.max(1))) {
                continue;
            }
            let chain = chains.entry((block.operator, block.partition)).or_default();
            if block.is_base {
                chain.clear();
            }
            chain.push((segment, block));
        }
    }
    Ok(chains)
}

/// Returns the replicas of the partitions for which `wanted` is true.
pub(crate) fn replicas(
    store: &dyn Store,
    manifest: &Manifest,
    wanted: &dyn Fn(PartitionId) -> bool,
) -> Result<Vec<Replica>, DurableError> {
    let chains = chains(store, manifest, wanted)?;
    chains.into_values().map(|chain| replica(store, &chain)).collect()
}

fn replica(store: &dyn Store, chain: &[Located<'_>]) -> Result<Replica, DurableError> {
    let mut replica: Option<Replica> = None;
    for (segment, block) in chain {
        let bytes = store.read_range(&segment.name, block.offset, block.bytes)?;
        let bytes = bytes.ok_or_else(|| {
            DurableError::damaged(store, &segment.name, "it is not there".to_owned())
        })?;
        let applied = apply(&mut replica, block.subject(), block.is_base, &bytes);
        applied.map_err(|error| DurableError::Block {
            name: segment.name.clone(),
            place: store.place(),
            operator: block.operator,
            partition: block.partition.0,
            error,
        })?;
    }
    Ok(replica.expect("a chain has a block"))
}

fn apply(
    replica: &mut Option<Replica>,
    subject: Subject,
    is_base: bool,
    bytes: &[u8],
) -> Result<(), SnapshotError> {
    if is_base {
        *replica = Some(Replica::from_base(subject, bytes)?);
        return Ok(());
    }
    let replica = replica.get_or_insert_with(|| Replica::new(subject));
    for delta in frames(bytes) {
        replica.push(&delta?)?;
    }
    Ok(())
}
