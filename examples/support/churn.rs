//! Edges that come and go: a window that slides over the edges of a graph, shuffled by a seed.

use super::graph::{Graph, Shape};
use super::job::Job;
use super::random::random;

/// An edge: from, to.
pub type Edge = (u32, u32);

/// Of how many edges one is replaced in each round.
const STEP_SHARE: usize = 100;

/// Edges that come and go, the same in every round for the same seed.
///
/// In round 0 three quarters of the edges come; in each later one some of them go, the oldest first, and as
/// many others come. No edge is there twice.
#[derive(Clone, Debug)]
pub struct Churn {
    edges: Vec<Edge>,
    window: usize,
    step: usize,
}

impl Churn {
    /// The edges of the job's graph.
    pub fn of(job: &Job, shape: Shape) -> Self {
        Churn::new(Graph::of(job, shape).edges, job.seed())
    }

    /// The edges of the job's graph, each in one direction: from the lesser node to the greater.
    pub fn undirected(job: &Job, shape: Shape) -> Self {
        let edges = Graph::of(job, shape).edges.into_iter();
        Churn::new(edges.map(|(from, to)| (from.min(to), from.max(to))).collect(), job.seed())
    }

    /// These edges, without those that are there twice.
    pub fn new(mut edges: Vec<Edge>, seed: u64) -> Self {
        edges.sort_unstable();
        edges.dedup();
        // Equal numbers are of no harm: what is sorted is the same each time.
        let place = |edge: &Edge| random(seed, u64::from(edge.0) << 32 | u64::from(edge.1));
        edges.sort_by_key(place);
        let count = edges.len();
        Churn { edges, window: count - count / 4, step: (count / STEP_SHARE).max(1) }
    }

    /// What changes in a round: edges, each with 1 if it comes and -1 if it goes.
    pub fn round(&self, round: u64) -> impl Iterator<Item = (Edge, isize)> + '_ {
        let count = self.edges.len();
        // No edge is there where there is none: the iterators below are then empty.
        let at = move |place: usize| self.edges[place % count];
        let first = match round {
            0 => 0,
            _ => (round as usize - 1).wrapping_mul(self.step),
        };
        let step = if round == 0 || count == 0 { 0 } else { self.step };
        let came = if round == 0 { 0..self.window } else { 0..step };
        let after = if round == 0 { 0 } else { first + self.window };
        let goes = (first..first + step).map(move |place| (at(place), -1));
        goes.chain(came.map(move |place| (at(after + place), 1)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn edges_come_and_go_and_are_as_many() {
        for edges in [0, 1, 2, 5, 900] {
            let churn = Churn::new((0..edges).map(|to| (7, to)).collect(), 3);
            let mut present = BTreeMap::new();
            for round in 0..700 {
                for (edge, change) in churn.round(round) {
                    *present.entry(edge).or_insert(0) += change;
                }
                present.retain(|_edge, count| *count != 0);
                assert!(present.values().all(|count| *count == 1), "{edges} edges, round {round}");
                assert_eq!(present.len(), churn.window, "{edges} edges, round {round}");
            }
        }
    }

    #[test]
    fn a_seed_has_one_order() {
        let edges: Vec<Edge> = (0..100).map(|to| (0, to)).collect();
        let rounds = |edges: Vec<Edge>, seed| -> Vec<_> {
            let churn = Churn::new(edges, seed);
            (0..9).flat_map(|round| churn.round(round).collect::<Vec<_>>()).collect()
        };
        let backwards = edges.iter().rev().copied().collect();
        assert_eq!(rounds(edges.clone(), 1), rounds(backwards, 1));
        assert_ne!(rounds(edges.clone(), 1), rounds(edges, 2));
    }
}
