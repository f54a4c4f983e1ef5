//! Page ranks of a changing graph with a feedback loop, protected.
//!
//! The graph is fed in round 0; in each later round some edges are taken away and some added, and ranks
//! flow on round by round until all changes are small. Lines `round<TAB>node<TAB>rank`, one for each
//! change of a rank, in whole numbers, so that nothing depends on an order. `pagerank_bare` is the same
//! job on bare timely.
//!
//! ```text
//! cargo run --release --example pagerank -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::collections::BTreeMap;
use std::error::Error;

use ringfence::prelude::*;
use support::graph::{Graph, Shape};
use support::job::Job;
use support::random::random;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::{ProbeHandle, StreamVec};

/// The rank of a node to which no edge leads.
const RANK: i64 = 1000;

/// Changes of a rank below this are kept until they add up to it.
const LEAST_CHANGE: i64 = 20;

/// How many edges are replaced in a round.
const REPLACED: u64 = 4;

/// A record: an edge from a node comes or goes, or the node's rank changes.
type Edge = ((u32, u32), i64);
type Change = (u32, i64);

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let graph = Graph::of(&job, Shape::Mixed { nodes: 1000, degree: 5 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut input = FencedInput::<u64, Edge>::new("edges");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let (handle, changes) = scope.feedback_fenced(1);
            let ranks = ranks(input.to_stream(scope), changes);
            let (found, next) = ranks.ok_err(|record| record);
            next.container::<Vec<_>>().probe_with(&probe).connect_loop_fenced("loop", handle);
            found.container::<Vec<_>>().sink_fenced("out", LineFiles::new(&out));
        });

        for round in input.resume()..rounds {
            for (number, change) in (0..).zip(changes(&graph, round)) {
                input.send_to(number % input.share_count(), change);
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

/// What becomes of ranks, and what flows on along the edges.
fn ranks<'scope>(
    edges: StreamVec<'scope, u64, Edge>,
    changes: StreamVec<'scope, u64, Change>,
) -> StreamVec<'scope, u64, Result<(u64, u32, i64), Change>> {
    let by_start = Exchange::new(|((from, _to), _): &Edge| u64::from(*from));
    let by_node = Exchange::new(|(node, _): &Change| u64::from(*node));
    edges
        .binary_frontier_fenced(changes, by_start, by_node, "ranks", |_, state| {
            let mut edge_queues = state.stash("edge queues");
            let mut change_queues = state.stash("change queues");
            let mut edges = state.map::<u32, Vec<Change>>("edges");
            let mut ranks = state.map::<u32, i64>("ranks");
            let mut kept = state.map::<u32, i64>("kept");
            move |(input1, frontier1), (input2, frontier2), output| {
                input1.for_each_stamp(|capability, batches| {
                    if let Some(capability) = capability.retain_least(output.output_index()) {
                        let edges = batches.flat_map(|batch| batch.drain(..));
                        edge_queues.entry(capability).or_default().extend(edges);
                    }
                });
                input2.for_each_stamp(|capability, batches| {
                    if let Some(capability) = capability.retain_least(output.output_index()) {
                        let changes = batches.flat_map(|batch| batch.drain(..));
                        change_queues.entry(capability).or_default().extend(changes);
                    }
                });

                for (capability, queue) in edge_queues.iter_mut() {
                    let time = *capability.time();
                    if frontier1.less_equal(&time) || frontier2.less_equal(&time) {
                        continue;
                    }
                    let mut session = output.session(capability);
                    for (from, differences) in by_source(queue.drain(..)) {
                        let rank = *ranks.entry(from).or_insert(RANK);
                        let mut targets = edges.entry(from).or_default();
                        let before = given(-rank, &targets[..]);
                        *targets = summed(targets.drain(..).chain(differences));
                        let after = given(rank, &targets[..]);
                        for change in summed(before.into_iter().chain(after)) {
                            session.give(Err(change));
                        }
                    }
                }
                edge_queues.retain(|_capability, queue| !queue.is_empty());

                for (capability, queue) in change_queues.iter_mut() {
                    let time = *capability.time();
                    if frontier1.less_equal(&time) || frontier2.less_equal(&time) {
                        continue;
                    }
                    let mut session = output.session(capability);
                    for (node, difference) in summed(queue.drain(..)) {
                        let change = *kept.entry(node).or_insert(0) + difference;
                        if change.abs() < LEAST_CHANGE {
                            kept.insert(node, change);
                            continue;
                        }
                        kept.insert(node, 0);
                        let before = *ranks.entry(node).or_insert(RANK);
                        let rank = before + change;
                        ranks.insert(node, rank);
                        session.give(Ok((time, node, rank)));
                        if let Some(targets) = edges.get(&node) {
                            let before = given(-before, &targets[..]);
                            let after = given(rank, &targets[..]);
                            for change in summed(before.into_iter().chain(after)) {
                                session.give(Err(change));
                            }
                        }
                    }
                }
                change_queues.retain(|_capability, queue| !queue.is_empty());
            }
        })
        .container::<Vec<_>>()
}

/// What is fed in a round: the whole graph at first, later some edges of it that go, for others.
fn changes(graph: &Graph, round: u64) -> impl Iterator<Item = Edge> + '_ {
    let all = graph.edges.iter().filter(move |_| round == 0).map(|&edge| (edge, 1));
    let replaced = (0..REPLACED).filter(move |_| round > 0).flat_map(move |number| {
        let place = (round - 1) * REPLACED + number;
        // Edges go in their own order, so that none goes twice.
        let gone = graph.edges.get(place as usize).map(|&edge| (edge, -1));
        let nodes = u64::from(graph.nodes);
        let ends = (random(nodes, 2 * place) % nodes, random(nodes, 2 * place + 1) % nodes);
        gone.into_iter().chain([((ends.0 as u32, ends.1 as u32), 1)])
    });
    all.chain(replaced)
}

/// The edges that come or go, by the nodes that they lead from, in the order of these nodes.
fn by_source(edges: impl Iterator<Item = Edge>) -> BTreeMap<u32, Vec<Change>> {
    let mut sources = BTreeMap::<u32, Vec<Change>>::new();
    for ((from, to), difference) in edges {
        sources.entry(from).or_default().push((to, difference));
    }
    sources
}

/// Adds up the changes of each node, in the order of the nodes; what adds up to nothing is left out.
fn summed(changes: impl Iterator<Item = Change>) -> Vec<Change> {
    let mut changes: Vec<Change> = changes.collect();
    changes.sort_unstable();
    changes.dedup_by(|change, sum| {
        let is_same = change.0 == sum.0;
        sum.1 += if is_same { change.1 } else { 0 };
        is_same
    });
    changes.retain(|(_, change)| *change != 0);
    changes
}

/// Five sixths of a rank, shared among the edges; what is left over goes to the first of them. A
/// negative rank takes back what the positive one has given.
fn given(rank: i64, targets: &[Change]) -> Vec<Change> {
    let edges = targets.iter().map(|(_, count)| count).sum::<i64>().max(1);
    let shared = rank.abs() * 5 / 6;
    let mut over = shared % edges;
    let share = |&(target, count): &Change| {
        let first = over.min(count);
        over -= first;
        (target, rank.signum() * (shared / edges * count + first))
    };
    targets.iter().map(share).collect()
}
