//! Running a job: the counterpart of `timely::execute_from_args`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ringfence_operators::ids::{NodeId, ViewNumber};
use ringfence_operators::worker::{WorkerEnd, run_worker};
use timely::worker::Worker;

use super::channel::{ADDRESS_VARIABLE, FromLauncher, Start, Supervision, ToNode};
use super::generation::Job;
use super::host::Host;
use super::interrupts::Interrupts;
use super::job_hash::job_hash;
use super::launcher;
use super::node::{Events, Node, NodeEvent, NodeSetup, OpenRegister, Run, RunSource, events};
use super::strangers::Strangers;
use super::turns::{Turn, next_round};
use super::wording::register_failed;
use crate::config::{Config, Mode};
use crate::durable::resumption::Resumption;
use crate::error::{Error, Kind, Result};
use crate::network::{Resolved, resolve};
use crate::protocol::view::ClusterShape;
use crate::register::{DirectoryRegister, MemoryRegister, Register, RunRecord};
use crate::report::{Event, FailureReport, Summary, What};

/// The outcome of a job, in this process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome<R> {
    /// What the job's closure returned on each worker of this process; empty in a launcher.
    pub results: Vec<R>,
    /// A summary of the whole run; `None` in one of several nodes, which knows only its part.
    pub summary: Option<Summary>,
    /// The failures during the run, each once; none in a node of a launcher, which sends the launcher what it
    /// saw.
    pub failures: Vec<FailureReport>,
}

/// Runs a job as its command line says; the job survives the loss of its workers.
///
/// This replaces `timely::execute_from_args`, with the same flags and more: see [`Config::from_args`]. The
/// closure is called once for each worker and generation: it builds the job's dataflows and returns, or steps
/// the worker itself.
///
/// Like a command-line parser, it prints what is wrong with the command line, or the help, and ends the
/// process. Any other failure is returned as an error.
///
/// ```
/// use ringfence::prelude::*;
///
/// let directory = std::env::temp_dir().join(format!("ringfence-doc-{}", std::process::id()));
/// let out = directory.clone();
/// let args = ["job", "-w", "2"].map(String::from);
/// ringfence::execute_from_args(args, move |worker| {
///     worker.dataflow::<u64, _, _>(|scope| {
///         per_share(|share| (0..10u64).filter(move |n| n % share.count == share.index))
///             .to_stream_fenced(scope, "numbers")
///             .fold_fenced("sums", |n| n % 2, 0u64, |sum, n, out| {
///                 *sum += n;
///                 out.give((n % 2, *sum));
///             })
///             .sink_fenced("totals", LineFiles::new(&out));
///     });
/// })?;
/// assert!(directory.read_dir().unwrap().count() > 0);
/// std::fs::remove_dir_all(&directory).unwrap();
/// # Ok::<(), ringfence::Error>(())
/// ```
pub fn execute_from_args<R, F>(args: impl IntoIterator<Item = String>, job: F) -> Result<Outcome<R>>
where
    R: Send + 'static,
    F: Fn(&mut Worker) -> R + Send + Sync + 'static,
{
    let given: Vec<String> = args.into_iter().collect();
    let config = Config::from_args(given.clone()).and_then(|(config, _free)| {
        check_nothing_lost(&config, &given, std::env::args().skip(1))?;
        Ok(config)
    });
    match config {
        Ok(config) => execute(config, job),
        Err(error) => error.exit(),
    }
}

/// Refuses to run a job as one process if `--local` is on the command line but not among the arguments that
/// the program has passed on, for example because `args().skip(n)` has skipped too many.
fn check_nothing_lost(
    config: &Config,
    given: &[String],
    own: impl Iterator<Item = String>,
) -> Result<()> {
    let is_local = |arg: &String| arg == "--local" || arg.starts_with("--local=");
    let is_there = own.take_while(|arg| arg != "--").any(|arg| is_local(&arg));
    if config.mode() == Mode::Single && is_there && !given.iter().any(is_local) {
        return Err(Error::usage(
            "--local is on the command line, but the program has passed on only what follows it: put \
             the arguments of the job itself first, and the flags behind them",
        ));
    }
    Ok(())
}

