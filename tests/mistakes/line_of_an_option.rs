//! A tuple with a part that `LineFiles` cannot write.

use ringfence::prelude::*;

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|_| std::iter::once((1u64, Some(2u64))))
                .to_stream_fenced(scope, "pairs")
                .sink_fenced("out", LineFiles::new("out"));
        });
    });
}
