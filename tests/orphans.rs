//! Nodes do not outlive their launcher, whichever way it ends.
//!
//! The launcher is killed, terminated or interrupted while its nodes are at work. Both nodes must be
//! gone soon after; and where the launcher had time to clean up, it must have ended with an error
//! and left no register behind.
//!
//! This executable is the test, the launcher and the nodes, by its arguments.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfence::Config;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["linger", path] => linger(path.to_owned()),
        _ => {
            for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT] {
                nodes_do_not_outlive_a_launcher_ended_by(signal);
                println!("test nodes_do_not_outlive_a_launcher_ended_by {signal} ... ok");
            }
        }
    }
}

/// The launcher, and each of its nodes: a job that does not end by itself.
///
/// The test sees the end of a node's connection when its process ends.
fn linger(path: String) {
    let config = Config::local(2).node_args(["linger".to_owned(), path.clone()]);
    let result = ringfence::execute(config, move |_worker| {
        let _alive = UnixStream::connect(&path).expect("the test listens");
        std::thread::sleep(Duration::from_secs(60));
    });
    let error = result.expect_err("the nodes do not end by themselves");
    assert!(error.to_string().starts_with("interrupted by SIG"), "{error}");
    exit(error.exit_code());
}

fn nodes_do_not_outlive_a_launcher_ended_by(signal: Signal) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("alive");
    let listener = UnixListener::bind(&path).expect("a socket");
    let mut launcher = Command::new(std::env::current_exe().expect("this executable"))
        .args([Path::new("linger"), &path])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("a launcher");
    let nodes: Vec<UnixStream> = (0..2).map(|_| listener.accept().expect("a node").0).collect();

    kill(Pid::from_raw(launcher.id() as i32), signal).expect("the launcher lives");
    for mut node in nodes {
        node.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        assert_eq!(node.read(&mut [0]).expect("the node's end"), 0);
    }
    let status = launcher.wait().expect("the launcher's end");
    let left = std::fs::read_dir(dir.path()).expect("the directory").count();
    if signal == Signal::SIGKILL {
        assert_eq!(status.code(), None);
    } else {
        assert_eq!((status.code(), left), (Some(130), 1), "{signal}: only the socket is left");
    }
}
