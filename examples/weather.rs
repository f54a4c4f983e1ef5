//! The weather of each day at each airport, protected: windows that the frontier closes.
//!
//! The time of a reading is its day, and a day is told once no more readings of it can come. Lines
//! `airport<TAB>day<TAB>least<TAB>greatest<TAB>rain<TAB>mean`: the day's temperatures, its rain, and the
//! mean temperature of the last seven days, in hundredths. `weather_bare` is the same job on
//! bare timely.
//!
//! ```text
//! cargo run --release --example weather -- --local 3 --fault kill:1@500ms -- --out DIR
//! ```

mod support;

use std::collections::BTreeMap;
use std::error::Error;

use ringfence::prelude::*;
use support::job::Job;
use support::random::hash;
use support::weather::{Day, Reading, Year};
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;

/// Over how many days the mean is.
const WEEK: u32 = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let (year, out, pace) = (Year::of(&job), job.out(), job.pace());
    ringfence::execute(job.config(), move |worker| {
        let mut input = FencedInput::<u32, Reading>::new("readings");
        let probe = ProbeHandle::new();

        worker.dataflow::<u32, _, _>(|scope| {
            let by_airport = Exchange::new(|reading: &Reading| hash(&reading.airport));
            input
                .to_stream(scope)
                .unary_frontier_fenced(by_airport, "days", |_capability, state| {
                    let mut days = state.map::<u32, BTreeMap<String, Day>>("days");
                    let mut means = state.ordered_map::<(String, u32), i64>("means");
                    let mut pending = state.capabilities("pending");
                    move |(input, frontier), output| {
                        input.for_each_stamp(|capability, batches| {
                            if let Some(capability) = capability.retain_least(output.output_index())
                            {
                                let today = *capability.time();
                                for reading in batches.flat_map(|batch| batch.drain(..)) {
                                    let airport = reading.airport.clone();
                                    days.entry(today)
                                        .or_default()
                                        .entry(airport)
                                        .or_default()
                                        .add(&reading);
                                }
                                pending.insert(capability);
                            }
                        });
                        while let Some(today) = pending.keys().next().copied() {
                            if frontier.less_equal(&today) {
                                break;
                            }
                            let Some(capability) = pending.remove(&today) else { break };
                            let mut session = output.session(&capability);
                            for (airport, day) in days.remove(&today).unwrap_or_default() {
                                let at = |day: u32| (airport.clone(), day);
                                means.insert(at(today), day.mean());
                                let week = at(today.saturating_sub(WEEK - 1))..=at(today);
                                let (sum, count) =
                                    means.range(week).fold((0, 0), |(sum, count), (_, mean)| {
                                        (sum + mean, count + 1)
                                    });
                                if today >= WEEK {
                                    means.remove(&at(today - WEEK));
                                }
                                let week: i64 = sum / count;
                                session.give((
                                    airport,
                                    today,
                                    day.least,
                                    day.greatest,
                                    day.rain,
                                    week,
                                ));
                            }
                        }
                    }
                })
                .container::<Vec<_>>()
                .probe_with(&probe)
                .sink_fenced("out", LineFiles::new(&out));
        });

        for day in input.resume()..year.days() {
            for (number, reading) in (0..).zip(year.day(day)) {
                input.send_to(number % input.share_count(), reading);
            }
            input.advance_to(day + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
            std::thread::sleep(pace);
        }
    })?;
    job.report();
    Ok(())
}
