//! Traces in a vault: whatever is merged, cut off, taken over or filled, the chunks' sum is the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::ids::{OperatorName, PartitionId, ViewNumber};
use crate::snapshot::Subject;
use crate::vault::{MemoryVault, Role, Span, StateKind, Vault, VaultError};

mod cluster;

const OWNER: Role = Role { owner: true, backup: false };
const BACKUP: Role = Role { owner: false, backup: true };
const BOTH: Role = Role { owner: true, backup: true };
const NOTHING: Role = Role { owner: false, backup: false };
const P0: PartitionId = PartitionId(0);
const PRINT: u32 = 7;

type Updates = Vec<(u64, i64)>;
type Sum = BTreeMap<u64, i64>;

/// A merger of chunks that are lines of key and difference.
struct Adder;

fn encode(updates: &[(u64, i64)]) -> Vec<u8> {
    let line = |(key, diff): &(u64, i64)| [key.to_be_bytes(), diff.to_be_bytes()].concat();
    updates.iter().flat_map(line).collect()
}

fn add(sum: &mut Sum, updates: impl IntoIterator<Item = (u64, i64)>) {
    for (key, diff) in updates {
        let total = sum.entry(key).or_default();
        *total += diff;
        if *total == 0 {
            sum.remove(&key);
        }
    }
}

fn decode(chunk: &[u8]) -> Result<Updates, CodecError> {
    let (lines, []) = chunk.as_chunks::<16>() else {
        return Err(CodecError::Length { type_name: "line", expected: 16, actual: chunk.len() });
    };
    let number = |part: &[u8]| u64::from_be_bytes(part.try_into().unwrap());
    Ok(lines.iter().map(|line| (number(&line[..8]), number(&line[8..]) as i64)).collect())
}

impl ChunkMerger for Adder {
    fn merge(&self, chunks: &[&[u8]], _since: Epoch) -> Result<Vec<Vec<u8>>, CodecError> {
        let mut sum = Sum::new();
        for chunk in chunks {
            add(&mut sum, decode(chunk)?);
        }
        let updates: Updates = sum.into_iter().collect();
        Ok(updates.chunks(CHUNK_BYTES_MAX / 16).map(encode).collect())
    }
}

fn name(text: &str) -> OperatorName {
    OperatorName::new(text)
}

/// Writes a delta of chunks.
fn delta(
    operator: u64,
    (previous, epoch): (Option<u64>, u64),
    chunks: &[(ChunkId, Vec<u8>)],
    completes: bool,
) -> Vec<u8> {
    let subject = Subject { operator, fingerprint: PRINT, partition: P0 };
    let mut bytes = Vec::new();
    let mut writer = DeltaWriter::new(&mut bytes, subject, Epoch(epoch), previous.map(Epoch));
    for (id, chunk) in chunks {
        let put = |part: &[u8], bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        writer.put(|bytes| put(&id.encode(), bytes), |bytes| put(chunk, bytes)).unwrap();
    }
    if completes {
        writer.completes();
    }
    writer.finish();
    bytes
}

fn id(epoch: u64, index: u32) -> ChunkId {
    ChunkId { epoch: Epoch(epoch), index }
}

/// One vault of one partition.
struct Node {
    vault: MemoryVault,
    operator: u64,
    view: u64,
}

impl Node {
    fn begin(role: Role) -> Self {
        let mut node = Node { vault: MemoryVault::new(1), operator: 0, view: 0 };
        node.install(None, role);
        node
    }

    fn install(&mut self, resume: Option<u64>, role: Role) {
        self.view += 1;
        self.vault.install(ViewNumber(self.view), resume.map(Epoch), &|_| role).unwrap();
        self.operator = self
            .vault
            .register(
                self.vault.present(),
                &name("trace"),
                PRINT,
                StateKind::Chunks(1, Arc::new(Adder)),
            )
            .unwrap();
    }

    fn store(&self, bytes: &[u8]) -> Result<usize, VaultError> {
        self.vault.store(ViewNumber(self.view), bytes)
    }

