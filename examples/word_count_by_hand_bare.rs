//! A word count that the program feeds by hand, round by round, on bare timely.
//!
//! Lines `round<TAB>word<TAB>n`: in this round the word was seen for the nth time. Within a round the
//! words come in any order, and each n from 1 to the word's count still stands in one line.
//! `word_count_by_hand` is the same job, protected.
//!
//! ```text
//! cargo run --release --example word_count_by_hand_bare -- -w 2 -- --out DIR
//! ```

#![allow(clippy::mutable_key_type, reason = "a capability is hashed by its time, which stays")]

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
                .unary_frontier(by_word, "counts", |_capability, _info| {
                    let mut queues = HashMap::<_, Vec<String>>::new();
                    let mut counts = HashMap::new();
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
                                    let count = counts.entry(word.clone()).or_insert(0u64);
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
