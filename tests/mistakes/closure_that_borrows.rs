//! A closure that borrows from its worker's closure, which returns before it.

use ringfence::prelude::*;

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        let factor = 2;
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|_| 0..3u64).to_stream_fenced(scope, "numbers").fold_fenced(
                "sums",
                |_| 0u8,
                0u64,
                |sum, n, out| {
                    *sum += n * factor;
                    out.give(*sum);
                },
            );
        });
    });
}
