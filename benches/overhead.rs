//! What does protection cost while nothing fails?
//!
//! A keyed running count over 1 M uniform u64 keys, and a word count, protected against the same job
//! on bare timely with the same fast map and with the standard `HashMap`. The variants run in turn, in
//! rounds, with the same workers and the same number of records; the figure is records per second of
//! the whole run, and the ratio is formed within a round. Start and end of a run count, so a run takes
//! some seconds. Held fixed: batches of 1,024 records, one backup, 256 partitions. In one process the
//! backup is the process's own vault: all of protection but the network.
//!
//! With `--durable`, it asks instead what the durable tier costs, against the same job in memory only: once a
//! second, and with results that wait for it. The store is below the system's temporary directory.
//!
//! ```text
//! cargo bench --bench overhead [-- --quick] [-- --rounds N] [-- --durable]
//! ```

mod support;

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringfence::Config;
use ringfence::operators::codec::Postcard;
use ringfence::operators::hash::{KeyHasher, partition_of};
use ringfence::operators::state::{Table, hash_key};
use ringfence::prelude::*;
use support::{Spread, has, mix, write_json};
use timely::CommunicationConfig;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{Scope, StreamVec};
use timely::worker::Worker;

const BATCH: usize = 1024;
const PARTITIONS: u32 = 256;
const WORDS: u64 = 20_000;

/// One run: what is counted, how it is protected, on how many processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    job: Job,
    variant: Variant,
    processes: u64,
    epoch_ms: u64,
    records: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Counts of 1 M keys; nothing comes out.
    Keys,
    /// Counts of words; nothing comes out.
    Words,
    /// Counts of words; every count is a line of output.
    WordLines,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Fenced,
    Durable,
    DurableCommit,
    BareTable,
    BareHashMap,
}

impl Run {
    fn args(&self) -> Vec<String> {
        let Run { job, variant, processes, epoch_ms, records } = self;
        vec![format!("run={job:?},{variant:?},{processes},{epoch_ms},{records}")]
    }

    fn parse(text: &str) -> Option<Run> {
        let parts: Vec<&str> = text.strip_prefix("run=")?.split(',').collect();
        let job = match parts[0] {
            "Keys" => Job::Keys,
            "Words" => Job::Words,
            _ => Job::WordLines,
        };
        let variant = match parts[1] {
            "Fenced" => Variant::Fenced,
            "Durable" => Variant::Durable,
            "DurableCommit" => Variant::DurableCommit,
            "BareTable" => Variant::BareTable,
            _ => Variant::BareHashMap,
        };
        let number = |index: usize| parts[index].parse().ok();
        Some(Run { job, variant, processes: number(2)?, epoch_ms: number(3)?, records: number(4)? })
    }
}

impl Variant {
    fn is_bare(self) -> bool {
        matches!(self, Variant::BareTable | Variant::BareHashMap)
    }
}

fn key(n: u64) -> u64 {
    mix(n) % 1_000_000
}

/// A word of a text in which few words are frequent.
fn word(n: u64) -> String {
    let (a, b) = (mix(n) % WORDS, mix(n ^ 0xabcd) % WORDS);
    format!("word{}", a * b / WORDS)
}

