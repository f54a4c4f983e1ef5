//! Workers are in the job's own code for seconds, and a node is killed meanwhile. What must still be true:
//! the output is exact, nobody is lost but who was killed, and the others do not wait for a busy worker whose
//! state somebody else has.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::own::{self, Job, Test, long_test, test};
use crate::support::{Ran, events, left_behind, of_kind};
use ringfence::prelude::*;
use ringfence::{Config, Error};
use serde_json::Value;
use timely::worker::Worker;

/// How many numbers a job reads, and of how many keys they are.
const NUMBERS: u64 = 60_000;
const KEYS: u64 = 50;

/// A number that the environment sets.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn pause() -> Duration {
    Duration::from_millis(setting("PAUSE_MS", 2_500))
}

/// True once in all processes and generations, for each name.
fn is_first(place: &Path, name: &str) -> bool {
    std::fs::OpenOptions::new().write(true).create_new(true).open(place.join(name)).is_ok()
}

/// The numbers of a share, a few each millisecond.
fn numbers(share: Share) -> impl Iterator<Item = u64> {
    (0..NUMBERS).filter(move |n| n % share.count == share.index).inspect(|n| {
        if n % 20 == 0 {
            sleep(Duration::from_millis(2));
        }
    })
}

fn count(count: &mut u64, n: u64, out: &mut Give<'_, (u64, u64)>) {
    *count += 1;
    out.give((n, *count));
}

/// A dataflow whose closure takes long in each generation.
fn slow_to_build(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        // In the first view all nodes wait for each other anyway.
        if place.join("built").exists() {
            sleep(pause());
        }
        build_counts(worker, &place);
        let _ = is_first(&place, "built");
    })
    .map(drop)
}

fn build_counts(worker: &mut Worker, place: &Path) {
    worker.dataflow::<u64, _, _>(|scope| {
        per_share(numbers)
            .to_stream_fenced(scope, "numbers")
            .fold_fenced("counts", |n| n % KEYS, 0u64, count)
            .sink_fenced("totals", LineFiles::new(place.join("totals")));
    });
}

/// An operator, not protected, that sleeps now and then: at one worker after the other.
fn slow_operator(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        let place = place.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            let (totals, here) = (place.join("totals"), place.clone());
            per_share(numbers)
                .to_stream_fenced(scope, "numbers")
                .map(move |n| {
                    if (9_000..21_000).contains(&n)
                        && n % 3_000 == 1
                        && is_first(&here, &format!("slept-{n}"))
                    {
                        sleep(pause());
                    }
                    n
                })
                .fold_fenced("counts", |n| n % KEYS, 0u64, count)
                .sink_fenced("totals", LineFiles::new(totals));
        });
    })
    .map(drop)
}

/// A source that takes long for one batch.
fn slow_source(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        let (totals, here) = (place.join("totals"), place.clone());
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(move |share| {
                let here = here.clone();
                numbers(share).inspect(move |n| {
                    if (9_000..9_003).contains(n) && is_first(&here, &format!("slept-{n}")) {
                        sleep(pause());
                    }
                })
            })
            .to_stream_fenced(scope, "numbers")
            .fold_fenced("counts", |n| n % KEYS, 0u64, count)
            .sink_fenced("totals", LineFiles::new(totals));
        });
    })
    .map(drop)
}

/// A program that feeds its input by hand and sleeps between two rounds, longer than anybody waits.
fn sleeps_between_rounds(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        let mut input = FencedInput::<u64, u64>::new("numbers");
        let probe = worker.dataflow::<u64, _, _>(|scope| {
            let counts = input.to_stream(scope).fold_fenced("counts", |n| n % KEYS, 0u64, count);
            counts.clone().sink_fenced("totals", LineFiles::new(place.join("totals")));
            counts.probe().0
        });
        for round in input.resume()..ROUNDS {
            for share in input.shares() {
                for n in (0..NUMBERS / ROUNDS).filter(|n| n % share.count == share.index) {
                    input.send_to(share.index, round * (NUMBERS / ROUNDS) + n);
                }
            }
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
            sleep(pause());
        }
    })
    .map(drop)
}

