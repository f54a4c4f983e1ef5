//! Ends: of nodes, launchers and whole processes, and a register that is away meanwhile.

use super::*;

pub(crate) fn a_register_that_is_away_is_waited_for() {
    let place = place();
    let (register, away) = (place.path().join("register"), place.path().join("away"));
    let running = slow(place.path(), &format!("--local 3 --register {}", register.display()));
    wait_until("for the first commits", || commits(place.path()) > 1);
    fs::rename(&register, &away).unwrap();
    kill_node(place.path(), 1, Signal::SIGKILL);
    wait_until("for the register to be missed", || {
        is_told(place.path(), "the register does not answer")
    });
    // Long enough for it to be asked several times.
    thread::sleep(Duration::from_millis(1_500));
    fs::rename(&away, &register).unwrap();
    let ran = finish(place.path(), running);
    assert!(is_told(place.path(), "the register answers again"), "{ran}");
    let events = events(&place.path().join("report.json"));
    assert_went_on(&events, &[0, 2], &ran);
}

/// A full disk and a directory that became read-only look the same: nothing new can be written. Root may
/// write everywhere, so the directory of the views is no directory for a while.
pub(crate) fn a_register_that_takes_nothing_new_is_waited_for() {
    let place = place();
    let (register, kept) = (place.path().join("register"), place.path().join("kept"));
    let running = slow(place.path(), &format!("--local 3 --register {}", register.display()));
    wait_until("for the first commits", || commits(place.path()) > 1);
    let views = register.join("views");
    fs::rename(&views, &kept).unwrap();
    fs::write(&views, "in the way").unwrap();
    kill_node(place.path(), 2, Signal::SIGKILL);
    wait_until("for the register to be missed", || {
        is_told(place.path(), "the register does not answer")
    });
    thread::sleep(Duration::from_millis(1_500));
    fs::remove_file(&views).unwrap();
    fs::rename(&kept, &views).unwrap();
    let ran = finish(place.path(), running);
    assert!(is_told(place.path(), "the register answers again"), "{ran}");
    assert!(views.join("00000002.json").exists(), "{ran}");
    let events = events(&place.path().join("report.json"));
    assert_went_on(&events, &[0, 1], &ran);
}

/// Asserts that just these nodes went on, until the other came back.
#[track_caller]
fn assert_went_on(events: &[serde_json::Value], nodes: &[u64], ran: &Ran) {
    let second = of_kind(events, "view").find(|view| view["number"] == 2).unwrap();
    assert_eq!(second["members"], serde_json::json!(nodes), "{ran}");
}

/// The exit code of a process that was asked to end.
const INTERRUPTED: i32 = 130;

pub(crate) fn a_node_that_is_asked_to_end_leaves_and_the_others_go_on() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let place = place();
        let running = slow(place.path(), "--local 3");
        wait_until("for the first commits", || commits(place.path()) > 1);
        kill_node(place.path(), 1, signal);
        wait_until("for its end", || is_told(place.path(), "node 1 ended with exit code 130"));
        wait_until("for the next view", || view(place.path()) >= 2);
        let ran = finish(place.path(), running);
        let told = format!("interrupted by {signal}: this node has left the run");
        assert!(ran.stderr.contains(&told), "{ran}");
    }
}

/// The job's own code does not come back for a minute.
pub(crate) fn sleep_in_the_job(place: &Path, config: Config) -> Result<(), Error> {
    let out = place.join("out");
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(|share| std::iter::once(share.index))
                .to_stream_fenced(scope, "shares")
                .sink_fenced("out", LineFiles::new(&out));
        });
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while std::time::Instant::now() < until {
            thread::sleep(Duration::from_secs(60));
        }
    })?;
    Ok(())
}

pub(crate) fn whoever_is_asked_to_end_does_so_whatever_the_job_does() {
    let hosts = place();
    fs::write(hosts.path().join("hosts"), free_addresses(2).join("\n")).unwrap();
    let by_hand = |p: usize| format!("-n 2 -p {p} -h {}", hosts.path().join("hosts").display());
    for (flags, signal) in [("-w 2", Signal::SIGTERM), ("-w 1", Signal::SIGINT)] {
        let place = place();
        let running = start("sleep", place.path(), flags);
        wait_until("for the start", || {
            of_kind(&events(&place.path().join("report.json")), "view").count() > 0
        });
        running.signal(signal);
        let ran = running.wait();
        ran.assert_failed(INTERRUPTED, &[&format!("interrupted by {signal}")]);
        assert!(ran.elapsed < Duration::from_secs(30), "{ran}");
    }
    let (one, other) = (place(), place());
    let nodes =
        [start("sleep", one.path(), &by_hand(0)), start("sleep", other.path(), &by_hand(1))];
    wait_until("for the first view", || {
        [&one, &other]
            .iter()
            .all(|place| of_kind(&events(&place.path().join("report.json")), "view").count() > 0)
    });
    nodes.iter().for_each(|node| node.signal(Signal::SIGTERM));
    for ran in nodes.map(Running::wait) {
        ran.assert_failed(INTERRUPTED, &["interrupted by SIGTERM"]);
        assert!(ran.elapsed < Duration::from_secs(30), "{ran}");
    }
}

/// As with Ctrl-C: nothing is left of processes and files.
pub(crate) fn a_launcher_that_is_asked_to_end_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (place, temporary) = (place(), place());
        let running = start_with("count", place.path(), "--local 3", |command| {
            command.env("NUMBERS", MANY.to_string()).env("PAUSE_US", "1000");
            command.env("TMPDIR", temporary.path());
        });
        wait_until("for the first commits", || commits(place.path()) > 1);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1, "the register");
        running.signal(signal);
        let ran = running.wait();
        ran.assert_failed(
            INTERRUPTED,
            &[&format!("interrupted by {signal}; all nodes were ended")],
        );
        let events = events(&place.path().join("report.json"));
        let processes =
            of_kind(&events, "started").map(|event| event["process_id"].as_u64().unwrap());
        for process in processes {
            assert!(!Path::new(&format!("/proc/{process}")).exists(), "{process} lives\n{ran}");
        }
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "files are left\n{ran}");
    }
}

/// Whenever a node dies, before the first view or after, it is told at once.
pub(crate) fn a_node_that_dies_early_is_told_by_its_name() {
    for delay_ms in [0, 30, 100, 200] {
        let place = place();
        let running = start("count", place.path(), "--local 3");
        let children = format!("/proc/{0}/task/{0}/children", running.process_id());
        let mut victim = None;
        wait_until("for the second node", || {
            let children = fs::read_to_string(&children).unwrap_or_default();
            victim = children.split_whitespace().nth(1).and_then(|id| id.parse::<i32>().ok());
            victim.is_some()
        });
        thread::sleep(Duration::from_millis(delay_ms));
        kill(Pid::from_raw(victim.unwrap()), Signal::SIGKILL).unwrap();
        let ran = running.wait();
        assert!(ran.stderr.contains("node 1 was ended by SIGKILL"), "{ran}");
        assert!(ran.elapsed < Duration::from_secs(20), "{ran}");
        if ran.status.success() {
            assert_exact(&place.path().join("out"), 2_000, &ran);
        }
    }
}
