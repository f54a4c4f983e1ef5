//! Processes behave: whatever happens to report, terminal, register and neighbours, the job's output is
//! exact, and what went wrong is told at once and once.
//!
//! This executable is the tests, the launcher and the nodes, by its environment and arguments.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence::prelude::*;
use ringfence::{Config, Error};
use support::own::{self, Test, start, start_with, test};
use support::{Ran, Running, events, free_addresses, of_kind, wait_until};
use timely::dataflow::ProbeHandle;

/// The keys of the job.
const KEYS: u64 = 100;

/// The numbers of a job that waits for its test, and the file that says that it need not any more.
const MANY: u64 = 60_000;
const ENOUGH: &str = "enough";

/// What the environment says of the job: how many numbers there are, and the pause at each.
fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

/// Counts numbers by key; each line is a key and how many of it there were so far.
fn count(place: &Path, config: Config) -> Result<(), Error> {
    count_into(place, "out", config)
}

/// There is a pause at each number until a test has seen enough, and wrote a file that says so.
fn count_into(place: &Path, out: &str, config: Config) -> Result<(), Error> {
    let (numbers, pause_us) = (variable("NUMBERS", 2_000), variable("PAUSE_US", 500));
    let (out, enough) = (place.join(out), place.join(ENOUGH));
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            let enough = enough.clone();
            per_share(move |share| {
                let (enough, mut hurries) = (enough.clone(), false);
                (0..numbers).filter(move |n| n % share.count == share.index).inspect(move |_| {
                    hurries = hurries || enough.exists();
                    if !hurries {
                        thread::sleep(Duration::from_micros(pause_us));
                    }
                })
            })
            .to_stream_fenced(scope, "numbers")
            .fold_fenced(
                "counts",
                |n| n % KEYS,
                0u64,
                |count, n, out| {
                    *count += 1;
                    out.give((n % KEYS, *count));
                },
            )
            .sink_fenced("totals", LineFiles::new(&out));
        });
    })?;
    Ok(())
}

/// Asserts that each key has each number from 1 to its count once.
#[track_caller]
fn assert_exact(out: &Path, numbers: u64, ran: &Ran) {
    let mut seen = HashMap::<String, u64>::new();
    let parts =
        fs::read_dir(out).unwrap_or_else(|error| panic!("{}: {error}\n{ran}", out.display()));
    for part in parts {
        for line in fs::read_to_string(part.unwrap().path()).unwrap().lines() {
            *seen.entry(line.to_owned()).or_default() += 1;
        }
    }
    for n in 0..numbers {
        let line = format!("{}\t{}", n % KEYS, n / KEYS + 1);
        assert_eq!(seen.remove(&line), Some(1), "{line:?}\n{ran}");
    }
    assert!(seen.is_empty(), "{seen:?}\n{ran}");
}

/// How often a text has another in it.
fn times(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn commits(place: &Path) -> usize {
    of_kind(&events(&place.join("report.json")), "commit").count()
}

/// Starts a job of [`MANY`] numbers that takes its time until the test has seen [`ENOUGH`].
fn slow(place: &Path, flags: &str) -> Running {
    start_with("count", place, flags, |command| {
        command.env("NUMBERS", MANY.to_string()).env("PAUSE_US", "1000");
    })
}

/// Waits for the exact end of a slow job.
#[track_caller]
fn finish(place: &Path, running: Running) -> Ran {
    fs::write(place.join(ENOUGH), "").unwrap();
    let ran = running.wait();
    ran.assert_success();
    ran.assert_no_panic();
    assert_exact(&place.join("out"), MANY, &ran);
    ran
}

// Reports.

fn a_report_on_a_full_disk_ends_and_the_job_goes_on() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    for flags in ["--local 3", "-w 2"] {
        let place = place();
        std::os::unix::fs::symlink("/dev/full", place.path().join("report.json")).unwrap();
        let ran = start("count", place.path(), flags).wait();
        ran.assert_success();
        assert_exact(&place.path().join("out"), 2_000, &ran);
        assert_eq!(times(&ran.stderr, "the report is not complete"), 1, "{ran}");
    }
}

