//! Strangers connect to the nodes' ports while a job runs: with random bytes, with nothing, with half
//! a hello, and many at once. What must be true: nothing changes for the job.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::{Place, Running, events, free_addresses, of_kind, wait_until};

const PASSES: u64 = 20;

/// Where the three nodes of a run listen.
fn addresses(place: &Place) -> Vec<String> {
    let events = place.events();
    let started = of_kind(&events, "started");
    let addresses: Vec<String> =
        started.filter_map(|event| event["address"].as_str().map(str::to_owned)).collect();
    assert_eq!(addresses.len(), 3);
    addresses
}

#[test]
fn strangers_change_nothing() {
    let place = Place::new(500_000, 1);
    let mut running = Running::start("word_count", &place.args("--local 3 --no-fault", PASSES));
    wait_until("for the first commits", || of_kind(&place.events(), "commit").count() > 1);
    let addresses = addresses(&place);

    let mut open = Vec::new();
    let noise: Vec<u8> = crate::support::text(4000, 9).into_bytes();
    let half_a_hello = b"ringfnce\0\0\0\x01\0\0\x10\0{\"run\":";
    let too_long = b"ringfnce\0\0\0\x01\xff\xff\xff\xff";
    let other_version = b"ringfnce\0\0\0\x09\0\0\0\x02{}";
    for address in &addresses {
        for bytes in
            [&noise[..], b"", half_a_hello, too_long, other_version, b"GET / HTTP/1.1\r\n\r\n"]
        {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
            // The node may hang up before all is written.
            let _ = stream.write_all(bytes);
            open.push(stream);
        }
        // More at once than a node lets in.
        for _ in 0..100 {
            open.extend(TcpStream::connect(address));
        }
    }
    assert!(!running.has_ended(), "the job ended before the strangers came");
    let ran = running.wait();
    ran.assert_success();
    ran.assert_no_panic();
    place.assert_exact(PASSES);
    let events = place.events();
    assert!(events.iter().all(|event| event["number"].as_u64() <= Some(1)), "{ran}");
    assert!(of_kind(&events, "refused").count() > 0, "nobody was refused\n{ran}");
}

/// A node dies while silent strangers hold every place for a handshake at the others.
#[test]
fn silent_strangers_exclude_no_survivor() {
    let place = Place::new(500_000, 2);
    let running = Running::start("word_count", &place.args("--local 3 --fault kill:1@30%", PASSES));
    wait_until("for the first commits", || of_kind(&place.events(), "commit").count() > 1);
    let addresses = addresses(&place);
    let mut open = Vec::new();
    // Always there before the failure, and still there right after it.
    wait_until("for the kill", || {
        for address in &addresses {
            open.extend((0..20).map_while(|_| TcpStream::connect(address).ok()));
        }
        open.drain(..open.len().saturating_sub(600));
        thread::sleep(Duration::from_millis(20));
        of_kind(&place.events(), "fault").count() > 0
    });
    let ran = running.wait();
    drop(open);
    ran.assert_no_panic();
    place.assert_survived(&ran, PASSES);
    let events = place.events();
    let has_all = |view: &serde_json::Value| {
        let members = view["members"].as_array().unwrap();
        [0, 2].iter().all(|node| members.contains(&serde_json::json!(node)))
    };
    assert!(of_kind(&events, "view").all(has_all), "{ran}");
}

/// Two of three nodes are up and wait for the third; strangers come first.
#[test]
fn strangers_at_the_door_of_a_forming_cluster_are_no_members() {
    let place = Place::new(300_000, 3);
    let (hosts, addresses) = (place.path("hosts"), free_addresses(3));
    fs::write(&hosts, addresses.join("\n")).unwrap();
    let report = |process: usize| place.path(&format!("report-{process}.json"));
    let start = |process: usize| {
        let mut args = place.args(&format!("-n 3 -p {process} -h {}", hosts.display()), 4);
        args.retain(|arg| !arg.starts_with("--report"));
        args.insert(0, format!("--report={}", report(process).display()));
        Running::start("word_count", &args)
    };
    let mut running = vec![start(0), start(1)];
    let started = |process: usize| of_kind(&events(&report(process)), "started").count() > 0;
    wait_until("for two nodes", || started(0) && started(1));
    let mut open = Vec::new();
    for address in &addresses[..2] {
        for bytes in [&b"ringfnce\0\0\0\x01\0\0\x10\0{"[..], b"\xff\xfe\xfd", b""] {
            for _ in 0..30 {
                wait_until("for the listener", || match TcpStream::connect(address) {
                    Ok(mut stream) => {
                        // The node may hang up before all is written.
                        let _ = stream.write_all(bytes);
                        open.push(stream);
                        true
                    }
                    Err(_) => false,
                });
            }
        }
    }
    running.push(start(2));
    for running in running {
        let ran = running.wait();
        ran.assert_success();
        ran.assert_no_panic();
    }
    place.assert_exact(4);
    for process in 0..3 {
        assert!(events(&report(process)).iter().all(|e| e["number"].as_u64() <= Some(1)));
    }
}
