//! Arrange: traces that survive, and the operators that seal them.

use differential_dataflow::batcher::Batcher;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::Span;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};

use super::chunk::Update;
use super::layout::Kept;
use super::log::Log;
use super::restored::{Beginning, Restored, with_beginning};
use super::waiting::Batches;
use crate::data::Data;
use crate::fence::{Fence, HasFence};
use crate::ids::OperatorName;
use crate::protected::outlet::Outlet;
use crate::protected::route::to_owner;
use crate::rounds::frames::Frames;
use crate::rounds::replicate::commit;
use crate::time::{FencedTime, passed};

/// A protected trace, in the form in which operators read it.
pub type FencedTrace<Tr> = TraceAgent<Restored<Tr>>;

/// Restores a trace, makes the operator that maintains it, and seals what that adds to it.
pub(super) fn protect<'scope, K, V, T, R, Tr>(
    fence: &Fence,
    name: &OperatorName,
    build: impl FnOnce() -> Arranged<'scope, FencedTrace<Tr>>,
) -> Arranged<'scope, FencedTrace<Tr>>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
    Tr: Kept<K, V, T, R>,
{
    let (log, contents) = Log::restore(fence, name, Batches::<K, V, T, R, Tr>::default());
    let batch = contents.batch::<K, V, T, R, Tr>();
    let beginning = fence.generation().resume.map(|through| Beginning::<Tr> { through, batch });
    let arranged = with_beginning(beginning, build);
    seal::<K, V, T, R, Tr>(arranged.stream.clone(), fence, name, log);
    arranged
}

/// Arranges updates by the key that decides their partition.
pub(super) fn arrange<'scope, K, V, T, R, Ba, Tr>(
    updates: StreamVec<'scope, T, Update<K, V, T, R>>,
    name: &str,
    batcher: impl FnOnce(Option<differential_dataflow::logging::Logger>, usize) -> Ba,
) -> Arranged<'scope, FencedTrace<Tr>>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
    Ba: Batcher<Vec<Update<K, V, T, R>>, Time = T, Output: Into<Tr::Batch>> + 'static,
    Tr: Kept<K, V, T, R>,
{
    let fence = updates.fence();
    let name = fence.admit("arrangement", name, updates.scope());
    let pact = to_owner(&fence, &name, |update: &Update<K, V, T, R>| update.0.0.clone());
    protect::<K, V, T, R, Tr>(&fence, &name, || {
        arrange_core::<_, _, Ba, Restored<Tr>>(updates, pact, &name.to_string(), batcher)
    })
}

/// Seals what a protected trace's batches add to it.
fn seal<'scope, K, V, T, R, Tr>(
    batches: Stream<'scope, T, Vec<Span<T, Tr::Batch>>>,
    fence: &Fence,
    name: &OperatorName,
    mut log: Log<Batches<K, V, T, R, Tr>>,
) where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
    Tr: Kept<K, V, T, R>,
{
    let scope = batches.scope();
    let ids = vec![log.id()];
    let mut builder = OperatorBuilder::new(format!("Seal: {name}"), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    fence.checkpoints().wake_on_decision(activator);
    let mut input = builder.new_input(batches, Pipeline);
    let (output, frames) = builder.new_output::<Frames>();
    let (inner_fence, inner_name) = (fence.clone(), name.clone());
    builder.build(move |capabilities| {
        let (fence, name) = (inner_fence, inner_name);
        let mut outlet = Outlet::new(&fence, output, capabilities.into_iter().next());
        move |frontiers| {
            let _active = fence.check(&name);
            input.for_each(|_capability, spans| {
                for batch in spans.drain(..).filter_map(|span| span.inner) {
                    log.waiting().add(batch);
                }
            });
            log.advance(passed(&frontiers[0]), &mut outlet);
        }
    });
    commit(frames, fence, name, ids);
}
