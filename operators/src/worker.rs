//! The life of a worker within one generation: build, step, leave, tear down.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use timely::communication::Allocator;
use timely::worker::{Config, Worker};

use crate::error::{JobError, Leave};
use crate::fence::careful::drop_with_care;
use crate::fence::generation::{Generation, Notice};
use crate::fence::{Fence, FenceGuard, panics};
use crate::ids::WorkerPanic;
use crate::rounds::clock;

/// How a worker left its generation.
#[derive(Debug)]
pub enum WorkerEnd<R> {
    /// The job's closure returned and every dataflow has ended.
    Finished(R),
    /// It was asked to leave; its state is in the vault.
    Stopped,
    /// The job cannot continue.
    Failed(JobError),
    /// Received data was damaged, and none of it was kept; the worker's state is in the vault.
    Damaged(JobError),
    /// It panicked; none of its state was kept.
    Panicked(WorkerPanic),
}

/// A worker of one generation, built and stepped from outside.
///
/// Whatever happens inside, an unwind is caught without passing through the worker itself, so that
/// [`tear_down`](FencedWorker::tear_down) finds it intact. After an error it must not be stepped again.
pub struct FencedWorker {
    worker: Worker,
    guard: FenceGuard,
    generation: Arc<Generation>,
}

impl FencedWorker {
    /// Makes the worker of `allocator`; it has no dataflow yet.
    pub fn new(allocator: Allocator, mut config: Config, generation: &Arc<Generation>) -> Self {
        Fence::configure(generation, &mut config);
        panics::watch();
        let worker = Worker::new(config, allocator, Some(Instant::now()));
        let guard = Fence::enter(generation, &worker);
        FencedWorker { worker, guard, generation: Arc::clone(generation) }
    }

    /// Builds the job's dataflows.
    pub fn build<R>(&mut self, job: impl FnOnce(&mut Worker) -> R) -> Result<R, WorkerEnd<R>> {
        self.attempt(|worker, fence| {
            clock::build(worker, fence);
            let result = job(worker);
            fence.built();
            fence.origins().stop_listening(worker);
            result
        })
    }

    /// Lets the job do something between two steps, as its closure would, such as feeding its input.
    pub fn perform<R>(&mut self, part: impl FnOnce(&mut Worker) -> R) -> Result<R, WorkerEnd<()>> {
        self.attempt(|worker, _fence| part(worker)).map_err(WorkerEnd::without_result)
    }

    /// Runs every operator that has something to do, and does not wait if there is none.
    ///
    /// Returns whether a dataflow is left.
    pub fn step(&mut self) -> Result<bool, WorkerEnd<()>> {
        let generation = Arc::clone(&self.generation);
        let left = self.attempt(|worker, _fence| turn(worker, &generation, Some(Duration::ZERO)));
        left.map_err(WorkerEnd::without_result)
    }

    /// Whether an operator has requested to run again, whatever may arrive.
    pub fn is_active(&self) -> bool {
        self.worker.activations().borrow().empty_for().is_some()
    }

    /// Tears the worker down in the order that timely needs: first the dataflows, and with them the
    /// operators' state to the vault, then the worker.
    pub fn tear_down(self) {
        let FencedWorker { mut worker, guard, .. } = self;
        guard.tear_down();
        for dataflow in worker.installed_dataflows() {
            let dropped = drop_with_care(|| worker.drop_dataflow(dataflow));
            if let Some(message) = dropped {
                guard.fence().notice(Notice::DropPanicked { operator: None, message });
            }
        }
        drop(worker);
        drop(guard);
    }

    fn attempt<R>(
        &mut self,
        part: impl FnOnce(&mut Worker, &Fence) -> R,
    ) -> Result<R, WorkerEnd<R>> {
        let FencedWorker { worker, guard, generation } = self;
        let ended = catch_unwind(AssertUnwindSafe(|| part(worker, guard.fence())));
        ended.map_err(|payload| match Leave::from_payload(payload) {
            Ok(Leave::Stopped) => WorkerEnd::Stopped,
            Ok(Leave::Failed(error)) => WorkerEnd::Failed(error),
            Ok(Leave::Damaged(error)) => WorkerEnd::Damaged(error),
            Err(payload) => {
                guard.taint();
                let whereabouts = guard.fence().whereabouts();
                let mut message = panics::message_of(payload.as_ref());
                if !guard.fence().is_built() {
                    message = format!("while the dataflows were built: {message}");
                }
                WorkerEnd::Panicked(WorkerPanic {
                    worker: generation.index_in_process(worker.index()) as u32,
                    message,
                    location: panics::location(),
                    spot: whereabouts.spot(),
                    record: whereabouts.record(),
                })
            }
        })
    }
}

impl<R> WorkerEnd<R> {
    /// The same end, for a worker whose result does not matter.
    pub fn without_result(self) -> WorkerEnd<()> {
        match self {
            WorkerEnd::Finished(_) => WorkerEnd::Finished(()),
            WorkerEnd::Stopped => WorkerEnd::Stopped,
            WorkerEnd::Failed(error) => WorkerEnd::Failed(error),
            WorkerEnd::Damaged(error) => WorkerEnd::Damaged(error),
            WorkerEnd::Panicked(panic) => WorkerEnd::Panicked(panic),
        }
    }
}

/// Runs `job` on a worker made from `allocator`, and steps the worker until all dataflows have ended.
///
/// Whatever happens inside, the worker is torn down in the order that timely needs.
pub fn run_worker<R>(
    allocator: Allocator,
    config: Config,
    generation: &Arc<Generation>,
    job: impl FnOnce(&mut Worker) -> R,
) -> WorkerEnd<R> {
    let mut fenced = FencedWorker::new(allocator, config, generation);
    let ended = fenced.attempt(|worker, fence| {
        clock::build(worker, fence);
        let result = job(worker);
        fence.built();
        fence.origins().stop_listening(worker);
        while worker.has_dataflows() {
            turn(worker, generation, None);
        }
        result
    });
    fenced.tear_down();
    ended.map_or_else(|end| end, WorkerEnd::Finished)
}

/// Runs the worker's operators once; waits for something to do for up to `patience`.
fn turn(worker: &mut Worker, generation: &Generation, patience: Option<Duration>) -> bool {
    if generation.is_stopping() {
        Leave::Stopped.now();
    }
    worker.step_or_park(patience)
}
