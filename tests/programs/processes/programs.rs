//! What programs do: several jobs, locks of their own, arguments of their own.

use super::*;

pub(crate) fn twice(place: &Path, config: Config) -> Result<(), Error> {
    for out in ["out", "again"] {
        count_into(place, out, config.clone())?;
    }
    Ok(())
}

/// Two jobs that are not the same.
pub(crate) fn different(place: &Path, config: Config) -> Result<(), Error> {
    count_into(place, "out", config.clone())?;
    let (again, numbers) = (place.join("again"), variable("NUMBERS", 2_000));
    ringfence::execute(config, move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(move |share| (0..numbers).filter(move |n| n % share.count == share.index))
                .to_stream_fenced(scope, "numbers")
                .fold_fenced("counts", |n| n % KEYS, 0u64, number)
                .sink_fenced("totals", LineFiles::new(&again));
        });
    })?;
    Ok(())
}

/// The same at the same time.
pub(crate) fn parallel(place: &Path, config: Config) -> Result<(), Error> {
    let (other_config, numbers) = (config.clone(), variable("NUMBERS", 2_000));
    let again = place.join("again");
    let other = thread::spawn(move || {
        let again = again.clone();
        ringfence::execute(other_config, move |worker| {
            worker.dataflow::<u64, _, _>(|scope| {
                per_share(move |share| {
                    (0..numbers).filter(move |n| n % share.count == share.index)
                })
                .to_stream_fenced(scope, "numbers")
                .fold_fenced("counts", |n| n % KEYS, 0u64, number)
                .sink_fenced("totals", LineFiles::new(&again));
            });
        })
    });
    let first = count_into(place, "out", config);
    other.join().unwrap()?;
    first
}

pub(crate) fn two_jobs_of_one_program_both_run() {
    for (job, flags) in [
        ("twice", "--local 2 --fault kill:1@50ms"),
        ("twice", "-w 2"),
        ("different", "--local 2"),
        ("parallel", "--local 2"),
        ("parallel", "-w 2"),
    ] {
        let place = place();
        let ran = start(job, place.path(), flags).wait();
        ran.assert_success();
        ran.assert_no_panic();
        for out in ["out", "again"] {
            assert_exact(&place.path().join(out), 2_000, &ran);
        }
    }
}

/// The second time they meet at the same addresses, and not all at the same moment.
pub(crate) fn two_jobs_of_processes_by_hand_both_run() {
    for job in ["twice", "different"] {
        let place = place();
        let hosts = place.path().join("hosts");
        fs::write(&hosts, free_addresses(3).join("\n")).unwrap();
        let nodes = [0, 1, 2].map(|process| {
            start(job, place.path(), &format!("-n 3 -p {process} -h {}", hosts.display()))
        });
        let ran = nodes.map(Running::wait);
        for ran in &ran {
            ran.assert_success();
            ran.assert_no_panic();
        }
        for out in ["out", "again"] {
            assert_exact(&place.path().join(out), 2_000, &ran[0]);
        }
    }
}

static POISONED: Mutex<u64> = Mutex::new(0);

/// Holds a lock of its own while the worker steps; `careful` is how to take one that may be poisoned.
pub(crate) fn feed_behind_a_lock(place: &Path, config: Config, careful: bool) -> Result<(), Error> {
    let out = place.join("out");
    let rounds = variable("NUMBERS", 60);
    ringfence::execute(config, move |worker| {
        let mut input = FencedInput::<u64, u64>::new("numbers");
        let probe = ProbeHandle::new();
        worker.dataflow::<u64, _, _>(|scope| {
            input
                .to_stream(scope)
                .fold_fenced(
                    "counts",
                    |n| n % KEYS,
                    0u64,
                    |count, n, out| {
                        *count += 1;
                        out.give((n % KEYS, *count));
                    },
                )
                .probe_with(&probe)
                .sink_fenced("totals", LineFiles::new(&out));
        });
        for round in input.resume()..rounds {
            let held = if careful {
                POISONED.lock().unwrap_or_else(PoisonError::into_inner)
            } else {
                POISONED.lock().unwrap()
            };
            for share in input.shares() {
                input.send_to(share.index, round);
            }
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
            drop(held);
            thread::sleep(Duration::from_millis(10));
        }
    })?;
    Ok(())
}

