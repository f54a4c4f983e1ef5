//! Gathering evidence, and the decision when to propose the next view.
//!
//! Who proposes and when is a matter of time alone and never of safety: any stopped member may propose
//! from any evidence, and the register lets one win. The lowest node that gave evidence proposes at
//! once when nobody is left to wait for, the others later by their rank, in case it dies first.

use std::collections::BTreeMap;

use ringfence_operators::ids::{NodeId, PartitionId};

use super::super::message::{Event, Output};
use super::super::plan::{PlanError, next_view, planned_view};
use super::super::view::Evidence;
use super::{Machine, Phase};

/// How far a node is with the evidence of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathering {
    pub(super) since_ms: u64,
    /// Since when nobody is waited for.
    pub(super) complete_since_ms: Option<u64>,
    /// Not before this may this node propose.
    pub(super) not_before_ms: u64,
    /// When the register is read anew: a node that hears nobody learns of a view only there.
    pub(super) poll_at_ms: u64,
    /// Whether the register is being read so that a proposal may follow.
    pub(super) reading: bool,
    /// Whether some partition has no holder among those that gave evidence so far.
    pub(super) short: bool,
    /// Whether some partition has no holder but workers that may still bring its state.
    pub(super) held: bool,
}

impl Gathering {
    /// Something has changed in what is known: a proposal that could not be made may be possible now.
    pub(super) fn reconsider(&mut self) {
        self.short = false;
        self.held = false;
    }
}

impl Machine {
    /// Looks anew whether a view can be made, if this node gathers evidence.
    pub(super) fn reconsider(&mut self) {
        if let Phase::Gathering(gathering) = &mut self.phase {
            gathering.reconsider();
        }
    }

    pub(super) fn advance_gathering(&mut self) {
        let complete = self.missing().next().is_none();
        let now_ms = self.now_ms;
        let Phase::Gathering(gathering) = &mut self.phase else { return };
        let since_ms = gathering.complete_since_ms.unwrap_or(now_ms);
        gathering.complete_since_ms = complete.then_some(since_ms);
        let Phase::Gathering(gathering) = &self.phase else { return };
        let due = self.propose_at(gathering) <= now_ms;
        if !self.register.is_idle() || !(due || gathering.poll_at_ms <= now_ms) {
            return;
        }
        let Phase::Gathering(gathering) = &mut self.phase else { return };
        if due {
            // SUBTLE: the register is read after it was decided to go on without the missing. One that
            // ended because it had finished marked the run as done before, so the read tells.
            gathering.reading = true;
        } else {
            gathering.poll_at_ms = now_ms + self.config.limits.register_retry_ms;
        }
        self.ask_to_read();
    }

    /// Gathers from now on, and reads the register anew when it is time.
    pub(super) fn gather(&mut self, not_before_ms: u64) {
        self.phase = Phase::Gathering(Gathering {
            since_ms: self.now_ms,
            poll_at_ms: self.now_ms + self.config.limits.register_retry_ms,
            not_before_ms,
            ..Gathering::default()
        });
    }

    pub(super) fn propose_at(&self, gathering: &Gathering) -> u64 {
        if gathering.held {
            // Whoever is waited for says when it is over, or is lost; either is heard of.
            return u64::MAX;
        }
        let limits = &self.config.limits;
        let missing = self.missing().count();
        let wait_ms = |node| {
            if self.detector.is_silent(node) {
                limits.silent_wait_ms
            } else {
                limits.evidence_wait_ms
            }
        };
        let rank = self.givers().take_while(|(node, _)| *node != self.config.node).count() as u64;
        let turn_ms = match gathering.complete_since_ms {
            Some(since_ms) if missing == 0 => since_ms,
            _ if missing == 0 => self.now_ms,
            _ if gathering.short => gathering.since_ms + limits.holder_wait_ms,
            _ => gathering.since_ms + self.missing().map(wait_ms).sum::<u64>(),
        };
        // Nothing is the matter, so what busy workers have is rather waited for than taken over by others.
        let is_busy =
            self.is_planned() && self.givers().any(|(n, _)| !self.awaited_of(n).is_empty());
        let busy_ms = if is_busy { gathering.since_ms + limits.evidence_wait_ms } else { 0 };
        (turn_ms.max(busy_ms) + rank * limits.propose_stagger_ms).max(gathering.not_before_ms)
    }

