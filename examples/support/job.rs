//! The command line of the classic jobs, and what they print at their end.
//!
//! What stands before a `--` is for whoever runs the dataflow; what stands after it is the job's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringfence::config::NODE_VARIABLE;
use ringfence::{Config, Error};

use super::random::hash;
use super::{fresh_output, remove_output, say};

/// The lines about a job's own options for a help text.
const HELP: &str = "\
Options of the example, after a `--`:
      --out <DIR>      Write to files in DIR [default: a fresh temporary directory]
      --remove-output  Remove the fresh temporary directory in the end
      --seed <NUM>     Seed of the generated input [default: 1]
      --rounds <NUM>   Rounds in which the input is fed
      --nodes <NUM>    Nodes of the generated graph; customers [dd_orders]
      --pace-ms <MS>   Pause after each round [default: 0]
      --query <NUM>    Which query [nexmark only; default: 5]
      --events <NUM>   How many events [nexmark only]
      <FILE>           Read the input from FILE [default: generated]";

/// What a job was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    name: String,
    out: Option<PathBuf>,
    remove_output: bool,
    file: Option<PathBuf>,
    seed: u64,
    rounds: Option<u64>,
    nodes: Option<u32>,
    pace_ms: u64,
    query: u64,
    events: Option<u64>,
    help: bool,
    /// The program's name, and all arguments before the `--`.
    runner: Vec<String>,
}

impl Job {
    /// The job that the command line asks for; ends the program where it cannot be read.
    pub fn from_args() -> Self {
        let mut job = Job::parse(std::env::args()).unwrap_or_else(|text| fail(2, &text));
        if job.help {
            say(Config::help(&job.name, HELP));
            std::process::exit(0);
        }
        if job.remove_output && job.out.is_some() {
            fail(2, "--remove-output removes a fresh directory, and --out names one");
        }
        if job.out.is_none() {
            if !job.is_alone() {
                fail(2, "--out is needed with -p: all processes must write to the same directory");
            }
            match fresh_output(&job.name) {
                Ok(fresh) => job.out = Some(fresh),
                Err(error) => fail(1, &format!("cannot create a temporary directory: {error}")),
            }
        }
        job
    }

