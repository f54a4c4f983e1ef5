//! Hydrate: an edge whose contents survive, and arrive again after a failure.

use differential_dataflow::VecCollection;
use differential_dataflow::collection::AsCollection;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::chunk::Update;
use super::log::Log;
use super::waiting::Loose;
use crate::data::Data;
use crate::fence::HasFence;
use crate::planted::{self, Planted};
use crate::protected::outlet::Outlet;
use crate::protected::route::to_owner;
use crate::rounds::frames::Frames;
use crate::rounds::replicate::commit;
use crate::time::{EpochTime, passed};

/// Keeps the contents of a collection, and after a failure begins with them: as of the resume epoch, at that
/// epoch. Later updates pass unchanged.
pub(super) fn hydrate<'scope, T, D, R>(
    collection: VecCollection<'scope, T, D, R>,
    name: &str,
) -> VecCollection<'scope, T, D, R>
where
    T: EpochTime + Lattice + Data,
    D: Data + Ord,
    R: Data + Semigroup,
{
    let scope = collection.inner.scope();
    let fence = scope.fence();
    let name = fence.admit("hydrated edge", name, scope);
    let (mut log, contents) = Log::restore(&fence, &name, Loose::<D, (), T, R>::default());
    let restored = contents.updates::<D, (), T, R>();
    let ids = vec![log.id()];
    let pact = to_owner(&fence, &name, |(data, _, _): &(D, T, R)| data.clone());
    let mut builder = OperatorBuilder::new(format!("Hydrate: {name}"), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    fence.checkpoints().wake_on_decision(activator.clone());
    let mut input = builder.new_input(collection.inner, pact);
    let (output, stream) = builder.new_output();
    let (frames_output, frames) = builder.new_output::<Frames>();
    let (inner_fence, inner_name) = (fence.clone(), name.clone());
    builder.build(move |capabilities| {
        let (fence, name) = (inner_fence, inner_name);
        let mut capabilities = capabilities.into_iter();
        let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<(D, T, R)>>>::from(output);
        let mut beginning = capabilities.next().filter(|_| !restored.is_empty());
        if let (Some(held), Some(resume)) = (&mut beginning, fence.generation().resume) {
            held.downgrade(&T::from_epoch(resume));
        }
        if planted::is(Planted::ContentsLoggedAgain) {
            for (data, _, diff) in &restored {
                log.waiting().add((data.clone(), T::from_epoch(fence.first_epoch()), diff.clone()));
            }
        }
        let mut restored = restored.into_iter().peekable();
        let mut outlet = Outlet::new(&fence, frames_output, capabilities.next());
        move |frontiers| {
            let _active = fence.check(&name);
            let mut output = output.activate();
            if let Some(capability) = &beginning {
                // In steps, so that what is downstream keeps up and nothing is held twice.
                let some = restored.by_ref().take(RESTORED_AT_ONCE);
                let updates =
                    some.map(|((data, ()), time, diff): Update<D, (), T, R>| (data, time, diff));
                output.session_with_builder(capability).give_iterator(updates);
                match restored.peek() {
                    Some(_) => activator.activate(),
                    None => beginning = None,
                }
            }
            input.for_each(|capability, updates| {
                for (data, time, diff) in updates.iter() {
                    log.waiting().add(((data.clone(), ()), time.clone(), diff.clone()));
                }
                output.session_with_builder(&capability).give_container(updates);
            });
            log.advance(passed(&frontiers[0]), &mut outlet);
        }
    });
    commit(frames, &fence, &name, ids);
    stream.as_collection()
}

/// How many restored updates an edge sends in one activation.
const RESTORED_AT_ONCE: usize = 1 << 16;
