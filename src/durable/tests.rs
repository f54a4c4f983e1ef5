//! What is written is read again, whatever is damaged is noticed and named, and what no manifest needs goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use ringfence_operators::codec::{Postcard, fingerprint};
use ringfence_operators::hash::KeyHasher;
use ringfence_operators::ids::{Epoch, Incarnation, NodeId, OperatorName, PartitionId, ViewNumber};
use ringfence_operators::snapshot::Subject;
use ringfence_operators::state::KeyedTable;
use ringfence_operators::vault::{MemoryVault, Role, StateKind, Vault};

use super::directory::DirectoryStore;
use super::manifest::{self, Manifest, Newest, Stage};
use super::store::Store;
use super::writer::{Claim, ClaimError, Outcome, Scene, Writer, WriterSetup};
use super::{DurableError, restore, segment};
use crate::protocol::durability::{ManifestWritten, Order, Written};
use crate::protocol::view::DurableStart;

const PARTITIONS: u32 = 2;
const VIEW: ViewNumber = ViewNumber(1);
const BOTH: Role = Role { owner: true, backup: true };

type State = BTreeMap<(u32, u64), u64>;

fn print() -> u32 {
    fingerprint::<u64, u64, Postcard>()
}

/// A cluster of one node that writes into a store.
struct Node {
    store: Arc<dyn Store>,
    vault: Arc<MemoryVault>,
    writer: Writer,
    outcomes: mpsc::Receiver<Outcome>,
    scene: Arc<Scene>,
    tables: Vec<KeyedTable<u64, u64>>,
    operator: u64,
    epoch: u64,
    durable: u64,
}

/// The writer of a start of a cluster, and what it does.
fn writer(
    store: &Arc<dyn Store>,
    vault: &Arc<MemoryVault>,
    start: DurableStart,
    run: &str,
) -> (Writer, mpsc::Receiver<Outcome>) {
    let (sender, outcomes) = mpsc::channel();
    let setup = WriterSetup {
        store: Arc::clone(store),
        vault: Arc::clone(vault),
        node: NodeId(0),
        incarnation: Incarnation(7),
        claim: Claim { start, run: run.to_owned(), commit_waits: false },
    };
    (Writer::start(setup, move |outcome| drop(sender.send(outcome))), outcomes)
}

fn some(epoch: u64) -> Option<Epoch> {
    (epoch > 0).then_some(Epoch(epoch))
}

impl Node {
    fn start(store: Arc<dyn Store>, start: DurableStart) -> Self {
        let vault = Arc::new(MemoryVault::durable(PARTITIONS));
        vault.install(VIEW, None, &|_| BOTH).unwrap();
        let kind = StateKind::Table(PARTITIONS);
        let operator = vault.register(VIEW, &OperatorName::new("counts"), print(), kind).unwrap();
        let (writer, outcomes) = writer(&store, &vault, start, "run");
        let writes = vec![true; PARTITIONS as usize];
        let members = vec![(NodeId(0), "here:1".to_owned())];
        Node {
            store,
            vault,
            writer,
            outcomes,
            scene: Arc::new(Scene { view: VIEW, members, writes }),
            tables: (0..PARTITIONS).map(|_| KeyedTable::new(KeyHasher::Rapid)).collect(),
            operator,
            epoch: 0,
            durable: 0,
        }
    }

    fn subject(&self, partition: u32) -> Subject {
        Subject { operator: self.operator, fingerprint: print(), partition: PartitionId(partition) }
    }

    /// Changes some keys, and commits that.
    fn commit(&mut self, keys: impl Iterator<Item = u64>) {
        self.epoch += 1;
        let mut bytes = Vec::new();
        let keys: Vec<u64> = keys.collect();
        for partition in 0..PARTITIONS {
            let subject = self.subject(partition);
            let table = &mut self.tables[partition as usize];
            for key in keys.iter().filter(|key| (**key % u64::from(PARTITIONS)) as u32 == partition)
            {
                let hash = table.hash_of(key).unwrap();
                table.update(hash, *key, || 0, |count| *count += self.epoch);
            }
            table.seal(Epoch(self.epoch), subject, &mut bytes).unwrap();
        }
        self.vault.store(VIEW, &bytes).unwrap();
        self.vault.record(VIEW, Epoch(self.epoch)).unwrap();
    }

    fn order(&self) -> Order {
        Order { view: VIEW, durable: some(self.durable), epoch: Epoch(self.epoch) }
    }

