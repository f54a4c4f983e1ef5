//! Sizes: what a job may legitimately do is done whatever its size, and what is told of a failure is cut,
//! never dropped.
//!
//! What must be true: records, state, journals and results of any size come out exactly once, and no
//! text, however long, keeps a failure from being told and survived.

mod jobs;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

pub(crate) use self::jobs::JOBS;
use self::jobs::{KEYS, out};
use crate::support::own::{Test, long_test, start_with, test, tests};
use crate::support::{Ran, events, of_kind};
use serde_json::Value;

/// Hundreds of megabytes take their time where nothing is optimised.
const RUN_LIMIT: Duration = Duration::from_secs(400);

/// Runs a job to its end, with numbers for its variables.
fn run(place: &Path, job: &str, flags: &str, vars: &[(&str, u64)]) -> Ran {
    let running = start_with(job, place, flags, |command| {
        command.envs(vars.iter().map(|(name, value)| (name, value.to_string())));
    });
    running.wait_within(RUN_LIMIT)
}

/// How often each line of the output is there.
fn lines(place: &Path) -> BTreeMap<String, u64> {
    let mut lines = BTreeMap::new();
    for file in fs::read_dir(out(place)).unwrap() {
        for line in BufReader::new(fs::File::open(file.unwrap().path()).unwrap()).lines() {
            *lines.entry(line.unwrap()).or_default() += 1;
        }
    }
    lines
}

/// Asserts that each key has counted its numbers below `count`, `each` for each of them.
#[track_caller]
fn assert_counted(place: &Path, count: u64, each: u64) {
    let number = |n: u64| (format!("{}\t{}", n % KEYS, (n / KEYS + 1) * each), 1);
    let expected: BTreeMap<String, u64> = (0..count).map(number).collect();
    let lines = lines(place);
    let wrong = expected.iter().filter(|(line, count)| lines.get(*line) != Some(count)).count();
    assert!(lines == expected, "{wrong} of {count} lines are missing or there twice");
}

/// The last view of a run.
fn last_view(place: &Path) -> u64 {
    let events = events(&place.join("report.json"));
    events.iter().filter_map(|event| event["number"].as_u64()).max().unwrap_or(0)
}

/// The longest text in the report of a run.
fn longest_text(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(longest_text).max().unwrap_or(0),
        Value::Object(fields) => fields.values().map(longest_text).max().unwrap_or(0),
        _ => 0,
    }
}

fn a_panic_with_a_long_message_is_survived_and_told() {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 3_000), ("US", 500), ("SIZE", 1_100_000), ("ALWAYS", 0)];
    let ran = run(place.path(), "panics", "--local 3", &vars);
    ran.assert_success();
    assert_counted(place.path(), 3_000, 1);
    assert_eq!(last_view(place.path()), 2, "{ran}");
    let events = events(&place.path().join("report.json"));
    let longest = events.iter().map(longest_text).max().unwrap();
    assert!(longest < 20_000, "a text of {longest} bytes was reported");
    let told = of_kind(&events, "failure")
        .any(|event| event.to_string().contains("xxxx... (cut: it has 1100000 bytes)"));
    assert!(told, "the panic's message is not told");
}

/// How long the text of number 20 is in the output of a job; the numbers around it are checked, too.
#[track_caller]
fn length_of_the_text(place: &Path, count: u64) -> usize {
    let lines = lines(place);
    let mut longest = 0;
    for n in 0..count {
        let prefix = format!("{n}\t");
        let from = lines.range(prefix.clone()..).take_while(|(line, _)| line.starts_with(&prefix));
        let found: Vec<_> = from.collect();
        assert!(found.len() == 1 && *found[0].1 == 1, "number {n} is there {} times", found.len());
        longest = longest.max(found[0].0.len() - prefix.len());
    }
    longest
}

