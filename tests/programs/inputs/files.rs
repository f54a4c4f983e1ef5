//! Files that differ between nodes, grow, or change while they are read.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{INPUT, LINES_SLOWLY, SLOW_US, assert_lines, numbered, output, wait_for_output};
use crate::support::own::{self, Test, test};
use crate::support::{Ran, events, free_addresses, of_kind};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a_copy_that_is_longer_elsewhere_is_read_as_the_first_node_has_it", longer_elsewhere),
        test("a_copy_that_is_shorter_or_another_is_refused", other_copies),
        test("a_file_that_grows_from_the_start_is_read_to_one_length", grows),
        test("a_file_that_grows_is_read_to_one_length_though_a_node_is_killed", grows_and_kill),
        test("what_is_appended_does_not_come_out", || unharmed("append", NO_KILL)),
        test("an_open_file_may_be_removed", || unharmed("remove", NO_KILL)),
        test("an_open_file_may_be_renamed", || unharmed("rename", NO_KILL)),
        test("what_is_appended_does_not_come_out_after_a_kill", || unharmed("append", KILL)),
        test("a_replaced_file_is_named", || {
            refused("replace", NO_KILL, "replaced by another file")
        }),
        test("a_rewritten_file_is_named", || refused("rewrite", NO_KILL, "written to in place")),
        test("a_file_that_was_cut_is_named", || refused("cut", NO_KILL, "became shorter")),
        test("a_file_cut_and_filled_again_is_named", || refused("refill", NO_KILL, "")),
        test("a_replaced_file_is_named_after_a_kill", || refused("replace", KILL, "")),
        test("a_rewritten_file_is_named_after_a_kill", || refused("rewrite", KILL, "")),
        test("a_removed_file_is_named_after_a_kill", || refused("remove", KILL, "cannot read")),
    ]
}

const LINES: u64 = 9_000;
/// Whether a node is killed once the file has changed.
const KILL: bool = true;
const NO_KILL: bool = false;

/// Runs two nodes by hand that have different files under the same name.
fn with_copies(texts: [&str; 2]) -> (tempfile::TempDir, [Ran; 2]) {
    let place = tempfile::tempdir().unwrap();
    let hosts = place.path().join("hosts");
    fs::write(&hosts, free_addresses(2).join("\n")).unwrap();
    let start = |process: usize| {
        let directory = place.path().join(process.to_string());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("in.txt"), texts[process]).unwrap();
        let register = place.path().join("register");
        let flags =
            format!("-n 2 -p {process} -h {} --register {}", hosts.display(), register.display());
        own::start_with("lines", place.path(), &flags, |command: &mut Command| {
            command.current_dir(&directory).env(INPUT, "in.txt").env(SLOW_US, "20");
        })
    };
    let nodes = [start(0), start(1)];
    let ran = nodes.map(|node| node.wait());
    (place, ran)
}

fn longer_elsewhere() {
    let (short, long) = (numbered(0, 20_000), numbered(0, 20_100));
    let (place, ran) = with_copies([&short, &long]);
    ran.iter().for_each(Ran::assert_success);
    assert_lines(&place.path().join("out"), &short, &ran[0]);
}

fn other_copies() {
    let text = numbered(0, 20_000);
    for (other, texts) in [
        (numbered(0, 19_900), ["278600 bytes here", "280000"]),
        (text.replace("line 00000007", "LINE 00000007"), ["in.txt has other bytes here", "0 and"]),
        (text.replace("line 00019998", "LINE 00019998"), ["in.txt has other bytes here", "280000"]),
    ] {
        let (place, ran) = with_copies([&text, &other]);
        for ran in &ran {
            assert!(!ran.status.success(), "{ran}");
            ran.assert_no_panic();
        }
        ran[1].assert_failed(1, &["source \"lines\"", "in.txt", "worker 1", "worker 0"]);
        ran[1].assert_failed(1, &texts);
        assert!(output(&place.path().join("out")).is_empty());
    }
}

