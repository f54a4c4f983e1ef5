//! Views: a generation of workers for each, from its connections to its end.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ringfence_operators::fence::generation::{Generation, PIECE_BYTES, Settings};
use ringfence_operators::ids::{Epoch, NodeId, PartitionId, ViewNumber};
use ringfence_operators::vault::Vault;

use super::{Agreement, Current, Dropping, Node, NodeEvent, Notices};
use crate::durable::resumption::run_of;
use crate::error::{Error, Result};
use crate::network::{Inbound, Link, LinkEnds, Purpose, Refusal};
use crate::protocol::assignment::Place;
use crate::protocol::member::Machine;
use crate::protocol::message::{Input, Message};
use crate::protocol::present::{Answer, Caller, Due, Standing, Why};
use crate::protocol::view::View;
use crate::report::{Takeover, What};
use crate::runtime::advice;
use crate::runtime::catch_up::CatchUp;
use crate::runtime::generation::{Running, SinceStart, Verdict, WorkerEnded};
use crate::runtime::hang::Hung;
use crate::runtime::holdings::{role_of, routes_of};
use crate::runtime::watches::Watches;
use crate::runtime::witness;
use crate::runtime::wording::job_failed;

/// How long a data connection may take to be made before that counts as a failure.
pub(super) const LINK_LIMIT: Duration = Duration::from_secs(5);

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
        if self.load_durable(&view) {
            return Ok(());
        }
        self.install_now(view)
    }

    pub(super) fn install_now(&mut self, view: View) -> Result<()> {
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

        let filled = |place: &&Place| place.filling.iter().any(|worker| worker.node == node);
        let refilling = view.assignment.places.iter().filter(filled).count() as u32;
        self.begin_durable(&view);
        let waiting = self.present.install(view);
        self.generations.retain(|view, _| self.present.hosts(*view));
        self.current = Some(Current {
            committed: None,
            catch_up: CatchUp::new(self.setup.config.workers),
            agreement: Agreement::new(),
            dropping: Dropping::default(),
            watches: Watches::new(
                self.setup.config.hang_limit,
                self.setup.config.suspect_limit,
                refilling,
            ),
        });
        self.dial_lower();
        for inbound in waiting {
            self.on_inbound(inbound)?;
        }
        self.start_if_linked()
    }

    fn dial_lower(&self) {
        let (view, digest) = (self.present.number(), self.present.digest());
        let digest = digest.map_or_else(String::new, |digest| digest.0.clone());
        for member in self.present.lower() {
            let peer = member.node;
            // What this node was told itself goes before what others say: a host may have another
            // name from here.
            let address = self.setup.nodes.get(&peer).unwrap_or(&member.address).clone();
            let purpose = Purpose::Data { view, digest: digest.clone() };
            let hello = self.hello(purpose, peer, Some(member.incarnation));
            let deadline = Instant::now() + self.link_limit();
            self.spawn_dial(address, hello, deadline, move |result| NodeEvent::Linked {
                view,
                node: peer,
                result,
            });
        }
    }

    pub(super) fn on_inbound_data(
        &mut self,
        inbound: Inbound,
        view: ViewNumber,
        digest: &str,
    ) -> Result<()> {
        let node = inbound.hello.node;
        let incarnation = inbound.hello.incarnation;
        let known = self.controls.get(&node).map(|(known, _)| *known);
        match self.present.answer(&Caller { node, incarnation, view, digest, known }) {
            Answer::Accept => match inbound.accept(self.welcome()) {
                Ok(stream) => self.on_link(view, node, stream),
                Err(error) => {
                    self.step(Input::ConnectFailed { view, node, why: error.to_string() })
                }
            },
            Answer::Wait => {
                self.present.wait(node, inbound);
                Ok(())
            }
            Answer::Refuse(why) => self.refuse(inbound, refusal(why, node, view)),
        }
    }

    pub(super) fn on_link(
        &mut self,
        view: ViewNumber,
        node: NodeId,
        stream: TcpStream,
    ) -> Result<()> {
        if self.present.link(view, node, stream) {
            return self.start_if_linked();
        }
        Ok(())
    }

    /// Builds the generation once all data connections stand.
    pub(super) fn start_if_linked(&mut self) -> Result<()> {
        let Some(streams) = self.present.start() else { return Ok(()) };
        self.recovery.connected(Instant::now());
        let Some(view) = self.present.view() else { return Ok(()) };
        let Some(here) = view.process_index(self.setup.node) else { return Ok(()) };
        let (number, workers) = (view.number, self.setup.config.workers);
        let range = |process: usize| process * workers..(process + 1) * workers;
        let mut links = Vec::new();
        for (index, (member, stream)) in view.members.iter().zip(streams).enumerate() {
            links.push(stream.map(|stream| {
                let ends = LinkEnds { local_workers: range(here), remote_workers: range(index) };
                let events = self.events.clone();
                Link::new(stream, member.node, ends, move |loss| {
                    drop(events.send(NodeEvent::LinkLost { view: number, loss }));
                })
            }));
        }
        let run = self.run.as_ref().map_or_else(String::new, |run| run_of(&run.id).to_owned());
        let settings = Settings {
            hasher: self.setup.config.key_hash,
            epoch_interval: self.setup.config.epoch_interval,
            checkpoint_interval: self.setup.config.checkpoint_interval,
            in_flight_epochs_max: u64::from(self.setup.config.in_flight_epochs_max),
            run,
            workers_per_node: workers,
            share_count: self.share_count(),
            refill_bytes_per_second: self.setup.config.refill_bytes_per_second,
            piece_bytes: PIECE_BYTES,
            durable: self.durable_settings(),
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
            here,
            workers,
            self.setup.config.worker_config(),
            Arc::clone(&self.setup.job),
            move |ended| drop(events.send(NodeEvent::Ended(ended))),
        );
        match running {
            Ok(running) => {
                self.generations.insert(number, running);
                self.recovery.building(number);
                self.step(Input::GenerationRunning { view: number })
            }
            Err(error) => Err(Error::internal(format!("cannot start view {number}: {error}"))),
        }
    }

    pub(super) fn on_ended(&mut self, ended: WorkerEnded) -> Result<()> {
        let (view, worker) = (ended.view, ended.worker);
        let verdict = ended.verdict();
        let has_finished = matches!(verdict, Verdict::Finished);
        let departure = self.present.worker_ended(view, worker, has_finished);
        if departure.standing != Standing::InTime {
            if departure.is_last {
                self.join_threads(view);
            }
            return match departure.standing {
                Standing::Late => self.give_evidence(Due::Grow),
                _ => Ok(()),
            };
        }
        let (mut input, mut seen) = (None, None);
        match verdict {
            Verdict::Finished | Verdict::Stopped => {}
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
        let all_finished = self.present.is_finished();
        self.observe(seen);
        if let Some(input) = input {
            self.step(input)?;
        }
        if departure.is_last {
            if let Some(running) = self.generations.get(&view).filter(|_| all_finished) {
                self.when_done = running.shared.take_when_done();
            }
            self.join_threads(view);
        }
        if all_finished { self.step(Input::GenerationFinished { view }) } else { Ok(()) }
    }

    /// Looks whether a worker hangs, a link is stuck, or lost copies are whole again.
    pub(super) fn look_around(&mut self, now: Instant) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let view = self.present.number();
        if let Some((partitions, took)) = current.watches.refilled(now, &self.vault) {
            let took_ms = took.as_secs_f64() * 1e3;
            self.tell(What::Refilled { view, partitions, took_ms });
            self.step(Input::Refilled { view })?;
        }
        // What the job does after its dataflow has ended is its own affair.
        let (Some(current), Some(running)) = (&mut self.current, self.generations.get(&view))
        else {
            return Ok(());
        };
        if self.present.is_stopping()
            || self.present.has_any_ended()
            || current.committed == Some(Epoch::END)
        {
            return Ok(());
        }
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

/// Why a data connection is refused, as the caller is told.
fn refusal(why: Why, node: NodeId, view: ViewNumber) -> Refusal {
    match why {
        Why::NotYet => Refusal::NotYet,
        Why::Stale => Refusal::StaleView { yours: view },
        Why::OtherDigest => Refusal::OtherDigest { view },
        Why::NotAMember => Refusal::NotAMember { node },
        Why::Ended => Refusal::Ended { view },
        Why::AlreadyConnected => Refusal::AlreadyConnected { node },
    }
}
