//! One arrangement that two other dataflows read, protected.
//!
//! The first dataflow arranges the edges, which come and go, by their nodes. The second counts each node's
//! edges: lines `node<TAB>degree<TAB>round<TAB>change` below `DIR/degrees`. The third tells the neighbours
//! of some nodes, which change in each round: lines `node<TAB>neighbour<TAB>round<TAB>change` below
//! `DIR/asked`. `dd_shared_bare` is the same job on bare differential dataflow.
//!
//! ```text
//! cargo run --release --example dd_shared -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::error::Error;

use ringfence::prelude::*;
use support::churn::{Churn, Edge};
use support::graph::Shape;
use support::job::Job;
use timely::dataflow::ProbeHandle;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let churn = Churn::of(&job, Shape::Mixed { nodes: 1000, degree: 5 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut edges = FencedSession::<u64, Edge, isize>::new("edges");
        let mut nodes = FencedSession::<u64, u32, isize>::new("nodes");
        let probe = ProbeHandle::new();

        let mut trace = worker.dataflow::<u64, _, _>(|scope| {
            let edges = edges.to_collection(scope);
            edges.arrange_by_key_fenced("edges by node").trace()
        });
        worker.dataflow::<u64, _, _>(|scope| {
            trace
                .import(scope)
                .as_collection(|node, _neighbour| *node)
                .count_fenced("degrees")
                .probe_with(&probe)
                .sink_fenced("degrees out", LineFiles::new(out.join("degrees")));
        });
        worker.dataflow::<u64, _, _>(|scope| {
            let nodes = nodes.to_collection(scope).arrange_by_self_fenced("asked");
            trace
                .import(scope)
                .join_core(nodes, |node, neighbour, ()| Some((*node, *neighbour)))
                .probe_with(&probe)
                .sink_fenced("asked out", LineFiles::new(out.join("asked")));
        });
        // The arrangement need not keep what only a later reader would want to see.
        drop(trace);

        for round in edges.resume().min(nodes.resume())..rounds {
            for (number, (edge, change)) in (0..).zip(churn.round(round)) {
                edges.update_to(number % edges.share_count(), edge, change);
            }
            for (number, (node, change)) in (0..).zip(asked(round)) {
                nodes.update_to(number % nodes.share_count(), node, change);
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
