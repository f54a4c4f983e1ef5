//! A running generation: worker threads, their links, and how to end them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_operators::error::JobError;
use ringfence_operators::fence::generation::{Clock, Generation};
use ringfence_operators::ids::{NodeId, ViewNumber, WorkerPanic};
use ringfence_operators::worker::WorkerEnd;
use timely::WorkerConfig;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Allocator, Hooks, WorkerGuards, initialize_from};

use crate::network::{Link, LinkCloser, LinkTraffic};

/// Runs a user's job on one worker; keeps the result elsewhere.
pub(crate) type Job =
    Arc<dyn Fn(Allocator, WorkerConfig, &Arc<Generation>) -> WorkerEnd<()> + Send + Sync>;

/// How one worker thread of a generation ended.
#[derive(Debug)]
pub(crate) struct WorkerEnded {
    pub(crate) view: ViewNumber,
    /// The index of the worker in this process.
    pub(crate) worker: usize,
    pub(crate) end: WorkerEnd<()>,
}

/// Counts from the moment it is made.
pub(crate) struct SinceStart(Instant);

impl SinceStart {
    pub(crate) fn new() -> Self {
        SinceStart(Instant::now())
    }
}

impl Clock for SinceStart {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The threads of one generation.
///
/// It ends by itself when the job does, or after [`stop`](Running::stop); either way the caller joins
/// it once all workers have reported their end.
pub(crate) struct Running {
    pub(crate) shared: Arc<Generation>,
    closers: Vec<LinkCloser>,
    traffic: Vec<(NodeId, LinkTraffic)>,
    threads: Option<Threads>,
}

/// SUBTLE: the workers are joined before the communication threads, which end only when the workers have
/// released their queues.
struct Threads {
    workers: WorkerGuards<()>,
    communication: Box<dyn Send>,
}

impl Running {
    /// Starts the workers of `shared`. `links` has one entry for each member of the view, in order,
    /// with `None` for this process.
    pub(crate) fn start(
        shared: Arc<Generation>,
        links: Vec<Option<Link>>,
        process_index: usize,
        workers: usize,
        config: WorkerConfig,
        job: Job,
        on_end: impl Fn(WorkerEnded) + Send + Sync + 'static,
    ) -> Result<Running, String> {
        let hooks = Hooks::default();
        let traffic = links.iter().flatten().map(|link| (link.node(), link.traffic())).collect();
        let closers = links.iter().flatten().map(Link::closer).collect::<Result<Vec<_>, _>>();
        let closers = closers.map_err(|error| format!("cannot share a link: {error}"))?;
        let local = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
        let (builders, communication): (Vec<AllocatorBuilder>, Box<dyn Send>) = if links.len() == 1
        {
            (local.into_iter().map(AllocatorBuilder::Process).collect(), Box::new(()))
        } else {
            let (builders, guard) =
                initialize_networking_from_sockets(local, links, process_index, workers, hooks)
                    .map_err(|error| format!("cannot start communication: {error}"))?;
            (builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard))
        };
        let generation = Arc::clone(&shared);
        let workers = initialize_from(builders, Box::new(()), move |allocator| {
            let worker = allocator.index() % workers;
            let end = job(allocator, config.clone(), &generation);
            on_end(WorkerEnded { view: generation.view, worker, end });
        })?;
        Ok(Running { shared, closers, traffic, threads: Some(Threads { workers, communication }) })
    }

    /// Returns how much goes over the links to the other members.
    pub(crate) fn traffic(&self) -> &[(NodeId, LinkTraffic)] {
        &self.traffic
    }

    /// Asks all workers to leave, and ends the links so that no thread waits for a peer.
    pub(crate) fn stop(&self) {
        self.shared.stop();
        for closer in &self.closers {
            closer.close_now();
        }
    }

    /// Abandons the threads. Only for a process that is about to end.
    ///
    /// SUBTLE: dropping timely's guards joins the workers, which may be in the job's own code forever. So the
    /// guards are not dropped.
    pub(crate) fn abandon(&mut self) {
        std::mem::forget(self.threads.take());
    }

    /// Joins all threads, on a separate thread, and then calls `on_joined`.
    ///
    /// Call it once every worker has reported its end.
    pub(crate) fn join(&mut self, on_joined: impl FnOnce() + Send + 'static) {
        let Some(threads) = self.threads.take() else { return };
        std::thread::spawn(move || {
            threads.workers.join();
            // A communication thread that panicked makes timely's guard panic; the generation is over anyway.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(threads.communication)));
            on_joined();
        });
    }
}

/// What a worker's end means for the node.
pub(crate) enum Verdict {
    /// The job is over on this worker.
    Finished,
    /// It left because it was asked to.
    Stopped,
    /// The worker panicked.
    Panicked(WorkerPanic),
    /// The job cannot continue.
    Failed(JobError),
}

impl WorkerEnded {
    /// What it means for the node.
    pub(crate) fn verdict(self) -> Verdict {
        match self.end {
            WorkerEnd::Finished(()) => Verdict::Finished,
            WorkerEnd::Stopped => Verdict::Stopped,
            WorkerEnd::Damaged(error) => Verdict::Panicked(WorkerPanic {
                worker: self.worker as u32,
                message: format!("it stopped itself: {error}"),
                ..WorkerPanic::default()
            }),
            WorkerEnd::Panicked(panic) => Verdict::Panicked(panic),
            WorkerEnd::Failed(error) => Verdict::Failed(error),
        }
    }
}