    /// Makes all durable; returns what came of the manifest.
    fn save(&mut self) -> ManifestWritten {
        let order = self.order();
        self.writer.segment(Arc::clone(&self.scene), order);
        let Outcome::Segment(_, Written::Segment(segment)) = self.outcomes.recv().unwrap() else {
            panic!("a segment is written");
        };
        self.writer.manifest(Arc::clone(&self.scene), order, segment.into_iter().collect());
        let Outcome::Manifest(_, written) = self.outcomes.recv().unwrap() else {
            panic!("a manifest is written, or not");
        };
        if written == ManifestWritten::Created {
            self.durable = self.epoch;
            self.vault.saved(Epoch(self.epoch));
        }
        written
    }

    fn state(&mut self) -> State {
        let mut state = State::new();
        for (partition, table) in (0..).zip(&mut self.tables) {
            table.for_each(|key, count| {
                state.insert((partition, *key), *count);
            });
        }
        state
    }
}

fn fresh() -> DurableStart {
    DurableStart { start: 1, manifest: 0, epoch: None, shares: 1, is_exact: true }
}

fn store(directory: &Path) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::open(directory).unwrap())
}

/// The state of a manifest.
fn read(store: &dyn Store, manifest: &Manifest) -> Result<State, DurableError> {
    let mut state = State::new();
    for mut replica in restore::replicas(store, manifest, &|_| true)? {
        let partition = replica.subject().partition.0;
        let mut table = KeyedTable::<u64, u64>::new(KeyHasher::Rapid);
        table.attach(replica.open_at(manifest.epoch).unwrap(), manifest.epoch).unwrap();
        table.for_each(|key, count| {
            state.insert((partition, *key), *count);
        });
    }
    Ok(state)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn what_became_durable_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(store(dir.path()), fresh());
    for round in 0..40 {
        node.commit((0..200).filter(|key| key % 7 == round % 7));
        if round % 3 == 0 {
            assert_eq!(node.save(), ManifestWritten::Created);
            let Newest { manifest, passed_over, .. } =
                Manifest::newest(node.store.as_ref()).unwrap();
            let newest = manifest.unwrap();
            assert_eq!((newest.epoch, passed_over.len()), (some(node.epoch), 0));
            let expected = node.state();
            assert_eq!(read(node.store.as_ref(), &newest).unwrap(), expected);
        }
    }
    // Only the last manifests are kept.
    assert_eq!(manifest::numbers(node.store.as_ref()).unwrap().len(), 3);
}

#[test]
fn segments_that_later_bases_supersede_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(store(dir.path()), fresh());
    for _ in 0..120 {
        // Everything changes each time: soon, a base is less than the deltas.
        node.commit(0..2_000);
        while node.vault.compact(usize::MAX).unwrap() > 0 {}
        node.save();
    }
    let newest = Manifest::newest(node.store.as_ref()).unwrap().manifest.unwrap();
    let kept = node.store.list(segment::FOLDER).unwrap().len();
    assert!(kept < 40, "{kept} segments of 120 are left");
    assert!(newest.epoch > some(100), "{:?}", newest.epoch);
    let mut expected = State::new();
    for key in 0..2_000_u64 {
        let through = newest.epoch.unwrap().0;
        expected.insert(((key % 2) as u32, key), through * (through + 1) / 2);
    }
    assert_eq!(read(node.store.as_ref(), &newest).unwrap(), expected);
}

/// Writes a few manifests and returns the state of the newest one, and of the one before.
fn written(directory: &Path) -> [State; 2] {
    let mut node = Node::start(store(directory), fresh());
    let mut states = Vec::new();
    for round in 0..4 {
        node.commit((0..40).filter(|key| key % 4 == round));
        node.save();
        states.push(node.state());
    }
    [states.pop().unwrap(), states.pop().unwrap()]
}

/// Any byte of any file is flipped or cut off: that is noticed, and names the file; if it is the newest manifest,
/// the one before it serves.
#[test]
fn every_mutation_is_noticed_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let [newest, before] = written(dir.path());
    let store = store(dir.path());
    let files = files(dir.path());
    let named: BTreeSet<String> = {
        let manifest = Manifest::newest(store.as_ref()).unwrap().manifest.unwrap();
        assert_eq!(read(store.as_ref(), &manifest).unwrap(), newest);
        manifest.segments.into_iter().map(|segment| segment.name).collect()
    };
    let mut state = 5_u64;
    let mut random = |below: usize| {
        // splitmix64, see Steele, Lea and Flood, OOPSLA 2014.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    };
    let (mut refused, mut passed_over) = (0, 0);
    for _ in 0..10_000 {
        let path = &files[random(files.len())];
        let whole = fs::read(path).unwrap();
        let mut bytes = whole.clone();
        let at = random(bytes.len());
        if random(2) == 0 {
            bytes[at] ^= 1 << random(8);
        } else {
            bytes.truncate(at);
        }
        fs::write(path, &bytes).unwrap();
        let name = path.strip_prefix(dir.path()).unwrap().display().to_string();
        let found = Manifest::newest(store.as_ref()).and_then(|found| {
            Ok((read(store.as_ref(), &found.manifest.unwrap())?, found.passed_over))
        });
        match found {
            Ok((state, over)) if over.is_empty() => {
                // An older manifest, which is not looked at.
                assert_eq!(state, newest, "{name}, byte {at}");
                assert!(!named.contains(&name), "{name}, byte {at} was not noticed");
            }
            Ok((state, over)) => {
                assert_eq!(state, before, "{name}, byte {at}");
                assert!(over[0].to_string().contains(&name), "{}", over[0]);
                passed_over += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains(&name), "{name}, byte {at}: {error}");
                refused += 1;
            }
        }
        fs::write(path, whole).unwrap();
    }
    assert!(refused > 1_000 && passed_over > 500, "{refused} refused, {passed_over} passed over");
}

