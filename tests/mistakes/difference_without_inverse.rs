//! A difference that is a semigroup and has no inverses, in a reduction's output.

use differential_dataflow::difference::{IsZero, Semigroup};
use ringfence::prelude::*;

#[derive(
    Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
struct Least(u32);

impl IsZero for Least {
    fn is_zero(&self) -> bool {
        false
    }
}

impl Semigroup for Least {
    fn plus_equals(&mut self, other: &Self) {
        self.0 = self.0.min(other.0);
    }
}

fn main() {
    let _ = ringfence::execute_from_args(std::env::args(), |worker| {
        let mut nodes = FencedSession::<u64, (u32, u32), Least>::new("nodes");
        worker.dataflow::<u64, _, _>(|scope| {
            nodes.to_collection(scope).reduce_fenced("least", |_, input, output| {
                output.push((0u32, input[0].1));
            });
        });
    });
}
