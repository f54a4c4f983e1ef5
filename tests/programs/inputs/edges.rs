//! Files with contents and names at the edges: each line once, whatever it is.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ringfence::Config;
use ringfence::prelude::*;

use crate::support::own::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("every_line_of_any_bytes_comes_out_once", any_bytes),
        test("files_may_have_any_name", any_name),
        test("many_small_files_are_read_in_turns", many_files),
    ]
}

/// The lines of a file, by the rule: cut at `\n`, one `\r` before it goes, what is no UTF-8 is replaced.
fn lines_of(bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let text = |line: &&[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        String::from_utf8_lossy(line).into_owned()
    };
    lines.iter().map(text).collect()
}

/// Runs files through a job, and returns the lines that came out, sorted.
fn through(paths: Vec<PathBuf>) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out");
    let written = out.clone();
    ringfence::execute(Config::single().workers(2), move |worker| {
        let source = TextFiles::new(paths.clone());
        worker.dataflow::<u64, _, _>(|scope| {
            source.to_stream_fenced(scope, "lines").sink_fenced("out", LineFiles::new(&out));
        });
    })
    .unwrap();
    let mut lines = Vec::new();
    for entry in written.read_dir().unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let mut parts: Vec<String> =
            bytes.split(|byte| *byte == b'\n').map(|l| String::from_utf8_lossy(l).into()).collect();
        assert_eq!(parts.pop().as_deref(), Some(""), "a part ends with a line's end");
        lines.extend(parts);
    }
    lines.sort();
    lines
}

fn any_bytes() {
    let aligned: Vec<u8> = (0..1024).flat_map(|n| format!("{n:063}\n").into_bytes()).collect();
    let long = "y".repeat(50_000);
    let long_middle = format!("first\n{long}\n{}", "short line\n".repeat(500));
    let contents: [&[u8]; 16] = [
        b"",
        b"\n",
        b"x",
        b"\r",
        b"\r\n",
        b"one\ntwo\nno end",
        b"\n\n\n\n\n",
        b"not \xff\xfe utf8\n\xc3\n",
        b"nul\0in it\n\0\n",
        b"\xef\xbb\xbfwith a mark\n",
        b"a\r\nb\r\r\nc\r",
        b"a\rb\rc",
        &aligned,
        long_middle.as_bytes(),
        long.as_bytes(),
        "\u{1f980}\n\u{2028}\n".as_bytes(),
    ];
    let place = tempfile::tempdir().unwrap();
    let path = |index: usize| place.path().join(index.to_string());
    let wanted = |indices: &[usize]| {
        let mut wanted: Vec<String> =
            indices.iter().flat_map(|index| lines_of(contents[*index])).collect();
        wanted.sort();
        wanted
    };
    for (index, content) in contents.iter().enumerate() {
        fs::write(path(index), content).unwrap();
    }
    let all: Vec<usize> = (0..contents.len()).collect();
    // All at once, and the smallest alone.
    for indices in [&all[..], &[0], &[1], &[2]] {
        let lines = through(indices.iter().map(|index| path(*index)).collect());
        assert_eq!(lines, wanted(indices), "{indices:?}");
    }
}

fn any_name() {
    let place = tempfile::tempdir().unwrap();
    let names: [&[u8]; 6] =
        [b"a:b.txt", b"0-1/2:0:x", b"new\nline", b"100%41", b"\xff\xfe.txt", b" \t\r"];
    let paths: Vec<PathBuf> = names
        .iter()
        .map(|name| {
            place.path().join(OsStr::from_bytes(name).to_str().map_or_else(
                || PathBuf::from(OsStr::from_bytes(name)),
                |name| PathBuf::from(name.replace('/', "_")),
            ))
        })
        .collect();
    let line = |number: usize| format!("{number}");
    for (number, path) in paths.iter().enumerate() {
        fs::write(path, line(number) + "\n").unwrap();
    }
    let wanted: Vec<String> = (0..paths.len()).map(line).collect();
    assert_eq!(through(paths), wanted);
}

fn many_files() {
    let place = tempfile::tempdir().unwrap();
    let path = |number: usize| -> PathBuf { Path::new(place.path()).join(number.to_string()) };
    let mut wanted = Vec::new();
    for number in 0..300 {
        let lines: Vec<String> = (0..number % 5).map(|line| format!("{number}/{line}")).collect();
        fs::write(path(number), lines.join("\n")).unwrap();
        wanted.extend(lines);
    }
    wanted.sort();
    assert_eq!(through((0..300).map(path).collect()), wanted);
}