fn main() {
    if let Some(run) = std::env::args().find_map(|arg| Run::parse(&arg)) {
        execute(run);
        return;
    }
    // `cargo test` starts benches too, without this flag; there it is enough that they start.
    if !has("--bench") {
        return;
    }
    let quick = has("--quick");
    let rounds = std::env::args()
        .skip_while(|arg| arg != "--rounds")
        .nth(1)
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(if quick { 3 } else { 7 });
    let scale = if quick { 3 } else { 1 };
    let cases = [
        (Job::Keys, 1, 1000, 24_000_000),
        (Job::Keys, 1, 100, 24_000_000),
        (Job::Keys, 3, 1000, 24_000_000),
        (Job::Keys, 3, 100, 24_000_000),
        (Job::Words, 1, 100, 9_000_000),
        (Job::WordLines, 1, 100, 6_000_000),
        (Job::Words, 3, 100, 9_000_000),
        (Job::WordLines, 3, 100, 6_000_000),
    ];
    let table = if has("--durable") {
        Comparison {
            name: "overhead-durable",
            variants: [Variant::Fenced, Variant::Durable, Variant::DurableCommit],
            columns: ["memory", "durable", "durable commit"],
            ratios: [(1, 0, "ratio"), (2, 0, "ratio of commit")],
        }
    } else {
        Comparison {
            name: "overhead",
            variants: [Variant::Fenced, Variant::BareTable, Variant::BareHashMap],
            columns: ["protected", "bare, same map", "bare, HashMap"],
            ratios: [(0, 1, "ratio"), (0, 2, "ratio to HashMap")],
        }
    };
    // What is durable is so once a second, whatever the epochs.
    let is_asked = |case: &&(Job, u64, u64, u64)| !has("--durable") || case.2 == 100;
    let cases: Vec<_> = cases.iter().filter(is_asked).copied().collect();
    table.measure(&cases, rounds, scale);
}

