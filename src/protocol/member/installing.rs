//! Installing the next view: whether this node may take part in it, and what follows at once.

use ringfence_operators::ids::NodeId;

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
        if let Err(error) = self.check(&view) {
            return self.fail(error);
        }
        let (number, node) = (view.number, self.config.node);
        if let Some(other) = self.still_cut_off(&view).filter(|other| *other < node) {
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

    fn check(&self, view: &View) -> Result<(), ProtocolError> {
        let MemberConfig { run, node, incarnation, .. } = &self.config;
        let number = view.number;
        if view.run != *run {
            return Err(ProtocolError::OtherRun {
                number,
                expected: run.clone(),
                found: view.run.clone(),
            });
        }
        view.validate().map_err(|error| ProtocolError::BadView { number, error })?;
        if number != self.next_number() || view.previous != self.view.as_ref().map(View::digest) {
            return Err(ProtocolError::Diverged { number });
        }
        let Some(this) = view.member(*node).filter(|member| member.incarnation == *incarnation)
        else {
            // Who is not in the first view was started when the run was under way.
            return Err(match self.view {
                None => ProtocolError::RunStarted { number },
                Some(_) => {
                    ProtocolError::Excluded { number, node: *node, incarnation: *incarnation }
                }
            });
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

    /// The lowest member of `view` that this node could not hear in all of the last one.
    ///
    /// SUBTLE: who gave evidence of the last view lived when this node had lost it already, and no lost
    /// connection is made again. The two would suspect each other in every view to come. So the higher
    /// one leaves, if the others still reach both.
    fn still_cut_off(&self, view: &View) -> Option<NodeId> {
        let gave = |node| self.peers.get(&node)?.evidence.as_ref().map(|e| e.view);
        let is_lost = |node| self.is_unheard(node) && gave(node) != Some(self.number());
        let mut cut_off = self.cut_off.iter().copied();
        cut_off.find(|node| is_lost(*node) && view.member(*node).is_some())
    }

    fn install(&mut self, view: View) {
        let number = view.number;
        self.outputs.push(Output::Report(self.agreed(&view)));
        self.phase = Phase::Installing;
        self.given.clear();
        self.awaited.clear();
        self.view = Some(view.clone());
        self.watch();
        self.outputs.push(Output::Install(view));
        self.broadcast(&Message::ViewCreated { number });
        let others: Vec<NodeId> = self.other_members().collect();
        self.cut_off = others.iter().copied().filter(|node| self.is_unheard(*node)).collect();
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
            moved: moved.unwrap_or_default(),
            // A cluster that began with one node never had other nodes to lie on.
            under_replicated: match self.config.nodes.len() {
                1 => Vec::new(),
                _ => view.assignment.under_replicated(view.backups),
            },
        }
    }
}
