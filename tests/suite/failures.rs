//! Every kind of failure is named: what failed, where, why, how sure. What must be true: one report for
//! each failure and cluster, with the right cause and place, as `docs/failures.md` promises.
//!
//! Nodes of a launcher are this same executable, started again to run the one test `a_node`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::{of_kind, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence::operators::ids::{NodeId, ViewNumber};
use ringfence::operators::verbs::sink::Release;
use ringfence::prelude::*;
use ringfence::report::{Cause, Certainty, Clue, Component, Consequence};
use ringfence::{Config, Error, Outcome};
use serde_json::Value;

const NUMBERS: u64 = 6_000;
const KEYS: u64 = 100;

/// The number in whose processing things go wrong.
const BAD: u64 = 4_321;

/// What goes wrong in a job.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    /// The first try of the bad number panics, in the whole cluster.
    PanicsOnce,
    /// Each try of it panics.
    PanicsAlways,
    /// The first try of it ends the process with exit code 3.
    Exits,
    /// The first try of it ends the process with SIGABRT.
    Aborts,
    /// The first try of it takes so long that the worker does not leave in time.
    Hangs,
    /// The sink does not take the bad number.
    SinkFails,
    /// Nothing.
    Nothing,
}

const ALL: [Wrong; 7] = [
    Wrong::PanicsOnce,
    Wrong::PanicsAlways,
    Wrong::Exits,
    Wrong::Aborts,
    Wrong::Hangs,
    Wrong::SinkFails,
    Wrong::Nothing,
];

impl Wrong {
    fn happens(self, n: u64, scene: &Path) {
        // Whoever makes the file is the first.
        let first = || fs::File::create_new(scene.join("done once")).is_ok();
        match self {
            _ if n != BAD => {}
            Wrong::PanicsAlways => panic!("cannot digest {n}"),
            Wrong::PanicsOnce if first() => panic!("cannot digest {n}"),
            Wrong::Exits if first() => std::process::exit(3),
            Wrong::Aborts if first() => std::process::abort(),
            Wrong::Hangs if first() => thread::sleep(Duration::from_secs(12)),
            _ => {}
        }
    }
}

/// A file sink that may refuse the bad number.
struct Picky {
    files: LineFiles,
    wrong: Wrong,
}

impl Sink<(u64, u64)> for Picky {
    type Position = u64;

    fn open(&mut self, start: &ringfence::operators::verbs::sink::Start) -> io::Result<()> {
        Sink::<(u64, u64)>::open(&mut self.files, start)
    }

    fn when_done(&self) -> Option<ringfence::operators::fence::generation::WhenDone> {
        Sink::<(u64, u64)>::when_done(&self.files)
    }

    fn prepare(&mut self, position: &mut u64, rows: &[(u64, u64)]) -> io::Result<Vec<u8>> {
        if self.wrong == Wrong::SinkFails && rows.iter().any(|(n, _)| *n == BAD) {
            return Err(io::Error::other("the target is full"));
        }
        self.files.prepare(position, rows)
    }

    fn release(&mut self, id: &Release, prepared: &[u8]) -> io::Result<()> {
        Sink::<(u64, u64)>::release(&mut self.files, id, prepared)
    }
}

