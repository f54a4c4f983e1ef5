//! The detector: who has been silent for too long.
//!
//! Every node beats to every other. How long a silence may last is learned from the beats themselves,
//! as in Bertier, Marin and Sens, *Implementation and Performance Evaluation of an Adaptable Failure
//! Detector* (DSN 2002), who take Jacobson's estimate of mean and deviation (SIGCOMM 1988). Two
//! thoughts come from SWIM (Das, Gupta and Motivala, DSN 2002) and Lifeguard (Dadgar, Phillips and
//! Currey, DSN-W 2018): a suspicion is told to the others first and convicts only once they share it
//! or it has lasted long enough; and a node that was itself asleep, or is called late because its
//! machine is overloaded, does not blame others for it.
//!
//! A gossip library was not taken: a cluster here is a clique of a few dozen nodes at most, whose
//! connections exist already and carry the beats, and each pair has to be judged by itself, since a
//! data connection to a member that only *others* can hear is of no use.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::NodeId;

/// Weights of a new interval in the mean and in the deviation, as in TCP: 1/8 and 1/4.
const MEAN_SHIFT: i64 = 3;
const DEVIATION_SHIFT: i64 = 2;

/// How many deviations above the mean a silence is worth a suspicion.
const DEVIATIONS: i64 = 6;

/// Through how many threads a beat goes that may each be as late as this node is: the sender's loop, its
/// writer, and the reader.
const LATE_HOPS: u64 = 3;

/// Intervals are estimated in microseconds, so that the shifts lose nothing.
const US_PER_MS: u64 = 1_000;

/// How often to beat, and how long a silence may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorLimits {
    /// How often each node says that it lives.
    pub beat_ms: u64,
    /// How long a silence may last that all others share, or that there is nobody else to ask about;
    /// half as long again where others still hear the node.
    pub suspect_ms: u64,
}

impl DetectorLimits {
    /// Limits of which each beat has twelve chances to arrive before its sender is taken for failed.
    pub fn from_suspect_ms(suspect_ms: u64) -> Self {
        DetectorLimits { beat_ms: (suspect_ms / 12).max(1), suspect_ms }
    }
}

/// What the detector makes of one node's silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has been silent for longer than it uses to be; the others are asked by the next beat.
    Suspected {
        /// The silent node.
        node: NodeId,
        /// For how long.
        silent_ms: u64,
    },
    /// It was suspected and has been heard again.
    Cleared {
        /// The node.
        node: NodeId,
        /// How long it had been silent.
        silent_ms: u64,
    },
    /// It is taken for failed.
    Convicted {
        /// The silent node.
        node: NodeId,
        /// For how long.
        silent_ms: u64,
        /// The other nodes that do not hear it either.
        votes: BTreeSet<NodeId>,
    },
}

/// What is known of the beats of one node.
#[derive(Clone, Debug)]
struct Hearing {
    heard_ms: u64,
    mean_us: i64,
    deviation_us: i64,
    stage: Stage,
    /// Whom it suspects, by its last beat.
    suspects: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Heard,
    Suspected,
    Convicted,
}

/// Watches the beats of some nodes.
///
/// INVARIANT: a node is convicted at most once between two of its beats, unless it was acquitted.
#[derive(Clone, Debug)]
pub struct Detector {
    limits: DetectorLimits,
    /// Counts only while this node is awake: a long gap between two calls counts as a short one.
    awake_ms: u64,
    called_ms: u64,
    /// How late this node was called lately: the others, and what carries their beats, may be as late.
    lateness_ms: u64,
    watched: BTreeMap<NodeId, Hearing>,
}

impl Detector {
    /// Makes a detector that watches nobody yet.
    pub fn new(limits: DetectorLimits) -> Self {
        Detector { limits, awake_ms: 0, called_ms: 0, lateness_ms: 0, watched: BTreeMap::new() }
    }

    /// Watches exactly `nodes`; a new one counts as just heard.
    pub fn watch(&mut self, now_ms: u64, nodes: impl IntoIterator<Item = NodeId>) {
        self.wake(now_ms);
        let mut before = std::mem::take(&mut self.watched);
        for node in nodes {
            let hearing = before.remove(&node).unwrap_or_else(|| self.fresh());
            self.watched.insert(node, hearing);
        }
    }

    /// Notes that something came from `node`.
    pub fn heard(&mut self, now_ms: u64, node: NodeId) -> Option<Verdict> {
        self.wake(now_ms);
        let awake_ms = self.awake_ms;
        let hearing = self.watched.get_mut(&node)?;
        let silent_ms = awake_ms - hearing.heard_ms;
        hearing.heard_ms = awake_ms;
        let was = std::mem::replace(&mut hearing.stage, Stage::Heard);
        (was != Stage::Heard).then_some(Verdict::Cleared { node, silent_ms })
    }

