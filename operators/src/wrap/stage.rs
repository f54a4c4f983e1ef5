//! Stage: what surrounds the closures of a wrapped operator and decides what they see and when.
//!
//! Closures act freely on everything in an epoch up to the next checkpoint. Anything later waits, and the
//! frontier that closures see does not pass the checkpoint, until the real frontier has passed it and all
//! state is sealed. So state is exact at the checkpoint, even if the frontier jumps over it.
//!
//! If every epoch is a checkpoint, a frontier that jumps stops only at epochs that have records or held
//! times.
//!
//! INVARIANT: no closure acts on an epoch that the outlet has not [begun](Outlet::begin).

use std::rc::Rc;

use timely::progress::frontier::{Antichain, MutableAntichain};
use timely::scheduling::Activator;

use super::port::Gate;
use super::state::Store;
use crate::fence::Fence;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::protected::outlet::Outlet;
use crate::protected::turns::complete;
use crate::time::{FencedTime, passed, reached};

/// The stage around the closures of a wrapped operator.
pub(crate) struct Stage<T: FencedTime> {
    fence: Fence,
    name: OperatorName,
    ports: Vec<Rc<dyn Gate>>,
    store: Rc<Store<T>>,
    outlet: Outlet<T>,
    activator: Activator,
    /// The partitions with a closure each, in order.
    partitions: Vec<PartitionId>,
    /// Whether the closures run when a frontier moves.
    follows_frontier: bool,
    /// For each port, the frontier that the closures have seen; none before their first call.
    shown: Vec<Antichain<T>>,
    /// The same in the form that closures get.
    frontiers: Vec<MutableAntichain<T>>,
    /// All epochs up to this one are complete, and their changes are sealed.
    sealed: Option<Epoch>,
    /// The last epoch that was begun and not sealed.
    begun: Option<Epoch>,
    decoded: bool,
    epochs: Vec<Epoch>,
    busy: Vec<u32>,
}

/// What a stage is made of.
pub(crate) struct Parts<T: FencedTime> {
    pub(crate) fence: Fence,
    pub(crate) name: OperatorName,
    pub(crate) ports: Vec<Rc<dyn Gate>>,
    pub(crate) store: Rc<Store<T>>,
    pub(crate) outlet: Outlet<T>,
    /// The partitions with a closure each, in order.
    pub(crate) partitions: Vec<PartitionId>,
    pub(crate) activator: Activator,
    pub(crate) follows_frontier: bool,
}

impl<T: FencedTime> Stage<T> {
    pub(crate) fn new(parts: Parts<T>) -> Self {
        let Parts { fence, name, ports, store, outlet, partitions, activator, follows_frontier } =
            parts;
        let resume = fence.generation().resume;
        Stage {
            partitions,
            shown: Vec::new(),
            frontiers: ports.iter().map(|_| MutableAntichain::new()).collect(),
            sealed: resume,
            begun: None,
            decoded: resume.is_none(),
            epochs: Vec::new(),
            busy: Vec::new(),
            fence,
            name,
            ports,
            store,
            outlet,
            activator,
            follows_frontier,
        }
    }

    /// Lets the closures do their work: `call` runs the closure of an index, with the frontiers that it
    /// should see.
    pub(crate) fn activate(
        &mut self,
        frontiers: &[MutableAntichain<T>],
        mut call: impl FnMut(usize, &[MutableAntichain<T>]),
    ) {
        let fence = self.fence.clone();
        let _active = fence.check(&self.name);
        self.ports.iter().for_each(|port| port.receive());
        let through = frontiers.iter().map(passed).min().flatten().max(self.resumed());
        let mut refused = None;
        // If everything is committed, nothing is left to act on.
        while self.resumed() < Some(Epoch::END) {
            let (from, bound) = match (self.begun, self.outlet.boundary()) {
                (Some(begun), Some(boundary)) => (begun, boundary),
                _ => {
                    let stop = self.next_stop(frontiers, through);
                    let checkpoints = self.fence.checkpoints();
                    (stop, checkpoints.at_or_after(stop).unwrap_or(Epoch::END))
                }
            };
            self.find_epochs(frontiers, through, from, bound);
            if self.epochs.is_empty() && self.begun.is_none() {
                break;
            }
            for index in 0..self.epochs.len() {
                let epoch = self.epochs[index];
                if !self.outlet.begin(epoch) {
                    refused = Some(epoch);
                    break;
                }
                self.begun = self.begun.max(Some(epoch));
            }
            let Some(limit) = self.begun else { break };
            self.ports.iter().for_each(|port| port.admit(limit));
            let moved = self.show(frontiers, limit);
            self.run(limit, moved, &mut call);
            let done = complete(through, refused);
            let Some(sealed) = self.outlet.seal_due(done, &mut self.store) else { break };
            self.sealed = self.sealed.max(Some(sealed));
            self.begun = None;
        }
        let done = complete(through, refused);
        if self.begun.is_none() && done < Some(Epoch::END) {
            self.sealed = self.sealed.max(done);
        }
        self.outlet.pass(done, &mut self.store);
        if !self.decoded {
            self.decoded = self.store.decode_some();
            if !self.decoded {
                self.activator.activate();
            }
        }
    }

    fn resumed(&self) -> Option<Epoch> {
        self.fence.generation().resume
    }

    /// The first epoch that is not known to be complete and sealed.
    fn floor(&self) -> Epoch {
        self.sealed.map_or(Epoch(0), Epoch::next)
    }

