//! Breadth-first search with a feedback loop, on bare timely.
//!
//! All edges are fed in round 0, and level n of the search is found in round n. Lines
//! `level<TAB>node<TAB>parent`, one for each node that node 0 leads to, with the least of its possible
//! parents. `bfs` is the same job, protected.
//!
//! ```text
//! cargo run --release --example bfs_bare -- -w 2 -- --out DIR
//! ```

#![allow(clippy::mutable_key_type, reason = "a capability is hashed by its time, which stays")]

mod support;

use std::collections::HashMap;
use std::error::Error;

use support::graph::{Graph, Shape};
use support::job::Job;
use support::lines::WriteLines;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::{Concat, ConnectLoop, Feedback, OkErr, Operator, Probe};
use timely::dataflow::{InputHandleVec, ProbeHandle};

/// Where the search begins.
const ROOT: u32 = 0;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let graph = Graph::of(&job, Shape::Long { nodes: 8000, degree: 4 });
    let (out, pace) = (job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut input = InputHandleVec::<u64, (u32, u32)>::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            // An edge from a node to itself says where the search begins.
            let (edges, roots) = input.to_stream(scope).ok_err(|edge: (u32, u32)| match edge {
                (from, to) if from == to => Err((from, from)),
                edge => Ok(edge),
            });
            let edges = edges.container::<Vec<_>>();
            let (handle, reached) = scope.feedback(1);
            let reached = roots.container::<Vec<_>>().concat(reached);

            let by_node = || Exchange::new(|(node, _): &(u32, u32)| u64::from(*node));
            let (found, next) = edges
                .binary_frontier(reached, by_node(), by_node(), "bfs", |_, _info| {
                    let mut edges = HashMap::<u32, Vec<u32>>::new();
                    let mut parents = HashMap::new();
                    let mut queues = HashMap::<_, Vec<(u32, u32)>>::new();
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
            next.container::<Vec<_>>().connect_loop(handle);
            let found = found.container::<Vec<_>>().probe_with(&probe);
            found.write_lines(&out);
        });

        for edge in graph.both_ways_from(ROOT).skip(worker.index()).step_by(worker.peers()) {
            input.send(edge);
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
