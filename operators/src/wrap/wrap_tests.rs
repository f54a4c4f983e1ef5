//! What wrapped operators promise, each claim against the same job on bare timely or on a plain iterator.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::vec::Map as _;

use crate::prelude::*;
use crate::testing::Interruption::{Panic, Stop};
use crate::testing::{self, Interruption};

/// Interruptions at moments that depend on `seed`.
fn interruptions(seed: u64) -> Vec<(Duration, Interruption)> {
    let random = |n: u64| crate::hash::KeyHasher::Rapid.hash(&(seed * 100 + n).to_le_bytes());
    let one = |n| {
        let what = if random(n + 50).is_multiple_of(3) { Panic } else { Stop };
        (Duration::from_micros(random(n) % 25_000), what)
    };
    (0..6).map(one).collect()
}

/// A share's part of the numbers below `end`, slow enough to be interrupted.
fn slowly(share: crate::source::Share, end: u64) -> impl Iterator<Item = u64> {
    (share.index..end).step_by(share.count as usize).inspect(|n| {
        if (n / 3).is_multiple_of(64) {
            std::thread::sleep(Duration::from_micros(200));
        }
    })
}

fn sorted<D: Ord>(mut rows: Vec<D>) -> Vec<D> {
    rows.sort();
    rows
}

const NUMBERS: u64 = 30_000;

#[test]
fn a_map_is_what_it_would_be_without_failures() {
    let mut expected = Vec::new();
    let mut sums = BTreeMap::<u64, (u64, u64)>::new();
    for n in 0..NUMBERS {
        let (count, sum) = sums.entry(n % 997).or_default();
        *count += 1;
        *sum += n;
        if *count % 10 == 0 {
            expected.push((n % 997, *count));
        }
    }
    for seed in 0..4 {
        let rows = testing::run_interrupted(3, &interruptions(seed), |scope, output| {
            per_share(|share| slowly(share, NUMBERS))
                .to_stream_fenced(scope, "numbers")
                .unary_fenced(Exchange::new(|n: &u64| n % 997), "sums", |_, state| {
                    let mut sums = state.map::<u64, (u64, u64)>("sums");
                    move |input, output| {
                        input.for_each(|capability, numbers| {
                            let mut session = output.session(&capability);
                            for n in numbers.drain(..) {
                                let mut sum = sums.entry(n % 997).or_default();
                                sum.0 += 1;
                                sum.1 += n;
                                if sum.0.is_multiple_of(10) {
                                    session.give((n % 997, sum.0));
                                }
                            }
                        });
                    }
                })
                .sink_fenced("out", output);
        });
        assert_eq!(sorted(rows), sorted(expected.clone()), "seed {seed}");
    }
}

