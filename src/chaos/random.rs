//! An endless schedule of faults drawn from a seed, which a job must survive.
//!
//! The rule: at most `backups` nodes are lost over the whole run. Every partition has one copy more than
//! that, each on a different node, so one of its holders is left whichever nodes are lost. Replicas that are
//! rebuilt only add to that. A node counts as lost if it has ended, is not in the latest view, or had a fault
//! for which the others may give it up. A stop or a cut that is shorter than a third of the silence after
//! which a node is suspected does not lose the node; a longer one counts as a loss even if the node survives
//! it. Slowness adds too little to silence to lose a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ringfence_operators::ids::NodeId;

use super::fault::{parse_duration, written};
use super::{Fault, FaultKind, FaultParseError, When};

/// The seed of a random schedule, and how often a fault occurs, as in `random:7@500ms`.
///
/// ```
/// use ringfence::chaos::RandomSpec;
/// use std::time::Duration;
///
/// let spec: RandomSpec = "random:7@500ms".parse()?;
/// assert_eq!((spec.seed, spec.every), (7, Duration::from_millis(500)));
/// assert_eq!(spec.to_string(), "random:7@500ms");
/// # Ok::<(), ringfence::chaos::FaultParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomSpec {
    /// The seed from which the schedule is drawn.
    pub seed: u64,
    /// The mean time from one fault to the next; each interval is between half and one and a half times the
    /// mean.
    pub every: Duration,
}

impl RandomSpec {
    /// Whether `spec` is meant to be a random schedule.
    pub fn is_meant_by(spec: &str) -> bool {
        spec.starts_with("random:")
    }
}

impl fmt::Display for RandomSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "random:{}@{}", self.seed, written(self.every))
    }
}

impl FromStr for RandomSpec {
    type Err = FaultParseError;

    fn from_str(spec: &str) -> Result<Self, FaultParseError> {
        let wrong = |problem: String| FaultParseError { spec: spec.to_owned(), problem };
        let rest = spec.strip_prefix("random:");
        let rest = rest.ok_or_else(|| wrong("there is no random:".to_owned()))?;
        let (seed, every) =
            rest.split_once('@').ok_or_else(|| wrong("there is no @EVERY".to_owned()))?;
        let seed = seed.parse().map_err(|_| wrong(format!("{seed:?} is no seed")))?;
        let every = parse_duration(every)
            .filter(|every| !every.is_zero())
            .ok_or_else(|| wrong(format!("{every:?} is no length of time")))?;
        Ok(RandomSpec { seed, every })
    }
}

/// What a random schedule must know of the cluster to be survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomLimits {
    /// The copies of each partition in addition to its owner's.
    pub backups: usize,
    /// The silence after which a node is suspected.
    pub suspect: Duration,
}

/// A running random schedule. Time and the state of the cluster are arguments.
#[derive(Clone, Debug)]
pub struct RandomFaults {
    spec: RandomSpec,
    limits: RandomLimits,
    state: u64,
    /// When the next fault is due, in milliseconds after the first commit.
    next_ms: f64,
    lost: BTreeSet<NodeId>,
    /// Until when a node is left alone, so that two short silences do not add up to a long one.
    resting: BTreeMap<NodeId, f64>,
}

impl RandomFaults {
    /// A schedule of which no fault has happened yet.
    pub fn new(spec: RandomSpec, limits: RandomLimits) -> Self {
        let mut faults = RandomFaults {
            spec,
            limits,
            state: spec.seed,
            next_ms: 0.0,
            lost: BTreeSet::new(),
            resting: BTreeMap::new(),
        };
        faults.next_ms = faults.pause_ms();
        faults
    }

    /// Returns the fault that is due `now_ms` after the first commit, if one is.
    ///
    /// `nodes` are all nodes of the run, and `present` those that have not ended and are in the
    /// latest view.
    pub fn due(
        &mut self,
        now_ms: f64,
        nodes: &BTreeSet<NodeId>,
        present: &BTreeSet<NodeId>,
    ) -> Option<Fault> {
        if now_ms < self.next_ms {
            return None;
        }
        self.next_ms = now_ms + self.pause_ms();
        self.lost.extend(nodes.difference(present));
        // Drawn first and always, so that later draws do not depend on what is possible now.
        let [kind, size, length, choice] = [(); 4].map(|()| self.draw());
        let may_lose = self.lost.len() < self.limits.backups;
        let kind = match kind % 4 {
            0 if may_lose => FaultKind::Kill,
            1 => FaultKind::Stop,
            2 => FaultKind::Slow,
            _ => FaultKind::Cut,
        };
        let is_long = may_lose && size % 3 == 0;
        let lasting = self.lasting(kind, is_long, length);
        let loses = kind == FaultKind::Kill
            || lasting.is_some_and(|lasting| kind != FaultKind::Slow && lasting >= self.harmless());
        let rests = |node: &NodeId| self.resting.get(node).is_some_and(|until| now_ms < *until);
        let free: Vec<NodeId> = present
            .iter()
            .copied()
            .filter(|node| !self.lost.contains(node) && !rests(node))
            .collect();
        let node = *free.get(choice as usize % free.len().max(1))?;
        if loses {
            self.lost.insert(node);
        }
        let silence = lasting.unwrap_or_default() + self.limits.suspect;
        self.resting.insert(node, now_ms + silence.as_secs_f64() * 1e3);
        let when = When::AfterFirstCommit(Duration::from_millis(now_ms.max(0.0) as u64));
        Some(Fault { kind, node, when, lasting })
    }

