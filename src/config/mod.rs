//! How a job is run.
//!
//! A [`Config`] comes from the command line ([`Config::from_args`]) or from the builder ([`Config::local`]
//! and similar functions). Both pass through [`Config::validate`], so that the same contradiction has the
//! same text. Nodes and launcher read its fields directly.

mod flags;
mod hosts;
mod validate;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringfence_operators::hash::KeyHasher;
use timely::WorkerConfig;
use timely::worker::ProgressMode;

use crate::chaos::{Fault, FaultParseError, RandomSpec};
use crate::error::{Error, Result};
use crate::protocol::member::{SUSPECT_MS, VIEWS_WITHOUT_COMMIT_MAX};
use crate::report::{FailureReport, OnFailure};

/// The environment variable by which a launcher tells a child which node it is.
pub const NODE_VARIABLE: &str = "RINGFENCE_NODE";

/// The greatest number of partitions.
pub const PARTITIONS_MAX: u32 = 65_536;

/// The greatest number of nodes that one launcher starts.
pub const LOCAL_NODES_MAX: usize = 1_024;

/// The greatest number of processes that are started by hand.
pub const PROCESSES_MAX: usize = 1_024;

/// The greatest number of worker threads in a process.
pub const WORKERS_MAX: usize = 1_024;

/// The longest time that can be set: a year. With this limit, sums of times cannot overflow.
pub const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The default for how fast lost copies are rebuilt.
const REFILL_MB_PER_SECOND: u64 = 64;

const BYTES_PER_MB: u64 = 1_000_000;

/// The shortest silence after which a node may count as failed: on a loaded machine, threads wait that long.
pub const SUSPECT_MIN: Duration = Duration::from_millis(50);

/// The least time for which a planned change of views waits for a commit.
const PLAN_WAIT_MIN: Duration = Duration::from_secs(1);

/// What this process is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The only process; its worker threads may fail.
    Single,
    /// The launcher of this many node processes.
    Local(usize),
    /// One of several processes that were started by hand.
    Member {
        /// The number of this process.
        process: usize,
        /// The addresses of all processes, including this one.
        addresses: Vec<String>,
    },
    /// A node process that a launcher started.
    Child {
        /// The number of this node.
        node: usize,
        /// The number of nodes that the launcher started.
        nodes: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Cluster {
    Single,
    Local(usize),
    Member { process: usize, addresses: Vec<String> },
}

/// How a job is run.
///
/// ```
/// use ringfence::{Config, Mode};
/// use std::time::Duration;
///
/// let config = Config::local(3)
///     .workers(2)
///     .backups(1)
///     .epoch(Duration::from_millis(50))
///     .fault("kill:1@40%")?;
/// config.validate()?;
/// assert_eq!(config.mode(), Mode::Local(3));
/// # Ok::<(), ringfence::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    cluster: Cluster,
    /// Worker threads of each process.
    pub(crate) workers: usize,
    /// Copies of each partition in addition to its owner's, if a number was set.
    backups: Option<usize>,
    pub(crate) epoch_interval: Duration,
    /// How often a checkpoint is chosen; `None` if every epoch is a checkpoint.
    pub(crate) checkpoint_interval: Option<Duration>,
    pub(crate) partitions: u32,
    /// How keys are hashed; the same in all processes.
    pub(crate) key_hash: KeyHasher,
    /// How many checkpoints sources may be ahead of what is stored.
    pub(crate) in_flight_epochs_max: u32,
    pub(crate) connect_limit: Duration,
    pub(crate) suspect_limit: Duration,
    pub(crate) hang_limit: Duration,
    pub(crate) refill_bytes_per_second: u64,
    pub(crate) register: Option<PathBuf>,
    /// The directory of the durable tier, if there is one.
    pub(crate) durable: Option<PathBuf>,
    pub(crate) durable_interval: Duration,
    /// Whether results are released only once they are durable.
    pub(crate) durable_commit: bool,
    pub(crate) report: Option<PathBuf>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) random_faults: Option<RandomSpec>,
    /// How many views panics may end, and within which time.
    pub(crate) restarts: (u32, Duration),
    /// How many processes a launcher starts again, and within which time.
    pub(crate) node_restarts: (u32, Duration),
    /// How many views may follow each other without a commit in between.
    pub(crate) views_without_commit_max: u32,
    /// The directory for records that cannot be processed.
    pub(crate) quarantine: Option<PathBuf>,
    pub(crate) on_failure: Option<OnFailure>,
    progress_mode: ProgressMode,
    idle_spin: Option<Duration>,
    /// The arguments of node processes, if they differ from the launcher's own.
    pub(crate) node_args: Option<Vec<String>>,
}

