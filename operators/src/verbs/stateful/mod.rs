//! Keyed state that Ringfence manages: `fold_fenced`, `stateful_fenced`, and timers.

mod timers;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{OutputBuilder, OutputBuilderSession};

use self::timers::WithTimers;
use crate::data::{Data, Key};
use crate::error::{JobError, Leave};
use crate::fence::careful::Careful;
use crate::fence::{Fence, HasFence};
use crate::hash::partition_of;
use crate::ids::{OperatorName, PartitionId};
use crate::protected::outlet::{Outlet, Seal, Seals, advance};
use crate::protected::partitions::Partitions;
use crate::protected::route::{KeyRoute, to_owner};
use crate::protected::turns::{Turns, complete, time_of};
use crate::rounds::replicate::commit;
use crate::time::{EpochTime, FencedTime, passed, reached};
use crate::verbs::quarantine::{self, DeadLetters, Panic, Unfit, set_apart, watched_partitions};

/// How many results are collected before they are sent.
const GIVE_MAX: usize = 1024;

/// How many keys of an opened replica are decoded at each activation until none are left.
const DECODE_KEYS: usize = 512;

/// The output of a protected operator's closure.
pub struct Give<'a, R> {
    results: &'a mut Vec<R>,
}

impl<R> Give<'_, R> {
    /// Sends `result`, at the time of the record or timer that led to it.
    #[inline]
    pub fn give(&mut self, result: R) {
        self.results.push(result);
    }

    /// Sends all of `results`.
    pub fn give_iterator(&mut self, results: impl IntoIterator<Item = R>) {
        self.results.extend(results);
    }
}

/// The reason for which a stateful operator is called.
#[derive(Debug)]
pub enum Event<D> {
    /// A record of the key.
    Record(D),
    /// A time that was requested with [`At::wake_at`] is complete.
    Timer,
}

/// The context in which a stateful operator is called: key, state, time.
pub struct At<'a, K, S, T> {
    /// The key.
    pub key: &'a K,
    /// Its state, or the default value if the key has none.
    pub state: &'a mut S,
    /// The time of the record, or the one that was requested.
    pub time: &'a T,
    wake: &'a mut BTreeSet<T>,
    remove: &'a mut bool,
    /// Whether the call is for a timer of the current time.
    is_timer: bool,
}

impl<K, S, T> At<'_, K, S, T> {
    /// Requests a call with [`Event::Timer`] once all records up to and at `time` have been seen.
    ///
    /// A time before the current one counts as the current one. Timers are part of the state: they survive
    /// what the state survives. Two requests for the same time result in one call. A timer that requests its
    /// own time again is not called again.
    ///
    /// A timer holds its time open, up to the greatest value of the type. When the input has ended, all
    /// remaining timers fire, in order. So a timer that requests a later time whenever it fires must stop at
    /// some point, or the job never ends.
    ///
    /// There are no timers in iterative scopes, where a time may be complete and still occur again.
    pub fn wake_at(&mut self, time: T)
    where
        T: EpochTime,
    {
        if self.is_timer && time <= *self.time {
            return;
        }
        self.wake.insert(time.max(self.time.clone()));
    }

    /// Forgets the key's state after this call; its timers stay.
    pub fn remove(&mut self) {
        *self.remove = true;
    }
}