/// A job that counts numbers by key, in which something goes wrong.
fn job(config: Config, wrong: Wrong, scene: PathBuf) -> Result<Outcome<()>, Error> {
    ringfence::execute(config.epoch(Duration::from_millis(10)), move |worker| {
        let scene = scene.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|share| {
                (0..NUMBERS).filter(move |n| n % share.count == share.index).inspect(|n| {
                    if n % 50 < 2 {
                        thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .to_stream_fenced(scope, "numbers")
            .fold_fenced("counts", |n| n % KEYS, 0u64, {
                let scene = scene.clone();
                move |count, n, out| {
                    wrong.happens(n, &scene);
                    *count += 1;
                    out.give((n, *count));
                }
            })
            .sink_fenced("totals", Picky { files: LineFiles::new(scene.join("totals")), wrong });
        });
    })
}

fn lines(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

/// Asserts that each number went through once.
#[track_caller]
fn assert_exact(scene: &Path) {
    let mut numbers: Vec<u64> = lines(&scene.join("totals"))
        .iter()
        .map(|line| line.split('\t').next().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..NUMBERS), "{} numbers", numbers.len());
}

/// Not a test but the node of the other tests.
#[test]
fn a_node() {
    let args: Vec<String> = std::env::args().collect();
    let Some(flags) = args.iter().find_map(|arg| arg.strip_prefix("behave:")) else { return };
    let mut flags = flags.split(' ').map(str::to_owned);
    let (wrong, scene) = (flags.next().unwrap(), flags.next().unwrap());
    let wrong = ALL.into_iter().find(|known| format!("{known:?}") == wrong).unwrap();
    let (config, _) = Config::from_args(std::iter::once("job".to_owned()).chain(flags)).unwrap();
    if let Err(error) = job(config, wrong, scene.into()) {
        error.exit();
    }
    std::process::exit(0);
}

/// What a run of real processes came to.
struct Run {
    scene: tempfile::TempDir,
    result: Result<Outcome<()>, Error>,
    reports: Vec<FailureReport>,
    events: Vec<Value>,
}

/// Runs the job on three nodes.
fn run_three(wrong: Wrong, flags: &str) -> Run {
    run_three_in(tempfile::tempdir().unwrap(), wrong, flags)
}

fn run_three_in(scene: tempfile::TempDir, wrong: Wrong, flags: &str) -> Run {
    let report = scene.path().join("report.json");
    // A machine that is busy with other tests is no silent node.
    let patience = if flags.contains("--suspect-ms") { "" } else { "--suspect-ms 3000" };
    let flags = format!("--local 3 --report {} {patience} {flags}", report.display());
    let flags = flags.split_whitespace().collect::<Vec<_>>().join(" ");
    let args = ["job"].into_iter().chain(flags.split(' ')).map(str::to_owned);
    let (config, _) = Config::from_args(args).unwrap();
    let behave = format!("behave:{wrong:?} {} {flags}", scene.path().display());
    let node_args = ["failures::a_node", "--exact", "--nocapture", &behave];
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let config = config
        .node_args(node_args.map(str::to_owned))
        .on_failure(move |report| telling.lock().unwrap().push(report.clone()));
    let result = job(config, wrong, scene.path().to_owned());
    let reports = told.lock().unwrap().clone();
    let events = crate::support::events(&report);
    let written: Vec<FailureReport> = of_kind(&events, "failure_report")
        .map(|event| serde_json::from_value(event.clone()).unwrap())
        .collect();
    // The last digit of a time may change on its way through text.
    let texts =
        |reports: &[FailureReport]| reports.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&written), texts(&reports), "the file has what the callback got");
    if let Ok(outcome) = &result {
        let mut last = reports.clone();
        last.reverse();
        last.sort_by_key(|report| report.id);
        last.dedup_by_key(|report| report.id);
        let mut failures = outcome.failures.clone();
        failures.sort_by_key(|report| report.id);
        assert_eq!(failures, last, "and the outcome has the last of each");
    }
    Run { scene, result, reports, events }
}

/// The only report of a run.
#[track_caller]
fn only(reports: &[FailureReport]) -> &FailureReport {
    for report in reports {
        println!("{report}");
    }
    assert_eq!(reports.len(), 1, "{reports:#?}");
    &reports[0]
}

#[track_caller]
fn assert_recovered(report: &FailureReport, left: &[u64]) {
    let Consequence::Recovered { view, left: gone, members, .. } = &report.consequence else {
        panic!("{report:#?}");
    };
    let left: Vec<NodeId> = left.iter().copied().map(NodeId).collect();
    assert_eq!((*view, gone), (ViewNumber(2), &left), "{report:#?}");
    assert_eq!(members.len() + left.len(), 3);
    let cost = report.cost.unwrap();
    assert!(cost.phases_ms.total_ms() > 0.0 && cost.records_replayed > 0, "{report:#?}");
}