/// Runs a job as `config` says; the job survives the loss of its workers.
///
/// Returns when the job is done: everything is released, and every node knows. If the job cannot continue,
/// returns an error that says why; see [`Kind`] for what to do next. In a process that a launcher started,
/// the configuration must be a [`Config::local`], as in the launcher itself.
///
/// A program may run several jobs, one after the other or, from different closures, at the same time.
/// With `--local` each job has its own nodes. Every node runs the whole program, but takes part only in its
/// own job; the other calls return at once with an empty [`Outcome`], as they do in the launcher.
///
/// SIGINT, SIGTERM and SIGHUP end the job in this process: see [`Kind::Interrupted`].
///
/// ```
/// use ringfence::Config;
/// use ringfence::prelude::*;
///
/// let directory = std::env::temp_dir().join(format!("ringfence-doc-e-{}", std::process::id()));
/// let out = directory.clone();
/// let outcome = ringfence::execute(Config::single().workers(2), move |worker| {
///     worker.dataflow::<u64, _, _>(|scope| {
///         per_share(|share| std::iter::once(share.index))
///             .to_stream_fenced(scope, "shares")
///             .sink_fenced("out", LineFiles::new(&out));
///     });
///     worker.index()
/// })?;
/// assert_eq!(outcome.results, [0, 1]);
/// std::fs::remove_dir_all(&directory).unwrap();
/// # Ok::<(), ringfence::Error>(())
/// ```
pub fn execute<R, F>(config: Config, job: F) -> Result<Outcome<R>>
where
    R: Send + 'static,
    F: Fn(&mut Worker) -> R + Send + Sync + 'static,
{
    if cfg!(panic = "abort") {
        return Err(Error::config(
            "this program is built with panic = \"abort\", so no worker could survive another: \
             remove that setting from its profile",
        ));
    }
    config.validate()?;
    let own_args = || std::env::args_os().skip(1);
    let turn = match (config.mode(), &config.node_args) {
        (Mode::Local(_), Some(args)) => Some(Turn::begin::<F>(args.iter().map(OsString::from))?),
        (Mode::Local(_), None) | (Mode::Child { .. }, _) => Some(Turn::begin::<F>(own_args())?),
        (Mode::Single | Mode::Member { .. }, _) => None,
    };
    let results = Results::default();
    let job = with_results(job, config.workers, Arc::clone(&results));
    let (summary, failures) = match config.mode() {
        Mode::Local(_) => {
            let (summary, failures) =
                launcher::run(&config, turn.as_ref().map(Turn::name).as_deref())?;
            (Some(summary), failures)
        }
        Mode::Single => {
            let (summary, failures) = run_single(&config, job)?;
            (Some(summary), failures)
        }
        Mode::Member { process, addresses } => {
            (None, run_member(&config, process, &addresses, job)?)
        }
        // Another job of this program, which has its own nodes.
        Mode::Child { .. } if turn.as_ref().is_some_and(|turn| !turn.is_ours()) => {
            (None, Vec::new())
        }
        Mode::Child { .. } => {
            match run_child(&config, job) {
                // A node that was asked to end has nothing more to do in this program.
                Err(error) if error.kind() == Kind::Interrupted => {
                    std::process::exit(error.exit_code())
                }
                result => result?,
            }
            (None, Vec::new())
        }
    };
    let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
    let results = results.into_values().map(|(_, result)| result).collect();
    Ok(Outcome { results, summary, failures })
}

/// What the job's closure returned on each worker, and in which view.
type Results<R> = Arc<Mutex<BTreeMap<usize, (ViewNumber, R)>>>;

