//! What does protection cost per record and per dirty key, beside the same table without it?
//!
//! Held fixed: one thread, a count per u64 key, keys drawn uniformly from 1 M (or the number given as
//! the first argument), 256 partitions, hashes computed beforehand as routing does.
//!
//! Work is timed in slices of about a millisecond, of bare and tracked tables in turn, and each figure
//! is the lower quartile of its slices: on a shared machine, that of the slices nobody interrupted.
//! Then: what the two key hashes cost, and what the codecs cost for a value of a few plain numbers.
//! Run with `cargo bench -p ringfence-operators --features abomonation --bench state`.

use std::hint::black_box;
use std::time::Instant;

#[cfg(feature = "abomonation")]
use ringfence_operators::codec::abomonation::Abomonation;
use ringfence_operators::codec::{Codec, Postcard, fingerprint};
use ringfence_operators::hash::{KeyHasher, partition_of};
use ringfence_operators::ids::{Epoch, PartitionId};
use ringfence_operators::snapshot::{Subject, frames};
use ringfence_operators::state::{KeyedTable, Replica, Table, hash_key};

const PARTITIONS: u32 = 256;
const ROUNDS: u64 = 8;
const SLICE: usize = 16_384;

type Record = (u64, u64, usize);
type Live = KeyedTable<u64, u64>;

/// Nanoseconds per operation, of many slices.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn slice<R>(&mut self, operations: usize, work: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = black_box(work());
        self.0.push(start.elapsed().as_nanos() as f64 / operations.max(1) as f64);
        result
    }

    fn lower_quartile(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 4).copied().unwrap_or(f64::NAN)
    }

    fn print(&self, what: &str) -> f64 {
        let time = self.lower_quartile();
        println!("{what:<52} {time:>7.1} ns");
        time
    }
}

fn subject(partition: usize) -> Subject {
    let fingerprint = fingerprint::<u64, u64, Postcard>();
    Subject { operator: 1, fingerprint, partition: PartitionId(partition as u32) }
}

fn count_bare(tables: &mut [Table<u64, u64>], records: &[Record]) {
    for &(key, hash, partition) in records {
        *tables[partition].get_or_insert_with(hash, key, || 0) += 1;
    }
}

fn count(tables: &mut [Live], records: &[Record]) {
    for &(key, hash, partition) in records {
        tables[partition].update(hash, key, || 0, |count| *count += 1);
    }
}

/// A record of every key once, in any order; as many that are drawn; and what it took to hash these.
fn draw_records(keys: u64) -> (Vec<Record>, Vec<Record>, Times) {
    let mut seed = 1_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (seed >> 20) % below
    };
    let records = keys as usize;
    let mut order: Vec<u64> = (0..keys).collect();
    (1..records).for_each(|last| order.swap(last, draw(last as u64 + 1) as usize));
    let mut drawn: Vec<u64> = (0..records).map(|_| draw(keys)).collect();

    let mut scratch = Vec::new();
    let mut hash =
        |key: &u64| hash_key::<u64, Postcard>(KeyHasher::Rapid, key, &mut scratch).unwrap_or(0);
    let mut hashing = Times::default();
    for slice in drawn.chunks_mut(SLICE) {
        hashing.slice(slice.len(), || slice.iter().fold(0, |sum, key| sum ^ hash(key)));
    }
    let mut record = |key: u64| {
        let hash = hash(&key);
        (key, hash, partition_of(hash, PARTITIONS).0 as usize)
    };
    let once = order.into_iter().map(&mut record).collect();
    let uniform = drawn.into_iter().map(&mut record).collect();
    (once, uniform, hashing)
}

fn key_hash(hasher: KeyHasher, keys: &[Record]) -> Times {
    let (mut times, mut scratch) = (Times::default(), Vec::new());
    let mut hash = |key: &u64| hash_key::<u64, Postcard>(hasher, key, &mut scratch).unwrap_or(0);
    for slice in keys.chunks(SLICE) {
        times.slice(slice.len(), || slice.iter().fold(0, |sum, (key, ..)| sum ^ hash(key)));
    }
    times
}

/// Encodes values made of each key, and decodes them again.
fn code<V, C: Codec<V>>(what: &str, keys: &[Record], value: impl Fn(u64) -> V) {
    let [mut encoding, mut decoding] = <[Times; 2]>::default();
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for slice in keys.chunks(SLICE) {
        let values: Vec<V> = slice.iter().map(|(key, ..)| value(*key)).collect();
        bytes.clear();
        ends.clear();
        encoding.slice(slice.len(), || {
            for value in &values {
                C::encode(value, &mut bytes).expect("encoded");
                ends.push(bytes.len());
            }
        });
        decoding.slice(slice.len(), || {
            let mut start = 0;
            for end in &ends {
                black_box(C::decode(&bytes[start..*end]).expect("decoded"));
                start = *end;
            }
        });
    }
    encoding.print(&format!("encode {what} with {}", C::FORMAT));
    decoding.print(&format!("decode {what} with {}", C::FORMAT));
}

