//! Agreement: all nodes of a view have built the same job, or the job ends and says where they differ.
//!
//! The workers of a node compare what they build among themselves. Once one of them has built everything,
//! its node sends the digests of all items to the other members, in parallel with the first epoch; until
//! all are the same, nothing is recorded. Two nodes that differ send each other the first item in which
//! they do, so that both can name both.
//!
//! It goes by the control connections, for where the dataflows differ those between workers cannot be
//! relied upon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringfence_operators::error::JobError;
use ringfence_operators::fence::catalogue::{Item, difference};
use ringfence_operators::ids::{NodeId, ViewNumber};

use super::Node;
use crate::error::Result;
use crate::protocol::message::{Input, Message};
use crate::runtime::witness;
use crate::runtime::wording::job_failed;

/// The place of a job's end, in the catalogue of a node that has less than another.
const NOTHING: &str = "nothing more";

/// How long workers may build before that is told, for the first time; then it is told after twice as long.
const BUILDING_TOLD: Duration = Duration::from_secs(10);

/// What this node knows of the catalogues of a view.
#[derive(Debug)]
pub(super) struct Agreement {
    own: Option<Vec<Item>>,
    same: BTreeSet<NodeId>,
    /// The workers of this node that have built their dataflows.
    built: BTreeSet<usize>,
    since: Instant,
    /// How long a worker is to have built before that is told.
    patience: Duration,
}

impl Agreement {
    pub(super) fn new() -> Self {
        Agreement {
            own: None,
            same: BTreeSet::new(),
            built: BTreeSet::new(),
            since: Instant::now(),
            patience: BUILDING_TOLD,
        }
    }

    /// What to tell of workers that have not built their dataflows for long.
    pub(super) fn still_building(&mut self, now: Instant, workers: usize) -> Option<String> {
        let lasted = now.saturating_duration_since(self.since);
        if self.built.len() >= workers || lasted < self.patience {
            return None;
        }
        self.patience = 2 * lasted;
        let all = (0..workers).filter(|worker| !self.built.contains(worker));
        let missing: Vec<String> = all.map(|worker| worker.to_string()).collect();
        Some(format!(
            "worker(s) {} still build their dataflows after {} s: nothing is read or committed before the \
             job's closure returns or steps its worker, at all workers of all nodes",
            missing.join(", "),
            lasted.as_secs()
        ))
    }
}

/// What a peer has said of its catalogue, in the last view of which it said anything.
#[derive(Debug)]
pub(super) struct Told {
    view: ViewNumber,
    digests: Vec<u64>,
    differs: Option<(u64, String)>,
}

/// What other nodes have said of their catalogues. They may be ahead by a view.
pub(super) type AllTold = BTreeMap<NodeId, Told>;

impl Node {
    /// Notes that a worker has built its dataflows, and tells the other members what that is.
    pub(super) fn on_built(&mut self, view: ViewNumber, worker: usize) -> Result<()> {
        let Some(current) = self.current.as_mut().filter(|_| self.present.is(view)) else {
            return Ok(());
        };
        current.agreement.built.insert(worker % self.setup.config.workers.max(1));
        let Some(running) = self.generations.get(&view) else { return Ok(()) };
        if current.agreement.own.is_some() {
            return Ok(());
        }
        let Some(items) = running.shared.built() else { return Ok(()) };
        let digests = items.iter().map(Item::digest).collect();
        current.agreement.own = Some(items);
        let message = Message::Catalogue { view, digests };
        let others: Vec<NodeId> = self.others().collect();
        for node in &others {
            self.say(*node, &message);
        }
        others.into_iter().try_for_each(|node| self.compare_catalogue(node))
    }

    /// Takes note of what another node has built.
    pub(super) fn on_catalogue(&mut self, from: NodeId, message: &Message) -> Result<()> {
        match message {
            Message::Catalogue { view, digests } => {
                let told = Told { view: *view, digests: digests.clone(), differs: None };
                self.catalogues.insert(from, told);
            }
            Message::CatalogueItem { view, position, item } => {
                let told = self.catalogues.get_mut(&from).filter(|told| told.view == *view);
                let Some(told) = told else { return Ok(()) };
                told.differs = Some((*position, item.clone()));
            }
            _ => return Ok(()),
        }
        self.compare_catalogue(from)
    }

    /// Compares this node's catalogue with that of another, as far as both are known.
    fn compare_catalogue(&mut self, node: NodeId) -> Result<()> {
        let (Some(current), Some(present)) = (&mut self.current, self.present.view()) else {
            return Ok(());
        };
        let view = present.number;
        let told = self.catalogues.get(&node).filter(|told| told.view == view);
        let (Some(own), Some(told)) = (&current.agreement.own, told) else { return Ok(()) };
        let Some(position) = first_difference(own, &told.digests) else {
            current.agreement.same.insert(node);
            if current.agreement.same.len() + 1 == present.members.len()
                && let Some(running) = self.generations.get(&view)
            {
                running.shared.agree();
            }
            return Ok(());
        };
        let here = own.get(position).map_or(NOTHING, Item::shown).to_owned();
        match &told.differs {
            Some((place, there)) if *place == position as u64 => {
                let error = differ(position, (self.setup.node, &here), (node, there));
                self.fail_job(view, &error)
            }
            _ => {
                let message =
                    Message::CatalogueItem { view, position: position as u64, item: here };
                self.say(node, &message);
                Ok(())
            }
        }
    }

    /// Ends the job, on all nodes.
    fn fail_job(&mut self, view: ViewNumber, error: &JobError) -> Result<()> {
        self.job_error = Some(job_failed(error));
        self.observe(Some(witness::of_job_error(self.setup.node, view, error)));
        self.step(Input::FatalError { message: error.to_string() })
    }

    pub(super) fn say(&self, node: NodeId, message: &Message) {
        if let Some((_, connection)) = self.controls.get(&node) {
            // A lost connection reports itself.
            let _ = connection.send(message);
        }
    }
}

/// The place of the first item that is not the same on both sides.
fn first_difference(own: &[Item], theirs: &[u64]) -> Option<usize> {
    let longer = own.len().max(theirs.len());
    (0..longer).find(|&at| own.get(at).map(Item::digest) != theirs.get(at).copied())
}

/// The same words on both sides: the lower node comes first.
fn differ(position: usize, here: (NodeId, &str), there: (NodeId, &str)) -> JobError {
    let (one, other) = if here.0 < there.0 { (here, there) } else { (there, here) };
    let name = |node: NodeId| format!("each worker of node {node}");
    difference(position, (&name(one.0), one.1), (&name(other.0), other.1))
}
