//! A view: who is a member, what each owns, and from which epoch all of them resume.
//!
//! A view is written once to the register and never changes. It carries the reasons for itself: the
//! digest of its predecessor, and of every member the evidence from which it was computed, so that
//! each member can check that it was quoted rightly before it installs anything. The scheme of
//! numbered views, each computed from the reports of stopped members of the one before, follows
//! Oki and Liskov, *Viewstamped Replication* (PODC 1988); that a configuration is decided once, by
//! a store of its own, follows Lamport, Malkhi and Zhou, *Vertical Paxos* (PODC 2009).

use std::collections::BTreeSet;
use std::fmt;

use ringfence_operators::ids::{
    Epoch, Incarnation, NodeId, OperatorName, PartitionId, ViewNumber, WorkerId,
};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::assignment::{Assignment, backups_max};
use super::ring::Ring;

/// The greatest number of partitions of a view: a table of more would not be compact any longer.
pub const PARTITIONS_MAX: u32 = 1 << 16;

/// The greatest number of workers of a view, over all nodes.
pub const WORKERS_MAX: u64 = 1 << 16;

/// An agreed membership of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// The id of the run that the view belongs to.
    pub run: String,
    /// The number of the view: the first is 1, and there are no gaps.
    pub number: ViewNumber,
    /// The digest of the view before; `None` in the first.
    pub previous: Option<ViewDigest>,
    /// Whether the view before was ended on purpose, and by nothing that failed: to take members in, or to even
    /// out who owns what.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub planned: bool,
    /// The epoch from which the members resume; `None` before the first commit.
    pub resume: Option<Epoch>,
    /// The members, ascending by node. The position of a member is its index as timely's process.
    pub members: Vec<Member>,
    /// The number of worker threads of every node.
    pub workers_per_node: u32,
    /// The number of partitions, the same in all views of a run.
    pub partitions: u32,
    /// The number of backups that each partition should have, the same in all views of a run.
    pub backups: u32,
    /// Who owns and backs up each partition.
    pub assignment: Assignment,
    /// What this start of the cluster has found in its durable tier, if it has one; the same in all views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<DurableStart>,
}

/// Where a start of a cluster with a durable tier goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DurableStart {
    /// How many starts there have been, this one included.
    pub start: u64,
    /// The number of the manifest that it goes on from; 0 if there is none.
    pub manifest: u64,
    /// The epoch of that manifest; `None` if nothing is durable.
    pub epoch: Option<Epoch>,
    /// The number of shares of hand-fed inputs: that of the workers of the first start.
    pub shares: u32,
    /// Whether nothing can have been released that is not durable.
    pub is_exact: bool,
}

/// One member of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The stable identity of the process.
    pub node: NodeId,
    /// The start of the process that is the member; another start of it is a stranger.
    pub incarnation: Incarnation,
    /// Where the member listens for the others.
    pub address: String,
    /// What the member held when the view before ended; `None` in the first view, and of a newcomer, which was in
    /// no view before and holds nothing.
    pub evidence: Option<Evidence>,
}

/// What a stopped member holds of the view whose generation it has ended.
///
/// Evidence is a promise: whoever gives it for a view never again takes part in that view or in an
/// older one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The view whose generation has ended.
    pub view: ViewNumber,
    /// The last epoch that the member recorded in that generation as stored by all.
    pub recorded: Option<Epoch>,
    /// The copies that the member holds, ascending by partition. Partitions of which it has none are left out.
    pub copies: Vec<CopyEvidence>,
    /// The protected operators of the generation, so that an error can name them.
    pub operators: Vec<OperatorName>,
    /// Whether the job has inputs that are fed by hand. What they were fed is in journals, which may
    /// hold epochs that are not committed: so before the first commit, too, not everybody has a copy.
    pub journals: bool,
    /// The numbers of the operators that the job has dropped: nothing of them counts any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<u64>,
}