    /// Stores a delta of one chunk.
    fn add(&self, epoch: u64, updates: &[(u64, i64)]) {
        let previous = epoch.checked_sub(1).filter(|previous| *previous > 0);
        let chunks = [(id(epoch, 0), encode(updates))];
        assert_eq!(self.store(&delta(self.operator, (previous, epoch), &chunks, false)), Ok(1));
    }

    fn record(&self, epoch: u64) {
        self.vault.record(ViewNumber(self.view), Epoch(epoch)).unwrap();
    }

    fn compact(&self) {
        while self.vault.compact(usize::MAX).unwrap() > 0 {}
    }

    fn sum(&self) -> Option<Sum> {
        let opened = self.vault.open_replica(self.vault.present(), self.operator, P0).unwrap()?;
        let mut sum = Sum::new();
        let chunks = opened.base.chunks().unwrap();
        assert!(chunks.windows(2).all(|pair| pair[0].0 < pair[1].0));
        chunks.iter().for_each(|(_, chunk)| add(&mut sum, decode(chunk).unwrap()));
        Some(sum)
    }

    fn ids(&self) -> Vec<ChunkId> {
        let opened =
            self.vault.open_replica(self.vault.present(), self.operator, P0).unwrap().unwrap();
        opened.base.chunks().unwrap().into_iter().map(|(id, _)| id).collect()
    }

    fn is_live(&self) -> bool {
        self.vault.inventory().partitions.get(&P0).is_some_and(|copies| copies.live)
    }

    fn replica(&self) -> Option<Span> {
        self.vault.inventory().partitions.get(&P0).and_then(|copies| copies.replica)
    }
}

fn sum_of(updates: &[(u64, i64)]) -> Sum {
    let mut sum = Sum::new();
    add(&mut sum, updates.iter().copied());
    sum
}

#[test]
fn names_are_encoded_in_their_order() {
    let ids = [id(0, 0), id(0, 256), id(1, 0), id(256, 1), id(u64::MAX, u32::MAX)];
    let encoded = ids.map(ChunkId::encode);
    assert!(encoded.is_sorted());
    assert_eq!(encoded.map(|bytes| ChunkId::decode(&bytes).unwrap()), ids);
    assert!(ChunkId::decode(&encoded[0][1..]).is_err());
    assert!(ChunkId::decode(&[0; 13]).is_err());
}

#[test]
fn a_table_is_no_trace_and_a_trace_no_table() {
    let node = Node::begin(OWNER);
    let refused =
        node.vault.register(node.vault.present(), &name("trace"), PRINT, StateKind::Table(1));
    assert_eq!(refused, Err(VaultError::StateChanged { operator: name("trace"), chunks: false }));
    node.vault.register(node.vault.present(), &name("table"), PRINT, StateKind::Table(1)).unwrap();
    let refused = node.vault.register(
        node.vault.present(),
        &name("table"),
        PRINT,
        StateKind::Chunks(1, Arc::new(Adder)),
    );
    assert!(matches!(refused, Err(VaultError::StateChanged { chunks: true, .. })));
}

#[test]
fn small_chunks_are_merged_under_the_lowest_of_their_names() {
    let mut node = Node::begin(OWNER);
    (1..=8).for_each(|epoch| node.add(epoch, &[(epoch / 2, 1)]));
    node.record(5);
    node.compact();
    node.install(Some(7), OWNER);
    // What was recorded was merged, and what was not is there as it came; epoch 8 is cut off.
    assert_eq!(node.ids(), [id(1, 0), id(6, 0), id(7, 0)]);
    assert_eq!(node.sum(), Some(Sum::from([(0, 1), (1, 2), (2, 2), (3, 2)])));
}

