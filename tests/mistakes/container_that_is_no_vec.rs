//! A container that is no `Vec`, into a sink and a fold.

use ringfence::prelude::*;
use timely::dataflow::Stream;

#[derive(Clone, Default)]
struct Columns(Vec<u64>);

fn release(columns: Stream<'_, u64, Columns>) {
    columns.sink_fenced("out", LineFiles::new("out"));
}

fn count(columns: Stream<'_, u64, Columns>) {
    columns.fold_fenced("counts", |n: &u64| *n, 0u64, |_: &mut u64, _: u64, _: &mut Give<'_, u64>| {});
}

fn main() {}