/// Appends to the input from before the start to the end.
fn run_growing(flags: &str) {
    let place = tempfile::tempdir().unwrap();
    let input = place.path().join("in.txt");
    fs::write(&input, numbered(0, LINES)).unwrap();
    let over = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::options().append(true).open(&input).unwrap();
            let mut next = LINES;
            while !over.load(Ordering::Relaxed) {
                // Cut within lines, too.
                let text = numbered(next, next + 40);
                let (first, second) = text.split_at(text.len() - 7);
                file.write_all(first.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_micros(500));
                file.write_all(second.as_bytes()).unwrap();
                next += 40;
            }
        });
        let slow = |command: &mut Command| {
            command.env(SLOW_US, "100");
        };
        let ran = own::start_with("lines", place.path(), flags, slow).wait();
        over.store(true, Ordering::Relaxed);
        ran
    });
    ran.assert_success();
    // The last line may be there in part, as far as it was written.
    let found = output(&place.path().join("out"));
    let mut lines: Vec<&String> = found.keys().collect();
    lines.sort();
    assert!(found.values().all(|count| *count == 1), "a line came out twice\n{ran}");
    assert!(found.len() as u64 >= LINES, "{} lines came out\n{ran}", found.len());
    let whole = lines.iter().filter(|line| line.len() == "line 00000000".len()).count();
    assert!(lines.len() - whole <= 1, "{lines:?}");
    let wanted = numbered(0, whole as u64);
    assert!(wanted.lines().all(|line| found.contains_key(line)), "there is a gap\n{ran}");
}

fn grows() {
    run_growing("--local 3");
}

fn grows_and_kill() {
    run_growing("--local 3 --fault kill:1@50%");
}

fn change(input: &Path, how: &str) {
    let other = numbered(0, LINES).replace("line", "LINE");
    match how {
        "append" => {
            let mut file = File::options().append(true).open(input).unwrap();
            file.write_all(numbered(LINES, LINES + 5000).as_bytes()).unwrap();
        }
        "remove" => fs::remove_file(input).unwrap(),
        "rename" => fs::rename(input, input.with_extension("old")).unwrap(),
        "replace" => {
            let aside = input.with_extension("new");
            fs::write(&aside, other).unwrap();
            fs::rename(aside, input).unwrap();
        }
        "rewrite" => {
            let file = File::options().write(true).open(input).unwrap();
            file.write_all_at(other.as_bytes(), 0).unwrap();
        }
        "cut" => File::options().write(true).open(input).unwrap().set_len(14_000).unwrap(),
        "refill" => fs::write(input, numbered(0, LINES + 100).replace("line", "LINE")).unwrap(),
        _ => unreachable!("{how} is no change"),
    }
}

/// Changes the input once something has come out.
fn run_changed(how: &str, is_killed: bool) -> (tempfile::TempDir, Ran) {
    let place = tempfile::tempdir().unwrap();
    let input = place.path().join("in.txt");
    fs::write(&input, numbered(0, LINES)).unwrap();
    let slow = |command: &mut Command| {
        command.env(SLOW_US, LINES_SLOWLY);
    };
    let mut running = own::start_with("lines", place.path(), "--local 3", slow);
    wait_for_output(&mut running, &place.path().join("out"));
    change(&input, how);
    if is_killed {
        let events = events(&place.path().join("report.json"));
        let node = of_kind(&events, "started").find(|event| event["node"] == 1).unwrap();
        let process_id = node["process_id"].as_i64().unwrap();
        // It is not reaped before the launcher sees its end, and has much to read still.
        kill(Pid::from_raw(process_id as i32), Signal::SIGKILL).unwrap();
    }
    (place, running.wait())
}

fn unharmed(how: &str, is_killed: bool) {
    let (place, ran) = run_changed(how, is_killed);
    ran.assert_success();
    assert_lines(&place.path().join("out"), &numbered(0, LINES), &ran);
}

fn refused(how: &str, is_killed: bool, text: &str) {
    let (_place, ran) = run_changed(how, is_killed);
    ran.assert_failed(1, &["source \"lines\"", "in.txt", "records had been read", text]);
}
