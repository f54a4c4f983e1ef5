//! Conduct: what the processes of a run did in each view, held against the rules.
//!
//! A simulator reports each step here when it happens; nothing else reads it. Where
//! [`invariants`](super::invariants) compares views, this compares deeds: what was promised, stored,
//! recorded and released, and by whom.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{Epoch, Incarnation, NodeId, ViewNumber};

use super::invariants::{Violation, released_epochs_stay};
use super::view::View;

/// One start of a node, as the members of a view know it.
pub type Who = (NodeId, Incarnation);

/// What the processes of one run have done so far.
#[derive(Clone, Debug, Default)]
pub struct Conduct {
    views: BTreeMap<ViewNumber, View>,
    starts: BTreeMap<Who, u64>,
    promised: BTreeMap<Who, ViewNumber>,
    operators: BTreeMap<ViewNumber, BTreeSet<u64>>,
    stored: BTreeMap<(ViewNumber, NodeId, u64), Epoch>,
    recorded: BTreeMap<(ViewNumber, NodeId), Epoch>,
    released: Option<Epoch>,
}

impl Conduct {
    /// Notes a view that now exists. Fails if it gives up what was released.
    pub fn creates(&mut self, view: &View) -> Result<(), Violation> {
        self.views.insert(view.number, view.clone());
        released_epochs_stay(self.released, view)
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
    pub fn gives_evidence(&mut self, who: Who, view: ViewNumber) {
        let promised = self.promised.entry(who).or_insert(view);
        *promised = view.max(*promised);
    }

    /// Notes that an operator takes part in the commit of `view`.
    pub fn registers(&mut self, view: ViewNumber, operator: u64) {
        self.operators.entry(view).or_default().insert(operator);
    }

    /// Notes that `who` has stored all of an operator through an epoch.
    pub fn stores(
        &mut self,
        who: Who,
        view: ViewNumber,
        operator: u64,
        through: Epoch,
    ) -> Result<(), Violation> {
        self.keeps_its_promise(who, view)?;
        let stored = self.stored.entry((view, who.0, operator)).or_insert(through);
        *stored = through.max(*stored);
        Ok(())
    }

    /// Notes that `who` records an epoch. Fails unless every member has stored it, of every operator.
    pub fn records(&mut self, who: Who, view: ViewNumber, epoch: Epoch) -> Result<(), Violation> {
        self.keeps_its_promise(who, view)?;
        let nothing = BTreeSet::new();
        for member in self.members(view) {
            for operator in self.operators.get(&view).unwrap_or(&nothing) {
                let stored = self.stored.get(&(view, member, *operator)).copied();
                if stored < Some(epoch) {
                    let (node, view) = (who.0, view);
                    return Err(Violation::RecordedTooEarly { view, node, epoch, member, stored });
                }
            }
        }
        let recorded = self.recorded.entry((view, who.0)).or_insert(epoch);
        *recorded = epoch.max(*recorded);
        Ok(())
    }

    /// Notes that `who` releases an epoch. Fails unless every member has recorded it, or if a later view
    /// has given it up.
    pub fn releases(&mut self, who: Who, view: ViewNumber, epoch: Epoch) -> Result<(), Violation> {
        self.keeps_its_promise(who, view)?;
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