#[test]
fn a_later_format_is_refused_and_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let store = store(dir.path());
    let newest = Manifest::newest(store.as_ref()).unwrap().manifest.unwrap();
    let later = Manifest { number: newest.number + 1, version: 2, ..newest };
    later.create(store.as_ref()).unwrap();
    let error = Manifest::newest(store.as_ref()).unwrap_err().to_string();
    assert!(error.contains("has format 2, and this release reads format 1"), "{error}");
}

/// A start of a cluster that goes on from the newest manifest.
fn restarted(store: &Arc<dyn Store>) -> Node {
    let newest = Manifest::newest(store.as_ref()).unwrap().manifest.unwrap();
    let start = DurableStart {
        start: newest.start + 1,
        manifest: newest.number,
        epoch: newest.epoch,
        shares: newest.shares,
        is_exact: newest.is_exact,
    };
    Node::start(Arc::clone(store), start)
}

#[test]
fn of_two_clusters_on_one_store_one_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut first = Node::start(Arc::clone(&store), fresh());
    first.commit(0..10);
    first.save();
    // The second claims the store: the first writes no more.
    let second = restarted(&store);
    second.writer.claim(Arc::clone(&second.scene));
    first.commit(0..10);
    while Manifest::newest(store.as_ref()).unwrap().manifest.unwrap().stage != Stage::Claimed {
        std::thread::yield_now();
    }
    assert_eq!(first.save(), ManifestWritten::Superseded { run: "run".to_owned() });
    // A third that started at the same time as the second comes too late.
    let newest = Manifest::newest(store.as_ref()).unwrap().manifest.unwrap();
    let start = DurableStart { start: newest.start, manifest: newest.number - 1, ..fresh() };
    let third = Node::start(Arc::clone(&store), start);
    let (writer, outcomes) = writer(&store, &third.vault, start, "other");
    writer.claim(Arc::clone(&third.scene));
    let Outcome::Unclaimed(error) = outcomes.recv().unwrap() else { panic!("it is claimed") };
    assert!(matches!(error, ClaimError::Taken { .. }), "{error}");
}

#[test]
fn a_cluster_that_still_writes_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut first = Node::start(Arc::clone(&store), fresh());
    first.commit(0..10);
    first.save();
    let second = restarted(&store);
    // Between what the second has read and its claim, the first goes on.
    first.commit(0..10);
    assert_eq!(first.save(), ManifestWritten::Created);
    second.writer.claim(Arc::clone(&second.scene));
    let Outcome::Unclaimed(error) = second.outcomes.recv().unwrap() else { panic!("claimed") };
    assert!(error.to_string().contains("still writes to"), "{error}");
    first.commit(0..10);
    assert_eq!(first.save(), ManifestWritten::Created);
}

#[test]
fn a_damaged_manifest_is_passed_over_and_its_number_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut first = Node::start(Arc::clone(&store), fresh());
    for _ in 0..3 {
        first.commit(0..10);
        first.save();
    }
    let last = Manifest::newest(store.as_ref()).unwrap().manifest.unwrap().number;
    fs::write(dir.path().join(manifest::name_of(last)), "cut").unwrap();
    let found = Manifest::newest(store.as_ref()).unwrap();
    assert_eq!((found.manifest.unwrap().number, found.next_number), (last - 1, last + 1));
    let second = restarted(&store);
    second.writer.claim(Arc::clone(&second.scene));
    while Manifest::newest(store.as_ref()).unwrap().manifest.unwrap().stage != Stage::Claimed {
        std::thread::yield_now();
    }
    assert_eq!(Manifest::newest(store.as_ref()).unwrap().manifest.unwrap().number, last + 1);
}