/// Keyed state that survives the loss of a worker.
pub trait Stateful<'scope, T: FencedTime, D: Data> {
    /// Folds the records of each key into state that survives the loss of a worker.
    ///
    /// Records are sent to the owner of their key's partition and applied epoch by epoch. `fold` gets the
    /// key's state (initially `init`), the record, and an output for results, which keep the record's time.
    /// `name` identifies the state across failures.
    ///
    /// In an iterative scope the outermost part of the time is the epoch: an epoch's records are applied
    /// as they come round, and those of later epochs wait until the loop has come to rest.
    ///
    /// The state as of the last committed epoch survives, and the job's sources replay later records. So
    /// `fold` may see a record again, but never on a state that has already absorbed it.
    ///
    /// ```
    /// use ringfence_operators::testing;
    /// use ringfence_operators::prelude::*;
    ///
    /// let totals = testing::run(2, |scope, output| {
    ///     per_share(|share| (0..10u64).filter(move |n| n % share.count == share.index))
    ///         .to_stream_fenced(scope, "numbers")
    ///         .fold_fenced("sums", |n| n % 2, 0, |sum, n, out| {
    ///             *sum += n;
    ///             out.give((n % 2, *sum));
    ///         })
    ///         .sink_fenced("totals", output);
    /// });
    /// assert!(totals.contains(&(0, 20)) && totals.contains(&(1, 25)));
    /// ```
    fn fold_fenced<K, S, R>(
        self,
        name: &str,
        key: impl Fn(&D) -> K + 'static,
        init: S,
        fold: impl FnMut(&mut S, D, &mut Give<'_, R>) + 'static,
    ) -> StreamVec<'scope, T, R>
    where
        K: Key,
        S: Data,
        R: Data;

    /// Runs `logic` for each record and each timer of a key, on state that survives.
    ///
    /// This is like [`fold_fenced`](Stateful::fold_fenced), with access to the key, timers, and removal: a
    /// key whose state was removed starts from the default again.
    ///
    /// ```
    /// use ringfence_operators::testing;
    /// use ringfence_operators::prelude::*;
    ///
    /// // Counts the records of each key and tells the count once the epoch is complete.
    /// let counts = testing::run(1, |scope, output| {
    ///     per_share(|_share| 0..6u64)
    ///         .to_stream_fenced(scope, "numbers")
    ///         .stateful_fenced("counts", |n| n % 3, |at, event, out| match event {
    ///             Event::Record(_) => {
    ///                 *at.state += 1u64;
    ///                 at.wake_at(*at.time);
    ///             }
    ///             Event::Timer => {
    ///                 out.give((*at.key, *at.state));
    ///                 at.remove();
    ///             }
    ///         })
    ///         .sink_fenced("told", output);
    /// });
    /// assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 6);
    /// ```
    fn stateful_fenced<K, S, R>(
        self,
        name: &str,
        key: impl Fn(&D) -> K + 'static,
        logic: impl FnMut(&mut At<'_, K, S, T>, Event<D>, &mut Give<'_, R>) + 'static,
    ) -> StreamVec<'scope, T, R>
    where
        K: Key,
        S: Data + Default,
        R: Data;
}

impl<'scope, T: FencedTime, D: Data> Stateful<'scope, T, D> for StreamVec<'scope, T, D> {
    fn fold_fenced<K, S, R>(
        self,
        name: &str,
        key: impl Fn(&D) -> K + 'static,
        init: S,
        fold: impl FnMut(&mut S, D, &mut Give<'_, R>) + 'static,
    ) -> StreamVec<'scope, T, R>
    where
        K: Key,
        S: Data,
        R: Data,
    {
        keyed(self, "fold_fenced", name, key, move |fence, name| Fold {
            states: Partitions::restore(fence, name, &mut |_| {}),
            init,
            fold,
        })
    }

    fn stateful_fenced<K, S, R>(
        self,
        name: &str,
        key: impl Fn(&D) -> K + 'static,
        logic: impl FnMut(&mut At<'_, K, S, T>, Event<D>, &mut Give<'_, R>) + 'static,
    ) -> StreamVec<'scope, T, R>
    where
        K: Key,
        S: Data + Default,
        R: Data,
    {
        keyed(self, "stateful_fenced", name, key, move |fence, name| {
            WithTimers::restore(fence, name, logic)
        })
    }
}

