//! Closing: how a generation ends at this node, whatever its workers are doing.
//!
//! Workers are asked to leave, and most do within a millisecond. One that is in the job's own code cannot be
//! made to: it may sleep, build, or wait for a server. So after a moment the generation is closed at the vault
//! instead, which refuses whatever such a worker still does, and evidence is given of what is there. A
//! worker that comes back later hands over its live state, and the evidence grows by it, until the next view
//! is installed. From then on its thread is only waited for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ringfence_operators::ids::{PartitionId, ViewNumber};
use ringfence_operators::vault::Vault;

use super::{Current, Node, NodeEvent};
use crate::error::Result;
use crate::protocol::message::Input;
use crate::protocol::view::Evidence;
use crate::report::What;
use crate::runtime::generation::{Running, WorkerEnded};
use crate::runtime::holdings::evidence_of;

/// How long workers may take to leave before their generation is closed without them.
const HAND_OVER_LIMIT: Duration = Duration::from_millis(250);

/// How many generations may have threads left in the job's own code. With more, the next one is not closed
/// without its workers, and the node ends if they do not leave: each such generation keeps memory.
const ABANDONED_MAX: usize = 16;

/// The end of the present generation at this node.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// When its workers were asked to leave.
    pub(super) asked: Option<Instant>,
    /// When it was closed, if that is so.
    closed: Option<Instant>,
    /// Whether live state of workers that have not left may still be needed.
    awaits: bool,
}

impl Ending {
    /// Whether it was closed before all of its workers had left.
    fn is_closed_early(&self) -> bool {
        self.closed.is_some()
    }
}

/// A generation that is over, with workers that have not left yet.
pub(super) struct Abandoned {
    view: ViewNumber,
    running: Running,
    ended: BTreeSet<usize>,
}

impl Current {
    pub(super) fn is_stopping(&self) -> bool {
        self.ending.asked.is_some()
    }

    /// The generation, if some of its threads are not joined yet.
    pub(super) fn abandon(self) -> Option<Abandoned> {
        let running = self.running.filter(|_| !self.joined)?;
        Some(Abandoned { view: self.view.number, running, ended: self.ended })
    }
}

impl Node {
    pub(super) fn stop_generation(&mut self, view: ViewNumber) -> Option<Input> {
        let current = self.current.as_mut().filter(|current| current.view.number == view)?;
        current.ending.asked = Some(Instant::now());
        current.links.clear();
        if let Some(running) = &current.running {
            running.stop();
            return None;
        }
        // It was not started: there is nothing to wait for.
        let evidence = self.close_vault(view);
        Some(Input::GenerationStopped { view, evidence, awaited: Vec::new() })
    }

    /// All threads of a generation are joined.
    pub(super) fn on_joined(&mut self, view: ViewNumber) -> Result<()> {
        self.abandoned.retain(|abandoned| abandoned.view != view);
        let Some(current) = self.current.as_mut().filter(|c| c.view.number == view) else {
            return Ok(());
        };
        current.joined = true;
        if current.finished == self.setup.config.workers || current.ending.is_closed_early() {
            return Ok(());
        }
        let evidence = self.close_vault(view);
        self.step(Input::GenerationStopped { view, evidence, awaited: Vec::new() })
    }

    /// Closes the present generation if its workers take too long to leave, and waits no longer for late
    /// ones than for any that hangs.
    pub(super) fn close_if_due(&mut self, now: Instant) -> Result<()> {
        let hang_limit = self.setup.config.hang_limit;
        let is_room = self.abandoned.len() < ABANDONED_MAX;
        let Some(current) = &mut self.current else { return Ok(()) };
        let view = current.view.number;
        let all_ended = current.ended.len() == self.setup.config.workers;
        let Some(asked) = current.ending.asked.filter(|_| current.running.is_some() && !all_ended)
        else {
            return Ok(());
        };
        match current.ending.closed {
            None if is_room && now >= asked + HAND_OVER_LIMIT => {
                current.ending.closed = Some(now);
                current.ending.awaits = true;
                self.tell_late(view, now.duration_since(asked));
                let evidence = self.close_vault(view);
                let awaited = self.awaited(&evidence);
                self.step(Input::GenerationStopped { view, evidence, awaited })
            }
            Some(closed) if current.ending.awaits && now >= closed + hang_limit => {
                current.ending.awaits = false;
                self.grow_evidence(view)
            }
            _ => Ok(()),
        }
    }

    /// A worker has left after its generation was closed: whatever it says of itself, only the state that
    /// it handed over counts.
    pub(super) fn on_ended_late(&mut self, ended: &WorkerEnded) -> Result<()> {
        let (view, workers, events) = (ended.view, self.setup.config.workers, self.events.clone());
        let join = |running: &mut Running| {
            running.join(move || drop(events.send(NodeEvent::Joined { view })));
        };
        if let Some(current) = self.current.as_mut().filter(|c| c.view.number == view) {
            current.ended.insert(ended.worker);
            if current.ended.len() == workers
                && let Some(running) = &mut current.running
            {
                join(running);
            }
            return self.grow_evidence(view);
        }
        if let Some(abandoned) = self.abandoned.iter_mut().find(|other| other.view == view) {
            abandoned.ended.insert(ended.worker);
            if abandoned.ended.len() == workers {
                join(&mut abandoned.running);
            }
        }
        Ok(())
    }

    /// Whether the end of a worker comes too late to say anything about its view.
    pub(super) fn is_late(&self, ended: &WorkerEnded) -> bool {
        let current = self.current.as_ref().filter(|c| c.view.number == ended.view);
        current.is_none_or(|current| current.ending.is_closed_early())
    }

    fn grow_evidence(&mut self, view: ViewNumber) -> Result<()> {
        let evidence = evidence_of(self.vault.as_ref(), view);
        let awaited = self.awaited(&evidence);
        self.step(Input::EvidenceGrown { view, evidence, awaited })
    }

    /// From now on nothing that this node holds changes by what its workers do; returns what it holds.
    fn close_vault(&self, view: ViewNumber) -> Evidence {
        self.vault.close(view);
        evidence_of(self.vault.as_ref(), view)
    }

    /// The partitions whose live state may still come, since their workers have not left.
    fn awaited(&self, evidence: &Evidence) -> Vec<PartitionId> {
        let Some(current) = self.current.as_ref().filter(|current| current.ending.awaits) else {
            return Vec::new();
        };
        let is_awaited = |partition: PartitionId, worker: u32| {
            let is_live = evidence.copy(partition).is_some_and(|copy| copy.live);
            !is_live && !current.ended.contains(&(worker as usize))
        };
        let places = current.view.assignment.iter();
        let own = places.filter(|(_, place)| place.owner.node == self.setup.node);
        let awaited = own.filter(|(partition, place)| is_awaited(*partition, place.owner.worker));
        awaited.map(|(partition, _)| partition).collect()
    }

    fn tell_late(&self, view: ViewNumber, waited: Duration) {
        let Some(current) = &self.current else { return };
        let Some(running) = &current.running else { return };
        for place in running.shared.whereabouts() {
            if current.ended.contains(&place.worker()) {
                continue;
            }
            let spot = place.spot();
            let place_text = match &spot.operator {
                Some(operator) => format!("in operator \"{operator}\""),
                None => "in the job's own code".to_owned(),
            };
            let text = format!(
                "worker {} has not left view {view} after {} ms: it is {place_text}; the recovery does not \
                 wait for it unless nobody else has its state",
                place.worker(),
                waited.as_millis()
            );
            self.tell(What::Message { text });
        }
    }
}
