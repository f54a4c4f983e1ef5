use std::fs::{self, File};
use std::io::Write;

use proptest::prelude::*;

use super::*;

/// A log and who writes it: numbered lines.
struct Log {
    directory: tempfile::TempDir,
    file: File,
    written: u32,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = File::options().create(true).append(true).open(directory.path().join("a.log"));
        Log { directory, file: file.unwrap(), written: 0 }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("a.log")
    }

    fn numbered(&self, number: u32) -> PathBuf {
        self.directory.path().join(format!("a.log.{number}"))
    }

    fn line(number: u32) -> String {
        format!("line {number}{}", "x".repeat(number as usize * 7 % 50))
    }

    fn write(&mut self, lines: u32) {
        for _ in 0..lines {
            writeln!(self.file, "{}", Log::line(self.written)).unwrap();
            self.written += 1;
        }
    }

    /// Makes room for a new `a.log.1`.
    fn shift(&self) {
        for number in (1..20).rev().filter(|number| self.numbered(*number).exists()) {
            fs::rename(self.numbered(number), self.numbered(number + 1)).unwrap();
        }
    }

    fn rotate(&mut self) {
        self.shift();
        fs::rename(self.path(), self.numbered(1)).unwrap();
        self.file = File::options().create(true).append(true).open(self.path()).unwrap();
    }

    fn copy_and_cut(&mut self) {
        self.shift();
        fs::copy(self.path(), self.numbered(1)).unwrap();
        self.file.set_len(0).unwrap();
    }

    fn source(&self) -> FollowedFiles {
        FollowedFiles::new(vec![self.path()]).until(self.directory.path().join("stop"))
    }

    fn stop(&self) {
        fs::write(self.directory.path().join("stop"), "").unwrap();
    }

    fn expected(&self) -> Vec<String> {
        (0..self.written).map(Log::line).collect()
    }
}

fn open(log: &Log, at: Option<&FollowPosition>) -> FollowReader {
    let source = log.source();
    let shards = source.shards(1).unwrap();
    source.open(&shards[0], at).unwrap()
}

/// Reads until there was nothing new for some looks.
fn look(reader: &mut FollowReader, lines: &mut Vec<String>) {
    let mut quiet = 0;
    while quiet < 4 {
        let before = (lines.len(), reader.position());
        assert!(reader.read(lines).unwrap(), "it must not end by itself");
        quiet = if (lines.len(), reader.position()) == before { quiet + 1 } else { 0 };
    }
}

fn read_to_end(reader: &mut FollowReader, lines: &mut Vec<String>) {
    while reader.read(lines).unwrap() {}
}

#[test]
fn only_whole_lines_come_out_until_the_end() {
    let mut log = Log::new();
    let (mut reader, mut lines) = (open(&log, None), Vec::new());
    log.file.write_all(b"one\r\ntw").unwrap();
    look(&mut reader, &mut lines);
    assert_eq!(lines, ["one"]);
    log.file.write_all(b"o\n\nthr").unwrap();
    look(&mut reader, &mut lines);
    assert_eq!(lines, ["one", "two", ""]);
    log.stop();
    read_to_end(&mut reader, &mut lines);
    assert_eq!(lines, ["one", "two", "", "thr"]);
}

#[test]
fn a_long_line_that_comes_in_pieces_is_one() {
    let mut log = Log::new();
    let (mut reader, mut lines) = (open(&log, None), Vec::new());
    for _ in 0..5 {
        log.file.write_all("z".repeat(40_000).as_bytes()).unwrap();
        look(&mut reader, &mut lines);
    }
    log.file.write_all(b"\nnext\n").unwrap();
    look(&mut reader, &mut lines);
    assert_eq!(lines, ["z".repeat(200_000), "next".to_owned()]);
}

#[test]
fn what_is_written_to_the_old_file_before_the_new_one_begins_is_read() {
    let mut log = Log::new();
    let (mut reader, mut lines) = (open(&log, None), Vec::new());
    log.write(2);
    look(&mut reader, &mut lines);
    let mut old = File::options().append(true).open(log.path()).unwrap();
    log.rotate();
    look(&mut reader, &mut lines);
    writeln!(old, "{}", Log::line(log.written)).unwrap();
    log.written += 1;
    log.write(1);
    look(&mut reader, &mut lines);
    assert_eq!(lines, log.expected());
}

