//! How a job is run: timely's own flags with timely's meanings, and long flags of our own.
//!
//! A [`Config`] comes from the command line ([`Config::from_args`]) or from the builder
//! ([`Config::local`] and its like); both pass through [`Config::validate`], so that the same
//! contradiction has the same text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use timely::WorkerConfig;
use timely::worker::ProgressMode;

use crate::chaos::{Fault, FaultKind, FaultParseError, RandomSpec};
use crate::error::{Error, Kind, Result};
use crate::protocol::member::{SUSPECT_MS, VIEWS_WITHOUT_COMMIT_MAX};
use crate::report::FailureReport;

/// The environment variable by which a launcher tells a child which node it is.
pub const NODE_VARIABLE: &str = "RINGFENCE_NODE";

/// The greatest number of partitions.
pub const PARTITIONS_MAX: u32 = 65_536;

/// The greatest number of nodes that one launcher starts.
pub const LOCAL_NODES_MAX: usize = 1_024;

/// The first port of timely's default addresses.
const FIRST_PORT: usize = 2101;

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

/// What is called with each failure report.
#[derive(Clone)]
struct OnFailure(Arc<dyn Fn(&FailureReport) + Send + Sync>);

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFailure(..)")
    }
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
    on_failure: Option<OnFailure>,
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
    /// with those of the launcher.
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

    /// Tells whoever wants to know of a failure.
    pub(crate) fn tell_failure(&self, report: &FailureReport) {
        if let Some(OnFailure(callback)) = &self.on_failure {
            callback(report);
        }
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
                for (index, address) in addresses.iter().enumerate() {
                    check_address(address)?;
                    if addresses[..index].contains(address) {
                        return wrong(format!("address {address} is listed twice"));
                    }
                }
            }
            _ => {}
        }
        if self.workers == 0 {
            return wrong("-w 0: a process needs at least one worker".to_owned());
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            let partitions = self.partitions;
            return wrong(format!("--partitions {partitions}: expected 1 to {PARTITIONS_MAX}"));
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
        if self.refill_bytes_per_second == 0 {
            return wrong(
                "--refill-mb-per-second 0: lost copies would never be rebuilt".to_owned(),
            );
        }
        if self.in_flight_epochs == 0 {
            return wrong("--in-flight-epochs 0: at least one epoch must be in flight".to_owned());
        }
        if self.restarts.1.is_zero() {
            return wrong("--restarts: its time must be at least one second".to_owned());
        }
        self.validate_backups()?;
        if let Some(random) = self.random_faults.filter(|_| !self.has_launcher()) {
            return wrong(format!(
                "--fault {random}: only the launcher makes other processes fail, so this needs --local"
            ));
        }
        self.faults.iter().try_for_each(|fault| self.validate_fault(fault))
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
            1 => format!("one node with {} worker(s) has room for {max}", self.workers),
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

    /// Reads the flags among `args`, whose first element is the program's name, and returns what is
    /// left: the arguments that are no flags, and all that stand behind a bare `--`.
    ///
    /// An unknown or malformed flag is an error that names it. With `--help`, the error is of
    /// [`Kind::Help`] and its text is the help.
    ///
    /// ```
    /// let args = ["job", "-w", "2", "--epoch-ms", "50", "in.txt", "--", "-x"];
    /// let (config, free) = ringfence::Config::from_args(args.map(String::from))?;
    /// assert_eq!(config.worker_count(), 2);
    /// assert_eq!(free, ["in.txt", "-x"]);
    /// # Ok::<(), ringfence::Error>(())
    /// ```
    pub fn from_args(args: impl IntoIterator<Item = String>) -> Result<(Self, Vec<String>)> {
        let args: Vec<String> = args.into_iter().collect();
        let program = args.first().map_or("job", String::as_str).to_owned();
        let matches = command(&program).try_get_matches_from(args).map_err(from_clap)?;
        if matches.get_flag("help") {
            return Err(Error::new(Kind::Help, Config::help(&program, "")));
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

fn command(program: &str) -> Command {
    let name = Path::new(program).file_name().map_or(program.into(), |name| name.to_string_lossy());
    let name = name.into_owned();
    let number = |id: &'static str, text: &'static str| {
        Arg::new(id).long(id).value_name("NUM").value_parser(value_parser!(usize)).help(text)
    };
    let path = |id: &'static str, name: &'static str, text: &'static str| {
        Arg::new(id).long(id).value_name(name).value_parser(value_parser!(PathBuf)).help(text)
    };
    let millis = |id: &'static str, text: &'static str| {
        Arg::new(id)
            .long(id)
            .value_name("MS")
            .value_parser(value_parser!(u64).range(1..))
            .help(text)
    };
    Command::new("job")
        .bin_name(name)
        .disable_help_flag(true)
        .arg(number("threads", "Worker threads of each process [default: 1]").short('w'))
        .arg(number("processes", "Processes that are started by hand [default: 1]").short('n'))
        .arg(number("process", "Number of this process, from 0").short('p'))
        .arg(path("hostfile", "FILE", "Addresses of the processes, a host:port in each line\n[default: localhost:2101 and the ports that follow]").short('h'))
        .arg(number("local", "Start NUM node processes of this program on this machine and watch over them").conflicts_with_all(["processes", "process", "hostfile"]))
        .arg(number("backups", "Copies of each partition beside its owner's [default: 1]"))
        .arg(millis("epoch-ms", "Length of an epoch [default: 100]"))
        .arg(millis("checkpoint-ms", "Time between checkpoints, the unit of commit [default: every epoch]"))
        .arg(Arg::new("in-flight-epochs").long("in-flight-epochs").value_name("NUM").value_parser(value_parser!(u32).range(1..)).help("Epochs, or checkpoints, that may be in flight before sources wait [default: 4]"))
        .arg(Arg::new("partitions").long("partitions").value_name("NUM").value_parser(value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX))).help("Parts of the key space, 1 to 65536 [default: 256]"))
        .arg(path("register", "DIR", "Directory of the agreed views [default: a fresh one with --local]"))
        .arg(path("report", "FILE", "Append one JSON line per event to FILE"))
        .arg(Arg::new("fault").long("fault").value_name("SPEC").action(ArgAction::Append).help("Fail on purpose: kill:NODE@WHEN, panic:NODE@WHEN, or for a while\nstop:NODE@WHEN+FOR, cut:NODE@WHEN+FOR, slow:NODE@WHEN+FOR, where WHEN is 2s or 500ms\nafter the first commit, or 40% of the input; may be repeated.\nOr random:SEED@EVERY, faults without end that the job must survive"))
        .arg(path("quarantine", "DIR", "Write records whose processing panics each time to files in DIR, and go on"))
        .arg(Arg::new("views-without-commit").long("views-without-commit").value_name("NUM").value_parser(value_parser!(u32)).help("End the job once more than NUM views have followed each other without a commit\nin between [default: 10]"))
        .arg(Arg::new("restarts").long("restarts").value_name("NUM/SECONDS").help("End the job once panics have ended more than NUM views within SECONDS\n[default: 10/60]"))
        .arg(millis("connect-timeout-ms", "Time for the nodes to find each other [default: 30000]"))
        .arg(millis("suspect-ms", "Silence after which a node counts as failed [default: 500]"))
        .arg(millis("hang-ms", "Time without an answer after which a worker counts as failed [default: 30000]"))
        .arg(Arg::new("refill-mb-per-second").long("refill-mb-per-second").value_name("MB").value_parser(value_parser!(u64).range(1..=1_000_000)).help("How fast each node may rebuild copies that were lost [default: 64]"))
        .arg(Arg::new("progress-mode").long("progress-mode").value_name("MODE").value_parser(["eager", "demand"]).hide_possible_values(true).help("How timely tracks progress: eager or demand [default: demand]"))
        .arg(Arg::new("idle-spin").long("idle-spin").value_name("MICROS").value_parser(value_parser!(u64)).help("Microseconds that an idle worker polls before it parks [default: 10]"))
        .arg(Arg::new("help").long("help").action(ArgAction::SetTrue).help("Print this text (-h is the hostfile)"))
        .arg(Arg::new("free").value_name("ARGS").action(ArgAction::Append).num_args(0..).help("What the job itself reads"))
}

