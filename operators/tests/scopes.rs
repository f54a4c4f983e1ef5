//! Protected operators where a job may put them: in loops of any depth, and in several dataflows.

use std::time::Duration;

use ringfence_operators::prelude::*;
use ringfence_operators::testing;
use timely::dataflow::operators::vec::{Filter, Map};
use timely::dataflow::operators::{
    Concat, ConnectLoop, Enter, Feedback, Input, Inspect, Leave, Probe,
};
use timely::dataflow::{ProbeHandle, Scope, StreamVec};
use timely::order::Product;

/// The next number of Collatz; none after 1.
fn next(number: u64) -> u64 {
    if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 }
}

/// How often each number is visited from all of `1..=last`, the sum over all.
fn visits(last: u64) -> u64 {
    let mut visits = 0;
    for mut number in 1..=last {
        visits += 1;
        while number != 1 {
            number = next(number);
            visits += 1;
        }
    }
    visits
}

/// Follows each number to 1 in a loop, and counts in it how often each number was seen.
fn follow<'scope, T: FencedTime>(
    numbers: StreamVec<'scope, T, u64>,
    name: &str,
) -> StreamVec<'scope, T, (u64, u64)> {
    let scope: Scope<'scope, T> = numbers.scope();
    scope.scoped::<Product<T, u64>, _, _>("loop", |inner| {
        let (handle, again) = inner.feedback(Product::new(Default::default(), 1));
        let seen = numbers.enter(inner).concat(again).fold_fenced(
            name,
            |number| *number,
            0,
            |seen, number, out| {
                *seen += 1;
                out.give((number, *seen));
            },
        );
        seen.clone()
            .filter(|(number, _)| *number != 1)
            .map(|(number, _)| next(number))
            .connect_loop(handle);
        seen.leave(scope)
    })
}

#[test]
fn state_in_a_loop_counts_every_round_once() {
    let seen = testing::run(2, |scope, output| {
        let numbers =
            per_share(|share| (1..=60_u64).filter(move |n| n % share.count == share.index))
                .to_stream_fenced(scope, "numbers");
        follow(numbers, "seen").sink_fenced("out", output);
    });
    assert_eq!(seen.len() as u64, visits(60));
    let ones = seen.iter().filter(|(number, _)| *number == 1).map(|(_, seen)| *seen);
    assert_eq!(ones.max(), Some(60));
}

#[test]
fn a_loop_within_a_loop_keeps_its_state_too() {
    let seen = testing::run(2, |scope, output| {
        let numbers =
            per_share(|share| (1..=20_u64).filter(move |n| n % share.count == share.index))
                .to_stream_fenced(scope, "numbers");
        let outer: Scope<'_, u64> = numbers.scope();
        let all = outer.scoped::<Product<u64, u32>, _, _>("outside", |inner| {
            follow(numbers.enter(inner), "seen").leave(outer)
        });
        all.sink_fenced("out", output);
    });
    assert_eq!(seen.len() as u64, visits(20));
}

#[test]
fn one_dataflow_may_wait_for_another_one() {
    const LAST: u64 = 20_000;
    let mut all = testing::run_workers(2, |worker, output| {
        // The second dataflow is fed only once the first one was read to its end. Until then nothing is
        // committed, and the source of the first must not wait for that.
        let read = ProbeHandle::new();
        let sink = output.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|share| (1..=LAST).filter(move |n| n % share.count == share.index))
                .to_stream_fenced(scope, "left")
                .inspect(|number| {
                    if number % 500 < 2 {
                        std::thread::sleep(Duration::from_millis(3));
                    }
                })
                .fold_fenced(
                    "sum",
                    |_| (),
                    0,
                    |sum, number, out| {
                        *sum += number;
                        if *sum == LAST * (LAST + 1) / 2 {
                            out.give(*sum);
                        }
                    },
                )
                .probe_with(&read)
                .sink_fenced("left out", sink);
        });
        let mut input = worker.dataflow::<u32, _, _>(|scope| {
            let (input, numbers) = scope.vouched(|scope| scope.new_input());
            numbers.sink_fenced("right out", output);
            input
        });
        while !read.done() {
            worker.step_or_park(None);
        }
        for number in 0..5 {
            input.send(number);
            input.advance_to(u32::try_from(number).unwrap() + 1);
        }
        input.close();
    });
    all.sort_unstable();
    assert_eq!(all, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, LAST * (LAST + 1) / 2]);
}

#[test]
#[should_panic(expected = "DuplicateName")]
fn two_dataflows_cannot_share_a_name() {
    testing::run_workers::<u64, _>(1, |worker, output| {
        for _ in 0..2 {
            let sink = output.clone();
            worker.dataflow::<u64, _, _>(|scope| {
                per_share(|_share| 0..1_u64)
                    .to_stream_fenced(scope, "numbers")
                    .sink_fenced("out", sink);
            });
        }
    });
}

#[test]
#[should_panic(expected = "BuiltLate")]
fn a_dataflow_that_comes_after_the_first_step_is_refused() {
    testing::run_workers::<u64, _>(1, |worker, output| {
        for names in [["first", "first out"], ["second", "second out"]] {
            let sink = output.clone();
            worker.dataflow::<u64, _, _>(|scope| {
                per_share(|_share| 0..1_u64)
                    .to_stream_fenced(scope, names[0])
                    .sink_fenced(names[1], sink);
            });
            worker.step();
        }
    });
}
