//! Times at the edges: the last ones of each type, the first ones, and those of short types.

use std::time::Duration;

use proptest::prelude::*;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{ConnectLoop, Feedback, Inspect, Operator};
use timely::progress::timestamp::Refines;

use super::*;
use crate::prelude::*;
use crate::testing::{self, Interruption, Trial, in_time};

const LIMIT: Duration = Duration::from_secs(60);

/// Sends each number on at the time that `when` says for it.
fn later<'scope>(
    numbers: StreamVec<'scope, u64, u64>,
    when: fn(u64, u64) -> u64,
) -> StreamVec<'scope, u64, u64> {
    numbers.unary(Pipeline, "Later", move |_, _| {
        move |input, output| {
            input.for_each(|capability, numbers: &mut Vec<u64>| {
                let now = capability.least().copied().unwrap();
                for n in numbers.drain(..) {
                    output.session(&capability.delayed(&when(n, now), 0)).give(n);
                }
            });
        }
    })
}

/// What must hold for a time and a later one of one type.
fn check_times<T: EpochTime + Copy>(one: T, other: T) -> Result<(), TestCaseError> {
    let (earlier, later) = (one.min(other), one.max(other));
    prop_assert!(earlier.to_epoch() <= later.to_epoch());
    prop_assert_eq!(earlier == later, earlier.to_epoch() == later.to_epoch());
    prop_assert_eq!(T::from_epoch(one.to_epoch()), one);
    prop_assert_eq!(T::minimum().to_epoch(), Epoch(0));
    prop_assert_eq!(T::from_epoch(Epoch(0)), T::minimum());
    let epoch = FencedTime::epoch(&one);
    prop_assert!(epoch <= Epoch::END);
    // What is at or beyond the first time of an epoch is of that epoch or later.
    prop_assert!(T::first_of(epoch) <= one);
    prop_assert!(T::from_epoch(epoch.next()) >= T::from_epoch(epoch));
    prop_assert!(Epoch::before(Some(epoch)).is_none_or(|before| before < epoch));
    Ok(())
}

/// Numbers near the edges of 64 bits, and any.
fn number() -> impl Strategy<Value = u64> {
    let near = |edge: u64| (0u64..4).prop_map(move |by| edge.wrapping_add(by).wrapping_sub(2));
    prop_oneof![
        any::<u64>(),
        near(0),
        near(u64::from(u8::MAX)),
        near(u64::from(u32::MAX)),
        near(1 << 31),
        near(1 << 63),
    ]
}

proptest! {
    #[test]
    fn times_of_every_type_keep_their_order_and_their_epoch(a in number(), b in number()) {
        check_times(a, b)?;
        check_times(a as usize, b as usize)?;
        check_times(a as u32, b as u32)?;
        check_times(a as u16, b as u16)?;
        check_times(a as u8, b as u8)?;
        check_times(a as i64, b as i64)?;
        check_times(a as isize, b as isize)?;
        check_times(a as i32, b as i32)?;
        check_times(a as i16, b as i16)?;
        check_times(a as i8, b as i8)?;
        check_times(Duration::from_nanos(a), Duration::from_nanos(b))?;
    }

    #[test]
    fn epochs_never_overflow(a in number(), b in number()) {
        let (a, b) = (Epoch(a), Epoch(b));
        prop_assert!(a.next() >= a);
        prop_assert!(Epoch::before(Some(a)) <= Epoch::before(Some(a.max(b))));
        prop_assert!(Epoch::before(Some(a)) <= Some(Epoch::END));
        // No type has a time whose epoch is not reached by counting on.
        prop_assert!(u8::from_epoch(a) as u64 <= a.0 && u32::from_epoch(a) as u64 <= a.0);
        prop_assert!(i8::from_epoch(a).to_epoch() <= a);
    }
}

