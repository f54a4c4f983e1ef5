//! Strangers connect to the nodes' ports while a job runs: with random bytes, with nothing, with half
//! a hello, and many at once. What must be true: nothing changes for the job.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use support::{Place, Running, of_kind, wait_until};

const PASSES: u64 = 20;

#[test]
fn strangers_change_nothing() {
    let place = Place::new(500_000, 1);
    let mut running = Running::start("word_count", &place.args("--local 3 --no-fault", PASSES));
    let addresses = || -> Vec<String> {
        let events = place.events();
        let started = of_kind(&events, "started");
        started.filter_map(|event| event["address"].as_str().map(str::to_owned)).collect()
    };
    wait_until("for the first commits", || of_kind(&place.events(), "commit").count() > 1);
    let addresses = addresses();
    assert_eq!(addresses.len(), 3);

    let mut open = Vec::new();
    let noise: Vec<u8> = support::text(4000, 9).into_bytes();
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
