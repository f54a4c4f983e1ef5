//! A timestamp that names no epochs.

use ringfence::prelude::*;

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        worker.dataflow::<(), _, _>(|scope| {
            per_share(|_| 0..3u64).to_stream_fenced(scope, "numbers");
        });
    });
}
