//! Watches: what a node must monitor by itself while a view lasts.

use std::time::{Duration, Instant};

use ringfence_operators::fence::generation::Generation;
use ringfence_operators::ids::NodeId;
use ringfence_operators::vault::MemoryVault;

use super::hang::{HangWatch, Hung};
use super::link_watch::{LinkWatch, Stuck};
use crate::network::LinkTraffic;

/// How often nodes tell each other how much has arrived over their links.
const LINK_INTERVAL: Duration = Duration::from_millis(500);

/// A link that delivers nothing for this many times the silence allowed to a node is stuck.
const LINK_STUCK_PERIODS: u32 = 5;

/// Workers that hang, links that are stuck, and copies that are being filled, in one view.
#[derive(Debug)]
pub(super) struct Watches {
    hang: HangWatch,
    links: LinkWatch,
    links_looked: Instant,
    /// The number of partitions for which this node is being filled as a backup, and since when.
    refilling: Option<(u32, Instant)>,
}

impl Watches {
    pub(super) fn new(hang_limit: Duration, suspect_limit: Duration, refilling: u32) -> Self {
        let now = Instant::now();
        Watches {
            hang: HangWatch::new(hang_limit),
            links: LinkWatch::new(LINK_STUCK_PERIODS * suspect_limit),
            links_looked: now,
            refilling: (refilling > 0).then_some((refilling, now)),
        }
    }

    /// Returns a worker that hangs, once; pokes those that may merely have nothing to do.
    pub(super) fn hung(&mut self, now: Instant, generation: &Generation) -> Option<Hung> {
        self.hang.look(now, generation)
    }

    /// Notes that `node` has received this many bytes from this node in this view.
    pub(super) fn received(&mut self, node: NodeId, bytes: u64) {
        self.links.received(Instant::now(), node, bytes);
    }

    /// Whether it is time to tell the others how much has arrived over their links, and to check the links.
    pub(super) fn links_are_due(&mut self, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(self.links_looked) >= LINK_INTERVAL;
        if is_due {
            self.links_looked = now;
        }
        is_due
    }

    /// Returns the links that accept bytes but deliver none.
    pub(super) fn stuck(
        &mut self,
        now: Instant,
        traffic: &[(NodeId, LinkTraffic)],
    ) -> Vec<(NodeId, Stuck)> {
        let look = |(node, traffic): &(NodeId, LinkTraffic)| {
            Some((*node, self.links.look(now, *node, traffic.sent_bytes())?))
        };
        traffic.iter().filter_map(look).collect()
    }

    /// Returns how many copies this node was filled with, and how long it took, once all are whole.
    pub(super) fn refilled(
        &mut self,
        now: Instant,
        vault: &MemoryVault,
    ) -> Option<(u32, Duration)> {
        let (partitions, since) = self.refilling?;
        if vault.usage().filling_partitions > 0 {
            return None;
        }
        self.refilling = None;
        Some((partitions, now.saturating_duration_since(since)))
    }
}