#[test]
fn what_is_stashed_is_answered_once_and_for_its_time() {
    for seed in 10..14 {
        let rows = testing::run_interrupted(3, &interruptions(seed), |scope, output| {
            per_share(|share| slowly(share, NUMBERS))
                .to_stream_fenced(scope, "numbers")
                .unary_frontier_fenced(Exchange::new(|n: &u64| *n), "stash", |_, state| {
                    let mut stash = state.stash::<u64>("stash");
                    let mut last = state.value("last", 0u64);
                    move |(input, frontier), output| {
                        input.for_each(|capability, numbers| {
                            // Some are answered epochs later.
                            for n in numbers.drain(..) {
                                let time = capability.least().unwrap() + n % 3 * 2;
                                stash.push(capability.delayed(&time, 0), n);
                            }
                        });
                        for (capability, numbers) in stash.ready(frontier) {
                            assert!(*capability.time() >= *last.get(), "times come in order");
                            last.set(*capability.time());
                            output.session(&capability).give_iterator(numbers.into_iter());
                        }
                    }
                })
                .sink_fenced("out", output);
        });
        assert_eq!(sorted(rows), (0..NUMBERS).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_closure_is_called_once_a_partition_and_sees_only_its_records() {
    let calls: Arc<Mutex<HashMap<(u64, u32), u64>>> = Arc::default();
    let seen = Arc::clone(&calls);
    let rows = testing::run(2, move |scope, output| {
        let seen = Arc::clone(&seen);
        per_share(|share| slowly(share, 1000))
            .to_stream_fenced(scope, "numbers")
            .unary_fenced(Exchange::new(|n: &u64| *n), "calls", move |_, state| {
                let (seen, partition) = (Arc::clone(&seen), state.partition());
                let partitions = u64::from(state.partitions());
                let mut call = 0;
                move |input, output| {
                    call += 1;
                    *seen.lock().unwrap().entry((call, partition)).or_default() += 1;
                    input.for_each(|capability, numbers| {
                        assert!(numbers.iter().all(|n| n % partitions == u64::from(partition)));
                        output.session(&capability).give_container(numbers);
                    });
                }
            })
            .sink_fenced("out", output);
    });
    assert_eq!(rows.len(), 1000);
    let calls = calls.lock().unwrap();
    let partitions: BTreeSet<u32> = calls.keys().map(|(_, partition)| *partition).collect();
    assert_eq!(partitions.len(), 16);
    assert!(calls.values().all(|times| *times == 1));
}

#[test]
fn records_in_a_pipeline_stay_and_count() {
    for seed in 20..23 {
        let rows = testing::run_interrupted(3, &interruptions(seed), |scope, output| {
            per_share(|share| slowly(share, NUMBERS))
                .to_stream_fenced(scope, "numbers")
                .unary_frontier_fenced(Pipeline, "pairs", |_, state| {
                    let mut list = state.list::<u64>("list");
                    let mut held = state.stash::<()>("held");
                    move |(input, frontier), output| {
                        input.for_each(|capability, numbers| {
                            list.extend(numbers.drain(..));
                            held.push(capability.retain_least(0).unwrap(), ());
                        });
                        for (capability, _) in held.ready(frontier) {
                            output.session(&capability).give_iterator(list.drain());
                        }
                    }
                })
                .sink_fenced("out", output);
        });
        assert_eq!(sorted(rows), (0..NUMBERS).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn two_inputs_meet_as_often_as_they_would() {
    for seed in 30..33 {
        let rows = testing::run_interrupted(3, &interruptions(seed), |scope, output| {
            let left = per_share(|share| slowly(share, 6_000)).to_stream_fenced(scope, "left");
            let right = per_share(|share| slowly(share, 6_000)).to_stream_fenced(scope, "right");
            let by = || Exchange::new(|n: &u64| n % 2_000);
            left.binary_fenced(right, by(), by(), "join", |_, state| {
                let mut lefts = state.map::<u64, Vec<u64>>("lefts");
                let mut rights = state.map::<u64, Vec<u64>>("rights");
                move |left, right, output| {
                    left.for_each(|capability, numbers| {
                        let mut session = output.session(&capability);
                        for n in numbers.drain(..) {
                            lefts.entry(n % 2_000).or_default().push(n);
                            if let Some(others) = rights.get(&(n % 2_000)) {
                                session.give_iterator(others.iter().map(|other| (n, *other)));
                            }
                        }
                    });
                    right.for_each(|capability, numbers| {
                        let mut session = output.session(&capability);
                        for n in numbers.drain(..) {
                            rights.entry(n % 2_000).or_default().push(n);
                            if let Some(others) = lefts.get(&(n % 2_000)) {
                                session.give_iterator(others.iter().map(|other| (*other, n)));
                            }
                        }
                    });
                }
            })
            .map(|(left, right)| (left % 2_000, left / 2_000, right / 2_000))
            .sink_fenced("out", output);
        });
        let mut expected = Vec::new();
        for key in 0..2_000 {
            for left in 0..3 {
                expected.extend((0..3).map(|right| (key, left, right)));
            }
        }
        assert_eq!(sorted(rows), expected, "seed {seed}");
    }
}
