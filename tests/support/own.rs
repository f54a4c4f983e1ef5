//! A test executable that is its own launcher and its own nodes.
//!
//! `main` of such a test calls [`main`] with its jobs and its tests. A test starts this same executable
//! again with [`start`]: the environment names the job, the arguments are the flags, and all processes
//! that the launcher starts inherit both.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use libtest_mimic::{Arguments, Failed, Trial};
use ringfence::{Config, Error};

use super::Running;

const JOB: &str = "RINGFENCE_TEST_JOB";
const PLACE: &str = "RINGFENCE_TEST_PLACE";

/// A job: it is given the place in which to read and write, and its command line.
pub type Job = fn(&Path, Config) -> Result<(), Error>;

/// A test, by its name; those that take long run only with `--ignored`.
pub struct Test {
    pub name: &'static str,
    pub run: fn(),
    pub takes_long: bool,
}

/// What one module brings: jobs, whose names nobody else has, and the tests that start them.
pub struct Part {
    pub name: &'static str,
    pub jobs: &'static [(&'static str, Job)],
    pub tests: Vec<Test>,
}

/// Names tests after their functions.
#[allow(unused_macros, reason = "not every test names its tests by it")]
macro_rules! tests {
    ($($kind:ident $name:ident,)*) => { vec![$($kind(stringify!($name), $name)),*] };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use tests;

/// A test that runs always.
pub const fn test(name: &'static str, run: fn()) -> Test {
    Test { name, run, takes_long: false }
}

/// A test that runs with `--ignored` only.
pub const fn long_test(name: &'static str, run: fn()) -> Test {
    Test { name, run, takes_long: true }
}

/// Runs the job that the environment names or, where it names none, the tests.
pub fn main(parts: Vec<Part>) -> ! {
    let jobs: Vec<_> = parts.iter().flat_map(|part| part.jobs).collect();
    if let Ok(name) = std::env::var(JOB) {
        let known: Vec<_> = jobs.iter().filter(|(known, _)| *known == name).collect();
        let [(_, job)] = known[..] else { panic!("{} jobs have the name {name:?}", known.len()) };
        let place = PathBuf::from(std::env::var_os(PLACE).expect("a place"));
        let result = Config::from_args(std::env::args());
        let result = result.map(|(config, _)| config.report(place.join("report.json")));
        if let Err(error) = result.and_then(|config| job(&place, config)) {
            eprintln!("error: {error}");
            exit(error.exit_code());
        }
        exit(0);
    }
    let trial = |part: &str, test: Test| {
        let run = test.run;
        let trial = Trial::test(format!("{part}::{}", test.name), move || run_caught(run));
        trial.with_ignored_flag(test.takes_long)
    };
    let of_part = |part: Part| part.tests.into_iter().map(move |test| trial(part.name, test));
    libtest_mimic::run(&Arguments::from_args(), parts.into_iter().flat_map(of_part).collect())
        .exit()
}

fn run_caught(run: fn()) -> Result<(), Failed> {
    std::panic::catch_unwind(run).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Failed::from(text.unwrap_or_else(|| "it panicked".to_owned()))
    })
}

/// Starts this executable as the launcher, member or only process of a job.
pub fn start(job: &str, place: &Path, flags: &str) -> Running {
    start_with(job, place, flags, |_| {})
}

/// The same, with more to say about the process: its environment, its current directory.
pub fn start_with(
    job: &str,
    place: &Path,
    flags: &str,
    more: impl FnOnce(&mut Command),
) -> Running {
    let mut command = command(job, place, flags);
    more(&mut command);
    Running::spawn(&mut command)
}

/// The command that starts this executable so.
pub fn command(job: &str, place: &Path, flags: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this executable"));
    command.args(flags.split_whitespace()).env(JOB, job).env(PLACE, place);
    command
}