impl Config {
    fn of(cluster: Cluster) -> Self {
        Config {
            cluster,
            workers: 1,
            backups: None,
            epoch_interval: Duration::from_millis(100),
            checkpoint_interval: None,
            partitions: 256,
            key_hash: KeyHasher::default(),
            in_flight_epochs_max: 4,
            connect_limit: Duration::from_secs(30),
            suspect_limit: Duration::from_millis(SUSPECT_MS),
            hang_limit: Duration::from_secs(30),
            refill_bytes_per_second: REFILL_MB_PER_SECOND * BYTES_PER_MB,
            register: None,
            durable: None,
            durable_interval: Duration::from_secs(1),
            durable_commit: false,
            report: None,
            faults: Vec::new(),
            random_faults: None,
            restarts: (10, Duration::from_secs(60)),
            node_restarts: (10, Duration::from_secs(60)),
            views_without_commit_max: VIEWS_WITHOUT_COMMIT_MAX,
            quarantine: None,
            on_failure: None,
            progress_mode: ProgressMode::default(),
            idle_spin: None,
            node_args: None,
        }
    }

    /// One process.
    pub fn single() -> Self {
        Config::of(Cluster::Single)
    }

    /// A launcher of `nodes` processes of this program on this machine.
    pub fn local(nodes: usize) -> Self {
        Config::of(Cluster::Local(nodes))
    }

    /// Process `process` of those at `addresses`, each started by hand.
    pub fn member(process: usize, addresses: impl IntoIterator<Item = String>) -> Self {
        Config::of(Cluster::Member { process, addresses: addresses.into_iter().collect() })
    }

    /// Runs `workers` worker threads in each process.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Keeps `backups` copies of each partition in addition to its owner's. The default, 1, is clipped to
    /// what the cluster has room for; a number given here is not.
    pub fn backups(mut self, backups: usize) -> Self {
        self.backups = Some(backups);
        self
    }

    /// Closes an epoch every `interval`.
    pub fn epoch(mut self, interval: Duration) -> Self {
        self.epoch_interval = interval;
        self
    }

    /// Chooses one epoch as a checkpoint every `interval`, the same one for all workers. Without this, every
    /// epoch is a checkpoint.
    ///
    /// State is sealed, replicated and committed only at checkpoints, and only committed results are
    /// released. If epochs are short, longer intervals cost less, but they delay results.
    pub fn checkpoint(mut self, interval: Duration) -> Self {
        self.checkpoint_interval = Some(interval);
        self
    }

    /// Divides the key space into `partitions` parts.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Hashes keys with `hasher`, which determines the partition of each key. Processes of one job that have
    /// different hashers refuse to connect to each other.
    ///
    /// ```
    /// use ringfence::Config;
    /// use ringfence::operators::hash::KeyHasher;
    ///
    /// let config = Config::local(3).key_hash(KeyHasher::Sha1);
    /// # config.validate().unwrap();
    /// ```
    pub fn key_hash(mut self, hasher: KeyHasher) -> Self {
        self.key_hash = hasher;
        self
    }

    /// Lets sources be at most `epochs` epochs ahead of what all backups have stored; this counts checkpoints
    /// if not every epoch is one.
    pub fn in_flight_epochs(mut self, epochs: u32) -> Self {
        self.in_flight_epochs_max = epochs;
        self
    }