fn a_report_whose_directory_is_gone_is_told_and_the_job_goes_on() {
    let place = place();
    let running = slow(place.path(), "--local 2");
    wait_until("for the first commits", || commits(place.path()) > 1);
    fs::remove_file(place.path().join("report.json")).unwrap();
    let ran = finish(place.path(), running);
    assert_eq!(times(&ran.stderr, "report.json was removed or replaced"), 1, "{ran}");
}

/// As with `job | head -1`, and with a terminal that has been closed.
fn closed_pipes_end_no_job() {
    for flags in ["--local 2", "-w 2"] {
        let place = place();
        let mut command = own::command("count", place.path(), flags);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        let mut status = None;
        wait_until("for the end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let (stdout, stderr) = (String::new(), String::new());
        let ran = Ran { status: status.unwrap(), stdout, stderr, elapsed: Duration::ZERO };
        ran.assert_success();
        assert_exact(&place.path().join("out"), 2_000, &ran);
    }
}

// Strangers.

/// What a stranger says at a node's port.
#[derive(Clone)]
struct Hello {
    run: String,
    job: String,
    node: u64,
    incarnation: u64,
    purpose: serde_json::Value,
    to_incarnation: Option<u64>,
}

impl Hello {
    fn bytes(&self, to_node: usize) -> Vec<u8> {
        let Hello { run, job, node, incarnation, purpose, to_incarnation } = self;
        let hello = serde_json::json!({
            "run": run, "job": job, "node": node, "incarnation": incarnation, "address": "a:1",
            "purpose": purpose, "to_node": to_node, "to_incarnation": to_incarnation,
        });
        let text = hello.to_string();
        let prefix = [&b"ringfnce\0\0\0\x01"[..], &(text.len() as u32).to_be_bytes()].concat();
        [prefix, text.into_bytes()].concat()
    }
}

/// Hellos of people who know nothing, who know the job, and who know the run.
fn hellos(job: &str, run: &str) -> Vec<Hello> {
    let data = |view: u64| serde_json::json!({"Data": {"view": view, "digest": "x"}});
    let evil = "evil\u{1b}[2J\nnode 0: error: all is lost";
    let stranger = Hello {
        run: "x".repeat(10),
        job: evil.to_owned(),
        node: 1,
        incarnation: 5,
        purpose: "Control".into(),
        to_incarnation: None,
    };
    let insider = Hello { job: job.to_owned(), run: run.to_owned(), ..stranger.clone() };
    vec![
        stranger.clone(),
        Hello { job: "y".repeat(60_000), ..stranger.clone() },
        Hello { purpose: evil.into(), ..stranger.clone() },
        Hello { run: evil.to_owned(), ..insider.clone() },
        Hello { run: String::new(), to_incarnation: Some(3), ..insider.clone() },
        insider.clone(),
        Hello { purpose: data(1), ..insider.clone() },
        Hello { purpose: data(2), ..insider.clone() },
        Hello { purpose: data(99), ..insider.clone() },
        Hello { node: 77, purpose: data(99), ..insider.clone() },
        Hello { node: 9, ..insider },
    ]
}

/// Says hello and returns the answer, if there is one.
fn say(address: &str, bytes: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(bytes).ok()?;
    let mut answer = Vec::new();
    // The node closes; a reset is a way to close.
    let _ = stream.read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn started_at(place: &Path) -> Vec<String> {
    let events = events(&place.join("report.json"));
    let started = of_kind(&events, "started");
    started.filter_map(|event| event["address"].as_str().map(str::to_owned)).collect()
}

fn a_flood_of_hellos_changes_nothing_and_is_a_few_lines() {
    const FLOOD: usize = 10_000;
    let place = place();
    let register = place.path().join("register");
    let running = slow(place.path(), &format!("--local 3 --register {}", register.display()));
    wait_until("for the first commits", || commits(place.path()) > 1);
    let addresses = started_at(place.path());
    assert_eq!(addresses.len(), 3);
    let record = fs::read_to_string(register.join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let (job, run) = (record["job"].as_str().unwrap(), record["run"].as_str().unwrap());
    let hellos = hellos(job, run);
    thread::scope(|scope| {
        for first in 0..4 {
            let (addresses, hellos) = (&addresses, &hellos);
            scope.spawn(move || {
                for n in (first..FLOOD).step_by(4) {
                    let node = n % 3;
                    let answer = say(&addresses[node], &hellos[n % hellos.len()].bytes(node));
                    let answer = answer.unwrap_or_default();
                    assert!(!answer.contains(job) && !answer.contains(run), "{answer}");
                    assert!(!answer.contains("lost") && !answer.contains("here"), "{answer}");
                }
            });
        }
    });
    let ran = finish(place.path(), running);
    let report = fs::read(place.path().join("report.json")).unwrap();
    let told = ran.stderr.len() + report.len();
    assert!(told < 1_000_000, "{told} bytes were told");
    for text in [&ran.stderr, &String::from_utf8(report).unwrap()] {
        assert!(!text.contains('\u{1b}') && !text.contains("all is lost"), "{text}");
    }
    let events = events(&place.path().join("report.json"));
    assert!(of_kind(&events, "view").all(|view| view["number"] == 1), "{ran}");
    let refused = |field: &str| {
        of_kind(&events, "refused").filter_map(|event| event[field].as_u64()).sum::<u64>()
    };
    let one_by_one = of_kind(&events, "refused").filter(|event| event["more"].is_null()).count();
    let counted = one_by_one as u64 + refused("more");
    assert!(counted > FLOOD as u64 * 9 / 10, "{counted} were counted\n{ran}");
}

/// Whoever knows the run and asks for the next view keeps no member from it.
fn hellos_for_the_next_view_keep_nobody_from_it() {
    let place = place();
    let register = place.path().join("register");
    let running = slow(place.path(), &format!("--local 3 --register {}", register.display()));
    wait_until("for the first commits", || commits(place.path()) > 1);
    let record = fs::read_to_string(register.join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let (job, run) = (record["job"].as_str().unwrap(), record["run"].as_str().unwrap());
    let hellos = hellos(job, run);
    let mut open = Vec::new();
    for (node, address) in started_at(place.path()).iter().enumerate() {
        for hello in hellos.iter().filter(|hello| hello.purpose != "Control").cycle().take(40) {
            for dialer in [1, 2] {
                let mut stream = TcpStream::connect(address).unwrap();
                let _ = stream.write_all(&Hello { node: dialer, ..hello.clone() }.bytes(node));
                open.push(stream);
            }
        }
    }
    kill_node(place.path(), 1, Signal::SIGKILL);
    wait_until("for the next view", || view(place.path()) >= 2);
    let ran = finish(place.path(), running);
    drop(open);
    let events = events(&place.path().join("report.json"));
    assert!(of_kind(&events, "view").all(|view| view["number"].as_u64() <= Some(2)), "{ran}");
}

/// The latest view.
fn view(place: &Path) -> u64 {
    let events = events(&place.join("report.json"));
    of_kind(&events, "view").filter_map(|event| event["number"].as_u64()).max().unwrap_or(0)
}

/// A job whose nodes say much on standard error, which nobody reads and nobody closes.
fn chatter(place: &Path, config: Config) -> Result<(), Error> {
    if let ringfence::Mode::Child { .. } = config.mode() {
        thread::spawn(|| {
            for n in 0..20_000 {
                eprintln!("{n} {}", "chatter ".repeat(20));
            }
        });
    }
    count(place, config)
}

fn a_terminal_that_takes_nothing_holds_no_job_up() {
    let place = place();
    let mut command = own::command("chatter", place.path(), "--local 2");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let unread = child.stderr.take();
    let mut status = None;
    wait_until("for the end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    drop(unread);
    let (stdout, stderr) = (String::new(), String::new());
    let ran = Ran { status: status.unwrap(), stdout, stderr, elapsed: Duration::ZERO };
    ran.assert_success();
    assert_exact(&place.path().join("out"), 2_000, &ran);
}

// The register.

/// Kills a process that the report names.
fn kill_node(place: &Path, node: u64, signal: Signal) {
    let events = events(&place.join("report.json"));
    let started = of_kind(&events, "started").find(|event| event["node"] == node).unwrap();
    let process = started["process_id"].as_u64().unwrap();
    kill(Pid::from_raw(process as i32), signal).unwrap();
}

/// Whether a line with this text was told.
fn is_told(place: &Path, text: &str) -> bool {
    of_kind(&events(&place.join("report.json")), "message")
        .any(|event| event["text"].as_str().is_some_and(|told| told.contains(text)))
}

fn a_register_that_is_away_is_waited_for() {
    let place = place();
    let (register, away) = (place.path().join("register"), place.path().join("away"));
    let running = slow(place.path(), &format!("--local 3 --register {}", register.display()));
    wait_until("for the first commits", || commits(place.path()) > 1);
    fs::rename(&register, &away).unwrap();
    kill_node(place.path(), 1, Signal::SIGKILL);
    wait_until("for the register to be missed", || {
        is_told(place.path(), "the register does not answer")
    });
    // Long enough for it to be asked several times.
    thread::sleep(Duration::from_millis(1_500));
    fs::rename(&away, &register).unwrap();
    let ran = finish(place.path(), running);
    assert!(is_told(place.path(), "the register answers again"), "{ran}");
    let events = events(&place.path().join("report.json"));
    let last = of_kind(&events, "view").last().unwrap();
    assert_eq!(last["members"], serde_json::json!([0, 2]), "{ran}");
}

// Signals.

/// The exit code of a process that was asked to end.
const INTERRUPTED: i32 = 130;

fn a_node_that_is_asked_to_end_leaves_and_the_others_go_on() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let place = place();
        let running = slow(place.path(), "--local 3");
        wait_until("for the first commits", || commits(place.path()) > 1);
        kill_node(place.path(), 1, signal);
        wait_until("for its end", || is_told(place.path(), "node 1 ended with exit code 130"));
        wait_until("for the next view", || view(place.path()) >= 2);
        let ran = finish(place.path(), running);
        let told = format!("interrupted by {signal}: this node has left the run");
        assert!(ran.stderr.contains(&told), "{ran}");
    }
}

/// The job's own code does not come back for a minute.
fn sleep_in_the_job(place: &Path, config: Config) -> Result<(), Error> {
    let out = place.join("out");
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|share| std::iter::once(share.index))
                .to_stream_fenced(scope, "shares")
                .sink_fenced("out", LineFiles::new(&out));
        });
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while std::time::Instant::now() < until {
            thread::sleep(Duration::from_secs(60));
        }
    })?;
    Ok(())
}

