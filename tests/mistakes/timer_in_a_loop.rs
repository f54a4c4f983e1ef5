//! A timer in an iterative scope.

use ringfence::prelude::*;
use timely::dataflow::StreamVec;
use timely::order::Product;

fn wake(rounds: StreamVec<'_, Product<u64, u32>, u64>) {
    rounds.stateful_fenced("rounds", |n| *n, |at: &mut At<'_, u64, u64, _>, _, out| {
        at.wake_at(*at.time);
        out.give(1u64);
    });
}

fn main() {}
