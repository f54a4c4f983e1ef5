//! What must hold of the views of a run, each property under its own name.
//!
//! Simulators, tests and debug builds call these functions; none of them changes anything. Where the
//! plan computes, these only compare, so that a mistake there does not hide itself here.

use std::collections::BTreeMap;

use ringfence_operators::ids::{Epoch, Incarnation, NodeId, PartitionId, ViewNumber, WorkerId};

use super::view::{CopyEvidence, Evidence, View, ViewDigest, ViewError};

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant is its documentation")]
pub enum Violation {
    #[error("two views have number {number}")]
    TwoViews { number: ViewNumber },
    #[error("view {found} follows view {previous}")]
    Gap { previous: ViewNumber, found: ViewNumber },
    #[error("view {number} does not name the digest of its predecessor")]
    Lineage { number: ViewNumber },
    #[error("view {number} changes the run, its partitions, its workers or its backups")]
    Shape { number: ViewNumber },
    #[error(
        "view {number} admits node {node}, incarnation {incarnation}, which its predecessor does not have"
    )]
    Stranger { number: ViewNumber, node: NodeId, incarnation: Incarnation },
    #[error("view {number} is planned, and node {node} is not in it")]
    LeftByPlan { number: ViewNumber, node: NodeId },
    #[error("view {number} resumes at {found:?}, its predecessor at {previous:?}")]
    ResumeFell { number: ViewNumber, previous: Option<Epoch>, found: Option<Epoch> },
    #[error("view {number} resumes at {found:?}, but its evidence says {expected:?}")]
    ResumeUnfounded { number: ViewNumber, expected: Option<Epoch>, found: Option<Epoch> },
    #[error("in view {number}, partition {partition} went to worker {owner}, which holds no copy")]
    OwnerHoldsNothing { number: ViewNumber, partition: PartitionId, owner: WorkerId },
    #[error(
        "in view {number}, partition {partition} is backed up by {backup}, which holds no replica"
    )]
    BackupHoldsNothing { number: ViewNumber, partition: PartitionId, backup: WorkerId },
    #[error(
        "in view {number}, partition {partition} is backed up on the node of its owner, though others hold it"
    )]
    BackupBesideOwner { number: ViewNumber, partition: PartitionId },
    #[error("in view {number}, partition {partition} lacks backups that nobody is filled to be")]
    NotFilled { number: ViewNumber, partition: PartitionId },
    #[error("in view {number}, partition {partition} moved although its owner is alive")]
    MovedNeedlessly { number: ViewNumber, partition: PartitionId },
    #[error("epoch {released} was released, and view {number} resumes at {resume:?}")]
    ReleasedEpochLost { number: ViewNumber, released: Epoch, resume: Option<Epoch> },
    #[error("node {node}, incarnation {incarnation}, is two processes")]
    TwoProcesses { node: NodeId, incarnation: Incarnation },
    #[error("node {node} takes part in view {view} and has given evidence of view {promised}")]
    PromiseBroken { node: NodeId, view: ViewNumber, promised: ViewNumber },
    #[error(
        "node {node} stores a snapshot of epoch {epoch} in view {view}, which node {member} has recorded already"
    )]
    RecordedTooEarly { view: ViewNumber, node: NodeId, epoch: Epoch, member: NodeId },
    #[error(
        "node {node} released epoch {epoch} in view {view}, but node {member} has recorded {recorded:?}"
    )]
    ReleasedTooEarly {
        view: ViewNumber,
        node: NodeId,
        epoch: Epoch,
        member: NodeId,
        recorded: Option<Epoch>,
    },
    #[error("node {node} takes back evidence of partition {partition:?}, as of {recorded:?}")]
    EvidenceTakenBack { node: NodeId, partition: Option<PartitionId>, recorded: Option<Epoch> },
    #[error(
        "view {number} takes in node {node}, incarnation {incarnation}, which was a member before"
    )]
    TakenInAgain { number: ViewNumber, node: NodeId, incarnation: Incarnation },
    #[error(
        "node {node}, incarnation {incarnation}, gives evidence of view {view} and is not in it"
    )]
    EvidenceOfStranger { view: ViewNumber, node: NodeId, incarnation: Incarnation },
    #[error("the view is damaged: {0}")]
    Damaged(ViewError),
}

/// One view per number: remembers the digest of each view that anybody believes in.
#[derive(Clone, Debug, Default)]
pub struct OneViewPerNumber(BTreeMap<ViewNumber, ViewDigest>);

impl OneViewPerNumber {
    /// Notes that somebody believes in `view`. Fails if another view has its number.
    pub fn believe(&mut self, view: &View) -> Result<(), Violation> {
        let digest = view.digest();
        match self.0.entry(view.number).or_insert_with(|| digest.clone()) {
            known if *known == digest => Ok(()),
            _ => Err(Violation::TwoViews { number: view.number }),
        }
    }
}

