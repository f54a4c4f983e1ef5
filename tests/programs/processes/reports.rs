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
        let mut command = command("count", place.path(), flags);
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
    let mut command = command("chatter", place.path(), "--local 2");
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

/// Copies the lines of a file, a thousand of them in about a second and a half at each node.
pub(crate) fn copy(place: &Path, config: Config) -> Result<(), Error> {
    let (file, out) = (place.join("in.txt"), place.join("out"));
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            TextFiles::new([&file])
                .to_stream_fenced(scope, "lines")
                .inspect(|_| thread::sleep(Duration::from_micros(1_500)))
                .sink_fenced("copies", LineFiles::new(&out));
        });
    })?;
    Ok(())
}

pub(crate) fn percentages_only_rise_across_a_failure() {
    const LINES: usize = 12_000;
    let place = place();
    let lines: Vec<String> = (0..LINES).map(|n| format!("{n:06}")).collect();
    fs::write(place.path().join("in.txt"), lines.join("\n")).unwrap();
    let running = start("copy", place.path(), "--local 3");
    wait_until("for the first commits", || commits(place.path()) > 10);
    kill_node(place.path(), 1, Signal::SIGKILL);
    let ran = running.wait();
    ran.assert_success();
    let mut copies = Vec::new();
    for part in fs::read_dir(place.path().join("out")).unwrap() {
        let text = fs::read_to_string(part.unwrap().path()).unwrap();
        copies.extend(text.lines().map(str::to_owned));
    }
    copies.sort();
    assert_eq!(copies, lines, "{ran}");
    let told = ran.stderr.lines().filter_map(|line| line.trim_start().split_once('%'));
    let told: Vec<u32> = told.filter_map(|(percent, _)| percent.parse().ok()).collect();
    assert!(told.is_sorted() && told.iter().all(|percent| *percent <= 100), "{told:?}\n{ran}");
    // It was shown on its way, on both sides of the failure, and not as done before it was.
    let on_the_way = told.iter().filter(|percent| (1..100).contains(*percent)).count();
    assert!(on_the_way >= 3, "{told:?}\n{ran}");
}
