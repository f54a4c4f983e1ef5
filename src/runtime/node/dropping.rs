//! Dropping: a dataflow that the job drops is gone once all workers of all nodes have dropped it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringfence_operators::ids::{NodeId, ViewNumber};
use ringfence_operators::vault::Vault;

use super::Node;
use crate::error::{Error, Result};
use crate::protocol::message::Message;
use crate::protocol::view::View;
use crate::report::What;

/// How long a dataflow may be dropped by some and not by all before that is told, for the first time; then
/// it is told after twice as long.
const DROPPING_TOLD: Duration = Duration::from_secs(10);

/// The dataflows of a view that some have dropped.
#[derive(Debug, Default)]
pub(super) struct Dropping {
    dataflows: BTreeMap<u64, Dropped>,
}

/// Who has dropped a dataflow.
#[derive(Debug)]
struct Dropped {
    /// The workers of this node that have.
    workers: BTreeSet<usize>,
    /// The nodes of which all workers have.
    nodes: BTreeSet<NodeId>,
    since: Instant,
    patience: Duration,
    is_gone: bool,
}

impl Dropping {
    fn of(&mut self, dataflow: u64) -> &mut Dropped {
        self.dataflows.entry(dataflow).or_insert_with(|| Dropped {
            workers: BTreeSet::new(),
            nodes: BTreeSet::new(),
            since: Instant::now(),
            patience: DROPPING_TOLD,
            is_gone: false,
        })
    }

    /// What to tell of dataflows that some have dropped for long, and others have not.
    pub(super) fn waiting(&mut self, now: Instant) -> Option<String> {
        let (dataflow, dropped) = self.dataflows.iter_mut().find(|(_, dropped)| {
            let lasted = now.saturating_duration_since(dropped.since);
            !dropped.is_gone && lasted >= dropped.patience
        })?;
        let lasted = now.saturating_duration_since(dropped.since);
        dropped.patience = 2 * lasted;
        let list =
            |all: Vec<String>| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
        let workers = list(dropped.workers.iter().map(ToString::to_string).collect());
        let nodes = list(dropped.nodes.iter().map(ToString::to_string).collect());
        Some(format!(
            "dataflow {dataflow} was dropped {} s ago by some workers (of this node: {workers}; all of nodes: \
             {nodes}): nothing more is committed before all workers of all nodes have dropped it",
            lasted.as_secs()
        ))
    }
}

impl Node {
    /// Notes that a worker of this node has dropped a dataflow.
    pub(super) fn on_dropped(&mut self, view: ViewNumber, worker: usize, at: usize, by_all: bool) {
        let node = self.setup.node;
        let Some(current) = self.current.as_mut().filter(|_| self.present.is(view)) else { return };
        let dataflow = at as u64;
        current.dropping.of(dataflow).workers.insert(worker);
        if !by_all {
            return;
        }
        let message = Message::Dropped { view, dataflow };
        self.others().for_each(|other| self.say(other, &message));
        self.note_dropped(node, view, dataflow);
    }

    /// Takes note of what another node says of its dataflows.
    pub(super) fn on_dropped_there(&mut self, from: NodeId, message: &Message) {
        if let Message::Dropped { view, dataflow } = message {
            self.note_dropped(from, *view, *dataflow);
        }
    }

    fn note_dropped(&mut self, node: NodeId, view: ViewNumber, dataflow: u64) {
        let Some(present) = self.present.view().filter(|present| present.number == view) else {
            return;
        };
        let Some(current) = &mut self.current else { return };
        let dropped = current.dropping.of(dataflow);
        dropped.nodes.insert(node);
        let by_all = present.members.iter().all(|member| dropped.nodes.contains(&member.node));
        if by_all
            && !std::mem::replace(&mut dropped.is_gone, true)
            && let Some(running) = self.generations.get(&view)
        {
            running.shared.all_have_dropped(dataflow as usize);
            let text = format!(
                "dataflow {dataflow} was dropped by the job at all workers: what its sinks have not \
                 released is gone, and the rest of the job goes on"
            );
            self.tell(What::Message { text });
        }
    }

    /// Makes the vault forget what any member of a new view has dropped.
    pub(super) fn forget_dropped(&self, view: &View) -> Result<()> {
        let evidence = view.members.iter().filter_map(|member| member.evidence.as_ref());
        let dropped: BTreeSet<u64> = evidence.flat_map(|it| it.dropped.iter().copied()).collect();
        let dropped: Vec<u64> = dropped.into_iter().collect();
        self.vault.drop_operators(view.number, &dropped).map_err(|error| {
            Error::internal(format!("the vault of view {} is closed", view.number)).because(error)
        })
    }
}
