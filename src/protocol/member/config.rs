//! What a node knows before anything happens, and how long it waits for what.

use std::collections::BTreeSet;

use ringfence_operators::ids::{Incarnation, NodeId};

use super::super::detector::DetectorLimits;
use super::super::view::DurableStart;

/// What a node knows of itself and of its cluster before anything happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// The id of the run, as the register has it.
    pub run: String,
    /// This node.
    pub node: NodeId,
    /// This start of the node.
    pub incarnation: Incarnation,
    /// Where this node listens for the others.
    pub address: String,
    /// All nodes of the first view, this one among them.
    pub nodes: BTreeSet<NodeId>,
    /// Whether this process was started in the place of one that has ended.
    pub is_restart: bool,
    /// The number of worker threads of every node.
    pub workers_per_node: u32,
    /// The number of partitions.
    pub partitions: u32,
    /// The number of backups of each partition; clipped to what the cluster has.
    pub backups: u32,
    /// What a durable tier has; only the node that proposes the first view needs it.
    pub durable: Option<DurableStart>,
    /// How long and how often.
    pub limits: MemberLimits,
}

/// How long a node waits for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberLimits {
    /// How often to beat, and how long a member may be silent.
    pub detector: DetectorLimits,
    /// How long each member that was silent for too long is still waited for: a false alarm that it
    /// answers in time costs no more than a change of views.
    pub silent_wait_ms: u64,
    /// How long each member that is not known to be gone is waited for before a view without it is proposed.
    pub evidence_wait_ms: u64,
    /// How much later than the one before it each further node proposes.
    pub propose_stagger_ms: u64,
    /// How long a member that holds the only copy of something is waited for.
    pub holder_wait_ms: u64,
    /// How long a generation may take to be closed before the process gives up. It is closed at once
    /// unless too many threads of earlier generations are left.
    pub stop_limit_ms: u64,
    /// How long a finished node waits for the others to say that they know.
    pub done_wait_ms: u64,
    /// How often the register is asked again: for the first view, and after it failed to answer.
    pub register_retry_ms: u64,
    /// How long a process that is in no view looks for the members of the newest one.
    pub reach_limit_ms: u64,
    /// How long a planned change waits for a commit.
    pub plan_wait_ms: u64,
    /// How many views may be ended by panics of workers within the window; one more ends the job.
    pub restarts_max: u32,
    /// The length of that window.
    pub restarts_window_ms: u64,
    /// How many views may follow each other without a commit in between; one more ends the job.
    pub views_without_commit_max: u32,
    /// After how long without an answer the user is told that the register is slow.
    pub register_slow_ms: u64,
}

/// The default for how long a member may be silent.
pub const SUSPECT_MS: u64 = 500;

impl MemberLimits {
    /// Limits with which a member may be silent for `suspect_ms`.
    pub fn from_suspect_ms(suspect_ms: u64) -> Self {
        MemberLimits {
            detector: DetectorLimits::from_suspect_ms(suspect_ms),
            silent_wait_ms: suspect_ms * 3 / 5,
            evidence_wait_ms: 2_000,
            propose_stagger_ms: 500,
            holder_wait_ms: 30_000,
            stop_limit_ms: 5_000,
            done_wait_ms: 2_000,
            register_retry_ms: 500,
            reach_limit_ms: 30_000,
            plan_wait_ms: 1_000,
            // What is too much is for the user to say.
            restarts_max: u32::MAX,
            restarts_window_ms: 60_000,
            views_without_commit_max: u32::MAX,
            register_slow_ms: 2_000,
        }
    }
}

impl Default for MemberLimits {
    fn default() -> Self {
        MemberLimits::from_suspect_ms(SUSPECT_MS)
    }
}
