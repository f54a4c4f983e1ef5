//! Installing the next view: whether this node may take part in it, and what follows at once.

use ringfence_operators::ids::{NodeId, ViewNumber};

use super::super::invariants;
use super::super::message::{Event, Message, Output, ProtocolError, Suspicion};
use super::super::view::View;
use super::{Machine, MemberConfig, Phase};

impl Machine {
    /// Installs the next view if this node may take part in it.
    pub(super) fn consider(&mut self, view: View) {
        if matches!(self.phase, Phase::Finishing { .. }) {
            return;
        }
        if let Err(error) = self.check_lineage(&view) {
            return self.fail(error);
        }
        if self.is_outside() && !self.is_in(&view) {
            return self.look_in(view);
        }
        if let Err(error) = self.check_membership(&view) {
            return self.fail(error);
        }
        let (number, node) = (view.number, self.config.node);
        if let Some(other) = self.still_cut_off(&view) {
            return self.fail(ProtocolError::CutOff { number, node, other });
        }
        if let Some(previous) = &self.view {
            debug_assert_eq!(invariants::successor(previous, &view), Ok(()));
            let limit = self.config.limits.views_without_commit_max;
            if let Some(error) = self.progress.follows(previous, &view, limit) {
                return self.fail_all(error);
            }
        }
        self.install(view);
    }

    fn check_lineage(&self, view: &View) -> Result<(), ProtocolError> {
        let number = view.number;
        if view.run != self.config.run {
            return Err(ProtocolError::OtherRun {
                number,
                expected: self.config.run.clone(),
                found: view.run.clone(),
            });
        }
        view.validate().map_err(|error| ProtocolError::BadView { number, error })?;
        if number != self.next_number() || view.previous != self.view.as_ref().map(View::digest) {
            return Err(ProtocolError::Diverged { number });
        }
        Ok(())
    }

    fn check_membership(&self, view: &View) -> Result<(), ProtocolError> {
        let MemberConfig { node, incarnation, .. } = &self.config;
        let number = view.number;
        let Some(this) = view.member(*node).filter(|member| member.incarnation == *incarnation)
        else {
            return Err(ProtocolError::Excluded { number, node: *node, incarnation: *incarnation });
        };
        let is_quoted = match &this.evidence {
            Some(quoted) => self.given.contains(quoted),
            None => self.given.is_empty(),
        };
        if !is_quoted {
            return Err(ProtocolError::Misquoted { number });
        }
        Ok(())
    }

    /// A member of `view` that this node could not hear in all of the last one, and that stays before it.
    ///
    /// SUBTLE: who gave evidence of the last view lived when this node had lost it already, and no lost
    /// connection is made again. The two would suspect each other in every view to come. So one leaves, if the
    /// others still reach both: the one that was taken in last, else the higher one.
    fn still_cut_off(&self, view: &View) -> Option<NodeId> {
        let gave = |node| self.peers.get(&node)?.evidence.as_ref().map(|e| e.view);
        let is_lost = |node| self.is_cut_off(node) && gave(node) != Some(self.number());
        let rank = |node| (self.view.as_ref().is_some_and(|last| last.is_newcomer(node)), node);
        let mut cut_off = self.cut_off.iter().copied();
        cut_off.find(|node| {
            is_lost(*node) && view.member(*node).is_some() && rank(*node) < rank(self.config.node)
        })
    }

    /// Whether nothing can be heard of a member, or never could since it was taken in.
    fn is_cut_off(&self, node: NodeId) -> bool {
        self.is_unheard(node) || (self.number() > ViewNumber(1) && !self.is_up(node))
    }

    fn install(&mut self, view: View) {
        let number = view.number;
        self.outputs.push(Output::Report(self.agreed(&view)));
        self.phase = Phase::Installing;
        self.given.clear();
        self.awaited.clear();
        self.meet(&view);
        let previous = self.view.replace(view.clone());
        self.look_at_balance(previous.as_ref());
        self.watch();
        self.outputs.push(Output::Install(view));
        self.broadcast(&Message::ViewCreated { number });
        let others: Vec<NodeId> = self.other_members().collect();
        self.connect_newcomers();
        self.cut_off = others.iter().copied().filter(|node| self.is_cut_off(*node)).collect();
        self.detector.acquit();
        for node in others {
            let stop = self.peers.get(&node).and_then(|peer| peer.stop.clone());
            if self.is_gone(node) {
                self.suspect(number, Suspicion::Gone { node });
            } else if let Some((_, reason)) = stop.filter(|(stopped, _)| *stopped == number) {
                self.stopped_by(node, number, reason);
            }
        }
    }

    /// What is told of a view that follows the present one.
    fn agreed(&self, view: &View) -> Event {
        let nodes = |view: &View| view.members.iter().map(|member| member.node).collect::<Vec<_>>();
        let before = self.view.as_ref();
        let mut left = before.map_or_else(Vec::new, nodes);
        left.retain(|node| view.member(*node).is_none());
        let moved = before.map(|previous| previous.assignment.moved(&view.assignment));
        Event::ViewAgreed {
            number: view.number,
            resume: view.resume,
            members: nodes(view),
            left,
            joined: nodes(view).into_iter().filter(|node| view.is_newcomer(*node)).collect(),
            moved: moved.unwrap_or_default(),
            // A cluster that began with one node never had other nodes to lie on.
            under_replicated: match self.config.nodes.len() {
                1 => Vec::new(),
                _ => view.assignment.under_replicated(view.backups),
            },
        }
    }
}