/// What a stopped member holds of one partition, of all protected operators alike.
///
/// In JSON it is a list: `[partition, [from, through], live]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "CopyTuple", into = "CopyTuple")]
pub struct CopyEvidence {
    /// The partition.
    pub partition: PartitionId,
    /// The encoded replica in the member's vault, if it holds one without gaps.
    pub replica: Option<ReplicaSpan>,
    /// Whether the member is the unpanicked owner, with live state that it can rewind.
    pub live: bool,
}

/// The epochs to which a replica can be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSpan {
    /// The epoch of its base; `None` if it begins empty.
    pub from: Option<Epoch>,
    /// The last epoch that it is known to hold in full; `None` if that is only the empty beginning.
    pub through: Option<Epoch>,
}

type CopyTuple = (PartitionId, Option<(Option<Epoch>, Option<Epoch>)>, bool);

/// The SHA-1 of a view's canonical JSON, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ViewDigest(pub String);

/// What every first view of a run agrees on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterShape {
    /// The number of nodes at the start.
    pub nodes: u32,
    /// The number of worker threads of every node.
    pub workers_per_node: u32,
    /// The number of partitions.
    pub partitions: u32,
    /// The number of backups of each partition.
    pub backups: u32,
}

impl View {
    /// Returns the first view of `run`. Members are sorted, backups clipped to what the cluster has.
    pub fn first(run: &str, mut members: Vec<Member>, shape: &ClusterShape) -> View {
        members.sort_by_key(|member| member.node);
        let mut view = View {
            run: run.to_owned(),
            number: ViewNumber(1),
            previous: None,
            planned: false,
            resume: None,
            workers_per_node: shape.workers_per_node,
            partitions: shape.partitions,
            backups: shape.backups.min(backups_max(members.len())),
            members,
            assignment: Assignment::default(),
            durable: None,
        };
        view.assignment = Assignment::first(&view.ring(), view.partitions, view.backups);
        view
    }

    /// The same first view, resuming from what a durable tier has, if there is one.
    pub fn resuming(self, durable: Option<DurableStart>) -> View {
        View { resume: durable.and_then(|durable| durable.epoch), durable, ..self }
    }

    /// Returns the SHA-1 of the view's JSON as [`serde_json`] writes it: no spaces, fields in order.
    pub fn digest(&self) -> ViewDigest {
        let json = serde_json::to_vec(self).expect("a view has no map keys and no foreign types");
        ViewDigest(Sha1::digest(&json).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Returns the member that `node` is, if it is one.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.process_index(node).map(|index| &self.members[index])
    }

    /// Returns whether `node` was taken in by this view.
    pub fn is_newcomer(&self, node: NodeId) -> bool {
        let is_new = |member: &Member| member.evidence.is_none();
        self.number > ViewNumber(1) && self.member(node).is_some_and(is_new)
    }

    /// Returns the index of `node` as one of timely's processes.
    pub fn process_index(&self, node: NodeId) -> Option<usize> {
        self.members.binary_search_by_key(&node, |member| member.node).ok()
    }

    /// Returns the index of `worker` among timely's workers of all processes.
    pub fn worker_index(&self, worker: WorkerId) -> Option<usize> {
        let process = self.process_index(worker.node)?;
        (worker.worker < self.workers_per_node)
            .then_some(process * self.workers_per_node as usize + worker.worker as usize)
    }

    /// Returns the workers of all members, in the order of their indices.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        let workers =
            |node| (0..self.workers_per_node).map(move |worker| WorkerId { node, worker });
        self.members.iter().flat_map(move |member| workers(member.node))
    }

    /// Returns the ring on which the members' workers stand.
    pub fn ring(&self) -> Ring {
        Ring::new(self.workers())
    }