    /// The specification from which this schedule was drawn.
    pub fn spec(&self) -> RandomSpec {
        self.spec
    }

    /// A silence shorter than this does not lose the node.
    fn harmless(&self) -> Duration {
        self.limits.suspect / 3
    }

    fn lasting(&self, kind: FaultKind, is_long: bool, draw: u64) -> Option<Duration> {
        let harmless_ms = (self.harmless().as_millis() as u64).max(2);
        let millis = match kind {
            FaultKind::Kill | FaultKind::Panic => return None,
            FaultKind::Slow => 200 + draw % 1_800,
            // From the shortest silence that counts as a loss to four times what certainly is one.
            FaultKind::Stop | FaultKind::Cut if is_long => harmless_ms + draw % (11 * harmless_ms),
            FaultKind::Stop | FaultKind::Cut => 1 + draw % (harmless_ms - 1),
        };
        Some(Duration::from_millis(millis))
    }

    fn pause_ms(&mut self) -> f64 {
        let part = (self.draw() % 1_000) as f64 / 1_000.0;
        self.spec.every.as_secs_f64() * 1e3 * (0.5 + part)
    }

    /// The next number: splitmix64, see Steele, Lea and Flood, OOPSLA 2014.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RandomLimits = RandomLimits { backups: 2, suspect: Duration::from_millis(600) };

    /// Runs a schedule over five nodes, of which those that are killed or silent for long leave.
    fn run(seed: u64, backups: usize) -> Vec<Fault> {
        let spec = RandomSpec { seed, every: Duration::from_millis(300) };
        let mut faults = RandomFaults::new(spec, RandomLimits { backups, ..LIMITS });
        let nodes: BTreeSet<NodeId> = (0..5).map(NodeId).collect();
        let mut present = nodes.clone();
        let mut given = Vec::new();
        for now_ms in (0..60_000).step_by(5) {
            if let Some(fault) = faults.due(f64::from(now_ms), &nodes, &present) {
                assert!(present.contains(&fault.node), "{fault} hits nobody");
                let is_silent = fault.lasting.is_some_and(|l| l >= Duration::from_millis(400));
                if fault.kind == FaultKind::Kill || (fault.kind != FaultKind::Slow && is_silent) {
                    present.remove(&fault.node);
                }
                given.push(fault);
            }
        }
        given
    }

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(run(7, 2), run(7, 2));
        assert_ne!(run(7, 2), run(8, 2));
        let count = run(7, 2).len();
        // A turn on which all nodes rest is left out.
        assert!((100..=250).contains(&count), "{count} faults in a minute, one about every 300 ms");
    }

    #[test]
    fn no_more_nodes_are_lost_than_there_are_backups() {
        for (seed, backups) in (0..300).flat_map(|seed| [(seed, 0), (seed, 1), (seed, 2)]) {
            let lost: BTreeSet<NodeId> = run(seed, backups)
                .into_iter()
                .filter(|fault| match fault.kind {
                    FaultKind::Slow => false,
                    _ => fault.lasting.is_none_or(|l| l >= Duration::from_millis(200)),
                })
                .map(|fault| fault.node)
                .collect();
            assert!(lost.len() <= backups, "seed {seed} loses {lost:?} with {backups} backups");
        }
    }

    #[test]
    fn nobody_is_hit_again_before_it_has_been_heard() {
        for seed in 0..100 {
            let mut until = BTreeMap::new();
            for fault in run(seed, 2) {
                let When::AfterFirstCommit(at) = fault.when else { panic!("{fault}") };
                let rested = until.get(&fault.node).is_none_or(|until| *until <= at);
                assert!(rested, "seed {seed}: {fault} comes before {until:?}");
                let silence = fault.lasting.unwrap_or_default() + LIMITS.suspect;
                until.insert(fault.node, at + silence);
            }
        }
    }

    #[test]
    fn every_kind_comes() {
        let given: Vec<Fault> = (0..20).flat_map(|seed| run(seed, 2)).collect();
        for kind in [FaultKind::Kill, FaultKind::Stop, FaultKind::Cut, FaultKind::Slow] {
            assert!(given.iter().any(|fault| fault.kind == kind), "no {kind}");
        }
        let long = |fault: &&Fault| fault.lasting > Some(LIMITS.suspect);
        assert!(given.iter().filter(long).any(|fault| fault.kind == FaultKind::Stop));
        assert!(given.iter().filter(long).any(|fault| fault.kind == FaultKind::Cut));
    }

    #[test]
    fn each_fault_is_written_as_it_can_be_given() {
        for fault in run(3, 2) {
            assert_eq!(fault.to_string().parse::<Fault>(), Ok(fault));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (spec, problem) in [
            ("random:7", "no @EVERY"),
            ("random:x@1s", "\"x\" is no seed"),
            ("random:7@0s", "\"0s\" is no length of time"),
            ("random:7@40%", "\"40%\" is no length of time"),
        ] {
            let error = spec.parse::<RandomSpec>().unwrap_err().to_string();
            assert!(error.contains(problem), "{spec}: {error}");
        }
    }
}
