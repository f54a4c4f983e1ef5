//! The plan: the next view, computed from the evidence of stopped members and from nothing else.
//!
//! The resume epoch R(n+1) is the greater of R(n), as it stands in the register, and of what those
//! that gave evidence recorded in generation n. It never falls, and no released epoch is above it:
//! a sink releases an epoch only once every member has recorded it, so any one survivor tells.
//!
//! A node counts as a holder of a partition if its replica begins at R(n+1) or before and reaches
//! R(n+1). SUBTLE: a backup may have stored an epoch without having learned that its replica is
//! complete, if the stop came first. If any member recorded that epoch in generation n, then every
//! backup had stored it, whatever its own `through` says; without this a holder would be passed
//! over, and with two of them the job declared lost.
//!
//! Where this comes from: the view change of Oki and Liskov's *Viewstamped Replication* (PODC 1988),
//! with timely's progress tracking in the place of the quorum.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{Epoch, Incarnation, NodeId, OperatorName, PartitionId, ViewNumber};

use super::assignment::{Assignment, Copies, LostPartitions, Takeover};
use super::balance::{fill_towards, lean_nodes};
use super::planted::{self, Planted};
use super::ranges::{Ranges, list};
use super::view::{Evidence, EvidenceError, Member, View};

/// The next view, and what it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The view to propose.
    pub view: View,
    /// The partitions whose owner changes, ascending.
    pub moved: Vec<PartitionId>,
    /// The partitions with fewer backups on other nodes than asked for, ascending.
    pub under_replicated: Vec<PartitionId>,
    /// The members of the current view that are not in the next, ascending.
    pub left: Vec<NodeId>,
}

/// Why there is no next view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Nobody gave evidence.
    #[error("no member of view {view} gave evidence")]
    NoEvidence {
        /// The current view.
        view: ViewNumber,
    },
    /// Somebody gave evidence who is not a member, or not with this incarnation.
    #[error("node {node}, incarnation {incarnation}, is not a member of view {view}")]
    NotAMember {
        /// The stranger.
        node: NodeId,
        /// The stranger's incarnation.
        incarnation: Incarnation,
        /// The current view.
        view: ViewNumber,
    },
    /// The evidence is of another view.
    #[error("node {node} gave evidence of view {found}, expected view {expected}")]
    OtherView {
        /// Whose evidence it is.
        node: NodeId,
        /// The current view.
        expected: ViewNumber,
        /// The view that the evidence names.
        found: ViewNumber,
    },
    /// The evidence contradicts itself.
    #[error("the evidence of node {node} is damaged: {error}")]
    Damaged {
        /// Whose evidence it is.
        node: NodeId,
        /// What is wrong in it.
        error: EvidenceError,
    },
    /// No surviving member holds a copy of some partitions.
    ///
    /// The job cannot go on without missing state. Run it again from the beginning, with more backups
    /// if as many nodes as failed may fail again.
    #[error(
        "the state of partitions {} of operators {} is lost: its holders were nodes {}{}; \
         start the job anew, with more backups if as many nodes may fail again",
        Ranges(.partitions), list(.operators), list(.holders), also_gone(.gone)
    )]
    Lost {
        /// The partitions, ascending.
        partitions: Vec<PartitionId>,
        /// The operators that kept state in them.
        operators: Vec<OperatorName>,
        /// The nodes that owned or backed up those partitions.
        holders: Vec<NodeId>,
        /// The members of the current view that gave no evidence.
        gone: Vec<NodeId>,
    },
}

fn also_gone(nodes: &[NodeId]) -> String {
    if nodes.is_empty() { String::new() } else { format!(", and gone are nodes {}", list(nodes)) }
}

/// Returns the view to follow `current`, computed from the `evidence` of its stopped members.
///
/// The members of the next view are those that gave evidence. The same arguments give the same
/// view on every node. Fails rather than go on with missing state.
pub fn next_view(
    current: &View,
    evidence: &BTreeMap<NodeId, (Incarnation, Evidence)>,
) -> Result<Plan, PlanError> {
    follow(current, evidence, None)
}

/// Returns the view to follow `current` where nothing failed: all its members stay, `newcomers` are taken in, and
/// who owns far less than its share is given it, or filled for it.
///
/// A newcomer gives no evidence, since it was no member, and so holds nothing.
pub fn planned_view(
    current: &View,
    evidence: &BTreeMap<NodeId, (Incarnation, Evidence)>,
    newcomers: Vec<Member>,
) -> Result<Plan, PlanError> {
    follow(current, evidence, Some(newcomers))
}

