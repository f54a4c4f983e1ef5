//! Durability: how the members of a view make a committed epoch durable, step by step.
//!
//! The lowest member leads. Every so often it picks the epoch that is committed and asks all members to write
//! what they have not written before ([`Order`]). Each says when its segment is in the store ([`Written`]).
//! Once all have, the leader writes the manifest, and tells the members how far all is durable. Nothing in
//! memory waits for any of this. What a view leaves unfinished, the next one begins anew.

use std::collections::BTreeSet;

use ringfence_operators::ids::{Epoch, NodeId, ViewNumber, named_nodes};
use serde::{Deserialize, Serialize};

/// After how long it is said that something is not written yet.
const LATE_MS: u64 = 10_000;

/// A segment as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRecord {
    /// The name of the object.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-1 in hexadecimal.
    pub sha1: String,
}

/// The members are to write what they have between two epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The view.
    pub view: ViewNumber,
    /// What is durable already.
    pub durable: Option<Epoch>,
    /// What is to become durable: it is committed.
    pub epoch: Epoch,
}

/// What came of an order at one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Written {
    /// Its segment is in the store; `None` if it had nothing to write.
    Segment(Option<SegmentRecord>),
    /// Not now: a copy is still being filled, or some state is ahead of the epoch. A later epoch can be written.
    NotNow,
    /// It could not be written, for this reason.
    Failed(String),
}

/// What came of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestWritten {
    /// It is in the store.
    Created,
    /// It could not be written, for this reason. It may be there all the same.
    Failed(String),
    /// More is durable than the order said, as an earlier leader left it.
    Ahead(Epoch),
    /// Another start of a cluster has claimed the store: nothing that this one writes counts any more.
    Superseded {
        /// The run of that start.
        run: String,
    },
}

/// What a member is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Send this to a member, which may be this one.
    SendOrder(NodeId, Order),
    /// Write a segment, and say what came of it.
    WriteSegment(Order),
    /// Send to the leader what came of an order.
    SendWritten(NodeId, Order, Written),
    /// Write the manifest of an epoch, and say what came of it.
    WriteManifest(Order, Vec<SegmentRecord>),
    /// Send to a member how far all is durable.
    SendDurable(NodeId, ViewNumber, Epoch),
    /// All is durable through this epoch.
    Saved(Epoch),
    /// Something could not be written: durable state falls behind.
    Behind(String),
    /// Another start of a cluster has taken over: this one ends.
    Superseded(String),
}

#[derive(Clone, Debug)]
struct Cut {
    order: Order,
    since_ms: u64,
    missing: BTreeSet<NodeId>,
    segments: Vec<SegmentRecord>,
}

/// One member's part in making epochs durable.
#[derive(Clone, Debug)]
pub struct Durability {
    node: NodeId,
    every_ms: u64,
    view: Option<ViewNumber>,
    members: BTreeSet<NodeId>,
    committed: Option<Epoch>,
    durable: Option<Epoch>,
    next_at_ms: u64,
    cut: Option<Cut>,
}

impl Durability {
    /// Makes the part of a member that begins with what is durable at the start.
    pub fn new(node: NodeId, every_ms: u64, durable: Option<Epoch>) -> Self {
        Durability {
            node,
            every_ms,
            view: None,
            members: BTreeSet::new(),
            committed: None,
            durable,
            next_at_ms: 0,
            cut: None,
        }
    }

    /// When the next order is due.
    fn next_deadline_ms(&self) -> Option<u64> {
        let is_due = self.leads() && self.cut.is_none() && self.committed > self.durable;
        is_due.then_some(self.next_at_ms)
    }

    /// Begins a view.
    pub fn begin(&mut self, view: ViewNumber, members: BTreeSet<NodeId>) {
        self.view = Some(view);
        self.members = members;
        self.committed = None;
        self.cut = None;
    }

    /// Ends the view: what is under way comes to nothing.
    pub fn end(&mut self) {
        self.view = None;
        self.cut = None;
    }

    /// Whether this member leads.
    pub fn leads(&self) -> bool {
        self.view.is_some() && self.members.first() == Some(&self.node)
    }