pub(crate) fn careless(place: &Path, config: Config) -> Result<(), Error> {
    feed_behind_a_lock(place, config, false)
}

pub(crate) fn careful(place: &Path, config: Config) -> Result<(), Error> {
    feed_behind_a_lock(place, config, true)
}

pub(crate) fn a_poisoned_lock_of_the_job_is_explained_where_it_bites() {
    // One of the two may be between two rounds when the other is killed; the lock is held most of the time.
    let advice = "unwrap_or_else(PoisonError::into_inner)";
    let mut bitten = false;
    for delay_ms in [100, 150, 190, 230, 270] {
        let place = place();
        let flags = format!("--local 3 --restarts 2/60 --fault kill:1@{delay_ms}ms");
        let ran = start("careless", place.path(), &flags).wait();
        if !ran.status.success() {
            assert!(ran.stderr.contains(advice), "{ran}");
            assert!(ran.stderr.contains("docs/failures.md#locks-of-the-job"), "{ran}");
            bitten = true;
            break;
        }
    }
    assert!(bitten, "no worker held the lock when it left");
    let place = place();
    let ran = start("careful", place.path(), "--local 3 --fault kill:1@150ms").wait();
    ran.assert_success();
    // Each of three shares has each round once.
    let text: String = fs::read_dir(place.path().join("out"))
        .unwrap()
        .map(|part| fs::read_to_string(part.unwrap().path()).unwrap())
        .collect();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<String> =
        (0..60).flat_map(|n| (1..4).map(move |count| format!("{n}\t{count}"))).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected, "{ran}");
}

/// As in timely's examples: arguments of the job first, and the rest for the runner.
pub(crate) fn skips(place: &Path, _: Config) -> Result<(), Error> {
    let out = place.join("out");
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let outcome = ringfence::execute_from_args(std::env::args().skip(2), move |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            per_share(move |share| (0..count).filter(move |n| n % share.count == share.index))
                .to_stream_fenced(scope, "numbers")
                .fold_fenced("counts", |n| n % KEYS, 0u64, number)
                .sink_fenced("totals", LineFiles::new(&out));
        });
        worker.peers()
    })?;
    println!("peers {:?}", outcome.results);
    Ok(())
}

pub(crate) fn flags_behind_arguments_of_the_job_are_read() {
    for (flags, peers) in [("1000 --local 3", "peers [3]"), ("1000 -w 2", "peers [2, 2]")] {
        let place = place();
        let ran = start("skips", place.path(), flags).wait();
        ran.assert_success();
        assert!(ran.stdout.contains(peers), "{ran}");
        assert_exact(&place.path().join("out"), 1_000, &ran);
    }
    for (flags, text) in [
        ("--local 3 1000", "--local is on the command line"),
        ("1000 --lokal 3", "--lokal"),
        ("1000 -h", "-h is timely's flag for a hostfile"),
    ] {
        let place = place();
        start("skips", place.path(), flags).wait().assert_failed(2, &[text]);
    }
}

pub(crate) fn an_unknown_host_is_told_at_once() {
    let place = place();
    let hosts = place.path().join("hosts");
    let own = free_addresses(1).remove(0);
    fs::write(&hosts, format!("{own}\nno-such-host.invalid:7\n")).unwrap();
    let flags = format!("-n 2 -p 0 -h {} --connect-timeout-ms 3000", hosts.display());
    let ran = start("count", place.path(), &flags).wait();
    ran.assert_failed(1, &["node 1 did not connect within 3000 ms"]);
    // Where there is no resolver to say so, nothing is known.
    if ran.stderr.contains("unknown here") {
        assert!(ran.stderr.contains("no-such-host.invalid:7, where node 1 should be"), "{ran}");
    }
}