/// Three variants of each job in turn, and two ratios of them.
struct Comparison {
    name: &'static str,
    variants: [Variant; 3],
    columns: [&'static str; 3],
    /// Which variant is divided by which.
    ratios: [(usize, usize, &'static str); 2],
}

impl Comparison {
    fn measure(&self, cases: &[(Job, u64, u64, u64)], rounds: usize, scale: u64) {
        let [first, second, third] = self.columns;
        let [(.., ratio), (.., other_ratio)] = self.ratios;
        println!(
            "{rounds} rounds; median [min-max] of M records/s, and of the ratio within a round"
        );
        println!(
            "{:<10} {:>9} {:>8}  {first:>20} {second:>20} {third:>20}  {ratio:>18} {other_ratio:>18}",
            "job", "processes", "epoch ms"
        );
        let mut figures = Vec::new();
        for &(job, processes, epoch_ms, records) in cases {
            let records = records / scale;
            let (mut rates, mut ratios) = ([vec![], vec![], vec![]], [vec![], vec![]]);
            for _ in 0..rounds {
                let rate = self
                    .variants
                    .map(|variant| measure(Run { job, variant, processes, epoch_ms, records }));
                (0..3).for_each(|variant| rates[variant].push(rate[variant]));
                for (ratios, (above, below, _)) in ratios.iter_mut().zip(self.ratios) {
                    ratios.push(rate[above] / rate[below]);
                }
            }
            let [rates, ratios] = [&rates[..], &ratios[..]];
            let shown: Vec<String> = rates.iter().chain(ratios).map(|all| shown(all)).collect();
            println!(
                "{:<10} {processes:>9} {epoch_ms:>8}  {:>20} {:>20} {:>20}  {:>18} {:>18}",
                format!("{job:?}"),
                shown[0],
                shown[1],
                shown[2],
                shown[3],
                shown[4]
            );
            let names = self.columns.into_iter().chain(self.ratios.map(|(.., name)| name));
            let spreads =
                rates.iter().chain(ratios).map(|all| Spread::of(all).map(Spread::to_json));
            let mut figure = serde_json::json!({
                "job": format!("{job:?}"), "processes": processes, "epoch_ms": epoch_ms,
                "records": records, "rounds": rounds,
            });
            for (name, spread) in names.zip(spreads) {
                figure[name] = serde_json::json!(spread);
            }
            figures.push(figure);
        }
        match write_json(self.name, &serde_json::json!(figures)) {
            Ok(path) => println!("written to {}", path.display()),
            Err(error) => eprintln!("cannot write the figures: {error}"),
        }
    }
}

fn shown(figures: &[f64]) -> String {
    match Spread::of(figures) {
        Some(Spread { median, min, max, .. }) => format!("{median:.2} [{min:.2}-{max:.2}]"),
        None => "-".to_owned(),
    }
}

/// Runs `run` in processes of its own; returns M records per second.
fn measure(run: Run) -> f64 {
    let begun = Instant::now();
    let start = |extra: &[String]| -> Child {
        Command::new(std::env::current_exe().expect("a bench knows where it is"))
            .args(run.args())
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a bench can start itself")
    };
    let children = if !run.variant.is_bare() || run.processes == 1 {
        vec![start(&[])]
    } else {
        let listeners: Vec<TcpListener> = (0..run.processes)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("there is a free port"))
            .collect();
        let addresses: Vec<String> =
            listeners.iter().map(|l| l.local_addr().expect("it is bound").to_string()).collect();
        drop(listeners);
        let process = |index: u64| start(&[format!("process={index}"), addresses.join(";")]);
        (0..run.processes).map(process).collect()
    };
    for mut child in children {
        let status = child.wait().expect("a child can be waited for");
        assert!(status.success(), "{run:?} ended with {status}");
    }
    run.records as f64 / begun.elapsed().as_secs_f64() / 1e6
}

fn execute(run: Run) {
    if !run.variant.is_bare() {
        let out = std::env::args().find_map(|arg| arg.strip_prefix("out=").map(str::to_owned));
        let fresh = tempfile::tempdir().expect("a temporary directory");
        let out = out.unwrap_or_else(|| fresh.path().join("out").display().to_string());
        let mut args = run.args();
        args.push(format!("out={out}"));
        let config = match run.processes {
            1 => Config::single(),
            nodes => Config::local(nodes as usize).node_args(args),
        };
        let config = config.epoch(Duration::from_millis(run.epoch_ms));
        let store = format!("{out}.store");
        let config = match run.variant {
            Variant::Durable => config.durable(store),
            Variant::DurableCommit => config.durable(store).durable_commit(),
            _ => config,
        };
        ringfence::execute(config, move |worker| fenced(worker, run, &out)).expect("the job runs");
        return;
    }
    let mut args = std::env::args().skip_while(|arg| !arg.starts_with("process="));
    let communication = match args.next() {
        None => CommunicationConfig::Thread,
        Some(process) => CommunicationConfig::Cluster {
            threads: 1,
            process: process["process=".len()..].parse().expect("a number"),
            addresses: args.next().expect("addresses").split(';').map(str::to_owned).collect(),
            report: false,
            zerocopy: false,
        },
    };
    let config = timely::Config { communication, worker: timely::WorkerConfig::default() };
    let guards = timely::execute(config, move |worker| bare(worker, run)).expect("timely starts");
    for result in guards.join() {
        result.expect("the worker ends");
    }
}

fn fenced(worker: &mut Worker, run: Run, out: &str) {
    worker.dataflow::<u64, _, _>(|scope| {
        let numbers =
            per_share(move |share| (share.index..run.records).step_by(share.count as usize));
        match run.job {
            Job::Keys => {
                per_share(move |share| {
                    (share.index..run.records).step_by(share.count as usize).map(key)
                })
                .to_stream_fenced(scope, "numbers")
                .fold_fenced(
                    "counts",
                    |n: &u64| *n,
                    0u64,
                    |count, _, _: &mut Give<'_, ()>| {
                        *count += 1;
                    },
                );
            }
            Job::Words => {
                numbers.to_stream_fenced(scope, "numbers").map(word).fold_fenced(
                    "counts",
                    String::clone,
                    0u64,
                    |count, _, _: &mut Give<'_, ()>| {
                        *count += 1;
                    },
                );
            }
            Job::WordLines => {
                numbers
                    .to_stream_fenced(scope, "numbers")
                    .map(word)
                    .fold_fenced("counts", String::clone, 0u64, |count: &mut u64, word, out| {
                        *count += 1;
                        out.give((word, *count));
                    })
                    .sink_fenced("totals", LineFiles::new(out));
            }
        }
    });
}