fn from_matches(matches: &ArgMatches) -> Result<Config> {
    let number = |id: &str| matches.get_one::<usize>(id).copied();
    let millis = |id: &str| matches.get_one::<u64>(id).map(|ms| Duration::from_millis(*ms));
    let path = |id: &str| matches.get_one::<PathBuf>(id).cloned();

    let mut config = Config::of(cluster(matches)?);
    config.workers = number("threads").unwrap_or(config.workers);
    config.backups = number("backups");
    config.epoch = millis("epoch-ms").unwrap_or(config.epoch);
    config.checkpoint = millis("checkpoint-ms");
    config.connect_timeout = millis("connect-timeout-ms").unwrap_or(config.connect_timeout);
    config.suspect = millis("suspect-ms").unwrap_or(config.suspect);
    config.hang = millis("hang-ms").unwrap_or(config.hang);
    if let Some(epochs) = matches.get_one::<u32>("in-flight-epochs") {
        config.in_flight_epochs = *epochs;
    }
    if let Some(partitions) = matches.get_one::<u32>("partitions") {
        config.partitions = *partitions;
    }
    if let Some(megabytes) = matches.get_one::<u64>("refill-mb-per-second") {
        config.refill_bytes_per_second = megabytes * BYTES_PER_MB;
    }
    config.register = path("register");
    config.report = path("report");
    config.quarantine = path("quarantine");
    for spec in matches.get_many::<String>("fault").into_iter().flatten() {
        config.add_fault(spec)?;
    }
    if let Some(&views) = matches.get_one::<u32>("views-without-commit") {
        config.views_without_commit = views;
    }
    if let Some(budget) = matches.get_one::<String>("restarts") {
        config.restarts = parse_restarts(budget)?;
    }
    if let Some(mode) = matches.get_one::<String>("progress-mode") {
        config.progress_mode = mode.parse().map_err(Error::usage)?;
    }
    config.idle_spin = matches.get_one::<u64>("idle-spin").map(|us| Duration::from_micros(*us));
    Ok(config)
}