/// Erases the type of a job's result: results are kept by worker, those of the last generation.
fn with_results<R, F>(job: F, workers: usize, results: Results<R>) -> Job
where
    R: Send + 'static,
    F: Fn(&mut Worker) -> R + Send + Sync + 'static,
{
    Arc::new(move |allocator, config, generation| {
        let worker = allocator.index() % workers;
        match run_worker(allocator, config, generation, &job) {
            WorkerEnd::Finished(result) => {
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                // A worker of an earlier view may return late from the job's own code.
                if results.get(&worker).is_none_or(|(view, _)| *view <= generation.view) {
                    results.insert(worker, (generation.view, result));
                }
                WorkerEnd::Finished(())
            }
            end => end.without_result(),
        }
    })
}

/// The setup of a node in any mode.
fn setup(
    config: &Config,
    job: Job,
    node: NodeId,
    nodes: BTreeMap<NodeId, String>,
    run: RunSource,
    tell: Box<dyn Fn(What) + Send>,
    round: u32,
) -> Result<NodeSetup> {
    Ok(NodeSetup {
        node,
        is_restart: false,
        nodes,
        listener: None,
        job_hash: this_job(config)?,
        round,
        strangers: Strangers::default(),
        run,
        config: config.clone(),
        durable: None,
        job,
        tell,
    })
}

fn this_job(config: &Config) -> Result<String> {
    job_hash(std::env::args_os(), config.key_hash)
        .map_err(|error| Error::internal("cannot read this program's own file").because(error))
}

fn run_single(config: &Config, job: Job) -> Result<(Summary, Vec<FailureReport>)> {
    let node = NodeId(0);
    let (sender, inbox) = events();
    let host = Arc::new(Host::new(config, node, 1, sender.clone())?);
    let (id, durable) = find_run(config, node)?;
    let run = match &config.register {
        Some(path) => open_directory(config, path, &id)?,
        None => open_run(config, Arc::new(MemoryRegister::new()), &id, None)?,
    };
    let telling = Arc::clone(&host);
    let nodes = BTreeMap::from([(node, "in process".to_owned())]);
    let tell = Box::new(move |what| telling.tell(what));
    let mut setup = setup(config, job, node, nodes, RunSource::Known(run), tell, 0)?;
    setup.durable = durable;
    let _interrupts = interrupt(sender.clone(), Duration::ZERO)?;
    let result = Node::new(setup, sender, inbox).run();
    let told = host.finish(&result);
    result.map(|()| told)
}

fn run_member(
    config: &Config,
    process: usize,
    addresses: &[String],
    job: Job,
) -> Result<Vec<FailureReport>> {
    let node = NodeId(process as u64);
    let round = next_round();
    let address = &addresses[process];
    let resolved = resolve(addresses, RESOLVE_LIMIT);
    check_distinct(addresses, &resolved)?;
    let (_, listener) = listen(address)?;
    let (sender, inbox) = events();
    let host = Arc::new(Host::new(config, node, addresses.len(), sender.clone())?);
    for (node, (address, found)) in addresses.iter().zip(&resolved).enumerate() {
        if let Some(Err(error)) = found {
            let text = format!("{address}, where node {node} should be, is unknown here: {error}");
            host.tell(What::Message { text });
        }
    }
    let (id, durable) = find_run(config, node)?;
    // Kept until the end: the temporary register of a run without `--register`.
    let mut fresh = None;
    let run = match &config.register {
        Some(path) => RunSource::Known(open_directory(config, path, &id)?),
        None if process == 0 => {
            let directory = tempfile::Builder::new().prefix("ringfence-register-").tempdir();
            let directory = directory.map_err(|error| {
                Error::new(Kind::Register, "cannot make a register directory").because(error)
            })?;
            let run = open_directory(config, directory.path(), &id)?;
            fresh = Some(directory);
            RunSource::Fresh(run, open_told(config))
        }
        None => RunSource::Told(open_told(config)),
    };
    let nodes = addresses
        .iter()
        .enumerate()
        .map(|(index, address)| (NodeId(index as u64), address.clone()))
        .collect();
    let telling = Arc::clone(&host);
    let tell = Box::new(move |what| telling.tell(what));
    let mut setup = setup(config, job, node, nodes, run, tell, round)?;
    setup.listener = Some(listener);
    setup.durable = durable;
    let _interrupts = interrupt(sender.clone(), Duration::ZERO)?;
    let result = Node::new(setup, sender, inbox).run();
    let (_part, failures) = host.finish(&result);
    match (result, fresh) {
        // The others may still need it, and it may show what went wrong.
        (Err(error), Some(directory)) => {
            let path = directory.keep();
            Err(error.noting(&format!("the register is kept in {}", path.display())))
        }
        (result, _) => result.map(|()| failures),
    }
}

