//! A worker's life in one generation: build, run, leave, tear down.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use timely::communication::Allocator;
use timely::worker::{Config, Worker};

use crate::error::{JobError, Leave};
use crate::fence::Fence;
use crate::generation::Generation;
use crate::ids::Spot;
use crate::panics;

/// How a worker left its generation.
#[derive(Debug)]
pub enum WorkerEnd<R> {
    /// The job's closure returned and every dataflow has ended.
    Finished(R),
    /// It was asked to leave; its state is in the vault.
    Stopped,
    /// The job cannot go on.
    Failed(JobError),
    /// It panicked; none of its state was kept.
    Panicked(WorkerPanic),
}

/// What is known of the panic of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerPanic {
    /// What the panic said.
    pub message: String,
    /// Where it began, as `file:line:column`; `None` for an unwind that no hook saw.
    pub location: Option<String>,
    /// Where in the job it happened.
    pub spot: Spot,
    /// The record that could not be processed, as text. It is kept only in partitions that are being
    /// watched, since one of their records made a worker panic before.
    pub record: Option<String>,
}

/// Runs `job` on a worker made from `allocator`, and steps the worker until all dataflows have ended.
///
/// Whatever happens inside, the worker is torn down in the order that timely needs: the unwind is
/// caught with the worker outside of it, then the dataflows go, and with them the operators' state to
/// the vault, then the worker.
pub fn run_worker<R>(
    allocator: Allocator,
    mut config: Config,
    generation: &Arc<Generation>,
    job: impl FnOnce(&mut Worker) -> R,
) -> WorkerEnd<R> {
    Fence::configure(generation, &mut config);
    panics::watch();
    let mut worker = Worker::new(config, allocator, Some(Instant::now()));
    let guard = Fence::enter(generation, &worker);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let result = job(&mut worker);
        guard.fence().built();
        while worker.has_dataflows() {
            if generation.is_stopping() {
                Leave::Stopped.now();
            }
            worker.step_or_park(None);
        }
        result
    }));
    let end = match ended.map_err(Leave::from_payload) {
        Ok(result) => WorkerEnd::Finished(result),
        Err(Ok(Leave::Stopped)) => WorkerEnd::Stopped,
        Err(Ok(Leave::Failed(error))) => WorkerEnd::Failed(error),
        Err(Err(payload)) => {
            guard.taint();
            let whereabouts = guard.fence().whereabouts();
            WorkerEnd::Panicked(WorkerPanic {
                message: message_of(payload.as_ref()),
                location: panics::location(),
                spot: whereabouts.spot(),
                record: whereabouts.record(),
            })
        }
    };
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
    drop(worker);
    end
}

pub(crate) fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
