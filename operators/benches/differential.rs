//! What differential's protection costs, and how soon its state is there again.
//!
//! `restore`: a job with `n` records of state is stopped and begun anew from its node's vault; the figure is
//! the time from the beginning of its build until a probe on the output has passed what was committed, and
//! the number of old records that came out on the way. Against it the time that bare differential takes
//! to read the same input again. `overhead`: updates per second of a count over a million keys, each
//! protected form against bare differential within a round. `memory`: what is live and what a replica
//! holds under steady change.
//! Held fixed: one worker thread, 256 partitions, u64 keys, every epoch a checkpoint, the only replica in this
//! process, which is folded and merged by a thread of its own as in a job.
//!
//! ```text
//! cargo bench -p ringfence-operators --bench differential -- restore [RECORDS.. [FILE.svg]]
//! cargo bench -p ringfence-operators --bench differential -- overhead [ROUNDS]
//! cargo bench -p ringfence-operators --bench differential -- memory [SECONDS] [JOB..]
//! cargo bench -p ringfence-operators --bench differential -- one JOB [RECORDS]     # a restore, alone
//! cargo bench -p ringfence-operators --bench differential -- speed JOB [EPOCHS]    # its updates per second
//! ```

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use differential_dataflow::collection::AsCollection;
use ringfence_operators::fence::generation::{
    Clock, Gauges, Generation, Notice, Observer, PIECE_BYTES, Routes, Settings,
};
use ringfence_operators::hash::KeyHasher;
use ringfence_operators::ids::{Epoch, ViewNumber};
use ringfence_operators::prelude::*;
use ringfence_operators::vault::{MemoryVault, Role, Vault};
use ringfence_operators::worker::{WorkerEnd, run_worker};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Hooks, initialize_from};
use timely::dataflow::operators::vec::Input;
use timely::dataflow::operators::{Inspect, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, StreamVec};
use timely::worker::{Config, Worker};

const PARTITIONS: usize = 256;

type Update = (u64, u64, isize);

/// What is made of the records, and how it is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    BareCount,
    HydratedCount,
    RestoredCount,
    /// Where times are totally ordered a count needs no arrangement of its output.
    RestoredCountTotal,
    BareJoin,
    HydratedJoin,
    RestoredJoin,
}

impl Job {
    /// Builds the job; returns the stream of its output's changes.
    fn build<'scope>(self, updates: StreamVec<'scope, u64, Update>) -> StreamVec<'scope, u64, ()> {
        use timely::dataflow::operators::vec::Map;
        let bare = || updates.clone().as_collection();
        let fenced = || updates.clone().as_collection_fenced();
        let pair = |n: u64| (n / 2, n);
        match self {
            Job::BareCount => bare().count().inner.map(drop),
            Job::HydratedCount => {
                fenced().fenced("n").count().into_fenced().into_stream().map(drop)
            }
            Job::RestoredCount => fenced().count_fenced("n").into_stream().map(drop),
            Job::RestoredCountTotal => {
                fenced().arrange_by_self_fenced("n").count_total().into_stream().map(drop)
            }
            Job::BareJoin => {
                let (left, right) = (bare().map(pair), bare().map(pair));
                left.join_map(right, |key, _, _| *key).inner.map(drop)
            }
            Job::HydratedJoin => {
                let all = fenced().fenced("n");
                let (left, right) = (all.clone().map(pair), all.map(pair));
                left.join_map(right, |key, _, _| *key).into_fenced().into_stream().map(drop)
            }
            Job::RestoredJoin => {
                let (left, right) = (fenced().map(pair), fenced().map(pair));
                left.join_map_fenced("n", right, |key, _, _| *key).into_stream().map(drop)
            }
        }
    }

    fn is_bare(self) -> bool {
        matches!(self, Job::BareCount | Job::BareJoin)
    }
}

struct Still(Instant);

impl Clock for Still {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Observer for Still {
    fn notice(&self, _notice: Notice) {}
}

/// A node of one worker, through several views.
struct Node {
    vault: Arc<MemoryVault>,
    view: ViewNumber,
    resume: Option<Epoch>,
}

impl Node {
    fn new() -> Self {
        let vault = Arc::new(MemoryVault::new(PARTITIONS as u32));
        Node { vault, view: ViewNumber(0), resume: None }
    }

    /// Runs a job on bare timely, or one generation of it under a fence.
    fn run_as<A: Send + 'static>(
        &mut self,
        is_bare: bool,
        job: impl Fn(&mut Worker) -> A + Send + Sync + 'static,
    ) -> A {
        if is_bare { timely::execute_directly(job) } else { self.run(job) }
    }