#[test]
fn a_line_without_an_end_in_an_old_file_comes_out_as_it_is() {
    let mut log = Log::new();
    let (mut reader, mut lines) = (open(&log, None), Vec::new());
    log.file.write_all(b"cut sho").unwrap();
    look(&mut reader, &mut lines);
    log.rotate();
    log.file.write_all(b"next\n").unwrap();
    look(&mut reader, &mut lines);
    assert_eq!(lines, ["cut sho", "next"]);
}

#[test]
fn a_file_that_is_cut_and_filled_again_is_read_from_its_beginning() {
    for longer in [false, true] {
        let mut log = Log::new();
        let (mut reader, mut lines) = (open(&log, None), Vec::new());
        log.file.write_all(b"one\ntwo\nthr").unwrap();
        look(&mut reader, &mut lines);
        let at = reader.position();
        log.file.set_len(0).unwrap();
        let new = if longer { "four, which is long\nfive\n" } else { "4\n" };
        log.file.write_all(new.as_bytes()).unwrap();
        let mut again = lines.clone();
        look(&mut reader, &mut lines);
        let expected = [&["one", "two", "thr"][..], &new.lines().collect::<Vec<_>>()].concat();
        assert_eq!(lines, expected);
        // A successor cannot know of a line that had not come out.
        look(&mut open(&log, Some(&at)), &mut again);
        assert_eq!(again, expected.into_iter().filter(|line| *line != "thr").collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_cannot_be_found_again_is_named() {
    let mut log = Log::new();
    let (mut reader, mut lines) = (open(&log, None), Vec::new());
    log.write(3);
    look(&mut reader, &mut lines);
    log.rotate();
    log.write(1);
    fs::remove_file(log.numbered(1)).unwrap();
    let shards = log.source().shards(1).unwrap();
    let Err(error) = log.source().open(&shards[0], Some(&reader.position())) else {
        panic!("the file is not there");
    };
    let text = error.to_string();
    assert!(text.contains("a.log is gone") && text.contains("bytes of it had been read"), "{text}");
    // Who has it open can still read it.
    look(&mut reader, &mut lines);
    assert_eq!(lines, log.expected());
}

#[derive(Clone, Debug)]
enum Step {
    Write(u32),
    WritePart,
    Rotate,
    CopyAndCut(u32),
    Look,
    ReadOnce,
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..60_u32).prop_map(Step::Write),
        1 => (500..3000_u32).prop_map(Step::Write),
        2 => Just(Step::WritePart),
        2 => Just(Step::Rotate),
        2 => (0..30_u32).prop_map(Step::CopyAndCut),
        2 => Just(Step::Look),
        3 => Just(Step::ReadOnce),
        2 => Just(Step::Resume),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    /// Whatever is rotated when, and whoever goes on reading: each line once, in order.
    #[test]
    fn every_line_comes_out_once(steps in prop::collection::vec(step(), 1..40)) {
        let mut log = Log::new();
        let (mut reader, mut lines) = (open(&log, None), Vec::new());
        for step in steps {
            match step {
                Step::Write(count) => log.write(count),
                Step::WritePart => {
                    // The other part follows after a look.
                    let line = format!("{}\n", Log::line(log.written));
                    log.file.write_all(&line.as_bytes()[..4]).unwrap();
                    look(&mut reader, &mut lines);
                    log.file.write_all(&line.as_bytes()[4..]).unwrap();
                    log.written += 1;
                }
                Step::Rotate => log.rotate(),
                Step::CopyAndCut(count) => {
                    // What was not begun to be read cannot be recognised in a copy.
                    log.write(1);
                    look(&mut reader, &mut lines);
                    log.write(count);
                    log.copy_and_cut();
                }
                Step::Look => look(&mut reader, &mut lines),
                Step::ReadOnce => assert!(reader.read(&mut lines).unwrap()),
                Step::Resume => reader = open(&log, Some(&reader.position())),
            }
        }
        log.stop();
        read_to_end(&mut reader, &mut lines);
        prop_assert_eq!(lines, log.expected());
    }
}