/// Opens the register of which another node has told.
fn open_told(config: &Config) -> OpenRegister {
    let config = config.clone();
    Box::new(move |location| {
        if !Path::new(location).is_dir() {
            return Err(Error::new(
                Kind::Register,
                format!(
                    "cannot reach the register {location} of the other nodes: give all nodes a directory that \
                     they share, with --register"
                ),
            ));
        }
        open_directory(&config, Path::new(location), "")
    })
}

/// How long to wait for the resolver before the nodes look for each other anyway.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

/// Refuses two addresses that resolve to the same one.
fn check_distinct(addresses: &[String], resolved: &[Resolved]) -> Result<()> {
    let found = |place: usize| resolved[place].iter().flatten().flatten();
    for place in 0..addresses.len() {
        let is_same = |other: &usize| found(*other).any(|one| found(place).any(|two| one == two));
        if let Some(other) = (0..place).find(is_same) {
            return Err(Error::config(format!(
                "addresses {} and {} are the same: each process needs its own",
                addresses[other], addresses[place]
            )));
        }
    }
    Ok(())
}

fn run_child(config: &Config, job: Job) -> Result<()> {
    let Some(supervision) = Supervision::from_env()? else {
        return Err(Error::internal("this process is not a node of a launcher"));
    };
    let node = supervision.node();
    // Where it has listened before, if it is started again.
    let before = std::env::var(ADDRESS_VARIABLE).ok();
    let (address, listener) = listen(before.as_deref().unwrap_or("127.0.0.1:0"))?;
    let (sender, inbox) = events();
    let start = wait_for_start(&supervision, sender.clone(), &address.to_string())?;
    if start.is_restart && is_done(&start.register)? {
        // What this process was started again for is complete.
        return Ok(());
    }
    let durable = Resumption::find(config, &start.run)?;
    let run = open_directory(config, &start.register, &start.run)?;
    let telling = supervision.clone();
    // If the launcher is gone the process ends by itself.
    let tell = Box::new(move |what| drop(telling.event(Event::now(node, what))));
    let nodes = start.peers.into_iter().collect();
    let mut setup = setup(config, job, node, nodes, RunSource::Known(run), tell, 0)?;
    setup.listener = Some(listener);
    setup.durable = durable;
    setup.is_restart = start.is_restart;
    let _interrupts = interrupt(sender.clone(), TERMINAL_GRACE)?;
    Node::new(setup, sender, inbox).run()
}

/// Listens at `address`, and waits for it if it is taken: the process that had it before may not be gone yet, and
/// one that looks for this node on loopback may be connected to itself for a moment.
fn listen(address: &str) -> Result<(SocketAddr, TcpListener)> {
    let until = Instant::now() + LISTEN_LIMIT;
    loop {
        let listener = TcpListener::bind(address);
        match listener.and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok(bound) => return Ok(bound),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(LISTEN_PAUSE);
            }
            Err(error) => {
                let text = format!("cannot listen on {address}");
                return Err(Error::new(Kind::Network, text).because(error));
            }
        }
    }
}

/// How long an address that is taken is waited for.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);

/// The time between two attempts.
const LISTEN_PAUSE: Duration = Duration::from_millis(10);

