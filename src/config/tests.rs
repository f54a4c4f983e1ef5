//! Flags and settings, right and wrong ones.

use std::path::Path;

use super::flags::command;
use super::*;
use crate::error::Kind;

fn parse(line: &str) -> Result<(Config, Vec<String>)> {
    Config::from_args(std::iter::once("job").chain(line.split_whitespace()).map(String::from))
}

fn parsed(line: &str) -> Config {
    parse(line).unwrap().0
}

#[test]
fn no_flags_is_one_process_with_one_worker() {
    let config = parsed("");
    assert_eq!(config.mode(), Mode::Single);
    assert_eq!((config.worker_count(), config.backup_count()), (1, 1));
    assert_eq!((config.partitions, config.in_flight_epochs_max), (256, 4));
    assert_eq!(config.epoch_interval, Duration::from_millis(100));
    assert_eq!(config.connect_limit, Duration::from_secs(30));
}

#[test]
fn timely_flags_mean_what_timely_means() {
    let config = parsed("-w4 --processes 3 -p 1");
    let addresses = (2101..2104).map(|port| format!("localhost:{port}")).collect();
    assert_eq!(config.mode(), Mode::Member { process: 1, addresses });
    assert_eq!(config.worker_count(), 4);
    assert_eq!(parsed("-n 1").mode(), Mode::Single);
    let timely = "--progress-mode eager --idle-spin 7";
    assert!(format!("{:?}", parsed(timely).worker_config()).contains("Eager"));
}

#[test]
fn a_hostfile_names_the_processes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# ours\nalpha:1\n\n beta:2 # the big one\n").unwrap();
    let path = file.path().display();
    let Mode::Member { addresses, .. } = parsed(&format!("-n 2 -p 0 -h {path}")).mode() else {
        panic!("not a member");
    };
    assert_eq!(addresses, ["alpha:1", "beta:2"]);
    for (flags, text) in [
        ("-n 3 -p 0", "has 2 addresses, but -n asks for 3"),
        ("-n 1 -p 0", "has 2 addresses, but -n asks for 1"),
        ("", "has 2 addresses, but there is no -n: add -n 2"),
        ("-p 1", "has 2 addresses, but there is no -n: add -n 2"),
    ] {
        let error = parse(&format!("{flags} -h {path}")).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(text), "{flags}: {error}");
    }
    let twice = |one: &str, other: &str| {
        std::fs::write(file.path(), format!("{one}\n{other}\n")).unwrap();
        parse(&format!("-n 2 -p 0 -h {path}")).unwrap_err().to_string()
    };
    assert!(twice("alpha:1", "alpha:1").contains("alpha:1 is listed twice"));
    for other in ["127.0.0.1:7", "[::1]:7", "LOCALHOST:7", "localhost.:7"] {
        let told = twice("localhost:7", other);
        assert!(
            told.contains(&format!("addresses localhost:7 and {other} are the same")),
            "{told}"
        );
    }
    std::fs::write(file.path(), "alpha:1\nbeta\n").unwrap();
    let error = parse(&format!("-n 2 -p 0 -h {path}")).unwrap_err();
    assert!(error.to_string().contains("\"beta\" is not an address"), "{error}");
}

#[test]
fn all_our_own_flags_are_read() {
    let config = parsed(
        "--local 3 --backups 2 --epoch-ms 20 --checkpoint-ms 500 --register /r --report=/e.jsonl --fault kill:1@2s \
         --fault panic:0@40% --fault cut:1@2s+1s --fault random:7@1s --partitions 7 \
         --in-flight-epochs 9 --connect-timeout-ms 5 --suspect-ms 900 --hang-ms 1000 \
         --refill-mb-per-second 3 --restarts 3/9 --quarantine /q --key-hash sha1",
    );
    assert_eq!(config.mode_given(None), Mode::Local(3));
    assert_eq!(config.mode_given(Some("2")), Mode::Child { node: 2, nodes: 3 });
    assert_eq!(config.mode_given(Some("3")), Mode::Local(3));
    assert_eq!((config.backup_count(), config.partitions), (2, 7));
    assert_eq!(config.register.as_deref(), Some(Path::new("/r")));
    assert_eq!(config.report.as_deref(), Some(Path::new("/e.jsonl")));
    assert_eq!(config.faults.len(), 3);
    assert_eq!(config.random_faults.map(|random| random.seed), Some(7));
    assert_eq!(config.in_flight_epochs_max, 9);
    assert_eq!(config.checkpoint_interval, Some(Duration::from_millis(500)));
    assert_eq!(config.restarts, (3, Duration::from_secs(9)));
    assert_eq!((config.key_hash, parsed("").key_hash), (KeyHasher::Sha1, KeyHasher::Rapid));
    assert_eq!(config.quarantine.as_deref(), Some(Path::new("/q")));
    assert_eq!(config.suspect_limit, Duration::from_millis(900));
    assert_eq!(config.hang_limit, Duration::from_secs(1));
    assert_eq!(config.refill_bytes_per_second, 3_000_000);
}

#[test]
fn what_is_no_flag_is_free() {
    let (_, free) = parse("a -w 2 b -- -x --local").unwrap();
    assert_eq!(free, ["a", "b", "-x", "--local"]);
}