    /// Runs one generation.
    fn run<A: Send + 'static>(
        &mut self,
        job: impl Fn(&mut Worker) -> A + Send + Sync + 'static,
    ) -> A {
        self.view.0 += 1;
        self.resume = self.vault.recorded();
        let everything = |_| Role { owner: true, backup: true };
        self.vault.install(self.view, self.resume, &everything).expect("the next view");
        let routes = Routes {
            owners: vec![0; PARTITIONS],
            backups: vec![vec![0]; PARTITIONS],
            filling: vec![false; PARTITIONS],
        };
        let settings = Settings {
            hasher: KeyHasher::default(),
            epoch_interval: Duration::from_millis(5),
            checkpoint_interval: None,
            in_flight_epochs_max: 4,
            run: "bench".to_owned(),
            workers_per_node: 1,
            share_count: 1,
            refill_bytes_per_second: u64::MAX,
            piece_bytes: PIECE_BYTES,
            durable: None,
        };
        let still = Arc::new(Still(Instant::now()));
        let generation = Arc::new(Generation::new(
            self.view,
            self.resume,
            routes,
            settings,
            Arc::clone(&self.vault) as Arc<dyn Vault>,
            Arc::clone(&still) as Arc<dyn Clock>,
            still,
            Arc::new(Gauges::default()),
        ));
        let done = Arc::new(AtomicBool::new(false));
        let compactor = {
            let (vault, done) = (Arc::clone(&self.vault), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    match vault.compact(4 << 20).expect("chunks are whole") {
                        0 => std::thread::sleep(Duration::from_millis(5)),
                        _ => std::thread::yield_now(),
                    }
                }
            })
        };
        let (result, answer) = std::sync::mpsc::channel();
        let builders = ProcessBuilder::new_typed_vector(1, Hooks::default().refill, None);
        let builders = builders.into_iter().map(AllocatorBuilder::Process).collect();
        let guards = initialize_from(builders, Box::new(()), move |allocator| {
            let result = result.clone();
            run_worker(allocator, Config::default(), &generation, |worker| {
                let answer = job(worker);
                result.send(answer).expect("the answer is waited for");
                // What is committed stays for the next view, and nothing is brought to an end.
                generation.stop();
                loop {
                    worker.step();
                }
            })
        });
        for end in guards.expect("threads").join() {
            assert!(matches!(end, Ok(WorkerEnd::<()>::Stopped)), "a worker ended with {end:?}");
        }
        done.store(true, Ordering::Relaxed);
        compactor.join().expect("the compactor");
        answer.recv().expect("an answer")
    }

    /// Folds and merges all that there is.
    fn settle(&self) {
        while self.vault.compact(usize::MAX).expect("chunks are whole") > 0 {}
    }
}

/// Feeds `updates` at `time` and waits until they are through.
fn feed(
    worker: &mut Worker,
    input: &mut InputHandle<u64, timely::container::CapacityContainerBuilder<Vec<Update>>>,
    probe: &ProbeHandle<u64>,
    time: u64,
    updates: impl Iterator<Item = u64>,
) {
    for (index, data) in updates.enumerate() {
        input.send((data, time, 1));
        if index % 100_000 == 99_999 {
            worker.step();
        }
    }
    input.advance_to(time + 1);
    worker.step_while(|| probe.less_than(&(time + 1)));
}

/// Builds a job; returns its input, a probe on its output, and how many changes came out before `first`.
#[allow(clippy::type_complexity)]
fn build(
    worker: &mut Worker,
    job: Job,
    first: u64,
) -> (
    InputHandle<u64, timely::container::CapacityContainerBuilder<Vec<Update>>>,
    ProbeHandle<u64>,
    Rc<Cell<usize>>,
) {
    let old = Rc::new(Cell::new(0));
    let mut input = InputHandle::new();
    let (seen, probe) = (Rc::clone(&old), ProbeHandle::new());
    worker.dataflow::<u64, _, _>(|scope| {
        let updates = scope.input_from(&mut input);
        job.build(updates)
            .inspect_core(move |event| {
                if let Ok((stamp, changes)) = event
                    && stamp.iter().any(|time| *time < first)
                {
                    seen.set(seen.get() + changes.len());
                }
            })
            .probe_with(&probe);
    });
    (input, probe, old)
}

fn median(times: &mut [f64]) -> (f64, f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0], times[times.len() - 1])
}