    /// Notes a beat of `node`, by which it suspects `suspects`.
    pub fn beat(
        &mut self,
        now_ms: u64,
        node: NodeId,
        suspects: BTreeSet<NodeId>,
    ) -> Option<Verdict> {
        self.wake(now_ms);
        if let Some(hearing) = self.watched.get_mut(&node) {
            let interval_us = ((self.awake_ms - hearing.heard_ms) * US_PER_MS) as i64;
            let error_us = interval_us - hearing.mean_us;
            hearing.mean_us += error_us >> MEAN_SHIFT;
            hearing.deviation_us += (error_us.abs() - hearing.deviation_us) >> DEVIATION_SHIFT;
            hearing.suspects = suspects;
        }
        self.heard(now_ms, node)
    }

    /// Takes back the verdicts so far: who is still silent is convicted anew.
    pub fn acquit(&mut self) {
        for hearing in self.watched.values_mut().filter(|h| h.stage == Stage::Convicted) {
            hearing.stage = Stage::Suspected;
        }
    }

    /// Returns what is to be said of silences that have become too long.
    pub fn judge(&mut self, now_ms: u64) -> Vec<Verdict> {
        self.wake(now_ms);
        let heard: BTreeSet<NodeId> = self
            .watched
            .iter()
            .filter(|(_, hearing)| hearing.stage == Stage::Heard)
            .map(|(node, _)| *node)
            .collect();
        let votes_on = |node: &NodeId| -> BTreeSet<NodeId> {
            let says = |voter: &&NodeId| self.watched[voter].suspects.contains(node);
            heard.iter().filter(says).copied().collect()
        };
        let votes: BTreeMap<NodeId, BTreeSet<NodeId>> =
            self.watched.keys().map(|node| (*node, votes_on(node))).collect();
        let (limits, awake_ms) = (self.limits, self.awake_ms);
        let allowance_ms = LATE_HOPS * self.lateness_ms;
        let mut verdicts = Vec::new();
        for (&node, hearing) in &mut self.watched {
            let silent_ms = awake_ms - hearing.heard_ms;
            if hearing.stage == Stage::Heard
                && silent_ms >= hearing.patience_ms(&limits) + allowance_ms
            {
                hearing.stage = Stage::Suspected;
                verdicts.push(Verdict::Suspected { node, silent_ms });
            }
            let votes = &votes[&node];
            let others_heard = heard.iter().filter(|other| **other != node).count();
            let is_shared = votes.len() == others_heard;
            let limit_ms = if is_shared { limits.suspect_ms } else { limits.suspect_ms * 3 / 2 };
            if hearing.stage == Stage::Suspected && silent_ms >= limit_ms + allowance_ms {
                hearing.stage = Stage::Convicted;
                verdicts.push(Verdict::Convicted { node, silent_ms, votes: votes.clone() });
            }
        }
        verdicts
    }

    /// Returns the nodes that are suspected now, the convicted among them.
    pub fn suspects(&self) -> BTreeSet<NodeId> {
        let suspected = self.watched.iter().filter(|(_, hearing)| hearing.stage != Stage::Heard);
        suspected.map(|(node, _)| *node).collect()
    }

    /// Returns whether `node` was convicted and has not been heard since.
    pub fn is_silent(&self, node: NodeId) -> bool {
        self.watched.get(&node).is_some_and(|hearing| hearing.stage == Stage::Convicted)
    }

    fn fresh(&self) -> Hearing {
        let beat_us = (self.limits.beat_ms * US_PER_MS) as i64;
        Hearing {
            heard_ms: self.awake_ms,
            mean_us: beat_us,
            deviation_us: beat_us / 2,
            stage: Stage::Heard,
            suspects: BTreeSet::new(),
        }
    }

    /// Lets time pass, as far as this node was awake to hear anything.
    fn wake(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.called_ms);
        self.awake_ms += passed_ms.min(2 * self.limits.beat_ms);
        // It asks to be called at each beat at the latest. Half of it is forgotten each second.
        let late_ms = passed_ms.saturating_sub(self.limits.beat_ms).min(self.limits.suspect_ms);
        let faded_ms = self.lateness_ms - self.lateness_ms * passed_ms.min(1_000) / 2_000;
        self.lateness_ms = late_ms.max(faded_ms);
        self.called_ms = self.called_ms.max(now_ms);
    }
}

impl Hearing {
    /// How long a silence of this node is nothing to speak of.
    fn patience_ms(&self, limits: &DetectorLimits) -> u64 {
        let usual_us = self.mean_us + DEVIATIONS * self.deviation_us;
        let usual_ms = u64::try_from(usual_us).unwrap_or_default() / US_PER_MS;
        usual_ms.clamp(limits.suspect_ms / 3, limits.suspect_ms)
    }
}

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
