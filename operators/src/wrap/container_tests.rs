//! A wrapped operator on a container that is no vector of records.

use std::io::Write;
use std::iter::Zip;
use std::time::Duration;
use std::vec::Drain;

use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::container::{CapacityContainerBuilder, DrainContainer, PushInto, SizableContainer};
use timely::dataflow::channels::ContainerBytes;
use timely::dataflow::channels::pact::{ExchangeCore, Pipeline};
use timely::dataflow::operators::Operator;

use crate::prelude::*;
use crate::testing::Interruption::{Panic, Stop};
use crate::testing::{self, Trial};

/// Pairs, in two columns.
#[derive(Clone, Default)]
struct Columns {
    left: Vec<u64>,
    right: Vec<u64>,
}

impl Accountable for Columns {
    fn record_count(&self) -> i64 {
        self.left.len() as i64
    }
}

impl DrainContainer for Columns {
    type Item<'a> = (u64, u64);
    type DrainIter<'a> = Zip<Drain<'a, u64>, Drain<'a, u64>>;

    fn drain(&mut self) -> Self::DrainIter<'_> {
        self.left.drain(..).zip(self.right.drain(..))
    }
}

impl SizableContainer for Columns {
    fn at_capacity(&self) -> bool {
        self.left.len() >= 50
    }

    fn ensure_capacity(&mut self, stash: &mut Option<Self>) {
        if self.left.capacity() == 0 {
            *self = stash.take().unwrap_or_default();
            self.left.clear();
            self.right.clear();
        }
    }
}

impl PushInto<(u64, u64)> for Columns {
    fn push_into(&mut self, (left, right): (u64, u64)) {
        self.left.push(left);
        self.right.push(right);
    }
}

impl ContainerBytes for Columns {
    fn from_bytes(bytes: Bytes) -> Self {
        let numbers = bytes.chunks_exact(8).map(|it| u64::from_le_bytes(it.try_into().unwrap()));
        let mut left: Vec<u64> = numbers.collect();
        let right = left.split_off(left.len() / 2);
        Columns { left, right }
    }

    fn length_in_bytes(&self) -> usize {
        16 * self.left.len()
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        for number in self.left.iter().chain(&self.right) {
            writer.write_all(&number.to_le_bytes()).unwrap();
        }
    }
}

#[test]
fn columns_pass_unharmed() {
    type Builder = CapacityContainerBuilder<Columns>;
    let stops = [(8, Stop), (3, Panic), (12, Stop), (9, Panic)]
        .map(|(ms, what)| (Duration::from_millis(ms), what));
    let trial = Trial::new(3).epoch(Duration::from_millis(1));
    let mut rows = trial.run_interrupted(&stops, |worker, output| {
        worker.dataflow::<u64, _, _>(|scope| {
            testing::drip(40, Duration::from_micros(300), |share| {
                (share.index..9_000).step_by(share.count as usize)
            })
            .to_stream_fenced(scope, "numbers")
            .unary::<Builder, _, _, _>(Pipeline, "columns", |_, _| {
                |input, output| {
                    input.for_each(|capability, numbers| {
                        let pairs = numbers.drain(..).map(|n| (n % 100, n));
                        output.session(&capability).give_iterator(pairs);
                    });
                }
            })
            .unary_fenced::<Builder, _, _, _>(
                ExchangeCore::new(|(left, _): &(u64, u64)| *left),
                "sums",
                |_, state| {
                    let mut sums = state.map::<u64, u64>("sums");
                    move |input, output| {
                        input.for_each(|capability, columns| {
                            let mut session = output.session(&capability);
                            for (left, right) in columns.drain() {
                                let mut sum = sums.entry(left).or_default();
                                *sum += 1;
                                session.give((right, *sum));
                            }
                        });
                    }
                },
            )
            .unary(Pipeline, "rows", |_, _| {
                |input, output| {
                    input.for_each(|capability, columns| {
                        output.session(&capability).give_iterator(columns.drain());
                    });
                }
            })
            .sink_fenced("out", output);
        });
    });
    rows.sort_unstable();
    assert!(rows.iter().map(|(n, _)| *n).eq(0..9_000));
    assert_eq!(rows.iter().filter(|(_, sum)| *sum == 90).count(), 100);
}