#[test]
fn what_cancels_needs_no_memory() {
    for compact_each in [true, false] {
        let mut node = Node::begin(OWNER);
        for epoch in 1..=10_000 {
            node.add(epoch, &[(epoch / 2, if epoch.is_multiple_of(2) { 1 } else { -1 })]);
            node.record(epoch);
            if compact_each {
                node.vault.compact(usize::MAX).unwrap();
            }
        }
        node.compact();
        let usage = node.vault.usage();
        assert_eq!(usage.pending_bytes, 0);
        assert!(usage.replica_bytes < 20 << 10, "{} bytes", usage.replica_bytes);
        node.install(Some(10_000), OWNER);
        let odd = (1..=10_000).map(|e| (e / 2, if e % 2 == 0 { 1 } else { -1 }));
        assert_eq!(node.sum(), Some(sum_of(&odd.collect::<Updates>())));
    }
}

/// Insertions that have grown to large chunks, which are left alone, and then their deletions.
#[test]
fn what_cancels_goes_from_large_chunks_too() {
    let mut node = Node::begin(OWNER);
    let mut most = 0;
    for epoch in 1..=200 {
        let (first, diff) = if epoch <= 100 { (epoch * 600, 1) } else { ((epoch - 100) * 600, -1) };
        let updates: Updates = (first..first + 600).map(|key| (key, diff)).collect();
        node.add(epoch, &updates);
        node.record(epoch);
        node.compact();
        most = most.max(node.vault.usage().replica_bytes);
    }
    let live_bytes = 100 * 600 * 16;
    assert!(most < 6 * live_bytes, "{most} bytes for {live_bytes}");
    let left = node.vault.usage().replica_bytes;
    node.install(Some(200), OWNER);
    assert_eq!(node.sum(), Some(Sum::new()));
    assert!(left < live_bytes / 2, "{left} bytes for nothing");
}

#[test]
fn each_byte_is_merged_a_few_times() {
    let node = Node::begin(OWNER);
    let (mut came, mut compacted) = (0, 0);
    for epoch in 1..=2000 {
        let updates: Updates = (epoch * 100..epoch * 100 + 100).map(|key| (key, 1)).collect();
        node.add(epoch, &updates);
        came += 1600;
        node.record(epoch);
        compacted += node.vault.compact(usize::MAX).unwrap();
    }
    assert!(compacted < 12 * came, "{compacted} bytes for {came}");
    let chunks = node.vault.usage().replica_bytes;
    assert!(chunks < 3 * came, "{chunks} bytes for {came}");
}

#[test]
fn bytes_that_cannot_be_merged_stay_and_others_are_merged_all_the_same() {
    let mut node = Node::begin(OWNER);
    let other = node
        .vault
        .register(
            node.vault.present(),
            &name("zebra"),
            PRINT,
            StateKind::Chunks(1, Arc::new(Adder)),
        )
        .unwrap();
    for epoch in 1..=8 {
        let previous = (epoch > 1).then(|| epoch - 1);
        let damaged = if epoch == 3 { b"damaged".to_vec() } else { encode(&[(1, 1)]) };
        let frames = [
            delta(node.operator, (previous, epoch), &[(id(epoch, 0), damaged)], false),
            delta(other, (previous, epoch), &[(id(epoch, 0), encode(&[(1, 1)]))], false),
        ];
        assert_eq!(node.store(&frames.concat()), Ok(2));
    }
    node.record(8);
    let error = node.vault.compact(usize::MAX).unwrap_err();
    assert!(matches!(&error, VaultError::Chunks { partition: P0, .. }), "{error}");
    assert!(error.to_string().contains("chunks of partition 0 of operator trace"), "{error}");
    assert_eq!(node.vault.compact(usize::MAX), Ok(0), "not again before something new is there");
    node.install(Some(8), OWNER);
    assert_eq!(node.ids().len(), 8);
    let opened = node.vault.open_replica(node.vault.present(), other, P0).unwrap().unwrap();
    assert_eq!(opened.base.len(), 1);
}

/// A merger that makes more of less.
struct Splitter;

impl ChunkMerger for Splitter {
    fn merge(&self, chunks: &[&[u8]], _since: Epoch) -> Result<Vec<Vec<u8>>, CodecError> {
        Ok(chunks.iter().chain(chunks).map(|chunk| chunk.to_vec()).collect())
    }
}

