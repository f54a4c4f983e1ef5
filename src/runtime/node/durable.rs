//! The durable tier of a node: what its part in it is told, and how what that decides is carried out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_operators::fence::generation::DurableSettings;
use ringfence_operators::ids::{Epoch, NodeId};
use ringfence_operators::state::Replica;
use ringfence_operators::vault::Registry;

use super::views::LINK_LIMIT;
use super::{Node, NodeEvent};
use crate::durable::manifest::{Manifest, Newest, Stage};
use crate::durable::resumption::{Resumption, run_of};
use crate::durable::store::{Created, Store};
use crate::durable::writer::{Claim, Outcome, Scene, Writer, WriterSetup};
use crate::durable::{DurableError, restore, store_error};
use crate::error::{Error, Kind, Result};
use crate::protocol::durability::{Deed, Durability};
use crate::protocol::message::{Input, Message};
use crate::protocol::view::{DurableStart, View};
use crate::report::What;
use crate::runtime::holdings::role_of;

/// How often it is told again that durable state falls behind.
const BEHIND_TOLD_INTERVAL: Duration = Duration::from_secs(10);

/// What a node has to do with the durable tier of its cluster.
pub(super) struct Tier {
    store: Arc<dyn Store>,
    /// What this process has found, for the case that it proposes the first view.
    found: DurableStart,
    /// Of this start of the cluster; known with the first view that is installed.
    begun: Option<Begun>,
    /// The first view, while what it resumes from is being read.
    loading: Option<View>,
    /// Whether that view is to be stopped as soon as this node can say what it holds.
    stops_once_loaded: bool,
    /// 1 more than the last durable epoch; 0 before any.
    through: Arc<AtomicU64>,
    behind_told: Option<Instant>,
}

struct Begun {
    start: DurableStart,
    part: Durability,
    writer: Writer,
    scene: Arc<Scene>,
}

/// What was read of the state to resume from.
pub(crate) type Loaded = Result<(Registry, Vec<Replica>), DurableError>;

fn after(epoch: Option<Epoch>) -> u64 {
    epoch.map_or(0, |epoch| epoch.0.saturating_add(1))
}

impl Tier {
    /// What a node begins with that goes on from `found`.
    pub(super) fn new(found: Resumption) -> Tier {
        Tier {
            store: found.store,
            found: found.start,
            begun: None,
            loading: None,
            stops_once_loaded: false,
            through: Arc::default(),
            behind_told: None,
        }
    }

    /// What the first view is to resume from.
    pub(super) fn found(&self) -> DurableStart {
        self.found
    }
}

impl Node {
    /// What the operators must know of the durable tier.
    pub(super) fn durable_settings(&self) -> Option<DurableSettings> {
        let tier = self.tier.as_ref()?;
        let begun = tier.begun.as_ref()?;
        let resume = self.present.view().and_then(|view| view.resume);
        Some(DurableSettings {
            // A view that fails before it commits leaves what it was to take back to the next.
            is_resumed: begun.start.manifest > 0 && resume == begun.start.epoch,
            cuts_back: !begun.start.is_exact,
            commit_waits: self.setup.config.durable_commit,
            through: Arc::clone(&tier.through),
        })
    }

    /// The number of shares of hand-fed inputs: that of the workers of the first view of the run.
    pub(super) fn share_count(&self) -> u32 {
        let begun = self.tier.as_ref().and_then(|tier| tier.begun.as_ref());
        let here = (self.setup.nodes.len() * self.setup.config.workers) as u32;
        begun.map_or(here, |begun| begun.start.shares)
    }

    /// Reads the state that the first view resumes from, if there is any. Returns whether the view waits for it.
    pub(super) fn load_durable(&mut self, view: &View) -> bool {
        let (Some(tier), Some(start)) = (&mut self.tier, view.durable) else { return false };
        if view.number.0 != 1 || start.epoch.is_none() {
            return false;
        }
        tier.loading = Some(view.clone());
        let (store, events) = (Arc::clone(&tier.store), self.events.clone());
        let (node, view) = (self.setup.node, view.clone());
        thread::spawn(move || {
            let loaded = load(store.as_ref(), start, &view, node);
            let _ = events.send(NodeEvent::Loaded(loaded));
        });
        true
    }

    /// Whether the state to resume from is still being read.
    pub(super) fn is_loading(&self) -> bool {
        self.tier.as_ref().is_some_and(|tier| tier.loading.is_some())
    }

