//! The fence: the per-worker handle behind every verb.
//!
//! | module | noun |
//! | --- | --- |
//! | [`generation`] | what all workers of a process share while one view lasts |
//! | `checkpoints` | the epochs that a worker knows to be checkpoints |
//! | `commit` | what a worker knows to be recorded and committed |
//! | [`whereabouts`] | the operator, epoch and partition that a worker is working on |
//! | `panics` | where a panic began |
//! | `building` | what a worker builds, admitted one by one |
//! | [`catalogue`] | what a worker has built, compared with what the others have |
//! | [`origins`] | which operators bring something in, and whether they are protected |
//! | `dropped` | dataflows that a job ends by dropping them |
//! | `careful` | dropping the job's own values with care |
//! | `alarm` | wakes an operator later |

pub(crate) mod alarm;
mod building;
pub(crate) mod careful;
pub mod catalogue;
pub(crate) mod checkpoints;
pub(crate) mod commit;
pub(crate) mod dropped;
pub mod generation;
pub mod origins;
pub(crate) mod panics;
pub mod whereabouts;

pub use building::NAME_BYTES_MAX;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use timely::dataflow::{Scope, Stream};
use timely::progress::Timestamp;
use timely::scheduling::Activator;
use timely::worker::{Config, Worker};

use crate::error::{JobError, Leave};
use crate::fence::checkpoints::Checkpoints;
use crate::fence::commit::Commit;
use crate::fence::generation::{Generation, Notice};
use crate::fence::origins::Origins;
use crate::fence::whereabouts::{Active, Whereabouts};
use crate::hash::partition_of_shard;
use crate::ids::{Epoch, OperatorName, PartitionId, Share};
use crate::snapshot::operator_id;
use crate::time::FencedTime;
use crate::vault::{Opened, VaultError};

const CONFIG_KEY: &str = "ringfence";

/// How long the first epoch of a view after the first lasts at most.
const FIRST_EPOCH_AFTER_FAILURE: Duration = Duration::from_millis(10);

thread_local! {
    /// The fences of this thread's workers: one, or many under the simulator.
    static FENCES: RefCell<HashMap<(u64, usize), Fence>> = RefCell::new(HashMap::new());
}

/// A worker's part in a generation; clones share it.
///
/// [`HasFence`] reaches the fence from anything that knows its worker; no verb needs one as an argument.
///
/// ```
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing;
///
/// testing::run::<u64, _>(2, |scope, output| {
///     assert_eq!(scope.fence().peers(), 2);
///     assert!(scope.fence().is_first_view());
///     per_share(|share| std::iter::once(share.index))
///         .to_stream_fenced(scope, "shares")
///         .sink_fenced("out", output);
/// });
/// ```
#[derive(Clone)]
pub struct Fence {
    inner: Rc<Inner>,
}

struct Inner {
    generation: Arc<Generation>,
    worker: usize,
    peers: usize,
    names: RefCell<Vec<OperatorName>>,
    /// The targets of the sinks that were built so far.
    targets: RefCell<Vec<(OperatorName, String)>>,
    origins: Origins,
    /// How many items of this worker's catalogue have been compared.
    items: Cell<usize>,
    /// The vault's numbers of what was built, with a description of each.
    numbers: RefCell<BTreeMap<u64, String>>,
    prefix: RefCell<Vec<String>>,
    /// How many partitions the wrapped operators get that are currently built; `None` for all of the view's
    /// partitions.
    partition_count: Cell<Option<u32>>,
    commit: Commit,
    checkpoints: Checkpoints,
    built: Cell<bool>,
    /// Whether this worker knows that all workers have built the same.
    agreed: Cell<bool>,
    /// How many dataflows this worker knows to be dropped by all workers.
    gone: Cell<usize>,
    /// The numbers of the operators that were dropped in an earlier view.
    void: BTreeSet<u64>,
    /// Set once dataflows are dropped because the worker is torn down.
    is_torn_down: Cell<bool>,
    is_failing: Cell<bool>,
    failing: RefCell<Option<JobError>>,
    /// When, by the generation's clock, the first source of this worker began to read.
    reading_since: Cell<Option<Duration>>,
    whereabouts: Arc<Whereabouts>,
    /// Set once this worker's state may be partially updated: then none of it is kept.
    tainted: Cell<bool>,
    /// Set once this worker leaves with all of its state consistent.
    leaving: Cell<bool>,
}