const ROUNDS: u64 = 3;

/// Sleeps as a random schedule says: in an operator, in the source, between steps, while building.
fn random_sleeper(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    let seed = setting("SEED", 1);
    ringfence::execute(config, move |worker| {
        let chance = move |what: &str, n: u64| {
            let text = format!("{seed} {what} {n}");
            let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            sum ^ (sum >> 29)
        };
        let doze = move |place: &Path, what: &'static str, n: u64, one_in: u64| {
            let drawn = chance(what, n);
            if drawn % one_in == 0 && is_first(place, &format!("{what}-{n}")) {
                sleep(Duration::from_millis(drawn / one_in % (4 * pause().as_millis() as u64)));
            }
        };
        doze(&place, "build", worker.index() as u64, 4);
        let (reading, folding, totals) = (place.clone(), place.clone(), place.join("totals"));
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(move |share| {
                let reading = reading.clone();
                numbers(share).inspect(move |n| doze(&reading, "read", *n, NUMBERS / 2))
            })
            .to_stream_fenced(scope, "numbers")
            .map(move |n| {
                doze(&folding, "map", n, NUMBERS / 2);
                n
            })
            .fold_fenced("counts", |n| n % KEYS, 0u64, count)
            .sink_fenced("totals", LineFiles::new(totals));
        });
        let begun = Instant::now();
        let mut steps = 0;
        while worker.step_or_park(Some(Duration::from_millis(10))) {
            steps += 1;
            if begun.elapsed() < Duration::from_secs(5) {
                doze(&place, "step", steps, 500);
            }
        }
    })
    .map(drop)
}

/// Asserts that each number came out once, and each key's counts are without a gap.
#[track_caller]
fn assert_exact(place: &Path, ran: &Ran) {
    let mut numbers = Vec::new();
    let mut counts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for entry in std::fs::read_dir(place.join("totals")).expect("there is output") {
        let path = entry.expect("a file of the output").path();
        let text = std::fs::read_to_string(&path).expect("output can be read");
        for line in text.lines() {
            let row =
                line.split_once('\t').and_then(|(n, c)| Some((n.parse().ok()?, c.parse().ok()?)));
            let (n, count): (u64, u64) = row.unwrap_or_else(|| panic!("line {line:?}\n{ran}"));
            numbers.push(n);
            counts.entry(n % KEYS).or_default().push(count);
        }
    }
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..NUMBERS), "{} numbers came out\n{ran}", numbers.len());
    for (key, mut counts) in counts {
        counts.sort_unstable();
        assert!(counts.iter().copied().eq(1..=NUMBERS / KEYS), "key {key}: {counts:?}\n{ran}");
    }
}

/// Runs a job of three nodes, of which the given ones are killed, and asserts what must be true.
#[track_caller]
fn survives(job: &str, flags: &str, killed: &[u64], pause_ms: u64, seed: u64) -> Vec<Value> {
    let place = tempfile::tempdir().expect("a temporary directory");
    let running = own::start_with(job, place.path(), flags, |command| {
        command.env("PAUSE_MS", pause_ms.to_string()).env("SEED", seed.to_string());
    });
    let ran = running.wait();
    ran.assert_success();
    assert_exact(place.path(), &ran);
    let events = events(&place.path().join("report.json"));
    assert_eq!(left_behind(&events), [0u64; 0], "somebody was left behind\n{ran}");
    let errors: Vec<&Value> = of_kind(&events, "error").collect();
    assert!(errors.is_empty(), "{errors:?}\n{ran}");
    let faults = of_kind(&events, "fault").count();
    assert_eq!(faults, killed.len(), "faults that happened\n{ran}");
    // Until it came back.
    let is_out = |view: &Value, node: u64| {
        view["members"].as_array().is_some_and(|members| !members.contains(&node.into()))
    };
    for &node in killed {
        assert!(of_kind(&events, "view").any(|view| is_out(view, node)), "{ran}");
    }
    events
}