    /// Checks everything that can be wrong in a view that comes from outside.
    ///
    /// What only its predecessor can tell is checked by
    /// [`invariants::successor`](super::invariants::successor).
    pub fn validate(&self) -> Result<(), ViewError> {
        self.validate_numbers()?;
        self.validate_members()?;
        self.validate_lineage()?;
        self.validate_assignment()
    }

    fn validate_numbers(&self) -> Result<(), ViewError> {
        if self.run.is_empty() {
            return Err(ViewError::NoRun);
        }
        if self.number.0 == 0 {
            return Err(ViewError::NumberZero);
        }
        if self.partitions == 0 || self.partitions > PARTITIONS_MAX {
            return Err(ViewError::Partitions { found: self.partitions });
        }
        let workers = (self.members.len() as u64).saturating_mul(u64::from(self.workers_per_node));
        if workers == 0 || workers > WORKERS_MAX {
            return Err(ViewError::Workers { found: workers });
        }
        Ok(())
    }

    fn validate_members(&self) -> Result<(), ViewError> {
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0].node >= pair[1].node) {
            return Err(ViewError::MembersUnsorted { first: pair[0].node, second: pair[1].node });
        }
        for member in &self.members {
            if member.address.is_empty() {
                return Err(ViewError::NoAddress { node: member.node });
            }
            let Some(evidence) = &member.evidence else { continue };
            evidence
                .validate(self.partitions)
                .map_err(|error| ViewError::Evidence { node: member.node, error })?;
        }
        Ok(())
    }

    fn validate_lineage(&self) -> Result<(), ViewError> {
        let is_first = self.number == ViewNumber(1);
        let nobody_stays = self.members.iter().all(|member| member.evidence.is_none());
        let begins_at = self.durable.and_then(|durable| durable.epoch);
        let has_past = self.resume != begins_at || self.planned;
        if is_first != self.previous.is_none()
            || (is_first && has_past)
            || (self.planned && nobody_stays)
        {
            return Err(ViewError::Lineage { number: self.number });
        }
        if let Some(digest) = self.previous.as_ref().filter(|digest| !digest.is_well_formed()) {
            return Err(ViewError::Digest { found: digest.0.clone() });
        }
        for member in &self.members {
            let quoted = member.evidence.as_ref().map(|evidence| evidence.view);
            let expected = (!is_first).then(|| ViewNumber(self.number.0 - 1));
            let is_newcomer = self.planned && quoted.is_none();
            if quoted != expected && !is_newcomer {
                return Err(ViewError::EvidenceView { node: member.node, expected, found: quoted });
            }
            let recorded = member.evidence.as_ref().and_then(|evidence| evidence.recorded);
            if recorded > self.resume {
                return Err(ViewError::ResumeTooLow {
                    resume: self.resume,
                    node: member.node,
                    recorded,
                });
            }
        }
        Ok(())
    }

    fn validate_assignment(&self) -> Result<(), ViewError> {
        if self.assignment.places.len() != self.partitions as usize {
            return Err(ViewError::TableLength {
                expected: self.partitions,
                found: self.assignment.places.len(),
            });
        }
        for (partition, place) in self.assignment.iter() {
            let mut nodes = BTreeSet::new();
            for worker in std::iter::once(place.owner).chain(place.fed()) {
                if self.worker_index(worker).is_none() {
                    return Err(ViewError::UnknownWorker { partition, worker });
                }
            }
            if let Some(twice) = place.fed().find(|backup| !nodes.insert(backup.node)) {
                return Err(ViewError::BackupTwice { partition, node: twice.node });
            }
            if place.backups.len() > self.backups as usize {
                return Err(ViewError::TooManyBackups { partition, found: place.backups.len() });
            }
        }
        Ok(())
    }
}

