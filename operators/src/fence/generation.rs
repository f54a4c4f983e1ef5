//! A generation: what all workers of one process share while one view lasts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timely::scheduling::SyncActivator;

use crate::fence::catalogue::{Catalogue, Item};
use crate::fence::dropped::Drops;
use crate::fence::whereabouts::Whereabouts;
use crate::hash::{KeyHasher, partition_of};
use crate::ids::{Epoch, OperatorName, PartitionId, ViewNumber};
use crate::vault::Vault;

/// Snapshots and journals that are larger than this travel in pieces of this many bytes.
///
/// Timely's buffers have 1 MiB. A container of frames below that size does not make them grow. A larger one
/// would, and the buffers would stay as large as the largest frame until the generation ends.
pub const PIECE_BYTES: usize = 448 << 10;

/// Who runs and who backs each partition, as timely worker indices of this generation.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// The worker that runs each partition.
    pub owners: Vec<usize>,
    /// The workers whose nodes hold each partition's replicas.
    pub backups: Vec<Vec<usize>>,
    /// Whether some of a partition's backups have no copy yet and must be filled.
    pub filling: Vec<bool>,
}

impl Routes {
    /// The number of partitions.
    pub fn partitions(&self) -> u32 {
        self.owners.len() as u32
    }

    /// The worker that runs `partition`.
    pub fn owner(&self, partition: PartitionId) -> usize {
        self.owners[partition.0 as usize]
    }

    /// The worker that runs the partition of a key, from the key's hash.
    #[inline]
    pub fn owner_of_hash(&self, hash: u64) -> usize {
        self.owners[partition_of(hash, self.partitions()).0 as usize]
    }

    /// The partitions that `worker` runs, in order.
    pub fn owned_by(&self, worker: usize) -> impl Iterator<Item = PartitionId> + '_ {
        self.owners
            .iter()
            .enumerate()
            .filter(move |&(_, &owner)| owner == worker)
            .map(|(partition, _)| PartitionId(partition as u32))
    }
}

/// The settings of a generation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How keys are hashed; the same for the whole run.
    pub hasher: KeyHasher,
    /// How long an epoch lasts at a source.
    pub epoch_interval: Duration,
    /// How often a checkpoint is chosen; `None` if every epoch is a checkpoint.
    pub checkpoint_interval: Option<Duration>,
    /// How many checkpoints a source may be ahead of what is stored.
    pub in_flight_epochs_max: u64,
    /// The identity of the run, which sinks and markers carry.
    pub run: String,
    /// The number of workers of each node.
    pub workers_per_node: usize,
    /// The number of shares of hand-fed inputs: the number of workers of the first view.
    pub share_count: u32,
    /// How many bytes per second this process may send to fill lost copies.
    pub refill_bytes_per_second: u64,
    /// Larger snapshots and journals travel in pieces of this many bytes: [`PIECE_BYTES`], except in a
    /// simulation.
    pub piece_bytes: usize,
    /// What to do about a durable tier, if there is one.
    pub durable: Option<DurableSettings>,
}

/// What operators must know of a durable tier.
#[derive(Clone, Debug)]
pub struct DurableSettings {
    /// Whether this cluster goes on where another one ended, and has not committed anything yet.
    pub is_resumed: bool,
    /// Whether the other one may have released something after the resume epoch, which is to be taken back.
    pub cuts_back: bool,
    /// Whether results are released only once they are durable.
    pub commit_waits: bool,
    /// 1 more than the last durable epoch; 0 before any.
    pub through: Arc<AtomicU64>,
}

/// What remains to be done once the whole job is done, such as removing a marker.
pub type WhenDone = Box<dyn FnOnce() -> std::io::Result<()> + Send>;

/// Time since the generation's view began, as the runtime or the simulator counts it.
pub trait Clock: Send + Sync {
    /// Time since the view began.
    fn elapsed(&self) -> Duration;

    /// Whether this time passes only when a simulator advances it, so that waiting in real time is useless.
    fn is_virtual(&self) -> bool {
        false
    }
}

