//! One arrangement that two other dataflows read, on bare differential dataflow.
//!
//! The first dataflow arranges the edges, which come and go, by their nodes. The second counts each node's
//! edges: lines `node<TAB>degree<TAB>round<TAB>change` below `DIR/degrees`. The third tells the neighbours of
//! some nodes, which change in each round: lines `node<TAB>neighbour<TAB>round<TAB>change` below `DIR/asked`.
//! `dd_shared` is the same job, protected.
//!
//! ```text
//! cargo run --release --example dd_shared_bare -- -w 2 -- --out DIR
//! ```

mod support;

use std::error::Error;

use differential_dataflow::input::InputSession;
use support::churn::{Churn, Edge};
use support::graph::Shape;
use support::job::Job;
use support::lines::WriteUpdates;
use timely::dataflow::ProbeHandle;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let churn = Churn::of(&job, Shape::Mixed { nodes: 1000, degree: 5 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut edges = InputSession::<u64, Edge, isize>::new();
        let mut nodes = InputSession::<u64, u32, isize>::new();
        let probe = ProbeHandle::new();

        let mut trace = worker.dataflow::<u64, _, _>(|scope| {
            let edges = edges.to_collection(scope);
            edges.arrange_by_key().trace
        });
        worker.dataflow::<u64, _, _>(|scope| {
            trace
                .import(scope)
                .as_collection(|node, _neighbour| *node)
                .count()
                .probe_with(&probe)
                .write_lines(&out.join("degrees"));
        });
        worker.dataflow::<u64, _, _>(|scope| {
            let nodes = nodes.to_collection(scope).arrange_by_self();
            trace
                .import(scope)
                .join_core(nodes, |node, neighbour, ()| Some((*node, *neighbour)))
                .probe_with(&probe)
                .write_lines(&out.join("asked"));
        });
        // The arrangement need not keep what only a later reader would want to see.
        drop(trace);

        for round in 0..rounds {
            for (edge, change) in churn.round(round).skip(worker.index()).step_by(worker.peers()) {
                edges.update(edge, change);
            }
            for (node, change) in asked(round).skip(worker.index()).step_by(worker.peers()) {
                nodes.update(node, change);
            }
            nodes.advance_to(round + 1);
            nodes.flush();
            edges.advance_to(round + 1);
            edges.flush();
            while probe.less_than(edges.time()) {
                worker.step();
            }
            std::thread::sleep(pace);
        }
    })?;
    job.report();
    Ok(())
}

/// Which nodes are asked about from this round on, and which no longer.
fn asked(round: u64) -> impl Iterator<Item = (u32, isize)> {
    let node = |round: u64| round as u32 % 50;
    let last = round.checked_sub(10).map(node);
    std::iter::once((node(round), 1)).chain(last.map(|node| (node, -1)))
}
