//! Mischief: what the simulator does to a run, at any event and at any step of a recovery.

use ringfence_operators::ids::{Incarnation, NodeId};

use super::faults::Fault;
use super::job;
use super::plant::Plant;
use super::process::{End, ProcessId};
use super::witness::Armed;
use super::world::{Happening, World};
use ringfence::internals::protocol::message::{Input, ProtocolError};

/// How often a node is started again, at most: a run must come to an end.
const COMEBACKS_MAX: u64 = 5;

/// Whether somebody would start a process again that has ended like this.
fn may_come_back(end: &End) -> bool {
    use ProtocolError::{CutOff, Excluded, NobodyReached, StopLimit};
    match end {
        End::Crashed => true,
        End::Finished => false,
        End::Failed(error) => matches!(
            error,
            CutOff { .. } | Excluded { .. } | NobodyReached { .. } | StopLimit { .. }
        ),
    }
}

impl World {
    /// Injects a fault if it is time for one; in a recovery it is so more often.
    pub(super) fn perhaps_fail(&mut self, id: ProcessId) {
        if !self.faults || self.faults_left == 0 {
            return;
        }
        let one_in = match (self.views.is_empty(), self.recovering, self.shape.patience) {
            (true, ..) => 20 * self.shape.fault_one_in,
            (false, true, None) => self.shape.fault_one_in / 8,
            (false, true, Some(_)) => 4 * self.shape.fault_one_in,
            (false, false, None) => self.shape.fault_one_in,
            (false, false, Some(_)) => self.shape.fault_one_in / 4,
        };
        if self.chance.one_in(one_in) && self.is_time() && self.inject(id) {
            self.faults_left -= 1;
        }
    }

    /// Whether enough is committed for something to go wrong.
    fn is_time(&self) -> bool {
        let Some(patience) = self.shape.patience.filter(|_| !self.recovering) else { return true };
        let latest = self.views.last_key_value().map(|(number, _)| *number);
        latest.is_none_or(|latest| self.witness.lock().commits_in(latest) >= patience)
    }

    /// Injects some fault at a process; returns whether one was possible.
    fn inject(&mut self, id: ProcessId) -> bool {
        let alive = self.alive_ids();
        let others: Vec<ProcessId> = alive.iter().copied().filter(|other| *other != id).collect();
        let until_us = self.now_us + self.chance.between(10_000, 3_000_000);
        let node = Some(id.node);
        match self.chance.below(24) {
            0 | 1 => {
                if !self.may_crash() {
                    return false;
                }
                self.fired(Fault::Crash, node, String::new);
                self.crash(id);
            }
            2 => {
                if !self.may_crash() {
                    return false;
                }
                let after = self.chance.below(30) as u32;
                self.armed(id, |armed| armed.crash_after = Some(after));
            }
            3 | 4 => return self.restart_one(),
            5 | 6 => return self.lose_link(id),
            7 => return self.lose_control(id, &others),
            8 => {
                let Some(&peer) = self.chance.pick(&others) else { return false };
                self.fired(Fault::Delay, node, || format!("to node {}", peer.node));
                self.trouble(&[id.node, peer.node]);
                self.network.slow(id.node, peer.node, until_us);
            }
            9..=11 => return self.partition(until_us),
            12 | 13 => {
                let until_us = self.now_us + self.chance.between(50_000, 8_000_000);
                self.trouble(&[id.node]);
                self.fired(Fault::Hang, node, || format!("until {} ms", until_us / 1_000));
                let Some(process) = self.alive(id) else { return false };
                process.hung_until_us = until_us;
            }
            14 => {
                self.trouble(&[id.node]);
                self.fired(Fault::SlowNode, node, || format!("until {} ms", until_us / 1_000));
                let Some(process) = self.alive(id) else { return false };
                process.slow_until_us = until_us;
            }
            15 => return self.hang_worker(id, until_us),
            16 => {
                let Some(process) = self.alive(id) else { return false };
                let Some(running) = process.running() else { return false };
                running.generation.panic_next();
                self.fired(Fault::WorkerPanic, node, String::new);
            }
            17 => job::panic_after(self.chance.between(1, 20)),
            18 => self.armed(id, |armed| armed.tear = true),
            19 => self.armed(id, |armed| armed.flip = true),
            20 => self.register_slow_until_us = until_us,
            21 => {
                let failures = self.chance.between(1, 3) as u32;
                self.armed(id, |armed| armed.release_failures = failures);
            }
            22 => {
                let slow_us = self.chance.between(10_000, 500_000);
                self.armed(id, |armed| armed.release_us = slow_us);
            }
            _ => return false,
        }
        true
    }

    fn lose_control(&mut self, id: ProcessId, others: &[ProcessId]) -> bool {
        // Before the first view such a loss ends the job at its connect limit.
        if self.views.is_empty() {
            return false;
        }
        let Some(&peer) = self.chance.pick(others) else { return false };
        self.trouble(&[id.node, peer.node]);
        self.fired(Fault::ControlLost, Some(id.node), || format!("to node {}", peer.node));
        self.lose_in_flight(id.node, peer.node, None);
        self.lose_in_flight(peer.node, id.node, None);
        self.disconnect(id, peer, "connection reset");
        true
    }