/// Checks everything that must hold of the first view of a run.
pub fn first(view: &View) -> Result<(), Violation> {
    view.validate().map_err(Violation::Damaged)?;
    let number = view.number;
    ensure(number == ViewNumber(1), || Violation::Gap { previous: ViewNumber(0), found: number })?;
    if view.members.len() > 1 {
        for (partition, place) in view.assignment.iter() {
            let beside = place.backups.iter().any(|backup| backup.node == place.owner.node);
            ensure(!beside, || Violation::BackupBesideOwner { number, partition })?;
        }
    }
    Ok(())
}

/// Checks everything that must hold between a view and its successor.
pub fn successor(previous: &View, next: &View) -> Result<(), Violation> {
    next.validate().map_err(Violation::Damaged)?;
    numbers_have_no_gaps(previous, next)?;
    lineage_is_named(previous, next)?;
    shape_stays(previous, next)?;
    newcomers_are_new(previous, next)?;
    resume_never_falls(previous, next)?;
    resume_is_founded(previous, next)?;
    owners_hold_copies(previous, next)?;
    backups_hold_replicas(previous, next)?;
    backups_lie_apart(previous, next)?;
    nothing_moves_needlessly(previous, next)?;
    lost_backups_are_filled(next)
}

/// Numbers grow without gaps.
pub fn numbers_have_no_gaps(previous: &View, next: &View) -> Result<(), Violation> {
    let holds = next.number.0 == previous.number.0 + 1;
    ensure(holds, || Violation::Gap { previous: previous.number, found: next.number })
}

/// A view names the digest of its predecessor.
pub fn lineage_is_named(previous: &View, next: &View) -> Result<(), Violation> {
    ensure(next.previous == Some(previous.digest()), || Violation::Lineage { number: next.number })
}

/// The run, the number of partitions, of workers per node and of backups stay.
pub fn shape_stays(previous: &View, next: &View) -> Result<(), Violation> {
    let shape =
        |view: &View| (view.run.clone(), view.partitions, view.workers_per_node, view.backups);
    ensure(shape(previous) == shape(next), || Violation::Shape { number: next.number })
}

/// Every member was a member before, with the same incarnation, or is taken in by a planned view, in which nobody
/// leaves: a node that was not in the one before.
pub fn newcomers_are_new(previous: &View, next: &View) -> Result<(), Violation> {
    let number = next.number;
    for member in &next.members {
        let before =
            previous.member(member.node).map(|member| (member.incarnation, &member.address));
        let stays = before == Some((member.incarnation, &member.address));
        let is_taken_in = next.is_newcomer(member.node) && next.planned && before.is_none();
        ensure(stays != is_taken_in, || Violation::Stranger {
            number,
            node: member.node,
            incarnation: member.incarnation,
        })?;
    }
    let left = previous.members.iter().find(|member| next.member(member.node).is_none());
    match left.filter(|_| next.planned) {
        Some(member) => Err(Violation::LeftByPlan { number, node: member.node }),
        None => Ok(()),
    }
}

/// The resume epoch never falls.
pub fn resume_never_falls(previous: &View, next: &View) -> Result<(), Violation> {
    let (previous, found, number) = (previous.resume, next.resume, next.number);
    ensure(found >= previous, || Violation::ResumeFell { number, previous, found })
}

/// The resume epoch is that of the predecessor or one that a member recorded, whichever is greater.
pub fn resume_is_founded(previous: &View, next: &View) -> Result<(), Violation> {
    let mut expected = previous.resume;
    quoted(next).for_each(|(_, evidence)| expected = expected.max(evidence.recorded));
    let (number, found) = (next.number, next.resume);
    ensure(found == expected, || Violation::ResumeUnfounded { number, expected, found })
}

/// Every owner holds a copy: live state if it owned the partition before, or a replica.
pub fn owners_hold_copies(previous: &View, next: &View) -> Result<(), Violation> {
    for (partition, place) in next.assignment.iter() {
        let stays =
            previous.assignment.place(partition).is_some_and(|before| before.owner == place.owner);
        let holds = (stays && is_live(next, partition, place.owner.node))
            || holds_replica(previous, next, partition, place.owner.node);
        ensure(holds, || Violation::OwnerHoldsNothing {
            number: next.number,
            partition,
            owner: place.owner,
        })?;
    }
    Ok(())
}

/// Every backup holds a replica.
pub fn backups_hold_replicas(previous: &View, next: &View) -> Result<(), Violation> {
    for (partition, place) in next.assignment.iter() {
        let empty = place
            .backups
            .iter()
            .find(|backup| !holds_replica(previous, next, partition, backup.node));
        ensure(empty.is_none(), || Violation::BackupHoldsNothing {
            number: next.number,
            partition,
            backup: *empty.unwrap_or(&place.owner),
        })?;
    }
    Ok(())
}

