//! Verdict: whether a run ended as it should have.

use ringfence_operators::ids::{NodeId, PartitionId};

use super::process::{End, ProcessId};
use super::world::World;
use ringfence::internals::protocol::message::ProtocolError;
use ringfence::internals::protocol::plan::PlanError;
use ringfence::internals::protocol::view::View;
use ringfence::internals::register::Register;

/// How a run ended, where nothing was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// The job is complete and its output exact.
    Finished,
    /// The job stopped, with an error that says so: all holders of a partition were gone.
    Lost,
    /// Nobody was left to go on.
    NobodyLeft,
}

impl World {
    /// Checks that a process had a right to end as it did.
    pub(super) fn judge_end(&mut self, id: ProcessId, end: &End) {
        let End::Failed(error) = end else { return };
        let latest = self.views.last_key_value().map(|(_, view)| view);
        let is_in = |view: &View| {
            view.member(id.node).is_some_and(|member| member.incarnation == id.incarnation)
        };
        let held = match error {
            ProtocolError::Excluded { number, .. } => {
                self.views.get(number).is_some_and(|v| !is_in(v))
            }
            ProtocolError::NobodyReached { .. } => {
                latest.is_some_and(|view| self.is_out_of_reach(id, view))
            }
            ProtocolError::RunDone => self.register.done().unwrap_or(false),
            ProtocolError::CutOff { .. } | ProtocolError::StopLimit { .. } => {
                self.troubled.contains(&id.node)
            }
            ProtocolError::Peer { .. } => self.ends().any(is_lost),
            ProtocolError::Plan(PlanError::Lost { partitions, .. }) => {
                return self.judge_lost(id, partitions);
            }
            _ => false,
        };
        if !held {
            self.violate(format!("ends: node {} had no reason to fail: {error}", id.node));
        }
    }

    /// Whether somebody in `view` is gone, or has not been heard by all.
    fn is_out_of_reach(&self, id: ProcessId, view: &View) -> bool {
        self.troubled.contains(&id.node)
            || view.members.iter().any(|member| {
                let process = self.processes.get(&member.node).filter(|p| p.is_alive());
                process.is_none_or(|process| process.id.incarnation != member.incarnation)
                    || self.troubled.contains(&member.node)
            })
    }

    /// Checks that nobody holds the partitions that `id` gives up.
    fn judge_lost(&mut self, id: ProcessId, partitions: &[PartitionId]) {
        let Some(view) = self.processes.get(&id.node).and_then(|p| p.machine.view()).cloned()
        else {
            return;
        };
        let (mut witnesses, mut busy) = (Vec::new(), Vec::new());
        for member in &view.members {
            let Some(process) = self.processes.get(&member.node) else { continue };
            let is_here = process.is_alive()
                && process.id.incarnation == member.incarnation
                && !self.troubled.contains(&member.node)
                && process.present.is(view.number);
            if is_here && process.present.is_awaiting() {
                busy.push(member.node);
            }
            if is_here {
                // What a worker brings after the wait for it is over may not be heard of in time.
                let is_late = process.gave_up_in == Some(view.number);
                let vault = &process.vault;
                witnesses.push((member.node, vault.recorded(), vault.inventory(), is_late));
            }
        }
        let resume = witnesses.iter().map(|(_, recorded, ..)| *recorded).max().flatten();
        let resume = resume.max(view.resume);
        let mut holders: Vec<(PartitionId, NodeId)> = Vec::new();
        for partition in partitions {
            let owner = view.assignment.place(*partition).map(|place| place.owner.node);
            // A worker that is still waited for may bring it.
            holders.extend(busy.iter().filter(|n| Some(**n) == owner).map(|n| (*partition, *n)));
            for (node, _, inventory, is_late) in &witnesses {
                let Some(copies) = inventory.partitions.get(partition) else { continue };
                let owns = view.assignment.place(*partition).is_some_and(|p| p.owner.node == *node);
                let spans = copies
                    .replica
                    .is_some_and(|span| span.from <= resume && span.through >= resume);
                if (copies.live && owns && !is_late) || spans {
                    holders.push((*partition, *node));
                }
            }
        }
        if !holders.is_empty() {
            self.violate(format!(
                "loss: node {} gives up partitions that others hold at {resume:?}: {holders:?}",
                id.node
            ));
        }
    }

    fn ends(&self) -> impl Iterator<Item = &End> {
        let present = self.processes.values().filter_map(|process| process.end.as_ref());
        present.chain(self.former.iter().map(|(_, end)| end))
    }

    /// Checks the whole run, when nothing happens any more.
    pub(super) fn judge(&mut self) {
        let left = self.processes.values().find(|process| process.is_alive());
        if let Some(process) = left {
            let (node, phase) = (process.id.node, process.machine.phase().clone());
            return self.violate(format!("liveness: node {node} stays {phase:?}"));
        }
        if self.register.done().unwrap_or(false) {
            let complete = self.target.check_complete(&self.shape.job, self.shape.nodes);
            if let Err(error) = complete {
                self.violate(format!("output: {error}"));
            }
            return;
        }
        if self.ends().any(|end| matches!(end, End::Finished)) {
            return self.violate("the end: a node finished and the register knows nothing".into());
        }
        if self.ends().any(is_lost) {
            return;
        }
        // Who was in the latest view must have died there.
        let latest = self.views.last_key_value().map(|(_, view)| view.clone());
        for member in latest.iter().flat_map(|view| &view.members) {
            let process = self.processes.get(&member.node);
            let present = process.filter(|process| process.id.incarnation == member.incarnation);
            let end = present.and_then(|process| process.end.as_ref());
            if matches!(end, Some(End::Failed(error)) if !matches!(error, ProtocolError::StopLimit { .. } | ProtocolError::CutOff { .. }))
            {
                let node = member.node;
                return self
                    .violate(format!("the end: node {node} gave up the latest view: {end:?}"));
            }
        }
    }

    /// How the run ended.
    pub(super) fn ending(&self) -> Ending {
        match (self.register.done().unwrap_or(false), self.ends().any(is_lost)) {
            (true, _) => Ending::Finished,
            (false, true) => Ending::Lost,
            (false, false) => Ending::NobodyLeft,
        }
    }
}

fn is_lost(end: &End) -> bool {
    matches!(end, End::Failed(ProtocolError::Plan(PlanError::Lost { .. })))
}