#[track_caller]
fn assert_panic(report: &FailureReport) {
    assert_eq!((report.component, report.cause), (Component::Worker, Cause::Panic));
    assert_eq!(report.certainty, Certainty::Certain);
    let place = &report.place;
    assert_eq!(place.operator.as_ref().map(ToString::to_string).as_deref(), Some("counts"));
    assert!(place.worker.is_some() && place.partition.is_some() && place.epoch.is_some());
    let is_located = report.evidence.iter().any(|clue| match clue {
        Clue::Panic { message, location: Some(location) } => {
            *message == format!("cannot digest {BAD}")
                && location.starts_with("tests/suite/failures.rs:")
        }
        _ => false,
    });
    assert!(is_located, "{report:#?}");
}

#[test]
fn a_panic_is_named_with_operator_partition_epoch_and_source_location() {
    let run = run_three(Wrong::PanicsOnce, "");
    run.result.as_ref().unwrap();
    let report = only(&run.reports);
    assert_panic(report);
    assert_recovered(report, &[]);
    assert_exact(run.scene.path());
}

#[test]
fn a_panic_in_a_single_process_is_named_too() {
    let scene = tempfile::tempdir().unwrap();
    let path = scene.path().to_owned();
    let outcome = job(Config::single().workers(2), Wrong::PanicsOnce, path).unwrap();
    let report = only(&outcome.failures);
    assert_panic(report);
    assert_eq!(report.place.node, Some(NodeId(0)));
    assert_exact(scene.path());
}

#[test]
fn a_panic_outside_of_protected_operators_has_a_location_only() {
    let scene = tempfile::tempdir().unwrap();
    let path = scene.path().to_owned();
    let is_first = Arc::new(AtomicBool::new(true));
    let outcome = ringfence::execute(Config::single(), move |worker| {
        let is_first = Arc::clone(&is_first);
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|_share| 0..1_000u64)
                .to_stream_fenced(scope, "numbers")
                .map(move |n| {
                    assert!(n < 500 || !is_first.swap(false, Ordering::SeqCst), "plain code");
                    n
                })
                .sink_fenced("totals", LineFiles::new(&path));
        });
    });
    let outcome = outcome.unwrap();
    let report = only(&outcome.failures);
    assert_eq!((report.component, report.cause), (Component::Worker, Cause::Panic));
    assert_eq!((&report.place.operator, report.place.partition), (&None, None));
    let text = report.to_string();
    assert!(text.contains("plain code") && text.contains("tests/suite/failures.rs:"), "{text}");
}

/// The text of the error and the report both name where the record is that nobody can process.
#[track_caller]
fn assert_budget_spent(error: &Error, report: &FailureReport, restarts: u32) {
    let text = error.to_string();
    let place = &report.place;
    for part in [
        format!("more than {restarts} views"),
        "\"counts\"".to_owned(),
        format!("partition {}", place.partition.unwrap()),
        format!("epoch {}", place.epoch.unwrap()),
        format!("the record was {BAD}"),
    ] {
        assert!(text.contains(&part), "{part:?} is not in {text}");
    }
    assert_panic(report);
    assert_eq!(report.record(), Some(BAD.to_string().as_str()));
    assert!(matches!(&report.consequence, Consequence::Ended { .. }), "{report:#?}");
}

#[test]
fn a_poison_record_spends_the_restart_budget_of_a_process() {
    let scene = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let config = Config::single()
        .workers(2)
        .restarts(3, Duration::from_secs(60))
        .on_failure(move |report| telling.lock().unwrap().push(report.clone()));
    let error = job(config, Wrong::PanicsAlways, scene.path().to_owned()).unwrap_err();
    let reports = told.lock().unwrap().clone();
    assert_eq!(reports.len(), 4, "{reports:#?}");
    assert_budget_spent(&error, &reports[3], 3);
}

#[test]
fn a_poison_record_ends_the_job_on_all_nodes() {
    let run = run_three(Wrong::PanicsAlways, "--restarts 2/60");
    let error = run.result.unwrap_err();
    run.reports.iter().for_each(|report| println!("{report}"));
    // One each time, however many nodes hear of it.
    assert_eq!(run.reports.len(), 3, "{:#?}", run.reports);
    assert_budget_spent(&error, run.reports.last().unwrap(), 2);
    let errors: Vec<_> = of_kind(&run.events, "error").map(|e| e["node"].as_u64()).collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
}

