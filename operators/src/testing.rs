//! A small harness to try protected operators without a cluster: one process, no failures.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Hooks, initialize_from};
use timely::dataflow::Scope;
use timely::worker::{Config, Worker};

use crate::codec::{Codec, Postcard};
use crate::data::Data;
use crate::differential::{FencedCollection, FencedSession};
use crate::fence::generation::{
    Clock, Gauges, Generation, Notice, Observer, PIECE_BYTES, Routes, Settings,
};
use crate::hash::KeyHasher;
use crate::ids::{OperatorName, Share, ViewNumber};
use crate::vault::{MemoryVault, Role, Vault};
use crate::verbs::input::FencedInput;
use crate::verbs::sink::{Release, Sink, SinkFenced};
use crate::verbs::source::{Reader, Source};
use crate::worker::{WorkerEnd, run_worker};

/// How many partitions a trial has.
const PARTITIONS: u32 = 16;

/// A sink that keeps what is released, exactly once, in memory that its clones share.
pub struct Collected<D> {
    rows: Arc<Mutex<Vec<D>>>,
    seen: Arc<Mutex<BTreeSet<(OperatorName, u32, u64)>>>,
}

impl<D> Clone for Collected<D> {
    fn clone(&self) -> Self {
        Collected { rows: Arc::clone(&self.rows), seen: Arc::clone(&self.seen) }
    }
}

impl<D> Default for Collected<D> {
    fn default() -> Self {
        Collected { rows: Arc::default(), seen: Arc::default() }
    }
}

