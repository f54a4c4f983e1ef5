//! An iterator where a source is expected.

use ringfence::prelude::*;

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            (0..3u64).to_stream_fenced(scope, "numbers");
        });
    });
}
