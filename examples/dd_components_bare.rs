//! Connected components of a graph whose edges come and go, on bare differential dataflow.
//!
//! Each node takes the least label that reaches it. Lines `node<TAB>label<TAB>round<TAB>change`; summed up to
//! a round, they say which node has which label then. `dd_components` is the same job, protected.
//!
//! ```text
//! cargo run --release --example dd_components_bare -- -w 2 -- --out DIR
//! ```

mod support;

use std::error::Error;

use differential_dataflow::input::InputSession;
use differential_dataflow::operators::Iterate;
use support::churn::{Churn, Edge};
use support::graph::Shape;
use support::job::Job;
use support::lines::WriteUpdates;
use timely::dataflow::ProbeHandle;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let churn = Churn::undirected(&job, Shape::Mixed { nodes: 2000, degree: 2 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut edges = InputSession::<u64, Edge, isize>::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let edges = edges.to_collection(scope);
            let edges = edges.clone().map(|(from, to)| (to, from)).concat(edges);
            let nodes = edges.clone().map(|(node, _)| node).distinct();
            let nodes = nodes.map(|node| (node, node));
            nodes
                .clone()
                .iterate(|inner, labels| {
                    let edges = edges.enter(inner);
                    let nodes = nodes.enter(inner);
                    labels
                        .join_map(edges, |_node, label, next| (*next, *label))
                        .concat(nodes)
                        .reduce(|_node, labels, least| {
                            least.push((*labels[0].0, 1));
                        })
                })
                .probe_with(&probe)
                .write_lines(&out);
        });

        for round in 0..rounds {
            for (edge, change) in churn.round(round).skip(worker.index()).step_by(worker.peers()) {
                edges.update(edge, change);
            }
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
