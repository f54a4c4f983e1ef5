//! What a node of this simulation holds: how copies are filled, stored, recorded, and told.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_operators::ids::{Epoch, NodeId, PartitionId, ViewNumber};

use super::{Happening, Simulation};
use ringfence::internals::protocol::invariants::released_epochs_stay;
use ringfence::internals::protocol::message::Input;
use ringfence::internals::protocol::view::{CopyEvidence, Evidence, ReplicaSpan, View};

impl Simulation {
    /// Whoever is taken in was in no view before.
    pub(super) fn check_newcomers(&self, previous: &View, view: &View) {
        let newcomers = view.members.iter().filter(|member| view.is_newcomer(member.node));
        for newcomer in newcomers {
            let before = self.views.values().filter_map(|view| view.member(newcomer.node));
            let latest = before.map(|member| member.incarnation).max();
            assert!(
                latest < Some(newcomer.incarnation),
                "node {} is taken in again after view {}",
                newcomer.node,
                previous.number
            );
        }
    }

    /// Installs a view in the vault, and checks that the vault really has what the view says.
    pub(super) fn install(&mut self, id: NodeId, view: &View) {
        let node = self.nodes.get_mut(&id).unwrap();
        assert_eq!(node.generation, None, "node {id} installs a view while its generation is up");
        // Before the first commit there is nothing to hold.
        let holds_nothing = view.resume.is_none();
        let holds = |span: &ReplicaSpan| span.from <= view.resume && span.through >= view.resume;
        let whole =
            node.filling.iter().filter_map(|(partition, span)| Some((*partition, (*span)?)));
        node.replicas.extend(whole.collect::<Vec<_>>());
        let (mut replicas, mut live) = (BTreeMap::new(), BTreeSet::new());
        let mut filling = BTreeMap::new();
        for (partition, place) in view.assignment.iter() {
            let span = node.replicas.get(&partition).filter(|span| holds(span));
            if place.owner.node == id {
                let can = holds_nothing || span.is_some() || node.live.contains(&partition);
                assert!(
                    can,
                    "node {id} owns partition {partition} of view {} and holds no copy",
                    view.number
                );
                live.insert(partition);
            }
            if place.backups.iter().any(|backup| backup.node == id) {
                assert!(
                    holds_nothing || span.is_some(),
                    "node {id} backs up partition {partition} and holds no replica"
                );
                let from = span.and_then(|span| span.from);
                replicas.insert(partition, ReplicaSpan { from, through: view.resume });
            } else if place.feeds(id) && holds_nothing {
                replicas.insert(partition, ReplicaSpan::default());
            } else if place.feeds(id) {
                filling.insert(partition, None);
            }
        }
        (node.replicas, node.live, node.filling) = (replicas, live, filling);
        node.generation = Some(view.number);
        node.panicked = false;
        let delay_ms = self.chance.below(10);
        let (number, nodes) = (view.number, view.members.iter().map(|member| member.node));
        let gone = nodes.filter(|node| !self.nodes[node].alive).min();
        let input = match gone {
            Some(node) => Input::ConnectFailed { view: number, node, why: "refused".to_owned() },
            None => Input::GenerationRunning { view: number },
        };
        self.after(id, delay_ms, Happening::Local(input));
    }

    pub(super) fn evidence(&mut self, id: NodeId, view: ViewNumber) -> Evidence {
        let recorded = self.recorded.get(&(view, id)).copied().flatten();
        let known = recorded.max(self.views[&view].resume);
        let node = &self.nodes[&id];
        let mut copies = Vec::new();
        for partition in (0..self.shape.1).map(PartitionId) {
            // Progress is learned arbitrarily late: what is stored may not be known to be complete.
            let late = self.chance.one_in(2);
            let filled = node.filling.get(&partition).copied().flatten();
            let filled = filled.filter(|span| span.from <= known);
            let span = node.replicas.get(&partition).copied().or(filled);
            let replica = span.map(|span| ReplicaSpan {
                from: span.from,
                through: if late { known } else { span.through },
            });
            let live = node.live.contains(&partition);
            if live || replica.is_some() {
                copies.push(CopyEvidence { partition, replica, live });
            }
        }
        Evidence {
            view,
            recorded,
            copies,
            operators: Vec::new(),
            journals: false,
            dropped: Vec::new(),
        }
    }

    /// One step of a generation: store an epoch, record one, and see whether one is released.
    pub(super) fn work(&mut self, id: NodeId) {
        let Some(number) = self.nodes[&id].generation.filter(|_| self.faults) else { return };
        let delay_ms = 1 + self.chance.below(150);
        self.after(id, delay_ms, Happening::Work);
        let members: Vec<NodeId> =
            self.views[&number].members.iter().map(|member| member.node).collect();
        let key = (number, id);
        let by_all = members.iter().map(|member| self.stored[&(number, *member)]).min().flatten();
        if self.nodes[&id].panicked {
            return;
        }
        let stored = self.stored[&key];
        if stored.map_or(0, |epoch| epoch.0) < by_all.map_or(0, |epoch| epoch.0) + 3 {
            let epoch = Some(Epoch(stored.map_or(0, |epoch| epoch.0 + 1)));
            self.stored.insert(key, epoch);
            let is_filled = self.chance.one_in(3);
            let node = self.nodes.get_mut(&id).unwrap();
            node.replicas.values_mut().for_each(|span| span.through = epoch);
            for span in node.filling.values_mut() {
                match span {
                    Some(span) => span.through = epoch,
                    None if is_filled => *span = Some(ReplicaSpan { from: epoch, through: epoch }),
                    None => {}
                }
            }
        }
        let is_news = by_all > self.views[&number].resume;
        if is_news && self.chance.one_in(2) {
            self.recorded.insert(key, by_all);
            let epoch = by_all.expect("it is news");
            self.after(id, 0, Happening::Local(Input::Committed { view: number, epoch }));
            let filling = &self.nodes[&id].filling;
            let is_whole = |span: &Option<ReplicaSpan>| span.is_some_and(|s| s.from <= by_all);
            if !filling.is_empty() && filling.values().all(is_whole) {
                self.after(id, 0, Happening::Local(Input::Refilled { view: number }));
            }
            if self.chance.one_in(3) {
                // The base may be folded up to what this node recorded, not further.
                self.nodes
                    .get_mut(&id)
                    .unwrap()
                    .replicas
                    .values_mut()
                    .for_each(|span| span.from = by_all);
            }
        }
        let recorded = members
            .iter()
            .map(|member| self.recorded.get(&(number, *member)).copied().flatten())
            .min();
        let released = recorded.flatten();
        self.released = self.released.max(released);
        for (_, later) in self.views.range(ViewNumber(number.0 + 1)..) {
            released_epochs_stay(released, later).unwrap();
        }
    }
}
