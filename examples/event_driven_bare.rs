//! Events that come in any order, on bare timely: each is given at its own time.
//!
//! An event may come up to eight rounds before its time; the input says when no more can come for a
//! time. Lines `time<TAB>key<TAB>events<TAB>sum`, one for each key at each time. `event_driven` is the
//! same job, protected.
//!
//! ```text
//! cargo run --release --example event_driven_bare -- -w 2 -- --out DIR
//! ```

mod support;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;

use support::job::Job;
use support::lines::WriteLines;
use support::random::random;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::vec::UnorderedInput;
use timely::dataflow::operators::{Operator, Probe};

/// How many events come in a round.
const EVENTS_PER_ROUND: u64 = 200;

/// How many rounds an event may come before its time, at most.
const EARLY: u64 = 8;

/// How many keys there are.
const KEYS: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let (rounds, seed, out, pace) = (job.rounds(), job.seed(), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let probe = ProbeHandle::new();

        let (mut input, mut capability) = worker.dataflow::<u64, _, _>(|scope| {
            let (input, events) = scope.new_unordered_input();
            let by_key = Exchange::new(|(key, _value): &(u64, u64)| *key);
            events
                .unary_frontier(by_key, "sums", |_capability, _info| {
                    let mut sums = HashMap::new();
                    let mut pending = BTreeMap::new();
                    move |(input, frontier), output| {
                        input.for_each_stamp(|capability, batches| {
                            let Some(&time) = capability.least() else { return };
                            for (key, value) in batches.flat_map(|batch| batch.drain(..)) {
                                let sum = sums.entry((time, key)).or_insert((0u64, 0u64));
                                sum.0 += 1;
                                sum.1 += value;
                                let held = capability.delayed(&time, output.output_index());
                                pending.entry(time).or_insert(held);
                            }
                        });
                        while let Some(time) = pending.keys().next().copied() {
                            if frontier.less_equal(&time) {
                                break;
                            }
                            if let Some(capability) = pending.remove(&time) {
                                let mut session = output.session(&capability);
                                for key in 0..KEYS {
                                    if let Some((events, sum)) = sums.remove(&(time, key)) {
                                        session.give((time, key, events, sum));
                                    }
                                }
                            }
                        }
                    }
                })
                .container::<Vec<_>>()
                .probe_with(&probe)
                .write_lines(&out);
            input
        });

        for round in 0..rounds {
            for (time, event) in events(round, seed).skip(worker.index()).step_by(worker.peers()) {
                input.activate().session(&capability.delayed(&time)).give(event);
            }
            capability = capability.delayed(&(round + 1));
            while probe.less_than(&(round + 1)) {
                worker.step();
            }
            std::thread::sleep(pace);
        }
    })?;
    job.report();
    Ok(())
}

/// The events of a round: when each is, its key and its value.
fn events(round: u64, seed: u64) -> impl Iterator<Item = (u64, (u64, u64))> {
    (round * EVENTS_PER_ROUND..(round + 1) * EVENTS_PER_ROUND).map(move |place| {
        let number = random(seed, place);
        (round + number % EARLY, ((number >> 8) % KEYS, (number >> 16) % 1000))
    })
}
