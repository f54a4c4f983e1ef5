//! Triangles in a graph whose edges come and go, by a join of three, protected.
//!
//! Lines `node<TAB>triangles<TAB>round<TAB>change`; summed up to a round, they say of how many triangles
//! each node is the least corner then. `dd_triangles_bare` is the same job on bare differential dataflow.
//!
//! ```text
//! cargo run --release --example dd_triangles -- --local 3 --fault kill:1@500ms -- --out DIR
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
    let churn = Churn::undirected(&job, Shape::Mixed { nodes: 300, degree: 10 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut edges = FencedSession::<u64, Edge, isize>::new("edges");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let edges = edges.to_collection(scope).fenced("edges so far");
            let forks = edges.clone().join(edges.clone()).filter(|(_, (left, right))| left < right);
            forks
                .map(|(corner, ends)| (ends, corner))
                .semijoin(edges)
                .map(|(_ends, corner)| corner)
                .count()
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
