//! Everything that can be wrong from outside: files, flags, directories, registers, clusters. What
//! must be true each time: a clear error that names the thing, a non-zero exit, soon, without a panic,
//! and nothing left that a later run would take for output.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::support::{Place, Ran, Running, free_addresses};
use ringfence::prelude::*;
use ringfence::{Config, Kind};

fn run(args: &[String]) -> Ran {
    Running::start("word_count", args).wait()
}

fn files(directory: &Path) -> usize {
    directory.read_dir().map_or(0, |entries| entries.count())
}

#[test]
fn an_input_that_cannot_be_read_is_named() {
    let mut place = Place::new(1000, 1);
    place.input = place.path("missing.txt");
    place.word_count("--local 3", 1).assert_failed(1, &["missing.txt"]);
    place.input = place.directory.path().to_owned();
    place.word_count("-w 2", 1).assert_failed(1, &[&place.input.display().to_string()]);
    assert_eq!(files(&place.out().join("totals")), 0);
}

#[test]
fn a_source_names_its_file_too() {
    let result = ringfence::execute(Config::single().workers(2), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            TextFiles::new(["/nonexistent/a.txt"]).to_stream_fenced(scope, "lines").fold_fenced(
                "n",
                |_| 0u8,
                0u64,
                |n, _line: String, _: &mut Give<'_, ()>| *n += 1,
            );
        });
    });
    let error = result.expect_err("the file is not there");
    assert_eq!(error.kind(), Kind::Input);
    let text = error.to_string();
    assert!(text.contains("source \"lines\"") && text.contains("/nonexistent/a.txt"), "{text}");
}