/// The sum of numbers of each key, told by a timer at `wake(time)`.
fn sums_told_at(wake: fn(u64) -> u64, stops: &'static [u64]) -> Vec<(u64, u64, u64)> {
    let mut sums = in_time(LIMIT, move || {
        let stops: Vec<_> =
            stops.iter().map(|ms| (Duration::from_millis(*ms), Interruption::Panic)).collect();
        testing::run_interrupted(2, &stops, move |scope, output| {
            testing::drip(10, Duration::from_millis(1), |share| {
                (0..700u64).filter(move |n| n % share.count == share.index)
            })
            .to_stream_fenced(scope, "numbers")
            .stateful_fenced(
                "sums",
                |n| n % 7,
                move |at: &mut At<'_, u64, u64, u64>, event, out| {
                    match event {
                        Event::Record(n) => {
                            *at.state += n;
                            at.wake_at(wake(*at.time));
                        }
                        Event::Timer => {
                            // One that asks for its own time again is not called for ever.
                            at.wake_at(at.time.saturating_add(0));
                            out.give((*at.key, *at.state, *at.time));
                            *at.state = 0;
                        }
                    }
                },
            )
            .sink_fenced("told", output);
        })
    });
    sums.sort();
    sums
}

fn total_of(key: u64) -> u64 {
    (0..700u64).filter(|n| n % 7 == key).sum()
}

#[test]
fn timers_at_the_end_of_time_fire_once_when_all_is_complete() {
    for end in [|_| u64::MAX, |_| u64::MAX - 1, |_| u64::MAX - 2] as [fn(u64) -> u64; 3] {
        for stops in [&[][..], &[20, 30]] {
            let expected: Vec<_> = (0..7).map(|key| (key, total_of(key), end(0))).collect();
            assert_eq!(sums_told_at(end, stops), expected);
        }
    }
}

#[test]
fn timers_in_the_past_fire_at_the_present_time() {
    let told = sums_told_at(|_| 0, &[20]);
    let total: u64 = told.iter().map(|(_, sum, _)| sum).sum();
    assert_eq!(total, (0..700u64).sum::<u64>());
}

