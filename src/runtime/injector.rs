//! The faults that the launcher injects, and when it ends them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringfence_operators::ids::NodeId;

use crate::chaos::{
    Fault, FaultKind, FaultSchedule, Proxy, ProxyHandle, RandomFaults, RandomLimits,
};
use crate::config::Config;
use crate::error::{Error, Result};

/// An action on a node that is due now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Deed {
    /// The fault begins.
    Begin(Fault),
    /// The fault, which began, ends.
    End(Fault),
}

/// The state of a run, as far as faults depend on it.
pub(super) struct RunState {
    pub(super) now_ms: f64,
    pub(super) first_commit_ms: Option<f64>,
    /// The fraction of the input that has been read.
    pub(super) fraction: Option<f64>,
    pub(super) nodes: BTreeSet<NodeId>,
    /// The nodes that have not ended and are in the latest view.
    pub(super) present: BTreeSet<NodeId>,
}

/// Knows which faults are pending and which are in progress, and holds the proxy.
pub(super) struct Injector {
    schedule: FaultSchedule,
    random: Option<RandomFaults>,
    under_way: Vec<UnderWay>,
    proxy: Option<RunningProxy>,
    needs_proxy: bool,
}

struct UnderWay {
    fault: Fault,
    until_ms: f64,
}

struct RunningProxy {
    handle: ProxyHandle,
    thread: Option<JoinHandle<()>>,
}

impl Injector {
    pub(super) fn new(config: &Config) -> Self {
        // A single node is its own backup: it survives only a panic.
        let backups = config.backup_count().min(config.node_count().saturating_sub(1));
        let limits = RandomLimits { backups, suspect: config.suspect_limit };
        let faults = &config.faults;
        let random = config.random_faults;
        Injector {
            schedule: FaultSchedule::new(faults.iter().copied()),
            random: random.map(|spec| RandomFaults::new(spec, limits)),
            under_way: Vec::new(),
            proxy: None,
            needs_proxy: random.is_some() || faults.iter().any(|f| f.kind.is_of_network()),
        }
    }

    /// Puts a proxy between nodes that listen at `addresses`, if a fault needs one.
    pub(super) fn stand_between(&mut self, addresses: &[(NodeId, String)]) -> Result<()> {
        if !self.needs_proxy {
            return Ok(());
        }
        let cannot = |error: std::io::Error| {
            let text = "cannot put a proxy between the nodes, which a fault needs";
            Error::internal(text).because(error)
        };
        let mut targets = Vec::new();
        for (node, address) in addresses {
            let target: SocketAddr =
                address.parse().map_err(|error| cannot(std::io::Error::other(error)))?;
            targets.push((*node, target));
        }
        let (proxy, handle) = Proxy::new(targets).map_err(cannot)?;
        let serve = move || {
            // If it fails, all connections end, and the nodes report that.
            let _ = proxy.serve();
        };
        let thread = thread::Builder::new().name("ringfence:proxy".to_owned()).spawn(serve);
        self.proxy = Some(RunningProxy { handle, thread: Some(thread.map_err(cannot)?) });
        Ok(())
    }

    /// The addresses that `node` must use for the nodes at `addresses`.
    pub(super) fn addresses_for(
        &self,
        node: NodeId,
        addresses: &[(NodeId, String)],
    ) -> Vec<(NodeId, String)> {
        let seen = |peer: NodeId, address: &String| {
            let proxy = self.proxy.as_ref().and_then(|proxy| proxy.handle.address(node, peer));
            proxy.map_or_else(|| address.clone(), |proxy| proxy.to_string())
        };
        addresses.iter().map(|(peer, address)| (*peer, seen(*peer, address))).collect()
    }

    /// Removes and returns the actions that are due now.
    pub(super) fn due(&mut self, standing: &RunState) -> Vec<Deed> {
        let RunState { now_ms, first_commit_ms, fraction, nodes, present } = standing;
        let ended = self.under_way.extract_if(.., |under_way| under_way.until_ms <= *now_ms);
        let mut deeds: Vec<Deed> = ended.map(|under_way| Deed::End(under_way.fault)).collect();
        let due = self.schedule.due(*now_ms, *first_commit_ms, *fraction);
        deeds.extend(due.into_iter().map(Deed::Begin));
        if let (Some(random), Some(first)) = (&mut self.random, first_commit_ms) {
            let fault = random.due(now_ms - first, nodes, present);
            deeds.extend(fault.map(Deed::Begin));
        }
        deeds
    }

    /// How long nothing will be due for certain, as far as the clock determines it.
    pub(super) fn next_due_in(&self, now_ms: f64, first_commit_ms: Option<f64>) -> Duration {
        let first = self.schedule.next_due_in(now_ms, first_commit_ms);
        let ends = self.under_way.iter().map(|under_way| {
            Duration::try_from_secs_f64((under_way.until_ms - now_ms) / 1e3).unwrap_or_default()
        });
        first.into_iter().chain(ends).min().unwrap_or(Duration::MAX)
    }

    /// Notes that `fault` has begun at `now_ms`; returns when it ends.
    pub(super) fn has_begun(&mut self, fault: Fault, now_ms: f64) -> Option<f64> {
        let until_ms = now_ms + fault.lasting?.as_secs_f64() * 1e3;
        self.under_way.push(UnderWay { fault, until_ms });
        Some(until_ms)
    }

    /// Whether another fault of this kind still affects the node.
    pub(super) fn is_held(&self, node: NodeId, kind: FaultKind) -> bool {
        let same = |under_way: &UnderWay| (under_way.fault.node, under_way.fault.kind);
        self.under_way.iter().any(|under_way| same(under_way) == (node, kind))
    }

    /// Begins or ends a fault of the network.
    pub(super) fn disturb(&self, deed: Deed) {
        let Some(RunningProxy { handle, .. }) = &self.proxy else { return };
        match deed {
            Deed::Begin(fault) if fault.kind == FaultKind::Cut => handle.cut(fault.node),
            Deed::Begin(fault) if fault.kind == FaultKind::Slow => handle.slow(fault.node),
            Deed::End(fault) if fault.kind == FaultKind::Cut => handle.heal(fault.node),
            Deed::End(fault) if fault.kind == FaultKind::Slow => handle.hasten(fault.node),
            _ => {}
        }
    }

    /// How to repeat `fault`, if faults are drawn at random.
    pub(super) fn replay_of(&self, fault: &Fault) -> Option<String> {
        let random = self.random.as_ref()?;
        Some(format!("{} now injects --fault {fault}", random.spec()))
    }

    /// The faults that have not happened yet; at the end of a run, those that never did.
    pub(super) fn waiting(&self) -> &[Fault] {
        self.schedule.waiting()
    }
}

impl Drop for RunningProxy {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            // It only passes bytes on; if that panicked, its connections have ended.
            let _ = thread.join();
        }
    }
}