/// No backup lies on its owner's node while another node holds a replica.
pub fn backups_lie_apart(previous: &View, next: &View) -> Result<(), Violation> {
    for (partition, place) in next.assignment.iter() {
        let beside = place.backups.iter().any(|backup| backup.node == place.owner.node);
        let others = next.members.iter().any(|member| {
            member.node != place.owner.node && holds_replica(previous, next, partition, member.node)
        });
        ensure(!(beside && others), || Violation::BackupBesideOwner {
            number: next.number,
            partition,
        })?;
    }
    Ok(())
}

/// As many nodes other than the owner's hold or are being filled to hold each partition as are asked
/// for, or as there are; and a node that is alone is at least its own backup. Only a planned view fills more.
pub fn lost_backups_are_filled(next: &View) -> Result<(), Violation> {
    let others = next.members.len().saturating_sub(1);
    let wanted = others.min(next.backups as usize);
    for (partition, place) in next.assignment.iter() {
        let apart = place.fed().filter(|worker| worker.node != place.owner.node).count();
        let guarded = next.backups == 0 || place.fed().next().is_some();
        let is_filled = apart == wanted || (apart > wanted && next.planned);
        ensure(is_filled && guarded, || Violation::NotFilled { number: next.number, partition })?;
    }
    Ok(())
}

/// A partition whose owner survives with live state stays where it is, unless a planned view takes it from a worker
/// that keeps its share.
pub fn nothing_moves_needlessly(previous: &View, next: &View) -> Result<(), Violation> {
    let share = next.partitions as usize / next.workers().count().max(1);
    for ((partition, before), place) in previous.assignment.iter().zip(&next.assignment.places) {
        let moved = before.owner != place.owner && is_live(next, partition, before.owner.node);
        let is_spared = || next.planned && next.assignment.owned_by(before.owner).count() >= share;
        ensure(!moved || is_spared(), || Violation::MovedNeedlessly {
            number: next.number,
            partition,
        })?;
    }
    Ok(())
}

/// Evidence that is given again has all that was given before: what was recorded, and each copy.
///
/// What a replica begins at may rise meanwhile, up to what this node recorded: no view resumes below that.
pub fn evidence_grows(node: NodeId, before: &Evidence, after: &Evidence) -> Result<(), Violation> {
    let taken_back =
        |partition| Violation::EvidenceTakenBack { node, partition, recorded: before.recorded };
    ensure(before.recorded == after.recorded, || taken_back(None))?;
    for copy in &before.copies {
        let still = after.copy(copy.partition).is_some_and(|still| {
            let through = |copy: &CopyEvidence| copy.replica.map(|span| span.through);
            through(copy) == through(still) && copy.live <= still.live
        });
        ensure(still, || taken_back(Some(copy.partition)))?;
    }
    Ok(())
}

/// No released epoch is above the resume epoch: what a user has seen is never undone.
pub fn released_epochs_stay(released: Option<Epoch>, next: &View) -> Result<(), Violation> {
    let (number, resume) = (next.number, next.resume);
    match released {
        Some(released) if Some(released) > resume => {
            Err(Violation::ReleasedEpochLost { number, released, resume })
        }
        _ => Ok(()),
    }
}

fn quoted(view: &View) -> impl Iterator<Item = (NodeId, &Evidence)> {
    view.members.iter().filter_map(|member| Some((member.node, member.evidence.as_ref()?)))
}

fn is_live(next: &View, partition: PartitionId, node: NodeId) -> bool {
    let evidence = next.member(node).and_then(|member| member.evidence.as_ref());
    evidence.and_then(|evidence| evidence.copy(partition)).is_some_and(|copy| copy.live)
}

fn holds_replica(previous: &View, next: &View, partition: PartitionId, node: NodeId) -> bool {
    // Nothing is committed: everybody holds all of nothing, where nothing was fed by hand.
    if next.resume.is_none() && !quoted(next).any(|(_, evidence)| evidence.journals) {
        return true;
    }
    let evidence = next.member(node).and_then(|member| member.evidence.as_ref());
    let Some(span) = evidence.and_then(|evidence| evidence.copy(partition)?.replica) else {
        return false;
    };
    let was_fed = previous.assignment.place(partition).is_some_and(|place| place.feeds(node));
    let stored_by_all =
        was_fed && quoted(next).any(|(_, evidence)| evidence.recorded >= next.resume);
    span.from <= next.resume && (span.through >= next.resume || stored_by_all)
}

fn ensure(holds: bool, violation: impl FnOnce() -> Violation) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(violation()) }
}

#[cfg(test)]
#[path = "invariants_tests.rs"]
mod tests;