    pub(super) fn propose(&mut self) {
        let Some(current) = &self.view else { return };
        let evidence: BTreeMap<_, _> = self
            .givers()
            .filter_map(|(node, evidence)| {
                Some((node, (current.member(node)?.incarnation, evidence.clone())))
            })
            .collect();
        let missing: Vec<NodeId> = self.missing().collect();
        let plan = if self.is_planned() {
            planned_view(current, &evidence, self.askers().collect())
        } else {
            next_view(current, &evidence)
        };
        let awaited: BTreeMap<NodeId, Vec<PartitionId>> =
            evidence.keys().map(|node| (*node, self.awaited_of(*node).to_vec())).collect();
        let awaited_at = |partitions: &[PartitionId]| -> Vec<NodeId> {
            let of_them = |awaited: &[PartitionId]| awaited.iter().any(|p| partitions.contains(p));
            awaited.iter().filter(|(_, p)| of_them(p)).map(|(node, _)| *node).collect()
        };
        let (view, limits, now_ms) = (current.number, &self.config.limits, self.now_ms);
        match (plan, &mut self.phase) {
            (Ok(plan), phase) => {
                *phase = Phase::Proposing;
                self.ask_to_create(plan.view);
            }
            // Their workers may still bring it. Each node says when it stops to wait for them.
            (Err(PlanError::Lost { partitions, .. }), Phase::Gathering(gathering))
                if !awaited_at(&partitions).is_empty() =>
            {
                gathering.held = true;
                let nodes = awaited_at(&partitions);
                let event = Event::WaitingForWorkers { view, nodes, partitions };
                self.outputs.push(Output::Report(event));
            }
            // Somebody who may hold what is lost is not known to be gone: better late than lost.
            (Err(PlanError::Lost { .. }), Phase::Gathering(gathering))
                if !missing.is_empty() && now_ms < gathering.since_ms + limits.holder_wait_ms =>
            {
                gathering.short = true;
                self.outputs.push(Output::Report(Event::Waiting { view, missing }));
            }
            (Err(error), _) => self.fail_all(error.into()),
        }
    }

    /// The members that gave evidence of the current view and are not known to be gone, ascending.
    pub(super) fn givers(&self) -> impl Iterator<Item = (NodeId, &Evidence)> {
        let members = self.view.iter().flat_map(|view| &view.members);
        members.filter_map(|member| Some((member.node, self.evidence_of(member.node)?)))
    }

    /// The members that gave no evidence yet and are not known to be gone, ascending.
    pub(super) fn missing(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.other_members()
            .filter(|node| !self.is_gone(*node) && self.evidence_of(*node).is_none())
    }

    /// The partitions whose live state may still come from the workers of `node`.
    fn awaited_of(&self, node: NodeId) -> &[PartitionId] {
        if node == self.config.node {
            return &self.awaited;
        }
        let awaiting = self.peers.get(&node).and_then(|peer| peer.awaiting.as_ref());
        let current = awaiting.filter(|(view, _)| *view == self.number());
        current.map_or(&[], |(_, partitions)| partitions)
    }

    pub(super) fn evidence_of(&self, node: NodeId) -> Option<&Evidence> {
        let evidence = if node == self.config.node {
            self.given.last()?
        } else {
            self.peers.get(&node).filter(|_| self.is_up(node))?.evidence.as_ref()?
        };
        (evidence.view == self.number()).then_some(evidence)
    }

    /// After a proposal nobody proposes again at once: the register is read first.
    pub(super) fn back_to_gathering(&mut self) {
        let not_before_ms = self.now_ms + self.config.limits.propose_stagger_ms;
        match &mut self.phase {
            Phase::Proposing => self.gather(not_before_ms),
            Phase::Gathering(gathering) => gathering.reading = false,
            _ => {}
        }
    }
}
