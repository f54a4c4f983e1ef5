//! What the compiler and clippy cannot see: which module may use which, what no file may contain, and
//! that the documents name what is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// The longest that a file and a function may be.
const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 80;

/// The rooms of the operators, from the ground up: each may use those before it.
const OPERATOR_ROOMS: [&str; 20] = [
    "ids",
    "text",
    "paths",
    "codec",
    "data",
    "hash",
    "time",
    "error",
    "planted",
    "snapshot",
    "state",
    "vault",
    "fence",
    "rounds",
    "protected",
    "verbs",
    "wrap",
    "differential",
    "worker",
    "testing",
];

/// The rooms that stand on the operators, from the ground up, and which of those before it each uses.
const ROOMS: [(&str, &[&str]); 9] = [
    ("error", &[]),
    ("protocol", &[]),
    ("register", &["protocol"]),
    ("network", &[]),
    ("chaos", &[]),
    ("report", &["chaos", "error"]),
    ("config", &["chaos", "error", "protocol", "report"]),
    ("durable", &["error", "protocol", "config"]),
    (
        "runtime",
        &["error", "protocol", "register", "network", "chaos", "report", "config", "durable"],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `directory` with an ending, as paths relative to the root, and their texts.
fn files(directory: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|e| e == ending) {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "there are no .{ending} files below {directory}");
    found
}

fn all_files() -> Vec<(String, String)> {
    let directories = ["src", "operators", "examples", "tests", "benches"];
    directories.iter().flat_map(|directory| files(directory, "rs")).collect()
}

fn is_test(name: &str) -> bool {
    name.contains("tests/") || name.ends_with("tests.rs")
}

/// The lines of a file that are neither comments nor tests.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// Asserts that no line of code in `files` contains one of `words`.
fn assert_free_of(files: &[(String, String)], words: &[String]) {
    for (name, text) in files.iter().filter(|(name, _)| !is_test(name)) {
        for line in code(text) {
            for word in words {
                assert!(!line.contains(word.as_str()), "{name} has {word:?}: {line}");
            }
        }
    }
}

/// Asserts that the code in `directory` uses no rooms of its package but those that its own may use.
fn assert_layers(directory: &str, may_use: impl Fn(&str, &str) -> bool) {
    for (name, text) in files(directory, "rs").iter().filter(|(name, _)| !is_test(name)) {
        let inside = name[directory.len() + 1..].trim_end_matches(".rs").trim_end_matches("/mod");
        let room = inside.split('/').next().unwrap();
        if ["lib", "main", "prelude"].contains(&room) {
            continue;
        }
        let code: Vec<&str> = code(text).collect();
        let code = code.join("\n");
        for path in code.split("crate::").skip(1) {
            let used = path.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap();
            assert!(used == room || may_use(room, used), "{name} uses the room {used:?}");
        }
        let out = "super::".repeat(inside.split('/').count());
        assert!(!code.contains(&out), "{name} leaves its room by {out}");
    }
}

#[test]
fn rooms_know_only_those_below_them() {
    assert_layers("operators/src", |room, used| {
        let level = |room: &str| OPERATOR_ROOMS.iter().position(|one| *one == room);
        level(used).is_some() && level(used) < level(room)
    });
    for (at, (room, uses)) in ROOMS.iter().enumerate() {
        let is_below = |used: &&str| ROOMS[..at].iter().any(|(below, _)| below == used);
        assert!(uses.iter().all(is_below), "{room} uses what is not below it");
    }
    assert_layers("src", |room, used| {
        ROOMS.iter().any(|(one, uses)| *one == room && uses.contains(&used))
    });
}

#[test]
fn operators_know_nothing_of_what_is_around_them() {
    let words = ["use ringfence::", "ringfence::runtime", "ringfence::protocol"].map(str::to_owned);
    assert_free_of(&files("operators/src", "rs"), &words);
}

#[test]
fn the_protocol_uses_only_the_names_of_things() {
    let files = files("src/protocol", "rs");
    // A file may name the modules that it declares.
    let modules: Vec<String> = files
        .iter()
        .flat_map(|(_, text)| code(text))
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .map(|module| format!("{module}::"))
        .collect();
    for (name, text) in files.iter().filter(|(name, _)| !is_test(name)) {
        for line in code(text).filter(|line| line.trim_start().starts_with("use ")) {
            let used = line.trim_start().trim_start_matches("use ");
            let allowed = ["std::", "serde::", "serde_json::", "sha1::", "thiserror::", "super::"];
            let is_allowed = allowed.iter().any(|prefix| used.starts_with(prefix))
                || used.starts_with("ringfence_operators::ids::")
                || used.starts_with("crate::protocol::")
                || modules.iter().any(|module| used.starts_with(module));
            assert!(is_allowed, "{name} uses {used}");
        }
        for word in ["std::thread", "std::net", "std::fs", "Instant", "SystemTime", "HashMap"] {
            assert!(code(text).all(|line| !line.contains(word)), "{name} has {word}");
        }
    }
}

#[test]
fn only_runtime_and_network_have_threads() {
    let words = ["thread::spawn", "thread::Builder", "thread::sleep"].map(str::to_owned);
    for room in ["src/protocol", "src/register", "src/report", "src/chaos", "operators/src"] {
        let mut files = files(room, "rs");
        // The harness for tests has to wait until it interrupts a job; no job is built with it.
        files.retain(|(name, _)| name != "operators/src/testing.rs");
        assert_free_of(&files, &words);
    }
}

#[test]
fn nothing_is_left_half_done() {
    // Put together here, so that this file does not hold them itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["todo", "!("], ["unimpl", "emented!("]]
        .map(|[a, b]| format!("{a}{b}"));
    for (name, text) in &all_files() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{name} has {word}");
        }
    }
    let unwrap = format!(".unwrap{}", "()");
    let own: Vec<_> = files("src", "rs").into_iter().chain(files("operators/src", "rs")).collect();
    for (name, text) in own.iter().filter(|(name, _)| !is_test(name)) {
        // A doc example may unwrap: it is a comment here.
        for line in code(text) {
            assert!(!line.contains(&unwrap), "{name} unwraps: {line}");
        }
    }
}

/// The functions with a body in a text that is formatted, each with its first line and how many it has.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let body = |(at, line): (usize, &&str)| {
        let head = line.trim_start();
        let indent = &line[..line.len() - head.len()];
        let is_function = head.starts_with("fn ") || head.contains(" fn ");
        (is_function && !head.starts_with("//")).then_some(())?;
        let begin = at + lines[at..].iter().position(|line| line.ends_with(['{', '}', ';']))?;
        lines[begin].ends_with('{').then_some(())?;
        let end = begin + lines[begin..].iter().position(|line| *line == format!("{indent}}}"))?;
        Some((lines[at], end + 1 - at))
    };
    lines.iter().enumerate().filter_map(body).collect()
}

#[test]
fn files_and_functions_are_read_in_a_sitting() {
    for (name, text) in &all_files() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{name} has {lines} lines, more than {FILE_LINES_MAX}");
        for (head, lines) in functions(text) {
            assert!(lines <= FUNCTION_LINES_MAX, "{name} has {lines} lines from {head:?}");
        }
    }
}

#[test]
fn the_docs_list_every_example() {
    let list = fs::read_to_string(root().join("docs/examples.md")).expect("there is a list");
    let examples: Vec<PathBuf> = fs::read_dir(root().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .collect();
    assert!(!examples.is_empty());
    for example in examples {
        let name = example.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(list.contains(&format!("`{name}`")), "docs/examples.md does not list {name}");
    }
}
