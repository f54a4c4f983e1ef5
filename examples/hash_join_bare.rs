//! A join of two inputs that are fed by hand, on bare timely.
//!
//! Lines `key<TAB>left<TAB>right`, one for each pair with the same key. `hash_join` is the same job,
//! protected.
//!
//! ```text
//! cargo run --release --example hash_join_bare -- -w 2 -- --out DIR
//! ```

mod support;

use std::collections::HashMap;
use std::error::Error;

use support::graph::{Graph, Shape};
use support::job::Job;
use support::lines::WriteLines;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    // A record is a key and a value, which are an edge's ends.
    let edges = Graph::of(&job, Shape::Mixed { nodes: 4000, degree: 10 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut left = InputHandle::new();
        let mut right = InputHandle::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let by_key = || Exchange::new(|(key, _value): &(u32, u32)| u64::from(*key));
            let (lefts, rights) = (left.to_stream(scope), right.to_stream(scope));
            lefts
                .binary(rights, by_key(), by_key(), "join", |_capability, _info| {
                    let mut lefts = HashMap::<u32, Vec<u32>>::new();
                    let mut rights = HashMap::<u32, Vec<u32>>::new();
                    move |input1, input2, output| {
                        input1.for_each_stamp(|capability, batches| {
                            let mut session = output.session(&capability);
                            for (key, left) in batches.flat_map(|batch| batch.drain(..)) {
                                if let Some(values) = rights.get(&key) {
                                    for right in values.iter() {
                                        session.give((key, left, *right));
                                    }
                                }
                                lefts.entry(key).or_default().push(left);
                            }
                        });
                        input2.for_each_stamp(|capability, batches| {
                            let mut session = output.session(&capability);
                            for (key, right) in batches.flat_map(|batch| batch.drain(..)) {
                                if let Some(values) = lefts.get(&key) {
                                    for left in values.iter() {
                                        session.give((key, *left, right));
                                    }
                                }
                                rights.entry(key).or_default().push(right);
                            }
                        });
                    }
                })
                .container::<Vec<_>>()
                .probe_with(&probe)
                .write_lines(&out);
        });

        for round in 0..rounds {
            let pairs = edges.pairs(round, rounds).skip(worker.index()).step_by(worker.peers());
            for [first, second] in pairs {
                left.send(first);
                right.send(second);
            }
            left.advance_to(round + 1);
            right.advance_to(round + 1);
            while probe.less_than(left.time()) {
                worker.step();
            }
            std::thread::sleep(pace);
        }
    })?;
    job.report();
    Ok(())
}