fn hashes_and_codecs(keys: &[Record]) {
    key_hash(KeyHasher::Rapid, keys).print("hash a key with rapidhash");
    key_hash(KeyHasher::Sha1, keys).print("hash a key with SHA-1");
    let three = |key: u64| (key, key << 20, key << 40);
    let sixteen = |key: u64| [key << 20; 16];
    code::<_, Postcard>("three numbers", keys, three);
    code::<_, Postcard>("sixteen numbers", keys, sixteen);
    #[cfg(feature = "abomonation")]
    {
        code::<_, Abomonation>("three numbers", keys, three);
        code::<_, Abomonation>("sixteen numbers", keys, sixteen);
    }
}

fn main() {
    // `cargo test` starts benches too, without this flag; there it is enough that they start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let argument = std::env::args().find_map(|argument| argument.parse().ok());
    let keys: u64 = argument.unwrap_or(1_000_000);
    let records = keys as usize;

    let (once, uniform, hashing) = draw_records(keys);
    hashes_and_codecs(&uniform);
    let mut bare: Vec<Table<u64, u64>> = (0..PARTITIONS).map(|_| Table::new()).collect();
    let mut live: Vec<Live> = (0..PARTITIONS).map(|_| Live::new(KeyHasher::Rapid)).collect();
    let mut replicas: Vec<Replica> =
        (0..PARTITIONS as usize).map(|partition| Replica::new(subject(partition))).collect();
    count_bare(&mut bare, &once);
    count(&mut live, &once);

    let [mut bare_again, mut dirty_again, mut bare_once, mut first] = <[Times; 4]>::default();
    let [mut sealing, mut storing, mut folding, mut pruning] = <[Times; 4]>::default();
    let (mut dirty, mut bytes) = (0, Vec::new());
    let mut buffers = vec![Vec::new(); PARTITIONS as usize];
    for round in 1..=ROUNDS {
        let epoch = Epoch(round);
        // Every key is dirty already: from the first filling, or from the end of the last round.
        for slice in uniform.chunks(SLICE) {
            bare_again.slice(slice.len(), || count_bare(&mut bare, slice));
            dirty_again.slice(slice.len(), || count(&mut live, slice));
        }
        for (partition, live) in live.iter_mut().enumerate() {
            bytes = std::mem::take(&mut buffers[partition]);
            bytes.clear();
            dirty = live.dirty();
            let seal = || live.seal(epoch, subject(partition), &mut bytes).expect("sealed");
            sealing.slice(dirty, seal);
            buffers[partition] = std::mem::take(&mut bytes);
        }
        for (bytes, replica) in buffers.iter().zip(&mut replicas) {
            storing.slice(dirty, || {
                for delta in frames(bytes) {
                    replica.push(&delta.expect("a delta")).expect("pushed");
                }
            });
        }
        for replica in &mut replicas {
            folding.slice(dirty, || replica.fold(epoch, usize::MAX).expect("folded"));
        }
        for live in &mut live {
            pruning.slice(dirty, || live.prune(epoch));
        }
        for slice in once.chunks(SLICE) {
            bare_once.slice(slice.len(), || count_bare(&mut bare, slice));
            first.slice(slice.len(), || count(&mut live, slice));
        }
    }
    bytes.extend_from_slice(&buffers[0]);
    let entries = frames(&bytes).next().map_or(1, |delta| delta.expect("a delta").header().entries);
    println!("{keys} keys, {} bytes per delta entry", bytes.len() as u64 / entries);
    hashing.print("encode and hash a key");
    let untracked = bare_again.print("untracked update");
    let tracked = dirty_again.print("tracked update of a dirty key");
    let untracked_once = bare_once.print("untracked update, each key once");
    let tracked_once = first.print("tracked update, each key once: first touches");
    let cost = sealing.print("seal, per dirty key")
        + storing.print("store (check, copy), per dirty key")
        + folding.print("fold, per dirty key")
        + pruning.print("prune, per dirty key");
    println!("sum per dirty key: {:.1} ns", tracked_once - untracked_once + cost);
    println!("ratio tracked to untracked, dirty keys: {:.3}", tracked / untracked);

    take_over(&mut replicas, &once);
    let live = live.iter().map(KeyedTable::memory_bytes).sum::<usize>();
    let copy = replicas.iter().map(Replica::base_bytes).sum::<usize>();
    println!("memory per key: live {} bytes, replica {} bytes", live / records, copy / records);
}

/// A successor opens the replicas and decodes them.
fn take_over(replicas: &mut [Replica], once: &[Record]) {
    let records = once.len();
    let through = Some(Epoch(ROUNDS));
    let [mut opening, mut touching, mut decoding, mut rewinding] = <[Times; 4]>::default();
    let mut successors: Vec<Live> = Vec::new();
    for replica in replicas {
        let mut successor = Live::new(KeyHasher::Rapid);
        opening.slice(1, || {
            let base = replica.open_at(through).expect("opened");
            successor.attach(base, through).expect("attached");
        });
        successors.push(successor);
    }
    for slice in once[..records / 20].chunks(SLICE / 16) {
        touching.slice(slice.len(), || count(&mut successors, slice));
    }
    for live in &mut successors {
        decoding.slice(records / PARTITIONS as usize, || live.decode_some(usize::MAX));
    }
    for live in &mut successors {
        rewinding.slice(live.dirty(), || live.rewind(through).expect("rewound"));
    }
    opening.print("open a replica, per partition");
    touching.print("update through an attached replica");
    decoding.print("decode in the background, per key");
    rewinding.print("rewind, per change");
}
