//! Which node reaches which, in a graph whose edges come and go, on bare differential dataflow.
//!
//! Two rules, as in Datalog: an edge is a way, and a way and an edge are a way. Lines
//! `from<TAB>to<TAB>round<TAB>change`; summed up to a round, they say which ways there are then. `dd_reach`
//! is the same job, protected.
//!
//! ```text
//! cargo run --release --example dd_reach_bare -- -w 2 -- --out DIR
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
    let churn = Churn::of(&job, Shape::Mixed { nodes: 60, degree: 2 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut edges = InputSession::<u64, Edge, isize>::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let edges = edges.to_collection(scope);
            edges
                .clone()
                .iterate(|inner, ways| {
                    let edges = edges.enter(inner);
                    ways.map(|(from, via)| (via, from))
                        .join_map(edges.clone(), |_via, from, to| (*from, *to))
                        .concat(edges)
                        .distinct()
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