/// Asserts that the numbers below `count` came out with the sizes that a job keeps: 0, then `size`.
#[track_caller]
fn assert_kept(place: &Path, count: u64, size: u64) {
    let lines = lines(place);
    assert_eq!(lines.len() as u64, count);
    let large = lines.keys().filter(|line| line.ends_with(&format!("\t{size}"))).count();
    let small = lines.keys().filter(|line| line.ends_with("\t0")).count();
    assert!(large > 0 && (large + small) as u64 == count, "{large} of {size} bytes, {small} empty");
    assert!(lines.values().all(|count| *count == 1));
    assert!(lines.contains_key(&format!("20\t{size}")), "number 20 has another size");
}

/// Asserts that nothing which is said of a failure is as long as what made it.
#[track_caller]
fn assert_told_briefly(place: &Path, ran: &Ran) {
    let events = events(&place.join("report.json"));
    let longest = events.iter().map(longest_text).max().unwrap_or(0);
    assert!(longest < 20_000, "a text of {longest} bytes was reported");
    let line = ran.stderr.lines().map(str::len).max().unwrap_or(0);
    assert!(line < 20_000, "a line of {line} bytes was printed");
}

fn a_record_that_panics_always_is_told_briefly() {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 1_000), ("US", 500), ("SIZE", 1_100_000), ("ALWAYS", 1)];
    let ran = run(place.path(), "panics", "--local 2", &vars);
    assert!(!ran.status.success(), "{ran}");
    assert!(ran.stderr.contains("xxx... (cut: it has 1100000 bytes)"), "{ran}");
    assert!(ran.stderr.contains("rrr... (cut: it has "), "{ran}");
    assert_told_briefly(place.path(), &ran);
}

fn a_large_record_is_a_dead_letter() {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 1_000), ("US", 500), ("SIZE", 1_100_000), ("ALWAYS", 1)];
    let dead = place.path().join("dead");
    let flags = format!("--local 2 --quarantine {}", dead.display());
    let ran = run(place.path(), "panics", &flags, &vars);
    ran.assert_success();
    assert_told_briefly(place.path(), &ran);
    let files = fs::read_dir(dead.join("counts")).unwrap();
    let letters: String =
        files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let fields: Vec<&str> = letters.trim_end().split('\t').collect();
    // The record is there as it was; the message only says what happened.
    let [_partition, message, record] = fields[..] else { panic!("{} fields", fields.len()) };
    assert_eq!(record, format!("[500,\"{}\"]", "r".repeat(1_100_000)));
    assert!(message.ends_with("xxx... (cut: it has 1100000 bytes)\""), "{message}");
    assert_eq!(lines(place.path()).len(), 999);
}

fn long_errors_of_sources_and_sinks_are_told_briefly() {
    for (place_of_words, who) in [(0, "source \"numbers\""), (1, "sink \"wordy\"")] {
        for flags in ["-w 1", "--local 2"] {
            let place = tempfile::tempdir().unwrap();
            let vars = [("N", 1_000), ("US", 0), ("SIZE", 3_000_000), ("WHERE", place_of_words)];
            let ran = run(place.path(), "wordy", flags, &vars);
            assert!(!ran.status.success(), "{ran}");
            assert!(ran.stderr.contains(who), "{ran}");
            assert!(ran.stderr.contains("sss... (cut: it has "), "{ran}");
            assert_told_briefly(place.path(), &ran);
        }
    }
}

fn names_up_to_their_limit_are_taken_and_longer_ones_named() {
    for (length, is_taken) in [(1_023, true), (1_024, true), (1_025, false), (5_000_000, false)] {
        let place = tempfile::tempdir().unwrap();
        let vars = [("N", 100), ("US", 0), ("SIZE", length), ("WHERE", 2)];
        let ran = run(place.path(), "wordy", "--local 2", &vars);
        assert_eq!(ran.status.success(), is_taken, "{length} bytes\n{ran}");
        if !is_taken {
            let what = format!("has {length} bytes, and at most 1024 may be");
            assert!(ran.stderr.contains(&what), "{ran}");
            assert_told_briefly(place.path(), &ran);
        }
    }
}

