//! How many nodes have how many edges, in a graph whose edges come and go, protected.
//!
//! Lines `degree<TAB>nodes<TAB>round<TAB>change`; summed up to a round, they say how many nodes have that
//! many edges then. `dd_degrees_bare` is the same job on bare differential dataflow.
//!
//! ```text
//! cargo run --release --example dd_degrees -- --local 3 --fault kill:1@500ms -- --out DIR
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
    let churn = Churn::undirected(&job, Shape::Mixed { nodes: 4000, degree: 5 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut edges = FencedSession::<u64, Edge, isize>::new("edges");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            edges
                .to_collection(scope)
                .flat_map(|(from, to)| [from, to])
                .count_fenced("degrees")
                .map(|(_node, degree)| degree)
                .count_fenced("nodes")
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