    /// The next epoch when everything so far is sealed: the first one that has records or held times.
    fn next_stop(&mut self, frontiers: &[MutableAntichain<T>], through: Option<Epoch>) -> Epoch {
        let waiting = self.ports.iter().filter_map(|port| port.first_waiting()).min();
        self.epochs.clear();
        if self.follows_frontier {
            let held = self.store.held();
            held.complete_epochs(self.floor(), Epoch::END, frontiers, &mut self.epochs);
        }
        let held = self.epochs.first().copied();
        let incomplete = match through {
            // At the end only held times are left, and then what is done belongs to the first epoch that may
            // still be changed.
            Some(Epoch::END) => held.unwrap_or(self.floor()),
            // What is done because a frontier has moved belongs to the last epoch that it has passed.
            Some(through)
                if self.follows_frontier
                    && Some(through) > self.sealed
                    && self.moves(frontiers, through) =>
            {
                through
            }
            through => through.map_or(Epoch(0), Epoch::next),
        };
        let stops = waiting.into_iter().chain(held).chain([incomplete]);
        stops.min().unwrap_or(incomplete).max(self.floor())
    }

    /// Finds the epochs up to `bound` on which the closures must act; there are none before `from`.
    fn find_epochs(
        &mut self,
        frontiers: &[MutableAntichain<T>],
        through: Option<Epoch>,
        from: Epoch,
        bound: Epoch,
    ) {
        self.epochs.clear();
        if self.follows_frontier {
            let (held, through) = (self.store.held(), through.map_or(Epoch(0), Epoch::next));
            held.complete_epochs(self.floor(), bound.min(through), frontiers, &mut self.epochs);
            let epoch = self.frontier_epoch(frontiers).max(from).min(bound);
            if self.moves(frontiers, epoch) {
                self.epochs.push(epoch);
            }
        }
        for port in &self.ports {
            port.waiting_epochs(bound, &mut self.epochs);
        }
        self.epochs.sort_unstable();
        self.epochs.dedup();
    }

    /// The epoch on which closures act when they see the frontiers.
    fn frontier_epoch(&self, frontiers: &[MutableAntichain<T>]) -> Epoch {
        let epoch_of = |frontier: &MutableAntichain<T>| {
            let reached = reached(frontier)?;
            // In a loop, the frontier passes an epoch gradually.
            let is_whole = frontier.less_equal(&T::first_of(reached));
            if is_whole { Epoch::before(Some(reached)) } else { Some(reached) }
        };
        frontiers.iter().filter_map(epoch_of).max().map_or(self.floor(), |it| it.max(self.floor()))
    }

    /// The frontier to show in place of a real one when closures may not act on any epoch after `limit`.
    fn clamp(&self, frontier: &MutableAntichain<T>, limit: Epoch) -> Antichain<T> {
        let mut clamped = Antichain::new();
        let first = self.fence.first_epoch();
        for time in frontier.frontier().iter() {
            // What is committed does not come again.
            let is_committed = time.epoch() < first;
            clamped.insert(if is_committed { T::first_of(first) } else { time.clone() });
        }
        // If nothing more can come and no later time is held, closures may as well see the end.
        if !frontier.is_empty() || self.store.held().any_after(limit) {
            clamped.insert(T::first_of(limit.next()));
        }
        clamped
    }

    /// Whether any frontier would be shown that differs from the one shown before.
    fn moves(&self, frontiers: &[MutableAntichain<T>], limit: Epoch) -> bool {
        let mut shown = self.shown.iter();
        frontiers.iter().any(|frontier| shown.next() != Some(&self.clamp(frontier, limit)))
    }

    /// Computes the frontiers to show; returns whether any has moved.
    fn show(&mut self, frontiers: &[MutableAntichain<T>], limit: Epoch) -> bool {
        let clamped: Vec<_> =
            frontiers.iter().map(|frontier| self.clamp(frontier, limit)).collect();
        if clamped == self.shown {
            return false;
        }
        for (frontier, elements) in self.frontiers.iter_mut().zip(&clamped) {
            frontier.clear();
            frontier.update_iter(elements.elements().iter().map(|time| (time.clone(), 1)));
        }
        self.shown = clamped;
        true
    }

    /// Runs the closures that have something to do, or all of them if a frontier has moved.
    fn run(
        &mut self,
        epoch: Epoch,
        moved: bool,
        call: &mut impl FnMut(usize, &[MutableAntichain<T>]),
    ) {
        self.busy.clear();
        if moved && self.follows_frontier {
            self.busy.extend(0..self.partitions.len() as u32);
        } else {
            for port in &self.ports {
                port.busy(&mut self.busy);
            }
            self.busy.sort_unstable();
            self.busy.dedup();
            // What was accepted belongs to partitions of this worker.
            let mut here = 0;
            for partition in &mut self.busy {
                while self.partitions[here].0 < *partition {
                    here += 1;
                }
                *partition = here as u32;
            }
        }
        let whereabouts = self.fence.whereabouts();
        whereabouts.set_epoch(epoch);
        for &index in &self.busy {
            self.fence.leave_if_stopping();
            let index = index as usize;
            let partition = self.partitions[index];
            whereabouts.set_partition(partition);
            self.store.turn().set(Some(partition));
            self.ports.iter().for_each(|port| port.turn_to(partition));
            call(index, &self.frontiers);
        }
        self.store.turn().set(None);
        self.ports.iter().for_each(|port| port.rest());
    }
}
