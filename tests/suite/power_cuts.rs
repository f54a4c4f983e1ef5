//! The whole cluster is gone, again and again: every process is killed at once, and the same command starts again,
//! with as many nodes, with fewer or with more. What must still be true: the output is exact, nothing that was
//! durable is computed again, and a store that cannot be gone on from is refused in clear words.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::trials::sorted_lines;
use crate::support::{Place, Ran, Running, events, of_kind, wait_until};

const PASSES: u64 = 12;

/// The numbers of the manifests of a store.
fn manifests(store: &Path) -> Vec<u64> {
    let entries = fs::read_dir(store.join("manifests")).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut numbers: Vec<u64> = names.filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// A cluster that is killed a few times and then let go on to its end.
struct Cut<'a> {
    name: &'a str,
    store: PathBuf,
    /// The arguments for so many nodes.
    args: &'a dyn Fn(usize) -> Vec<String>,
}

impl Cut<'_> {
    /// Kills a cluster of each of these numbers of nodes, soon after it has made something durable.
    fn kill_each(&self, nodes: &[usize], seed: u64) {
        for (round, &nodes) in nodes.iter().enumerate() {
            let before = manifests(&self.store).last().copied().unwrap_or(0);
            let mut running = Running::start(self.name, &(self.args)(nodes));
            wait_until("for something durable", || {
                // The first is the claim.
                manifests(&self.store).last().is_some_and(|last| *last >= before + 2)
                    || running.has_ended()
            });
            assert!(!running.has_ended(), "it ended too early to be cut\n{}", running.wait());
            std::thread::sleep(Duration::from_millis((seed * 37 + round as u64 * 91) % 150));
            running.kill();
            let ran = running.wait();
            assert_eq!(ran.status.code(), None, "{ran}");
        }
    }

    fn finish(&self, nodes: usize) -> Ran {
        let ran = Running::start(self.name, &(self.args)(nodes)).wait();
        ran.assert_success();
        ran.assert_no_panic();
        ran
    }
}

fn word_count_survives(own: &str, nodes: &[usize], seed: u64) -> Place {
    let place = Place::new(400_000, seed);
    let store = place.path("store");
    let args = |nodes: usize| {
        let flags = format!(
            "--local {nodes} --no-fault --durable {} --durable-every 50 {own}",
            store.display()
        );
        place.args(&flags, PASSES)
    };
    let cut = Cut { name: "word_count", store: store.clone(), args: &args };
    let (last, killed) = nodes.split_last().expect("there are clusters");
    cut.kill_each(killed, seed);
    let ran = cut.finish(*last);
    assert!(ran.stderr.contains("resuming after epoch"), "{ran}");
    place.assert_exact(PASSES);
    place
}

#[test]
fn as_many_nodes_go_on() {
    word_count_survives("", &[3, 3, 3, 3], 1);
}

#[test]
fn fewer_and_more_nodes_go_on() {
    word_count_survives("", &[3, 1, 4, 2], 2);
    word_count_survives("--durable-commit", &[2, 4, 1, 3], 3);
}

#[test]
fn nodes_may_have_more_workers_than_before() {
    word_count_survives("", &[2, 2], 4);
    let place = Place::new(400_000, 5);
    let store = place.path("store");
    let args = |workers: usize| {
        let flags = format!(
            "--local 2 -w {workers} --no-fault --durable {} --durable-every 50",
            store.display()
        );
        place.args(&flags, PASSES)
    };
    let cut = Cut { name: "word_count", store: store.clone(), args: &args };
    cut.kill_each(&[1, 3], 5);
    cut.finish(2);
    place.assert_exact(PASSES);
}

#[test]
fn nodes_may_die_and_come_back_in_between() {
    word_count_survives("--fault kill:0@100ms", &[3, 3, 3], 6);
}

/// Starts a cluster that goes on, and kills its node 1 as soon as it is in its first view, before anything is
/// committed.
fn kill_in_the_first_view(name: &str, args: &[String], report: &Path) -> Ran {
    let begun = events(report).len();
    let running = Running::start(name, args);
    let since = || events(report).split_off(begun);
    wait_until("for the first view", || {
        of_kind(&since(), "view").any(|event| event["number"] == 1)
    });
    let told = since();
    let started = of_kind(&told, "started").find(|event| event["node"] == 1);
    let process = started.and_then(|event| event["process_id"].as_i64()).expect("node 1 is up");
    kill(Pid::from_raw(process as i32), Signal::SIGKILL).expect("a node can be killed");
    let ran = running.wait();
    ran.assert_success();
    assert!(of_kind(&since(), "view").any(|event| event["number"] == 2), "nothing failed\n{ran}");
    ran
}