    /// Gives the nodes this long to find each other.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_limit = limit;
        self
    }

    /// Counts a node as failed if no other node has heard it for `limit`, or if some still hear it but half
    /// as long again has passed. The others continue without it unless it answers within 3/5 of the limit.
    pub fn suspect_after(mut self, limit: Duration) -> Self {
        self.suspect_limit = limit;
        self
    }

    /// Counts a worker as failed if it has been in one operator, or in the job's own code, for `limit`.
    pub fn hang_after(mut self, limit: Duration) -> Self {
        self.hang_limit = limit;
        self
    }

    /// Lets each node send at most `bytes_per_second` to rebuild lost copies.
    pub fn refill(mut self, bytes_per_second: u64) -> Self {
        self.refill_bytes_per_second = bytes_per_second;
        self
    }

    /// Keeps the agreed views in the directory `register`.
    pub fn register(mut self, register: impl Into<PathBuf>) -> Self {
        self.register = Some(register.into());
        self
    }

    /// Keeps what is committed in `directory`, so that the job outlives the whole cluster.
    ///
    /// All nodes must reach the same directory, and each job needs its own. If every process is gone, the same
    /// command starts again where the job was, with any number of nodes, provided that the number of partitions
    /// is the same. What was committed after the last [durable](Config::durable_every) checkpoint is computed
    /// again: sources read it again, hand-fed inputs are fed it again, and `LineFiles` is cut back and written
    /// again.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let config = ringfence::Config::local(3)
    ///     .durable("/var/lib/counts")
    ///     .durable_every(Duration::from_millis(500))
    ///     .durable_commit();
    /// # config.validate().unwrap();
    /// ```
    pub fn durable(mut self, directory: impl Into<PathBuf>) -> Self {
        self.durable = Some(directory.into());
        self
    }

    /// Makes what is committed durable every `interval`. The default is 1 s.
    pub fn durable_every(mut self, interval: Duration) -> Self {
        self.durable_interval = interval;
        self
    }

    /// Releases results only once they are durable. Then nobody has seen a result that a restart of the whole
    /// cluster takes back, and sinks that cannot be cut back may be restarted as well. Results are later by up to
    /// the [interval](Config::durable_every) and the time that the disk takes.
    pub fn durable_commit(mut self) -> Self {
        self.durable_commit = true;
        self
    }

    /// Appends one JSON line per event to the file `report`.
    ///
    /// A file that cannot be opened is an error at the start. If the file cannot be written later, the report
    /// ends with a line on standard error, and the job continues.
    pub fn report(mut self, report: impl Into<PathBuf>) -> Self {
        self.report = Some(report.into());
        self
    }

    /// Injects a failure of a node; may be called several times, but with only one `random:`.
    pub fn fault(mut self, spec: &str) -> Result<Self> {
        self.add_fault(spec)?;
        Ok(self)
    }

    /// Ends the job once panics of workers have ended more than `views` views within `window`.
    ///
    /// Panics anywhere in the cluster count, whatever their operator, and each view counts once. This bounds
    /// how long a job may continue without making progress. The default is 10 within 60 s.
    pub fn restarts(mut self, views: u32, window: Duration) -> Self {
        self.restarts = (views, window);
        self
    }

    /// Starts at most `processes` node processes again within `window`, if this process is their launcher.
    ///
    /// A node that has died, or that the others went on without, is started again and taken in again. The default
    /// is 10 within 60 s; with 0 the others go on without it, as they do once the number is used up.
    ///
    /// ```
    /// use ringfence::Config;
    /// use std::time::Duration;
    ///
    /// let config = Config::local(3).node_restarts(2, Duration::from_secs(10));
    /// # config.validate().unwrap();
    /// ```
    pub fn node_restarts(mut self, processes: u32, window: Duration) -> Self {
        self.node_restarts = (processes, window);
        self
    }

    /// Ends the job once more than `views` views have followed each other without a commit in between. The
    /// default is 10.
    ///
    /// If every view ends before anything is committed in it, the reason lies in the job or its environment,
    /// and the error says why the last view ended.
    pub fn views_without_commit(mut self, views: u32) -> Self {
        self.views_without_commit_max = views;
        self
    }

    /// Sets aside records that keyed operators cannot process: those whose closure panics every time.
    ///
    /// The first panic ends a view, as always. When the record is replayed, it is tried twice more. If it
    /// panics both times, it is written to files in `directory`, grouped by operator, exactly once, and the
    /// job continues without it. A line has the partition, the panic's message and the record; the last two
    /// are JSON. Changes that such a closure makes outside of its key's state are not undone when it panics.
    /// When timers or key functions panic, nothing is set aside: such panics use up the restart budget.
    pub fn quarantine(mut self, directory: impl Into<PathBuf>) -> Self {
        self.quarantine = Some(directory.into());
        self
    }

    /// Calls `callback` with the report of each failure once it is complete: when all nodes have caught
    /// up after it, or the job has ended.
    ///
    /// It is called in the launcher, or in a process without one, but not in the nodes of a launcher, which
    /// send it what they saw. It interrupts the launcher's or node's own work, so it must be quick.
    ///
    /// ```
    /// use ringfence::Config;
    ///
    /// let config = Config::local(3).on_failure(|report| eprintln!("{}: {report}", report.cause));
    /// # let _ = config;
    /// ```
    pub fn on_failure(mut self, callback: impl Fn(&FailureReport) + Send + Sync + 'static) -> Self {
        self.on_failure = Some(OnFailure(Arc::new(callback)));
        self
    }

    fn add_fault(&mut self, spec: &str) -> Result<()> {
        let wrong = |error: FaultParseError| Error::usage(error.to_string());
        if !RandomSpec::is_meant_by(spec) {
            self.faults.push(spec.parse().map_err(wrong)?);
            return Ok(());
        }
        let random = spec.parse().map_err(wrong)?;
        match self.random_faults.replace(random) {
            None => Ok(()),
            Some(other) => Err(Error::usage(format!(
                "faults {other} and {random}: one random schedule is enough"
            ))),
        }
    }

    /// Sets timely's mode of progress tracking.
    pub fn progress_mode(mut self, mode: ProgressMode) -> Self {
        self.progress_mode = mode;
        self
    }

    /// Lets an idle worker poll for `limit` before it parks.
    pub fn idle_spin(mut self, limit: Duration) -> Self {
        self.idle_spin = Some(limit);
        self
    }

    /// Starts node processes with these arguments, excluding the program's name, instead of with those of the
    /// launcher. They must lead a node to the same call of `execute`, with the same closure, and to no
    /// earlier job with that closure.
    pub fn node_args(mut self, args: impl IntoIterator<Item = String>) -> Self {
        self.node_args = Some(args.into_iter().collect());
        self
    }

    /// The role of this process. With [`Config::local`], it is a child if a launcher says so in the
    /// environment, and otherwise the launcher.
    pub fn mode(&self) -> Mode {
        self.mode_given(std::env::var(NODE_VARIABLE).ok().as_deref())
    }

    fn mode_given(&self, node: Option<&str>) -> Mode {
        match &self.cluster {
            Cluster::Single => Mode::Single,
            Cluster::Member { process, addresses } => {
                Mode::Member { process: *process, addresses: addresses.clone() }
            }
            Cluster::Local(nodes) => match node.and_then(|node| node.parse().ok()) {
                Some(node) if node < *nodes => Mode::Child { node, nodes: *nodes },
                _ => Mode::Local(*nodes),
            },
        }
    }

    /// The number of node processes in the cluster.
    pub fn node_count(&self) -> usize {
        match &self.cluster {
            Cluster::Single => 1,
            Cluster::Local(nodes) => *nodes,
            Cluster::Member { addresses, .. } => addresses.len(),
        }
    }

    /// The number of worker threads in each process.
    pub fn worker_count(&self) -> usize {
        self.workers
    }

    /// The number of backups of each partition, clipped to what the cluster has room for if it was not set
    /// explicitly.
    pub(crate) fn backup_count(&self) -> usize {
        self.backups.unwrap_or_else(|| self.backups_max().min(1))
    }

    /// How long a planned change of views waits for a commit: some intervals between two, and a second at least.
    pub(crate) fn plan_wait(&self) -> Duration {
        let interval = self.checkpoint_interval.unwrap_or(self.epoch_interval);
        PLAN_WAIT_MIN.max(4 * interval)
    }

    /// Timely's configuration of a worker.
    pub(crate) fn worker_config(&self) -> WorkerConfig {
        let config = WorkerConfig::default().progress_mode(self.progress_mode);
        match self.idle_spin {
            Some(limit) => config.idle_spin(limit),
            None => config,
        }
    }

    /// Backups are on other nodes; with a single node, they are on its other workers.
    fn backups_max(&self) -> usize {
        match self.node_count() {
            // The vault of a lone worker is its backup: it survives the worker's panic.
            1 => self.workers.saturating_sub(1).max(1),
            nodes => nodes - 1,
        }
    }
}

#[cfg(test)]
mod tests;