/// An event inside a worker that users and supervisors want to know about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A worker has built the job's dataflows.
    Built {
        /// The index of the worker in this process.
        worker: usize,
    },
    /// A worker has dropped a protected dataflow before its end.
    Dropped {
        /// The index of the worker in this process.
        worker: usize,
        /// The dataflow, as timely counts them.
        dataflow: usize,
        /// Whether all workers of this process have.
        by_all: bool,
    },
    /// An operator has its state back.
    Restored {
        /// The index of the worker in this generation.
        worker: usize,
        /// The operator.
        operator: OperatorName,
        /// Partitions kept from the previous generation and rolled back to the resume epoch.
        rewound: usize,
        /// Partitions opened from their replicas.
        opened: usize,
        /// Encoded bytes of those replicas.
        bytes_opened: usize,
        /// Keys whose value was undone.
        keys_rewound: usize,
        /// How long it took.
        elapsed: Duration,
    },
    /// An epoch is committed, and every node knows.
    Committed {
        /// The epoch.
        epoch: Epoch,
    },
    /// A record that cannot be processed went to the dead letters. It may be reported again if its epoch is
    /// processed again.
    Quarantined {
        /// The operator.
        operator: OperatorName,
        /// The partition of it.
        partition: PartitionId,
        /// The epoch of the record.
        epoch: Epoch,
        /// The record as text.
        record: String,
    },
    /// A value of the job panicked when it was dropped, which changes nothing.
    DropPanicked {
        /// The operator that kept it; `None` if it was not part of a protected operator.
        operator: Option<OperatorName>,
        /// The panic's message and location.
        message: String,
    },
    /// A sink's target did not accept an epoch; the release is retried.
    ReleaseFailed {
        /// The sink.
        operator: OperatorName,
        /// The epoch.
        epoch: Epoch,
        /// The target's error.
        why: String,
    },
    /// A sink's target accepts epochs again.
    ReleaseRecovered {
        /// The sink.
        operator: OperatorName,
        /// How long it did not accept them.
        failed_for: Duration,
    },
    /// A worker's shards of a source are at the positions where the view resumes.
    Resumed {
        /// How many of their records had been read at the resume epoch.
        records: u64,
        /// How many more records the same worker's process had read, and reads again.
        replaying: u64,
    },
    /// The same shards have been read again as far as before the failure.
    CaughtUp {
        /// The source.
        operator: OperatorName,
    },
}

/// How far the input of a process has been read; counted again in each generation.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Units of input (bytes, for files) consumed from the shards that this process runs, from
    /// their beginning: what a dead process had consumed counts with its successor.
    pub consumed: AtomicU64,
    /// Units of input in all shards of all processes; 0 if unknown.
    pub total: AtomicU64,
    /// Records read from the shards that this process runs, from their beginning.
    pub records: AtomicU64,
    /// One more than the latest epoch that a source of this process has begun; 0 if none has begun.
    pub epochs_begun: AtomicU64,
}

/// Receives events from inside the workers; called on their threads, so it must be quick.
pub trait Observer: Send + Sync {
    /// Receives an event.
    fn notice(&self, notice: Notice);
}

/// What all workers of one process share while one view lasts.
pub struct Generation {
    /// Distinguishes the generations of one process, including simulated ones.
    pub id: u64,
    /// The view that it was built for.
    pub view: ViewNumber,
    /// The epoch to resume after: all up to it is committed. `None` before the first commit.
    pub resume: Option<Epoch>,
    /// The owner and the backups of each partition.
    pub routes: Routes,
    /// The rest of its settings.
    pub settings: Settings,
    /// Where snapshots and live state are kept.
    pub vault: Arc<dyn Vault>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// The receiver of events.
    pub observer: Arc<dyn Observer>,
    /// How far the input has been read.
    pub gauges: Arc<Gauges>,
    /// The partitions of operators in which a record made a worker panic before. Their records are kept until
    /// they are processed, so that the report of the next panic can include the record.
    pub watched: BTreeSet<(OperatorName, PartitionId)>,
    /// The directory for records that cannot be processed; `None` if such a record ends its worker.
    pub quarantine: Option<PathBuf>,
    /// What the workers build.
    pub(crate) catalogue: Catalogue,
    agreed: AtomicBool,
    /// Whether there are other processes in the view.
    has_others: bool,
    pub(crate) drops: Drops,
    gone_count: AtomicUsize,
    stopping: AtomicBool,
    panic_next: AtomicBool,
    wakers: Mutex<Vec<SyncActivator>>,
    /// For each worker of this process, how often a protected operator of it was activated.
    pulses: Vec<AtomicU64>,
    refill: Mutex<Refill>,
    when_done: Mutex<Vec<WhenDone>>,
    whereabouts: Mutex<Vec<Arc<Whereabouts>>>,
}

/// How much may currently be sent to fill copies.
#[derive(Debug, Default)]
struct Refill {
    allowance_bytes: u64,
    counted: Duration,
}

static GENERATIONS: AtomicU64 = AtomicU64::new(0);

