//! Three processes are started by hand, as in three terminals; one is killed from outside, or never
//! comes. What must still be true: the others finish, and the output is exact.

use std::fs;

use crate::support::cluster::Cluster;
use crate::support::{Place, events, free_addresses, of_kind};

const PASSES: u64 = 8;

#[test]
fn one_of_three_may_be_killed_from_outside() {
    for (victim, flags) in [(0, ""), (1, ""), (2, "-w 2")] {
        let mut cluster = Cluster::start(flags, PASSES, victim as u64);
        cluster.kill_after(victim, 2);
        let (place, ran) = cluster.wait();
        for (process, ran) in ran.iter().enumerate().filter(|(process, _)| *process != victim) {
            ran.assert_success();
            ran.assert_no_panic();
            let events = events(&place.path(&format!("report-{process}.json")));
            assert!(of_kind(&events, "recovered").count() > 0, "{ran}");
        }
        place.assert_exact(PASSES);
    }
}

#[test]
fn a_register_may_be_named() {
    let place = Place::new(1000, 1);
    let register = place.path("register");
    let mut cluster = Cluster::start(&format!("--register {}", register.display()), PASSES, 4);
    cluster.kill_after(1, 2);
    let (place, ran) = cluster.wait();
    ran[0].assert_success();
    ran[2].assert_success();
    place.assert_exact(PASSES);
    assert!(register.join("done.json").exists());
    assert!(register.join("views").read_dir().unwrap().count() >= 2);
}

#[test]
fn a_node_that_never_comes_is_named() {
    let place = Place::new(1000, 1);
    let hosts = place.path("hosts");
    fs::write(&hosts, free_addresses(3).join("\n")).unwrap();
    let flags = format!("-n 3 -p 0 -h {} --connect-timeout-ms 300", hosts.display());
    let ran = place.word_count(&flags, 1);
    ran.assert_failed(1, &["nodes 1, 2 did not connect within 300 ms"]);
}