fn whoever_is_asked_to_end_does_so_whatever_the_job_does() {
    let hosts = place();
    fs::write(hosts.path().join("hosts"), free_addresses(2).join("\n")).unwrap();
    let by_hand = |p: usize| format!("-n 2 -p {p} -h {}", hosts.path().join("hosts").display());
    for (flags, signal) in [("-w 2", Signal::SIGTERM), ("-w 1", Signal::SIGINT)] {
        let place = place();
        let running = start("sleep", place.path(), flags);
        wait_until("for the start", || {
            of_kind(&events(&place.path().join("report.json")), "view").count() > 0
        });
        running.signal(signal);
        let ran = running.wait();
        ran.assert_failed(INTERRUPTED, &[&format!("interrupted by {signal}")]);
        assert!(ran.elapsed < Duration::from_secs(30), "{ran}");
    }
    let (one, other) = (place(), place());
    let nodes =
        [start("sleep", one.path(), &by_hand(0)), start("sleep", other.path(), &by_hand(1))];
    wait_until("for the first view", || {
        [&one, &other]
            .iter()
            .all(|place| of_kind(&events(&place.path().join("report.json")), "view").count() > 0)
    });
    nodes.iter().for_each(|node| node.signal(Signal::SIGTERM));
    for ran in nodes.map(Running::wait) {
        ran.assert_failed(INTERRUPTED, &["interrupted by SIGTERM"]);
        assert!(ran.elapsed < Duration::from_secs(30), "{ran}");
    }
}

