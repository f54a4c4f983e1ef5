//! A float as key: it is not equal to itself, in general.

use ringfence::prelude::*;

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|_| 0..3u64).to_stream_fenced(scope, "numbers").fold_fenced(
                "counts",
                |n| *n as f64,
                0u64,
                |count, _, out: &mut Give<'_, u64>| {
                    *count += 1;
                    out.give(*count);
                },
            );
        });
    });
}