fn is_done(register: &Path) -> Result<bool> {
    DirectoryRegister::open(register).and_then(|register| register.done()).map_err(register_failed)
}

/// How long a node of a launcher waits, after a SIGINT, for the launcher to end it: a terminal also sends
/// SIGINT to the launcher, which then ends all nodes and says so once.
const TERMINAL_GRACE: Duration = Duration::from_millis(300);

/// Asks the node behind `events` to leave when this process is asked to end.
fn interrupt(events: Events, grace: Duration) -> Result<Interrupts> {
    Interrupts::watch(move |signal| {
        if signal == Signal::SIGINT {
            std::thread::sleep(grace);
        }
        let _ = events.send(NodeEvent::Interrupted(signal));
    })
}

/// Reports to the launcher and waits until all nodes have done so.
fn wait_for_start(supervision: &Supervision, events: Events, address: &str) -> Result<Start> {
    let (started, start) = crossbeam_channel::bounded(1);
    supervision.listen(move |message| match message {
        FromLauncher::Message(ToNode::Start(start)) => drop(started.try_send(start)),
        FromLauncher::Message(ToNode::Fault(kind)) => drop(events.send(NodeEvent::Fault(kind))),
        FromLauncher::Gone => {}
    })?;
    supervision.hello(address)?;
    start.recv().map_err(|_| Error::job("the launcher of this node is gone"))
}

/// Opens a register directory and the run in it, making it `id` if there is none.
fn open_directory(config: &Config, path: &Path, id: &str) -> Result<Run> {
    let register = DirectoryRegister::open(path).map_err(register_failed)?;
    let location = path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    open_run(config, Arc::new(register), id, Some(location.to_string_lossy().into_owned()))
}

fn open_run(
    config: &Config,
    register: Arc<dyn Register>,
    id: &str,
    location: Option<String>,
) -> Result<Run> {
    let record = RunRecord {
        run: id.to_owned(),
        job: this_job(config)?,
        cluster: ClusterShape {
            nodes: config.node_count() as u32,
            workers_per_node: config.workers as u32,
            partitions: config.partitions,
            backups: config.backup_count() as u32,
        },
    };
    let run = register.open_run(&record).map_err(register_failed)?;
    Ok(Run { id: run.run, register, location })
}

/// The id of the run that this node would begin, and what it goes on from.
fn find_run(config: &Config, node: NodeId) -> Result<(String, Option<Resumption>)> {
    let fresh = new_run_id(node);
    let durable = Resumption::find(config, &fresh)?;
    Ok((durable.as_ref().map_or(fresh, |found| found.run.clone()), durable))
}

/// A unique name for a new run.
fn new_run_id(node: NodeId) -> String {
    let now_ms = crate::report::now_ms() as u64;
    format!("{now_ms:x}-{node}-{:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_under_two_names_is_refused() {
        let addresses = ["a:1", "b:1", "c:1"].map(String::from);
        let found = |text: &str| Some(Ok(vec![text.parse().unwrap()]));
        let resolved = [found("10.0.0.1:1"), None, found("10.0.0.2:1")];
        check_distinct(&addresses, &resolved).unwrap();
        let resolved = [found("10.0.0.1:1"), None, found("10.0.0.1:1")];
        let error = check_distinct(&addresses, &resolved).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("a:1 and c:1"), "{error}");
    }

    #[test]
    fn flags_that_were_skipped_are_an_error() {
        let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
        let check = |own: &str, given: &str| {
            let config = Config::from_args(words(given)).unwrap().0;
            check_nothing_lost(&config, &words(given), words(own).into_iter())
        };
        check("1000 -w 2", "-w 2").unwrap();
        check("1000 --local 3", "--local 3").unwrap();
        check("-w 2 -- --local 3", "-w 2").unwrap();
        for own in ["--local 3 1000", "--local=3 1000"] {
            let error = check(own, "1000").unwrap_err();
            assert!(error.to_string().contains("--local is on the command line"), "{error}");
        }
    }
}
