//! How a job is run: timely's own flags with timely's meanings, and long flags of our own.
//!
//! A [`Config`] comes from the command line ([`Config::from_args`]) or from the builder
//! ([`Config::local`] and its like); both pass through [`Config::validate`], so that the same
//! contradiction has the same text.

mod flags;
mod hosts;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use timely::WorkerConfig;
use timely::worker::ProgressMode;

use crate::chaos::{Fault, FaultKind, FaultParseError, RandomSpec};
use crate::error::{Error, Kind, Result};
use crate::protocol::member::{SUSPECT_MS, VIEWS_WITHOUT_COMMIT_MAX};
use crate::report::{FailureReport, OnFailure, counted};
use flags::{base_name, command, from_clap, from_matches};
use hosts::check_addresses;

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

/// The longest of all times that can be set: a year. Sums of times and of moments stay sound.
pub const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The default for how fast lost copies are rebuilt.
const REFILL_MB_PER_SECOND: u64 = 64;

const BYTES_PER_MB: u64 = 1_000_000;

/// The least time that a node may be given to be heard: threads of a loaded machine wait that long.
pub const SUSPECT_MIN: Duration = Duration::from_millis(50);

/// What this process is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The only process; its worker threads are what may fail.
    Single,
    /// The launcher of this many node processes.
    Local(usize),
    /// One of several processes that were started by hand.
    Member {
        /// The number of this process.
        process: usize,
        /// The addresses of all processes, this one's own included.
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
    workers: usize,
    backups: Option<usize>,
    epoch: Duration,
    checkpoint: Option<Duration>,
    partitions: u32,
    in_flight_epochs: u32,
    connect_timeout: Duration,
    suspect: Duration,
    hang: Duration,
    refill_bytes_per_second: u64,
    register: Option<PathBuf>,
    report: Option<PathBuf>,
    faults: Vec<Fault>,
    restarts: (u32, Duration),
    views_without_commit: u32,
    quarantine: Option<PathBuf>,
    pub(crate) on_failure: Option<OnFailure>,
    random_faults: Option<RandomSpec>,
    progress_mode: ProgressMode,
    idle_spin: Option<Duration>,
    node_args: Option<Vec<String>>,
}