impl Evidence {
    /// Checks that the copies are in order and of partitions that exist.
    pub fn validate(&self, partitions: u32) -> Result<(), EvidenceError> {
        if let Some(pair) =
            self.copies.windows(2).find(|pair| pair[0].partition >= pair[1].partition)
        {
            return Err(EvidenceError::Unsorted {
                first: pair[0].partition,
                second: pair[1].partition,
            });
        }
        for copy in &self.copies {
            if copy.partition.0 >= partitions {
                return Err(EvidenceError::UnknownPartition {
                    partition: copy.partition,
                    partitions,
                });
            }
            if copy.replica.is_some_and(|span| span.from > span.through) {
                return Err(EvidenceError::Backwards { partition: copy.partition });
            }
        }
        Ok(())
    }

    /// Returns what is said of `partition`, if the member holds any of it.
    pub fn copy(&self, partition: PartitionId) -> Option<&CopyEvidence> {
        let found = self.copies.binary_search_by_key(&partition, |copy| copy.partition).ok()?;
        Some(&self.copies[found])
    }
}

impl ViewDigest {
    /// Returns whether this looks like a SHA-1 in lower-case hexadecimal.
    pub fn is_well_formed(&self) -> bool {
        self.0.len() == 40 && self.0.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
}

impl fmt::Display for ViewDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<CopyTuple> for CopyEvidence {
    fn from((partition, replica, live): CopyTuple) -> Self {
        CopyEvidence {
            partition,
            replica: replica.map(|(from, through)| ReplicaSpan { from, through }),
            live,
        }
    }
}

impl From<CopyEvidence> for CopyTuple {
    fn from(copy: CopyEvidence) -> Self {
        (copy.partition, copy.replica.map(|span| (span.from, span.through)), copy.live)
    }
}

/// What is wrong in a view that came from outside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant is its documentation")]
pub enum ViewError {
    #[error("the view names no run")]
    NoRun,
    #[error("the view has number 0, and numbers start at 1")]
    NumberZero,
    #[error("the view has {found} partitions, expected 1 to {PARTITIONS_MAX}")]
    Partitions { found: u32 },
    #[error("the view has {found} workers, expected 1 to {WORKERS_MAX}")]
    Workers { found: u64 },
    #[error("members are not in ascending order: node {first} stands before node {second}")]
    MembersUnsorted { first: NodeId, second: NodeId },
    #[error("node {node} has no address")]
    NoAddress { node: NodeId },
    #[error("the evidence of node {node} is damaged: {error}")]
    Evidence { node: NodeId, error: EvidenceError },
    #[error(
        "view {number} must name its predecessor unless it is the first, which has none and resumes from what is durable"
    )]
    Lineage { number: ViewNumber },
    #[error("{found:?} is not the digest of a view")]
    Digest { found: String },
    #[error("node {node} has evidence of view {found:?}, expected {expected:?}")]
    EvidenceView { node: NodeId, expected: Option<ViewNumber>, found: Option<ViewNumber> },
    #[error("the view resumes at {resume:?}, but node {node} recorded {recorded:?}")]
    ResumeTooLow { resume: Option<Epoch>, node: NodeId, recorded: Option<Epoch> },
    #[error("the assignment has {found} partitions, expected {expected}")]
    TableLength { expected: u32, found: usize },
    #[error("partition {partition} is given to worker {worker}, which is not in the view")]
    UnknownWorker { partition: PartitionId, worker: WorkerId },
    #[error("partition {partition} is backed up twice on node {node}")]
    BackupTwice { partition: PartitionId, node: NodeId },
    #[error("partition {partition} has {found} backups, more than the view asks for")]
    TooManyBackups { partition: PartitionId, found: usize },
}

/// What is wrong in a member's evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message of each variant is its documentation")]
pub enum EvidenceError {
    #[error("copies are not in ascending order: partition {first} stands before {second}")]
    Unsorted { first: PartitionId, second: PartitionId },
    #[error("it has a copy of partition {partition} of {partitions}")]
    UnknownPartition { partition: PartitionId, partitions: u32 },
    #[error("the replica of partition {partition} ends before it begins")]
    Backwards { partition: PartitionId },
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