    /// Notes that the first view is to be stopped, if this node is still reading what it resumes from: before
    /// that it does not hold what the others count on.
    pub(super) fn stops_once_loaded(&mut self) -> bool {
        let is_loading = self.is_loading();
        if let Some(tier) = self.tier.as_mut().filter(|_| is_loading) {
            tier.stops_once_loaded = true;
        }
        is_loading
    }

    /// How long data connections of a view may take: in the first, the other side may still be reading.
    pub(super) fn link_limit(&self) -> Duration {
        let is_read = |view: &View| view.number.0 == 1 && view.resume.is_some();
        let is_read = self.present.view().is_some_and(is_read);
        if is_read { LINK_LIMIT.max(self.setup.config.connect_limit) } else { LINK_LIMIT }
    }

    /// The state to resume from is read: the first view begins.
    pub(super) fn on_loaded(&mut self, loaded: Loaded) -> Result<()> {
        let Some(view) = self.tier.as_mut().and_then(|tier| tier.loading.take()) else {
            return Ok(());
        };
        let (registry, replicas) = loaded.map_err(store_error)?;
        let node = self.setup.node;
        let role = |partition| role_of(&view, node, partition);
        if let Some(resume) = view.resume {
            self.vault.preload(resume, registry, replicas, &role).map_err(|error| {
                Error::new(Kind::Input, "what is durable cannot be used").because(error)
            })?;
            let text = format!("resuming after epoch {resume}, which is durable");
            self.tell(What::Message { text });
        }
        let number = view.number;
        self.install_now(view)?;
        let stops = self.tier.as_mut().map(|tier| std::mem::take(&mut tier.stops_once_loaded));
        let testimony = stops.filter(|stops| *stops).and_then(|_| self.stop_generation(number));
        testimony.map_or(Ok(()), |testimony| self.step(testimony))
    }

    /// Begins the durable tier's part of a view.
    pub(super) fn begin_durable(&mut self, view: &View) {
        let node = self.setup.node;
        let (Some(tier), Some(start)) = (&mut self.tier, view.durable) else { return };
        let writes = view.assignment.places.iter().map(|place| {
            // One of those that receive every delta.
            place.fed().next().is_some_and(|keeper| keeper.node == node)
        });
        let members = view.members.iter();
        let scene = Arc::new(Scene {
            view: view.number,
            members: members.clone().map(|member| (member.node, member.address.clone())).collect(),
            writes: writes.collect(),
        });
        let begun = tier.begun.get_or_insert_with(|| {
            tier.through.store(after(start.epoch), Ordering::Release);
            let events = self.events.clone();
            let setup = WriterSetup {
                store: Arc::clone(&tier.store),
                vault: Arc::clone(&self.vault),
                node,
                incarnation: self.incarnation,
                claim: Claim {
                    start,
                    run: run_of(&view.run).to_owned(),
                    commit_waits: self.setup.config.durable_commit,
                },
            };
            let every_ms = self.setup.config.durable_interval.as_millis() as u64;
            Begun {
                start,
                part: Durability::new(node, every_ms, start.epoch),
                writer: Writer::start(setup, move |outcome| {
                    let _ = events.send(NodeEvent::Written(outcome));
                }),
                scene: Arc::clone(&scene),
            }
        });
        begun.scene = scene;
        begun.part.begin(view.number, members.map(|member| member.node).collect());
        if begun.part.leads() {
            begun.writer.claim(Arc::clone(&begun.scene));
        }
    }

    /// Lets the durable tier's part of the node decide.
    fn durable_step(
        &mut self,
        decide: impl FnOnce(&mut Durability, u64) -> Vec<Deed>,
    ) -> Result<()> {
        let now_ms = self.now_ms();
        let begun = self.tier.as_mut().and_then(|tier| tier.begun.as_mut());
        let deeds = begun.map_or_else(Vec::new, |begun| decide(&mut begun.part, now_ms));
        deeds.into_iter().try_for_each(|deed| self.do_durable(deed))
    }

