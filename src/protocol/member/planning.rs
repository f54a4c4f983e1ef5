//! Planning: when a view is ended on purpose, to take in who asks or to even out who owns what.
//!
//! The lowest member plans. It does so when it knows that nothing is under way: every member has built its
//! generation and read again what it had read before. Then it waits for a commit, since right after one there is
//! least to do again. Where nothing commits, as in a job that waits for its user, it waits a while.
//!
//! A planned change ends a view as a failure does: all stop and give evidence. If a member gives none, it was no
//! planned change after all, and the next view is the usual one. What was to be done is still to be done then, and
//! whoever is the lowest member plans it again.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{Epoch, NodeId, ViewNumber, named_nodes};

use super::super::balance::lean_nodes;
use super::super::message::{Message, Output, Suspicion};
use super::super::view::View;
use super::{Machine, Phase};

/// What is known of the present view by which a change can be planned.
#[derive(Clone, Debug, Default)]
pub(super) struct Planning {
    /// The latest view in which each member has caught up with what it had read before.
    caught_up: BTreeMap<NodeId, ViewNumber>,
    /// The latest view in which each member has all copies for which it was filled.
    refilled: BTreeMap<NodeId, ViewNumber>,
    /// The members that own far less than their share.
    lean: BTreeSet<NodeId>,
    /// The latest view that was ended on purpose.
    ended: Option<ViewNumber>,
    /// Since when there is something to do and nothing in its way.
    wanted_since_ms: Option<u64>,
    /// Whether something was committed just now.
    committed: bool,
    /// Whether everything is committed: the programs only have to come to their ends.
    is_over: bool,
}

impl Machine {
    /// Takes note of what the members of a view own, which follows `previous`.
    ///
    /// Only for those who were taken in is a view ended. Who has lost what it owned by a panic of its workers is not
    /// worth another interruption.
    pub(super) fn look_at_balance(&mut self, previous: Option<&View>) {
        let Some(view) = &self.view else { return };
        // What one plan could not change, the next cannot either.
        let is_in_vain =
            view.planned && previous.is_some_and(|before| before.assignment == view.assignment);
        let is_late = |node: &NodeId| {
            let member = view.member(*node).map(|member| member.incarnation);
            !is_in_vain && self.late.get(node).copied() == member
        };
        let lean = lean_nodes(&view.assignment, &view.ring());
        self.planning.lean = lean.into_iter().filter(is_late).collect();
        self.planning.wanted_since_ms = None;
        self.planning.is_over |= view.resume == Some(Epoch::END);
    }

    pub(super) fn on_committed(&mut self, view: ViewNumber, epoch: Epoch) {
        self.planning.committed |= view == self.number();
        self.planning.is_over |= epoch == Epoch::END;
    }

    pub(super) fn on_caught_up(&mut self, node: NodeId, view: ViewNumber) {
        note(&mut self.planning.caught_up, node, view);
        self.tell_lowest(node, Message::CaughtUp { view });
    }

    pub(super) fn on_refilled(&mut self, node: NodeId, view: ViewNumber) {
        note(&mut self.planning.refilled, node, view);
        self.tell_lowest(node, Message::Refilled { view });
    }

    /// Passes on what this node knows of itself to whoever plans.
    fn tell_lowest(&mut self, of: NodeId, message: Message) {
        let lowest = self.lowest().filter(|lowest| *lowest != of && of == self.config.node);
        self.outputs.extend(lowest.map(|lowest| Output::Send(lowest, message)));
    }

    /// What `lowest` must know of this node, if it was not connected when that was told.
    pub(super) fn known_of_own(&self, lowest: NodeId) -> Vec<Message> {
        let (view, here) = (self.number(), self.config.node);
        let mut known = Vec::new();
        if self.lowest() == Some(lowest) && self.is_in_view(&self.planning.caught_up, here) {
            known.push(Message::CaughtUp { view });
        }
        if self.lowest() == Some(lowest) && self.is_in_view(&self.planning.refilled, here) {
            known.push(Message::Refilled { view });
        }
        known
    }

    fn lowest(&self) -> Option<NodeId> {
        self.view.as_ref()?.members.first().map(|member| member.node)
    }

    /// Ends the view on purpose, if there is a reason and this is the moment.
    pub(super) fn plan(&mut self) {
        let has_committed = std::mem::take(&mut self.planning.committed);
        let may_plan = self.phase == Phase::Running
            && self.done_seen_ms.is_none()
            && !self.planning.is_over
            && self.lowest() == Some(self.config.node)
            && self.have_all(&self.planning.caught_up);
        let Some(why) = may_plan.then(|| self.wish()).flatten() else {
            self.planning.wanted_since_ms = None;
            return;
        };
        let since_ms = *self.planning.wanted_since_ms.get_or_insert(self.now_ms);
        if has_committed || since_ms + self.config.limits.plan_wait_ms <= self.now_ms {
            self.suspect(self.number(), Suspicion::Planned { why });
        }
    }

    pub(super) fn planning_deadline(&self) -> Option<u64> {
        let since_ms = self.planning.wanted_since_ms.filter(|_| self.phase == Phase::Running)?;
        Some(since_ms + self.config.limits.plan_wait_ms)
    }

    /// What there is to do, in words.
    fn wish(&self) -> Option<String> {
        let askers: Vec<NodeId> = self.askers().map(|member| member.node).collect();
        if !askers.is_empty() {
            return Some(format!("to take in {}", named_nodes(&askers)));
        }
        let Planning { lean, refilled, .. } = &self.planning;
        let is_filled = |node: &NodeId| self.is_in_view(refilled, *node) || !self.is_fed(*node);
        let is_due = !lean.is_empty() && lean.iter().all(is_filled);
        is_due.then(|| format!("to give {} a full share", named_nodes(lean)))
    }

    /// Whether copies of `node` are being filled in the present view.
    fn is_fed(&self, node: NodeId) -> bool {
        let places = self.view.iter().flat_map(|view| &view.assignment.places);
        places.flat_map(|place| &place.filling).any(|worker| worker.node == node)
    }

    fn have_all(&self, known: &BTreeMap<NodeId, ViewNumber>) -> bool {
        let mut members = self.view.iter().flat_map(|view| &view.members);
        members.all(|member| self.is_in_view(known, member.node))
    }

    fn is_in_view(&self, known: &BTreeMap<NodeId, ViewNumber>, node: NodeId) -> bool {
        known.get(&node) == Some(&self.number())
    }

    /// Notes that `view` ends on purpose.
    pub(super) fn ends_by_plan(&mut self, view: ViewNumber) {
        self.planning.ended = Some(view);
    }

    pub(super) fn is_ended_by_plan(&self) -> bool {
        self.planning.ended == Some(self.number())
    }

    /// Whether the present view was ended on purpose, and nothing has failed since.
    pub(super) fn is_planned(&self) -> bool {
        let members = self.view.as_ref().map_or(0, |view| view.members.len());
        self.is_ended_by_plan() && self.givers().count() == members
    }
}

fn note(known: &mut BTreeMap<NodeId, ViewNumber>, node: NodeId, view: ViewNumber) {
    let latest = known.entry(node).or_insert(view);
    *latest = view.max(*latest);
}
