//! How often the kernel has ended processes for lack of memory.
//!
//! Such a process shows nothing but SIGKILL, so its parent compares a counter from before and after. The
//! counter of the run's own control group counts only processes of the run. Without one, the counter of the
//! whole machine is better than nothing, and the report says which one was used.

use std::fs;
use std::path::Path;

/// A counter of kills for lack of memory, and its value when it was last read.
#[derive(Debug)]
pub(super) struct MemoryKills {
    group: Option<(String, u64)>,
    machine: Option<u64>,
}

impl MemoryKills {
    /// Starts to count.
    pub(super) fn watch() -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").ok();
        let group = group.and_then(|text| group_events(&text)).and_then(|path| {
            let kills = counter(&path, "oom_kill")?;
            Some((path, kills))
        });
        MemoryKills { group, machine: counter("/proc/vmstat", "oom_kill") }
    }

    /// Kills since the last call, and the scope of the counter; `None` if there were none.
    pub(super) fn since_last(&mut self) -> Option<(u64, &'static str)> {
        let machine = since(&mut self.machine, counter("/proc/vmstat", "oom_kill"));
        if let Some((path, seen)) = &mut self.group {
            let now = counter(path, "oom_kill")?;
            let kills = now.saturating_sub(*seen);
            *seen = now;
            return (kills > 0).then_some((kills, "cgroup"));
        }
        (machine > 0).then_some((machine, "machine"))
    }
}

fn since(seen: &mut Option<u64>, now: Option<u64>) -> u64 {
    let before = std::mem::replace(seen, now);
    now.zip(before).map_or(0, |(now, before)| now.saturating_sub(before))
}

/// The file of events of the control group that `/proc/self/cgroup` names, version 2 only.
fn group_events(text: &str) -> Option<String> {
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = format!("/sys/fs/cgroup{}/memory.events", group.trim_end_matches('/'));
    Path::new(&path).exists().then_some(path)
}

/// A number in a file of lines `name number`.
fn counter(path: &str, name: &str) -> Option<u64> {
    fs::read_to_string(path).ok().and_then(|text| field(&text, name))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name).and_then(|(_, number)| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_is_told_once_with_its_counter() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        fs::write(&path, "low 0\noom 3\noom_kill 2\noom_group_kill 9\n").unwrap();
        let mut kills = MemoryKills { group: Some((path.clone(), 2)), machine: None };
        assert_eq!(kills.since_last(), None);
        fs::write(&path, "oom_kill 4\n").unwrap();
        assert_eq!(kills.since_last(), Some((2, "cgroup")));
        assert_eq!(kills.since_last(), None);
    }

    #[test]
    fn a_file_without_the_counter_counts_nothing() {
        assert_eq!(field("oom_kill_all 3\noom_kill x\n", "oom_kill"), None);
        assert_eq!(field("nr_free 7\noom_kill 12\n", "oom_kill"), Some(12));
        assert_eq!(group_events("12:memory:/x\n"), None);
    }
}