    /// An epoch is committed in the view.
    pub fn committed(&mut self, now_ms: u64, epoch: Epoch) -> Vec<Deed> {
        self.committed = self.committed.max(Some(epoch));
        self.tick(now_ms)
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Deed> {
        let (Some(view), Some(epoch)) = (self.view, self.committed) else { return Vec::new() };
        if let Some(cut) = self.cut.as_ref().filter(|cut| now_ms >= cut.since_ms + LATE_MS) {
            let seconds = (now_ms - cut.since_ms) / 1_000;
            let who = if cut.missing.is_empty() {
                "its manifest".to_owned()
            } else {
                named_nodes(&cut.missing)
            };
            let why = format!("epoch {} waits for {who}, for {seconds} s", cut.order.epoch);
            return vec![Deed::Behind(why)];
        }
        if self.next_deadline_ms().is_none_or(|at| now_ms < at) {
            return Vec::new();
        }
        self.next_at_ms = now_ms + self.every_ms;
        let order = Order { view, durable: self.durable, epoch };
        let missing = self.members.clone();
        self.cut = Some(Cut { order, since_ms: now_ms, missing, segments: Vec::new() });
        self.members.iter().map(|member| Deed::SendOrder(*member, order)).collect()
    }

    /// The leader has sent an order.
    pub fn on_order(&mut self, order: Order) -> Vec<Deed> {
        if self.view == Some(order.view) { vec![Deed::WriteSegment(order)] } else { Vec::new() }
    }

    /// This member has done what was ordered, or has not.
    pub fn on_segment(&mut self, order: Order, written: Written) -> Vec<Deed> {
        let leader = self.members.first().filter(|_| self.view == Some(order.view));
        leader.map(|leader| Deed::SendWritten(*leader, order, written)).into_iter().collect()
    }

    /// A member says what came of an order.
    pub fn on_written(&mut self, from: NodeId, order: Order, written: Written) -> Vec<Deed> {
        let Some(cut) = self.cut.as_mut().filter(|cut| cut.order == order) else {
            return Vec::new();
        };
        match written {
            Written::Segment(segment) => {
                if cut.missing.remove(&from) {
                    cut.segments.extend(segment);
                }
            }
            Written::NotNow => self.cut = None,
            Written::Failed(why) => {
                self.cut = None;
                return vec![Deed::Behind(format!("node {from}: {why}"))];
            }
        }
        match &mut self.cut {
            Some(cut) if cut.missing.is_empty() => {
                vec![Deed::WriteManifest(order, std::mem::take(&mut cut.segments))]
            }
            _ => Vec::new(),
        }
    }

    /// The manifest is written, or is not.
    pub fn on_manifest(&mut self, order: Order, written: ManifestWritten) -> Vec<Deed> {
        let is_present = self.cut.as_ref().is_some_and(|cut| cut.order == order);
        if is_present {
            self.cut = None;
        }
        match written {
            ManifestWritten::Created => self.tell_durable(order.view, order.epoch),
            ManifestWritten::Ahead(epoch) => {
                self.next_at_ms = 0;
                self.tell_durable(order.view, epoch)
            }
            ManifestWritten::Failed(why) => vec![Deed::Behind(why)],
            ManifestWritten::Superseded { run } => vec![Deed::Superseded(run)],
        }
    }

    fn tell_durable(&mut self, view: ViewNumber, epoch: Epoch) -> Vec<Deed> {
        // Even if the view has ended in the meantime: what is durable stays durable.
        let mut deeds = self.on_durable(epoch);
        if self.view == Some(view) {
            let others = self.members.iter().filter(|member| **member != self.node);
            deeds.extend(others.map(|member| Deed::SendDurable(*member, view, epoch)));
        }
        deeds
    }

    /// All is durable through this epoch.
    pub fn on_durable(&mut self, epoch: Epoch) -> Vec<Deed> {
        if self.durable >= Some(epoch) {
            return Vec::new();
        }
        self.durable = Some(epoch);
        vec![Deed::Saved(epoch)]
    }
}