impl Generation {
    /// Describes a generation that is about to be built.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        view: ViewNumber,
        resume: Option<Epoch>,
        routes: Routes,
        settings: Settings,
        vault: Arc<dyn Vault>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        gauges: Arc<Gauges>,
    ) -> Self {
        let pulses = (0..settings.workers_per_node).map(|_| AtomicU64::new(0)).collect();
        Generation {
            id: GENERATIONS.fetch_add(1, Ordering::Relaxed),
            view,
            resume,
            routes,
            settings,
            vault,
            clock,
            observer,
            gauges,
            watched: BTreeSet::new(),
            quarantine: None,
            catalogue: Catalogue::default(),
            agreed: AtomicBool::new(true),
            has_others: false,
            drops: Drops::default(),
            gone_count: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            panic_next: AtomicBool::new(false),
            wakers: Mutex::new(Vec::new()),
            pulses,
            refill: Mutex::default(),
            when_done: Mutex::new(Vec::new()),
            whereabouts: Mutex::new(Vec::new()),
        }
    }

    /// The same generation, with these partitions watched.
    pub fn watching(mut self, watched: BTreeSet<(OperatorName, PartitionId)>) -> Self {
        self.watched = watched;
        self
    }

    /// The same generation, with a quarantine in this directory.
    pub fn with_quarantine(mut self, directory: Option<PathBuf>) -> Self {
        self.quarantine = directory;
        self
    }

    /// The same generation, which records nothing before [`agree`](Generation::agree) is called.
    pub fn awaiting_agreement(mut self) -> Self {
        self.agreed.store(false, Ordering::SeqCst);
        self.has_others = true;
        self
    }

    /// Notes that all workers of all processes have dropped a dataflow.
    pub fn all_have_dropped(&self, dataflow: usize) {
        self.drops.set_gone(dataflow);
        self.gone_count.store(self.drops.gone().len(), Ordering::SeqCst);
        self.wake();
    }

    /// How many dataflows all workers of all processes have dropped.
    pub(crate) fn gone_count(&self) -> usize {
        self.gone_count.load(Ordering::Relaxed)
    }

    /// Reports that a worker of this process has dropped a dataflow.
    pub(crate) fn tell_dropped(&self, dataflow: usize, worker: usize, by_all: bool) {
        self.observer.notice(Notice::Dropped { worker, dataflow, by_all });
        if by_all && !self.has_others {
            self.all_have_dropped(dataflow);
        }
    }

    /// Notes that all processes of the view have built the same job.
    pub fn agree(&self) {
        self.agreed.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether all processes of the view are known to have built the same job.
    pub(crate) fn is_agreed(&self) -> bool {
        self.agreed.load(Ordering::Acquire)
    }

    /// What the workers of this process have built, once one of them has built everything.
    ///
    /// Each worker's catalogue is compared with this while it is built, and ends the job if it differs.
    pub fn built(&self) -> Option<Vec<Item>> {
        self.catalogue.whole()
    }

    /// The index in its process of a worker of the view.
    pub(crate) fn index_in_process(&self, worker: usize) -> usize {
        worker % self.settings.workers_per_node.max(1)
    }

    /// Where the workers of this process are, by their index.
    pub fn whereabouts(&self) -> Vec<Arc<Whereabouts>> {
        self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registers the whereabouts of a worker.
    pub(crate) fn place_worker(&self, worker: usize) -> Arc<Whereabouts> {
        let place = Arc::new(Whereabouts::new(worker % self.settings.workers_per_node.max(1)));
        let mut all = self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&place));
        place
    }

    /// Asks every worker to leave at its next protected operator, and wakes it.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether the workers were asked to leave.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Makes the next activation of any protected operator panic: an injected fault.
    pub fn panic_next(&self) {
        self.panic_next.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn take_panic(&self) -> bool {
        self.panic_next.load(Ordering::Relaxed) && self.panic_next.swap(false, Ordering::SeqCst)
    }

    /// Returns for each worker of this process a number that grows whenever the worker shows a sign of life.
    ///
    /// It is zero until the worker has built its dataflow.
    pub fn pulses(&self) -> Vec<u64> {
        self.pulses.iter().map(|pulse| pulse.load(Ordering::Relaxed)).collect()
    }

    /// Makes every worker that is not stuck show a sign of life.
    pub fn poke(&self) {
        self.wake();
    }

    pub(crate) fn pulse(&self, worker: usize) {
        // Only this worker writes it.
        let pulse = &self.pulses[worker % self.pulses.len()];
        pulse.store(pulse.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// How many bytes may currently be sent to fill copies.
    pub(crate) fn refill_allowance(&self) -> u64 {
        let rate = self.settings.refill_bytes_per_second;
        let now = self.clock.elapsed();
        let mut refill = self.refill.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_sub(refill.counted);
        let earned = u128::from(rate) * passed.as_micros() / 1_000_000;
        if earned > 0 {
            refill.counted = now;
            // An allowance that was not used for a long time is not spent all at once.
            let earned = u64::try_from(earned).unwrap_or(u64::MAX);
            refill.allowance_bytes = refill.allowance_bytes.saturating_add(earned).min(rate);
        }
        refill.allowance_bytes
    }

    /// Notes that `bytes` were sent to fill copies.
    pub(crate) fn refill_spend(&self, bytes: u64) {
        let mut refill = self.refill.lock().unwrap_or_else(PoisonError::into_inner);
        refill.allowance_bytes = refill.allowance_bytes.saturating_sub(bytes);
    }

    pub(crate) fn add_waker(&self, waker: SyncActivator) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    pub(crate) fn add_when_done(&self, action: WhenDone) {
        self.when_done.lock().unwrap_or_else(PoisonError::into_inner).push(action);
    }

    /// What the sinks still have to do once the whole job is done.
    pub fn take_when_done(&self) -> Vec<WhenDone> {
        std::mem::take(&mut *self.when_done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self) {
        for waker in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // An error means that the worker is gone: then there is nothing to wake.
            let _ = waker.activate();
        }
    }
}