/// Milliseconds until a job with `records` of state is where it was.
fn restore(job: Job, records: u64) -> (f64, usize, usize) {
    let mut node = Node::new();
    if !job.is_bare() {
        let vault = Arc::clone(&node.vault);
        node.run(move |worker| {
            let (mut input, probe, _) = build(worker, job, 0);
            feed(worker, &mut input, &probe, 0, 0..records);
            worker.step_while(|| vault.recorded() < Some(Epoch(0)));
        });
        node.settle();
    }
    let bytes = node.vault.usage().replica_bytes;
    let (elapsed_ms, old) = node.run_as(job.is_bare(), move |worker| {
        let begun = Instant::now();
        let (mut input, probe, old) = build(worker, job, 1);
        if job.is_bare() {
            feed(worker, &mut input, &probe, 0, 0..records);
        } else {
            input.advance_to(1);
        }
        worker.step_while(|| probe.less_than(&1));
        let elapsed = begun.elapsed();
        // It has what it had: a change of something old comes out.
        feed(worker, &mut input, &probe, 1, 0..1);
        (elapsed.as_secs_f64() * 1e3, old.get())
    });
    (elapsed_ms, old, bytes)
}

/// Draws a line of (records, milliseconds) for each job, both axes logarithmic.
fn plot(file: &str, lines: &[(Job, Vec<(f64, f64)>)]) -> Result<(), Box<dyn std::error::Error>> {
    use plotters::prelude::*;
    let points = || lines.iter().flat_map(|(_, line)| line.iter());
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (least, greatest) = values
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        least * 0.8..greatest * 1.25
    };
    let area = SVGBackend::new(file, (760, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
            range(&mut points().map(|point| point.0)).log_scale(),
            range(&mut points().map(|point| point.1)).log_scale(),
        )?;
    chart.configure_mesh().x_desc("records").y_desc("ms until the job is where it was").draw()?;
    for (place, (job, line)) in lines.iter().enumerate() {
        let color = Palette99::pick(place).to_rgba();
        chart
            .draw_series(
                LineSeries::new(line.iter().copied(), color.stroke_width(2)).point_size(3),
            )?
            .label(format!("{job:?}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    area.present()?;
    Ok(())
}

fn restores(sizes: &[u64], file: Option<&str>) {
    println!(
        "| job | records | ms: median (least, greatest of 5) | ms per million | old records out | bytes kept |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let mut lines = JOBS.map(|job| (job, Vec::new()));
    for &records in sizes {
        for (job, line) in &mut lines {
            let job = *job;
            let runs: Vec<_> = (0..5).map(|_| restore(job, records)).collect();
            let mut times: Vec<f64> = runs.iter().map(|run| run.0).collect();
            let (middle, least, greatest) = median(&mut times);
            line.push((records as f64, middle));
            let (_, old, bytes) = runs[0];
            println!(
                "| {job:?} | {records} | {middle:.1} ({least:.1}, {greatest:.1}) | {:.1} | {old} | {bytes} |",
                middle * 1e6 / records as f64
            );
        }
    }
    if let Some(file) = file {
        plot(file, &lines).expect("the plot can be drawn");
    }
}

const JOBS: [Job; 7] = [
    Job::BareCount,
    Job::HydratedCount,
    Job::RestoredCount,
    Job::RestoredCountTotal,
    Job::BareJoin,
    Job::HydratedJoin,
    Job::RestoredJoin,
];

const KEYS: u64 = 1_000_000;
const EPOCH_UPDATES: u64 = 10_000;

/// Pseudo-random keys.
fn keys(from: u64, count: u64) -> impl Iterator<Item = u64> {
    (from..from + count).map(|n| {
        let z = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % KEYS
    })
}

/// Updates per second of `epochs` epochs upon a million keys.
fn throughput(job: Job, epochs: u64) -> f64 {
    Node::new().run_as(job.is_bare(), move |worker| {
        let (mut input, probe, _) = build(worker, job, 0);
        feed(worker, &mut input, &probe, 0, 0..KEYS);
        for warm_up in 1..=20 {
            feed(worker, &mut input, &probe, warm_up, keys(warm_up * EPOCH_UPDATES, EPOCH_UPDATES));
        }
        let begun = Instant::now();
        for time in 21..21 + epochs {
            feed(worker, &mut input, &probe, time, keys(time * EPOCH_UPDATES, EPOCH_UPDATES));
        }
        (epochs * EPOCH_UPDATES) as f64 / begun.elapsed().as_secs_f64()
    })
}

fn overhead(rounds: usize) {
    println!("| job | updates/s, median | ratio to bare: median (least, greatest of {rounds}) |");
    println!("| --- | ---: | ---: |");
    let pairs = [
        (Job::BareCount, vec![Job::RestoredCount, Job::RestoredCountTotal, Job::HydratedCount]),
        (Job::BareJoin, vec![Job::RestoredJoin, Job::HydratedJoin]),
    ];
    for (bare, protected) in pairs {
        let mut all = vec![Vec::new(); protected.len() + 1];
        let mut ratios = vec![Vec::new(); protected.len()];
        for _ in 0..rounds {
            let base = throughput(bare, 150);
            all[0].push(base);
            for (place, &job) in protected.iter().enumerate() {
                let speed = throughput(job, 150);
                all[place + 1].push(speed);
                ratios[place].push(speed / base);
            }
        }
        println!("| {bare:?} | {:.0} | 1 |", median(&mut all[0]).0);
        for (place, job) in protected.iter().enumerate() {
            let (middle, least, greatest) = median(&mut ratios[place]);
            let speed = median(&mut all[place + 1]).0;
            println!("| {job:?} | {speed:.0} | {middle:.3} ({least:.3}, {greatest:.3}) |");
        }
    }
}

/// The bytes of memory that this process occupies.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

const MEMORY_JOBS: [Job; 3] = [Job::RestoredCount, Job::RestoredJoin, Job::HydratedCount];

fn memory(seconds: u64, jobs: &[Job]) {
    println!("{KEYS} keys, {EPOCH_UPDATES} updates an epoch: as many are put in as are taken out");
    println!(
        "| job | s | updates | live bytes a key | replica bytes a key | of them not compacted |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for &job in jobs {
        let mut node = Node::new();
        let vault = Arc::clone(&node.vault);
        let before = resident_bytes();
        node.run(move |worker| {
            let (mut input, probe, _) = build(worker, job, 0);
            let row = |at: u64, updates: u64| {
                let usage = vault.usage();
                let replica_bytes = (usage.replica_bytes + usage.pending_bytes) as u64;
                let live_bytes = resident_bytes().saturating_sub(before + replica_bytes);
                println!(
                    "| {job:?} | {at} | {updates} | {:.1} | {:.1} | {:.1} |",
                    live_bytes as f64 / KEYS as f64,
                    replica_bytes as f64 / KEYS as f64,
                    usage.pending_bytes as f64 / KEYS as f64,
                );
            };
            feed(worker, &mut input, &probe, 0, 0..KEYS);
            row(0, KEYS);
            let (begun, mut time, mut next) = (Instant::now(), 1_u64, seconds.div_ceil(10).max(1));
            while begun.elapsed() < Duration::from_secs(seconds) {
                // What one epoch adds the next one but nine takes away.
                for (from, diff) in [(time, 1), (time.saturating_sub(10), -1)] {
                    for data in keys(from * EPOCH_UPDATES, EPOCH_UPDATES / 2) {
                        if diff > 0 || time > 10 {
                            input.send((data, time, diff));
                        }
                    }
                }
                feed(worker, &mut input, &probe, time, std::iter::empty());
                time += 1;
                if begun.elapsed() >= Duration::from_secs(next) {
                    row(next, KEYS + time * EPOCH_UPDATES);
                    next += seconds.div_ceil(10).max(1);
                }
            }
        });
        node.settle();
        let usage = node.vault.usage();
        println!(
            "| {job:?}, stopped and merged | | | | {:.1} | {:.1} |",
            (usage.replica_bytes + usage.pending_bytes) as f64 / KEYS as f64,
            usage.pending_bytes as f64 / KEYS as f64
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let numbers: Vec<u64> = args.iter().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let file = args.iter().map(String::as_str).find(|arg| arg.ends_with(".svg"));
    match args.first().map(String::as_str) {
        Some("restore") if numbers.is_empty() => restores(&[100_000, 1_000_000, 5_000_000], file),
        Some("restore") => restores(&numbers, file),
        Some(what @ ("one" | "speed")) => {
            // One job alone, for a profiler: its restore, or its steady state.
            let job =
                JOBS.into_iter().find(|job| args.iter().any(|arg| *arg == format!("{job:?}")));
            let job = job.expect("the name of a job");
            match what {
                "one" => {
                    println!("{:?}", restore(job, numbers.last().copied().unwrap_or(1_000_000)))
                }
                _ => println!("{:.0}", throughput(job, numbers.last().copied().unwrap_or(500))),
            }
        }
        Some("overhead") => overhead(numbers.first().map_or(5, |rounds| *rounds as usize)),
        Some("memory") => {
            let named = |job: &Job| args.iter().any(|arg| *arg == format!("{job:?}"));
            let named: Vec<Job> = JOBS.into_iter().filter(named).collect();
            let jobs = if named.is_empty() { &MEMORY_JOBS[..] } else { &named[..] };
            memory(numbers.first().copied().unwrap_or(600), jobs);
        }
        // A short look at all of it.
        _ => {
            restores(&[10_000], None);
            overhead(1);
            memory(5, &MEMORY_JOBS);
        }
    }
}