/// As with Ctrl-C: nothing is left of processes and files.
fn a_launcher_that_is_asked_to_end_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (place, temporary) = (place(), place());
        let running = start_with("count", place.path(), "--local 3", |command| {
            command.env("NUMBERS", MANY.to_string()).env("PAUSE_US", "1000");
            command.env("TMPDIR", temporary.path());
        });
        wait_until("for the first commits", || commits(place.path()) > 1);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1, "the register");
        running.signal(signal);
        let ran = running.wait();
        ran.assert_failed(
            INTERRUPTED,
            &[&format!("interrupted by {signal}; all nodes were ended")],
        );
        let events = events(&place.path().join("report.json"));
        let processes =
            of_kind(&events, "started").map(|event| event["process_id"].as_u64().unwrap());
        for process in processes {
            assert!(!Path::new(&format!("/proc/{process}")).exists(), "{process} lives\n{ran}");
        }
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "files are left\n{ran}");
    }
}

/// Whenever a node dies, before the first view or after, it is told at once.
fn a_node_that_dies_early_is_told_by_its_name() {
    for delay_ms in [0, 30, 100, 200] {
        let place = place();
        let running = start("count", place.path(), "--local 3");
        let children = format!("/proc/{0}/task/{0}/children", running.process_id());
        let mut victim = None;
        wait_until("for the second node", || {
            let children = fs::read_to_string(&children).unwrap_or_default();
            victim = children.split_whitespace().nth(1).and_then(|id| id.parse::<i32>().ok());
            victim.is_some()
        });
        thread::sleep(Duration::from_millis(delay_ms));
        kill(Pid::from_raw(victim.unwrap()), Signal::SIGKILL).unwrap();
        let ran = running.wait();
        assert!(ran.stderr.contains("node 1 was ended by SIGKILL"), "{ran}");
        assert!(ran.elapsed < Duration::from_secs(20), "{ran}");
        if ran.status.success() {
            assert_exact(&place.path().join("out"), 2_000, &ran);
        }
    }
}

