//! Levels of a breadth-first search in a graph whose edges come and go, on bare differential dataflow.
//!
//! Lines `node<TAB>level<TAB>round<TAB>change`; summed up to a round, they say how many steps lead from the
//! root to each node then. `dd_bfs` is the same job, protected.
//!
//! ```text
//! cargo run --release --example dd_bfs_bare -- -w 2 -- --out DIR
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

/// Where the search begins.
const ROOT: u32 = 0;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let churn = Churn::of(&job, Shape::Long { nodes: 1000, degree: 4 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut edges = InputSession::<u64, Edge, isize>::new();
        let mut roots = InputSession::<u64, u32, isize>::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let edges = edges.to_collection(scope);
            let roots = roots.to_collection(scope).map(|root| (root, 0u32));
            roots
                .clone()
                .iterate(|inner, levels| {
                    let edges = edges.enter(inner);
                    let roots = roots.enter(inner);
                    levels
                        .join_map(edges, |_node, level, next| (*next, level + 1))
                        .concat(roots)
                        .reduce(|_node, levels, least| {
                            least.push((*levels[0].0, 1));
                        })
                })
                .probe_with(&probe)
                .write_lines(&out);
        });

        for round in 0..rounds {
            for (edge, change) in churn.round(round).skip(worker.index()).step_by(worker.peers()) {
                edges.update(edge, change);
            }
            if round == 0 && worker.index() == 0 {
                roots.insert(ROOT);
            }
            roots.advance_to(round + 1);
            roots.flush();
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
