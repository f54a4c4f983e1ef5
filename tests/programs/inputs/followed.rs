//! Files that are followed: as they grow and are rotated, while nodes are killed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringfence::prelude::*;
use ringfence::{Config, Error};

use super::{assert_lines, output, wait_for_view};
use crate::support::own::{self, Test, test};
use crate::support::{events, of_kind, wait_until};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a_log_is_followed_as_it_grows_and_is_rotated", || follow("--local 2", 0)),
        test("a_log_is_followed_though_nodes_are_killed", || {
            follow("--local 4 --fault kill:1@800ms --fault kill:2@2500ms", 3);
        }),
        test("who_follows_idle_files_spins_not", idle_files),
        test("a_file_to_follow_that_is_not_there_is_named", missing),
    ]
}

const LOGS: [&str; 3] = ["a.log", "b.log", "idle.log"];

/// Follows three files until there is a fourth.
pub(crate) fn job(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        let source = TextFiles::new(LOGS.map(|log| place.join(log))).follow();
        let source = source.until(place.join("stop"));
        let out = place.join("out");
        worker.dataflow::<u64, _, _>(|scope| {
            source.to_stream_fenced(scope, "logs").sink_fenced("out", LineFiles::new(&out));
        });
    })?;
    Ok(())
}

/// Writes a log.
struct Log {
    path: PathBuf,
    file: File,
    written: String,
    count: u64,
}

impl Log {
    fn new(path: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&path).unwrap();
        Log { path, file, written: String::new(), count: 0 }
    }

    fn write(&mut self, lines: u64) {
        for _ in 0..lines {
            let name = self.path.file_name().unwrap().to_string_lossy().into_owned();
            let line =
                format!("{name} {:07} {}\n", self.count, "x".repeat(self.count as usize % 40));
            // In two parts, so that a reader sees lines without an end.
            let (first, second) = line.split_at(line.len() / 2);
            self.file.write_all(first.as_bytes()).unwrap();
            self.file.write_all(second.as_bytes()).unwrap();
            self.written += &line;
            self.count += 1;
        }
    }

    fn numbered(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}.{number}", self.path.display()))
    }

    fn shift(&self) {
        for number in (1..50).rev().filter(|number| self.numbered(*number).exists()) {
            fs::rename(self.numbered(number), self.numbered(number + 1)).unwrap();
        }
    }

    fn rotate(&mut self) {
        self.shift();
        fs::rename(&self.path, self.numbered(1)).unwrap();
        self.file = File::options().create(true).append(true).open(&self.path).unwrap();
    }

    /// As logrotate's `copytruncate` does.
    fn copy_and_cut(&mut self) {
        self.shift();
        fs::copy(&self.path, self.numbered(1)).unwrap();
        self.file.set_len(0).unwrap();
    }

    /// Whether so much came out that the file can be recognised.
    fn has_come_out(&self, out: &Path) -> bool {
        let seen: BTreeSet<String> = output(out).into_keys().collect();
        self.written.lines().all(|line| seen.contains(line))
    }
}

fn follow(flags: &str, view: u64) {
    let place = tempfile::tempdir().unwrap();
    let [mut a, mut b, mut idle] = LOGS.map(|log| Log::new(place.path().join(log)));
    a.write(1000);
    idle.write(1);
    let running = own::start("followed", place.path(), flags);
    let out = place.path().join("out");
    // What is rotated before the job has the file is no part of it.
    wait_until("for the first lines", || a.has_come_out(&out));
    let begun = std::time::Instant::now();
    let mut round = 0;
    while round < 40 || begun.elapsed() < Duration::from_secs(3) {
        a.write(50);
        b.write(1 + round % 7);
        if round % 9 == 4 {
            a.rotate();
        }
        if round % 13 == 6 {
            // What was not begun to be read cannot be recognised in the copy.
            wait_until("for a line of the file to be cut", || b.has_come_out(&out));
            b.write(round % 5);
            b.copy_and_cut();
        }
        std::thread::sleep(Duration::from_millis(20));
        round += 1;
    }
    wait_for_view(place.path(), view);
    a.write(100);
    b.rotate();
    b.write(1);
    fs::write(place.path().join("stop"), "").unwrap();
    let ran = running.wait();
    ran.assert_success();
    assert_lines(&out, &(a.written + &b.written + &idle.written), &ran);
}

/// The processor time of a process in hundredths of a second.
fn ticks(process_id: u64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse().ok()).unwrap_or(0);
    field(11) + field(12)
}

fn idle_files() {
    let place = tempfile::tempdir().unwrap();
    let [mut a, _b, _idle] = LOGS.map(|log| Log::new(place.path().join(log)));
    a.write(10);
    let running = own::start("followed", place.path(), "--local 2");
    let out = place.path().join("out");
    wait_until("for the first lines", || a.has_come_out(&out));
    let events = events(&place.path().join("report.json"));
    let nodes: Vec<u64> =
        of_kind(&events, "started").filter_map(|event| event["process_id"].as_u64()).collect();
    assert_eq!(nodes.len(), 2);
    let used = || nodes.iter().map(|node| ticks(*node)).sum::<u64>();
    let before = used();
    assert!(before > 0);
    std::thread::sleep(Duration::from_secs(2));
    let spent = used() - before;
    assert!(spent < 60, "two idle nodes used {spent} hundredths of a second in two seconds");
    a.write(10);
    wait_until("for the next lines", || a.has_come_out(&out));
    fs::write(place.path().join("stop"), "").unwrap();
    let ran = running.wait();
    ran.assert_success();
    assert_lines(&out, &a.written, &ran);
}

fn missing() {
    let place = tempfile::tempdir().unwrap();
    File::create(place.path().join("a.log")).unwrap();
    let ran = own::start("followed", place.path(), "--local 2").wait();
    ran.assert_failed(1, &["source \"logs\"", "b.log"]);
}
