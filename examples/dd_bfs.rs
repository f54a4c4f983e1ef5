//! Levels of a breadth-first search in a graph whose edges come and go, protected.
//!
//! Lines `node<TAB>level<TAB>round<TAB>change`; summed up to a round, they say how many steps lead from the
//! root to each node then. `dd_bfs_bare` is the same job on bare differential dataflow.
//!
//! ```text
//! cargo run --release --example dd_bfs -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::error::Error;

use ringfence::prelude::*;
use support::churn::{Churn, Edge};
use support::graph::Shape;
use support::job::Job;
use timely::dataflow::ProbeHandle;

/// Where the search begins.
const ROOT: u32 = 0;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let churn = Churn::of(&job, Shape::Long { nodes: 1000, degree: 4 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut edges = FencedSession::<u64, Edge, isize>::new("edges");
        let mut roots = FencedSession::<u64, u32, isize>::new("roots");
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
                        .join_map_fenced("next", edges, |_node, level, next| (*next, level + 1))
                        .concat(roots)
                        .reduce_fenced("levels", |_node, levels, least| {
                            least.push((*levels[0].0, 1));
                        })
                })
                .probe_with(&probe)
                .sink_fenced("out", LineFiles::new(&out));
        });

        for round in edges.resume().min(roots.resume())..rounds {
            for (number, (edge, change)) in (0..).zip(churn.round(round)) {
                edges.update_to(number % edges.share_count(), edge, change);
            }
            if round == 0 {
                roots.insert_to(0, ROOT);
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
