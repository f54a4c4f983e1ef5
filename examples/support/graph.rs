//! Graphs: a generated one, or one from a file.

use super::job::Job;
use super::random::random;

/// Which graph is generated where no file is given.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Edges lead to near neighbours, so that paths are long.
    Long {
        /// The number of nodes.
        nodes: u32,
        /// Edges from each node.
        degree: u32,
    },
    /// Edges lead anywhere.
    Mixed {
        /// The number of nodes.
        nodes: u32,
        /// Edges from each node, on average.
        degree: u32,
    },
}

impl Shape {
    fn with_nodes(self, change: impl Fn(u32) -> u32) -> Self {
        match self {
            Shape::Long { nodes, degree } => Shape::Long { nodes: change(nodes), degree },
            Shape::Mixed { nodes, degree } => Shape::Mixed { nodes: change(nodes), degree },
        }
    }
}

/// How far an edge of a long graph reaches at most.
const REACH: u64 = 20;

/// A directed graph; edges keep their order, and there are no self-loops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The number of nodes.
    pub nodes: u32,
    /// The edges: from, to.
    pub edges: Vec<(u32, u32)>,
}

impl Graph {
    /// The graph of the file that was given, or a generated one.
    pub fn of(job: &Job, shape: Shape) -> Self {
        match job.read_file() {
            Some(text) => Graph::parse(&text).unwrap_or_else(|what| job.refuse_file(&what)),
            None => Graph::generate(shape.with_nodes(|nodes| job.nodes_or(nodes)), job.seed()),
        }
    }

    /// Reads `nodes`, then a line `from to weight` for each edge, up to the end or a line `-1`; the
    /// weight is not used.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let nodes = lines.next().and_then(|line| line.trim().parse::<u32>().ok());
        let nodes = nodes.ok_or("line 1 is not the number of nodes")?;
        let mut edges = Vec::new();
        let lines = lines.map(str::trim).take_while(|line| *line != "-1");
        for (number, line) in (2..).zip(lines).filter(|(_, line)| !line.is_empty()) {
            let mut ends = line.split_whitespace().map(|end| end.parse().ok());
            let (Some(Some(from)), Some(Some(to))) = (ends.next(), ends.next()) else {
                return Err(format!("line {number} is not `from to weight`: {line}"));
            };
            if from >= nodes || to >= nodes {
                return Err(format!("line {number} names a node beyond {nodes}: {line}"));
            }
            if from != to {
                edges.push((from, to));
            }
        }
        Ok(Graph { nodes, edges })
    }

    fn generate(shape: Shape, seed: u64) -> Self {
        let (nodes, degree) = match shape {
            Shape::Long { nodes, degree } | Shape::Mixed { nodes, degree } => (nodes, degree),
        };
        let edge = |place: u64| {
            let (from, to) = (random(seed, 2 * place), random(seed, 2 * place + 1));
            match shape {
                Shape::Long { .. } => {
                    let from = place / u64::from(degree);
                    (from, (from + 1 + to % REACH).min(u64::from(nodes) - 1))
                }
                Shape::Mixed { .. } => (from % u64::from(nodes), to % u64::from(nodes)),
            }
        };
        let edges = (0..u64::from(nodes) * u64::from(degree)).map(edge);
        let edges = edges.filter(|(from, to)| from != to);
        Graph { nodes, edges: edges.map(|(from, to)| (from as u32, to as u32)).collect() }
    }

    /// The edges of one of `rounds` rounds, as many as those of any other.
    pub fn round(&self, round: u64, rounds: u64) -> impl Iterator<Item = (u32, u32)> + '_ {
        let place = |round: u64| (self.edges.len() as u64 * round / rounds) as usize;
        self.edges[place(round)..place(round + 1)].iter().copied()
    }

    /// An edge from `root` to itself, then all edges, each in both directions.
    pub fn both_ways_from(&self, root: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let edges = self.edges.iter().flat_map(|&(from, to)| [(from, to), (to, from)]);
        std::iter::once((root, root)).chain(edges)
    }

    /// The edges of a round, two and two; one that is left over is left out.
    pub fn pairs(&self, round: u64, rounds: u64) -> impl Iterator<Item = [(u32, u32); 2]> + '_ {
        let mut edges = self.round(round, rounds);
        std::iter::from_fn(move || Some([edges.next()?, edges.next()?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_its_nodes_and_edges() {
        let graph = Graph::parse("3\n1 0 1\n2 2 1\n0 2 7\n-1\n").unwrap();
        assert_eq!(graph, Graph { nodes: 3, edges: vec![(1, 0), (0, 2)] });
        for (text, what) in [("x", "line 1"), ("2\n0 1 1\n0", "line 3"), ("2\n0 2 1", "beyond 2")] {
            assert!(Graph::parse(text).unwrap_err().contains(what), "{text}");
        }
    }

    #[test]
    fn rounds_have_all_edges() {
        let graph = Graph::generate(Shape::Mixed { nodes: 50, degree: 3 }, 1);
        assert!(graph.edges.iter().all(|&(from, to)| from != to && from < 50 && to < 50));
        let dealt: Vec<_> = (0..7).flat_map(|round| graph.round(round, 7)).collect();
        assert_eq!(dealt, graph.edges);
        let long = Graph::generate(Shape::Long { nodes: 50, degree: 3 }, 1);
        assert!(long.edges.iter().all(|&(from, to)| from < to && to - from <= REACH as u32));
    }
}
