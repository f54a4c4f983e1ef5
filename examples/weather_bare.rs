//! The weather of each day at each airport, on bare timely: windows that the frontier closes.
//!
//! The time of a reading is its day, and a day is told once no more readings of it can come. Lines
//! `airport<TAB>day<TAB>least<TAB>greatest<TAB>rain<TAB>mean`: the day's temperatures, its rain, and the
//! mean temperature of the last seven days, in hundredths. `weather` is the same job, protected.
//!
//! ```text
//! cargo run --release --example weather_bare -- -w 2 -- --out DIR
//! ```

mod support;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;

use support::job::Job;
use support::lines::WriteLines;
use support::random::hash;
use support::weather::{Day, Reading, Year};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

/// Over how many days the mean is.
const WEEK: u32 = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let (year, out, pace) = (Year::of(&job), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let mut input = InputHandle::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u32, _, _>(|scope| {
            let by_airport = Exchange::new(|reading: &Reading| hash(&reading.airport));
            input
                .to_stream(scope)
                .unary_frontier(by_airport, "days", |_capability, _info| {
                    let mut days = HashMap::<u32, BTreeMap<String, Day>>::new();
                    let mut means = BTreeMap::<(String, u32), i64>::new();
                    let mut pending = BTreeMap::new();
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
                                pending.entry(today).or_insert(capability);
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
                .write_lines(&out);
        });

        for day in 0..year.days() {
            for reading in year.day(day).skip(worker.index()).step_by(worker.peers()) {
                input.send(reading);
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
