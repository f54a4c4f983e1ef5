//! Events that come in any order, protected: each says when it is.
//!
//! An event may come up to eight rounds before its time; the input says when no more can come for a
//! time. Lines `time<TAB>key<TAB>events<TAB>sum`, one for each key at each time. `event_driven_bare` is
//! the same job on bare timely.
//!
//! ```text
//! cargo run --release --example event_driven -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::error::Error;

use ringfence::prelude::*;
use support::job::Job;
use support::random::random;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;

/// How many events come in a round.
const EVENTS_PER_ROUND: u64 = 200;

/// How many rounds an event may come before its time, at most.
const EARLY: u64 = 8;

/// How many keys there are.
const KEYS: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let (rounds, seed, out, pace) = (job.rounds(), job.seed(), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let probe = ProbeHandle::new();

        let mut input = FencedInput::<u64, (u64, (u64, u64))>::new("events");
        worker.dataflow::<u64, _, _>(|scope| {
            let by_key = Exchange::new(|(_time, (key, _value)): &(u64, (u64, u64))| *key);
            input
                .to_stream(scope)
                .unary_frontier_fenced(by_key, "sums", |_capability, state| {
                    let mut sums = state.map("sums");
                    let mut pending = state.capabilities("pending");
                    move |(input, frontier), output| {
                        input.for_each_stamp(|capability, batches| {
                            for (time, (key, value)) in batches.flat_map(|batch| batch.drain(..)) {
                                let mut sum = sums.entry((time, key)).or_insert((0u64, 0u64));
                                sum.0 += 1;
                                sum.1 += value;
                                let held = capability.delayed(&time, output.output_index());
                                pending.insert(held);
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
                .sink_fenced("out", LineFiles::new(&out));
        });

        for round in input.resume()..rounds {
            for (number, event) in (0..).zip(events(round, seed)) {
                input.send_to(number % input.share_count(), event);
            }
            input.advance_to(round + 1);
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
