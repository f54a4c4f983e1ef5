//! Strangers at the ports of a run.

use super::*;

/// What a stranger says at a node's port.
#[derive(Clone)]
pub(crate) struct Hello {
    run: String,
    job: String,
    node: u64,
    incarnation: u64,
    purpose: serde_json::Value,
    to_incarnation: Option<u64>,
}

impl Hello {
    fn bytes(&self, to_node: usize) -> Vec<u8> {
        let Hello { run, job, node, incarnation, purpose, to_incarnation } = self;
        let hello = serde_json::json!({
            "run": run, "job": job, "node": node, "incarnation": incarnation, "address": "a:1",
            "purpose": purpose, "to_node": to_node, "to_incarnation": to_incarnation,
        });
        let text = hello.to_string();
        let prefix = [&b"ringfnce\0\0\0\x01"[..], &(text.len() as u32).to_be_bytes()].concat();
        [prefix, text.into_bytes()].concat()
    }
}

/// Hellos of people who know nothing, who know the job, and who know the run.
pub(crate) fn hellos(job: &str, run: &str) -> Vec<Hello> {
    let data = |view: u64| serde_json::json!({"Data": {"view": view, "digest": "x"}});
    let evil = "evil\u{1b}[2J\nnode 0: error: all is lost";
    let stranger = Hello {
        run: "x".repeat(10),
        job: evil.to_owned(),
        node: 1,
        incarnation: 5,
        purpose: "Control".into(),
        to_incarnation: None,
    };
    let insider = Hello { job: job.to_owned(), run: run.to_owned(), ..stranger.clone() };
    vec![
        stranger.clone(),
        Hello { job: "y".repeat(60_000), ..stranger.clone() },
        Hello { purpose: evil.into(), ..stranger.clone() },
        Hello { run: evil.to_owned(), ..insider.clone() },
        Hello { run: String::new(), to_incarnation: Some(3), ..insider.clone() },
        insider.clone(),
        Hello { purpose: data(1), ..insider.clone() },
        Hello { purpose: data(2), ..insider.clone() },
        Hello { purpose: data(99), ..insider.clone() },
        Hello { node: 77, purpose: data(99), ..insider.clone() },
        Hello { node: 9, ..insider },
    ]
}

/// Says hello and returns the answer, if there is one.
pub(crate) fn say(address: &str, bytes: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(bytes).ok()?;
    let mut answer = Vec::new();
    // The node closes; a reset is a way to close.
    let _ = stream.read_to_end(&mut answer);
    Some(String::from_utf8_lossy(&answer).into_owned())
}

pub(crate) fn started_at(place: &Path) -> Vec<String> {
    let events = events(&place.join("report.json"));
    let started = of_kind(&events, "started");
    started.filter_map(|event| event["address"].as_str().map(str::to_owned)).collect()
}

pub(crate) fn a_flood_of_hellos_changes_nothing_and_is_a_few_lines() {
    const FLOOD: usize = 10_000;
    let place = place();
    let register = place.path().join("register");
    let running = slow(place.path(), &format!("--local 3 --register {}", register.display()));
    wait_until("for the first commits", || commits(place.path()) > 1);
    let addresses = started_at(place.path());
    assert_eq!(addresses.len(), 3);
    let record = fs::read_to_string(register.join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let (job, run) = (record["job"].as_str().unwrap(), record["run"].as_str().unwrap());
    let hellos = hellos(job, run);
    thread::scope(|scope| {
        for first in 0..4 {
            let (addresses, hellos) = (&addresses, &hellos);
            scope.spawn(move || {
                for n in (first..FLOOD).step_by(4) {
                    let node = n % 3;
                    let answer = say(&addresses[node], &hellos[n % hellos.len()].bytes(node));
                    let answer = answer.unwrap_or_default();
                    assert!(!answer.contains(job) && !answer.contains(run), "{answer}");
                    assert!(!answer.contains("lost") && !answer.contains("here"), "{answer}");
                }
            });
        }
    });
    let ran = finish(place.path(), running);
    let report = fs::read(place.path().join("report.json")).unwrap();
    let told = ran.stderr.len() + report.len();
    assert!(told < 1_000_000, "{told} bytes were told");
    for text in [&ran.stderr, &String::from_utf8(report).unwrap()] {
        assert!(!text.contains('\u{1b}') && !text.contains("all is lost"), "{text}");
    }
    let events = events(&place.path().join("report.json"));
    assert!(of_kind(&events, "view").all(|view| view["number"] == 1), "{ran}");
    let refused = |field: &str| {
        of_kind(&events, "refused").filter_map(|event| event[field].as_u64()).sum::<u64>()
    };
    let one_by_one = of_kind(&events, "refused").filter(|event| event["more"].is_null()).count();
    let counted = one_by_one as u64 + refused("more");
    assert!(counted > FLOOD as u64 * 9 / 10, "{counted} were counted\n{ran}");
}

/// Whoever knows the run and asks for the next view keeps no member from it.
pub(crate) fn hellos_for_the_next_view_keep_nobody_from_it() {
    let place = place();
    let register = place.path().join("register");
    let running = slow(place.path(), &format!("--local 3 --register {}", register.display()));
    wait_until("for the first commits", || commits(place.path()) > 1);
    let record = fs::read_to_string(register.join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let (job, run) = (record["job"].as_str().unwrap(), record["run"].as_str().unwrap());
    let hellos = hellos(job, run);
    let mut open = Vec::new();
    for (node, address) in started_at(place.path()).iter().enumerate() {
        for hello in hellos.iter().filter(|hello| hello.purpose != "Control").cycle().take(40) {
            for dialer in [1, 2] {
                let mut stream = TcpStream::connect(address).unwrap();
                let _ = stream.write_all(&Hello { node: dialer, ..hello.clone() }.bytes(node));
                open.push(stream);
            }
        }
    }
    kill_node(place.path(), 1, Signal::SIGKILL);
    wait_until("for the next view", || view(place.path()) >= 2);
    let ran = finish(place.path(), running);
    drop(open);
    let events = events(&place.path().join("report.json"));
    assert!(of_kind(&events, "view").all(|view| view["number"].as_u64() <= Some(2)), "{ran}");
}
