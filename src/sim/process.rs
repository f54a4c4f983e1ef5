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
use crate::protocol::conduct::Who;
use crate::protocol::member::Machine;
use crate::protocol::message::ProtocolError;
use crate::protocol::view::View;

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
    pub(super) current: Option<Current>,
    /// Generations that are over, whose workers have not left yet.
    pub(super) abandoned: Vec<Current>,
    /// Requests of views that are not installed here yet.
    pub(super) waiting: Vec<Dial>,
    /// The processes at the other ends of its control connections.
    pub(super) controls: BTreeSet<ProcessId>,
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

    pub(super) fn current(&mut self, view: ViewNumber) -> Option<&mut Current> {
        self.current.as_mut().filter(|current| current.view.number == view)
    }

    /// The present view or one that is over, as long as a worker of it has not left.
    pub(super) fn hosted(&mut self, view: ViewNumber) -> Option<&mut Current> {
        let mut all = self.current.iter_mut().chain(&mut self.abandoned);
        all.find(|current| current.view.number == view)
    }
}

/// The present view at a process: connecting, running, or ending.
pub(super) struct Current {
    pub(super) view: View,
    pub(super) digest: String,
    pub(super) index: usize,
    /// The other members whose data connection stands, and what came before the worker was made.
    pub(super) links: BTreeMap<NodeId, Vec<Vec<u8>>>,
    pub(super) running: Option<Running>,
    pub(super) stop_wanted: bool,
    /// Whether it was closed before its worker had left.
    pub(super) closed: bool,
    /// Whether what its worker may still bring is waited for.
    pub(super) awaits: bool,
    pub(super) ended: bool,
    pub(super) finished: bool,
    pub(super) step_at_us: Option<u64>,
}

/// A worker and what it runs in.
pub(super) struct Running {
    worker: Option<FencedWorker>,
    /// What feeds the worker by hand.
    pub(super) program: Option<Program>,
    pub(super) built: bool,
    pub(super) wire: Arc<Wire>,
    pub(super) generation: Arc<Generation>,
    pub(super) notices: Arc<Notices>,
    /// SUBTLE: dropped last, when the worker is gone.
    idle: Option<Idle>,
}

impl Running {
    pub(super) fn new(
        worker: FencedWorker,
        wire: Arc<Wire>,
        generation: Arc<Generation>,
        notices: Arc<Notices>,
        idle: Idle,
    ) -> Self {
        Running {
            worker: Some(worker),
            program: None,
            built: false,
            wire,
            generation,
            notices,
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