// Several jobs of one program.

fn twice(place: &Path, config: Config) -> Result<(), Error> {
    for out in ["out", "again"] {
        count_into(place, out, config.clone())?;
    }
    Ok(())
}

/// Two jobs that are not the same.
fn different(place: &Path, config: Config) -> Result<(), Error> {
    count_into(place, "out", config.clone())?;
    let (again, numbers) = (place.join("again"), variable("NUMBERS", 2_000));
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(move |share| (0..numbers).filter(move |n| n % share.count == share.index))
                .to_stream_fenced(scope, "numbers")
                .fold_fenced(
                    "counts",
                    |n| n % KEYS,
                    0u64,
                    |count, n, out| {
                        *count += 1;
                        out.give((n % KEYS, *count));
                    },
                )
                .sink_fenced("totals", LineFiles::new(&again));
        });
    })?;
    Ok(())
}

/// The same at the same time.
fn parallel(place: &Path, config: Config) -> Result<(), Error> {
    let (other_config, numbers) = (config.clone(), variable("NUMBERS", 2_000));
    let again = place.join("again");
    let other = thread::spawn(move || {
        let again = again.clone();
        ringfence::execute(other_config, move |worker| {
            worker.dataflow::<u64, _, _>(|scope| {
                per_share(move |share| {
                    (0..numbers).filter(move |n| n % share.count == share.index)
                })
                .to_stream_fenced(scope, "numbers")
                .fold_fenced(
                    "counts",
                    |n| n % KEYS,
                    0u64,
                    |count, n, out| {
                        *count += 1;
                        out.give((n % KEYS, *count));
                    },
                )
                .sink_fenced("totals", LineFiles::new(&again));
            });
        })
    });
    let first = count_into(place, "out", config);
    other.join().unwrap()?;
    first
}

fn two_jobs_of_one_program_both_run() {
    for (job, flags) in [
        ("twice", "--local 2 --fault kill:1@50ms"),
        ("twice", "-w 2"),
        ("different", "--local 2"),
        ("parallel", "--local 2"),
        ("parallel", "-w 2"),
    ] {
        let place = place();
        let ran = start(job, place.path(), flags).wait();
        ran.assert_success();
        ran.assert_no_panic();
        for out in ["out", "again"] {
            assert_exact(&place.path().join(out), 2_000, &ran);
        }
    }
}

/// The second time they meet at the same addresses, and not all at the same moment.
fn two_jobs_of_processes_by_hand_both_run() {
    for job in ["twice", "different"] {
        let place = place();
        let hosts = place.path().join("hosts");
        fs::write(&hosts, free_addresses(3).join("\n")).unwrap();
        let nodes = [0, 1, 2].map(|process| {
            start(job, place.path(), &format!("-n 3 -p {process} -h {}", hosts.display()))
        });
        let ran = nodes.map(Running::wait);
        for ran in &ran {
            ran.assert_success();
            ran.assert_no_panic();
        }
        for out in ["out", "again"] {
            assert_exact(&place.path().join(out), 2_000, &ran[0]);
        }
    }
}

// Locks of the job.

static POISONED: Mutex<u64> = Mutex::new(0);

