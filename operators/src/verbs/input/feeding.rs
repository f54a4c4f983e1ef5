//! Feeding: the operators that bring hand-fed records through the journals into the dataflow.
//!
//! ```text
//! handle --queue--> feed --frames, exchanged to the backups--> store --progress--> admit --> records
//! ```
//!
//! `feed` puts closed epochs into its own node's journals and sends them to the backups; `store` puts them
//! into the journals there. The frontier of `store` passes an epoch once every backup of every worker has it:
//! only then does `admit` let it into the dataflow. There is no state to seal, but the input takes part in
//! the commit: its epochs count as stored once `admit` has let them in, so that no epoch is recorded that is
//! still to come.
//!
//! INVARIANT: nothing in the dataflow has seen an epoch that is not in the journals of its owner and of
//! all backups of the view.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream, StreamVec};
use timely::order::PartialOrder;
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::Activator;

use super::feed::{Batch, Feed, Piece};
use crate::data::Data;
use crate::error::JobError;
use crate::fence::Fence;
use crate::fence::generation::Notice;
use crate::ids::OperatorName;
use crate::planted::{self, Planted};
use crate::protected::outlet::advance;
use crate::rounds::frames::{Frames, ToTarget};
use crate::rounds::outbox::Outbox;
use crate::rounds::pieces::Assembly;
use crate::rounds::replicate::{commit_stored, not_stored};
use crate::snapshot::journal::JournalRef;
use crate::time::{EpochTime, FencedTime};
use crate::vault::JournalEntry;

/// Builds the operators of an input; returns an activator for the first of them, and the records.
pub(super) fn build<'scope, T: EpochTime, D: Data>(
    scope: Scope<'scope, T>,
    fence: &Fence,
    name: &OperatorName,
    feed: &Rc<RefCell<Feed<T, D>>>,
) -> (Activator, StreamVec<'scope, T, D>) {
    let (activator, frames) = journal(scope, fence, name, feed);
    let stored = store(frames, fence, name);
    let (records, admitted) = admit(stored, fence, name, feed);
    commit_stored(admitted, fence, name);
    (activator, records)
}

/// Puts what was fed into this node's journals, and sends it to the backups.
fn journal<'scope, T: EpochTime, D: Data>(
    scope: Scope<'scope, T>,
    fence: &Fence,
    name: &OperatorName,
    feed: &Rc<RefCell<Feed<T, D>>>,
) -> (Activator, Stream<'scope, T, Frames>) {
    let mut builder = OperatorBuilder::new(name.to_string(), scope);
    let info = builder.operator_info();
    fence.origins().know(info.global_id);
    let activator = scope.activator_for(info.address);
    let (output, frames) = builder.new_output();
    let (fence, name, feed) = (fence.clone(), name.clone(), Rc::clone(feed));
    builder.build(move |capabilities| {
        let mut held: Option<Capability<T>> = capabilities.into_iter().next();
        advance(&mut held, Some(fence.first_epoch()));
        let mut output = OutputBuilder::<T, NoopBuilder<Frames>>::from(output);
        // The first view has nothing to agree on.
        let mut are_replaced = fence.is_first_view();
        let mut sending = Sending { fence: fence.clone(), name, outbox: Outbox::new(&fence) };
        move |_frontiers| {
            let _active = fence.check(&sending.name);
            let Some(capability) = &held else { return };
            let mut feed = feed.borrow_mut();
            let mut output = output.activate();
            let mut session = output.session_with_builder(capability);
            let mut send = |mut frames| session.give_container(&mut frames);
            if !std::mem::replace(&mut are_replaced, true) {
                // At the first time of the view: nothing is acknowledged before all have this.
                feed.replace_journals(|piece| sending.take(&piece, &mut send));
            }
            feed.continue_journals(|piece| sending.take(&piece, &mut send));
            sending.outbox.flush(&mut send);
            drop(session);
            drop(output);
            advance(&mut held, feed.journaled_to());
        }
    });
    (activator, frames)
}

/// The destinations of the pieces of journals.
struct Sending {
    fence: Fence,
    name: OperatorName,
    outbox: Outbox,
}

impl Sending {
    fn take(&mut self, piece: &Piece<'_>, send: &mut impl FnMut(Frames)) {
        let generation = self.fence.generation();
        if !piece.is_here
            && let Err(error) = generation.vault.store_journal(generation.view, piece.frames)
        {
            not_stored(&self.fence, &self.name, &error);
        }
        let node_of = |worker: usize| worker / generation.settings.workers_per_node.max(1);
        let backups = &generation.routes.backups[piece.partition.0 as usize];
        let backups = if planted::is(Planted::JournalFirstBackupOnly) {
            &backups[..backups.len().min(1)]
        } else {
            &backups[..]
        };
        // This node's journal is both the owner's and the backup's.
        let here = node_of(self.fence.worker());
        let others = backups.iter().copied().filter(|&backup| node_of(backup) != here);
        let Ok(_) = self.outbox.put(others, send, |buffer| {
            buffer.extend_from_slice(piece.frames);
            Ok::<_, Infallible>(())
        });
    }
}