/// Asserts that all numbers but the bad one went through once, and that one to the dead letters.
#[track_caller]
fn assert_set_apart(scene: &Path, dead: &Path) {
    let mut numbers: Vec<u64> = lines(&scene.join("totals"))
        .iter()
        .map(|line| line.split('\t').next().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq((0..NUMBERS).filter(|n| *n != BAD)), "{numbers:?}");
    let letters = lines(&dead.join("counts"));
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    let fields: Vec<&str> = letter.split('\t').collect();
    let message = format!("\"cannot digest {BAD}\"");
    assert_eq!(fields[1..], [message.as_str(), BAD.to_string().as_str()]);
    // The counts of its key have no gap either: it left no trace.
    let counts: Vec<u64> = lines(&scene.join("totals"))
        .iter()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(n, _)| n.parse::<u64>().unwrap() % KEYS == BAD % KEYS)
        .map(|(_, count)| count.parse().unwrap())
        .collect();
    assert_eq!(counts.iter().max(), Some(&(NUMBERS / KEYS - 1)));
}

#[test]
fn a_poison_record_is_set_apart_and_the_job_goes_on() {
    let scene = tempfile::tempdir().unwrap();
    let dead = scene.path().join("dead");
    let config = Config::single().workers(2).quarantine(&dead);
    let outcome = job(config, Wrong::PanicsAlways, scene.path().to_owned()).unwrap();
    assert_panic(only(&outcome.failures));
    assert_set_apart(scene.path(), &dead);
}

#[test]
fn a_poison_record_is_set_apart_once_though_nodes_die() {
    let scene = tempfile::tempdir().unwrap();
    let dead = scene.path().join("dead");
    let flags = format!("--quarantine {} --backups 2 --fault kill:0@500ms", dead.display());
    let run = run_three_in(scene, Wrong::PanicsAlways, &flags);
    run.result.as_ref().unwrap();
    assert_eq!(of_kind(&run.events, "fault").count(), 1, "the kill came too late");
    assert!(of_kind(&run.events, "quarantined").count() >= 1);
    assert_set_apart(run.scene.path(), &dead);
}

#[test]
fn a_killed_process_is_certain_and_a_fault_on_purpose_says_so() {
    let run = run_three(Wrong::Nothing, "--fault kill:1@50ms");
    run.result.as_ref().unwrap();
    let report = only(&run.reports);
    assert_eq!((report.component, report.cause), (Component::Process, Cause::Killed));
    assert_eq!((report.certainty, report.place.node), (Certainty::Certain, Some(NodeId(1))));
    assert!(report.is_on_purpose());
    assert!(report.evidence.contains(&Clue::Signal { number: 9, name: "SIGKILL".to_owned() }));
    assert_eq!(report.noticed_by.len(), 2, "{report:#?}");
    assert_recovered(report, &[1]);
    let cost = report.cost.unwrap();
    assert!(cost.partitions_moved > 0 && cost.bytes_opened > 0, "{report:#?}");
    assert_exact(run.scene.path());
}

#[test]
fn an_exit_code_and_an_abort_are_told_apart() {
    for (wrong, cause, clue) in [
        (Wrong::Exits, Cause::Exited, Clue::ExitCode { code: 3 }),
        (Wrong::Aborts, Cause::Killed, Clue::Signal { number: 6, name: "SIGABRT".to_owned() }),
    ] {
        let run = run_three(wrong, "");
        let report = only(&run.reports);
        assert_eq!((report.component, report.cause), (Component::Process, cause), "{report:#?}");
        assert_eq!(report.certainty, Certainty::Certain);
        assert!(report.evidence.contains(&clue) && !report.is_on_purpose(), "{report:#?}");
        assert_recovered(report, &[report.place.node.unwrap().0]);
        assert_exact(run.scene.path());
    }
}

