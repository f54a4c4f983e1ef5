//! Differential's own `count`, which keeps something and is not protected.

use ringfence::prelude::*;

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        let mut numbers = FencedSession::<u64, u64>::new("numbers");
        worker.dataflow::<u64, _, _>(|scope| {
            numbers.to_collection(scope).count().inspect(|_| {});
        });
    });
}