/// Holds a lock of its own while the worker steps; `careful` is how to take one that may be poisoned.
fn feed_behind_a_lock(place: &Path, config: Config, careful: bool) -> Result<(), Error> {
    let out = place.join("out");
    let rounds = variable("NUMBERS", 60);
    ringfence::execute(config, move |worker| {
        let mut input = FencedInput::<u64, u64>::new("numbers");
        let probe = ProbeHandle::new();
        worker.dataflow::<u64, _, _>(|scope| {
            input
                .to_stream(scope)
                .fold_fenced(
                    "counts",
                    |n| n % KEYS,
                    0u64,
                    |count, n, out| {
                        *count += 1;
                        out.give((n % KEYS, *count));
                    },
                )
                .probe_with(&probe)
                .sink_fenced("totals", LineFiles::new(&out));
        });
        for round in input.resume()..rounds {
            let held = match careful {
                true => POISONED.lock().unwrap_or_else(PoisonError::into_inner),
                false => POISONED.lock().unwrap(),
            };
            for share in input.shares() {
                input.send_to(share.index, round);
            }
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
            drop(held);
            thread::sleep(Duration::from_millis(10));
        }
    })?;
    Ok(())
}

fn careless(place: &Path, config: Config) -> Result<(), Error> {
    feed_behind_a_lock(place, config, false)
}

fn careful(place: &Path, config: Config) -> Result<(), Error> {
    feed_behind_a_lock(place, config, true)
}

fn a_poisoned_lock_of_the_job_is_explained_where_it_bites() {
    // One of the two may be between two rounds when the other is killed; the lock is held most of the time.
    let advice = "unwrap_or_else(PoisonError::into_inner)";
    let mut bitten = false;
    for delay_ms in [100, 150, 190, 230, 270] {
        let place = place();
        let flags = format!("--local 3 --restarts 2/60 --fault kill:1@{delay_ms}ms");
        let ran = start("careless", place.path(), &flags).wait();
        if !ran.status.success() {
            assert!(ran.stderr.contains(advice), "{ran}");
            assert!(ran.stderr.contains("docs/failures.md#locks-of-the-job"), "{ran}");
            bitten = true;
            break;
        }
    }
    assert!(bitten, "no worker held the lock when it left");
    let place = place();
    let ran = start("careful", place.path(), "--local 3 --fault kill:1@150ms").wait();
    ran.assert_success();
    // Each of three shares has each round once.
    let text: String = fs::read_dir(place.path().join("out"))
        .unwrap()
        .map(|part| fs::read_to_string(part.unwrap().path()).unwrap())
        .collect();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<String> =
        (0..60).flat_map(|n| (1..4).map(move |count| format!("{n}\t{count}"))).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected, "{ran}");
}

// Arguments.

/// As in timely's examples: arguments of the job first, and the rest for the runner.
fn skips(place: &Path, _: Config) -> Result<(), Error> {
    let out = place.join("out");
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let outcome = ringfence::execute_from_args(std::env::args().skip(2), move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(move |share| (0..count).filter(move |n| n % share.count == share.index))
                .to_stream_fenced(scope, "numbers")
                .fold_fenced(
                    "counts",
                    |n| n % KEYS,
                    0u64,
                    |count, n, out| {
                        *count += 1;
                        out.give((n % KEYS, *count));
                    },
                )
                .sink_fenced("totals", LineFiles::new(&out));
        });
        worker.peers()
    })?;
    println!("peers {:?}", outcome.results);
    Ok(())
}

fn flags_behind_arguments_of_the_job_are_read() {
    for (flags, peers) in [("1000 --local 3", "peers [3]"), ("1000 -w 2", "peers [2, 2]")] {
        let place = place();
        let ran = start("skips", place.path(), flags).wait();
        ran.assert_success();
        assert!(ran.stdout.contains(peers), "{ran}");
        assert_exact(&place.path().join("out"), 1_000, &ran);
    }
    for (flags, text) in [
        ("--local 3 1000", "--local stands on the command line"),
        ("1000 --lokal 3", "--lokal"),
        ("1000 -h", "-h is timely's flag for a hostfile"),
    ] {
        let place = place();
        start("skips", place.path(), flags).wait().assert_failed(2, &[text]);
    }
}

