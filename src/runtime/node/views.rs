//! Views: a generation of workers for each, from its connections to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ringfence_operators::fence::generation::{Generation, PIECE_BYTES, Settings};
use ringfence_operators::ids::{Epoch, Incarnation, NodeId, PartitionId, ViewNumber};
use ringfence_operators::vault::Vault;

use super::closing::Ending;
use super::{Agreement, Current, Dropping, Node, NodeEvent, Notices};
use crate::error::{Error, Result};
use crate::network::{Inbound, Link, LinkEnds, Purpose, Refusal};
use crate::protocol::assignment::Place;
use crate::protocol::member::Machine;
use crate::protocol::message::{Input, Message};
use crate::protocol::view::View;
use crate::report::{Takeover, What};
use crate::runtime::advice;
use crate::runtime::generation::{Running, SinceStart, Verdict, WorkerEnded};
use crate::runtime::hang::Hung;
use crate::runtime::holdings::{role_of, routes_of};
use crate::runtime::watches::Watches;
use crate::runtime::witness;
use crate::runtime::wording::job_failed;

/// How long a data connection may take to be made before that counts as a failure.
const LINK_LIMIT: Duration = Duration::from_secs(5);

impl Node {
    /// How many of the partitions that moved each node owns now.
    pub(super) fn takeovers(&self, moved: &[PartitionId]) -> Vec<Takeover> {
        let mut takeovers = BTreeMap::<NodeId, u32>::new();
        if let Some(view) = self.machine.as_ref().and_then(Machine::view) {
            let places = moved.iter().filter_map(|partition| view.assignment.place(*partition));
            places.for_each(|place| *takeovers.entry(place.owner.node).or_default() += 1);
        }
        let takeovers = takeovers.into_iter();
        takeovers.map(|(node, partitions)| Takeover { node, partitions }).collect()
    }

    pub(super) fn install(&mut self, view: View) -> Result<()> {
        let node = self.setup.node;
        let role = |partition: PartitionId| role_of(&view, node, partition);
        self.vault.install(view.number, view.resume, &role).map_err(|error| {
            Error::internal(format!("the vault refuses view {}", view.number)).because(error)
        })?;
        self.forget_dropped(&view)?;
        self.gauges.consumed.store(0, Ordering::Relaxed);
        self.gauges.total.store(0, Ordering::Relaxed);
        self.gauges.records.store(0, Ordering::Relaxed);
        let resume = view.resume.map_or(0, |resume| resume.next().0);
        let begun = self.gauges.epochs_begun.swap(0, Ordering::Relaxed);
        self.recovery.rewound(begun.saturating_sub(resume));
        (self.stalled, self.refused_by, self.register_told) = (Duration::ZERO, None, false);

        let Some(process_index) = view.process_index(node) else {
            return Err(Error::internal(format!("view {} does not have this node", view.number)));
        };
        let filled = |place: &&Place| place.filling.iter().any(|worker| worker.node == node);
        let refilling = view.assignment.places.iter().filter(filled).count() as u32;
        let digest = view.digest().0;
        let lower: Vec<(NodeId, Incarnation, String)> = view.members[..process_index]
            .iter()
            .map(|member| (member.node, member.incarnation, member.address.clone()))
            .collect();
        let number = view.number;
        self.abandoned.extend(self.current.take().and_then(Current::abandon));
        self.current = Some(Current {
            view,
            digest: digest.clone(),
            process_index,
            links: BTreeMap::new(),
            running: None,
            ended: BTreeSet::new(),
            finished: 0,
            ending: Ending::default(),
            joined: false,
            committed: None,
            agreement: Agreement::new(),
            dropping: Dropping::default(),
            watches: Watches::new(
                self.setup.config.hang_limit,
                self.setup.config.suspect_limit,
                refilling,
            ),
        });
        for (peer, incarnation, address) in lower {
            // What this node was told itself goes before what others say: a host may have another
            // name from here.
            let address = self.setup.nodes.get(&peer).cloned().unwrap_or(address);
            let purpose = Purpose::Data { view: number, digest: digest.clone() };
            let hello = self.hello(purpose, peer, Some(incarnation));
            let deadline = Instant::now() + LINK_LIMIT;
            self.spawn_dial(address, hello, deadline, move |result| NodeEvent::Linked {
                view: number,
                node: peer,
                result,
            });
        }
        for inbound in std::mem::take(&mut self.waiting_links).into_values() {
            self.on_inbound(inbound)?;
        }
        self.start_if_linked()
    }