impl Config {
    fn of(cluster: Cluster) -> Self {
        Config {
            cluster,
            workers: 1,
            backups: None,
            epoch: Duration::from_millis(100),
            checkpoint: None,
            partitions: 256,
            in_flight_epochs: 4,
            connect_timeout: Duration::from_secs(30),
            suspect: Duration::from_millis(SUSPECT_MS),
            hang: Duration::from_secs(30),
            refill_bytes_per_second: REFILL_MB_PER_SECOND * BYTES_PER_MB,
            register: None,
            report: None,
            faults: Vec::new(),
            restarts: (10, Duration::from_secs(60)),
            views_without_commit: VIEWS_WITHOUT_COMMIT_MAX,
            quarantine: None,
            on_failure: None,
            random_faults: None,
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

    /// Keeps `backups` copies of each partition beside its owner's. The default, 1, is clipped to
    /// what the cluster has; a number given here is not.
    pub fn backups(mut self, backups: usize) -> Self {
        self.backups = Some(backups);
        self
    }

    /// Closes an epoch each `interval`.
    pub fn epoch(mut self, interval: Duration) -> Self {
        self.epoch = interval;
        self
    }

    /// Chooses one epoch as checkpoint each `interval`, the same for all workers. Without this every
    /// epoch is one.
    ///
    /// Only at checkpoints is state sealed, replicated and committed, and only what is committed is
    /// released. Longer intervals cost less where epochs are short, and delay results.
    pub fn checkpoint(mut self, interval: Duration) -> Self {
        self.checkpoint = Some(interval);
        self
    }

    /// Cuts the key space into `partitions`.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Lets sources leave at most `epochs` behind that all backups have not stored yet; checkpoints, where
    /// not every epoch is one.
    pub fn in_flight_epochs(mut self, epochs: u32) -> Self {
        self.in_flight_epochs = epochs;
        self
    }

    /// Gives the nodes this long to find each other.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Takes a node that no other has heard for `limit` for failed, one that some still hear after half
    /// as long again, and goes on without it unless it answers within 3/5 of the limit.
    pub fn suspect_after(mut self, limit: Duration) -> Self {
        self.suspect = limit;
        self
    }

    /// Takes a worker for failed that has been in one operator, or in the job's own code, for `limit`.
    pub fn hang_after(mut self, limit: Duration) -> Self {
        self.hang = limit;
        self
    }

    /// Lets each node send at most `bytes_per_second` to rebuild copies that were lost.
    pub fn refill(mut self, bytes_per_second: u64) -> Self {
        self.refill_bytes_per_second = bytes_per_second;
        self
    }

    /// Keeps the agreed views in the directory `register`.
    pub fn register(mut self, register: impl Into<PathBuf>) -> Self {
        self.register = Some(register.into());
        self
    }

    /// Appends one JSON line per event to the file `report`.
    ///
    /// One that cannot be opened is an error at the start. One that cannot be written later ends with a line
    /// on standard error, and the job goes on.
    pub fn report(mut self, report: impl Into<PathBuf>) -> Self {
        self.report = Some(report.into());
        self
    }

    /// Makes a node fail on purpose; may be called several times, with one `random:` among them.
    pub fn fault(mut self, spec: &str) -> Result<Self> {
        self.add_fault(spec)?;
        Ok(self)
    }

    /// Ends the job once panics of workers have ended more than `views` views within `window`.
    ///
    /// Panics anywhere in the cluster count, each view once, whatever its operator: it is a bound on
    /// how long a job may go round without getting anywhere. The default is 10 within 60 s.
    pub fn restarts(mut self, views: u32, window: Duration) -> Self {
        self.restarts = (views, window);
        self
    }

    /// Ends the job once more than `views` have followed each other without a commit in between; 10 unless
    /// set.
    ///
    /// Where every view ends before anything was committed in it, the reason is in the job or around it,
    /// and the error says why the last one ended.
    pub fn views_without_commit(mut self, views: u32) -> Self {
        self.views_without_commit = views;
        self
    }

    /// Sets records apart that keyed operators cannot process: those whose closure panics each time.
    ///
    /// The first panic ends a view, as always. When the record comes again it is tried twice more, and if it
    /// panics both times it is written to files in `directory`, by operator, exactly once, and the job
    /// goes on without it. A line has the partition, the panic's message and the record, both as JSON.
    /// What such a closure keeps outside of its key's state is not undone when it panics. Timers that
    /// panic are not set apart, nor are key functions: they use up the restart budget.
    pub fn quarantine(mut self, directory: impl Into<PathBuf>) -> Self {
        self.quarantine = Some(directory.into());
        self
    }

    /// Calls `callback` with the report of each failure once it is complete: when all nodes have caught
    /// up after it, or the job has ended.
    ///
    /// In the launcher, or in a process without one; not in the nodes of a launcher, which tell it what
    /// they saw. It is called in the midst of the launcher's or node's work, so it must be quick.
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

    /// Uses one of timely's ways to track progress.
    pub fn progress_mode(mut self, mode: ProgressMode) -> Self {
        self.progress_mode = mode;
        self
    }

    /// Lets an idle worker poll for `limit` before it parks.
    pub fn idle_spin(mut self, limit: Duration) -> Self {
        self.idle_spin = Some(limit);
        self
    }

    /// Starts node processes with these arguments, the program's name not among them, instead of
    /// with those of the launcher. Where a program runs several jobs of one closure with arguments of their
    /// own, each must lead a node to its job first.
    pub fn node_args(mut self, args: impl IntoIterator<Item = String>) -> Self {
        self.node_args = Some(args.into_iter().collect());
        self
    }

    /// What this process is. A [`Config::local`] is a child where a launcher says so in the
    /// environment, and the launcher else.
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

    /// The number of backups of each partition, clipped to what the cluster has if it was not
    /// asked for explicitly.
    pub fn backup_count(&self) -> usize {
        self.backups.unwrap_or_else(|| self.backups_max().min(1))
    }

    /// The length of an epoch.
    pub fn epoch_interval(&self) -> Duration {
        self.epoch
    }

    /// The number of partitions.
    pub fn partition_count(&self) -> u32 {
        self.partitions
    }

    /// How often a checkpoint is chosen; `None` where every epoch is one.
    pub fn checkpoint_interval(&self) -> Option<Duration> {
        self.checkpoint
    }

    /// How many epochs, or checkpoints, sources may leave behind that are not stored yet.
    pub fn in_flight_epochs_max(&self) -> u32 {
        self.in_flight_epochs
    }

    /// How long the nodes may take to find each other.
    pub fn connect_limit(&self) -> Duration {
        self.connect_timeout
    }

    /// How long a node may be silent.
    pub fn suspect_limit(&self) -> Duration {
        self.suspect
    }

    /// How long a worker may stay away from its dataflow.
    pub fn hang_limit(&self) -> Duration {
        self.hang
    }

    /// How many bytes a second each node may send to rebuild copies that were lost.
    pub fn refill_rate(&self) -> u64 {
        self.refill_bytes_per_second
    }

    /// The register directory, if one was named.
    pub fn register_path(&self) -> Option<&Path> {
        self.register.as_deref()
    }

    /// The report file, if one was named.
    pub fn report_path(&self) -> Option<&Path> {
        self.report.as_deref()
    }

    /// The failures that were asked for.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// How many views panics of workers may end, and within which time.
    pub fn restart_budget(&self) -> (u32, Duration) {
        self.restarts
    }

    /// How many views may follow each other without a commit in between.
    pub fn views_without_commit_max(&self) -> u32 {
        self.views_without_commit
    }

    /// Where records go that cannot be processed, if they are to be set apart.
    pub fn quarantine_path(&self) -> Option<&Path> {
        self.quarantine.as_deref()
    }

    /// The random failures that were asked for.
    pub fn random_faults(&self) -> Option<RandomSpec> {
        self.random_faults
    }

    /// The arguments that node processes are started with, if not the launcher's own.
    pub fn node_arguments(&self) -> Option<&[String]> {
        self.node_args.as_deref()
    }

    /// Timely's configuration of a worker.
    pub fn worker_config(&self) -> WorkerConfig {
        let config = WorkerConfig::default().progress_mode(self.progress_mode);
        match self.idle_spin {
            Some(limit) => config.idle_spin(limit),
            None => config,
        }
    }

    /// Backups lie on other nodes; only where there is one node, on its other workers.
    fn backups_max(&self) -> usize {
        match self.node_count() {
            // The vault of a lone worker is its backup: it survives the worker's panic.
            1 => self.workers.saturating_sub(1).max(1),
            nodes => nodes - 1,
        }
    }

    /// Refuses settings that contradict each other.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::config(text));
        match &self.cluster {
            Cluster::Local(nodes) if !(1..=LOCAL_NODES_MAX).contains(nodes) => {
                return wrong(format!("--local {nodes}: expected 1 to {LOCAL_NODES_MAX} nodes"));
            }
            Cluster::Member { process, addresses } => {
                if *process >= addresses.len() {
                    let n = addresses.len();
                    return wrong(format!(
                        "process {process} is not one of {n}: -p counts from 0 to {}",
                        n.saturating_sub(1)
                    ));
                }
                if addresses.len() > PROCESSES_MAX {
                    let n = addresses.len();
                    return wrong(format!("-n {n}: expected at most {PROCESSES_MAX} processes"));
                }
                check_addresses(addresses)?;
            }
            _ => {}
        }
        if self.workers == 0 {
            return wrong("-w 0: a process needs at least one worker".to_owned());
        }
        if self.workers > WORKERS_MAX {
            let workers = self.workers;
            return wrong(format!("-w {workers}: expected at most {WORKERS_MAX} workers"));
        }
        self.validate_times()?;
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            let partitions = self.partitions;
            return wrong(format!("--partitions {partitions}: expected 1 to {PARTITIONS_MAX}"));
        }
        if self.refill_bytes_per_second == 0 {
            return wrong(
                "--refill-mb-per-second 0: lost copies would never be rebuilt".to_owned(),
            );
        }
        if self.in_flight_epochs == 0 {
            return wrong("--in-flight-epochs 0: at least one epoch must be in flight".to_owned());
        }
        self.validate_backups()?;
        if let Some(random) = self.random_faults.filter(|_| !self.has_launcher()) {
            return wrong(format!(
                "--fault {random}: only the launcher makes other processes fail, so this needs --local"
            ));
        }
        self.faults.iter().try_for_each(|fault| self.validate_fault(fault))
    }

