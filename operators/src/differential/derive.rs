//! Derive: the output of a reduction, computed from its restored input.
//!
//! If an epoch is a single time, all restored updates are at the resume epoch, and the output is what the
//! reduction's logic makes of each key's values at that time. So it need not be kept: calling the logic once
//! for each key is faster than reading its results, and while nothing fails only the input's changes are
//! sent. In an iterative scope the restored input has several times, and the output of a reduction depends on
//! how these interleave; there the output is kept like any trace.

use std::time::Instant;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::cursor::cursor_list;
use differential_dataflow::trace::{BatchCursor, Cursor, Navigable, TraceReader};
use timely::progress::Antichain;

use super::arrange::{FencedTrace, protect};
use super::layout::{BatchWriter, Kept, Room};
use super::missing::Invertible;
use super::restored::{Beginning, with_beginning};
use crate::data::Data;
use crate::error::JobError;
use crate::fence::Fence;
use crate::fence::generation::Notice;
use crate::ids::OperatorName;
use crate::planted::{self, Planted};
use crate::time::FencedTime;

/// How many updates are written at a time.
const BLOCK_UPDATES: usize = 1024;

/// Builds the operator that reduces `input` by `logic`, with an output that survives.
pub(super) fn reduce<'scope, K, V, R, V2, R2, Tr, Tr2, L>(
    fence: &Fence,
    name: &OperatorName,
    mut input: Arranged<'scope, Tr>,
    mut logic: L,
    build: impl FnOnce(Arranged<'scope, Tr>, L) -> Arranged<'scope, FencedTrace<Tr2>>,
) -> Arranged<'scope, FencedTrace<Tr2>>
where
    K: Data + Ord,
    V: 'static,
    R: Semigroup + 'static,
    V2: Data + Ord,
    R2: Data + Invertible,
    Tr: TraceReader<Time: FencedTime + Lattice + Data, Batch: Navigable> + Clone + 'static,
    for<'a> BatchCursor<Tr>: Cursor<Key<'a> = &'a K, Val<'a> = &'a V, Time = Tr::Time, Diff = R>,
    Tr2: Kept<K, V2, Tr::Time, R2>,
    L: FnMut(&K, &[(&V, R)], &mut Vec<(V2, R2)>) + 'static,
{
    if Tr::Time::NESTED {
        return protect::<K, V2, Tr::Time, R2, Tr2>(fence, name, || build(input, logic));
    }
    fence.whereabouts().stores_nothing(name);
    let beginning = fence.generation().resume.map(|through| {
        let begun = Instant::now();
        // For a panic of the logic.
        let _active = fence.active(name);
        fence.whereabouts().set_epoch(through);
        let upper = Antichain::from_elem(Tr::Time::first_of(through.next()));
        // What was restored ends there, and nothing arrives before all dataflows are built.
        let input_batches = input.trace.batches_through(upper.borrow());
        let input_batches =
            input_batches.unwrap_or_else(|| fence.fail(JobError::BuiltLate { name: name.clone() }));
        let time = Tr::Time::first_of(through);
        // The restored updates are one batch, if there are any.
        let batch = match &input_batches[..] {
            [batch] => {
                output_of::<_, K, V, R, V2, R2, Tr2>(batch.cursor(), batch, &time, &mut logic)
            }
            _ => {
                let (cursor, batches) = cursor_list(input_batches);
                output_of::<_, K, V, R, V2, R2, Tr2>(cursor, &batches, &time, &mut logic)
            }
        };
        fence.notice(Notice::Restored {
            worker: fence.worker(),
            operator: name.clone(),
            rewound: 0,
            opened: 0,
            bytes_opened: 0,
            keys_rewound: 0,
            elapsed: begun.elapsed(),
        });
        let batch = batch.filter(|_| !planted::is(Planted::OutputBeginsEmpty));
        Beginning::<Tr2> { through, batch }
    });
    with_beginning(beginning, || build(input, logic))
}

/// The output of a reduction through an epoch, given all updates of its input.
fn output_of<C, K, V, R, V2, R2, Tr2>(
    mut cursor: C,
    storage: &C::Storage,
    time: &C::Time,
    logic: &mut impl FnMut(&K, &[(&V, R)], &mut Vec<(V2, R2)>),
) -> Option<Tr2::Batch>
where
    K: Data + Ord,
    V: 'static,
    R: Semigroup + 'static,
    V2: Data + Ord,
    R2: Data + Invertible,
    for<'a> C: Cursor<Key<'a> = &'a K, Val<'a> = &'a V, Diff = R>,
    Tr2: Kept<K, V2, C::Time, R2>,
{
    let mut keys = 0;
    while cursor.key_valid(storage) {
        keys += 1;
        cursor.step_key(storage);
    }
    cursor.rewind_keys(storage);
    let mut writer = Tr2::Writer::new(Room { keys, vals: keys });
    let mut block = Vec::with_capacity(BLOCK_UPDATES);
    let (mut values, mut output) = (Vec::new(), Vec::new());
    while let Some(key) = cursor.get_key(storage) {
        while let Some(value) = cursor.get_val(storage) {
            let mut sum: Option<R> = None;
            cursor.map_times(storage, |_time, diff| {
                let diff = C::owned_diff(diff);
                match &mut sum {
                    Some(sum) => sum.plus_equals(&diff),
                    None => sum = Some(diff),
                }
            });
            values.extend(sum.filter(|sum| !sum.is_zero()).map(|sum| (value, sum)));
            cursor.step_val(storage);
        }
        if !values.is_empty() {
            logic(key, &values, &mut output);
            let is_one = matches!(&output[..], [(_, diff)] if !diff.is_zero());
            if !is_one {
                consolidate(&mut output);
            }
            values.clear();
            block.extend(
                output.drain(..).map(|(val, diff)| ((key.clone(), val), time.clone(), diff)),
            );
            if block.len() >= BLOCK_UPDATES {
                writer.push(&mut block);
            }
        }
        cursor.step_key(storage);
    }
    writer.push(&mut block);
    writer.done()
}