    pub(super) fn on_inbound_data(
        &mut self,
        inbound: Inbound,
        view: ViewNumber,
        digest: String,
    ) -> Result<()> {
        let node = inbound.hello.node;
        let here = self.current.as_ref().map_or(ViewNumber(0), |current| current.view.number);
        if view > here {
            return self.let_wait(inbound, view.0 == here.0 + 1);
        }
        let Some(current) = self.current.as_ref().filter(|_| view == here) else {
            return self.refuse(inbound, Refusal::StaleView { yours: view });
        };
        let reason = if current.digest != digest {
            Some(Refusal::OtherDigest { view })
        } else if current
            .view
            .member(node)
            .is_none_or(|m| m.incarnation != inbound.hello.incarnation)
        {
            Some(Refusal::NotAMember { node })
        } else if current.is_stopping() {
            Some(Refusal::Ended { view })
        } else if current.running.is_some() || current.links.contains_key(&node) {
            Some(Refusal::AlreadyConnected { node })
        } else {
            None
        };
        if let Some(reason) = reason {
            return self.refuse(inbound, reason);
        }
        match inbound.accept(self.welcome()) {
            Ok(stream) => self.on_link(view, node, stream),
            Err(error) => self.step(Input::ConnectFailed { view, node, why: error.to_string() }),
        }
    }

    /// Keeps a connection that is ahead by a moment until this node has the view, too.
    ///
    /// Nobody is ahead by more than one view: the next but one needs this node's evidence of the next, or
    /// does not have it. Each member has one place, so that what waits is bounded by the members.
    fn let_wait(&mut self, inbound: Inbound, is_next: bool) -> Result<()> {
        let (node, incarnation) = (inbound.hello.node, inbound.hello.incarnation);
        let is_member = self.setup.nodes.contains_key(&node)
            && node > self.setup.node
            && match (self.controls.get(&node), &self.current) {
                (Some((known, _)), _) => *known == incarnation,
                // Before the first view the connection for control may still be on its way.
                (None, current) => current.is_none(),
            };
        if !is_member {
            return self.refuse(inbound, Refusal::NotAMember { node });
        }
        if !is_next {
            return self.refuse(inbound, Refusal::NotYet);
        }
        self.waiting_links.insert(node, inbound);
        Ok(())
    }

    pub(super) fn on_link(
        &mut self,
        view: ViewNumber,
        node: NodeId,
        stream: TcpStream,
    ) -> Result<()> {
        if let Some(current) = &mut self.current
            && current.view.number == view
            && !current.is_stopping()
        {
            current.links.insert(node, stream);
            return self.start_if_linked();
        }
        Ok(())
    }