#[test]
fn a_merger_that_makes_more_of_less_is_an_error() {
    let mut node = Node::begin(OWNER);
    node.vault
        .register(
            node.vault.present(),
            &name("trace"),
            PRINT,
            StateKind::Chunks(1, Arc::new(Splitter)),
        )
        .unwrap();
    (1..=4).for_each(|epoch| node.add(epoch, &[(1, 1)]));
    node.record(4);
    let error = node.vault.compact(usize::MAX);
    assert!(matches!(error, Err(VaultError::MoreChunks { given: 4, actual: 8, .. })));
    node.install(Some(4), OWNER);
    assert_eq!(node.sum(), Some(Sum::from([(1, 4)])));
}

/// A merger that changes nothing.
struct Idler;

impl ChunkMerger for Idler {
    fn merge(&self, chunks: &[&[u8]], _since: Epoch) -> Result<Vec<Vec<u8>>, CodecError> {
        Ok(chunks.iter().map(|chunk| chunk.to_vec()).collect())
    }
}

#[test]
fn a_merger_that_merges_nothing_does_not_keep_the_compactor_busy() {
    let node = Node::begin(OWNER);
    node.vault
        .register(
            node.vault.present(),
            &name("trace"),
            PRINT,
            StateKind::Chunks(1, Arc::new(Idler)),
        )
        .unwrap();
    for epoch in 1..=4 {
        node.add(epoch, &[(1, 1)]);
    }
    node.record(4);
    let worked = (0..100).take_while(|_| node.vault.compact(1).unwrap() > 0).count();
    assert!(worked <= 5, "{worked} times");
}

/// A base that live state reads is neither merged nor changed, and what came meanwhile is merged later.
#[test]
fn an_opened_base_stays_what_it_is() {
    let mut node = Node::begin(OWNER);
    (1..=4).for_each(|epoch| node.add(epoch, &[(1, 1)]));
    node.record(4);
    node.install(Some(4), OWNER);
    let opened = node.vault.open_replica(node.vault.present(), node.operator, P0).unwrap().unwrap();
    assert_eq!(opened.last, Some(Epoch(4)));
    node.add(5, &[(1, 1)]);
    node.record(5);
    assert_eq!(node.vault.compact(usize::MAX), Ok(0));
    assert_eq!(opened.base.chunks().unwrap().len(), 4);
    drop(opened);
    assert!(node.vault.compact(usize::MAX).unwrap() > 0);
    node.install(Some(5), OWNER);
    assert_eq!((node.ids(), node.sum()), (vec![id(1, 0)], Some(Sum::from([(1, 5)]))));
}

#[test]
fn the_copy_of_an_owner_goes_on_through_views() {
    let mut node = Node::begin(OWNER);
    assert!(node.is_live(), "of chunks that never came an owner has all");
    node.add(1, &[(1, 1)]);
    node.add(2, &[(2, 1)]);
    node.add(3, &[(3, 1)]);
    node.record(1);
    // Others recorded more than this node had heard of.
    node.install(Some(2), OWNER);
    assert_eq!(node.sum(), Some(Sum::from([(1, 1), (2, 1)])));
    node.vault.close_replica(node.vault.present(), node.operator, P0);
    assert!(node.is_live());
    node.add(3, &[(4, 1)]);
    node.record(3);
    node.compact();
    node.install(Some(3), OWNER);
    assert!(node.is_live());
    assert_eq!(node.sum(), Some(Sum::from([(1, 1), (2, 1), (4, 1)])));
    node.install(Some(3), NOTHING);
    assert_eq!((node.is_live(), node.sum()), (false, None));
    assert_eq!(node.vault.usage().replica_bytes, 0);
}