#[test]
fn a_node_may_die_while_the_cluster_begins_again() {
    for (seed, own) in [(17, ""), (18, "--durable-commit")] {
        let place = Place::new(400_000, seed);
        let store = place.path("store");
        let flags =
            format!("--local 3 --no-fault --durable {} --durable-every 50 {own}", store.display());
        let args = |_nodes: usize| place.args(&flags, PASSES);
        Cut { name: "word_count", store: store.clone(), args: &args }.kill_each(&[3, 3], seed);
        kill_in_the_first_view("word_count", &args(3), &place.report());
        place.assert_exact(PASSES);
    }
}

#[test]
fn a_node_may_die_while_a_job_that_is_fed_by_hand_begins_again() {
    let place = tempfile::tempdir().expect("a directory");
    let (store, report) = (place.path().join("store"), place.path().join("report.json"));
    let args_of = |runner: &str, out: &str| {
        let out = place.path().join(out);
        let text = format!("{runner} -- --rounds 120 --pace-ms 10 --out={}", out.display());
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    Running::start("distinct_bare", &args_of("-w 2", "bare")).wait().assert_success();
    let args = |nodes: usize| {
        let flags = format!("--local {nodes} --durable {} --durable-every 50", store.display());
        args_of(&format!("{flags} --report {}", report.display()), "out")
    };
    Cut { name: "distinct", store: store.clone(), args: &args }.kill_each(&[2], 5);
    kill_in_the_first_view("distinct", &args(3), &report);
    let [expected, found] = ["bare", "out"].map(|out| sorted_lines(&place.path().join(out)));
    assert!(found == expected, "{} lines in place of {}", found.len(), expected.len());
}

/// More nodes die than there are backups for: the run ends, and says what to do.
#[test]
fn what_memory_has_lost_is_durable() {
    let place = Place::new(400_000, 16);
    let store = place.path("store");
    let flags = format!("--local 3 --no-fault --durable {} --durable-every 50", store.display());
    let faults = "--fault kill:0@150ms --fault kill:1@150ms";
    let ran = place.word_count(&format!("{flags} {faults}"), PASSES);
    assert!(!ran.status.success(), "{ran}");
    assert!(ran.stderr.contains("the same command goes on from there"), "{ran}");
    place.word_count(&flags, PASSES).assert_success();
    place.assert_exact(PASSES);
}

#[test]
fn one_process_goes_on() {
    let place = Place::new(400_000, 7);
    let store = place.path("store");
    let args = |workers: usize| {
        let flags =
            format!("-w {workers} --no-fault --durable {} --durable-every 50", store.display());
        place.args(&flags, PASSES)
    };
    let cut = Cut { name: "word_count", store: store.clone(), args: &args };
    cut.kill_each(&[1, 2], 7);
    cut.finish(1);
    place.assert_exact(PASSES);
}

/// Hand-fed inputs are fed again what was not durable, and differential's traces come back.
fn job_survives(name: &str, own: &str, flags: &str, nodes: &[usize]) {
    let place = tempfile::tempdir().expect("a directory");
    let store = place.path().join("store");
    let args_of = |runner: &str, out: &str| {
        let text = format!("{runner} -- {own} --out={}", place.path().join(out).display());
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let bare = Running::start(&format!("{name}_bare"), &args_of("-w 2", "bare")).wait();
    bare.assert_success();
    let args = |nodes: usize| {
        let runner =
            format!("--local {nodes} --durable {} --durable-every 50 {flags}", store.display());
        args_of(&runner, "out")
    };
    let cut = Cut { name, store: store.clone(), args: &args };
    let (last, killed) = nodes.split_last().expect("there are clusters");
    cut.kill_each(killed, 3);
    cut.finish(*last);
    let [expected, found] = ["bare", "out"].map(|out| sorted_lines(&place.path().join(out)));
    assert!(!expected.is_empty());
    assert!(found == expected, "{name}: {} lines in place of {}", found.len(), expected.len());
}

#[test]
fn jobs_that_are_fed_by_hand_go_on() {
    job_survives("distinct", "--rounds 120 --pace-ms 10", "", &[2, 3, 1]);
    job_survives("hash_join", "--rounds 120 --pace-ms 10", "--durable-commit", &[3, 2, 2]);
}

#[test]
fn differential_jobs_go_on() {
    job_survives("dd_degrees", "--nodes 60 --rounds 120 --pace-ms 10", "", &[3, 2, 4]);
    job_survives("dd_reach", "--nodes 20 --rounds 60 --pace-ms 10", "--durable-commit", &[2, 3, 3]);
}

/// A word count with a store that has been cut once.
fn cut_once(seed: u64) -> (Place, PathBuf) {
    let place = Place::new(400_000, seed);
    let store = place.path("store");
    let flags = format!("--local 2 --no-fault --durable {} --durable-every 50", store.display());
    let args = |_nodes: usize| place.args(&flags, PASSES);
    Cut { name: "word_count", store: store.clone(), args: &args }.kill_each(&[2], seed);
    (place, store)
}

#[test]
fn a_job_that_is_done_is_not_run_again() {
    let (place, store) = cut_once(11);
    let flags = format!("--local 2 --no-fault --durable {}", store.display());
    place.word_count(&flags, PASSES).assert_success();
    place.assert_exact(PASSES);
    let again = place.word_count(&flags, PASSES);
    again.assert_failed(1, &["is done: name another directory with --durable"]);
    place.assert_exact(PASSES);
}

#[test]
fn another_number_of_partitions_is_refused() {
    let (place, store) = cut_once(12);
    let flags = format!("--local 2 --no-fault --partitions 64 --durable {}", store.display());
    let ran = place.word_count(&flags, PASSES);
    ran.assert_failed(2, &["has 256 partitions, and this start has 64: give it --partitions 256"]);
}

#[test]
fn the_store_of_another_job_is_refused() {
    let (place, store) = cut_once(13);
    let text = format!(
        "--local 2 --durable {} -- --rounds 5 --out={}",
        store.display(),
        place.path("other").display()
    );
    let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let ran = Running::start("distinct", &args).wait();
    assert!(!ran.status.success(), "{ran}");
    assert!(ran.stderr.contains("operator lines is new"), "it names what it does not know\n{ran}");
}

#[test]
fn a_damaged_segment_is_named() {
    let (place, store) = cut_once(14);
    let segments = sorted_files(&store.join("segments"));
    for path in &segments {
        let mut bytes = fs::read(path).expect("a segment");
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("a file can be written");
    }
    let flags = format!("--local 2 --no-fault --durable {}", store.display());
    let ran = place.word_count(&flags, PASSES);
    assert!(!ran.status.success(), "{ran}");
    assert!(ran.stderr.contains("is damaged") && ran.stderr.contains("segments/"), "{ran}");
}

fn sorted_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(sorted_files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_store_that_cannot_be_written_is_told_and_harms_nothing() {
    let place = Place::new(400_000, 15);
    let file = place.path("file");
    fs::write(&file, "").expect("a file");
    let flags = format!("--local 2 --no-fault --durable {}/below", file.display());
    let ran = place.word_count(&flags, 2);
    ran.assert_failed(1, &["--durable cannot be used", "file/below"]);
    // It goes away while the job runs.
    let store = place.path("store");
    let flags = format!("--local 2 --no-fault --durable {} --durable-every 50", store.display());
    let running = Running::start("word_count", &place.args(&flags, PASSES));
    let told = || of_kind(&events(&place.report()), "durable").count() > 0;
    wait_until("for something durable", told);
    fs::rename(&store, place.path("moved")).expect("a directory can be renamed");
    fs::write(&store, "in its place").expect("a file");
    let ran = running.wait();
    assert!(ran.stderr.contains("cannot be made durable, trying again"), "{ran}");
    place.assert_exact(PASSES);
}

/// Fifty power cuts at any moment, also before anything is durable.
///
/// ```text
/// cargo test --release --test suite -- --ignored --nocapture power_cuts::fifty
/// ```
#[test]
#[ignore = "some minutes"]
fn fifty_power_cuts() {
    for (seed, own) in [(21, ""), (22, "--durable-commit")] {
        let place = Place::new(1_000_000, seed);
        let store = place.path("store");
        let passes = 40;
        let mut random = seed;
        let mut cuts = 0;
        loop {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let (nodes, wait_ms) = (1 + (random >> 33) % 4, 100 + (random >> 40) % 900);
            let flags = format!(
                "--local {nodes} --no-fault --durable {} --durable-every 100 {own}",
                store.display()
            );
            let mut running = Running::start("word_count", &place.args(&flags, passes));
            if cuts < 50 {
                std::thread::sleep(Duration::from_millis(wait_ms));
                if !running.has_ended() {
                    running.kill();
                    cuts += 1;
                    running.wait();
                    continue;
                }
            }
            let ran = running.wait_within(Duration::from_secs(600));
            assert!(ran.status.success() || ran.stderr.contains("is done"), "{ran}");
            break;
        }
        place.assert_exact(passes);
        println!("{own}: {cuts} cuts, exact");
    }
}