/// Reaches the [`Fence`] of a worker.
pub trait HasFence {
    /// The fence of this worker.
    ///
    /// # Panics
    ///
    /// Panics if the worker was not started by `ringfence::execute` or `execute_from_args`: plain timely has
    /// nothing that could protect a job.
    fn fence(&self) -> Fence;
}

impl HasFence for Worker {
    fn fence(&self) -> Fence {
        let generation = self.config().get::<Arc<Generation>>(CONFIG_KEY);
        generation
            .and_then(|generation| {
                FENCES.with_borrow(|fences| fences.get(&(generation.id, self.index())).cloned())
            })
            .unwrap_or_else(|| {
                panic!(
                    "this worker is not fenced: start the job with `ringfence::execute_from_args` \
                     in place of `timely::execute_from_args`"
                )
            })
    }
}

impl<T: Timestamp> HasFence for Scope<'_, T> {
    fn fence(&self) -> Fence {
        self.worker().fence()
    }
}

impl<T: Timestamp, C> HasFence for Stream<'_, T, C> {
    fn fence(&self) -> Fence {
        self.scope().fence()
    }
}

impl Fence {
    /// Puts a generation into the configuration of its workers.
    pub fn configure(generation: &Arc<Generation>, config: &mut Config) {
        config.set(CONFIG_KEY.to_owned(), Arc::clone(generation));
    }

    /// Fences `worker` until the returned guard is dropped.
    pub fn enter(generation: &Arc<Generation>, worker: &Worker) -> FenceGuard {
        let key = (generation.id, worker.index());
        let fence = Fence {
            inner: Rc::new(Inner {
                generation: Arc::clone(generation),
                worker: worker.index(),
                peers: worker.peers(),
                names: RefCell::default(),
                targets: RefCell::default(),
                origins: Origins::default(),
                items: Cell::new(0),
                numbers: RefCell::default(),
                prefix: RefCell::default(),
                partition_count: Cell::new(None),
                commit: Commit::resume(generation.resume),
                checkpoints: Checkpoints::resume(
                    generation.resume,
                    generation.settings.checkpoint_interval.is_some(),
                ),
                built: Cell::new(false),
                agreed: Cell::new(generation.is_agreed()),
                gone: Cell::new(0),
                void: generation.vault.dropped(),
                is_torn_down: Cell::new(false),
                is_failing: Cell::new(false),
                failing: RefCell::default(),
                reading_since: Cell::new(None),
                whereabouts: generation.place_worker(worker.index()),
                tainted: Cell::new(false),
                leaving: Cell::new(false),
            }),
        };
        FENCES.with_borrow_mut(|fences| fences.insert(key, fence.clone()));
        FenceGuard { key, fence }
    }