    fn validate_times(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::config(text));
        let times = [
            ("--epoch-ms", Some(self.epoch)),
            ("--checkpoint-ms", self.checkpoint),
            ("--connect-timeout-ms", Some(self.connect_timeout)),
            ("--suspect-ms", Some(self.suspect)),
            ("--hang-ms", Some(self.hang)),
            ("--restarts", Some(self.restarts.1)),
            ("--idle-spin", self.idle_spin),
        ];
        let is_long = |(_, time): &&(&str, Option<Duration>)| time.is_some_and(|t| t > TIME_MAX);
        if let Some((flag, _)) = times.iter().find(is_long) {
            let days = TIME_MAX.as_secs() / (24 * 60 * 60);
            return wrong(format!("{flag}: expected at most {days} days"));
        }
        if self.epoch.is_zero() {
            return wrong("--epoch-ms 0: an epoch takes at least one millisecond".to_owned());
        }
        if self.checkpoint.is_some_and(|interval| interval.is_zero()) {
            return wrong(
                "--checkpoint-ms 0: expected at least one millisecond; leave it out to make every \
                 epoch a checkpoint"
                    .to_owned(),
            );
        }
        if let Some(interval) = self.checkpoint.filter(|interval| *interval < self.epoch) {
            let (checkpoint_ms, epoch_ms) = (interval.as_millis(), self.epoch.as_millis());
            return wrong(format!(
                "--checkpoint-ms {checkpoint_ms}: expected at least --epoch-ms, which is {epoch_ms}: a \
                 checkpoint is the end of an epoch, so lower --epoch-ms too"
            ));
        }
        if self.suspect < SUSPECT_MIN {
            let (suspect_ms, min_ms) = (self.suspect.as_millis(), SUSPECT_MIN.as_millis());
            return wrong(format!("--suspect-ms {suspect_ms}: expected at least {min_ms}"));
        }
        if self.hang < self.suspect {
            let (hang_ms, suspect_ms) = (self.hang.as_millis(), self.suspect.as_millis());
            return wrong(format!(
                "--hang-ms {hang_ms}: expected at least --suspect-ms, which is {suspect_ms}"
            ));
        }
        if self.restarts.1.is_zero() {
            return wrong("--restarts: its time must be at least one second".to_owned());
        }
        Ok(())
    }

    fn has_launcher(&self) -> bool {
        matches!(self.cluster, Cluster::Local(_))
    }

    fn validate_backups(&self) -> Result<()> {
        let (wanted, max) = (self.backup_count(), self.backups_max());
        if wanted <= max {
            return Ok(());
        }
        let has = match self.node_count() {
            1 => {
                let workers = counted(self.workers as u64, "worker");
                format!("one node with {workers} has room for {max}")
            }
            nodes => format!("{nodes} nodes have room for {max}"),
        };
        Err(Error::config(format!("--backups {wanted}: {has}, as each lies elsewhere")))
    }

    fn validate_fault(&self, fault: &Fault) -> Result<()> {
        let nodes = self.node_count();
        if fault.node.0 >= nodes as u64 {
            let (node, last) = (fault.node, nodes.saturating_sub(1));
            return Err(Error::config(format!(
                "--fault {fault}: there is no node {node}, only 0 to {last}"
            )));
        }
        let what = match fault.kind {
            FaultKind::Panic => return Ok(()),
            FaultKind::Kill => "kills processes",
            FaultKind::Stop => "stops processes",
            FaultKind::Cut | FaultKind::Slow => "stands between nodes",
        };
        if !self.has_launcher() {
            return Err(Error::config(format!(
                "--fault {fault}: only the launcher {what}, so this needs --local"
            )));
        }
        Ok(())
    }

    /// Reads the flags among `args`, and returns what is left: the arguments that are no flags, and all
    /// that stand behind a bare `--`.
    ///
    /// The first element is the program's name, unless it begins with `-`: timely's programs give
    /// `std::env::args()` or, behind arguments of their own, `std::env::args().skip(n)`, where the
    /// name is gone and a flag may come first.
    ///
    /// An unknown or malformed flag is an error that names it. With `--help` or `--version`, the error is
    /// of [`Kind::Help`] and its text is what was asked for.
    ///
    /// ```
    /// let args = ["job", "-w", "2", "--epoch-ms", "50", "in.txt", "--", "-x"];
    /// let (config, free) = ringfence::Config::from_args(args.map(String::from))?;
    /// assert_eq!(config.worker_count(), 2);
    /// assert_eq!(free, ["in.txt", "-x"]);
    /// let (config, _) = ringfence::Config::from_args(["-w", "2"].map(String::from))?;
    /// assert_eq!(config.worker_count(), 2);
    /// # Ok::<(), ringfence::Error>(())
    /// ```
    pub fn from_args(args: impl IntoIterator<Item = String>) -> Result<(Self, Vec<String>)> {
        let mut args: Vec<String> = args.into_iter().collect();
        let has_name = args.first().is_some_and(|first| !first.starts_with('-'));
        let program = if has_name { args.remove(0) } else { "job".to_owned() };
        let matches = command(&program).try_get_matches_from(args).map_err(from_clap)?;
        if matches.get_flag("help") {
            return Err(Error::new(Kind::Help, Config::help(&program, "")));
        }
        if matches.get_flag("version") {
            let text =
                format!("{} with ringfence {}", base_name(&program), env!("CARGO_PKG_VERSION"));
            return Err(Error::new(Kind::Help, text));
        }
        let config = from_matches(&matches)?;
        config.validate()?;
        let free = matches.get_many::<String>("free").into_iter().flatten().cloned().collect();
        Ok((config, free))
    }

    /// The text of `--help` for `program`, with `extra_lines` of the program's own at its end.
    pub fn help(program: &str, extra_lines: &str) -> String {
        command(program).after_help(extra_lines.to_owned()).render_help().to_string()
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
