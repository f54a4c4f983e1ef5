//! Holdings: what a node has of each partition, and what becomes of that in the next view.
//!
//! Whether what is here is complete at the resume epoch R of the next view:
//!
//! | now | complete at R |
//! | --- | --- |
//! | `Fed` | yes: what is committed was stored by every backup |
//! | `Filling` | once the filling of every operator has ended, at R or before |
//! | `Frozen` | if nothing was closed since, and it was complete through R |
//! | `None` | no |
//! | any, and nothing is committed | yes: there is nothing to have |
//!
//! What it is in the next view:
//!
//! | role in the next view | complete | not complete |
//! | --- | --- | --- |
//! | backup, be it owner or not | `Fed` | `Filling` |
//! | owner only | `Frozen` through R | `None` |
//! | neither | `None` | `None` |
//!
//! Of operators of chunks an owner is sent the deltas, too, so what it holds goes on from view to view.

use crate::ids::Epoch;
use crate::vault::Role;

/// How complete this node's replicas of a partition are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Completeness {
    /// There is no copy.
    #[default]
    None,
    /// Sent every new delta, and not complete before each operator's filling has ended.
    Filling,
    /// Complete, and sent every new delta.
    Fed,
    /// Complete through an epoch, and sent nothing since: what a successor opened. It is whole until
    /// the replica of some operator is closed.
    Frozen { through: Option<Epoch>, whole: bool },
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    pub(super) role: Role,
    pub(super) completeness: Completeness,
    /// Whether this node owns the partition and has of operators of chunks all there was when it began
    /// to. An owner without that has nothing to go on from.
    pub(super) owns_chunks: bool,
}

impl Holding {
    /// Whether what is kept of an operator is complete and goes on from one view to the next.
    pub(super) fn is_copy(&self, is_chunks: bool) -> bool {
        let is_copy = matches!(self.completeness, Completeness::Fed | Completeness::Frozen { .. });
        is_copy || (is_chunks && self.owns_chunks)
    }

    /// Whether a copy that is complete since the view began is sent the deltas of an operator.
    pub(super) fn is_fed(&self, is_chunks: bool) -> bool {
        self.completeness == Completeness::Fed || (is_chunks && self.owns_chunks)
    }

    /// Returns what is held of a partition in the next view.
    pub(super) fn next(self, filled: Option<Epoch>, role: Role, resume: Option<Epoch>) -> Holding {
        let frozen = Completeness::Frozen { through: resume, whole: true };
        let complete = match self.completeness {
            // What is committed was stored by every backup, whatever this node last heard of it.
            Completeness::Fed => true,
            Completeness::Filling => filled.is_some() && filled <= resume,
            Completeness::Frozen { through, whole } => whole && through == resume,
            Completeness::None => false,
        };
        // Before the first commit there is nothing to have.
        let complete = complete || resume.is_none();
        let completeness = match (complete, role) {
            (true, Role { backup: true, .. }) => Completeness::Fed,
            (true, Role { owner: true, .. }) => frozen,
            (false, Role { backup: true, .. }) => Completeness::Filling,
            _ => Completeness::None,
        };
        let owns_chunks = role.owner && (complete || self.owns_chunks);
        Holding { role, completeness, owns_chunks }
    }
}
