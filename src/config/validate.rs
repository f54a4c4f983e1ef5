//! Settings that contradict each other or the cluster.

use std::time::Duration;

use super::hosts::check_addresses;
use super::{
    Cluster, Config, LOCAL_NODES_MAX, PARTITIONS_MAX, PROCESSES_MAX, SUSPECT_MIN, TIME_MAX,
    WORKERS_MAX,
};
use crate::chaos::{Fault, FaultKind};
use crate::error::{Error, Result};
use crate::report::counted;

impl Config {
    /// Refuses settings that contradict each other.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::config(text));
        match &self.cluster {
            Cluster::Local(nodes) if !(1..=LOCAL_NODES_MAX).contains(nodes) => {
                return wrong(format!("--local {nodes}: expected 1 to {LOCAL_NODES_MAX} nodes"));
            }
            Cluster::Member { process, addresses } => {
                if *process >= addresses.len() {
                    let n = addresses.len();
                    return wrong(format!(
                        "process {process} is not one of {n}: -p counts from 0 to {}",
                        n.saturating_sub(1)
                    ));
                }
                if addresses.len() > PROCESSES_MAX {
                    let n = addresses.len();
                    return wrong(format!("-n {n}: expected at most {PROCESSES_MAX} processes"));
                }
                check_addresses(addresses)?;
            }
            _ => {}
        }
        if self.workers == 0 {
            return wrong("-w 0: a process needs at least one worker".to_owned());
        }
        if self.workers > WORKERS_MAX {
            let workers = self.workers;
            return wrong(format!("-w {workers}: expected at most {WORKERS_MAX} workers"));
        }
        self.validate_times()?;
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            let partitions = self.partitions;
            return wrong(format!("--partitions {partitions}: expected 1 to {PARTITIONS_MAX}"));
        }
        if self.refill_bytes_per_second == 0 {
            return wrong(
                "--refill-mb-per-second 0: lost copies would never be rebuilt".to_owned(),
            );
        }
        if self.in_flight_epochs_max == 0 {
            return wrong("--in-flight-epochs 0: at least one epoch must be in flight".to_owned());
        }
        self.validate_backups()?;
        if let Some(random) = self.random_faults.filter(|_| !self.has_launcher()) {
            return wrong(format!(
                "--fault {random}: only the launcher makes other processes fail, so this needs --local"
            ));
        }
        self.faults.iter().try_for_each(|fault| self.validate_fault(fault))
    }

    fn validate_times(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::config(text));
        let times = [
            ("--epoch-ms", Some(self.epoch_interval)),
            ("--checkpoint-ms", self.checkpoint_interval),
            ("--connect-timeout-ms", Some(self.connect_limit)),
            ("--suspect-ms", Some(self.suspect_limit)),
            ("--hang-ms", Some(self.hang_limit)),
            ("--durable-every", Some(self.durable_interval)),
            ("--restarts", Some(self.restarts.1)),
            ("--idle-spin", self.idle_spin),
        ];
        let is_long = |(_, time): &&(&str, Option<Duration>)| time.is_some_and(|t| t > TIME_MAX);
        if let Some((flag, _)) = times.iter().find(is_long) {
            let days = TIME_MAX.as_secs() / (24 * 60 * 60);
            return wrong(format!("{flag}: expected at most {days} days"));
        }
        if self.epoch_interval.is_zero() {
            return wrong("--epoch-ms 0: an epoch takes at least one millisecond".to_owned());
        }
        if self.checkpoint_interval.is_some_and(|interval| interval.is_zero()) {
            return wrong(
                "--checkpoint-ms 0: expected at least one millisecond; leave it out to make every \
                 epoch a checkpoint"
                    .to_owned(),
            );
        }
        if let Some(interval) =
            self.checkpoint_interval.filter(|interval| *interval < self.epoch_interval)
        {
            let (checkpoint_ms, epoch_ms) = (interval.as_millis(), self.epoch_interval.as_millis());
            return wrong(format!(
                "--checkpoint-ms {checkpoint_ms}: expected at least --epoch-ms, which is {epoch_ms}: a \
                 checkpoint is the end of an epoch, so lower --epoch-ms too"
            ));
        }
        if self.suspect_limit < SUSPECT_MIN {
            let (suspect_ms, min_ms) = (self.suspect_limit.as_millis(), SUSPECT_MIN.as_millis());
            return wrong(format!("--suspect-ms {suspect_ms}: expected at least {min_ms}"));
        }
        if self.hang_limit < self.suspect_limit {
            let (hang_ms, suspect_ms) =
                (self.hang_limit.as_millis(), self.suspect_limit.as_millis());
            return wrong(format!(
                "--hang-ms {hang_ms}: expected at least --suspect-ms, which is {suspect_ms}"
            ));
        }
        if self.restarts.1.is_zero() {
            return wrong("--restarts: its time must be at least one second".to_owned());
        }
        Ok(())
    }

    fn has_launcher(&self) -> bool {
        matches!(self.cluster, Cluster::Local(_))
    }

    fn validate_backups(&self) -> Result<()> {
        let (wanted, max) = (self.backup_count(), self.backups_max());
        if wanted == 0 && self.durable.is_some() {
            let text =
                "--durable needs a backup of each partition, which writes it: --backups 1 or more";
            return Err(Error::config(text));
        }
        if wanted <= max {
            return Ok(());
        }
        let has = match self.node_count() {
            1 => {
                let workers = counted(self.workers as u64, "worker");
                format!("one node with {workers} has room for {max}")
            }
            nodes => format!("{nodes} nodes have room for {max}"),
        };
        Err(Error::config(format!(
            "--backups {wanted}: {has}, as no two copies may be in the same place"
        )))
    }

    fn validate_fault(&self, fault: &Fault) -> Result<()> {
        let nodes = self.node_count();
        if fault.node.0 >= nodes as u64 {
            let (node, last) = (fault.node, nodes.saturating_sub(1));
            return Err(Error::config(format!(
                "--fault {fault}: there is no node {node}, only 0 to {last}"
            )));
        }
        let what = match fault.kind {
            FaultKind::Panic => return Ok(()),
            FaultKind::Kill => "kills processes",
            FaultKind::Stop => "stops processes",
            FaultKind::Cut | FaultKind::Slow => "stands between nodes",
        };
        if !self.has_launcher() {
            return Err(Error::config(format!(
                "--fault {fault}: only the launcher {what}, so this needs --local"
            )));
        }
        Ok(())
    }
}