/// The successor's tables are decoded and no longer fed, but its chunks go on.
#[test]
fn a_successor_opens_what_it_backed_up_and_goes_on_with_it() {
    let mut node = Node::begin(BACKUP);
    assert!(!node.is_live());
    node.vault.register(node.vault.present(), &name("table"), PRINT, StateKind::Table(1)).unwrap();
    node.add(1, &[(1, 1)]);
    node.install(Some(1), OWNER);
    let table = node
        .vault
        .register(node.vault.present(), &name("table"), PRINT, StateKind::Table(1))
        .unwrap();
    assert_eq!(node.sum(), Some(Sum::from([(1, 1)])));
    node.vault.close_replica(node.vault.present(), node.operator, P0);
    assert!(node.vault.open_replica(node.vault.present(), table, P0).unwrap().is_some());
    let at = |from, through| Some(Span { from, through: Some(Epoch(through)) });
    assert_eq!(node.replica(), at(None, 1), "tables and chunks at the resume epoch");
    node.add(2, &[(1, 1)]);
    node.record(2);
    node.compact();
    assert_eq!(node.replica(), at(None, 1), "the tables are not fed");
    node.vault.close_replica(node.vault.present(), table, P0);
    assert_eq!((node.replica(), node.is_live()), (None, false));
    node.vault.deposit(node.vault.present(), table, P0, Box::new(()));
    assert!(node.is_live(), "the table is deposited, and the chunks were fed");
    node.install(Some(2), OWNER);
    assert!(node.vault.take_live(node.vault.present(), table, P0).unwrap().is_some());
    assert_eq!(node.sum(), Some(Sum::from([(1, 2)])));
    // A table that a panicked worker did not leave is not there, and the chunks do not stand for it.
    assert!(!node.is_live());
}

#[test]
fn an_owner_that_becomes_a_backup_is_filled_anew() {
    let mut node = Node::begin(OWNER);
    (1..=2).for_each(|epoch| node.add(epoch, &[(epoch, 1)]));
    node.record(2);
    node.compact();
    node.install(Some(2), BACKUP);
    assert_eq!((node.sum(), node.is_live(), node.replica()), (None, false, None));
    assert_eq!(node.vault.usage().filling_partitions, 1);
    // The owner's chunks are other ones than those that were here.
    let chunks = [(id(2, 9), encode(&[(1, 1)])), (id(3, 0), encode(&[(3, 1)]))];
    node.store(&delta(node.operator, (Some(2), 3), &chunks, false)).unwrap();
    let chunks = [(id(1, 7), encode(&[(2, 1)])), (id(4, 0), encode(&[(3, 1)]))];
    node.store(&delta(node.operator, (Some(3), 4), &chunks, true)).unwrap();
    node.vault.complete(ViewNumber(2), node.operator, Epoch(4)).unwrap();
    node.record(4);
    node.compact();
    assert_eq!(node.vault.usage().filling_partitions, 0);
    let filled = Span { from: Some(Epoch(4)), through: Some(Epoch(4)) };
    assert_eq!(node.replica(), Some(filled));
    node.install(Some(4), OWNER);
    assert_eq!(node.sum(), Some(Sum::from([(1, 1), (2, 1), (3, 2)])));
}

/// Where a node is its own backup and another one is filled: its tables are filled, too, and the filling
/// of all ends, but chunks that are there are not put there once more.
#[test]
fn filling_completes_a_copy_that_is_whole_and_changes_nothing_in_it() {
    let mut node = Node::begin(OWNER);
    node.vault.register(node.vault.present(), &name("table"), PRINT, StateKind::Table(1)).unwrap();
    (1..=2).for_each(|epoch| node.add(epoch, &[(epoch, 1)]));
    node.record(2);
    node.install(Some(2), BOTH);
    let table = node
        .vault
        .register(node.vault.present(), &name("table"), PRINT, StateKind::Table(1))
        .unwrap();
    assert!(node.vault.open_replica(node.vault.present(), table, P0).unwrap().is_none());
    assert_eq!(node.sum(), Some(Sum::from([(1, 1), (2, 1)])));
    let filling = [(id(1, 7), encode(&[(1, 1), (2, 1)])), (id(3, 0), encode(&[(3, 1)]))];
    node.store(&delta(node.operator, (Some(2), 3), &filling, true)).unwrap();
    node.record(3);
    assert_eq!(node.vault.usage().filling_partitions, 1, "the table is not filled");
    node.store(&delta(table, (None, 3), &[], true)).unwrap();
    assert_eq!(node.vault.usage().filling_partitions, 0);
    node.compact();
    node.install(Some(3), BACKUP);
    assert_eq!(node.sum(), Some(Sum::from([(1, 1), (2, 1), (3, 1)])));
    assert!(node.vault.open_replica(node.vault.present(), table, P0).unwrap().is_some());
}