    fn do_durable(&mut self, deed: Deed) -> Result<()> {
        let here = self.setup.node;
        match deed {
            Deed::SendOrder(node, order) if node == here => {
                return self.durable_step(|part, _| part.on_order(order));
            }
            Deed::SendOrder(node, order) => self.say(node, &Message::DurableOrder(order)),
            Deed::WriteSegment(order) => {
                if let Some(begun) = self.tier.as_ref().and_then(|tier| tier.begun.as_ref()) {
                    begun.writer.segment(Arc::clone(&begun.scene), order);
                }
            }
            Deed::SendWritten(node, order, written) if node == here => {
                return self.durable_step(|part, _| part.on_written(here, order, written));
            }
            Deed::SendWritten(node, order, written) => {
                self.say(node, &Message::DurableWritten { order, written });
            }
            Deed::WriteManifest(order, segments) => {
                if let Some(begun) = self.tier.as_ref().and_then(|tier| tier.begun.as_ref()) {
                    begun.writer.manifest(Arc::clone(&begun.scene), order, segments);
                }
            }
            Deed::SendDurable(node, view, epoch) => {
                self.say(node, &Message::Durable { view, epoch })
            }
            Deed::Saved(epoch) => {
                self.vault.saved(epoch);
                let Some(tier) = &self.tier else { return Ok(()) };
                tier.through.store(after(Some(epoch)), Ordering::Release);
                let leads = tier.begun.as_ref().is_some_and(|begun| begun.part.leads());
                if leads && epoch != Epoch::END {
                    self.tell(What::Durable { view: self.view(), epoch });
                }
            }
            Deed::Behind(why) => self.tell_behind(&why),
            Deed::Superseded(run) => {
                let place = self.tier.as_ref().map_or_else(String::new, |tier| tier.store.place());
                let message = format!(
                    "another cluster has started on {place} (run {run}) and goes on from there: this one ends"
                );
                return self.step(Input::FatalError { message });
            }
        }
        Ok(())
    }

    fn tell_behind(&mut self, why: &str) {
        let now = Instant::now();
        let Some(tier) = &mut self.tier else { return };
        if tier.behind_told.is_some_and(|told| now.duration_since(told) < BEHIND_TOLD_INTERVAL) {
            return;
        }
        tier.behind_told = Some(now);
        let text = format!("what is committed cannot be made durable, trying again: {why}");
        self.tell(What::Message { text });
    }

    /// An epoch is committed in the present view.
    pub(super) fn durable_committed(&mut self, epoch: Epoch) -> Result<()> {
        self.durable_step(|part, now_ms| part.committed(now_ms, epoch))
    }

    /// Time has passed.
    pub(super) fn durable_tick(&mut self) -> Result<()> {
        self.durable_step(Durability::tick)
    }

    /// The writer has done something.
    pub(super) fn on_durable_outcome(&mut self, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Segment(order, written) => {
                self.durable_step(|part, _| part.on_segment(order, written))
            }
            Outcome::Manifest(order, written) => {
                self.durable_step(|part, _| part.on_manifest(order, written))
            }
            Outcome::Unclaimed(why) => {
                let message = why.to_string();
                self.step(Input::FatalError { message })
            }
        }
    }

    /// Another node says something of the durable tier.
    pub(super) fn on_durable_message(&mut self, from: NodeId, message: &Message) -> Result<()> {
        match message.clone() {
            Message::DurableOrder(order) => self.durable_step(|part, _| part.on_order(order)),
            Message::DurableWritten { order, written } => {
                self.durable_step(|part, _| part.on_written(from, order, written))
            }
            Message::Durable { epoch, .. } => self.durable_step(|part, _| part.on_durable(epoch)),
            _ => Ok(()),
        }
    }

    /// The job is done: nothing is left to resume from.
    pub(super) fn end_durable(&mut self) -> Result<()> {
        let Some(Tier { store, begun: Some(begun), .. }) = &self.tier else { return Ok(()) };
        if !begun.part.leads() {
            return Ok(());
        }
        mark_done(store.as_ref(), begun.start.start).map_err(store_error)
    }
}

fn load(store: &dyn Store, start: DurableStart, view: &View, node: NodeId) -> Loaded {
    let manifest = Manifest::read(store, start.manifest)?;
    let manifest = manifest.ok_or_else(|| DurableError::gone(store, start.manifest))?;
    let wanted = |partition| {
        let role = role_of(view, node, partition);
        role.owner || role.backup
    };
    let replicas = restore::replicas(store, &manifest, &wanted)?;
    Ok((manifest.registry, replicas))
}

/// Writes a last manifest, which says that the job is done.
fn mark_done(store: &dyn Store, start: u64) -> Result<(), DurableError> {
    loop {
        let Newest { manifest: Some(newest), next_number, .. } = Manifest::newest(store)? else {
            return Ok(());
        };
        if newest.start != start || newest.stage == Stage::Done {
            return Ok(());
        }
        let done = Manifest { number: next_number, stage: Stage::Done, ..newest };
        if done.create(store)? == Created::Now {
            return Ok(());
        }
    }
}