fn cluster(matches: &ArgMatches) -> Result<Cluster> {
    let number = |id: &str| matches.get_one::<usize>(id).copied();
    if let Some(nodes) = number("local") {
        return Ok(Cluster::Local(nodes));
    }
    let processes = number("processes").unwrap_or(1);
    let process = match number("process") {
        Some(process) => process,
        None if processes > 1 => {
            return Err(Error::usage(format!(
                "-n {processes} needs -p: which of the {processes} processes is this one?"
            )));
        }
        None => 0,
    };
    if process >= processes {
        return Err(Error::usage(format!(
            "-p {process} is not one of {processes} process(es): -p counts from 0 and must be below -n"
        )));
    }
    if processes <= 1 {
        return Ok(Cluster::Single);
    }
    let addresses = match matches.get_one::<PathBuf>("hostfile") {
        Some(file) => read_hosts(file, processes)?,
        None => (0..processes).map(|i| format!("localhost:{}", FIRST_PORT + i)).collect(),
    };
    Ok(Cluster::Member { process, addresses })
}

/// The first `processes` addresses of a hostfile; blank lines do not count.
fn read_hosts(file: &Path, processes: usize) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Error::input(format!("cannot read hostfile {}", file.display())).because(error)
    })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let hosts: Vec<String> = lines.take(processes).map(str::to_owned).collect();
    if hosts.len() < processes {
        return Err(Error::usage(format!(
            "hostfile {} has {} address(es), but -n asks for {processes}",
            file.display(),
            hosts.len()
        )));
    }
    Ok(hosts)
}

/// An address is checked for its form only: its host may not be resolvable yet.
fn check_address(address: &str) -> Result<()> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let is_port = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0));
    let spaced = address.contains(char::is_whitespace);
    // An IPv6 address without brackets would be cut in the wrong place.
    let ambiguous = port.is_some_and(|(host, _)| host.contains(':') && !host.starts_with('['));
    if is_port && !spaced && !ambiguous {
        return Ok(());
    }
    Err(Error::config(format!("{address:?} is no address: expected host:port")))
}

fn parse_restarts(budget: &str) -> Result<(u32, Duration)> {
    let parts = budget.split_once('/');
    let numbers = parts.and_then(|(views, seconds)| {
        Some((views.parse().ok()?, Duration::from_secs(seconds.parse().ok()?)))
    });
    numbers.ok_or_else(|| {
        Error::usage(format!("--restarts {budget:?}: expected NUM/SECONDS, as in 10/60"))
    })
}

/// Keeps clap's sentence, and says where the rest is to be found.
fn from_clap(error: clap::Error) -> Error {
    debug_assert_ne!(error.kind(), ErrorKind::DisplayHelp, "help is a flag of our own");
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text.split("\n\nUsage:").next().unwrap_or(text);
    let text = text.split("\n\nFor more information").next().unwrap_or(text).trim_end();
    let text = text.replace("\n\n  ", "; ").replace("\n  ", " ");
    Error::usage(format!("{text} (--help lists all flags)"))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
