//! What the end-to-end tests share: runs of the word count as real processes, and their proof.
//!
//! The launcher must not be run on a thread of the test harness, since nodes die with the thread that
//! started them: every run here is the compiled example, as a user would start it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

pub mod cluster;
pub mod own;
pub mod trials;

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// No run of these tests takes longer, or it hangs.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// The compiled example; `cargo test` builds it before it runs any test.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let path = test.parent().and_then(Path::parent).expect("tests lie in target/*/deps");
    let path = path.join("examples").join(name);
    assert!(path.exists(), "{} is missing: build it with `cargo build --examples`", path.display());
    path
}

/// A text of about `bytes` bytes, the same for the same seed: words of very different frequency.
pub fn text(bytes: usize, seed: u64) -> String {
    let mut state = seed;
    let mut next = move || {
        // splitmix64, see Steele, Lea and Flood, OOPSLA 2014.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut text = String::with_capacity(bytes + 100);
    while text.len() < bytes {
        for _ in 0..next() % 12 {
            // Squaring makes small numbers, and so short words, the most frequent.
            let mut word = (next() % 3000) * (next() % 3000) / 3000;
            loop {
                let letter = (word % 26) as u8;
                text.push((if word % 7 == 0 { b'A' + letter } else { b'a' + letter }) as char);
                word /= 26;
                if word == 0 {
                    break;
                }
            }
            text.push_str(if next() % 5 == 0 { ", " } else { " " });
        }
        text.push('\n');
    }
    text
}

/// A directory with an input file, removed at the end.
pub struct Place {
    pub directory: tempfile::TempDir,
    pub input: PathBuf,
}

impl Place {
    pub fn new(bytes: usize, seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let input = directory.path().join("input.txt");
        fs::write(&input, text(bytes, seed)).expect("the input can be written");
        Place { directory, input }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn out(&self) -> PathBuf {
        self.path("out")
    }

    pub fn report(&self) -> PathBuf {
        self.path("report.json")
    }

    /// The arguments of a word count here: some flags, output, report, files.
    pub fn args(&self, flags: &str, passes: u64) -> Vec<String> {
        let mut args: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        args.push(format!("--passes={passes}"));
        args.push(format!("--out={}", self.out().display()));
        args.push(format!("--report={}", self.report().display()));
        args.push("--".to_owned());
        args.push(self.input.display().to_string());
        args
    }

    /// Runs the word count to its end.
    pub fn word_count(&self, flags: &str, passes: u64) -> Ran {
        Running::start("word_count", &self.args(flags, passes)).wait()
    }

    pub fn events(&self) -> Vec<Value> {
        events(&self.report())
    }

    /// Asserts that each word of the input has each number from 1 to its count once.
    #[track_caller]
    pub fn assert_exact(&self, passes: u64) {
        if let Err(difference) = check(&self.input, passes, &self.out().join("totals")) {
            panic!("{difference}");
        }
    }

    /// Asserts that the run was what it was meant to be: exact, and hit by failures.
    #[track_caller]
    pub fn assert_survived(&self, ran: &Ran, passes: u64) {
        ran.assert_success();
        self.assert_exact(passes);
        assert!(ran.stdout.contains("exactly once"), "{ran}");
        let events = self.events();
        let view = events.iter().filter_map(|e| e["number"].as_u64()).max();
        assert!(view >= Some(2), "the run saw view {view:?}: nothing failed\n{ran}");
        let replayed: u64 = of_kind(&events, "recovered")
            .filter_map(|event| event["records_replayed"].as_u64())
            .sum();
        // A view that ends before it has read anything forgets how far the one before it had read.
        assert!(replayed > 0 || view > Some(2), "nothing was replayed\n{ran}");
    }
}

/// The lines of a report; the last may be cut short by a kill.
pub fn events(report: &Path) -> Vec<Value> {
    let text = fs::read_to_string(report).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The events of one kind.
pub fn of_kind<'a>(events: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["event"] == kind)
}

/// Compares the lines below `totals` with the words of `input`, counted here and plainly.
pub fn check(input: &Path, passes: u64, totals: &Path) -> Result<(), String> {
    let text = fs::read_to_string(input).map_err(|error| error.to_string())?.to_lowercase();
    let mut counts = HashMap::<&str, u64>::new();
    for word in text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
        *counts.entry(word).or_default() += passes;
    }
    let mut seen: HashMap<&str, Vec<bool>> =
        counts.iter().map(|(&word, &count)| (word, vec![false; count as usize])).collect();
    let mut lines = 0;
    let entries = fs::read_dir(totals).map_err(|e| format!("{}: {e}", totals.display()))?;
    for entry in entries {
        let entry = entry.map_err(|error| error.to_string())?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            return Err(format!("{:?} was left behind", entry.file_name()));
        }
        let part = fs::read_to_string(entry.path()).map_err(|error| error.to_string())?;
        for line in part.lines() {
            lines += 1;
            let place = line
                .split_once('\t')
                .and_then(|(word, n)| Some((seen.get_mut(word)?, n.parse::<usize>().ok()?)))
                .and_then(|(places, n)| places.get_mut(n.checked_sub(1)?));
            match place {
                None => return Err(format!("line {line:?} should not be there")),
                Some(true) => return Err(format!("line {line:?} is there twice")),
                Some(place) => *place = true,
            }
        }
    }
    let expected: u64 = counts.values().sum();
    if lines != expected {
        return Err(format!("{lines} lines, expected {expected}"));
    }
    Ok(())
}

