//! State that is stored as it lies in memory: running figures of sensors, protected.
//!
//! The state of each sensor is plain data, so it needs no serialization: the codec `Abomonation` copies its bytes.
//! Read the documents of `ringfence::operators::codec::abomonation` before you use it: its crate is unsound by its
//! own account, and what it has written is for the same executable only. All other state, records and keys
//! are encoded as everywhere.
//!
//! Lines `sensor<TAB>n`: this was the n-th reading of the sensor. Each sensor has each n from 1 to its count
//! once, whatever failed on the way, which is checked at the end.
//!
//! ```text
//! cargo run --release --example abomonation
//! ```

mod support;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use ringfence::operators::codec::abomonation::Abomonation;
use ringfence::prelude::*;
use support::job::{Job, sorted_lines};
use support::say;
use timely::dataflow::channels::pact::Exchange;

const SENSORS: u64 = 1_000;
const READINGS: u64 = 200_000;

/// A pause at every five hundredth reading of a share, so that there is time for something to fail.
const PACE: Duration = Duration::from_millis(10);

/// How many readings there were, the least and the greatest.
type Figures = (u64, u64, u64);

/// The sensor and the value of reading `n`.
fn reading(n: u64) -> (u64, u64) {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 20) % SENSORS, mixed >> 44)
}

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let (out, pace) = (job.out(), job.pace().max(PACE));
    let outcome = ringfence::execute(job.config(), move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(move |share| {
                let readings = (share.index..READINGS).step_by(share.count as usize);
                readings.enumerate().map(move |(count, n)| {
                    if count % 500 == 0 {
                        std::thread::sleep(pace);
                    }
                    reading(n)
                })
            })
            .to_stream_fenced(scope, "readings")
            .unary_fenced(
                Exchange::new(|(sensor, _): &(u64, u64)| *sensor),
                "figures",
                |_, state| {
                    let mut figures = state.map_with::<u64, Figures, Abomonation>("figures");
                    move |input, output| {
                        input.for_each(|capability, readings| {
                            let mut session = output.session(&capability);
                            for (sensor, value) in readings.drain(..) {
                                let (count, least, greatest) =
                                    figures.get(&sensor).map_or((0, value, value), |held| *held);
                                let new = (count + 1, least.min(value), greatest.max(value));
                                figures.insert(sensor, new);
                                session.give((sensor, new.0));
                            }
                        });
                    }
                },
            )
            .sink_fenced("out", LineFiles::new(&out));
        });
    })?;
    // Only the process that started all sees the whole output.
    if outcome.summary.is_some() {
        check(&sorted_lines(&job.out())?)?;
        job.report();
    }
    Ok(())
}

/// Compares the lines with a plain computation.
fn check(lines: &[String]) -> Result<(), String> {
    let mut counts = BTreeMap::<u64, u64>::new();
    let mut expected = Vec::new();
    for n in 0..READINGS {
        let count = counts.entry(reading(n).0).or_default();
        *count += 1;
        expected.push(format!("{}\t{count}", reading(n).0));
    }
    expected.sort_unstable();
    if lines != expected {
        return Err(format!(
            "there are {} lines, and not the {} expected",
            lines.len(),
            expected.len()
        ));
    }
    say(format_args!("verified: exactly once ({} lines)", lines.len()));
    Ok(())
}
