//! How many nodes have how many edges, in a graph whose edges come and go, on bare differential dataflow.
//!
//! Lines `degree<TAB>nodes<TAB>round<TAB>change`; summed up to a round, they say how many nodes have that many
//! edges then. `dd_degrees` is the same job, protected.
//!
//! ```text
//! cargo run --release --example dd_degrees_bare -- -w 2 -- --out DIR
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
    let churn = Churn::undirected(&job, Shape::Mixed { nodes: 4000, degree: 5 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut edges = InputSession::<u64, Edge, isize>::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            edges
                .to_collection(scope)
                .flat_map(|(from, to)| [from, to])
                .count()
                .map(|(_node, degree)| degree)
                .count()
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