/// What a keyed operator does in its partitions; everything around it is the same for all of them.
trait Keyed<T: FencedTime, D, K, R>: Seals + 'static {
    /// Applies a record of `key`.
    fn record(&mut self, time: &T, at: Place<K>, record: D, out: &mut Give<'_, R>);
    /// Applies a record of `key` to a copy of its state, which counts only if that does not panic.
    fn attempt(
        &mut self,
        time: &T,
        at: Place<K>,
        record: D,
        out: &mut Give<'_, R>,
    ) -> Result<(), Panic>;
    /// The earliest time that has timers to fire.
    fn next_timer(&self) -> Option<T>;
    /// Fires the timers of a complete time.
    fn fire(&mut self, time: &T, out: &mut Give<'_, R>);
    /// Decodes some keys of opened replicas; returns whether all are decoded.
    fn decode_some(&mut self) -> bool;
    /// The identities of its state in the vault.
    fn ids(&self) -> Vec<u64>;
}

/// A key with its hash and partition.
struct Place<K> {
    key: K,
    hash: u64,
    partition: PartitionId,
}

/// Builds a keyed operator: alignment, seals, capabilities and outputs around `Keyed`.
fn keyed<'scope, T, D, K, R, O>(
    stream: StreamVec<'scope, T, D>,
    kind: &str,
    name: &str,
    key: impl Fn(&D) -> K + 'static,
    operator: impl FnOnce(&Fence, &OperatorName) -> O,
) -> StreamVec<'scope, T, R>
where
    T: FencedTime,
    D: Data,
    K: Data + Eq,
    R: Data,
    O: Keyed<T, D, K, R>,
{
    let fence = stream.fence();
    let scope = stream.scope();
    let short_name = name;
    let name = fence.admit(kind, name, scope);
    let key = Rc::new(key);
    let route_key = Rc::clone(&key);
    let pact = to_owner(&fence, &name, move |record: &D| route_key(record));

    let mut operator = Careful::new(&fence, &name, operator(&fence, &name));
    let ids = operator.ids();

    let mut builder = OperatorBuilder::new(name.to_string(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    fence.checkpoints().wake_on_decision(activator.clone());
    let mut input = builder.new_input(stream, pact);
    let (output, results) = builder.new_output();
    let (frames_output, frames) = builder.new_output();
    let quarantine = fence.generation().quarantine.clone();
    let letters = quarantine.is_some().then(|| builder.new_output());
    let (letters_output, letters) = letters.unzip();
    let (inner_fence, inner_name) = (fence.clone(), name.clone());
    builder.build(move |capabilities| {
        let (fence, name) = (inner_fence, inner_name);
        let resume = fence.resume_time::<T>();
        let mut capabilities = capabilities.into_iter();
        let (Some(mut held), Some(mut frames_held)) = (capabilities.next(), capabilities.next())
        else {
            unreachable!("timely gives one capability for each of the two outputs");
        };
        let mut letters = letters_output.zip(capabilities.next()).map(|(output, mut held)| {
            held.downgrade(&resume);
            DeadLetters::new(output, held)
        });
        held.downgrade(&resume);
        frames_held.downgrade(&resume);
        // Held for timers. In a loop it would hold back records that come round, and there are no timers.
        let mut held = (!T::NESTED).then_some(held);
        let mut outlet = Outlet::new(&fence, frames_output, frames_held);
        let mut output = OutputBuilder::<T, CapacityContainerBuilder<Vec<R>>>::from(output);
        let mut turns = Turns::<T, (Capability<T>, Vec<D>)>::new();
        let mut route = KeyRoute::new(fence.generation().settings.hasher);
        let partitions = fence.generation().routes.partitions();
        let mut results: Vec<R> = Vec::new();
        let mut decoded = fence.generation().resume.is_none();
        let watched = watched_partitions(&fence, &name);

        move |frontiers| {
            let _active = fence.check(&name);
            let frontier = &frontiers[0];
            let through = passed(frontier);
            input.for_each(|capability, batch| {
                let time = time_of(&fence, &name, capability.stamp());
                let capability = capability.delayed(&time, 0);
                turns.wait(time, (capability, std::mem::take(batch)));
            });
            let mut output = output.activate();
            loop {
                // A time with timers is processed like one with records, once it is complete.
                let timer = operator.next_timer().filter(|time| Some(time.epoch()) <= through);
                let time = match (&timer, turns.next(through)) {
                    (Some(timer), Some(record)) if timer < record => timer.clone(),
                    (_, Some(record)) => record.clone(),
                    (Some(timer), None) => timer.clone(),
                    (None, None) => break,
                };
                if !outlet.turn_to(time.epoch(), &mut *operator) {
                    break;
                }
                let turn = turns.take(&time);
                let capability = match (turn.first(), &held) {
                    (Some((capability, _)), _) => capability.clone(),
                    (None, Some(held)) => held.delayed(&time),
                    (None, None) => break,
                };
                let whereabouts = fence.whereabouts();
                whereabouts.set_epoch(time.epoch());
                for (_, batch) in turn {
                    fence.leave_if_stopping();
                    for record in batch {
                        let key = key(&record);
                        let hash = match route.hash(&key) {
                            Ok(hash) => hash,
                            Err(error) => fence.fail(JobError::Misplaced {
                                operator: name.clone(),
                                what: format!("a key cannot be encoded: {error}"),
                            }),
                        };
                        let partition = partition_of(hash, partitions);
                        whereabouts.set_partition(partition);
                        let at = Place { key, hash, partition };
                        if watched.is_empty() || !watched.contains(&partition) {
                            let mut out = Give { results: &mut results };
                            operator.record(&time, at, record, &mut out);
                        } else {
                            let tried = attempt(
                                &mut *operator,
                                &time,
                                at,
                                record,
                                &mut results,
                                letters.is_some(),
                            );
                            if let Err(unfit) = tried {
                                set_apart(&fence, &name, &time, unfit, letters.as_mut());
                            }
                        }
                        if results.len() >= GIVE_MAX {
                            flush(&mut output, &capability, &mut results);
                        }
                    }
                }
                if Some(time.epoch()) <= through {
                    while operator.next_timer().is_some_and(|timer| timer.less_equal(&time)) {
                        operator.fire(&time, &mut Give { results: &mut results });
                    }
                }
                flush(&mut output, &capability, &mut results);
                if !T::NESTED
                    && let Some(timer) = operator.next_timer()
                    && held.as_ref().is_none_or(|held| timer.less_than(held.time()))
                {
                    held = Some(capability.clone());
                }
                if let Some(letters) = &mut letters {
                    letters.flush(&time);
                }
            }
            // Pending timers keep their times open, and so do waiting records.
            let timer = operator.next_timer().map(|time| time.epoch());
            let waits = turns.first_epoch().into_iter().chain(timer).min();
            let done = complete(through, waits);
            outlet.pass(done, &mut *operator);
            // Without timers nothing is held: records that come back round a loop would wait for it forever.
            advance(&mut held, timer);
            let next = reached(frontier).into_iter().chain(waits).min();
            if let Some(letters) = &mut letters {
                letters.advance(next);
            }
            if !decoded {
                decoded = operator.decode_some();
                if !decoded {
                    activator.activate();
                }
            }
        }
    });
    commit(frames, &fence, &name, ids);
    if let (Some(letters), Some(root)) = (letters, quarantine) {
        quarantine::release(letters, short_name, &name, &root);
    }
    results
}

/// Processes a record without trusting it; with `again`, it retries once if the first attempt panics.
///
/// An attempt that panicked leaves neither state nor results.
fn attempt<T, D, K, R, O>(
    operator: &mut O,
    time: &T,
    at: Place<K>,
    record: D,
    results: &mut Vec<R>,
    again: bool,
) -> Result<(), Unfit<D>>
where
    T: FencedTime,
    D: Data,
    K: Data + Eq,
    O: Keyed<T, D, K, R>,
{
    let (before, partition) = (results.len(), at.partition);
    let mut tries = if again { 2 } else { 1 };
    loop {
        let again = Place { key: at.key.clone(), hash: at.hash, partition };
        let tried = operator.attempt(time, again, record.clone(), &mut Give { results });
        let Err(panic) = tried else { return Ok(()) };
        results.truncate(before);
        tries -= 1;
        // Our own unwind means that the worker must leave; it is not the record's fault.
        if tries == 0 || panic.is::<Leave>() {
            return Err(Unfit { record, partition, panic });
        }
    }
}

fn flush<T: FencedTime, R: 'static>(
    output: &mut OutputBuilderSession<'_, T, CapacityContainerBuilder<Vec<R>>>,
    capability: &Capability<T>,
    results: &mut Vec<R>,
) {
    if !results.is_empty() {
        output.session(capability).give_container(results);
        results.clear();
    }
}

struct Fold<K: Data + Eq, S: Data, F> {
    states: Partitions<K, S>,
    init: S,
    fold: F,
}

impl<K: Data + Eq, S: Data, F> Seals for Fold<K, S, F> {
    fn each(&mut self, seal: &mut dyn FnMut(&mut dyn Seal)) {
        seal(&mut self.states);
    }
}

impl<T, D, K, S, R, F> Keyed<T, D, K, R> for Fold<K, S, F>
where
    T: FencedTime,
    K: Data + Eq,
    S: Data,
    F: FnMut(&mut S, D, &mut Give<'_, R>) + 'static,
{
    #[inline]
    fn record(&mut self, _time: &T, at: Place<K>, record: D, out: &mut Give<'_, R>) {
        let (init, fold) = (&self.init, &mut self.fold);
        let table = self.states.table(at.partition);
        table.update(at.hash, at.key, || init.clone(), |state| fold(state, record, out));
    }

    fn attempt(
        &mut self,
        _time: &T,
        at: Place<K>,
        record: D,
        out: &mut Give<'_, R>,
    ) -> Result<(), Panic> {
        let table = self.states.table(at.partition);
        let mut state = table.get(at.hash, &at.key).cloned().unwrap_or_else(|| self.init.clone());
        let fold = &mut self.fold;
        catch_unwind(AssertUnwindSafe(|| fold(&mut state, record, out)))?;
        table.insert(at.hash, at.key, state);
        Ok(())
    }

    fn next_timer(&self) -> Option<T> {
        None
    }

    fn fire(&mut self, _time: &T, _out: &mut Give<'_, R>) {}

    fn decode_some(&mut self) -> bool {
        self.states.decode_some(DECODE_KEYS)
    }

    fn ids(&self) -> Vec<u64> {
        vec![self.states.id()]
    }
}
