//! Launchers whose nodes behave in all kinds of ways.

use std::thread;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use ringfence_operators::hash::KeyHasher;
use ringfence_operators::ids::{Epoch, ViewNumber};

use super::super::channel::{FromLauncher, Supervision};
use super::*;
use crate::report::Event;

/// What a node of these tests does; it stands as an argument that the test harness takes for
/// the name of one more test.
const BEHAVIOUR: &str = "behave:";

fn behaviour() -> Option<String> {
    std::env::args().find_map(|arg| arg.strip_prefix(BEHAVIOUR).map(str::to_owned))
}

fn launched(config: &Config) -> Result<Summary> {
    run(config, None).map(|(summary, _failures)| summary)
}

/// Not a test but the node of the other tests, which start this very executable again.
#[test]
fn a_node() {
    let Some(behaviour) = behaviour() else { return };
    let supervision = Supervision::from_env().unwrap().expect("started by a launcher");
    let node = supervision.node();
    let tell = |what| supervision.event(Event::now(node, what)).unwrap();
    if behaviour == "mute" {
        thread::sleep(Duration::from_secs(60));
    }
    if behaviour == "early" && node.0 == 1 {
        eprintln!("no such file: a.txt");
        std::process::exit(3);
    }
    if behaviour == "elsewhere" && node.0 == 1 {
        std::process::exit(0);
    }
    let (sender, told) = bounded(16);
    supervision.listen(move |told| drop(sender.send(told))).unwrap();
    supervision.hello(format!("127.0.0.1:{}", 9000 + node.0)).unwrap();
    let FromLauncher::Message(ToNode::Start(start)) = told.recv().unwrap() else {
        panic!("no start");
    };
    assert_eq!(start.peers[1], (NodeId(1), "127.0.0.1:9001".to_owned()));
    assert!(start.register.is_dir());
    let started = What::Started {
        process_id: std::process::id(),
        workers: 1,
        address: None,
        key_hash: KeyHasher::default(),
    };
    tell(started);
    match (behaviour.as_str(), node.0) {
        ("finish", _) => println!("out of {node}"),
        ("killed", 1) => {
            tell(What::Commit { view: ViewNumber(1), epoch: Epoch(0) });
            thread::sleep(Duration::from_secs(60));
        }
        ("panicked", 1) => {
            tell(What::Progress { consumed: 50, total: 100, records: 5 });
            let fault = told.recv_timeout(Duration::from_secs(60)).unwrap();
            assert_eq!(fault, FromLauncher::Message(ToNode::Fault(FaultKind::Panic)));
        }
        ("fails", 1) => {
            std::fs::write(start.register.join("1"), "a view").unwrap();
            let message = "sink out/totals: disk full".to_owned();
            tell(What::Error { message, excluded: false });
            std::process::exit(1);
        }
        ("dies early", 1) => kill(Pid::this(), Signal::SIGKILL).unwrap(),
        ("dies early", _) => thread::sleep(Duration::from_secs(60)),
        ("all killed", _) => {
            tell(What::Commit { view: ViewNumber(1), epoch: Epoch(0) });
            thread::sleep(Duration::from_secs(60));
        }
        _ => {}
    }
    tell(What::Finished { records: 10, consumed: 50, commits: 1 });
    std::process::exit(0);
}

fn config(behaviour: &str) -> Config {
    let name = "runtime::launcher::tests::a_node";
    let args = [name, "--exact", "--nocapture", &format!("{BEHAVIOUR}{behaviour}")];
    Config::local(2).node_args(args.map(String::from))
}

#[test]
fn a_run_whose_nodes_finish_succeeds_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let config = config("finish").report(&path).fault("kill:1@90%").unwrap();
    let summary = launched(&config).unwrap();
    assert_eq!((summary.finished().len(), summary.records()), (2, 20));
    assert_eq!(summary.faults_unfired().len(), 1);
    let text = std::fs::read_to_string(path).unwrap();
    let events: Vec<Event> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let started = events.iter().filter(|e| matches!(e.what, What::Started { .. })).count();
    assert_eq!(started, 2, "{text}");
}

#[test]
fn a_killed_node_does_not_spoil_the_run() {
    let begin = Instant::now();
    let summary = launched(&config("killed").fault("kill:1@20ms").unwrap()).unwrap();
    assert_eq!(summary.finished(), [NodeId(0)]);
    assert_eq!(summary.faults().len(), 1);
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_panic_is_passed_on_to_its_node() {
    let summary = launched(&config("panicked").fault("panic:1@50%").unwrap()).unwrap();
    assert_eq!((summary.faults().len(), summary.finished().len()), (1, 2));
}

#[test]
fn a_failed_node_is_named_with_its_error_and_the_register_is_kept() {
    let error = launched(&config("fails")).unwrap_err().to_string();
    let expected = "node 1 ended with exit code 1: sink out/totals: disk full";
    assert!(error.starts_with(expected), "{error}");
    let kept = error.split("the register is kept in ").nth(1).unwrap();
    assert!(std::path::Path::new(kept).join("1").exists());
    std::fs::remove_dir_all(kept).unwrap();
}

#[test]
fn a_run_without_a_node_that_finished_has_failed() {
    let config = config("all killed").fault("kill:0@1ms").unwrap();
    let error = launched(&config.fault("kill:1@1ms").unwrap()).unwrap_err().to_string();
    assert!(error.contains("no node finished: node 0 was ended by SIGKILL"), "{error}");
}

#[test]
fn a_node_that_ends_before_the_start_ends_the_run() {
    let error = launched(&config("early")).unwrap_err().to_string();
    assert!(error.contains("node 1 ended with exit code 3: no such file: a.txt"), "{error}");
    assert!(error.contains("before all nodes were up"), "{error}");
    // A program that comes to another job, or to none, ends well.
    let error = launched(&config("elsewhere")).unwrap_err().to_string();
    assert!(error.contains("its arguments must lead it to the same call of execute"), "{error}");
}

#[test]
fn a_node_that_dies_before_the_first_view_ends_the_run_at_once() {
    let begin = Instant::now();
    let error = launched(&config("dies early")).unwrap_err().to_string();
    assert!(error.starts_with("node 1 was ended by SIGKILL before the first view"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn nodes_that_never_say_hello_are_named() {
    let error = launched(&config("mute").connect_timeout(Duration::from_millis(500))).unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.to_string().contains("nodes 0, 1"), "{error}");
}
