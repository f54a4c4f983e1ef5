//! Conduct: what the processes of a run did in each view, held against the rules.
//!
//! A simulator reports each step here when it happens; nothing else reads it. Where
//! [`invariants`](ringfence::internals::protocol::invariants) compares views, this compares deeds: what was promised, stored,
//! recorded and released, and by whom.

use std::collections::BTreeMap;

use ringfence_operators::ids::{Epoch, Incarnation, NodeId, ViewNumber};

use ringfence::internals::protocol::invariants::{Violation, released_epochs_stay};
use ringfence::internals::protocol::view::View;

/// One start of a node, as the members of a view know it.
pub type Who = (NodeId, Incarnation);

/// What the processes of one run have done so far.
#[derive(Clone, Debug, Default)]
pub struct Conduct {
    views: BTreeMap<ViewNumber, View>,
    starts: BTreeMap<Who, u64>,
    promised: BTreeMap<Who, ViewNumber>,
    recorded: BTreeMap<(ViewNumber, NodeId), Epoch>,
    released: Option<Epoch>,
}

impl Conduct {
    /// Notes a view that now exists. Fails if it gives up what was released, or takes in who was a member before.
    pub fn creates(&mut self, view: &View) -> Result<(), Violation> {
        self.views.insert(view.number, view.clone());
        released_epochs_stay(self.released, view)?;
        let newcomers = view.members.iter().filter(|member| view.is_newcomer(member.node));
        for newcomer in newcomers {
            let (node, incarnation) = (newcomer.node, newcomer.incarnation);
            let mut before =
                self.views.range(..view.number).filter_map(|(_, view)| view.member(node));
            if before.any(|member| member.incarnation >= incarnation) {
                return Err(Violation::TakenInAgain { number: view.number, node, incarnation });
            }
        }
        Ok(())
    }

    /// Returns the greatest epoch that was released.
    pub fn released(&self) -> Option<Epoch> {
        self.released
    }

    /// Notes that the process of the given `start` installs `view` as `who`.
    ///
    /// Fails if another process has been `who`, or if it promised to take no part in the view.
    pub fn installs(&mut self, who: Who, start: u64, view: ViewNumber) -> Result<(), Violation> {
        let (node, incarnation) = who;
        if *self.starts.entry(who).or_insert(start) != start {
            return Err(Violation::TwoProcesses { node, incarnation });
        }
        self.keeps_its_promise(who, view)
    }

    /// Notes that `who` gives evidence of `view`: a promise to take no part in it any more.
    ///
    /// Fails if `who` had no part in it.
    pub fn gives_evidence(&mut self, who: Who, view: ViewNumber) -> Result<(), Violation> {
        let promised = self.promised.entry(who).or_insert(view);
        *promised = view.max(*promised);
        let (node, incarnation) = who;
        let member = self.views.get(&view).and_then(|view| view.member(node));
        if member.is_none_or(|member| member.incarnation != incarnation) {
            return Err(Violation::EvidenceOfStranger { view, node, incarnation });
        }
        Ok(())
    }

    /// Notes that `who` stores a snapshot of an epoch.
    ///
    /// Fails if a member has recorded the epoch already: it was not stored by all.
    pub fn stores(&mut self, who: Who, view: ViewNumber, epoch: Epoch) -> Result<(), Violation> {
        self.keeps_its_promise(who, view)?;
        let members = (view, NodeId(0))..=(view, NodeId(u64::MAX));
        let early = self.recorded.range(members).find(|(_, recorded)| **recorded >= epoch);
        match early {
            Some((&(_, member), _)) => {
                Err(Violation::RecordedTooEarly { view, node: who.0, epoch, member })
            }
            None => Ok(()),
        }
    }

    /// Notes that `who` records an epoch: it is stored by all.
    pub fn records(&mut self, who: Who, view: ViewNumber, epoch: Epoch) -> Result<(), Violation> {
        self.keeps_its_promise(who, view)?;
        let recorded = self.recorded.entry((view, who.0)).or_insert(epoch);
        *recorded = epoch.max(*recorded);
        Ok(())
    }

    /// Notes that `who` releases an epoch. Fails unless every member has recorded it, or if a later view
    /// has given it up.
    ///
    /// Who gave evidence may still release: a worker that comes late knows of what was committed before.
    pub fn releases(&mut self, who: Who, view: ViewNumber, epoch: Epoch) -> Result<(), Violation> {
        let resume = self.views.get(&view).and_then(|view| view.resume);
        for member in self.members(view) {
            let recorded = self.recorded.get(&(view, member)).copied().max(resume);
            if recorded < Some(epoch) {
                let node = who.0;
                return Err(Violation::ReleasedTooEarly { view, node, epoch, member, recorded });
            }
        }
        self.released = self.released.max(Some(epoch));
        for later in self.views.range(ViewNumber(view.0 + 1)..).map(|(_, later)| later) {
            released_epochs_stay(Some(epoch), later)?;
        }
        Ok(())
    }

    fn members(&self, view: ViewNumber) -> Vec<NodeId> {
        let members = self.views.get(&view).into_iter().flat_map(|view| &view.members);
        members.map(|member| member.node).collect()
    }

    fn keeps_its_promise(&self, who: Who, view: ViewNumber) -> Result<(), Violation> {
        match self.promised.get(&who) {
            Some(&promised) if promised >= view => {
                Err(Violation::PromiseBroken { node: who.0, view, promised })
            }
            _ => Ok(()),
        }
    }
}