#[test]
fn what_is_wrong_is_named_and_exits_with_2() {
    for (line, text) in [
        ("--lokal 3", "--lokal"),
        ("-w", "--threads"),
        ("-w x", "'x'"),
        ("-w 0", "-w 0"),
        ("-w -1", "-1"),
        ("-n 3", "-n 3 needs -p"),
        ("-n 3 -p 3", "-p 3 is not one of 3"),
        ("-n 1 -p 1", "-p 1 is not one of 1 process:"),
        ("-p 0", "-p 0 needs -n"),
        ("-n 0", "-n 0: expected 1 to 1024"),
        ("-n 0 -p 0", "-n 0: expected 1 to 1024"),
        ("-n 4000000000 -p 0", "expected 1 to 1024"),
        ("-n 99999999999999999999 -p 0", "99999999999999999999"),
        ("-n 2 -n 3 -p 0", "--processes"),
        ("-h", "-h is timely's flag for a hostfile"),
        ("-n 2 -p 0 -h", "-h is timely's flag for a hostfile"),
        ("-h /does/not/exist", "cannot read hostfile /does/not/exist"),
        ("-w 100000", "-w 100000: expected at most 1024"),
        ("-w 2 -w 3", "--threads"),
        ("--local 1000000", "--local 1000000: expected 1 to 1024"),
        ("--epoch-ms 99999999999999", "--epoch-ms: expected at most 365 days"),
        ("--connect-timeout-ms 18446744073709551615", "--connect-timeout-ms: expected at most"),
        ("--restarts 1/18446744073709551615", "--restarts: expected at most"),
        ("--local 3 -n 2", "--local"),
        ("--local 3 -p 0", "--process"),
        ("--local 0", "--local 0"),
        ("--local 3 --local 4", "--local"),
        ("--local 3 --backups 3", "3 nodes have room for 2"),
        ("--backups 2", "one node with 1 worker has room for 1"),
        ("--epoch-ms 0", "--epoch-ms"),
        ("--checkpoint-ms 0", "--checkpoint-ms"),
        ("--epoch-ms 200 --checkpoint-ms 100", "lower --epoch-ms too"),
        ("--suspect-ms 49", "--suspect-ms 49: expected at least 50"),
        ("--hang-ms 400", "--hang-ms 400: expected at least --suspect-ms"),
        ("--partitions 65537", "--partitions"),
        ("--fault kill", "\"kill\""),
        ("--local 2 --fault kill:2@1s", "there is no node 2, only 0 to 1"),
        ("--fault kill:0@1s", "needs --local"),
        ("--fault stop:0@1s+1s", "needs --local"),
        ("-n 2 -p 0 --fault cut:1@1s+1s", "only the launcher stands between nodes"),
        ("-n 2 -p 0 --fault slow:0@1s+1s", "needs --local"),
        ("-n 2 -p 0 --fault random:7@1s", "needs --local"),
        ("--local 3 --fault random:7", "no @EVERY"),
        ("--local 3 --fault random:7@1s --fault random:8@1s", "one random schedule is enough"),
        ("--local 3 --fault stop:1@1s", "no +FOR"),
        ("--local 3 --fault cut:3@1s+1s", "there is no node 3"),
        ("--progress-mode lazy", "lazy"),
        ("--restarts 3", "NUM/SECONDS"),
        ("--restarts 3/x", "NUM/SECONDS"),
        ("--restarts 3/0", "one second"),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
        assert!(error.to_string().contains(text), "{line}: {error}");
        assert!(!error.to_string().contains('\n'), "{line}: {error}");
    }
}

#[test]
fn backups_are_clipped_only_by_default() {
    assert_eq!(parsed("--local 3").backup_count(), 1);
    assert_eq!(parsed("--local 1").backup_count(), 1);
    assert_eq!(parsed("-w 3").backup_count(), 1);
    assert_eq!(parsed("--local 3 --backups 0").backup_count(), 0);
}

/// Timely's programs read arguments of their own first and give the rest: the name is gone.
#[test]
fn a_flag_may_come_first() {
    let skipped = |line: &str| {
        let args = line.split_whitespace().map(String::from).collect::<Vec<_>>();
        Config::from_args(args).map(|(config, free)| (config.node_count(), free))
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(skipped("--local 3").unwrap(), (3, words(&[])));
    assert_eq!(skipped("-n 2 -p 1 in.txt").unwrap(), (2, words(&["in.txt"])));
    assert_eq!(skipped("-w2").unwrap().0, 1);
    assert_eq!(skipped("job --local 3 in.txt").unwrap(), (3, words(&["in.txt"])));
    assert_eq!(skipped("").unwrap(), (1, words(&[])));
    assert_eq!(skipped("-- in.txt").unwrap(), (1, words(&["in.txt"])));
    assert!(skipped("--lokal 3").unwrap_err().to_string().contains("--lokal"));
}

#[test]
fn the_version_can_be_asked_for() {
    let error = parse("--version").unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (Kind::Help, 0));
    assert_eq!(error.to_string(), format!("job with ringfence {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_lists_every_flag() {
    let error = parse("--help").unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (Kind::Help, 0));
    let help = Config::help("/usr/bin/job", "This line is the job's own.");
    for argument in command("job").get_arguments().filter_map(|a| a.get_long()) {
        assert!(help.contains(&format!("--{argument}")), "{argument} is missing in {help}");
    }
    assert!(help.contains("Usage: job ") && help.contains("the job's own"), "{help}");
}