fn an_unknown_host_is_told_at_once() {
    let place = place();
    let hosts = place.path().join("hosts");
    let own = free_addresses(1).remove(0);
    fs::write(&hosts, format!("{own}\nno-such-host.invalid:7\n")).unwrap();
    let flags = format!("-n 2 -p 0 -h {} --connect-timeout-ms 3000", hosts.display());
    let ran = start("count", place.path(), &flags).wait();
    ran.assert_failed(1, &["node 1 did not connect within 3000 ms"]);
    // Where there is no resolver to say so, nothing is known.
    if ran.stderr.contains("unknown here") {
        assert!(ran.stderr.contains("no-such-host.invalid:7, where node 1 should be"), "{ran}");
    }
}

// The terminal.

/// The directory of the output is a file.
fn spoilt(place: &Path, config: Config) -> Result<(), Error> {
    count_into(place, "report.json", config)
}

fn an_error_is_told_once_by_the_nodes_and_once_at_the_end() {
    let place = place();
    let ran = start("spoilt", place.path(), "--local 3").wait();
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    let begins = |text: &str| ran.stderr.lines().filter(|line| line.starts_with(text)).count();
    assert_eq!(begins("[node "), 0, "{ran}");
    let told = (0..3).map(|node| begins(&format!("node {node}: error: "))).sum::<usize>();
    assert_eq!((told, begins("error: node ")), (1, 1), "{ran}");
    // Who only heard of it is not blamed for it.
    assert!(!ran.stderr.contains("exit code 1: node "), "{ran}");
}

fn main() {
    let jobs: &[(&str, own::Job)] = &[
        ("count", count),
        ("sleep", sleep_in_the_job),
        ("twice", twice),
        ("different", different),
        ("parallel", parallel),
        ("chatter", chatter),
        ("careless", careless),
        ("careful", careful),
        ("skips", skips),
        ("spoilt", spoilt),
    ];
    let tests: Vec<Test> = vec![
        test(
            "a_report_on_a_full_disk_ends_and_the_job_goes_on",
            a_report_on_a_full_disk_ends_and_the_job_goes_on,
        ),
        test(
            "a_report_whose_directory_is_gone_is_told_and_the_job_goes_on",
            a_report_whose_directory_is_gone_is_told_and_the_job_goes_on,
        ),
        test("closed_pipes_end_no_job", closed_pipes_end_no_job),
        test(
            "a_flood_of_hellos_changes_nothing_and_is_a_few_lines",
            a_flood_of_hellos_changes_nothing_and_is_a_few_lines,
        ),
        test(
            "hellos_for_the_next_view_keep_nobody_from_it",
            hellos_for_the_next_view_keep_nobody_from_it,
        ),
        test(
            "a_terminal_that_takes_nothing_holds_no_job_up",
            a_terminal_that_takes_nothing_holds_no_job_up,
        ),
        test("a_register_that_is_away_is_waited_for", a_register_that_is_away_is_waited_for),
        test(
            "a_node_that_is_asked_to_end_leaves_and_the_others_go_on",
            a_node_that_is_asked_to_end_leaves_and_the_others_go_on,
        ),
        test(
            "whoever_is_asked_to_end_does_so_whatever_the_job_does",
            whoever_is_asked_to_end_does_so_whatever_the_job_does,
        ),
        test(
            "a_launcher_that_is_asked_to_end_leaves_nothing_behind",
            a_launcher_that_is_asked_to_end_leaves_nothing_behind,
        ),
        test(
            "a_node_that_dies_early_is_told_by_its_name",
            a_node_that_dies_early_is_told_by_its_name,
        ),
        test("two_jobs_of_one_program_both_run", two_jobs_of_one_program_both_run),
        test("two_jobs_of_processes_by_hand_both_run", two_jobs_of_processes_by_hand_both_run),
        test(
            "a_poisoned_lock_of_the_job_is_explained_where_it_bites",
            a_poisoned_lock_of_the_job_is_explained_where_it_bites,
        ),
        test(
            "flags_behind_arguments_of_the_job_are_read",
            flags_behind_arguments_of_the_job_are_read,
        ),
        test("an_unknown_host_is_told_at_once", an_unknown_host_is_told_at_once),
        test(
            "an_error_is_told_once_by_the_nodes_and_once_at_the_end",
            an_error_is_told_once_by_the_nodes_and_once_at_the_end,
        ),
    ];
    own::main(jobs, tests)
}