/// The numbers of this worker, in batches, with an epoch that the clock advances.
fn numbers<'scope>(scope: Scope<'scope, u64>, run: Run) -> StreamVec<'scope, u64, u64> {
    let (index, peers) = (scope.index() as u64, scope.peers() as u64);
    source::<_, CapacityContainerBuilder<Vec<u64>>, _, _>(scope, "numbers", |capability, info| {
        let activator = scope.activator_for(info.address);
        let (mut capability, mut next) = (Some(capability), index);
        let started = Instant::now();
        let keys = run.job == Job::Keys;
        move |output| {
            let Some(held) = &mut capability else { return };
            let epoch = started.elapsed().as_millis() as u64 / run.epoch_ms;
            if epoch > *held.time() {
                held.downgrade(&epoch);
            }
            let mut batch = Vec::with_capacity(BATCH);
            while batch.len() < BATCH && next < run.records {
                batch.push(if keys { key(next) } else { next });
                next += peers;
            }
            output.session(held).give_container(&mut batch);
            if next < run.records {
                activator.activate();
            } else {
                capability = None;
            }
        }
    })
}

/// A map from keys to counts, behind one face for both kinds.
enum Counts<K> {
    Table { tables: Vec<Table<K, u64>>, scratch: Vec<u8> },
    HashMap(HashMap<K, u64>),
}

impl<K: Data + Eq + std::hash::Hash> Counts<K> {
    fn of(variant: Variant) -> Self {
        match variant {
            Variant::BareHashMap => Counts::HashMap(HashMap::new()),
            _ => Counts::Table {
                tables: (0..PARTITIONS).map(|_| Table::new()).collect(),
                scratch: Vec::new(),
            },
        }
    }

    fn count(&mut self, key: K) -> u64 {
        let count = match self {
            Counts::HashMap(map) => map.entry(key).or_default(),
            Counts::Table { tables, scratch } => {
                let hash = hash(&key, scratch);
                let table = &mut tables[partition_of(hash, PARTITIONS).0 as usize];
                table.get_or_insert_with(hash, key, || 0)
            }
        };
        *count += 1;
        *count
    }
}

fn hash<K: Data>(key: &K, scratch: &mut Vec<u8>) -> u64 {
    hash_key::<K, Postcard>(KeyHasher::Rapid, key, scratch).expect("numbers and words encode")
}

fn bare(worker: &mut Worker, run: Run) {
    worker.dataflow::<u64, _, _>(|scope| {
        let numbers = numbers(scope, run);
        match run.job {
            Job::Keys => {
                counted(numbers, run);
            }
            Job::Words => {
                counted(numbers.map(word), run);
            }
            Job::WordLines => {
                let file = tempfile::tempfile().expect("a temporary file");
                let mut file = std::io::BufWriter::with_capacity(1 << 16, file);
                counted(numbers.map(word), run).inspect(move |(word, count)| {
                    use std::io::Write;
                    writeln!(file, "{word}\t{count}").expect("the file can be written");
                });
            }
        }
    });
}

fn counted<'scope, K>(keys: StreamVec<'scope, u64, K>, run: Run) -> StreamVec<'scope, u64, (K, u64)>
where
    K: Data + Eq + std::hash::Hash,
{
    let lines = run.job == Job::WordLines;
    let mut scratch = Vec::new();
    let hasher = std::collections::hash_map::RandomState::new();
    let default = run.variant == Variant::BareHashMap && run.processes == 1;
    let pact = Exchange::new(move |key: &K| {
        if default {
            std::hash::BuildHasher::hash_one(&hasher, key)
        } else {
            hash(key, &mut scratch) >> 32
        }
    });
    keys.unary::<CapacityContainerBuilder<Vec<(K, u64)>>, _, _, _>(pact, "counts", move |_, _| {
        let mut counts = Counts::of(run.variant);
        move |input, output| {
            input.for_each(|capability, batch| {
                let mut session = output.session(&capability);
                for key in batch.drain(..) {
                    let kept = if lines { Some(key.clone()) } else { None };
                    let count = counts.count(key);
                    if let Some(key) = kept {
                        session.give((key, count));
                    }
                }
            });
        }
    })
}