#[test]
fn a_filling_that_was_not_complete_leaves_the_owner_its_copy() {
    let mut node = Node::begin(OWNER);
    node.vault.register(node.vault.present(), &name("table"), PRINT, StateKind::Table(1)).unwrap();
    node.add(1, &[(1, 1)]);
    node.record(1);
    node.install(Some(1), BOTH);
    let table = node
        .vault
        .register(node.vault.present(), &name("table"), PRINT, StateKind::Table(1))
        .unwrap();
    node.store(&delta(node.operator, (Some(1), 2), &[], true)).unwrap();
    node.record(2);
    node.install(Some(2), BOTH);
    assert_eq!(node.sum(), Some(Sum::from([(1, 1)])));
    // The filling begins anew for both.
    node.store(&delta(table, (None, 3), &[], true)).unwrap();
    node.record(3);
    assert_eq!(node.vault.usage().filling_partitions, 1);
    node.store(&delta(node.operator, (Some(2), 4), &[], true)).unwrap();
    node.record(4);
    assert_eq!(node.vault.usage().filling_partitions, 0);
}

#[test]
fn what_is_no_new_chunk_is_refused() {
    let mut node = Node::begin(OWNER);
    node.add(1, &[(1, 1)]);
    node.record(1);
    node.install(Some(1), OWNER);
    node.add(2, &[(1, 1)]);
    let refused = Err(VaultError::Snapshot(SnapshotError::Entry { index: 0 }));
    for (epoch, index) in [(2, 0), (2, 1), (4, 0)] {
        let chunks = [(id(epoch, index), encode(&[(1, 1)]))];
        assert_eq!(
            node.store(&delta(node.operator, (Some(2), 3), &chunks, false)),
            refused.clone()
        );
    }
    let subject = Subject { operator: node.operator, fingerprint: PRINT, partition: P0 };
    let mut removal = Vec::new();
    let mut writer = DeltaWriter::new(&mut removal, subject, Epoch(3), Some(Epoch(2)));
    let key = |bytes: &mut Vec<u8>| {
        bytes.extend_from_slice(&id(3, 0).encode());
        Ok(())
    };
    writer.remove(key).unwrap();
    writer.finish();
    assert_eq!(node.store(&removal), refused);
    node.add(3, &[(1, 1)]);
    node.install(Some(3), OWNER);
    assert_eq!(node.sum(), Some(Sum::from([(1, 3)])));
}

/// A worker stores while the compactor folds and merges: nothing is lost, and nothing counts twice.
#[test]
fn chunks_are_merged_while_a_worker_stores() {
    const EPOCHS: u64 = 2000;
    let mut node = Node::begin(BOTH);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                node.vault.compact(1000).unwrap();
            }
        });
        for epoch in 1..=EPOCHS {
            node.add(epoch, &[(epoch % 100, 1), (epoch, 1)]);
            node.record(epoch);
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    node.compact();
    node.install(Some(EPOCHS), OWNER);
    assert!(node.ids().len() < 16);
    let all = (1..=EPOCHS).flat_map(|epoch| [(epoch % 100, 1), (epoch, 1)]);
    assert_eq!(node.sum(), Some(sum_of(&all.collect::<Updates>())));
}

/// Tables and chunks count together: live is what all of them left.
#[test]
fn a_partition_is_live_with_its_tables_and_its_owner() {
    let node = Node::begin(OWNER);
    let table = node
        .vault
        .register(node.vault.present(), &name("table"), PRINT, StateKind::Table(1))
        .unwrap();
    assert!(!node.is_live());
    node.vault.deposit(node.vault.present(), table, P0, Box::new(()));
    assert!(node.is_live());
    node.vault.deposit(node.vault.present(), node.operator, P0, Box::new(()));
    assert_eq!(node.vault.usage().deposits, 1, "nothing live is left of a trace");
}
