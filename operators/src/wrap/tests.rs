//! What wrapped operators promise, each claim against the same job on bare timely or on a plain iterator.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::StepBy;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::vec::Map as _;
use timely::dataflow::{Scope, StreamVec};

use crate::codec::{Codec, CodecError};
use crate::ids::Epoch;
use crate::ids::Share;
use crate::prelude::*;
use crate::testing::Interruption::{Panic, Stop};
use crate::testing::{self, Collected, Interruption, Trial};

/// Interruptions at moments that depend on `seed`.
fn interruptions(seed: u64) -> Vec<(Duration, Interruption)> {
    let random = |n: u64| crate::hash::KeyHasher::Rapid.hash(&(seed * 100 + n).to_le_bytes());
    let one = |n| {
        let what = if random(n + 50).is_multiple_of(3) { Panic } else { Stop };
        (Duration::from_micros(random(n) % 25_000), what)
    };
    (0..6).map(one).collect()
}

/// Runs a job with interruptions; in every other run with a clock for checkpoints.
fn interrupted<D, F>(seed: u64, job: F) -> Vec<D>
where
    D: Data,
    F: Fn(Scope<'_, u64>, Collected<D>) + Send + Sync + 'static,
{
    let trial = Trial::new(3).epoch(Duration::from_millis(1));
    let trial =
        if seed.is_multiple_of(2) { trial } else { trial.checkpoint(Duration::from_millis(6)) };
    trial.run_interrupted(&interruptions(seed), move |worker, sink| {
        worker.dataflow(|scope| job(scope, sink));
    })
}

/// The numbers below `end`, some at a time, so that they last for many epochs.
fn numbers(end: u64) -> testing::Drip<impl Fn(Share) -> StepBy<Range<u64>>> {
    let batch = (end / 300) as usize + 1;
    testing::drip(batch, Duration::from_micros(300), move |share| {
        (share.index..end).step_by(share.count as usize)
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
        let rows = interrupted(seed, |scope, output| {
            numbers(NUMBERS)
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

/// A count that no serde knows, in two forms of its own.
#[derive(Clone, Default)]
struct Tally(u64);

/// Writes a tally from its highest byte on (`1`) or from its lowest (`2`).
struct TallyCodec<const FORM: u32>;

impl<const FORM: u32> Codec<Tally> for TallyCodec<FORM> {
    const FORMAT: &'static str = "tally";
    const VERSION: u32 = FORM;

    fn encode(value: &Tally, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        bytes.extend(if FORM == 1 { value.0.to_be_bytes() } else { value.0.to_le_bytes() });
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Tally, CodecError> {
        let (type_name, expected, actual) = ("Tally", 8, bytes.len());
        let bytes =
            bytes.try_into().map_err(|_| CodecError::Length { type_name, expected, actual })?;
        Ok(Tally(if FORM == 1 { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) }))
    }
}

/// Counts numbers by their rest, in tallies of one form.
fn tally<'scope, const FORM: u32>(scope: Scope<'scope, u64>) -> StreamVec<'scope, u64, (u64, u64)> {
    numbers(NUMBERS).to_stream_fenced(scope, "numbers").unary_fenced(
        Exchange::new(|n: &u64| n % 997),
        "tallies",
        |_, state| {
            let mut tallies = state.map_with::<u64, Tally, TallyCodec<FORM>>("tallies");
            move |input, output| {
                input.for_each(|capability, numbers| {
                    let mut session = output.session(&capability);
                    for n in numbers.drain(..) {
                        let mut tally = tallies.entry(n % 997).or_default();
                        tally.0 += 1;
                        session.give((n % 997, tally.0));
                    }
                });
            }
        },
    )
}

#[test]
fn a_map_with_a_codec_of_its_own_survives() {
    let count = |rest: u64| (NUMBERS - rest).div_ceil(997);
    let all = |rest| (1..=count(rest)).map(move |tally| (rest, tally));
    let expected: Vec<_> = (0..997).flat_map(all).collect();
    for seed in 70..74 {
        let rows = interrupted(seed, |scope, output| {
            tally::<1>(scope).sink_fenced("out", output);
        });
        assert_eq!(sorted(rows), expected, "seed {seed}");
    }
}

#[test]
fn a_map_whose_codec_has_changed_is_refused() {
    let stops = [(Duration::from_millis(20), Stop)];
    let job = std::panic::AssertUnwindSafe(|| {
        testing::run_interrupted(2, &stops, |scope, output| {
            if scope.fence().is_first_view() {
                tally::<1>(scope).sink_fenced("out", output)
            } else {
                tally::<2>(scope).sink_fenced("out", output)
            };
        })
    });
    let payload = std::panic::catch_unwind(job).unwrap_err();
    let error = crate::fence::panics::message_of(payload.as_ref());
    assert!(error.contains("tallies.tallies has changed: its codec"), "{error}");
}

#[test]
fn what_is_stashed_is_answered_once_and_for_its_time() {
    for seed in 10..14 {
        let rows = interrupted(seed, |scope, output| {
            numbers(NUMBERS)
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
        numbers(1000)
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
        let rows = interrupted(seed, |scope, output| {
            numbers(NUMBERS)
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
        let rows = interrupted(seed, |scope, output| {
            let left = numbers(6_000).to_stream_fenced(scope, "left");
            let right = numbers(6_000).to_stream_fenced(scope, "right");
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

#[test]
fn all_kinds_of_state_agree_with_their_kin_of_std() {
    // Each partition mirrors its states in plain ones, which are remade from the states after a failure.
    for seed in 40..44 {
        let rows = interrupted(seed, |scope, output| {
            numbers(NUMBERS)
                .to_stream_fenced(scope, "numbers")
                .unary_fenced(Exchange::new(|n: &u64| *n), "kinds", |_, state| {
                    let mut map = state.map::<u64, u64>("map");
                    let mut ordered = state.ordered_map::<u64, u64>("ordered");
                    let mut list = state.list::<u64>("list");
                    let mut value = state.value::<u64>("value", 7);
                    let mut plain_map: BTreeMap<u64, u64> = map.iter().collect();
                    let mut plain_ordered: BTreeMap<u64, u64> = ordered.iter().collect();
                    let mut plain_list: Vec<u64> = list.iter().collect();
                    let mut plain_value = *value.get();
                    move |input, output| {
                        input.for_each(|capability, numbers| {
                            for n in numbers.iter().copied() {
                                let key = n % 50;
                                match n / 16 % 8 {
                                    0 => assert_eq!(map.remove(&key), plain_map.remove(&key)),
                                    1 => {
                                        *map.entry(key).or_insert(1) += n;
                                        *plain_map.entry(key).or_insert(1) += n;
                                    }
                                    2 => {
                                        assert_eq!(ordered.pop_first(), plain_ordered.pop_first());
                                        map.retain(|key, _| key % 3 != n % 3);
                                        plain_map.retain(|key, _| key % 3 != n % 3);
                                    }
                                    3 => {
                                        list.retain(|item| item % 5 != n % 5);
                                        plain_list.retain(|item| item % 5 != n % 5);
                                        let range = ordered.range(key..).next();
                                        let plain = plain_ordered.range(key..).next();
                                        assert_eq!(range, plain.map(|(key, value)| (*key, *value)));
                                    }
                                    4 => {
                                        assert_eq!(list.pop(), plain_list.pop());
                                        value.set(n);
                                        plain_value = n;
                                    }
                                    _ => {
                                        let old = ordered.insert(key, n);
                                        assert_eq!(old, plain_ordered.insert(key, n));
                                        assert_eq!(map.insert(key, n), plain_map.insert(key, n));
                                        list.push(n);
                                        plain_list.push(n);
                                        *value.get_mut() += n;
                                        plain_value += n;
                                    }
                                }
                                assert_eq!(map.get(&key).as_deref(), plain_map.get(&key));
                                assert_eq!(list.len(), plain_list.len());
                                let first = ordered.first_key_value();
                                let plain = plain_ordered.first_key_value();
                                assert_eq!(
                                    first.map(|(k, v)| (k, *v)),
                                    plain.map(|(k, v)| (*k, *v))
                                );
                                assert_eq!(*value.get(), plain_value);
                            }
                            let (all, plain) = (map.iter().collect(), plain_map.clone());
                            assert_eq!(
                                (BTreeMap::from_iter::<Vec<_>>(all), map.len()),
                                (plain, plain_map.len())
                            );
                            assert!(list.iter().eq(plain_list.iter().copied()));
                            assert!(ordered.iter().eq(plain_ordered.iter().map(|(k, v)| (*k, *v))));
                            output.session(&capability).give_container(numbers);
                        });
                    }
                })
                .sink_fenced("out", output);
        });
        assert_eq!(sorted(rows), (0..NUMBERS).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_held_capability_sends_at_its_time_after_a_failure_too() {
    // Each partition counts, and tells its count once, when everything has come.
    for seed in 50..54 {
        let rows = interrupted(seed, |scope, output| {
            numbers(NUMBERS)
                .to_stream_fenced(scope, "numbers")
                .unary_frontier_fenced(
                    Exchange::new(|n: &u64| *n),
                    "counts",
                    |capability, state| {
                        let mut held = state.capabilities("held").starting_with(capability);
                        let mut count = state.value("count", 0_u64);
                        move |(input, frontier), output| {
                            input.for_each(|_, numbers| {
                                *count.get_mut() += numbers.drain(..).len() as u64;
                            });
                            if frontier.is_empty()
                                && let Some(capability) = held.iter().next()
                            {
                                output.session(capability).give(*count.get());
                            }
                            held.downgrade_all(frontier.frontier().iter());
                        }
                    },
                )
                .sink_fenced("out", output);
        });
        assert_eq!((rows.len(), rows.iter().sum::<u64>()), (16, NUMBERS), "seed {seed}");
    }
}

#[test]
fn state_in_a_loop_is_exact_between_its_rounds() {
    use timely::dataflow::operators::{Concat, ConnectLoop, Enter, Feedback, Leave};
    use timely::order::Product;

    const LAST: u64 = 90;
    fn next(number: u64) -> u64 {
        if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 }
    }
    let mut expected = 0;
    for mut number in 1..=LAST {
        while number != 1 {
            number = next(number);
            expected += 1;
        }
        expected += 1;
    }
    for seed in 60..62 {
        let rows = interrupted(seed, |scope, output| {
            let numbers = numbers(LAST).to_stream_fenced(scope, "numbers").map(|n| n + 1);
            let seen = scope.scoped::<Product<u64, u64>, _, _>("loop", |inner| {
                let (handle, again) = inner.feedback(Product::new(Default::default(), 1));
                let seen = numbers.enter(inner).concat(again).unary_frontier_fenced(
                    Exchange::new(|number: &u64| *number),
                    "seen",
                    |_, state| {
                        let mut seen = state.map::<u64, u64>("seen");
                        // What comes in one round is answered when the round is complete.
                        let mut stash = state.stash::<u64>("stash");
                        move |(input, frontier), output| {
                            input.for_each(|capability, numbers| {
                                let time = capability.stamp().iter().next().unwrap();
                                let mut entry = stash.entry(capability.delayed(time, 0));
                                entry.extend(numbers.drain(..));
                            });
                            for (capability, numbers) in stash.ready(frontier) {
                                let mut session = output.session(&capability);
                                for number in numbers {
                                    let mut count = seen.entry(number).or_default();
                                    *count += 1;
                                    session.give((number, *count));
                                }
                            }
                        }
                    },
                );
                use timely::dataflow::operators::vec::Filter;
                seen.clone()
                    .filter(|(number, _)| *number != 1)
                    .map(|(number, _)| next(number))
                    .connect_loop(handle);
                seen.leave(scope)
            });
            seen.sink_fenced("out", output);
        });
        assert_eq!(rows.len(), expected, "seed {seed}");
        let distinct: BTreeSet<(u64, u64)> = rows.iter().copied().collect();
        assert_eq!(distinct.len(), expected, "each number is counted from one on, seed {seed}");
        assert!(distinct.contains(&(1, LAST)));
    }
}

#[test]
fn a_frontier_that_jumps_stops_where_something_is_stashed() {
    // Two records make five answers, each at a time of its own, and the frontier jumps over all of them.
    let order = Arc::new(Mutex::new(Vec::<(u64, Vec<u64>)>::new()));
    let seen = Arc::clone(&order);
    let rows = testing::run(1, move |scope, output| {
        let seen = Arc::clone(&seen);
        per_share(|_| 0..2_u64)
            .to_stream_fenced(scope, "two")
            .unary_frontier_fenced(Exchange::new(|_: &u64| 3), "jump", move |_, state| {
                let (seen, partition) = (Arc::clone(&seen), state.partition());
                let mut stash = state.stash::<u64>("stash");
                move |(input, frontier), output| {
                    input.for_each(|capability, numbers| {
                        for n in numbers.drain(..) {
                            for later in [100, 1_000_000, 50, 5_000_000_000] {
                                let time = capability.least().unwrap() + later + n;
                                stash.push(capability.delayed(&time, 0), later + n);
                            }
                        }
                    });
                    for (capability, answers) in stash.ready(frontier) {
                        assert_eq!(partition, 3);
                        seen.lock().unwrap().push((*capability.time(), answers.clone()));
                        output.session(&capability).give_iterator(answers.into_iter());
                    }
                }
            })
            .sink_fenced("out", output);
    });
    assert_eq!(rows.len(), 8);
    let order = order.lock().unwrap();
    assert_eq!(order.len(), 8);
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn an_operator_with_few_partitions_of_its_own_is_exact() {
    // Of three workers each has one of the two partitions, or none.
    for seed in 80..84 {
        let rows = interrupted(seed, |scope, output| {
            let stream = numbers(NUMBERS).to_stream_fenced(scope, "numbers");
            let by = Exchange::new(|n: &u64| *n);
            let few = scope.fence().partitions(2, || {
                stream.unary_frontier_fenced(by, "few", |_, state| {
                    assert_eq!(state.partitions(), 2);
                    let partition = u64::from(state.partition());
                    let mut counts = state.map::<u64, u64>("counts");
                    let mut stash = state.stash::<u64>("stash");
                    move |(input, frontier), output| {
                        input.for_each(|capability, numbers| {
                            let mut entry = stash.entry(capability.retain_least(0).unwrap());
                            entry.extend(numbers.drain(..));
                        });
                        for (capability, numbers) in stash.ready(frontier) {
                            let mut session = output.session(&capability);
                            for n in numbers {
                                assert_eq!(n % 2, partition);
                                let mut count = counts.entry(n % 100).or_default();
                                *count += 1;
                                session.give((n % 100, *count));
                            }
                        }
                    }
                })
            });
            few.sink_fenced("out", output);
        });
        let all = (0..100).flat_map(|rest| (1..=NUMBERS / 100).map(move |count| (rest, count)));
        assert_eq!(sorted(rows), all.collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn an_operator_with_a_pipeline_keeps_all_partitions() {
    // With as many workers as that some would have none of two partitions.
    let rows = testing::run(3, |scope, output| {
        let stream = numbers(900).to_stream_fenced(scope, "numbers");
        let (left, right) = (stream.clone(), stream);
        let by = Exchange::new(|n: &u64| *n);
        let both = scope.fence().partitions(2, || {
            left.binary_fenced(right, Pipeline, by, "both", |_, state| {
                assert_eq!(state.partitions(), 16);
                move |left, right, output| {
                    for input in [left, right] {
                        input.for_each(|capability, numbers| {
                            output.session(&capability).give_container(numbers);
                        });
                    }
                }
            })
        });
        both.sink_fenced("out", output);
    });
    assert_eq!(sorted(rows), (0..1_800).map(|n| n / 2).collect::<Vec<_>>());
}

/// Runs a job that is stopped after `patience`, when all has come through; returns the epochs from which
/// its views resumed, and what it released.
fn stopped_at_its_end(patience: Duration) -> (BTreeSet<Option<Epoch>>, Vec<u64>) {
    let resumes = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&resumes);
    let trial = Trial::new(2).epoch(Duration::from_millis(1));
    let rows = trial.run_interrupted(&[(patience, Stop)], move |worker, output| {
        let fence = worker.fence();
        seen.lock().unwrap().insert(fence.generation().resume);
        worker.dataflow::<u64, _, _>(|scope| {
            numbers(600)
                .to_stream_fenced(scope, "numbers")
                .unary_frontier_fenced(Exchange::new(|n: &u64| *n), "wait", |_, state| {
                    let mut stash = state.stash::<u64>("stash");
                    move |(input, frontier), output| {
                        input.for_each(|capability, numbers| {
                            let mut entry = stash.entry(capability.retain_least(0).unwrap());
                            entry.extend(numbers.drain(..));
                        });
                        for (capability, numbers) in stash.ready(frontier) {
                            output.session(&capability).give_iterator(numbers.into_iter());
                        }
                    }
                })
                .sink_fenced("out", output);
        });
        while fence.is_first_view() {
            worker.step_or_park(Some(Duration::from_millis(1)));
            fence.leave_if_stopping();
        }
    });
    let resumes = resumes.lock().unwrap().clone();
    (resumes, rows)
}

#[test]
fn a_view_after_the_end_of_everything_ends() {
    // All is committed, the dataflow's end included, and then a view is lost before anybody could say so.
    for attempt in 0..7 {
        let patience = Duration::from_millis(200 << attempt);
        let limit = patience + Duration::from_secs(60);
        let (resumes, rows) = testing::in_time(limit, move || stopped_at_its_end(patience));
        assert_eq!(sorted(rows), (0..600).collect::<Vec<_>>());
        if resumes.contains(&Some(Epoch::END)) {
            return;
        }
        // The machine is slow: it was not the end yet.
    }
    panic!("no run came to its end in time");
}

/// The error that a job of one operator ends with, as text.
fn error_of(build: impl Fn(Scope<'_, u64>, Collected<u64>) + Send + Sync + 'static) -> String {
    let job = std::panic::AssertUnwindSafe(move || testing::run(1, build));
    let payload = std::panic::catch_unwind(job).unwrap_err();
    crate::fence::panics::message_of(payload.as_ref())
}

#[test]
fn state_that_is_misused_ends_the_job_with_its_name() {
    let twice = error_of(|scope, output| {
        per_share(|_| 0..2_u64)
            .to_stream_fenced(scope, "two")
            .unary_fenced(Pipeline, "twice", |_, state| {
                let _one = state.map::<u64, u64>("same");
                let _two = state.list::<u64>("same");
                |input, output| {
                    input.for_each(|capability, numbers| {
                        output.session(&capability).give_container(numbers);
                    });
                }
            })
            .sink_fenced("out", output);
    });
    assert!(twice.contains("DuplicateName") && twice.contains("twice.same"), "{twice}");
    let types = error_of(|scope, output| {
        per_share(|_| 0..2_u64)
            .to_stream_fenced(scope, "two")
            .unary_fenced(Pipeline, "types", |_, state| {
                if state.partition() == 0 {
                    let _one = state.map::<u64, u64>("same");
                } else {
                    let _two = state.map::<u64, String>("same");
                }
                |input, output| {
                    input.for_each(|capability, numbers| {
                        output.session(&capability).give_container(numbers);
                    });
                }
            })
            .sink_fenced("out", output);
    });
    assert!(types.contains("StateType") && types.contains("types.same"), "{types}");
    let outside = error_of(|scope, output| {
        let stolen = std::rc::Rc::new(std::cell::RefCell::new(None));
        let to = std::rc::Rc::clone(&stolen);
        per_share(|_| 0..2_u64)
            .to_stream_fenced(scope, "two")
            .unary_fenced(Pipeline, "outside", move |_, state| {
                *to.borrow_mut() = Some(state.map::<u64, u64>("map"));
                |input, output| {
                    input.for_each(|capability, numbers| {
                        output.session(&capability).give_container(numbers);
                    });
                }
            })
            .map(move |n| {
                stolen.borrow_mut().as_mut().unwrap().insert(n, n);
                n
            })
            .sink_fenced("out", output);
    });
    assert!(outside.contains("OutsideOperator") && outside.contains("outside.map"), "{outside}");
}
