//! Connected components of a graph whose edges come and go, protected.
//!
//! Each node takes the least label that reaches it. Lines `node<TAB>label<TAB>round<TAB>change`; summed up
//! to a round, they say which node has which label then. `dd_components_bare` is the same job on bare
//! differential dataflow.
//!
//! ```text
//! cargo run --release --example dd_components -- --local 3 --fault kill:1@500ms -- --out DIR
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
    let churn = Churn::undirected(&job, Shape::Mixed { nodes: 2000, degree: 2 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut edges = FencedSession::<u64, Edge, isize>::new("edges");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let edges = edges.to_collection(scope);
            let edges = edges.clone().map(|(from, to)| (to, from)).concat(edges);
            let nodes = edges.clone().map(|(node, _)| node).distinct_fenced("nodes");
            let nodes = nodes.map(|node| (node, node));
            nodes
                .clone()
                .iterate(|inner, labels| {
                    let edges = edges.enter(inner);
                    let nodes = nodes.enter(inner);
                    labels
                        .join_map_fenced("next", edges, |_node, label, next| (*next, *label))
                        .concat(nodes)
                        .reduce_fenced("labels", |_node, labels, least| {
                            least.push((*labels[0].0, 1));
                        })
                })
                .probe_with(&probe)
                .sink_fenced("out", LineFiles::new(&out));
        });

        for round in edges.resume()..rounds {
            for (number, (edge, change)) in (0..).zip(churn.round(round)) {
                edges.update_to(number % edges.share_count(), edge, change);
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