#[test]
fn a_sink_and_a_source_that_fail_are_named() {
    let run = run_three(Wrong::SinkFails, "");
    let error = run.result.unwrap_err().to_string();
    assert!(error.contains("the target is full"), "{error}");
    let report = only(&run.reports);
    assert_eq!((report.component, report.cause), (Component::Sink, Cause::SinkFailed));
    assert_eq!(report.place.operator.as_ref().map(ToString::to_string).unwrap(), "totals");
    assert!(report.to_string().contains("the target is full"), "{report}");
    assert!(matches!(&report.consequence, Consequence::Ended { .. }), "{report:#?}");

    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let config =
        Config::single().on_failure(move |report| telling.lock().unwrap().push(report.clone()));
    let missing = run.scene.path().join("missing.txt");
    let error = ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            let out = missing.with_extension("out");
            TextFiles::new([missing.clone()])
                .to_stream_fenced(scope, "lines")
                .sink_fenced("out", LineFiles::new(out));
        });
    });
    assert!(error.unwrap_err().to_string().contains("missing.txt"));
    let reports = told.lock().unwrap().clone();
    let report = only(&reports);
    assert_eq!((report.component, report.cause), (Component::Source, Cause::SourceFailed));
    assert_eq!(report.place.operator.as_ref().map(ToString::to_string).unwrap(), "lines");
}

#[test]
fn a_worker_that_does_not_leave_is_named_as_hung() {
    let run = run_three(Wrong::Hangs, "--hang-ms 3000");
    run.reports.iter().for_each(|report| println!("{report}"));
    let hung = run.reports.iter().find(|report| report.cause == Cause::Hung).unwrap();
    assert_eq!((hung.component, hung.certainty), (Component::Worker, Certainty::Probable));
    assert_eq!(hung.place.operator.as_ref().map(ToString::to_string).unwrap(), "counts");
    assert!(hung.place.partition.is_some() && hung.place.epoch.is_some(), "{hung:#?}");
    // Its node goes on without it: only what it would have handed over is taken from a copy elsewhere.
    assert_recovered(hung, &[]);
    assert!(hung.cost.is_some_and(|cost| cost.partitions_moved > 0), "{hung:#?}");
    assert_exact(run.scene.path());
}

#[test]
fn a_stopped_process_is_told_from_a_dead_one() {
    let scene = tempfile::tempdir().unwrap();
    let report = scene.path().join("report.json");
    let watched = report.clone();
    let stopper = thread::spawn(move || {
        let process_id = || {
            let events = crate::support::events(&watched);
            let is_running = of_kind(&events, "commit").count() >= 3;
            let mut started = of_kind(&events, "started").filter(|event| event["node"] == 1);
            started.next().filter(|_| is_running)?["process_id"].as_i64()
        };
        wait_until("for node 1 to run", || process_id().is_some());
        let process = Pid::from_raw(process_id().unwrap() as i32);
        kill(process, Signal::SIGSTOP).unwrap();
        thread::sleep(Duration::from_secs(4));
        kill(process, Signal::SIGCONT).unwrap();
    });
    let run = run_three_in(scene, Wrong::Nothing, "--suspect-ms 600");
    stopper.join().unwrap();
    run.reports.iter().for_each(|report| println!("{report}"));
    let report = &run.reports[0];
    assert!(run.reports.iter().all(|later| later.id == report.id), "{:#?}", run.reports);
    assert_eq!((report.component, report.cause), (Component::Process, Cause::Hung));
    assert_eq!((report.certainty, report.place.node), (Certainty::Certain, Some(NodeId(1))));
    assert!(report.evidence.contains(&Clue::ProcessState { state: 'T' }), "{report:#?}");
    assert!(report.evidence.iter().any(|clue| matches!(clue, Clue::Silence { .. })));
    assert_recovered(report, &[1]);
    assert_exact(run.scene.path());
}

#[test]
fn a_process_killed_by_hand_is_suspected_by_each_survivor() {
    let mut cluster = Cluster::start("--suspect-ms 3000", 8, 3);
    cluster.kill_after(1, 2);
    let (place, ran) = cluster.wait();
    for process in [0, 2] {
        let events = crate::support::events(&place.path(&format!("report-{process}.json")));
        let reports: Vec<FailureReport> = of_kind(&events, "failure_report")
            .map(|event| serde_json::from_value(event.clone()).unwrap())
            .collect();
        let report = only(&reports);
        assert_eq!((report.component, report.cause), (Component::Node, Cause::ConnectionLost));
        assert_eq!((report.certainty, report.place.node), (Certainty::Suspected, Some(NodeId(1))));
        assert!(ran[process].stderr.contains("failure 1 in view 1: node connection lost"));
    }
    place.assert_exact(8);
}
