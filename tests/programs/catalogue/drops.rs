//! Dataflows that a job ends by dropping them, and failures around that.

use super::*;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a_dropped_dataflow_holds_nobody_back", a_dropped_dataflow),
        test("after_a_drop_a_failure_leaves_the_rest_exact", a_failure_after_a_drop),
        long_test("failures_around_a_drop_leave_the_rest_exact", failures_around_a_drop),
        test("a_dataflow_that_one_worker_drops_is_told", a_dataflow_that_one_worker_drops),
        test("the_clock_of_checkpoints_cannot_be_dropped", the_clock_is_dropped),
    ]
}

/// Two dataflows, of which the job drops the first.
pub(crate) fn twodf(place: &Path, config: Config) -> Result<(), Error> {
    let place = place.to_owned();
    ringfence::execute(config, move |worker| {
        let mut dataflows = Vec::new();
        let mut input = FencedInput::<u64, u64>::new("fed");
        let case = case();
        for (name, n) in [("dropped", 100_000), ("out", 1_500)] {
            dataflows.push(worker.next_dataflow_index());
            worker.dataflow::<u64, _, _>(|scope| {
                let numbers = drip(10, Duration::from_millis(10), move |share| {
                    (share.index..n).step_by(share.count as usize)
                });
                let mut numbers = numbers.to_stream_fenced(scope, &format!("numbers {name}"));
                if name == "dropped" {
                    numbers = numbers.concat(input.to_stream(scope));
                }
                let keyed = numbers.map(|n| (n % 100, n)).stateful_fenced(
                    &format!("counts {name}"),
                    |(key, _)| *key,
                    |at: &mut At<'_, u64, u64, u64>, event, out| {
                        if let Event::Record((_, n)) = event {
                            count(at.state, n, out);
                            // Whatever is left to do must not be done for a dataflow that is gone.
                            at.wake_at(u64::MAX);
                        } else if *at.state == 0 {
                            out.give((*at.key, 0));
                        }
                    },
                );
                keyed.sink_fenced(name, LineFiles::new(place.join(name)));
            });
        }
        if input.resume() == 0 {
            input.send_to(0, 7);
            input.advance_to(1);
        }
        let until = std::time::Instant::now() + Duration::from_millis(400);
        while case != "at once" && std::time::Instant::now() < until {
            worker.step();
        }
        let is_first = worker.fence().is_first_view();
        match case.as_str() {
            "one only" if worker.index() == 0 => {}
            "first only" if !is_first => {}
            // It was built before all of the job.
            "clock" => worker.drop_dataflow(0),
            _ => worker.drop_dataflow(dataflows[0]),
        }
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while case == "one only" && std::time::Instant::now() < until {
            worker.step_or_park(Some(Duration::from_millis(10)));
        }
    })?;
    Ok(())
}

/// Asserts that what is left of the dropped dataflow is a prefix: each count of a key once, from 1 on.
#[track_caller]
fn assert_prefix(place: &Path, ran: &Ran) {
    let mut counts = std::collections::BTreeMap::<u64, Vec<u64>>::new();
    // Before the first release there is nothing.
    let entries = std::fs::read_dir(place.join("dropped"));
    for entry in entries.into_iter().flatten() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let (key, count) = line.split_once('\t').unwrap();
            counts.entry(key.parse().unwrap()).or_default().push(count.parse().unwrap());
        }
    }
    for (key, mut counts) in counts {
        counts.sort_unstable();
        let expected: Vec<u64> = (1..=counts.len() as u64).collect();
        assert_eq!(counts, expected, "key {key}\n{ran}");
    }
}

fn a_dropped_dataflow() {
    let runs = [
        ("", "-w 2"),
        ("", "--local 2"),
        ("at once", "--local 2"),
        ("", "--local 2 --checkpoint-ms 100 --epoch-ms 20"),
    ];
    for (case, flags) in runs {
        let (place, ran) = end_of_case("twodf", case, flags);
        ran.assert_success();
        assert_eq!(lines(place.path()), counts(1_500), "{ran}");
        assert_prefix(place.path(), &ran);
        let says = "was dropped by the job at all workers";
        assert!(case == "at once" || ran.stderr.contains(says), "{ran}");
    }
}

fn a_failure_after_a_drop() {
    survives_a_drop(&[
        ("", "--local 3 --fault kill:1@800ms"),
        ("first only", "--local 2 -w 2 --fault panic:0@700ms"),
    ]);
}

fn failures_around_a_drop() {
    survives_a_drop(&[
        ("", "--local 2 -w 2 --fault panic:0@700ms"),
        ("first only", "--local 3 --fault kill:2@800ms"),
        ("at once", "--local 3 --fault kill:1@300ms"),
        // About when it is dropped, or before.
        ("", "--local 3 --fault kill:1@430ms"),
        ("", "--local 2 --fault panic:1@200ms"),
    ]);
}

fn survives_a_drop(runs: &[(&str, &str)]) {
    for (case, flags) in runs {
        let (place, ran) = end_of_case("twodf", case, flags);
        ran.assert_success();
        assert_eq!(lines(place.path()), counts(1_500), "{ran}");
        assert_prefix(place.path(), &ran);
        assert!(views(place.path()) > 1, "{ran}");
    }
}

fn a_dataflow_that_one_worker_drops() {
    let place = tempfile::tempdir().unwrap();
    let mut running = own::start_with("twodf", place.path(), "--local 2", |command| {
        command.env(CASE, "one only");
    });
    wait_until("a line that says so", || {
        assert!(!running.has_ended());
        let events = events(&place.path().join("report.json"));
        of_kind(&events, "message").any(|event| {
            let text = event["text"].as_str().unwrap_or_default();
            text.contains(
                "nothing more is committed before all workers of all nodes have dropped it",
            )
        })
    });
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.wait();
}

fn the_clock_is_dropped() {
    let (_place, ran) = end_of_case("twodf", "clock", "--local 2 --checkpoint-ms 200");
    ran.assert_failed(1, &["the dataflow that chooses checkpoints was dropped"]);
}
