//! Three processes that are started by hand, as in three terminals.

use std::fs;
use std::path::PathBuf;

use super::{Place, Ran, Running, events, free_addresses, of_kind, wait_until};

/// Three nodes of one word count, and where each of them stands.
pub struct Cluster {
    pub place: Place,
    pub nodes: Vec<Running>,
    /// Whether each has a hostfile of its own: `hosts-0`, `hosts-1`, `hosts-2`.
    pub own_hosts: bool,
    flags: String,
    passes: u64,
}

impl Cluster {
    /// Starts all three; `flags` are the same for all.
    pub fn start(flags: &str, passes: u64, seed: u64) -> Self {
        let mut cluster = Cluster::planned(flags, passes, seed);
        cluster.nodes = (0..3).map(|process| cluster.node(process)).collect();
        cluster
    }

    /// A cluster of which no node is started yet.
    pub fn planned(flags: &str, passes: u64, seed: u64) -> Self {
        let place = Place::new(500_000, seed);
        fs::write(place.path("hosts"), free_addresses(3).join("\n")).expect("a hostfile");
        Cluster { place, nodes: Vec::new(), own_hosts: false, flags: flags.to_owned(), passes }
    }

    /// Starts one process of it.
    pub fn node(&self, process: usize) -> Running {
        self.node_with(process, "", self.passes)
    }

    /// Starts one process with `flags` of its own that reads the input `passes` times.
    pub fn node_with(&self, process: usize, flags: &str, passes: u64) -> Running {
        let mut args = self.place.args("", passes);
        args.retain(|arg| !arg.starts_with("--report"));
        let hosts = if self.own_hosts { format!("hosts-{process}") } else { "hosts".to_owned() };
        let own = format!(
            "-n 3 -p {process} -h {} --report {} {} {flags}",
            self.place.path(&hosts).display(),
            self.report(process).display(),
            self.flags
        );
        args.splice(0..0, own.split_whitespace().map(str::to_owned));
        Running::start("word_count", &args)
    }

    pub fn report(&self, process: usize) -> PathBuf {
        self.place.path(&format!("report-{process}.json"))
    }

    pub fn commits(&self, process: usize) -> usize {
        of_kind(&events(&self.report(process)), "commit").count()
    }

    /// The latest view that a process has told of.
    pub fn view(&self, process: usize) -> u64 {
        let events = events(&self.report(process));
        of_kind(&events, "view").filter_map(|event| event["number"].as_u64()).max().unwrap_or(0)
    }

    #[track_caller]
    pub fn wait_for_commits(&mut self, process: usize, commits: usize) {
        wait_until("for the first commits", || {
            self.commits(process) >= commits || self.nodes[process].has_ended()
        });
        if self.nodes[process].has_ended() {
            panic!("it ended too early to be hit\n{}", self.nodes.remove(process).wait());
        }
    }

    #[track_caller]
    pub fn kill_after(&mut self, process: usize, commits: usize) {
        self.wait_for_commits(process, commits);
        self.nodes[process].kill();
    }

    pub fn wait(self) -> (Place, Vec<Ran>) {
        let ran = self.nodes.into_iter().map(Running::wait).collect();
        (self.place, ran)
    }
}
