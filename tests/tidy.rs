//! What the compiler and clippy cannot see: which module may use which, what no file may contain, and
//! that the documents name what is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// The longest a source file may be, and the exceptions, which wait for their second noun.
const LINES_MAX: usize = 800;
const LONGER: [(&str, usize); 1] = [("src/runtime/node.rs", 1200)];

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

fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.ends_with("_tests.rs") || name.ends_with("/tests.rs")
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
fn inner_rooms_do_not_know_outer_ones() {
    for (room, forbidden) in [
        ("src/register", &["crate::runtime", "crate::network", "crate::report"][..]),
        ("src/network", &["crate::runtime", "crate::protocol", "crate::register", "crate::report"]),
        ("src/report", &["crate::runtime", "crate::network", "crate::protocol"]),
        ("src/chaos", &["crate::runtime", "crate::network", "crate::protocol", "crate::report"]),
    ] {
        let words: Vec<String> = forbidden.iter().map(|word| (*word).to_owned()).collect();
        assert_free_of(&files(room, "rs"), &words);
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
    let mut all = Vec::new();
    for directory in ["src", "operators", "examples", "tests", "benches"] {
        if root().join(directory).exists() {
            all.extend(files(directory, "rs"));
        }
    }
    for (name, text) in &all {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{name} has {word}");
        }
        let lines = text.lines().count();
        let longer = LONGER.iter().find(|(long, _)| long == name);
        let max = longer.map_or(LINES_MAX, |(_, max)| *max);
        assert!(lines <= max, "{name} has {lines} lines, more than {max}");
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
