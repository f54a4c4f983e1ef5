//! A record without serde, of a source and of a fold.

use ringfence::prelude::*;

#[derive(Clone)]
struct Bid;

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|_| std::iter::once(Bid)).to_stream_fenced(scope, "bids");
            per_share(|_| 0..3u64).to_stream_fenced(scope, "numbers").fold_fenced(
                "bids of numbers",
                |n| *n,
                0u64,
                |_, _, out| out.give(Bid),
            );
        });
    });
}
