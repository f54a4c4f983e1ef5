//! A join of two inputs that are fed by hand, protected.
//!
//! Lines `key<TAB>left<TAB>right`, one for each pair with the same key. `hash_join_bare` is the same
//! job on bare timely.
//!
//! ```text
//! cargo run --release --example hash_join -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::error::Error;

use ringfence::prelude::*;
use support::graph::{Graph, Shape};
use support::job::Job;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    // A record is a key and a value, which are an edge's ends.
    let edges = Graph::of(&job, Shape::Mixed { nodes: 4000, degree: 10 });
    let (rounds, out, pace) = (job.rounds(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut left = FencedInput::<u64, (u32, u32)>::new("left");
        let mut right = FencedInput::<u64, (u32, u32)>::new("right");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let by_key = || Exchange::new(|(key, _value): &(u32, u32)| u64::from(*key));
            let (lefts, rights) = (left.to_stream(scope), right.to_stream(scope));
            lefts
                .binary_fenced(rights, by_key(), by_key(), "join", |_capability, state| {
                    let mut lefts = state.map::<u32, Vec<u32>>("lefts");
                    let mut rights = state.map::<u32, Vec<u32>>("rights");
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
                .sink_fenced("out", LineFiles::new(&out));
        });

        for round in resume_in_step([&mut left, &mut right])..rounds {
            let pairs = (0..).zip(edges.pairs(round, rounds));
            for (number, [first, second]) in pairs {
                left.send_to(number % left.share_count(), first);
                right.send_to(number % right.share_count(), second);
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