/// The nodes that have said that the others went on without them, ascending.
pub fn left_behind(events: &[Value]) -> Vec<u64> {
    let excluded = of_kind(events, "error").filter(|event| event["excluded"] == true);
    let mut nodes: Vec<u64> = excluded.filter_map(|event| event["node"].as_u64()).collect();
    nodes.sort_unstable();
    nodes
}

/// A process under test; it is killed if it is dropped before it has ended.
pub struct Running {
    child: Child,
    outputs: Option<(JoinHandle<String>, JoinHandle<String>)>,
    started: Instant,
}

impl Running {
    pub fn start(name: &str, args: &[String]) -> Self {
        Running::spawn(Command::new(example(name)).args(args))
    }

    /// Starts a process whose output is read, and which is killed if the test ends before it does.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the process can be started");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let outputs = (thread::spawn(|| read(stdout)), thread::spawn(|| read(stderr)));
        Running { child, outputs: Some(outputs), started: Instant::now() }
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
    }

    pub fn signal(&self, signal: Signal) {
        // It is not reaped before this handle waits for it, so the number is still its own.
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a child can be signalled");
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits for the end, and fails where that takes too long.
    pub fn wait(self) -> Ran {
        self.wait_within(RUN_LIMIT)
    }

    /// The same, of a run that may take longer than others.
    pub fn wait_within(mut self, limit: Duration) -> Ran {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if self.started.elapsed() > limit {
                let _ = self.child.kill();
                let ran = self.ran(ExitStatus::default());
                panic!("the run hangs\n{ran}");
            }
            thread::sleep(Duration::from_millis(5));
        };
        self.ran(status)
    }

    fn ran(&mut self, status: ExitStatus) -> Ran {
        let (stdout, stderr) = self.outputs.take().expect("a run is read once");
        Ran {
            status,
            stdout: stdout.join().expect("the reader does not panic"),
            stderr: stderr.join().expect("the reader does not panic"),
            elapsed: self.started.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A run that has ended.
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Ran {
    #[track_caller]
    pub fn assert_success(&self) {
        assert!(self.status.success(), "{self}");
    }

    /// Asserts that it failed with `code`, soon, and with each of `texts` on standard error.
    #[track_caller]
    pub fn assert_failed(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{self}");
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} is not said\n{self}");
        }
        self.assert_no_panic();
    }

    #[track_caller]
    pub fn assert_no_panic(&self) {
        assert!(!self.stderr.contains("panicked at"), "{self}");
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ran { status, stdout, stderr, elapsed } = self;
        write!(f, "{status} after {elapsed:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Addresses on loopback that were free a moment ago.
///
/// Their ports lie below those that the system gives to others by itself, and no two tests of one
/// process get the same: what was free a moment ago is likely to be free still.
pub fn free_addresses(count: usize) -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(61);
    let mut free = Vec::new();
    while free.len() < count {
        let port = 10_000 + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            free.push(address);
        }
    }
    free
}

/// Waits until `done`, and fails where that takes too long.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < RUN_LIMIT, "waited too long: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A file of real data, where this machine has it.
pub fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not on this machine", path.display());
    None
}

/// The real text for long sweeps, where this machine has it.
pub fn shakespeare() -> Option<PathBuf> {
    data("shakespeare.txt")
}
