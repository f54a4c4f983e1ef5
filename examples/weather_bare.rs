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

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::error::Error;

use support::job::Job;
use support::lines::WriteLines;
use support::random::hash;
use support::weather::{DAYS, Day, Reading, Year};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

/// Over how many days the mean is.
const WEEK: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let job = Job::from_args();
    let (year, out, pace) = (Year::of(&job), job.out(), job.pace());
    timely::execute_from_args(job.args(), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let mut input = InputHandle::new();
        let probe = ProbeHandle::new();

        worker.dataflow::<u32, _, _>(|scope| {
            let by_airport = Exchange::new(|reading: &Reading| hash(&reading.airport));
            input
                .to_stream(scope)
                .unary_frontier(by_airport, "days", |_capability, _info| {
                    let mut pending = BTreeMap::new();
                    let mut days = BTreeMap::<(u32, String), Day>::new();
                    let mut means = HashMap::<String, VecDeque<i64>>::new();
                    move |(input, frontier), output| {
                        input.for_each_stamp(|capability, batches| {
                            if let Some(capability) = capability.retain_least(output.output_index())
                            {
                                let today = *capability.time();
                                for reading in batches.flat_map(|batch| batch.drain(..)) {
                                    let place = (today, reading.airport.clone());
                                    days.entry(place).or_default().add(&reading);
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
                            while let Some(place) = days.keys().next().cloned() {
                                if place.0 > today {
                                    break;
                                }
                                let day = days.remove(&place).unwrap_or_default();
                                let airport = place.1;
                                let last = means.entry(airport.clone()).or_default();
                                last.push_front(day.mean());
                                last.truncate(WEEK);
                                let week = last.iter().sum::<i64>() / last.len() as i64;
                                let (least, greatest) = (day.least, day.greatest);
                                session.give((airport, today, least, greatest, day.rain, week));
                            }
                        }
                    }
                })
                .container::<Vec<_>>()
                .probe_with(&probe)
                .write_lines(&out);
        });

        for day in 0..DAYS {
            for reading in year.day(day).skip(index).step_by(peers) {
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
