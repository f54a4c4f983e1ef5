//! Loops whose turns are epochs, interrupted at any moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::dataflow::operators::vec::{Filter, Map};
use timely::dataflow::operators::{Concat, Exchange};

use crate::ids::{Epoch, ViewNumber};
use crate::prelude::*;
use crate::testing::Interruption::{Panic, Stop};
use crate::testing::{self, Trial};

#[test]
fn what_is_on_its_way_round_a_loop_comes_back_once() {
    // Each number counts down to zero, one step in each epoch, and is seen in all of them.
    const NUMBERS: u64 = 120;
    for seed in 0..6_u64 {
        let stops: Vec<_> = (0..6)
            .map(|n| {
                let micros = 1_000 + (seed * 7 + n) * 3_571 % 20_000;
                (Duration::from_micros(micros), if n == 3 { Panic } else { Stop })
            })
            .collect();
        let trial = Trial::new(3).epoch(Duration::from_millis(1));
        let trial =
            if seed.is_multiple_of(2) { trial } else { trial.checkpoint(Duration::from_millis(5)) };
        let mut rows = trial.run_interrupted(&stops, |worker, output| {
            worker.dataflow::<u64, _, _>(|scope| {
                let (handle, again) = scope.feedback_fenced(1);
                let numbers = testing::drip(2, Duration::from_micros(700), |share| {
                    (share.index..NUMBERS).step_by(share.count as usize)
                });
                let all = numbers
                    .to_stream_fenced(scope, "numbers")
                    .map(|n| (n, n))
                    .concat(again)
                    .fold_fenced(
                        "steps",
                        |(n, _): &(u64, u64)| *n,
                        0_u64,
                        |steps, (n, left), out| {
                            *steps += 1;
                            out.give((n, left, *steps));
                        },
                    );
                all.clone().sink_fenced("out", output);
                all.filter(|(_, left, _)| *left > 0)
                    .map(|(n, left, _)| (n, left - 1))
                    .connect_loop_fenced("down", handle);
            });
        });
        rows.sort_unstable();
        let expected: Vec<_> =
            (0..NUMBERS).flat_map(|n| (0..=n).map(move |left| (n, left, n - left + 1))).collect();
        assert_eq!(rows, expected, "seed {seed}");
    }
}

/// The resume epoch of each view, and all rows.
type Taken = (BTreeMap<ViewNumber, Option<Epoch>>, Vec<(u64, u64)>);

/// Three numbers count down to zero, one at each worker, which is stopped each `patience`. First there are
/// three workers, then there is one, then there are two.
fn count_down(turns: u64, patience: Duration) -> Taken {
    let views = Arc::new(Mutex::new(BTreeMap::new()));
    let seen = Arc::clone(&views);
    let trial = Trial::new(3).epoch(Duration::from_millis(1));
    let mut rows = trial.run_interrupted(&[(patience, Stop); 2], move |worker, output| {
        let fence = worker.fence();
        let generation = fence.generation();
        seen.lock().unwrap().insert(generation.view, generation.resume);
        worker.dataflow::<u64, _, _>(|scope| {
            let (handle, again) = scope.feedback_fenced(1);
            let first = per_share(move |share| std::iter::once((share.index, turns)));
            let all = first.to_stream_fenced(scope, "first").exchange(|(n, _)| *n).concat(again);
            all.clone().sink_fenced("out", output);
            all.filter(|(_, left)| *left > 0)
                .map(|(n, left)| (n, left - 1))
                .connect_loop_fenced("down", handle);
        });
    });
    rows.sort_unstable();
    let views = views.lock().unwrap().clone();
    (views, rows)
}

#[test]
fn what_two_workers_keep_under_one_number_comes_back_from_both() {
    // Workers number what they keep alike, so one that takes over from several finds their keys twice.
    let (mut turns, mut patience) = (300, Duration::from_millis(20));
    for _attempt in 0..32 {
        let (views, rows) = count_down(turns, patience);
        let all = (0..3).flat_map(|n| (0..=turns).map(move |left| (n, left)));
        assert_eq!(rows, all.collect::<Vec<_>>(), "with {views:?}");
        let resumed = |view| views.get(&ViewNumber(view)).copied().flatten();
        match (resumed(2), resumed(3)) {
            // Both times something was on its way at each worker, and meanwhile more went round.
            (Some(first), Some(second)) if first < second && second < Epoch(turns) => return,
            (Some(_), None) => turns = (turns * 3 / 2).min(10_000),
            _ => patience = (patience * 3 / 2).min(Duration::from_millis(500)),
        }
    }
    panic!("no run was stopped in the middle twice");
}

#[test]
fn what_is_inspected_was_committed_and_nothing_is_missed() {
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let looking = Arc::clone(&seen);
    let stops = [3, 9, 4].map(|ms| (Duration::from_millis(ms), Stop));
    let mut rows = Trial::new(2).epoch(Duration::from_millis(1)).run_interrupted(
        &stops,
        move |worker, output| {
            let seen = Arc::clone(&looking);
            worker.dataflow::<u64, _, _>(|scope| {
                testing::drip(40, Duration::from_micros(300), |share| {
                    (share.index..4_000).step_by(share.count as usize)
                })
                .to_stream_fenced(scope, "numbers")
                .inspect_fenced("seen", move |_, n| seen.lock().unwrap().push(*n))
                .sink_fenced("out", output);
            });
        },
    );
    rows.sort_unstable();
    assert_eq!(rows, (0..4_000).collect::<Vec<_>>());
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, rows);
}
