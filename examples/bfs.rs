//! Breadth-first search with a feedback loop, protected.
//!
//! All edges are fed in round 0, and level n of the search is found in round n. Lines
//! `level<TAB>node<TAB>parent`, one for each node that node 0 leads to, with the least of its possible
//! parents. `bfs_bare` is the same job on bare timely.
//!
//! ```text
//! cargo run --release --example bfs -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::error::Error;

use ringfence::prelude::*;
use support::graph::{Graph, Shape};
use support::job::Job;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;

/// Where the search begins.
const ROOT: u32 = 0;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let graph = Graph::of(&job, Shape::Long { nodes: 8000, degree: 4 });
    let (out, pace) = (job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut input = FencedInput::<u64, (u32, u32)>::new("edges");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            // An edge from a node to itself says where the search begins.
            let (edges, roots) = input.to_stream(scope).ok_err(|edge: (u32, u32)| match edge {
                (from, to) if from == to => Err((from, from)),
                edge => Ok(edge),
            });
            let edges = edges.container::<Vec<_>>();
            let (handle, reached) = scope.feedback_fenced(1);
            let reached = roots.container::<Vec<_>>().concat(reached);

            let by_node = || Exchange::new(|(node, _): &(u32, u32)| u64::from(*node));
            let (found, next) = edges
                .binary_frontier_fenced(reached, by_node(), by_node(), "bfs", |_, state| {
                    let mut edges = state.map::<u32, Vec<u32>>("edges");
                    let mut parents = state.map("parents");
                    let mut queues = state.stash("queues");
                    move |(input1, frontier1), (input2, frontier2), output| {
                        input1.for_each_stamp(|_capability, batches| {
                            for (from, to) in batches.flat_map(|batch| batch.drain(..)) {
                                edges.entry(from).or_default().push(to);
                            }
                        });
                        input2.for_each_stamp(|capability, batches| {
                            if let Some(capability) = capability.retain_least(output.output_index())
                            {
                                let reached = batches.flat_map(|batch| batch.drain(..));
                                queues.entry(capability).or_default().extend(reached);
                            }
                        });
                        for (capability, queue) in queues.iter_mut() {
                            let level = *capability.time();
                            if frontier1.less_equal(&level) || frontier2.less_equal(&level) {
                                continue;
                            }
                            let mut reached = Vec::from_iter(queue.drain(..));
                            reached.sort_unstable();
                            let mut session = output.session(capability);
                            for (node, parent) in reached {
                                if parents.contains_key(&node) {
                                    continue;
                                }
                                parents.insert(node, parent);
                                session.give(Ok((level, node, parent)));
                                if let Some(targets) = edges.get(&node) {
                                    for target in targets.iter() {
                                        session.give(Err((*target, node)));
                                    }
                                }
                            }
                        }
                        queues.retain(|_capability, queue| !queue.is_empty());
                    }
                })
                .container::<Vec<_>>()
                .ok_err(|record: Result<(u64, u32, u32), (u32, u32)>| record);
            next.container::<Vec<_>>().connect_loop_fenced("loop", handle);
            let found = found.container::<Vec<_>>().probe_with(&probe);
            found.sink_fenced("out", LineFiles::new(&out));
        });

        for (number, edge) in (0..).zip(graph.both_ways_from(ROOT)) {
            input.send_to(number % input.share_count(), edge);
        }
        input.close();
        while !probe.done() {
            worker.step();
            std::thread::sleep(pace);
        }
    })?;
    job.report();
    Ok(())
}
