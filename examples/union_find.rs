//! Connected components by union-find, protected.
//!
//! Eight parts of the graph drop the edges that close circles within them; what is left goes to one
//! place, which knows the components. Lines `round<TAB>node<TAB>component`: in this round the node came
//! to another component, which is named by its least node. `union_find_bare` is the same
//! job on bare timely.
//!
//! ```text
//! cargo run --release --example union_find -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::collections::BTreeMap;
use std::error::Error;

use ringfence::prelude::*;
use support::graph::{Graph, Shape};
use support::job::Job;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::{ProbeHandle, StreamVec};

/// Into how many parts the edges are split first.
const PARTS: u32 = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let graph = Graph::of(&job, Shape::Mixed { nodes: 5000, degree: 4 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut input = FencedInput::<u64, (u32, u32)>::new("edges");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let components = input.to_stream(scope).union_find().components();
            components.probe_with(&probe).sink_fenced("out", LineFiles::new(&out));
        });

        for round in input.resume()..rounds {
            for (number, edge) in (0..).zip(graph.round(round, rounds)) {
                input.send_to(number % input.share_count(), edge);
            }
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
            std::thread::sleep(pace);
        }
    })?;
    job.report();
    Ok(())
}

/// The two steps of the job.
trait UnionFind<'scope> {
    /// Passes on the edges that connect what was not connected within their part.
    fn union_find(self) -> Self;

    /// Tells, for each round, the nodes that came to another component, and its least node.
    fn components(self) -> StreamVec<'scope, u64, (u64, u32, u32)>;
}

impl<'scope> UnionFind<'scope> for StreamVec<'scope, u64, (u32, u32)> {
    fn union_find(self) -> Self {
        let by_part = Exchange::new(|(from, _to): &(u32, u32)| u64::from(from % PARTS));
        self.unary_fenced(by_part, "union_find", |_capability, state| {
            let mut roots = state.list("roots");
            let mut ranks = state.list("ranks");
            move |input, output| {
                input.for_each_stamp(|capability, batches| {
                    let mut session = output.session(&capability);
                    for (from, to) in batches.flat_map(|batch| batch.drain(..)) {
                        for node in roots.len()..=from.max(to) as usize {
                            roots.push(node);
                            ranks.push(0u8);
                        }
                        let root = |mut node: usize| {
                            while node != roots.at(node) {
                                node = roots.at(node);
                            }
                            node
                        };
                        let (x, y) = (root(from as usize), root(to as usize));
                        if x != y {
                            session.give((from, to));
                            let (high, low) =
                                if ranks.at(x) < ranks.at(y) { (y, x) } else { (x, y) };
                            if ranks.at(high) == ranks.at(low) {
                                ranks.set(high, ranks.at(high) + 1);
                            }
                            roots.set(low, high);
                        }
                    }
                });
            }
        })
    }

    fn components(self) -> StreamVec<'scope, u64, (u64, u32, u32)> {
        let together = Exchange::new(|_edge: &(u32, u32)| 0);
        self.unary_frontier_fenced(together, "components", |_capability, state| {
            let mut queues = state.stash("queues");
            let mut components = state.map("components");
            let mut members = state.map("members");
            move |(input, frontier), output| {
                input.for_each_stamp(|capability, batches| {
                    if let Some(capability) = capability.retain_least(output.output_index()) {
                        let edges = batches.flat_map(|batch| batch.drain(..));
                        queues.entry(capability).or_default().extend(edges);
                    }
                });
                for (capability, queue) in queues.iter_mut() {
                    if frontier.less_equal(capability.time()) {
                        continue;
                    }
                    let mut moved = BTreeMap::new();
                    for (from, to) in queue.drain(..) {
                        // A node begins alone.
                        let x: u32 = *components.entry(from).or_insert(from);
                        let y: u32 = *components.entry(to).or_insert(to);
                        let (least, other) = (x.min(y), x.max(y));
                        if least != other {
                            let joining = members.remove(&other).unwrap_or_else(|| vec![other]);
                            for &node in &joining {
                                components.insert(node, least);
                                moved.insert(node, least);
                            }
                            members.entry(least).or_insert_with(|| vec![least]).extend(joining);
                        }
                    }
                    let mut session = output.session(capability);
                    for (node, component) in moved {
                        session.give((*capability.time(), node, component));
                    }
                }
                queues.retain(|_capability, queue| !queue.is_empty());
            }
        })
    }
}