    /// Builds the generation once all data connections stand.
    pub(super) fn start_if_linked(&mut self) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let is_linked = current.links.len() + 1 == current.view.members.len();
        if current.running.is_some() || current.is_stopping() || !is_linked {
            return Ok(());
        }
        self.recovery.connected(Instant::now());
        let (view, workers) = (&current.view, self.setup.config.workers);
        let number = view.number;
        let range = |process: usize| process * workers..(process + 1) * workers;
        let mut links = Vec::new();
        for (index, member) in view.members.iter().enumerate() {
            links.push(current.links.remove(&member.node).map(|stream| {
                let ends = LinkEnds {
                    local_workers: range(current.process_index),
                    remote_workers: range(index),
                };
                let events = self.events.clone();
                Link::new(stream, member.node, ends, move |loss| {
                    drop(events.send(NodeEvent::LinkLost { view: number, loss }));
                })
            }));
        }
        let run = self.run.as_ref().map_or_else(String::new, |run| run.id.clone());
        let settings = Settings {
            hasher: self.setup.config.key_hash,
            epoch_interval: self.setup.config.epoch_interval,
            checkpoint_interval: self.setup.config.checkpoint_interval,
            in_flight_epochs_max: u64::from(self.setup.config.in_flight_epochs_max),
            run,
            workers_per_node: workers,
            share_count: (self.setup.nodes.len() * workers) as u32,
            refill_bytes_per_second: self.setup.config.refill_bytes_per_second,
            piece_bytes: PIECE_BYTES,
        };
        let watched = self.machine.as_ref().map(|m| m.watched().clone()).unwrap_or_default();
        let generation = Generation::new(
            number,
            view.resume,
            routes_of(view),
            settings,
            Arc::clone(&self.vault) as Arc<dyn Vault>,
            Arc::new(SinceStart::new()),
            Arc::new(Notices { view: number, events: self.events.clone() }),
            Arc::clone(&self.gauges),
        );
        let generation =
            generation.watching(watched).with_quarantine(self.setup.config.quarantine.clone());
        let generation = Arc::new(match view.members.len() {
            1 => generation,
            _ => generation.awaiting_agreement(),
        });
        let events = self.events.clone();
        let running = Running::start(
            generation,
            links,
            current.process_index,
            workers,
            self.setup.config.worker_config(),
            Arc::clone(&self.setup.job),
            move |ended| drop(events.send(NodeEvent::Ended(ended))),
        );
        match running {
            Ok(running) => {
                current.running = Some(running);
                self.recovery.building(number, workers);
                self.step(Input::GenerationRunning { view: number })
            }
            Err(error) => Err(Error::internal(format!("cannot start view {number}: {error}"))),
        }
    }

    pub(super) fn on_ended(&mut self, ended: WorkerEnded) -> Result<()> {
        if self.is_late(&ended) {
            return self.on_ended_late(&ended);
        }
        let Some(current) = self.current.as_mut().filter(|c| c.view.number == ended.view) else {
            return Ok(());
        };
        current.ended.insert(ended.worker);
        let view = ended.view;
        let (mut input, mut seen) = (None, None);
        match ended.verdict() {
            Verdict::Finished => current.finished += 1,
            Verdict::Stopped => {}
            Verdict::Panicked(mut panic) => {
                if let Some(advice) = advice::on_panic(&panic.message) {
                    panic.message = format!("{} ({advice})", panic.message);
                }
                input = Some(Input::WorkerPanicked { view, panic });
            }
            Verdict::Failed(error) => {
                input = Some(Input::FatalError { message: error.to_string() });
                self.job_error = Some(job_failed(&error));
                seen = Some(witness::of_job_error(self.setup.node, view, &error));
            }
        }
        let all_ended = current.ended.len() == self.setup.config.workers;
        let all_finished = current.finished == self.setup.config.workers;
        self.observe(seen);
        if let Some(input) = input {
            self.step(input)?;
        }
        if all_ended && let Some(current) = &mut self.current {
            if let Some(running) = &mut current.running {
                if all_finished {
                    self.when_done = running.shared.take_when_done();
                }
                let events = self.events.clone();
                running.join(move || drop(events.send(NodeEvent::Joined { view })));
            }
            if all_finished {
                self.step(Input::GenerationFinished { view })?;
            }
        }
        Ok(())
    }

    /// Looks whether a worker hangs, a link is stuck, or lost copies are whole again.
    pub(super) fn look_around(&mut self, now: Instant) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let view = current.view.number;
        if let Some((partitions, took)) = current.watches.refilled(now, self.vault.as_ref()) {
            let took_ms = took.as_secs_f64() * 1e3;
            self.tell(What::Refilled { view, partitions, took_ms });
        }
        // What the job does after its dataflow has ended is its own affair.
        let is_over = |current: &Current| {
            current.is_stopping()
                || !current.ended.is_empty()
                || current.committed == Some(Epoch::END)
        };
        let Some(current) = self.current.as_mut().filter(|current| !is_over(current)) else {
            return Ok(());
        };
        let Some(running) = &current.running else { return Ok(()) };
        let building = current.agreement.still_building(now, self.setup.config.workers);
        let waiting = current.dropping.waiting(now);
        let mut seen = Vec::new();
        if let Some(Hung { worker, busy }) = current.watches.hung(now, &running.shared) {
            seen.push(Input::WorkerHung { view, worker, busy_ms: busy.as_millis() as u64 });
        }
        if current.watches.links_are_due(now) {
            for (node, traffic) in running.traffic() {
                if let Some((_, connection)) = self.controls.get(node) {
                    let bytes = traffic.received_bytes();
                    // A lost connection reports itself.
                    let _ = connection.send(&Message::Received { view, bytes });
                }
            }
            for (node, stuck) in current.watches.stuck(now, running.traffic()) {
                seen.push(Input::LinkLost { view, node, why: stuck.to_string() });
            }
        }
        for text in building.into_iter().chain(waiting) {
            self.tell(What::Message { text });
        }
        seen.into_iter().try_for_each(|input| self.step(input))
    }
}
