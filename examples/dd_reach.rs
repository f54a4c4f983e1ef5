//! Which node reaches which, in a graph whose edges come and go, protected.
//!
//! Two rules, as in Datalog: an edge is a way, and a way and an edge are a way. Lines
//! `from<TAB>to<TAB>round<TAB>change`; summed up to a round, they say which ways there are then.
//! `dd_reach_bare` is the same job on bare differential dataflow.
//!
//! ```text
//! cargo run --release --example dd_reach -- --local 3 --fault kill:1@500ms -- --out DIR
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
    let churn = Churn::of(&job, Shape::Mixed { nodes: 60, degree: 2 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut edges = FencedSession::<u64, Edge, isize>::new("edges");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let edges = edges.to_collection(scope);
            edges
                .clone()
                .iterate(|inner, ways| {
                    let edges = edges.enter(inner);
                    ways.map(|(from, via)| (via, from))
                        .join_map_fenced("longer", edges.clone(), |_via, from, to| (*from, *to))
                        .concat(edges)
                        .distinct_fenced("ways")
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
