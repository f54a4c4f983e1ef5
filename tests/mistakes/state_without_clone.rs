//! A state that cannot be copied.

use ringfence::prelude::*;

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Total(u64);

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|_| 0..3u64).to_stream_fenced(scope, "numbers").fold_fenced(
                "sums",
                |n| n % 2,
                Total(0),
                |total, n, out: &mut Give<'_, u64>| {
                    total.0 += n;
                    out.give(total.0);
                },
            );
        });
    });
}
