//! The distinct words of each round, protected.
//!
//! Lines `round<TAB>word`, one for each word of the round. `distinct_bare` is the same job on bare
//! timely.
//!
//! ```text
//! cargo run --release --example distinct -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::collections::HashMap;
use std::error::Error;

use ringfence::prelude::*;
use support::job::Job;
use support::random::hash;
use support::text::Text;
use support::words;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let (text, out, pace) = (Text::of(&job), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut input = FencedInput::<u64, String>::new("lines");
        let probe = ProbeHandle::new();

        worker.dataflow::<u64, _, _>(|scope| {
            let by_word = Exchange::new(|word: &String| hash(word));
            input
                .to_stream(scope)
                .flat_map(|line: String| words(&line).collect::<Vec<_>>())
                .unary_frontier_fenced(by_word, "distinct", |_capability, state| {
                    let mut counts_by_time = state.map("counts");
                    move |(input, frontier), output| {
                        input.for_each_stamp(|capability, batches| {
                            if let Some(&time) = capability.least() {
                                let mut counts =
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
                .sink_fenced("out", LineFiles::new(&out));
        });

        for round in input.resume()..text.rounds() {
            for (number, line) in (0..).zip(text.round(round)) {
                input.send_to(number % input.share_count(), line);
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