/// So many documents of 1.3 MB are summed up, and all processes together never have so much memory.
#[track_caller]
fn documents_are_summed_up(count: u64, flags: &str, bytes_max: u64) {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", count), ("US", 0), ("SIZE", 1_300_000)];
    let ran = run(place.path(), "documents", flags, &vars);
    ran.assert_success();
    assert_counted(place.path(), count, 1_300_000);
    assert_eq!(last_view(place.path()), 1, "{ran}");
    let files = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap());
    let peaks = files.filter(|entry| entry.file_name().to_string_lossy().starts_with("peak-"));
    let bytes: u64 =
        peaks.map(|file| fs::read_to_string(file.path()).unwrap().parse::<u64>().unwrap()).sum();
    assert!(bytes < bytes_max, "{bytes} bytes of memory for {count} documents\n{ran}");
}

fn documents_do_not_pile_up() {
    // All of them have 3.9 GB, and where they pile up more than one copy of each is there.
    documents_are_summed_up(3_000, "--local 2", 3_000_000_000);
}

fn thousands_of_documents_do_not_pile_up_before_a_stopped_node() {
    let flags = "--local 2 --suspect-ms 20000 --fault stop:1@1500ms+3s";
    documents_are_summed_up(6_000, flags, 3_000_000_000);
}

/// A value that travels in pieces is there after its owner, or its backup, is gone.
fn large_state_is_taken_over(size: u64, flags: &str) {
    let place = tempfile::tempdir().unwrap();
    // Longer, where what is large is to be stored before a node is killed.
    let count = if size > 10_000_000 { 10_000 } else { 3_000 };
    let vars = [("N", count), ("US", 1_000), ("SIZE", size)];
    let flags = format!("{flags} --node-restarts 0");
    let ran = run(place.path(), "state", &flags, &vars);
    ran.assert_success();
    let lines = lines(place.path());
    let number = |n: u64| {
        let length = if n % KEYS == 20 { size } else { 0 };
        (format!("{n}\t{length}"), 1)
    };
    assert_eq!(lines, (0..count).map(number).collect());
    let views = 1 + flags.matches("--fault").count() as u64;
    assert_eq!(last_view(place.path()), views, "{ran}");
}

fn state_of_several_pieces_is_taken_over() {
    for node in 0..3 {
        large_state_is_taken_over(3_000_000, &format!("--local 3 --fault kill:{node}@700ms"));
    }
}

fn state_larger_than_a_link_once_took() {
    large_state_is_taken_over(300_000_000, "--local 2");
}

fn large_state_is_taken_over_whoever_dies() {
    for node in 0..3 {
        large_state_is_taken_over(100_000_000, &format!("--local 3 --fault kill:{node}@4s"));
    }
}

fn a_hot_key_that_grows_past_what_a_link_once_took() {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 2_800), ("US", 0), ("SIZE", 100_000)];
    run(place.path(), "hot_key", "--local 2", &vars).assert_success();
    assert_eq!(lines(place.path()), (1..=2_800).map(|n: u64| (n.to_string(), 1)).collect());
}

fn a_hot_key_of_many_pieces() {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 300), ("US", 0), ("SIZE", 20_000)];
    run(place.path(), "hot_key", "--local 2", &vars).assert_success();
    assert_eq!(lines(place.path()), (1..=300).map(|n: u64| (n.to_string(), 1)).collect());
}

fn large_record(size: u64, flags: &str) {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 1_000), ("US", 2_000), ("SIZE", size), ("EACH", 0)];
    run(place.path(), "record", flags, &vars).assert_success();
    assert_eq!(length_of_the_text(place.path(), 1_000), size as usize);
}

fn a_record_of_several_pieces_is_written_once() {
    large_record(3_000_000, "--local 3 --fault kill:1@500ms");
}

fn a_record_larger_than_a_link_once_took_is_written() {
    large_record(300_000_000, "--local 2");
}

/// All of them are the results of one epoch: hundreds of megabytes at each worker.
fn an_epoch_of_results_larger_than_a_link_once_took_is_written() {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 450), ("US", 0), ("SIZE", 1_300_000), ("EACH", 1)];
    let flags = "--local 2 --epoch-ms 600000";
    run(place.path(), "record", flags, &vars).assert_success();
    assert_eq!(length_of_the_text(place.path(), 450), 1_300_000);
}

