//! The distinct words of each round, on bare timely.
//!
//! Lines `round<TAB>word`, one for each word of the round. `distinct` is the same job, protected.
//!
//! ```text
//! cargo run --release --example distinct_bare -- -w 2 -- --out DIR
//! ```

mod support;

use std::collections::HashMap;
use std::error::Error;

use support::job::Job;
use support::lines::WriteLines;
use support::random::hash;
use support::text::Text;
use support::words;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let (text, out, pace) = (Text::of(&job), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut input = InputHandle::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let by_word = Exchange::new(|word: &String| hash(word));
            input
                .to_stream(scope)
                .flat_map(|line: String| words(&line).collect::<Vec<_>>())
                .unary_frontier(by_word, "distinct", |_capability, _info| {
                    let mut counts_by_time = HashMap::new();
                    move |(input, frontier), output| {
                        input.for_each_stamp(|capability, batches| {
                            if let Some(&time) = capability.least() {
                                let counts =
                                    counts_by_time.entry(time).or_insert_with(HashMap::new);
                                let mut session = output.session(&capability);
                                for word in batches.flat_map(|batch| batch.drain(..)) {
                                    let count = counts.entry(word.clone()).or_insert(0u64);
                                    if *count == 0 {
                                        session.give((time, word));
                                    }
                                    *count += 1;
                                }
                            }
                        });
                        // No word of a complete round comes any more.
                        counts_by_time.retain(|time, _counts| frontier.less_equal(time));
                    }
                })
                .container::<Vec<_>>()
                .probe_with(&probe)
                .write_lines(&out);
        });

        for round in 0..text.rounds() {
            for line in text.round(round).skip(worker.index()).step_by(worker.peers()) {
                input.send(line);
            }
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
            std::thread::sleep(pace);
        }
    })?;
    job.report();
    Ok(())
}
