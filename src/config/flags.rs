//! The command line: its flags, and the configuration that they describe.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use ringfence_operators::hash::KeyHasher;

use super::hosts::{default_hosts, read_hosts};
use super::{BYTES_PER_MB, Cluster, Config, PARTITIONS_MAX, PROCESSES_MAX};
use crate::error::{Error, Kind, Result};
use crate::report::counted;

impl Config {
    /// Reads the flags among `args`. Returns the remaining arguments as well: those that are not flags, and
    /// all those after a bare `--`.
    ///
    /// The first element is the program's name, unless it begins with `-`: timely's programs give
    /// `std::env::args()` or, after arguments of their own, `std::env::args().skip(n)`, which lacks the
    /// name and may begin with a flag.
    ///
    /// An unknown or malformed flag is an error that names it. With `--help` or `--version`, the error has
    /// [`Kind::Help`] and its text is what was asked for.
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

    /// The text of `--help` for `program`, followed by the program's own `extra_lines`.
    pub fn help(program: &str, extra_lines: &str) -> String {
        command(program).after_help(extra_lines.to_owned()).render_help().to_string()
    }
}

/// The name of a program without the directories before it.
fn base_name(program: &str) -> String {
    let name = Path::new(program).file_name();
    name.map_or_else(|| program.to_owned(), |name| name.to_string_lossy().into_owned())
}

pub(super) fn command(program: &str) -> Command {
    let name = base_name(program);
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
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(number("threads", "Worker threads of each process [default: 1]").short('w'))
        .arg(number("processes", "Number of processes, each started by hand [default: 1]").short('n'))
        .arg(number("process", "Number of this process, from 0").short('p'))
        .arg(path("hostfile", "FILE", "Addresses of the processes, one host:port per line, # begins a comment\n[default: localhost:2101 and the following ports]").short('h'))
        .arg(number("local", "Start NUM node processes of this program on this machine and supervise them").conflicts_with_all(["processes", "process", "hostfile"]))
        .arg(number("backups", "Copies of each partition in addition to its owner's [default: 1]"))
        .arg(millis("epoch-ms", "Length of an epoch [default: 100]"))
        .arg(millis("checkpoint-ms", "Time between checkpoints, the unit of commit [default: every epoch]"))
        .arg(Arg::new("in-flight-epochs").long("in-flight-epochs").value_name("NUM").value_parser(value_parser!(u32).range(1..)).help("Epochs, or checkpoints, that may be in flight before sources wait [default: 4]"))
        .arg(Arg::new("partitions").long("partitions").value_name("NUM").value_parser(value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX))).help("Number of parts of the key space, 1 to 65536 [default: 256]"))
        .arg(Arg::new("key-hash").long("key-hash").value_name("HASH").value_parser(["rapid", "sha1"]).hide_possible_values(true).help("How keys are hashed, on all nodes: rapid or sha1 [default: rapid]"))
        .arg(path("register", "DIR", "Directory of the agreed views [default: a fresh one with --local]"))
        .arg(path("durable", "DIR", "Keep what is committed in DIR, and resume from it if the whole cluster is gone"))
        .arg(millis("durable-every", "Time between two durable checkpoints [default: 1000]").requires("durable"))
        .arg(Arg::new("durable-commit").long("durable-commit").action(ArgAction::SetTrue).requires("durable").help("Release results only once they are durable"))
        .arg(path("report", "FILE", "Append one JSON line per event to FILE"))
        .arg(Arg::new("fault").long("fault").value_name("SPEC").action(ArgAction::Append).help("Inject a failure: kill:NODE@WHEN, panic:NODE@WHEN, or for a limited time\nstop:NODE@WHEN+FOR, cut:NODE@WHEN+FOR, slow:NODE@WHEN+FOR, where WHEN is 2s or 500ms\nafter the first commit, or 40% of the input; may be repeated.\nOr random:SEED@EVERY, an endless series of faults that the job must survive"))
        .arg(path("quarantine", "DIR", "Write records whose processing panics every time to files in DIR, and continue"))
        .arg(Arg::new("views-without-commit").long("views-without-commit").value_name("NUM").value_parser(value_parser!(u32)).help("End the job after more than NUM consecutive views without a commit\n[default: 10]"))
        .arg(Arg::new("restarts").long("restarts").value_name("NUM/SECONDS").help("End the job after panics have ended more than NUM views within SECONDS\n[default: 10/60]"))
        .arg(Arg::new("node-restarts").long("node-restarts").value_name("NUM[/SECONDS]").help("Start at most NUM node processes again within SECONDS, with --local; 0 for none\n[default: 10/60]"))
        .arg(millis("connect-timeout-ms", "Time for the nodes to find each other [default: 30000]"))
        .arg(millis("suspect-ms", "Silence after which a node counts as failed [default: 500]"))
        .arg(millis("hang-ms", "Time without an answer after which a worker counts as failed [default: 30000]"))
        .arg(Arg::new("refill-mb-per-second").long("refill-mb-per-second").value_name("MB").value_parser(value_parser!(u64).range(1..=1_000_000)).help("How fast each node may rebuild lost copies [default: 64]"))
        .arg(Arg::new("progress-mode").long("progress-mode").value_name("MODE").value_parser(["eager", "demand"]).hide_possible_values(true).help("How timely tracks progress: eager or demand [default: demand]"))
        .arg(Arg::new("idle-spin").long("idle-spin").value_name("MICROS").value_parser(value_parser!(u64)).help("Microseconds that an idle worker polls before it parks [default: 10]"))
        .arg(Arg::new("help").long("help").action(ArgAction::SetTrue).help("Print this text (-h is the hostfile)"))
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue).help("Print the version"))
        .arg(Arg::new("free").value_name("ARGS").action(ArgAction::Append).num_args(0..).help("Arguments of the job itself"))
}