fn follow(
    current: &View,
    evidence: &BTreeMap<NodeId, (Incarnation, Evidence)>,
    newcomers: Option<Vec<Member>>,
) -> Result<Plan, PlanError> {
    check(current, evidence)?;
    let stays = current
        .members
        .iter()
        .filter_map(|member| Some((member, evidence.get(&member.node)?)))
        .map(|(member, (_, evidence))| Member {
            evidence: Some(evidence.clone()),
            ..member.clone()
        });
    let planned = newcomers.is_some();
    let mut members: Vec<Member> = stays.chain(newcomers.into_iter().flatten()).collect();
    members.sort_by_key(|member| member.node);
    let resume = resume_epoch(current, &members);
    let mut view = View {
        run: current.run.clone(),
        number: ViewNumber(current.number.0 + 1),
        previous: Some(current.digest()),
        planned,
        resume,
        members,
        workers_per_node: current.workers_per_node,
        partitions: current.partitions,
        backups: current.backups,
        assignment: Assignment::default(),
        durable: current.durable,
    };
    let copies = copies(current, &view.members, resume);
    let left = current
        .members
        .iter()
        .map(|member| member.node)
        .filter(|node| !evidence.contains_key(node));
    let left: Vec<NodeId> = left.collect();
    let takeover = next_table(current, &view, &copies);
    let Takeover { assignment, moved, under_replicated } = takeover.map_err(|lost| {
        let operators: BTreeSet<_> =
            evidence.values().flat_map(|(_, evidence)| &evidence.operators).collect();
        PlanError::Lost {
            partitions: lost.partitions,
            operators: operators.into_iter().cloned().collect(),
            holders: lost.holders,
            gone: left.clone(),
        }
    })?;
    view.assignment = assignment;
    debug_assert_eq!(super::invariants::successor(current, &view), Ok(()));
    Ok(Plan { view, moved, under_replicated, left })
}

/// The table of `next`, which is all but complete, given who holds what.
fn next_table(current: &View, next: &View, copies: &[Copies]) -> Result<Takeover, LostPartitions> {
    let (table, ring) = (&current.assignment, next.ring());
    if !next.planned {
        return table.next(&ring, copies, current.backups, &BTreeSet::new());
    }
    let lean = lean_nodes(table, &ring);
    let mut takeover = table.next(&ring, copies, current.backups, &lean)?;
    if lean_nodes(&takeover.assignment, &ring).is_empty() {
        return Ok(takeover);
    }
    let mut wanted = copies.to_vec();
    wanted.iter_mut().for_each(|copies| copies.replicas.extend(&lean));
    let goal = table.next(&ring, &wanted, current.backups, &lean)?.assignment;
    fill_towards(&mut takeover.assignment, &goal, copies, &lean);
    Ok(takeover)
}

/// Returns R(n+1): the greater of R(n) and of what the members recorded in generation n.
pub fn resume_epoch(current: &View, members: &[Member]) -> Option<Epoch> {
    members.iter().filter_map(|member| member.evidence.as_ref()?.recorded).max().max(current.resume)
}

/// Returns for each partition which of `members` hold a copy of it at `resume`.
pub fn copies(current: &View, members: &[Member], resume: Option<Epoch>) -> Vec<Copies> {
    let mut copies = vec![Copies::default(); current.partitions as usize];
    if resume.is_none() && !has_journals(members.iter().filter_map(|m| m.evidence.as_ref())) {
        // Nothing is committed, so nothing was released: every member holds all of nothing.
        let everyone: BTreeSet<NodeId> = members.iter().map(|member| member.node).collect();
        copies.iter_mut().for_each(|copy| copy.replicas.clone_from(&everyone));
    }
    let recorded = members.iter().filter_map(|member| member.evidence.as_ref()?.recorded).max();
    for member in members {
        for copy in member.evidence.iter().flat_map(|evidence| &evidence.copies) {
            let (Some(place), Some(known)) = (
                current.assignment.place(copy.partition),
                copies.get_mut(copy.partition.0 as usize),
            ) else {
                continue;
            };
            if planted::is(Planted::FillingCounted) && place.feeds(member.node) {
                known.replicas.insert(member.node);
            }
            known.live |= copy.live && place.owner.node == member.node;
            let Some(span) = copy.replica else { continue };
            let through =
                if place.feeds(member.node) { span.through.max(recorded) } else { span.through };
            if span.from <= resume && through >= resume {
                known.replicas.insert(member.node);
            }
        }
    }
    copies
}

/// Whether the job is fed by hand, as far as any of the evidence knows.
///
/// SUBTLE: before the first commit there is no state, but there may be journals, of epochs that are
/// acknowledged: those who had no part in a partition have none of its journals, and must not take it
/// over. Who has them says so by a replica from nothing to nothing.
pub(super) fn has_journals<'a>(evidence: impl IntoIterator<Item = &'a Evidence>) -> bool {
    evidence.into_iter().any(|evidence| evidence.journals)
}

fn check(
    current: &View,
    evidence: &BTreeMap<NodeId, (Incarnation, Evidence)>,
) -> Result<(), PlanError> {
    if evidence.is_empty() {
        return Err(PlanError::NoEvidence { view: current.number });
    }
    for (&node, (incarnation, evidence)) in evidence {
        if current.member(node).is_none_or(|member| member.incarnation != *incarnation) {
            return Err(PlanError::NotAMember {
                node,
                incarnation: *incarnation,
                view: current.number,
            });
        }
        if evidence.view != current.number {
            return Err(PlanError::OtherView {
                node,
                expected: current.number,
                found: evidence.view,
            });
        }
        evidence
            .validate(current.partitions)
            .map_err(|error| PlanError::Damaged { node, error })?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