    /// The job that these arguments ask for, of which the first is the program's name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let program = args.next().unwrap_or_else(|| "job".to_owned());
        let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
        let mut job = Job {
            name: name.into_owned(),
            out: None,
            remove_output: false,
            file: None,
            seed: 1,
            rounds: None,
            nodes: None,
            pace_ms: 0,
            query: 5,
            events: None,
            help: false,
            runner: vec![program],
        };
        job.runner.extend(args.by_ref().take_while(|arg| arg != "--"));
        job.help = job.runner.iter().skip(1).any(|arg| arg == "--help");
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (arg.as_str(), None),
            };
            let mut required = |what: &str| {
                value.clone().or_else(|| args.next()).ok_or(format!("{name} needs {what}"))
            };
            let number = |text: String, least: u64| match text.parse::<u64>() {
                Ok(number) if number >= least => Ok(number),
                _ => Err(format!("{name} {text}: expected a number of at least {least}")),
            };
            match name {
                "--out" => job.out = Some(required("a directory")?.into()),
                "--remove-output" => job.remove_output = true,
                "--seed" => job.seed = number(required("a number")?, 0)?,
                "--rounds" => job.rounds = Some(number(required("a number")?, 1)?),
                "--nodes" => job.nodes = Some(number(required("a number")?, 2)? as u32),
                "--pace-ms" => job.pace_ms = number(required("a number")?, 0)?,
                "--events" => job.events = Some(number(required("a number")?, 1)?),
                "--query" => {
                    job.query = number(required("a number")?, 1)?;
                    if job.query > 8 {
                        return Err(format!("--query {}: there are queries 1 to 8", job.query));
                    }
                }
                "--help" => job.help = true,
                _ if name.starts_with("--") => return Err(format!("unknown option {name}")),
                _ if job.file.is_some() => return Err(format!("a second file: {arg}")),
                _ => job.file = Some(arg.into()),
            }
        }
        Ok(job)
    }

    /// Where the output goes.
    pub fn out(&self) -> PathBuf {
        self.out.clone().unwrap_or_default()
    }

    /// The seed of what is generated.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// In how many rounds the input is fed.
    pub fn rounds(&self) -> u64 {
        self.rounds_or(200)
    }

    /// In how many rounds the input is fed, where another number is usual.
    pub fn rounds_or(&self, default: u64) -> u64 {
        self.rounds.unwrap_or(default)
    }

    /// How many nodes a generated graph has.
    pub fn nodes_or(&self, default: u32) -> u32 {
        self.nodes.unwrap_or(default)
    }

    /// How long to pause after each round.
    pub fn pace(&self) -> Duration {
        Duration::from_millis(self.pace_ms)
    }

    /// Which query is asked.
    pub fn query(&self) -> u64 {
        self.query
    }

    /// How many events are generated.
    pub fn events(&self) -> u64 {
        self.events.unwrap_or(200_000)
    }

    /// The text of the input file, if one was given; ends the program if it cannot be read.
    pub fn read_file(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        match std::fs::read_to_string(file) {
            Ok(text) => Some(text),
            Err(error) => self.refuse_file(&error.to_string()),
        }
    }

    /// Ends the program because of what is in the input file.
    pub fn refuse_file(&self, what: &str) -> ! {
        let file = self.file.as_deref().unwrap_or(Path::new("no file"));
        fail(1, &format!("cannot read input {}: {what}", file.display()))
    }

    /// The arguments for timely.
    pub fn args(&self) -> impl Iterator<Item = String> + use<> {
        self.runner.clone().into_iter().skip(1)
    }

    /// The configuration for Ringfence, which passes everything on to each node that it starts.
    ///
    /// Three nodes are assumed where the cluster is not described at all, and node 1 is then killed
    /// half a second after the first commit.
    pub fn config(&self) -> Config {
        let mut runner = self.runner.clone();
        let described = ["-w", "-n", "-p", "--threads", "--process", "--local", "--fault"];
        if !runner.iter().skip(1).any(|arg| described.iter().any(|flag| arg.starts_with(flag))) {
            runner.extend(["--local", "3", "--fault", "kill:1@500ms"].map(str::to_owned));
        }
        let mut own = runner[1..].to_vec();
        own.push("--".to_owned());
        own.extend(self.own_args());
        match Config::from_args(runner) {
            Ok((config, free)) if free.is_empty() => config.node_args(own),
            Ok((_, free)) => {
                Error::usage(format!("unexpected argument {}: it belongs after a `--`", free[0]))
                    .exit()
            }
            Err(error) => error.exit(),
        }
    }

    fn own_args(&self) -> Vec<String> {
        let mut args = vec![
            format!("--seed={}", self.seed),
            format!("--pace-ms={}", self.pace_ms),
            format!("--query={}", self.query),
        ];
        args.extend(self.out.iter().map(|out| format!("--out={}", out.display())));
        args.extend(self.rounds.iter().map(|rounds| format!("--rounds={rounds}")));
        args.extend(self.nodes.iter().map(|nodes| format!("--nodes={nodes}")));
        args.extend(self.events.iter().map(|events| format!("--events={events}")));
        args.extend(self.file.iter().map(|file| file.display().to_string()));
        args
    }

    /// Whether this process sees the whole output once it has ended: it is no node of several.
    fn is_alone(&self) -> bool {
        let mut runner = self.runner.iter();
        std::env::var_os(NODE_VARIABLE).is_none()
            && !runner.any(|arg| arg.starts_with("-p") || arg.starts_with("--process"))
    }

    /// Prints where the output is, and what makes it comparable with that of another run.
    pub fn report(&self) {
        if !self.is_alone() {
            return;
        }
        let out = self.out();
        match sorted_lines(&out) {
            Ok(lines) => {
                say(format_args!("output: {}", out.display()));
                say(format_args!("{} lines, digest {:016x}", lines.len(), hash(&lines)));
                if self.remove_output
                    && let Err(error) = remove_output(&out)
                {
                    fail(1, &format!("cannot remove {}: {error}", out.display()));
                }
            }
            Err(error) => fail(1, &format!("cannot read {}: {error}", out.display())),
        }
    }
}

/// All lines of the files below `directory`, sorted.
pub fn sorted_lines(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut directories = vec![directory.to_owned()];
    // A job without results has made none.
    directories.retain(|directory| directory.exists());
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let is_hidden =
                path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() {
                directories.push(path);
            } else if !is_hidden {
                lines.extend(std::fs::read_to_string(path)?.lines().map(str::to_owned));
            }
        }
    }
    lines.sort_unstable();
    Ok(lines)
}

fn fail(code: i32, text: &str) -> ! {
    eprintln!("error: {text}");
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(line: &str) -> Result<Job, String> {
        Job::parse(std::iter::once("job").chain(line.split_whitespace()).map(String::from))
    }

    #[test]
    fn own_options_stand_after_the_dashes() {
        let job = job("--local 3 -- --out o --seed=7 --rounds 5 --query 8 file").unwrap();
        assert_eq!((job.seed(), job.rounds(), job.query()), (7, 5, 8));
        assert_eq!((job.out(), job.file.clone()), ("o".into(), Some("file".into())));
        assert_eq!(job.runner, ["job", "--local", "3"]);
    }

    #[test]
    fn a_node_comes_to_the_same_job() {
        let first =
            job("-w 2 -- --out o --seed 3 --pace-ms 4 --events 9 --query 2 --nodes 5 f").unwrap();
        let line = format!("-w 2 -- {}", first.own_args().join(" "));
        assert_eq!(job(&line).unwrap(), first);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, text) in [
            ("-- --seed", "--seed needs a number"),
            ("-- --rounds 0", "--rounds 0"),
            ("-- --query 9", "--query 9"),
            ("-- --edges 3", "unknown option --edges"),
            ("-- a b", "a second file: b"),
        ] {
            assert!(job(line).unwrap_err().starts_with(text), "{line}");
        }
    }
}
