//! Report files that cannot be written, and readers that do not read.

use std::os::fd::AsRawFd;
use std::path::Path;

use super::*;
use crate::report::{Origin, What};

fn message(text: &str) -> Event {
    Event::now(Origin::LAUNCHER, What::Message { text: text.to_owned() })
}

/// Appends until an error comes, or for long enough that one should have come.
fn append_until_lost(recorder: &mut Recorder) -> Option<Error> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Err(error) = recorder.append(&message("a line")) {
            return Some(error);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

#[test]
fn a_full_disk_ends_the_report_and_is_told_once() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let mut recorder = Recorder::start(ReportFile::open(Path::new("/dev/full")).unwrap()).unwrap();
    let error = append_until_lost(&mut recorder).unwrap();
    assert!(error.to_string().contains("cannot write report file /dev/full"), "{error}");
    recorder.append(&message("after the end")).unwrap();
    recorder.finish().unwrap();
}

#[test]
fn a_report_whose_directory_is_gone_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("there/report.json");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let mut recorder = Recorder::start(ReportFile::open(&path).unwrap()).unwrap();
    recorder.append(&message("one")).unwrap();
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let error = recorder.finish().unwrap_err();
    assert!(error.to_string().contains("was removed or replaced"), "{error}");
}

/// The other end of the pipe is open, and nobody ever reads.
#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    let (reader, writer) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    if !Path::new(&path).exists() {
        return;
    }
    let mut recorder = Recorder::start(ReportFile::open(Path::new(&path)).unwrap()).unwrap();
    let started = Instant::now();
    let long = "x".repeat(1 << 20);
    let mut result = Ok(());
    for _ in 0..64 {
        result = result.and_then(|()| recorder.append(&message(&long)));
    }
    let error = result.unwrap_err();
    assert!(error.to_string().contains("too slowly"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    drop(reader);
}