#[test]
fn an_output_that_is_there_already_is_kept() {
    let place = Place::new(1000, 2);
    let totals = place.out().join("totals");
    fs::create_dir_all(&totals).unwrap();
    fs::write(totals.join("precious"), "kept").unwrap();
    for flags in ["--local 3", "-w 2"] {
        place.word_count(flags, 1).assert_failed(1, &["totals", "not empty"]);
        assert_eq!(files(&totals), 1);
        assert_eq!(fs::read_to_string(totals.join("precious")).unwrap(), "kept");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new(1000, 3);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let hosts = place.path("hosts");
    fs::write(&hosts, format!("{address}\n{}\n", free_addresses(1)[0])).unwrap();
    let ran = place.word_count(&format!("-n 2 -p 0 -h {}", hosts.display()), 1);
    ran.assert_failed(1, &[&format!("cannot listen on {address}")]);
}

#[test]
fn a_register_that_is_none_is_named() {
    let place = Place::new(1000, 4);
    let file = place.path("file");
    fs::write(&file, "no directory").unwrap();
    for register in [file.clone(), file.join("below")] {
        let ran = place.word_count(&format!("--local 2 --register {}", register.display()), 1);
        ran.assert_failed(1, &[&register.display().to_string()]);
    }
    assert_eq!(files(&place.out().join("totals")), 0);
}

#[test]
fn garbage_in_a_register_is_named_and_kept() {
    for name in ["run.json", "views/00000001.json"] {
        let place = Place::new(1000, 5);
        let register = place.path("register");
        fs::create_dir_all(register.join("views")).unwrap();
        fs::write(register.join(name), "{ garbage").unwrap();
        let ran = place.word_count(&format!("--local 2 --register {}", register.display()), 1);
        assert!(!ran.status.success(), "{ran}");
        ran.assert_no_panic();
        assert!(ran.stderr.contains(name), "{ran}");
        assert_eq!(fs::read_to_string(register.join(name)).unwrap(), "{ garbage");
        assert_eq!(files(&place.out().join("totals")), 0);
    }
}

#[test]
fn a_register_serves_one_run_of_one_job() {
    let place = Place::new(1000, 6);
    let register = place.path("register");
    let flags = format!("-w 2 --register {}", register.display());
    place.word_count(&flags, 1).assert_success();
    place.assert_exact(1);
    fs::remove_dir_all(place.out()).unwrap();
    place.word_count(&flags, 1).assert_failed(1, &["done already", "fresh register"]);
    place.word_count(&flags, 2).assert_failed(1, &["fresh register"]);
}

#[test]
fn wrong_flags_exit_with_2() {
    let place = Place::new(1000, 7);
    for (flags, text) in [
        ("--local 3 --backups 3", "--backups 3"),
        ("--local 3 --wrong", "--wrong"),
        ("--local three", "three"),
        ("-n 3", "-p"),
        ("--local 3 --fault kill:7@1s", "node 7"),
        ("--local 3 --fault kill:1", "kill:1"),
        ("--epoch-ms 0", "--epoch-ms"),
        ("-n 2 -p 0 -h /nonexistent/hosts", "/nonexistent/hosts"),
    ] {
        let ran = place.word_count(flags, 1);
        assert!(ran.status.code() == Some(2) || flags.contains("hosts"), "{flags}: {ran}");
        assert!(!ran.status.success() && ran.stderr.contains(text), "{flags}: {ran}");
        ran.assert_no_panic();
    }
    let help = run(&["--help".to_owned()]);
    help.assert_success();
    for flag in ["--local", "--backups", "--epoch-ms", "--register", "--report", "--fault", "-w"] {
        assert!(help.stdout.contains(flag), "{flag} is not in the help\n{help}");
    }
}

/// Two of three nodes die at once, and with them all copies of some partitions.
#[test]
fn a_run_that_lost_all_copies_stops_and_says_which() {
    let place = Place::new(500_000, 8);
    let ran = place.word_count("--local 3 --fault kill:0@500ms --fault kill:1@500ms", 30);
    ran.assert_failed(1, &["the state of partitions", "counts", "nodes 0, 1"]);
    // Nobody can take the output for a whole one.
    assert!(place.out().join("totals/.ringfence-unfinished").exists(), "{ran}");
    let again = place.word_count("--local 3 --no-fault", 30);
    again.assert_failed(1, &["unfinished run"]);
}

#[test]
fn a_name_may_be_used_once() {
    let result = ringfence::execute(Config::single(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            for _ in 0..2 {
                per_share(|share| std::iter::once(share.index)).to_stream_fenced(scope, "same");
            }
        });
    });
    let error = result.expect_err("the name is used twice").to_string();
    assert!(error.contains("two protected operators are named \"same\""), "{error}");
}

#[test]
fn a_job_without_protection_is_refused() {
    let result = ringfence::execute(Config::single(), |worker| {
        worker.dataflow::<u64, _, _>(|scope| {
            (0..3u64).to_stream(scope).container::<Vec<_>>();
        });
    });
    let error = result.expect_err("nothing is protected").to_string();
    assert!(error.contains("no protected operator"), "{error}");
}

#[test]
fn records_must_come_from_protected_sources_after_a_failure() {
    // The first generation panics once; the second gets records again that are committed.
    let panics = std::sync::atomic::AtomicBool::new(true);
    let result = ringfence::execute(Config::single(), move |worker| {
        let panics = panics.swap(false, std::sync::atomic::Ordering::SeqCst);
        worker.dataflow::<u64, _, _>(|scope| {
            let fed = per_share(move |_| {
                (0..4000u64).inspect(move |n| {
                    std::thread::sleep(std::time::Duration::from_micros(200));
                    assert!(!(panics && *n == 3500), "on purpose");
                })
            });
            let repeated = scope.vouched(|scope| (0..3u64).to_stream(scope).container::<Vec<_>>());
            fed.to_stream_fenced(scope, "fed").concat(repeated).fold_fenced(
                "n",
                |_| 0u8,
                0u64,
                |n, _, _: &mut Give<'_, ()>| *n += 1,
            );
        });
    });
    let error = result.expect_err("epoch 0 is committed").to_string();
    assert!(error.contains("\"n\" received a record of epoch 0"), "{error}");
}