fn large_record_fed(size: u64, flags: &str) {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 100), ("US", 10_000), ("SIZE", size)];
    run(place.path(), "fed", flags, &vars).assert_success();
    let number = |n: u64| (format!("{n}\t{}", if n == 20 { size } else { 0 }), 1);
    assert_eq!(lines(place.path()), (0..100).map(number).collect());
}

fn a_record_of_several_pieces_is_fed_by_hand() {
    large_record_fed(3_000_000, "--local 3 --fault kill:1@600ms");
}

fn a_record_larger_than_a_link_once_took_is_fed_by_hand() {
    large_record_fed(300_000_000, "--local 2");
}

fn large_wrapped_state(size: u64, flags: &str) {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", 1_000), ("US", 2_000), ("SIZE", size)];
    run(place.path(), "wrapped", flags, &vars).assert_success();
    assert_kept(place.path(), 1_000, 3 * size);
}

fn a_wrapped_operator_keeps_values_of_several_pieces() {
    large_wrapped_state(3_000_000, "--local 3 --fault kill:1@500ms");
}

fn a_wrapped_operator_keeps_values_larger_than_a_link_once_took() {
    large_wrapped_state(100_000_000, "--local 2");
    large_wrapped_state(300_000_000, "--local 2");
}

fn large_updates(count: u64, size: u64, flags: &str) {
    let place = tempfile::tempdir().unwrap();
    let vars = [("N", count), ("US", 10_000), ("SIZE", size)];
    run(place.path(), "collection", flags, &vars).assert_success();
    // The last count of each text is what its changes sum up to.
    let mut counts = BTreeMap::<(u64, u64), i64>::new();
    for (line, times) in lines(place.path()) {
        let fields: Vec<i64> = line.split('\t').map(|field| field.parse().unwrap()).collect();
        let [length, count, _round, change] = fields[..] else { panic!("{line:?}") };
        *counts.entry((length as u64, count as u64)).or_default() += change * times as i64;
    }
    counts.retain(|_, times| *times != 0);
    let lengths = (1..20).chain([size]);
    assert_eq!(counts, lengths.map(|length| ((length, count / 20), 1)).collect());
}

fn a_collection_has_records_of_several_pieces() {
    large_updates(60, 3_000_000, "--local 3 --fault kill:1@400ms");
}

fn a_collection_has_records_larger_than_a_link_once_took() {
    large_updates(20, 270_000_000, "--local 2");
}

pub(crate) fn tests() -> Vec<Test> {
    tests![
        test a_panic_with_a_long_message_is_survived_and_told,
        test a_record_that_panics_always_is_told_briefly,
        test a_large_record_is_a_dead_letter,
        test long_errors_of_sources_and_sinks_are_told_briefly,
        test names_up_to_their_limit_are_taken_and_longer_ones_named,
        test documents_do_not_pile_up,
        long_test thousands_of_documents_do_not_pile_up_before_a_stopped_node,
        test state_of_several_pieces_is_taken_over,
        long_test state_larger_than_a_link_once_took,
        long_test large_state_is_taken_over_whoever_dies,
        test a_hot_key_of_many_pieces,
        long_test a_hot_key_that_grows_past_what_a_link_once_took,
        test a_record_of_several_pieces_is_written_once,
        long_test a_record_larger_than_a_link_once_took_is_written,
        long_test an_epoch_of_results_larger_than_a_link_once_took_is_written,
        test a_record_of_several_pieces_is_fed_by_hand,
        long_test a_record_larger_than_a_link_once_took_is_fed_by_hand,
        test a_wrapped_operator_keeps_values_of_several_pieces,
        long_test a_wrapped_operator_keeps_values_larger_than_a_link_once_took,
        test a_collection_has_records_of_several_pieces,
        long_test a_collection_has_records_larger_than_a_link_once_took,
    ]
}