fn from_matches(matches: &ArgMatches) -> Result<Config> {
    let number = |id: &str| matches.get_one::<usize>(id).copied();
    let millis = |id: &str| matches.get_one::<u64>(id).map(|ms| Duration::from_millis(*ms));
    let path = |id: &str| matches.get_one::<PathBuf>(id).cloned();

    let mut config = Config::of(cluster(matches)?);
    config.workers = number("threads").unwrap_or(config.workers);
    config.backups = number("backups");
    config.epoch_interval = millis("epoch-ms").unwrap_or(config.epoch_interval);
    config.checkpoint_interval = millis("checkpoint-ms");
    config.connect_limit = millis("connect-timeout-ms").unwrap_or(config.connect_limit);
    config.suspect_limit = millis("suspect-ms").unwrap_or(config.suspect_limit);
    config.hang_limit = millis("hang-ms").unwrap_or(config.hang_limit);
    if let Some(epochs) = matches.get_one::<u32>("in-flight-epochs") {
        config.in_flight_epochs_max = *epochs;
    }
    if let Some(partitions) = matches.get_one::<u32>("partitions") {
        config.partitions = *partitions;
    }
    if matches.get_one::<String>("key-hash").is_some_and(|name| name == "sha1") {
        config.key_hash = KeyHasher::Sha1;
    }
    if let Some(megabytes) = matches.get_one::<u64>("refill-mb-per-second") {
        config.refill_bytes_per_second = megabytes * BYTES_PER_MB;
    }
    config.register = path("register");
    config.durable = path("durable");
    config.durable_interval = millis("durable-every").unwrap_or(config.durable_interval);
    config.durable_commit = matches.get_flag("durable-commit");
    config.report = path("report");
    config.quarantine = path("quarantine");
    for spec in matches.get_many::<String>("fault").into_iter().flatten() {
        config.add_fault(spec)?;
    }
    if let Some(&views) = matches.get_one::<u32>("views-without-commit") {
        config.views_without_commit_max = views;
    }
    if let Some(budget) = matches.get_one::<String>("restarts") {
        config.restarts = parse_restarts(budget)?;
    }
    if let Some(budget) = matches.get_one::<String>("node-restarts") {
        config.node_restarts = parse_node_restarts(budget, config.node_restarts.1)?;
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
    let hostfile = matches.get_one::<PathBuf>("hostfile");
    let Some(processes) = number("processes") else {
        // SUBTLE: with the flags of a cluster, a job must not run as a single unprotected process.
        return match (hostfile, number("process")) {
            (Some(file), _) => read_hosts(file, None).map(|_| Cluster::Single),
            (None, Some(process)) => {
                Err(Error::usage(format!("-p {process} needs -n: how many processes are there?")))
            }
            (None, None) => Ok(Cluster::Single),
        };
    };
    if !(1..=PROCESSES_MAX).contains(&processes) {
        return Err(Error::usage(format!(
            "-n {processes}: expected 1 to {PROCESSES_MAX} processes"
        )));
    }
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
        let count = counted(processes as u64, "process");
        return Err(Error::usage(format!(
            "-p {process} is not one of {count}: -p counts from 0 and must be below -n"
        )));
    }
    let addresses = match hostfile {
        Some(file) => read_hosts(file, Some(processes))?,
        None => default_hosts(processes),
    };
    if processes == 1 {
        return Ok(Cluster::Single);
    }
    Ok(Cluster::Member { process, addresses })
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

/// As [`parse_restarts`], and the window may be left out.
fn parse_node_restarts(budget: &str, window: Duration) -> Result<(u32, Duration)> {
    if let Ok(processes) = budget.parse() {
        return Ok((processes, window));
    }
    parse_restarts(budget).map_err(|_| {
        Error::usage(format!(
            "--node-restarts {budget:?}: expected NUM or NUM/SECONDS, as in 10/60"
        ))
    })
}

/// Keeps clap's sentence, and refers to `--help` for the rest.
fn from_clap(error: clap::Error) -> Error {
    debug_assert_ne!(error.kind(), ErrorKind::DisplayHelp, "help is a flag of our own");
    let is_of_hosts = |value: &ContextValue| value.to_string().contains("--hostfile");
    if error.get(ContextKind::InvalidArg).is_some_and(is_of_hosts)
        && error.get(ContextKind::InvalidValue).is_none_or(|value| value.to_string().is_empty())
    {
        return Error::usage(
            "-h is timely's flag for a hostfile and needs one; --help lists all flags",
        );
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text.split("\n\nUsage:").next().unwrap_or(text);
    let text = text.split("\n\nFor more information").next().unwrap_or(text).trim_end();
    let text = text.replace("\n\n  ", "; ").replace("\n  ", " ");
    Error::usage(format!("{text} (--help lists all flags)"))
}
