//! The clock of checkpoints: from time to time it chooses one epoch as a checkpoint for all workers.
//!
//! It is a small separate dataflow, built before those of the job, if the job has this clock at all:
//!
//! ```text
//! ask (worker 0) --to all--> answer --to worker 0--> decide --to all--> learn
//! ```
//!
//! Each worker answers with the greatest epoch that any of its operators has begun, and begins no greater one
//! until it has learned the decision, which is the greatest of all answers. So when a checkpoint is known, no
//! worker is beyond it. No worker waits for more than this one round trip, during which it may still do all
//! work in the epochs that it has begun. Between a decision and the next answer, the operators that waited
//! have a turn, however fast the questions arrive.
//!
//! The dataflow ends when worker 0 knows that everything of the job is committed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Operator;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::worker::Worker;

use crate::fence::Fence;
use crate::fence::alarm::Alarm;
use crate::fence::checkpoints::Readiness;
use crate::fence::dropped::ClockWatch;
use crate::ids::Epoch;

/// The worker that asks and decides.
const LEADER: usize = 0;

/// When the first checkpoint is chosen in every view but the first, so that replayed records are committed
/// soon.
const FIRST_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What the leader sends to a worker: the worker's index and, once it has decided, the checkpoint.
type Order = (usize, u64);

type Builder<D> = CapacityContainerBuilder<Vec<D>>;

/// Builds the clock on this worker, if the job has one.
pub(crate) fn build(worker: &mut Worker, fence: &Fence) {
    let Some(interval) = fence.generation().settings.checkpoint_interval else { return };
    worker.dataflow_named::<u64, _, _>("Checkpoint clock", |scope| {
        let asked = ask(scope, fence, interval);
        let answers = answer(asked, fence);
        let decided = decide(answers, fence);
        learn(decided, fence);
    });
}

/// Asks all workers for a checkpoint every `interval`; the rounds are the dataflow's time.
fn ask<'scope>(
    scope: Scope<'scope, u64>,
    fence: &Fence,
    interval: Duration,
) -> StreamVec<'scope, u64, Order> {
    let mut builder = OperatorBuilder::new("Checkpoint: ask".to_owned(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    // At the end, and when there is room for one more.
    fence.commit().wake_on_committed(activator.clone());
    fence.commit().wake_on_recorded(activator.clone());
    fence.checkpoints().wake_on_decision(activator.clone());
    let (output, orders) = builder.new_output();
    let fence = fence.clone();
    builder.build(move |capabilities| {
        let mut output = OutputBuilder::<u64, Builder<Order>>::from(output);
        let mut held = capabilities.into_iter().next().filter(|_| fence.worker() == LEADER);
        let begun = fence.generation().clock.elapsed();
        let first =
            if fence.is_first_view() { interval } else { interval.min(FIRST_AFTER_FAILURE) };
        let mut due = begun + first;
        let mut alarm = Alarm::new(activator.clone());
        move |_frontiers| {
            fence.leave_if_stopping();
            let Some(capability) = &mut held else { return };
            if fence.commit().committed() == Some(Epoch::END) {
                held = None;
                return;
            }
            let now = fence.generation().clock.elapsed();
            // If there are already too many, one more would not be committed sooner. Each decision, record or
            // commit wakes it.
            if fence.checkpoints().is_asking() || fence.has_checkpoints_enough() {
                return;
            }
            if now >= due {
                due = now + interval;
                let round = *capability.time() + 1;
                let mut output = output.activate();
                output.session(capability).give_iterator((0..fence.peers()).map(|to| (to, round)));
                drop(output);
                capability.downgrade(&round);
                fence.checkpoints().ask();
                return;
            }
            alarm.wake_after(&fence, due - now);
        }
    });
    orders
}

/// Answers with the greatest epoch that this worker has begun, beyond which it then begins none.
fn answer<'scope>(
    asked: StreamVec<'scope, u64, Order>,
    fence: &Fence,
) -> StreamVec<'scope, u64, u64> {
    let fence = fence.clone();
    let scope = asked.scope();
    let pact = Exchange::new(|(to, _): &Order| *to as u64);
    asked.unary::<Builder<u64>, _, _, _>(pact, "Checkpoint: answer", |_capability, info| {
        let activator = scope.activator_for(info.address);
        fence.checkpoints().wake_on_decision(activator.clone());
        let mut waiting = VecDeque::new();
        move |input, output| {
            fence.leave_if_stopping();
            input.for_each(|capability, orders| {
                let Some(capability) = capability.retain_least(0) else { return };
                waiting.extend(orders.drain(..).map(|_order| capability.clone()));
            });
            if waiting.is_empty() {
                return;
            }
            match fence.checkpoints().readiness() {
                Readiness::Now => {
                    if let Some(capability) = waiting.pop_front() {
                        output.session(&capability).give(fence.checkpoints().answer().0);
                    }
                }
                Readiness::AfterOthers => activator.activate(),
                Readiness::AfterDecision => {}
            }
        }
    })
}

/// Takes the greatest of the answers, once all have arrived.
fn decide<'scope>(
    answers: StreamVec<'scope, u64, u64>,
    fence: &Fence,
) -> StreamVec<'scope, u64, Order> {
    let fence = fence.clone();
    let pact = Exchange::new(|_answer: &u64| LEADER as u64);
    answers.unary::<Builder<Order>, _, _, _>(pact, "Checkpoint: decide", |_capability, _info| {
        // How many workers have answered in a round, and the greatest of their answers.
        let mut rounds = BTreeMap::<u64, (usize, u64)>::new();
        move |input, output| {
            fence.leave_if_stopping();
            input.for_each(|capability, answers| {
                let Some(&round) = capability.least() else { return };
                let (count, greatest) = rounds.entry(round).or_default();
                for answer in answers.drain(..) {
                    *count += 1;
                    *greatest = answer.max(*greatest);
                }
                if *count == fence.peers() {
                    let orders = (0..fence.peers()).map(|to| (to, *greatest));
                    output.session(&capability).give_iterator(orders);
                    rounds.remove(&round);
                }
            });
        }
    })
}

/// Makes a decision known on this worker.
fn learn(decided: StreamVec<'_, u64, Order>, fence: &Fence) {
    let scope = decided.scope();
    let mut builder = OperatorBuilder::new("Checkpoint: learn".to_owned(), scope);
    // Of the clock's parts, this one lives longest, so it is the one that is woken to leave.
    let address = builder.operator_info().address.to_vec();
    fence.generation().add_waker(scope.worker().sync_activator_for(address));
    let mut input = builder.new_input(decided, Exchange::new(|(to, _): &Order| *to as u64));
    let fence = fence.clone();
    let mut watch = ClockWatch::new(&fence);
    builder.build(move |_capabilities| {
        move |frontiers| {
            watch.look(frontiers[0].is_empty());
            fence.sign_of_life();
            input.for_each(|_capability, orders| {
                for (_, checkpoint) in orders.drain(..) {
                    fence.checkpoints().learn(Epoch(checkpoint));
                }
            });
        }
    });
}

#[cfg(test)]
mod tests;
