//! A path where a sink is expected.

use ringfence::prelude::*;

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|_| 0..3u64).to_stream_fenced(scope, "numbers").sink_fenced("out", "out");
        });
    });
}