    fn hang_worker(&mut self, id: ProcessId, until_us: u64) -> bool {
        self.trouble(&[id.node]);
        let until = || format!("until {} ms", until_us / 1_000);
        self.fired(Fault::HungWorker, Some(id.node), until);
        let Some(process) = self.alive(id) else { return false };
        process.worker_hung_until_us = until_us;
        let view = process.present.view().map(|view| view.number);
        // The node itself notices, as a real one does.
        let busy_ms = self.chance.between(100, 2_000);
        if let Some(view) = view
            && self.now_us + busy_ms * 1_000 < until_us
        {
            let input = Input::WorkerHung { view, worker: 0, busy_ms };
            self.after(busy_ms * 1_000, id, Happening::Local(input));
        }
        true
    }

    fn armed(&mut self, id: ProcessId, arm: impl FnOnce(&mut Armed)) {
        arm(self.witness.lock().armed.entry(id).or_default());
    }

    /// Notes nodes of which others may think for good reason that they are gone.
    fn trouble(&mut self, nodes: &[NodeId]) {
        self.troubled.extend(nodes);
    }

    /// Most runs keep to as many crashes as the job must survive.
    fn may_crash(&mut self) -> bool {
        let crashed = self.processes.values().filter(|process| !process.is_alive()).count() as u64;
        let survivable = u64::from(self.shape.backups);
        // Who has come back holds nothing yet.
        let alive = self.processes.values().filter(|process| process.is_alive());
        let is_whole = alive.into_iter().all(|process| process.vault.filling() == 0);
        crashed + 1 < self.shape.nodes
            && ((crashed < survivable && is_whole) || self.chance.one_in(6))
    }

    fn restart_one(&mut self) -> bool {
        let crashed: Vec<ProcessId> = self
            .processes
            .values()
            .filter(|process| process.end.as_ref().is_some_and(may_come_back))
            .map(|process| process.id)
            .collect();
        let Some(&id) = self.chance.pick(&crashed) else { return false };
        self.restart(id);
        // At times all come at once.
        if self.chance.one_in(3) {
            crashed.into_iter().filter(|other| *other != id).for_each(|id| self.restart(id));
        }
        true
    }

    /// Notes that a process has ended, if it is to be started again.
    pub(super) fn be_absent(&mut self, id: ProcessId, end: &End) {
        let Some(absence_us) = self.shape.absence_us.filter(|_| may_come_back(end)) else { return };
        if id.incarnation.0 <= COMEBACKS_MAX {
            let at_us = self.now_us + self.chance.below(absence_us);
            self.absent.insert((at_us, id));
        }
    }

    /// Starts again whose time has come.
    pub(super) fn bring_back(&mut self) {
        while let Some(&(at_us, id)) = self.absent.first()
            && at_us <= self.now_us
        {
            self.absent.pop_first();
            // A fault may have done it before.
            if self.processes.get(&id.node).is_some_and(|process| process.id == id) {
                self.restart(id);
            }
        }
    }

    fn restart(&mut self, id: ProcessId) {
        let next = match self.plant {
            Some(Plant::SameIncarnation) => id.incarnation,
            _ => Incarnation(id.incarnation.0 + 1),
        };
        self.fired(Fault::Restart, Some(id.node), String::new);
        self.start(id.node, next);
    }

    fn lose_link(&mut self, id: ProcessId) -> bool {
        let Some(process) = self.alive(id) else { return false };
        let (view, peers) = (process.present.number(), process.linked());
        let Some(&peer) = self.chance.pick(&peers) else { return false };
        self.fired(Fault::LinkLost, Some(id.node), || format!("to node {peer} in view {view}"));
        for (from, to) in [(id.node, peer), (peer, id.node)] {
            self.lose_in_flight(from, to, Some(view));
            let there = self.processes.get(&to).map(|process| process.id);
            if let Some(there) = there.and_then(|there| self.alive(there)).map(|there| there.id) {
                self.send(from, there, Some(view), Happening::LinkEnded { from, view });
            }
        }
        true
    }

    fn partition(&mut self, until_us: u64) -> bool {
        let nodes: Vec<NodeId> = self.processes.keys().copied().collect();
        let sides: Vec<u64> = nodes.iter().map(|_| self.chance.below(2)).collect();
        let bridge = self.chance.pick(&nodes).copied();
        let kind = match self.chance.below(3) {
            0 => Fault::PartitionSymmetric,
            1 => Fault::PartitionOneWay,
            _ => Fault::PartitionBridge,
        };
        let mut cut = Vec::new();
        for (from, from_side) in nodes.iter().zip(&sides) {
            for (to, to_side) in nodes.iter().zip(&sides) {
                let is_bridged = kind == Fault::PartitionBridge
                    && (Some(*from) == bridge || Some(*to) == bridge);
                let is_open = kind == Fault::PartitionOneWay && from_side > to_side;
                if from_side != to_side && !is_bridged && !is_open {
                    cut.push((*from, *to));
                }
            }
        }
        if cut.is_empty() {
            return false;
        }
        self.fired(kind, None, || format!("{cut:?} until {} ms", until_us / 1_000));
        for (from, to) in cut {
            self.trouble(&[from, to]);
            self.network.cut(from, to, until_us);
        }
        true
    }
}
