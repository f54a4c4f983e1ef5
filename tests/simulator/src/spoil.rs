//! Spoil: the planted bugs on the way to the register.

use ringfence_operators::ids::ViewNumber;

use super::plant::Plant;
use super::process::ProcessId;
use super::world::World;
use ringfence::internals::protocol::message::{Output, RegisterReply};
use ringfence::internals::protocol::view::View;
use ringfence::internals::register::Register;

impl World {
    /// What a register answers that takes a second view of a number.
    pub(super) fn misread(&mut self, question: &Output) -> Option<RegisterReply> {
        if self.plant != Some(Plant::NumberReused) {
            return None;
        }
        match question {
            Output::Propose(view) if self.views.contains_key(&view.number) => {
                let held = self.believed.believe(view);
                self.witness.check("agreement", held);
                self.reused.insert(view.number, view.clone());
                Some(RegisterReply::Created { number: view.number })
            }
            Output::ReadView(number) => {
                let view = self.reused.get(number)?.clone();
                Some(RegisterReply::Read { number: *number, view: Some(view), done: false })
            }
            _ => None,
        }
    }

    /// Does to a proposal what the planted bug does.
    pub(super) fn spoil(&mut self, _id: ProcessId, view: &mut View) {
        let previous = self.views.get(&ViewNumber(view.number.0.saturating_sub(1))).cloned();
        match self.plant {
            Some(Plant::MemberWithoutEvidence) => {
                let members = previous.into_iter().flat_map(|previous| previous.members);
                let missing = members.filter(|member| view.member(member.node).is_none());
                let missing: Vec<_> = missing.collect();
                for mut member in missing {
                    member.evidence = None;
                    view.members.push(member);
                }
                view.members.sort_by_key(|member| member.node);
            }
            Some(Plant::ExcludedReturns) => {
                // The node keeps what it said when it was a member last.
                let before = self.views.values().rev().skip(1).flat_map(|view| &view.members);
                let missing = before.filter(|member| view.member(member.node).is_none());
                if let Some(member) = missing.max_by_key(|member| member.evidence.is_some()) {
                    let mut member = member.clone();
                    if let Some(evidence) = &mut member.evidence {
                        evidence.view = ViewNumber(view.number.0 - 1);
                    }
                    view.members.push(member);
                    view.members.sort_by_key(|member| member.node);
                }
            }
            Some(Plant::ResumeIgnoresRegister) => {
                let Some(previous) = previous else { return };
                let recorded = view.members.iter().filter_map(|m| m.evidence.as_ref()?.recorded);
                // What was recorded in this very generation, and not what it began with.
                view.resume = recorded.filter(|epoch| Some(*epoch) > previous.resume).max();
            }
            Some(Plant::LoserGoesOn) => {
                if let Ok(Some(latest)) = self.register.latest()
                    && latest >= view.number
                    && let Some(winner) = self.views.get(&latest)
                {
                    view.number = ViewNumber(latest.0 + 1);
                    view.previous = Some(winner.digest());
                }
            }
            Some(Plant::BackupOnOwner) => {
                for place in &mut view.assignment.places {
                    if let Some(backup) = place.backups.first_mut() {
                        *backup = place.owner;
                    }
                }
            }
            _ => {}
        }
    }
}
