//! A word count that the program feeds by hand, round by round, and that survives.
//!
//! Lines `round<TAB>word<TAB>n`: in this round the word was seen for the nth time. Within a round the
//! words come in any order, and each n from 1 to the word's count still stands in one line.
//! `word_count_by_hand_bare` is the same job on bare timely.
//!
//! ```text
//! cargo run --release --example word_count_by_hand -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

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
                .unary_frontier_fenced(by_word, "counts", |_capability, state| {
                    let mut queues = state.stash("queues");
                    let mut counts = state.map("counts");
                    move |(input, frontier), output| {
                        input.for_each_stamp(|capability, batches| {
                            if let Some(capability) = capability.retain_least(output.output_index())
                            {
                                let words = batches.flat_map(|batch| batch.drain(..));
                                queues.entry(capability).or_default().extend(words);
                            }
                        });
                        for (capability, queue) in queues.iter_mut() {
                            if !frontier.less_equal(capability.time()) {
                                let mut session = output.session(capability);
                                for word in queue.drain(..) {
                                    let mut count = counts.entry(word.clone()).or_insert(0u64);
                                    *count += 1;
                                    session.give((*capability.time(), word, *count));
                                }
                            }
                        }
                        queues.retain(|_capability, queue| !queue.is_empty());
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
