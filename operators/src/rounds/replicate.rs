//! Replicate and record: the two rounds of the commit.
//!
//! `replicate` brings the snapshots of one protected operator to the backups; its frontier passes an epoch
//! once every backup of every worker has stored it. `record` holds the epoch back until its own node has
//! recorded it for all protected operators; when its frontier passes the epoch, every node knows. One round
//! would not be enough: a sink could release an epoch and its node die, and no survivor would know that the
//! epoch was committed.

use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Stream, StreamVec};

use crate::error::JobError;
use crate::fence::Fence;
use crate::fence::dropped::{DropWatch, numbers_of};
use crate::fence::generation::Notice;
use crate::ids::{Epoch, OperatorName};
use crate::planted::{self, Planted};
use crate::rounds::frames::{Frames, ToTarget};
use crate::rounds::pieces::Assembly;
use crate::time::{FencedTime, passed};
use crate::vault::VaultError;

/// Carries the snapshots of an operator, whose states have these `ids`, through both rounds.
pub(crate) fn commit<'scope, T: FencedTime>(
    frames: Stream<'scope, T, Frames>,
    fence: &Fence,
    name: &OperatorName,
    ids: Vec<u64>,
) {
    let numbers = numbers_of(name, &ids);
    let stored = replicate(frames, fence, name, ids);
    let recorded = record(stored, fence, name, numbers);
    watch(recorded, fence, name);
}

/// Carries an operator whose output is stored by other means through the second round: its progress passes an
/// epoch once the epoch is stored on all backups and let into the dataflow.
pub(crate) fn commit_stored<'scope, T: FencedTime>(
    stored: StreamVec<'scope, T, ()>,
    fence: &Fence,
    name: &OperatorName,
) {
    let recorded = record(stored, fence, name, numbers_of(name, &[]));
    watch(recorded, fence, name);
}

/// Stores frames on their backups; the output carries only progress.
fn replicate<'scope, T: FencedTime>(
    frames: Stream<'scope, T, Frames>,
    fence: &Fence,
    name: &OperatorName,
    ids: Vec<u64>,
) -> StreamVec<'scope, T, ()> {
    let mut builder = OperatorBuilder::new(format!("Replicate: {name}"), frames.scope());
    let mut input = builder.new_input(frames, DistributorPact(|_peers| ToTarget));
    let (_output, stream) = builder.new_output();
    let (fence, name) = (fence.clone(), name.clone());
    builder.build(move |capabilities| {
        drop(capabilities);
        let mut through = None;
        let mut assembly = Assembly::default();
        move |frontiers| {
            let _active = fence.check(&name);
            let generation = fence.generation();
            assembly.begin();
            // The frames count as consumed only once this activation ends: by then they are stored.
            input.for_each(|_capability, frames| {
                let stored = assembly.take(frames.bytes(), |whole| {
                    generation.vault.store(generation.view, whole).map(drop)
                });
                if let Err(error) = stored {
                    not_stored(&fence, &name, &error);
                }
            });
            let passed = passed(&frontiers[0]);
            if passed > through {
                through = passed;
                if let Some(epoch) = passed {
                    for &id in &ids {
                        if let Err(error) = generation.vault.complete(generation.view, id, epoch) {
                            fence.refused(&name, &error);
                        }
                    }
                }
            }
        }
    });
    stream
}

/// Ends this generation or the job, because something was refused by the vault.
pub(crate) fn not_stored(fence: &Fence, name: &OperatorName, error: &VaultError) -> ! {
    if error.is_damage() {
        // Nothing of the damaged bytes is kept, and no node can have recorded their epoch: the next
        // generation sends it again.
        fence.leave_damaged(JobError::Vault { operator: name.clone(), what: error.to_string() });
    }
    fence.refused(name, error)
}

/// Holds back epochs that this node has not recorded.
fn record<'scope, T: FencedTime>(
    stored: StreamVec<'scope, T, ()>,
    fence: &Fence,
    name: &OperatorName,
    numbers: Vec<u64>,
) -> StreamVec<'scope, T, ()> {
    let scope = stored.scope();
    let mut builder = OperatorBuilder::new(format!("Record: {name}"), scope);
    let info = builder.operator_info();
    let activator = scope.activator_for(info.address);
    fence.checkpoints().wake_on_decision(activator.clone());
    fence.commit().wake_on_recorded(activator);
    let place = fence.commit().join(scope.addr()[0], numbers);
    let mut input = builder.new_input(stored, Pipeline);
    let (_output, stream) = builder.new_output();
    let (fence, name) = (fence.clone(), name.clone());
    builder.build(move |capabilities| {
        let mut held = capabilities.into_iter().next();
        let mut told = None;
        let watch = DropWatch::new(&fence, place);
        move |frontiers| {
            let _kept = &watch;
            let _active = fence.check(&name);
            input.for_each(|_capability, _nothing| {});
            if planted::is(Planted::OneRound) {
                held = None;
            }
            let commit = fence.commit();
            // Only complete checkpoints count, so that a view can resume from what is recorded.
            let through = passed(&frontiers[0]);
            let through = through.and_then(|epoch| fence.checkpoints().at_or_before(epoch));
            if through > told {
                told = through;
                fence.whereabouts().stored(&name, through);
            }
            let generation = fence.generation();
            // Nothing is recorded while other workers may have built a different job.
            if let Some(epoch) = commit.stored(place, through)
                && generation.is_agreed()
            {
                if let Err(error) = generation.vault.record(generation.view, epoch) {
                    fence.refused(&name, &error);
                }
                commit.set_recorded(epoch);
                fence.checkpoints().forget_before(epoch);
            }
            match commit.recorded() {
                Some(Epoch::END) => held = None,
                Some(epoch) => {
                    let next = T::first_of(epoch.next());
                    if let Some(capability) = held.as_mut()
                        && capability.time().less_than(&next)
                    {
                        capability.downgrade(&next);
                    }
                }
                None => {}
            }
        }
    });
    stream
}

/// Learns what every node has recorded.
fn watch<'scope, T: FencedTime>(
    recorded: StreamVec<'scope, T, ()>,
    fence: &Fence,
    name: &OperatorName,
) {
    let scope = recorded.scope();
    let mut builder = OperatorBuilder::new(format!("Commit: {name}"), scope);
    // Of a protected operator's parts, this one lives longest, so it is the one that is woken to leave.
    let address = builder.operator_info().address.to_vec();
    fence.generation().add_waker(scope.worker().sync_activator_for(address));
    let mut input = builder.new_input(recorded, Pipeline);
    let (fence, name) = (fence.clone(), name.clone());
    builder.build(move |_capabilities| {
        move |frontiers| {
            let _active = fence.check(&name);
            input.for_each(|_capability, _nothing| {});
            fence.heed_others();
            let committed = passed(&frontiers[0]);
            if fence.commit().set_committed(committed)
                && let Some(epoch) = committed
            {
                fence.notice(Notice::Committed { epoch });
            }
        }
    });
}