/// Puts what arrives into the journals of a backup; the output carries only progress.
fn store<'scope, T: EpochTime>(
    frames: Stream<'scope, T, Frames>,
    fence: &Fence,
    name: &OperatorName,
) -> StreamVec<'scope, T, ()> {
    let mut builder = OperatorBuilder::new(format!("Journal: {name}"), frames.scope());
    let mut input = builder.new_input(frames, DistributorPact(|_peers| ToTarget));
    let (_output, stream) = builder.new_output();
    let (fence, name) = (fence.clone(), name.clone());
    builder.build(move |capabilities| {
        drop(capabilities);
        let mut assembly = Assembly::default();
        move |_frontiers| {
            let _active = fence.check(&name);
            let generation = fence.generation();
            assembly.begin();
            // The frames count as consumed only once this activation ends: by then they are stored.
            input.for_each(|_capability, frames| {
                let stored = assembly.take(frames.bytes(), |whole| {
                    generation.vault.store_journal(generation.view, whole).map(drop)
                });
                if let Err(error) = stored {
                    not_stored(&fence, &name, &error);
                }
            });
        }
    });
    stream
}

/// Lets the records of an epoch into the dataflow once all journals have it.
fn admit<'scope, T: EpochTime, D: Data>(
    stored: StreamVec<'scope, T, ()>,
    fence: &Fence,
    name: &OperatorName,
    feed: &Rc<RefCell<Feed<T, D>>>,
) -> (StreamVec<'scope, T, D>, StreamVec<'scope, T, ()>) {
    let scope = stored.scope();
    let mut builder = OperatorBuilder::new(format!("Admit: {name}"), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    fence.checkpoints().wake_on_decision(activator);
    let mut input = builder.new_input(stored, Pipeline);
    let (output, records) = builder.new_output_connection(acknowledgement());
    let (_progress, admitted) = builder.new_output_connection(acknowledgement());
    let (fence, name, feed) = (fence.clone(), name.clone(), Rc::clone(feed));
    builder.build(move |mut held: Vec<Capability<T>>| {
        let resume = fence.resume_time();
        held.iter_mut().for_each(|capability| capability.downgrade(&resume));
        let mut output = OutputBuilder::<T, CapacityContainerBuilder<Vec<D>>>::from(output);
        move |frontiers| {
            let _active = fence.check(&name);
            input.for_each(|_capability, _nothing| {});
            let mut feed = feed.borrow_mut();
            if let Some(capability) = held.first() {
                let mut output = output.activate();
                let may_enter = |time: &T| {
                    is_stored(&frontiers[0], time) && fence.checkpoints().admit(time.epoch())
                };
                while feed.first_waiting().is_some_and(may_enter)
                    && let Some((time, batches)) = feed.take_waiting()
                {
                    fence.leave_if_stopping();
                    let epoch = time.epoch();
                    fence.whereabouts().set_epoch(epoch);
                    let gauges = &fence.generation().gauges;
                    gauges.epochs_begun.fetch_max(epoch.next().0, Ordering::Relaxed);
                    let capability = capability.delayed(&time);
                    let mut session = output.session(&capability);
                    for batch in batches {
                        let mut batch = match batch {
                            Batch::Sent(batch) => batch,
                            Batch::Journaled(entry) => {
                                if feed.played_again() {
                                    fence.notice(Notice::CaughtUp { operator: name.clone() });
                                }
                                play_again(&fence, &name, &entry)
                            }
                        };
                        gauges.records.fetch_add(batch.len() as u64, Ordering::Relaxed);
                        session.give_container(&mut batch);
                    }
                }
            }
            let frontier = frontiers[0].frontier().iter().next().cloned();
            let frontier = if planted::is(Planted::AdmittedAtOnce) {
                feed.journaled_to().map(T::from_epoch)
            } else {
                frontier
            };
            let next = frontier.into_iter().chain(feed.first_waiting().cloned()).min();
            match next {
                Some(next) => held.iter_mut().for_each(|capability| {
                    if capability.time().less_than(&next) {
                        capability.downgrade(&next);
                    }
                }),
                None => held.clear(),
            }
        }
    });
    (records, admitted)
}

/// The connection that makes the frontier of `store` hold back that of the records, whatever `admit` itself
/// holds.
fn acknowledgement<S: Default + PartialOrder>() -> Vec<(usize, Antichain<S>)> {
    if planted::is(Planted::AdmittedAtOnce) {
        return Vec::new();
    }
    vec![(0, Antichain::from_elem(S::default()))]
}

/// Whether every backup of every worker has `time`.
fn is_stored<T: EpochTime>(frontier: &MutableAntichain<T>, time: &T) -> bool {
    if planted::is(Planted::AdmittedAtOnce) {
        return true;
    }
    !frontier.less_equal(time)
}

/// The records of an entry of the journal.
fn play_again<D: Data>(fence: &Fence, name: &OperatorName, entry: &JournalEntry) -> Vec<D> {
    let fail = |what: String| -> ! {
        fence.fail(JobError::Input {
            operator: name.clone(),
            what: format!("epoch {} of its journal cannot be read: {what}", entry.epoch),
        })
    };
    match JournalRef::parse(&entry.frame) {
        Ok((frame, _)) => match frame.records() {
            Ok(records) => records,
            Err(error) => fail(error.to_string()),
        },
        Err(error) => fail(error.to_string()),
    }
}