fn a_node_dies_while_the_others_sleep_in_an_operator() {
    survives("slow_operator", "--local 3 --fault kill:1@300ms", &[1], 2_500, 0);
}

fn a_node_dies_while_the_others_build() {
    let flags = "--local 3 --backups 2 --fault kill:1@200ms --fault kill:2@500ms";
    survives("slow_to_build", flags, &[1, 2], 2_500, 0);
}

fn a_node_dies_while_the_others_wait_for_their_source() {
    survives("slow_source", "--local 3 --fault kill:1@300ms", &[1], 2_500, 0);
}

fn a_node_dies_while_the_program_sleeps_between_steps() {
    survives("sleeps_between_rounds", "--local 3 --fault kill:1@1s", &[1], 2_500, 0);
}

/// With two backups nobody needs what a busy worker holds.
fn nobody_waits_for_a_worker_whose_state_others_have() {
    let flags = "--local 3 --backups 2 --fault kill:1@1s";
    let events = survives("sleeps_between_rounds", flags, &[1], 5_000, 0);
    let at = |event: &Value| event["at_ms"].as_f64().expect("every event has a time");
    let fault = of_kind(&events, "fault").next().expect("a fault");
    let second = of_kind(&events, "view").find(|view| view["number"] == 2).expect("a view 2");
    let took_ms = at(second) - at(fault);
    assert!(took_ms < 3_500.0, "the view was agreed after {took_ms} ms");
}

fn sleeps_that_outlast_every_other_limit() {
    survives("sleeps_between_rounds", "--local 3 --fault kill:1@1s", &[1], 12_000, 0);
    survives("slow_to_build", "--local 3 --fault kill:1@200ms", &[1], 9_000, 0);
    survives("slow_source", "--local 3 --fault kill:1@300ms", &[1], 6_000, 0);
    survives("slow_operator", "--local 3 --fault kill:0@300ms", &[0], 8_000, 0);
}

fn random_schedules_of_sleepers_are_exact() {
    let runs = setting("RUNS", 100);
    for seed in setting("FIRST", 0)..setting("FIRST", 0) + runs {
        let (node, at_ms) = (seed % 3, 50 + seed * 37 % 700);
        let backups = 1 + seed % 2;
        let flags = format!("--local 3 --backups {backups} --fault kill:{node}@{at_ms}ms");
        let begun = Instant::now();
        survives("random_sleeper", &flags, &[node], 2_500, seed);
        println!("seed {seed}: {flags}: exact after {:.1} s", begun.elapsed().as_secs_f64());
    }
}

pub(crate) const JOBS: &[(&str, Job)] = &[
    ("slow_to_build", slow_to_build),
    ("slow_operator", slow_operator),
    ("slow_source", slow_source),
    ("sleeps_between_rounds", sleeps_between_rounds),
    ("random_sleeper", random_sleeper),
];

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test(
            "a_node_dies_while_the_others_sleep_in_an_operator",
            a_node_dies_while_the_others_sleep_in_an_operator,
        ),
        test("a_node_dies_while_the_others_build", a_node_dies_while_the_others_build),
        test(
            "a_node_dies_while_the_others_wait_for_their_source",
            a_node_dies_while_the_others_wait_for_their_source,
        ),
        test(
            "a_node_dies_while_the_program_sleeps_between_steps",
            a_node_dies_while_the_program_sleeps_between_steps,
        ),
        test(
            "nobody_waits_for_a_worker_whose_state_others_have",
            nobody_waits_for_a_worker_whose_state_others_have,
        ),
        long_test("sleeps_that_outlast_every_other_limit", sleeps_that_outlast_every_other_limit),
        long_test("random_schedules_of_sleepers_are_exact", random_schedules_of_sleepers_are_exact),
    ]
}
