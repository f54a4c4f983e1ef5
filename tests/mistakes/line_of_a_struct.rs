//! A record that `LineFiles` cannot write.

use ringfence::prelude::*;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Bid {
    price: u64,
}

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|_| std::iter::once(Bid { price: 7 }))
                .to_stream_fenced(scope, "bids")
                .sink_fenced("out", LineFiles::new("out"));
        });
    });
}