impl<D> Collected<D> {
    /// Takes all rows released so far.
    pub fn take(&self) -> Vec<D> {
        std::mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<D: Data> Sink<D> for Collected<D> {
    type Position = u64;

    fn prepare(&mut self, at: &mut u64, rows: &[D]) -> io::Result<Vec<u8>> {
        *at += rows.len() as u64;
        let mut prepared = Vec::new();
        Postcard::encode(&rows.to_vec(), &mut prepared).map_err(io::Error::other)?;
        Ok(prepared)
    }

    fn release(&mut self, id: &Release, prepared: &[u8]) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.insert((id.sink.clone(), id.shard.0, id.epoch.0)) {
            let rows: Vec<D> = Postcard::decode(prepared).map_err(io::Error::other)?;
            self.rows.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
        }
        Ok(())
    }
}

struct Since(Instant);

impl Clock for Since {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

struct Nobody;

impl Observer for Nobody {
    fn notice(&self, _notice: Notice) {}
}

/// Runs a job of one dataflow on `workers` threads of this process; returns what it released.
///
/// The job gets a scope and a sink. What it sends to that sink is returned in no particular order.
///
/// ```
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing;
///
/// let mut numbers = testing::run(2, |scope, output| {
///     per_share(|share| (0..4u64).filter(move |n| n % share.count == share.index))
///         .to_stream_fenced(scope, "numbers")
///         .sink_fenced("out", output);
/// });
/// numbers.sort();
/// assert_eq!(numbers, [0, 1, 2, 3]);
/// ```
///
/// # Panics
///
/// Panics when a worker does not finish.
pub fn run<D, F>(workers: usize, job: F) -> Vec<D>
where
    D: Data,
    F: Fn(Scope<'_, u64>, Collected<D>) + Send + Sync + 'static,
{
    run_workers(workers, move |worker, sink| {
        worker.dataflow(|scope| job(scope, sink));
    })
}

/// As [`run`], for a job that needs the whole worker, because it has several dataflows or feeds its own
/// input.
///
/// # Panics
///
/// Panics when a worker does not finish.
pub fn run_workers<D, F>(workers: usize, job: F) -> Vec<D>
where
    D: Data,
    F: Fn(&mut Worker, Collected<D>) + Send + Sync + 'static,
{
    Trial::new(workers).run(job)
}

/// Runs a job over one collection on two workers; returns what it released, sorted.
///
/// The collection contains `records` from epoch 0 on. The two workers' shares insert them alternately.
///
/// ```
/// use ringfence_operators::testing;
///
/// let rows = testing::run_collection([3, 5, 3], |numbers, output| {
///     numbers.count_fenced("counts").sink_fenced("out", output);
/// });
/// assert_eq!(rows, [((3, 2), 0, 1), ((5, 1), 0, 1)]);
/// ```
///
/// # Panics
///
/// Panics when a worker does not finish.
pub fn run_collection<D, O, F>(records: impl IntoIterator<Item = D>, job: F) -> Vec<O>
where
    D: Data + Sync,
    O: Data + Ord,
    F: Fn(FencedCollection<'_, u64, D>, Collected<O>) + Send + Sync + 'static,
{
    run_collections(records, [(); 0], move |records, _, output| job(records, output))
}

/// As [`run_collection`], for a job over two collections.
///
/// # Panics
///
/// Panics when a worker does not finish.
pub fn run_collections<D1, D2, O, F>(
    left: impl IntoIterator<Item = D1>,
    right: impl IntoIterator<Item = D2>,
    job: F,
) -> Vec<O>
where
    D1: Data + Sync,
    D2: Data + Sync,
    O: Data + Ord,
    F: Fn(FencedCollection<'_, u64, D1>, FencedCollection<'_, u64, D2>, Collected<O>)
        + Send
        + Sync
        + 'static,
{
    let left: Vec<D1> = left.into_iter().collect();
    let right: Vec<D2> = right.into_iter().collect();
    let mut rows = run_workers(2, move |worker, output| {
        let mut lefts = FencedSession::<u64, D1>::new("left");
        let mut rights = FencedSession::<u64, D2>::new("right");
        worker.dataflow(|scope| {
            let right = rights.to_collection(scope);
            job(lefts.to_collection(scope), right, output);
        });
        insert_all(&mut lefts, &left);
        insert_all(&mut rights, &right);
    });
    rows.sort();
    rows
}

fn insert_all<D: Data>(session: &mut FencedSession<u64, D>, records: &[D]) {
    for (number, record) in (0..).zip(records) {
        session.insert_to(number % session.share_count(), record.clone());
    }
}

/// Runs a program that feeds one input by hand on `workers` threads; returns what it fed, sorted.
///
/// The input is closed when the program returns.
///
/// ```
/// use ringfence_operators::testing;
///
/// let numbers = testing::run_input(2, |_worker, input| {
///     for share in input.shares() {
///         input.send_to(share.index, share.index);
///     }
/// });
/// assert_eq!(numbers, [0, 1]);
/// ```
///
/// # Panics
///
/// Panics when a worker does not finish.
pub fn run_input<D, F>(workers: usize, program: F) -> Vec<D>
where
    D: Data + Ord,
    F: Fn(&mut Worker, &mut FencedInput<u64, D>) + Send + Sync + 'static,
{
    let mut records = run_workers(workers, move |worker, output| {
        let mut input = FencedInput::new("input");
        worker.dataflow(|scope| {
            input.to_stream(scope).sink_fenced("out", output);
        });
        program(worker, &mut input);
    });
    records.sort();
    records
}

/// The settings with which a job is tried.
///
/// ```
/// use std::time::Duration;
///
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing::Trial;
///
/// let trial = Trial::new(2).epoch(Duration::from_millis(1)).checkpoint(Duration::from_millis(50));
/// let shares = trial.run(|worker, output| {
///     worker.dataflow::<u64, _, _>(|scope| {
///         per_share(|share| std::iter::once(share.index))
///             .to_stream_fenced(scope, "shares")
///             .sink_fenced("out", output);
///     });
/// });
/// assert_eq!(shares.len(), 2);
/// ```
pub struct Trial {
    settings: Settings,
    vault: Arc<MemoryVault>,
    /// The vault as the workers see it.
    port: Arc<dyn Vault>,
    observer: Arc<dyn Observer>,
}

impl Trial {
    /// A trial on `workers` threads of this process, with short epochs that are all checkpoints.
    ///
    /// # Panics
    ///
    /// Panics only if the vault is broken.
    pub fn new(workers: usize) -> Self {
        let vault = Arc::new(MemoryVault::new(PARTITIONS));
        let everything = |_| Role { owner: true, backup: true };
        if let Err(error) = vault.install(ViewNumber(1), None, &everything) {
            panic!("the vault refuses its first view: {error}");
        }
        let settings = Settings {
            hasher: KeyHasher::default(),
            epoch_interval: Duration::from_millis(5),
            checkpoint_interval: None,
            in_flight_epochs_max: 4,
            run: "testing".to_owned(),
            workers_per_node: workers,
            share_count: workers as u32,
            refill_bytes_per_second: u64::MAX,
            piece_bytes: PIECE_BYTES,
            durable: None,
        };
        let port = Arc::clone(&vault) as Arc<dyn Vault>;
        Trial { settings, vault, port, observer: Arc::new(Nobody) }
    }

    /// Makes epochs last this long at sources.
    pub fn epoch(mut self, interval: Duration) -> Self {
        self.settings.epoch_interval = interval;
        self
    }

    /// Chooses a checkpoint each `interval`.
    pub fn checkpoint(mut self, interval: Duration) -> Self {
        self.settings.checkpoint_interval = Some(interval);
        self
    }

    /// Tells an observer what happens.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Puts another vault in front of the one that a trial has.
    pub fn vault(mut self, around: impl FnOnce(Arc<dyn Vault>) -> Arc<dyn Vault>) -> Self {
        self.port = around(self.port);
        self
    }

    /// Runs a job; returns what it released, in no particular order.
    ///
    /// # Panics
    ///
    /// Panics when a worker does not finish.
    pub fn run<D, F>(self, job: F) -> Vec<D>
    where
        D: Data,
        F: Fn(&mut Worker, Collected<D>) + Send + Sync + 'static,
    {
        self.run_interrupted(&[], job)
    }

    /// Runs a job that is interrupted again and again; returns what it released, in no particular order.
    ///
    /// Each of `interruptions` ends one generation after the given time. The next generation continues from
    /// what is committed, with a different number of workers, up to that of the trial; the last one runs to
    /// the end. In every other generation messages are serialized, as between processes.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing::{Interruption, Trial};
    ///
    /// let stops = [1, 5].map(|ms| (Duration::from_millis(ms), Interruption::Stop));
    /// let shares = Trial::new(2).run_interrupted(&stops, |worker, output| {
    ///     worker.dataflow::<u64, _, _>(|scope| {
    ///         per_share(|share| std::iter::once(share.index))
    ///             .to_stream_fenced(scope, "shares")
    ///             .sink_fenced("out", output);
    ///     });
    /// });
    /// assert_eq!(shares.len(), 2);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics when a worker ends with an error.
    pub fn run_interrupted<D, F>(self, interruptions: &[(Duration, Interruption)], job: F) -> Vec<D>
    where
        D: Data,
        F: Fn(&mut Worker, Collected<D>) + Send + Sync + 'static,
    {
        let most = self.settings.workers_per_node;
        let (output, job) = (Collected::default(), Arc::new(job));
        let mut view = ViewNumber(1);
        for interruption in interruptions.iter().copied().map(Some).chain([None]) {
            let workers = match interruption {
                Some(_) => (most + view.0 as usize - 2) % most + 1,
                None => most,
            };
            if view > ViewNumber(1) {
                let everything = |_| Role { owner: true, backup: true };
                if let Err(error) = self.vault.install(view, self.vault.recorded(), &everything) {
                    panic!("the vault refuses view {view}: {error}");
                }
            }
            let (job, sink) = (Arc::clone(&job), output.clone());
            let build = move |worker: &mut Worker| job(worker, sink.clone());
            let ends = self.generation(view, workers, build, interruption);
            for end in &ends {
                let is_fine = match end {
                    WorkerEnd::Finished(()) => true,
                    WorkerEnd::Stopped | WorkerEnd::Panicked(_) => interruption.is_some(),
                    WorkerEnd::Failed(_) | WorkerEnd::Damaged(_) => false,
                };
                assert!(is_fine, "a worker of view {view} ended with {end:?}");
            }
            if ends.iter().all(|end| matches!(end, WorkerEnd::Finished(()))) {
                break;
            }
            view.0 += 1;
        }
        output.take()
    }

    /// Runs a job from what is committed, to its end or until it is interrupted.
    fn generation<F>(
        &self,
        view: ViewNumber,
        workers: usize,
        job: F,
        interruption: Option<(Duration, Interruption)>,
    ) -> Vec<WorkerEnd<()>>
    where
        F: Fn(&mut Worker) + Send + Sync + 'static,
    {
        let partitions = PARTITIONS as usize;
        let first = view.0 as usize - 1;
        // In blocks, so that each worker of the first view has one share; other blocks in each view.
        let owner = |partition| (partition * workers / partitions + first) % workers;
        let routes = Routes {
            owners: (0..partitions).map(owner).collect(),
            backups: (0..partitions)
                .map(|partition| vec![(owner(partition) + 1) % workers])
                .collect(),
            filling: vec![false; partitions],
        };
        let mut settings = self.settings.clone();
        settings.workers_per_node = workers;
        let resume = if first == 0 { None } else { self.vault.recorded() };
        let generation = Arc::new(Generation::new(
            view,
            resume,
            routes,
            settings,
            Arc::clone(&self.port),
            Arc::new(Since(Instant::now())),
            Arc::clone(&self.observer),
            Arc::new(Gauges::default()),
        ));
        let refill = Hooks::default().refill;
        let builders = if view.0.is_multiple_of(2) {
            ProcessBuilder::new_bytes_vector(workers, refill, None)
        } else {
            ProcessBuilder::new_typed_vector(workers, refill, None)
        };
        let builders = builders.into_iter().map(AllocatorBuilder::Process).collect();
        let inner = Arc::clone(&generation);
        let guards = initialize_from(builders, Box::new(()), move |allocator| {
            let end = run_worker(allocator, Config::default(), &inner, |worker| job(worker));
            // Workers of a process do not notice each other's end.
            if !matches!(end, WorkerEnd::Finished(())) {
                inner.stop();
            }
            end
        });
        let guards = match guards {
            Ok(guards) => guards,
            Err(error) => panic!("cannot start the workers: {error}"),
        };
        if let Some((after, what)) = interruption {
            std::thread::sleep(after);
            match what {
                Interruption::Stop => generation.stop(),
                Interruption::Panic => generation.panic_next(),
            }
        }
        let ended = |end: Result<WorkerEnd<()>, String>| match end {
            Ok(end) => end,
            Err(error) => panic!("a worker thread ended with {error}"),
        };
        guards.join().into_iter().map(ended).collect()
    }
}

/// A source like [`per_share`](crate::verbs::source::per_share) that yields a few items at a time, with a
/// pause before each batch, so that a small input lasts for many epochs.
///
/// ```
/// use std::time::Duration;
///
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing;
///
/// let numbers = testing::run(2, |scope, output| {
///     testing::drip(2, Duration::from_millis(1), |share| 5 * share.index..5 * share.index + 5)
///         .to_stream_fenced(scope, "drops")
///         .sink_fenced("out", output);
/// });
/// assert_eq!(numbers.len(), 10);
/// ```
pub fn drip<I, F>(batch: usize, pause: Duration, items: F) -> Drip<F>
where
    I: Iterator,
    F: Fn(Share) -> I,
{
    Drip { items, batch, pause }
}

/// A slow source; see [`drip`].
pub struct Drip<F> {
    items: F,
    batch: usize,
    pause: Duration,
}

/// Reads a slow source.
pub struct DripReader<I> {
    items: I,
    position: u64,
    batch: usize,
    pause: Duration,
}

impl<F, I> Source for Drip<F>
where
    F: Fn(Share) -> I + 'static,
    I: Iterator<Item: Data> + 'static,
{
    type Item = I::Item;
    type Position = u64;
    type Reader = DripReader<I>;

    fn shards(&self, share_count: u32) -> io::Result<Vec<String>> {
        Ok((0..share_count).map(|index| format!("{index}/{share_count}")).collect())
    }

    fn open(&self, shard: &str, at: Option<&u64>) -> io::Result<DripReader<I>> {
        let parts = shard.split_once('/').map(|(i, n)| (i.parse(), n.parse()));
        let Some((Ok(index), Ok(count))) = parts else {
            return Err(io::Error::other(format!("\"{shard}\" is no share")));
        };
        let position = at.copied().unwrap_or(0);
        let mut items = (self.items)(Share { index, count });
        for _ in 0..position {
            items.next();
        }
        Ok(DripReader { items, position, batch: self.batch, pause: self.pause })
    }
}

impl<I: Iterator + 'static> Reader for DripReader<I> {
    type Item = I::Item;
    type Position = u64;

    fn read(&mut self, batch: &mut Vec<I::Item>) -> io::Result<bool> {
        std::thread::sleep(self.pause);
        let before = batch.len();
        batch.extend(self.items.by_ref().take(self.batch));
        let read = batch.len() - before;
        self.position += read as u64;
        Ok(read == self.batch)
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// Why a generation ends before its job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// All workers are asked to leave: their state is rolled back to the last checkpoint.
    Stop,
    /// One worker panics: its state is lost, and is rebuilt from its replica.
    Panic,
}

/// Runs a job of one dataflow as [`run`] does, and interrupts it as
/// [`Trial::run_interrupted`] does, with epochs of a millisecond.
///
/// # Panics
///
/// Panics when a worker ends with an error.
pub fn run_interrupted<D, F>(
    workers: usize,
    interruptions: &[(Duration, Interruption)],
    job: F,
) -> Vec<D>
where
    D: Data,
    F: Fn(Scope<'_, u64>, Collected<D>) + Send + Sync + 'static,
{
    let trial = Trial::new(workers).epoch(Duration::from_millis(1));
    trial.run_interrupted(interruptions, move |worker, sink| {
        worker.dataflow(|scope| job(scope, sink));
    })
}

/// Runs `trial` on its own thread, and panics if it has not ended within `limit`: for trials that would hang
/// if they failed.
#[cfg(test)]
pub(crate) fn in_time<R: Send + 'static>(
    limit: Duration,
    trial: impl FnOnce() -> R + Send + 'static,
) -> R {
    let (tell, told) = std::sync::mpsc::channel();
    let runner = std::thread::spawn(move || tell.send(trial()));
    match told.recv_timeout(limit) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("no end within {limit:?}"),
        Err(_) => match runner.join() {
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(_) => unreachable!("a trial that ended has told its result"),
        },
    }
}
