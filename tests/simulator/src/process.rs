//! Process: one start of a node, with everything that it would lose in a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringfence_operators::fence::generation::{Gauges, Generation};
use ringfence_operators::ids::{Incarnation, NodeId, ViewNumber};
use ringfence_operators::worker::{FencedWorker, WorkerEnd};

use super::hosting::Notices;
use super::program::Program;
use super::vault::WatchedVault;
use super::wire::{Idle, Wire};
use super::world::Happening;
use crate::conduct::Who;
use ringfence::internals::catch_up::CatchUp;
use ringfence::internals::protocol::member::Machine;
use ringfence::internals::protocol::message::ProtocolError;
use ringfence::internals::protocol::present::Present;
use ringfence::internals::witness::FailureAccount;

/// One start of one node. No two processes of a simulation have the same `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessId {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) start: u64,
}

impl ProcessId {
    pub(super) fn who(self) -> Who {
        (self.node, self.incarnation)
    }
}

/// How a process ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    Crashed,
    Finished,
    Failed(ProtocolError),
}

/// A request for a data connection.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) from: ProcessId,
    pub(super) view: ViewNumber,
    pub(super) digest: String,
}

/// A simulated process.
pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) machine: Machine,
    pub(super) vault: Arc<WatchedVault>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) present: Present<Dial, Early>,
    /// The generations whose threads are not joined yet, and that of the present view.
    pub(super) generations: BTreeMap<ViewNumber, Running>,
    /// The processes at the other ends of its control connections.
    pub(super) controls: BTreeSet<ProcessId>,
    /// The latest start of each node with which it has had a control connection.
    pub(super) met: BTreeMap<NodeId, Incarnation>,
    /// The view in which it said that it does not wait for its worker any longer.
    pub(super) gave_up_in: Option<ViewNumber>,
    /// What it has told of failures.
    pub(super) failures: FailureAccount,
    pub(super) end: Option<End>,
    pub(super) hung_until_us: u64,
    /// What came in while it hung.
    pub(super) backlog: Vec<Happening>,
    pub(super) worker_hung_until_us: u64,
    pub(super) slow_until_us: u64,
    /// When it is woken next.
    pub(super) wake_at_ms: Option<u64>,
}

impl Process {
    pub(super) fn is_alive(&self) -> bool {
        self.end.is_none()
    }

    /// The generation of the present view.
    pub(super) fn running(&self) -> Option<&Running> {
        self.generations.get(&self.present.number())
    }

    /// The other members whose data connection of the present view stands.
    pub(super) fn linked(&self) -> Vec<NodeId> {
        let started = self.running().into_iter().flat_map(|running| running.links.iter().copied());
        self.present.linked().chain(started).collect()
    }
}

/// What came over a data connection before the generation was started with it.
#[derive(Debug, Default)]
pub(super) struct Early {
    pub(super) frames: Vec<Vec<u8>>,
    /// Whether it has ended, which is seen when it is read.
    pub(super) is_over: bool,
}

/// A worker and what it runs in.
pub(super) struct Running {
    worker: Option<FencedWorker>,
    /// What feeds the worker by hand.
    pub(super) program: Option<Program>,
    pub(super) built: bool,
    pub(super) catch_up: CatchUp,
    /// Whether it is to be told that all copies are whole for which the node was filled.
    pub(super) is_filling: bool,
    pub(super) wire: Arc<Wire>,
    pub(super) generation: Arc<Generation>,
    pub(super) notices: Arc<Notices>,
    /// The other members whose data connection stands.
    pub(super) links: BTreeSet<NodeId>,
    pub(super) step_at_us: Option<u64>,
    /// SUBTLE: dropped last, when the worker is gone.
    idle: Option<Idle>,
}

impl Running {
    pub(super) fn new(
        worker: FencedWorker,
        wire: Arc<Wire>,
        generation: Arc<Generation>,
        notices: Arc<Notices>,
        links: BTreeSet<NodeId>,
        idle: Idle,
    ) -> Self {
        Running {
            worker: Some(worker),
            program: None,
            catch_up: CatchUp::new(1),
            is_filling: false,
            built: false,
            wire,
            generation,
            notices,
            links,
            step_at_us: None,
            idle: Some(idle),
        }
    }

    /// Lets the worker make a step, and its program go on before and after.
    pub(super) fn step(&mut self) -> Result<bool, WorkerEnd<()>> {
        let Running { worker: Some(worker), program, .. } = self else { return Ok(false) };
        let mut go_on = |worker: &mut FencedWorker| match program {
            Some(program) => worker.perform(|_worker| program.go_on()),
            None => Ok(()),
        };
        go_on(worker)?;
        let is_left = worker.step()?;
        if is_left {
            go_on(worker)?;
        }
        Ok(is_left)
    }

    pub(super) fn worker(&mut self) -> Option<&mut FencedWorker> {
        self.worker.as_mut()
    }

    /// Whether the worker has not ended.
    pub(super) fn has_worker(&self) -> bool {
        self.worker.is_some()
    }

    /// Ends the worker: its state goes to the vault, unless it panicked.
    pub(super) fn tear_down(&mut self) {
        self.program = None;
        if let Some(worker) = self.worker.take() {
            worker.tear_down();
        }
        self.idle = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tear_down();
    }
}
