//! What is told: report files, terminals, errors.

use super::*;

pub(crate) fn a_report_on_a_full_disk_ends_and_the_job_goes_on() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    for flags in ["--local 3", "-w 2"] {
        let place = place();
        std::os::unix::fs::symlink("/dev/full", place.path().join("report.json")).unwrap();
        let ran = start("count", place.path(), flags).wait();
        ran.assert_success();
        assert_exact(&place.path().join("out"), 2_000, &ran);
        assert_eq!(times(&ran.stderr, "the report is not complete"), 1, "{ran}");
    }
}

pub(crate) fn a_report_whose_directory_is_gone_is_told_and_the_job_goes_on() {
    let place = place();
    let running = slow(place.path(), "--local 2");
    wait_until("for the first commits", || commits(place.path()) > 1);
    fs::remove_file(place.path().join("report.json")).unwrap();
    let ran = finish(place.path(), running);
    assert_eq!(times(&ran.stderr, "report.json was removed or replaced"), 1, "{ran}");
}

/// As with `job | head -1`, and with a terminal that has been closed.
pub(crate) fn closed_pipes_end_no_job() {
    for flags in ["--local 2", "-w 2"] {
        let place = place();
        let mut command = own::command("count", place.path(), flags);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        let mut status = None;
        wait_until("for the end", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let (stdout, stderr) = (String::new(), String::new());
        let ran = Ran { status: status.unwrap(), stdout, stderr, elapsed: Duration::ZERO };
        ran.assert_success();
        assert_exact(&place.path().join("out"), 2_000, &ran);
    }
}

/// A job whose nodes say much on standard error, which nobody reads and nobody closes.
pub(crate) fn chatter(place: &Path, config: Config) -> Result<(), Error> {
    if let ringfence::Mode::Child { .. } = config.mode() {
        thread::spawn(|| {
            for n in 0..20_000 {
                eprintln!("{n} {}", "chatter ".repeat(20));
            }
        });
    }
    count(place, config)
}

pub(crate) fn a_terminal_that_takes_nothing_holds_no_job_up() {
    let place = place();
    let mut command = own::command("chatter", place.path(), "--local 2");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let unread = child.stderr.take();
    let mut status = None;
    wait_until("for the end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    drop(unread);
    let (stdout, stderr) = (String::new(), String::new());
    let ran = Ran { status: status.unwrap(), stdout, stderr, elapsed: Duration::ZERO };
    ran.assert_success();
    assert_exact(&place.path().join("out"), 2_000, &ran);
}

/// The directory of the output is a file.
pub(crate) fn spoilt(place: &Path, config: Config) -> Result<(), Error> {
    count_into(place, "report.json", config)
}

pub(crate) fn an_error_is_told_once_by_the_nodes_and_once_at_the_end() {
    let place = place();
    let ran = start("spoilt", place.path(), "--local 3").wait();
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    let begins = |text: &str| ran.stderr.lines().filter(|line| line.starts_with(text)).count();
    assert_eq!(begins("[node "), 0, "{ran}");
    let told = (0..3).map(|node| begins(&format!("node {node}: error: "))).sum::<usize>();
    assert_eq!((told, begins("error: node ")), (1, 1), "{ran}");
    // Who only heard of it is not blamed for it.
    assert!(!ran.stderr.contains("exit code 1: node "), "{ran}");
}
