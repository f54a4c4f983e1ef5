//! Holdings: what a node has of each partition, and how that changes in the next view.
//!
//! Whether it is complete at the resume epoch R of the next view:
//!
//! | now | complete at R |
//! | --- | --- |
//! | `Fed` | yes: what is committed was stored by every backup |
//! | `Filling` | if the filling of every operator had ended, at R or before |
//! | `Frozen` | if nothing was closed since, and it was complete through R |
//! | `None` | no |
//! | any, and nothing is committed | yes: there is nothing to hold |
//!
//! What it is in the next view:
//!
//! | role in the next view | complete | not complete |
//! | --- | --- | --- |
//! | backup, whether owner or not | `Fed` | `Filling` |
//! | owner only | `Frozen` through R | `None` |
//! | neither | `None` | `None` |
//!
//! For operators of chunks, the owner also receives the deltas, so what it holds continues from view to view.

use crate::ids::Epoch;
use crate::vault::Role;

/// How complete this node's replicas of a partition are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Completeness {
    /// There is no copy.
    #[default]
    None,
    /// It receives every new delta, and is not complete before each operator's filling has ended.
    Filling,
    /// It is complete, and receives every new delta.
    Fed,
    /// It is complete through an epoch, and has received nothing since: this is what a successor opened. It
    /// is whole until the replica of some operator is closed.
    Frozen { through: Option<Epoch>, whole: bool },
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holding {
    pub(super) role: Role,
    pub(super) completeness: Completeness,
    /// Whether this node owns the partition and, for operators of chunks, has everything that existed when it
    /// became the owner. An owner without that has nothing to continue from.
    pub(super) owns_chunks: bool,
}

impl Holding {
    /// Whether what is kept of an operator is complete and continues from one view to the next.
    pub(super) fn is_copy(&self, is_chunks: bool) -> bool {
        let is_copy = matches!(self.completeness, Completeness::Fed | Completeness::Frozen { .. });
        is_copy || (is_chunks && self.owns_chunks)
    }

    /// Whether a copy that has been complete since the view began receives the deltas of an operator.
    pub(super) fn is_fed(&self, is_chunks: bool) -> bool {
        self.completeness == Completeness::Fed || (is_chunks && self.owns_chunks)
    }

    /// Returns what is held of a partition in the next view.
    pub(super) fn next(self, filled: Option<Epoch>, role: Role, resume: Option<Epoch>) -> Holding {
        let frozen = Completeness::Frozen { through: resume, whole: true };
        let complete = match self.completeness {
            // Every backup has stored what is committed, whatever this node last heard about it.
            Completeness::Fed => true,
            Completeness::Filling => filled.is_some() && filled <= resume,
            Completeness::Frozen { through, whole } => whole && through == resume,
            Completeness::None => false,
        };
        // Before the first commit there is nothing to hold.
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