    /// What this worker shares with the other workers of its process.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.inner.generation
    }

    /// The index of the worker in this generation. It may be different after a view change.
    pub fn worker(&self) -> usize {
        self.inner.worker
    }

    /// Where this worker is.
    pub fn whereabouts(&self) -> &Whereabouts {
        &self.inner.whereabouts
    }

    /// The number of workers of this generation.
    pub fn peers(&self) -> usize {
        self.inner.peers
    }

    /// Prefixes the names of the protected operators that `build` makes.
    ///
    /// A helper function that is used twice in a job needs this, since a name may be used only once.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::operators::Concat;
    /// use timely::dataflow::{Scope, StreamVec};
    ///
    /// fn numbers<'scope>(scope: Scope<'scope, u64>, prefix: &str) -> StreamVec<'scope, u64, u64> {
    ///     scope.fence().named(prefix, || {
    ///         per_share(|_share| 0..3u64).to_stream_fenced(scope, "numbers")
    ///     })
    /// }
    ///
    /// let mut all = testing::run(1, |scope, output| {
    ///     let (left, right) = (numbers(scope, "left"), numbers(scope, "right"));
    ///     left.concat(right).sink_fenced("all", output);
    /// });
    /// all.sort();
    /// assert_eq!(all, [0, 0, 1, 1, 2, 2]);
    /// ```
    pub fn named<R>(&self, prefix: &str, build: impl FnOnce() -> R) -> R {
        self.inner.prefix.borrow_mut().push(prefix.to_owned());
        let result = build();
        self.inner.prefix.borrow_mut().pop();
        result
    }

    /// Gives each wrapped operator that `build` makes `count` partitions, instead of all partitions of the
    /// job.
    ///
    /// A wrapped operator has one closure for each partition, and calls all closures of a worker whenever its
    /// frontier moves. If epochs hold few records, these calls are most of the cost, and an operator with
    /// fewer partitions costs less. It cannot use more workers than it has partitions, and fewer partitions
    /// are spread less evenly over workers.
    ///
    /// Each of the operator's partitions corresponds to one of the job's, spread evenly over them, and moves
    /// with it. A number greater than that of the job's partitions means all of them. Keyed verbs, sources
    /// and sinks are not affected. Nor are operators with a `Pipeline` input, because each worker needs a
    /// partition for it. The number must not change during a run.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::channels::pact::Exchange;
    ///
    /// let mut sums = testing::run(2, |scope, output| {
    ///     let numbers = per_share(|_share| 0..10u64).to_stream_fenced(scope, "numbers");
    ///     let by_parity = Exchange::new(|n: &u64| *n);
    ///     scope.fence().partitions(2, || {
    ///         numbers.unary_frontier_fenced(by_parity, "sums", |capability, state| {
    ///             assert_eq!(state.partitions(), 2);
    ///             let mut held = state.capabilities("held").starting_with(capability);
    ///             let mut sum = state.value("sum", 0);
    ///             move |(input, frontier), output| {
    ///                 input.for_each(|_, numbers| {
    ///                     *sum.get_mut() += numbers.drain(..).sum::<u64>();
    ///                 });
    ///                 if frontier.is_empty() {
    ///                     if let Some(capability) = held.iter().next() {
    ///                         output.session(capability).give(*sum.get());
    ///                     }
    ///                     held.downgrade_all([0u64; 0]);
    ///                 }
    ///             }
    ///         })
    ///     })
    ///     .sink_fenced("out", output);
    /// });
    /// sums.sort();
    /// assert_eq!(sums, [2 * 20, 2 * 25]);
    /// ```
    pub fn partitions<R>(&self, count: u32, build: impl FnOnce() -> R) -> R {
        let before = self.inner.partition_count.replace(Some(count.max(1)));
        let result = build();
        self.inner.partition_count.set(before);
        result
    }

    /// The partitions of the wrapped operator that is currently built, in the order of their numbers within
    /// the operator.
    pub(crate) fn partitions_of_operator(&self) -> Vec<PartitionId> {
        let all = self.inner.generation.routes.partitions();
        let count = self.inner.partition_count.get().map_or(all, |count| count.min(all)) as usize;
        (0..count).map(|number| partition_of_shard(number, count, all)).collect()
    }

    /// Whether this is the first view: nothing was committed and nothing released before it.
    pub fn is_first_view(&self) -> bool {
        self.inner.generation.view.0 == 1 && !self.is_resumed()
    }

    /// Whether this cluster goes on where another one ended, and has not committed anything yet.
    pub(crate) fn is_resumed(&self) -> bool {
        let durable = &self.inner.generation.settings.durable;
        durable.as_ref().is_some_and(|durable| durable.is_resumed)
    }

    /// Through which epoch results may be released, and whether more is committed that is not durable yet.
    pub(crate) fn releasable(&self) -> (Option<Epoch>, bool) {
        let committed = self.commit().committed();
        let durable = self.inner.generation.settings.durable.as_ref();
        let Some(durable) = durable.filter(|durable| durable.commit_waits) else {
            return (committed, false);
        };
        let durable = durable.through.load(Ordering::Acquire).checked_sub(1).map(Epoch);
        // The end of time is 1 less than what a number can hold.
        (committed.min(durable), committed > durable)
    }

    pub(crate) fn commit(&self) -> &Commit {
        &self.inner.commit
    }

    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.inner.checkpoints
    }

    pub(crate) fn origins(&self) -> &Origins {
        &self.inner.origins
    }

    /// Whether this worker's job is built.
    pub(crate) fn is_built(&self) -> bool {
        self.inner.built.get()
    }

    /// The partitions that this worker runs.
    pub fn owned(&self) -> Vec<PartitionId> {
        self.inner.generation.routes.owned_by(self.inner.worker).collect()
    }

    /// Whether there are fewer partitions than workers, so that some run none.
    pub(crate) fn some_have_no_partition(&self) -> bool {
        let owners = &self.inner.generation.routes.owners;
        (0..self.inner.peers).any(|worker| !owners.contains(&worker))
    }

    /// Ends the job before it has begun if every worker needs a partition but there are fewer partitions than
    /// workers. Later views are not refused for this reason: a worker without a partition matters only if
    /// records reach it, which is a separate error.
    pub(crate) fn require_partitions(&self, operator: &OperatorName, why: &str) {
        let (partitions, peers) = (self.inner.generation.routes.partitions(), self.inner.peers);
        if self.inner.generation.view.0 == 1 && (partitions as usize) < peers {
            let what = format!(
                "{why}, but there are {partitions} partitions for {peers} workers: give the job at least as \
                 many partitions as workers (--partitions)"
            );
            self.misplaced(operator, what);
        }
    }

    /// The number of shares of hand-fed input, fixed for the whole run: the number of workers that the run
    /// began with.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    ///
    /// testing::run::<u64, _>(2, |scope, output| {
    ///     let fence = scope.fence();
    ///     assert_eq!(fence.share_count(), 2);
    ///     let mine: Vec<u64> = fence.shares().iter().map(|share| share.index).collect();
    ///     assert!(mine.iter().all(|index| fence.has_share(*index)));
    ///     per_share(|share| std::iter::once(share.index))
    ///         .to_stream_fenced(scope, "shares")
    ///         .sink_fenced("out", output);
    /// });
    /// ```
    pub fn share_count(&self) -> u64 {
        self.inner.generation.settings.share_count.into()
    }

    /// The shares of hand-fed input that this worker has, in order.
    ///
    /// Whatever a program does "on worker i", it does for share i instead: a share belongs to a partition and
    /// moves with it, so that a dead worker's shares continue on its successors. A worker may have several
    /// shares, or none. See [`share_count`](Fence::share_count) for an example.
    pub fn shares(&self) -> Vec<Share> {
        let count = self.share_count();
        (0..count)
            .filter(|index| self.has_share(*index))
            .map(|index| Share { index, count })
            .collect()
    }

    /// Whether this worker has share `index` of hand-fed input.
    ///
    /// Instead of `if worker.index() == 0`, a program asks for share 0: exactly one worker of each generation
    /// has it.
    pub fn has_share(&self, index: u64) -> bool {
        index < self.share_count()
            && self.inner.generation.routes.owner(self.partition_of_share(index))
                == self.inner.worker
    }

    /// The partition that a share belongs to.
    pub(crate) fn partition_of_share(&self, index: u64) -> PartitionId {
        let count = self.inner.generation.settings.share_count as usize;
        partition_of_shard(index as usize, count, self.inner.generation.routes.partitions())
    }

    /// The first time that is not committed, at which the capabilities of protected operators begin.
    pub(crate) fn resume_time<T: FencedTime>(&self) -> T {
        match self.inner.generation.resume {
            None => T::minimum(),
            Some(resume) => T::first_of(resume.next()),
        }
    }

    /// An abort point within an activation, for activations that may take long.
    ///
    /// SUBTLE: it may be used only where the operator's tables contain complete updates. Their undo lists
    /// then revert everything that the activation has done.
    pub(crate) fn leave_if_stopping(&self) {
        if self.inner.generation.is_stopping() {
            self.leave();
        }
    }

    /// The abort point, at the start of each activation of a protected operator.
    ///
    /// SUBTLE: it comes before the activation touches anything, so that a worker that leaves here leaves its
    /// state in a form that can be rewound.
    pub(crate) fn check(&self, operator: &OperatorName) -> Active<'_> {
        self.leave_if_stopping();
        self.built();
        if self.inner.is_failing.get() {
            self.fail_now();
        }
        let active = self.active(operator);
        self.inner.generation.pulse(self.inner.worker);
        if self.inner.generation.take_panic() {
            panic!("injected fault: panic in operator \"{operator}\"");
        }
        active
    }

    /// Wakes the operators that wait to record, once all processes are known to have built the same job, or
    /// to have dropped a dataflow.
    pub(crate) fn heed_others(&self) {
        let generation = &self.inner.generation;
        let mut is_news = !self.inner.agreed.get() && generation.is_agreed();
        self.inner.agreed.set(generation.is_agreed());
        if self.inner.gone.get() < generation.gone_count() {
            let gone = generation.drops.gone();
            self.inner.gone.set(gone.len());
            gone.into_iter().for_each(|dataflow| self.inner.commit.leave(dataflow));
            is_news = true;
        }
        if is_news {
            self.inner.commit.wake_recorders();
        }
    }

    /// Whether dataflows are dropped because the worker is torn down, or because an unwind interrupts
    /// building one. Only what the job itself drops is dropped on purpose.
    pub(crate) fn is_torn_down(&self) -> bool {
        self.inner.is_torn_down.get() || std::thread::panicking()
    }

    /// Ends the job with an error at the next activation of a protected operator.
    pub(crate) fn fail_soon(&self, error: JobError) {
        self.inner.failing.borrow_mut().get_or_insert(error);
        self.inner.is_failing.set(true);
    }

    fn fail_now(&self) {
        self.inner.is_failing.set(false);
        if let Some(error) = self.inner.failing.take() {
            self.fail(error);
        }
    }

    /// Whether the job has previously dropped a dataflow with this operator.
    pub(crate) fn is_void(&self, name: &OperatorName) -> bool {
        self.inner.void.contains(&operator_id(name))
    }

    /// Notes that a protected operator is working.
    pub(crate) fn active(&self, operator: &OperatorName) -> Active<'_> {
        let names = self.inner.names.borrow();
        // There are few operators and names are shared: comparing pointers is faster than comparing text.
        let index = names.iter().position(|name| Arc::ptr_eq(&name.0, &operator.0));
        self.inner.whereabouts.enter(index.unwrap_or(names.len()))
    }

    /// The abort point of an operator that is not part of the job.
    pub(crate) fn sign_of_life(&self) {
        self.leave_if_stopping();
        if self.inner.built.get() {
            self.inner.generation.pulse(self.inner.worker);
        }
    }

    /// Whether so many known checkpoints are not recorded that sources will wait.
    pub(crate) fn has_checkpoints_enough(&self) -> bool {
        let count = self.inner.generation.settings.in_flight_epochs_max;
        self.inner.checkpoints.limit(self.inner.commit.recorded(), count).is_some()
    }

    /// Leaves the generation, between two updates of any table.
    ///
    /// SUBTLE: if the job is still being built, this unwind drops the tables that were already restored. They
    /// are consistent, and still go back to the vault.
    fn leave(&self) -> ! {
        self.inner.leaving.set(true);
        Leave::Stopped.now()
    }

    /// Whether the current unwind, if there is one, left all tables consistent.
    pub(crate) fn is_leaving(&self) -> bool {
        self.inner.leaving.get()
    }

    /// Ends the job with an error.
    pub(crate) fn fail(&self, error: JobError) -> ! {
        Leave::Failed(error.cut()).now()
    }

    /// Ends the job: the state of a partition of `operator` cannot be used.
    pub(crate) fn unusable(
        &self,
        operator: &OperatorName,
        partition: PartitionId,
        why: impl Display,
    ) -> ! {
        let what = why.to_string();
        self.fail(JobError::State { operator: operator.clone(), partition, what })
    }

    /// Ends the job: records are at a worker that cannot process them, or cannot be brought to one.
    pub(crate) fn misplaced(&self, operator: &OperatorName, what: impl Display) -> ! {
        self.fail(JobError::Misplaced { operator: operator.clone(), what: what.to_string() })
    }

    /// Opens the replica of a partition at the epoch `resume`, which is there.
    pub(crate) fn open_replica(
        &self,
        operator: &OperatorName,
        id: u64,
        partition: PartitionId,
        resume: Epoch,
    ) -> Opened {
        let generation = self.generation();
        match generation.vault.open_replica(generation.view, id, partition) {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                self.fail(JobError::NoCopy { operator: operator.clone(), partition, resume })
            }
            Err(error) if error.is_late() => self.leave(),
            Err(error) => self.unusable(operator, partition, error),
        }
    }

    /// Leaves because the vault refused something of `operator`: quietly where this generation is over.
    pub(crate) fn refused(&self, operator: &OperatorName, error: &VaultError) -> ! {
        if error.is_late() {
            self.leave();
        }
        self.fail(JobError::Vault { operator: operator.clone(), what: error.to_string() })
    }

    /// Wakes an operator after `delay` or earlier, so that it checks the generation's clock again.
    pub(crate) fn wake_after(&self, activator: &Activator, delay: Duration) {
        if self.inner.generation.clock.is_virtual() {
            activator.activate()
        } else {
            activator.activate_after(delay)
        }
    }

    /// Ends this generation: received data is damaged, and will be sent again to a new generation.
    pub(crate) fn leave_damaged(&self, error: JobError) -> ! {
        Leave::Damaged(error.cut()).now()
    }

    pub(crate) fn notice(&self, notice: Notice) {
        self.inner.generation.observer.notice(notice);
    }

    /// Whether this worker's state may be partially updated.
    pub(crate) fn is_tainted(&self) -> bool {
        self.inner.tainted.get()
    }

    /// The epoch at which the sources' clock begins: the first one after what is committed.
    pub(crate) fn first_epoch(&self) -> Epoch {
        self.inner.generation.resume.map_or(Epoch(0), Epoch::next)
    }

    /// The epoch that a source of `dataflow` should be in, according to the clock and the throttle.
    ///
    /// The throttle depends on what the source's own dataflow has stored: another dataflow may wait for this
    /// one, and would hold back what is committed.
    pub(crate) fn clock_epoch(&self, dataflow: usize) -> ClockEpoch {
        let settings = &self.inner.generation.settings;
        let interval = settings.epoch_interval;
        let now = self.inner.generation.clock.elapsed();
        let since = self.inner.reading_since.get().unwrap_or_else(|| {
            self.inner.reading_since.set(Some(now));
            now
        });
        // After a failure the first epoch is short, so that replayed records are committed soon.
        let lead = if self.is_first_view() {
            Duration::ZERO
        } else {
            interval.saturating_sub(FIRST_EPOCH_AFTER_FAILURE)
        };
        let elapsed = now.saturating_sub(since) + lead;
        let ticks = elapsed.as_nanos() / interval.as_nanos().max(1);
        let first = self.first_epoch().0;
        let by_clock = first.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX));
        let stored = self.inner.commit.stored_in(dataflow);
        let limit = self.inner.checkpoints.limit(stored, settings.in_flight_epochs_max);
        let limit = limit.map_or(u64::MAX, |limit| limit.0);
        let end = Epoch::END.0;
        ClockEpoch { epoch: Epoch(by_clock.min(limit).min(end)), throttled: by_clock > limit }
    }
}

/// The position of a source according to the clock.
pub(crate) struct ClockEpoch {
    pub(crate) epoch: Epoch,
    /// The source is as far ahead of what is stored as is permitted.
    pub(crate) throttled: bool,
}

/// Keeps a worker fenced; unfences it when dropped.
pub struct FenceGuard {
    key: (u64, usize),
    fence: Fence,
}

impl FenceGuard {
    /// The fence that it guards.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Announces that the worker is about to be torn down.
    pub(crate) fn tear_down(&self) {
        self.fence.inner.is_torn_down.set(true);
    }

    /// Announces that a panic may have left this worker's state partially updated: none of it is kept.
    pub fn taint(&self) {
        self.fence.inner.tainted.set(true);
    }
}

impl Drop for FenceGuard {
    fn drop(&mut self) {
        FENCES.with_borrow_mut(|fences| fences.remove(&self.key));
    }
}