#[test]
fn records_of_the_last_times_are_kept_and_committed() {
    let mut out = in_time(LIMIT, || {
        testing::run(2, |scope, output| {
            let numbers =
                per_share(|share| (0..6u64).filter(move |n| n % share.count == share.index))
                    .to_stream_fenced(scope, "numbers");
            later(numbers, |n, _| u64::MAX - n / 2)
                .fold_fenced(
                    "counts",
                    |_| 0u8,
                    0u64,
                    |count, n, out| {
                        *count += 1;
                        out.give(n);
                    },
                )
                .unary_frontier_fenced(Exchange::new(|n: &u64| *n), "kept", |_, state| {
                    let mut kept = state.stash("kept");
                    move |(input, frontier), output| {
                        input.for_each(|capability, numbers: &mut Vec<u64>| {
                            for n in numbers.drain(..) {
                                let time = capability.least().copied().unwrap();
                                kept.push(capability.delayed(&time.saturating_add(n), 0), n);
                            }
                        });
                        for (capability, mut numbers) in kept.ready(frontier) {
                            output.session(&capability).give_iterator(numbers.drain(..));
                        }
                    }
                })
                .container::<Vec<u64>>()
                .sink_fenced("out", output);
        })
    });
    out.sort();
    assert_eq!(out, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_loop_at_the_end_of_time_drops_what_would_come_after_it_as_timelys_does() {
    let run = |fenced: bool| {
        let mut seen = in_time(LIMIT, move || {
            testing::run(2, move |scope, output| {
                let numbers = per_share(|share| std::iter::once(share.index))
                    .to_stream_fenced(scope, "numbers");
                let numbers = later(numbers, |_, _| u64::MAX - 3);
                let rounds = if fenced {
                    let (handle, back) = scope.feedback_fenced(1);
                    let rounds = timely::dataflow::operators::Concat::concat(numbers, back);
                    rounds.clone().map(|n| n + 10).connect_loop_fenced("turns", handle);
                    rounds
                } else {
                    let (handle, back) = scope.feedback(1);
                    let rounds = timely::dataflow::operators::Concat::concat(numbers, back);
                    rounds.clone().map(|n| n + 10).connect_loop(handle);
                    rounds
                };
                rounds.inspect(|_| {}).sink_fenced("out", output);
            })
        });
        seen.sort();
        seen
    };
    assert_eq!(run(true), [0, 1, 10, 11, 20, 21, 30, 31]);
    assert_eq!(run(true), run(false));
}

#[test]
fn a_clock_for_checkpoints_stands_the_end_of_time() {
    let mut out = in_time(LIMIT, || {
        let trial =
            Trial::new(2).epoch(Duration::from_millis(1)).checkpoint(Duration::from_millis(3));
        trial.run(|worker, output| {
            worker.dataflow::<u64, _, _>(|scope| {
                let numbers = testing::drip(5, Duration::from_millis(2), |share| {
                    (0..200u64).filter(move |n| n % share.count == share.index)
                })
                .to_stream_fenced(scope, "numbers");
                // Some come at once, some at the end of everything.
                let when = |n, time| if n % 2 == 0 { time } else { u64::MAX };
                later(numbers, when)
                    .fold_fenced("counts", |n| n % 5, 0u64, |_, n, out| out.give(n))
                    .sink_fenced("out", output);
            });
        })
    });
    out.sort();
    assert_eq!(out, (0..200).collect::<Vec<_>>());
}

/// Runs a source whose clock would have 1,000 epochs a second in a dataflow of time type `T`.
fn run_for<T: EpochTime + Refines<()>>(records: u64) -> Vec<u64> {
    in_time(LIMIT, move || {
        let trial = Trial::new(1).epoch(Duration::from_millis(1));
        trial.run(move |worker, output| {
            worker.dataflow::<T, _, _>(|scope| {
                testing::drip(1, Duration::from_millis(2), move |_| 0..records)
                    .to_stream_fenced(scope, "numbers")
                    .sink_fenced("out", output);
            });
        })
    })
}

#[test]
fn every_type_of_time_has_a_job() {
    for out in [run_for::<u8>(20), run_for::<i8>(20), run_for::<i32>(20), run_for::<i64>(20)] {
        assert_eq!(out, (0..20).collect::<Vec<_>>());
    }
}

#[test]
#[should_panic(expected = "the time type u8 has no epoch after 255")]
fn a_type_of_too_few_times_is_told() {
    run_for::<u8>(5_000);
}

#[test]
#[should_panic(expected = "18446744073709551613 is the last time that can be fed")]
fn an_input_is_not_fed_at_the_end_of_time() {
    testing::run_workers::<u64, _>(1, |worker, output| {
        let mut input = FencedInput::<u64, u64>::new("numbers");
        worker.dataflow(|scope| {
            input.to_stream(scope).sink_fenced("out", output);
        });
        input.advance_to(u64::MAX - 1);
    });
}

#[test]
fn an_input_may_be_fed_up_to_the_last_time() {
    let mut out = in_time(LIMIT, || {
        let stops = [(Duration::from_millis(20), Interruption::Stop)];
        Trial::new(2).run_interrupted(&stops, |worker, output| {
            let mut input = FencedInput::<u64, u64>::new("numbers");
            worker.dataflow(|scope| {
                input.to_stream(scope).sink_fenced("out", output);
            });
            for time in [0, 1, 255, u64::MAX - 3, u64::MAX - 2] {
                if time < input.resume() {
                    continue;
                }
                input.advance_to(time);
                input.send_to(0, time);
                worker.step();
            }
        })
    });
    out.sort();
    assert_eq!(out, [0, 1, 255, u64::MAX - 3, u64::MAX - 2]);
    // Of a short type all times can be fed.
    let mut out = in_time(LIMIT, || {
        testing::run_workers(2, |worker, output| {
            let mut input = FencedInput::<u8, u64>::new("numbers");
            worker.dataflow(|scope| {
                input.to_stream(scope).sink_fenced("out", output);
            });
            for time in [0, 254, 255] {
                input.advance_to(time);
                input.send_to(1, u64::from(time));
            }
        })
    });
    out.sort();
    assert_eq!(out, [0, 254, 255]);
}

#[test]
fn differences_of_the_last_times_are_summed_up() {
    let mut out = in_time(LIMIT, || {
        let stops = [(Duration::from_millis(20), Interruption::Panic)];
        Trial::new(2).run_interrupted(&stops, |worker, output| {
            let mut numbers = FencedSession::<u64, u64>::new("numbers");
            worker.dataflow(|scope| {
                let numbers = numbers.to_collection(scope);
                numbers.map(|n| n % 2).count_fenced("counts").sink_fenced("out", output);
            });
            for (n, time) in [0, 1, u64::MAX - 3, u64::MAX - 2].into_iter().enumerate() {
                if time < numbers.resume() {
                    continue;
                }
                numbers.advance_to(time);
                numbers.insert_to(0, n as u64);
                worker.step();
            }
        })
    });
    out.retain(|(_, time, _)| *time == u64::MAX - 2);
    out.sort();
    assert_eq!(out, [((1, 1), u64::MAX - 2, -1), ((1, 2), u64::MAX - 2, 1)]);
}
