//! The writer: writes segments and manifests on a thread of its own.
//!
//! A store may be slow or hang, and neither a worker nor the node's loop may wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, unbounded};
use ringfence_operators::ids::{Incarnation, NodeId, PartitionId, ViewNumber};
use ringfence_operators::vault::MemoryVault;

use super::DurableError;
use super::manifest::{self, Manifest, Newest, Stage};
use super::segment::{self, Block, read_index, sha1_of};
use super::store::{Created, Store};
use crate::protocol::durability::{ManifestWritten, Order, SegmentRecord, Written};
use crate::protocol::view::DurableStart;

/// So many manifests are kept, with all that they name: if the newest is damaged, the one before it serves.
const MANIFESTS_KEPT: usize = 3;

/// What the writer must know of the view in which it writes.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// The view.
    pub(crate) view: ViewNumber,
    /// The members, with the addresses at which they listen.
    pub(crate) members: Vec<(NodeId, String)>,
    /// Whether this node writes each of the partitions.
    pub(crate) writes: Vec<bool>,
}

/// What this start of the cluster has found, and claims before it writes any manifest.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// Where it goes on.
    pub(crate) start: DurableStart,
    /// The run, by the name that is the same in all starts.
    pub(crate) run: String,
    /// Whether results are released only once they are durable.
    pub(crate) commit_waits: bool,
}

/// What a writer begins with.
pub(crate) struct WriterSetup {
    /// Where it writes.
    pub(crate) store: Arc<dyn Store>,
    /// What it writes from.
    pub(crate) vault: Arc<MemoryVault>,
    /// This node.
    pub(crate) node: NodeId,
    /// This start of the node.
    pub(crate) incarnation: Incarnation,
    /// What the cluster claims.
    pub(crate) claim: Claim,
}

/// What the writer has done.
pub(crate) enum Outcome {
    /// A segment.
    Segment(Order, Written),
    /// A manifest.
    Manifest(Order, ManifestWritten),
    /// Nothing: the store belongs to somebody else.
    Unclaimed(ClaimError),
}

/// Why a store cannot be claimed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Another cluster has claimed it.
    #[error(
        "another cluster has started on {place} (run {run}): only one can go on from there; this one ends"
    )]
    Taken {
        /// The store.
        place: String,
        /// The run of that cluster.
        run: String,
    },
    /// The cluster before this one still writes.
    #[error(
        "run {run} still writes to {place}: manifest {found} is there, and this start goes on from manifest \
         {expected}; end the other cluster first, then start again"
    )]
    InUse {
        /// The store.
        place: String,
        /// The run.
        run: String,
        /// The newest manifest.
        found: u64,
        /// The one that was the newest when this cluster started.
        expected: u64,
    },
}

enum Task {
    Claim(Arc<Scene>),
    Segment(Arc<Scene>, Order),
    Manifest(Arc<Scene>, Order, Vec<SegmentRecord>),
}

/// Writes one thing at a time.
pub(crate) struct Writer {
    tasks: Sender<Task>,
}

impl Writer {
    /// Starts the thread. It ends with the writer, unless it hangs in the store: then with the process.
    pub(crate) fn start(setup: WriterSetup, done: impl Fn(Outcome) + Send + 'static) -> Self {
        let (tasks, due) = unbounded();
        let mut work = Work {
            setup,
            sequence: 0,
            newest: None,
            kept: Vec::new(),
            indexes: BTreeMap::new(),
            swept: None,
        };
        thread::spawn(move || {
            for task in due {
                let outcome = match task {
                    Task::Claim(scene) => match work.claim(&scene) {
                        Ok(Err(why)) => Outcome::Unclaimed(why),
                        // A store that does not answer is tried again with the first manifest.
                        Ok(Ok(_)) | Err(_) => continue,
                    },
                    Task::Segment(scene, order) => {
                        Outcome::Segment(order, work.write_segment(&scene, order))
                    }
                    Task::Manifest(scene, order, segments) => {
                        Outcome::Manifest(order, work.write_manifest(&scene, order, segments))
                    }
                };
                done(outcome);
            }
        });
        Writer { tasks }
    }

    /// Claims the store for this start of the cluster.
    pub(crate) fn claim(&self, scene: Arc<Scene>) {
        let _ = self.tasks.send(Task::Claim(scene));
    }

    /// Writes what is new of this node's partitions.
    pub(crate) fn segment(&self, scene: Arc<Scene>, order: Order) {
        // An error means that the thread has panicked, which its own message has reported.
        let _ = self.tasks.send(Task::Segment(scene, order));
    }

    /// Writes the manifest of an epoch.
    pub(crate) fn manifest(&self, scene: Arc<Scene>, order: Order, segments: Vec<SegmentRecord>) {
        let _ = self.tasks.send(Task::Manifest(scene, order, segments));
    }
}

struct Work {
    setup: WriterSetup,
    /// How many segments this process has written.
    sequence: u64,
    /// The newest manifest that is known, of this start of the cluster, and the number of the next one.
    newest: Option<(Manifest, u64)>,
    /// The segments that each of the last manifests names, and its number.
    kept: Vec<(u64, BTreeSet<String>)>,
    /// The index of each segment that the newest manifest names.
    indexes: BTreeMap<String, Vec<Block>>,
    /// The view in which what earlier ones have left over was deleted.
    swept: Option<ViewNumber>,
}

impl Work {
    fn store(&self) -> &dyn Store {
        self.setup.store.as_ref()
    }

    fn write_segment(&mut self, scene: &Scene, order: Order) -> Written {
        let writes = |partition: PartitionId| {
            scene.writes.get(partition.0 as usize).copied().unwrap_or(false)
        };
        let vault = &self.setup.vault;
        let states = match vault.unsaved(order.view, order.durable, order.epoch, &writes) {
            Ok(Some(states)) => states,
            // An error says that the view is over.
            Ok(None) | Err(_) => return Written::NotNow,
        };
        if states.is_empty() {
            return Written::Segment(None);
        }
        let bytes = segment::encode(&states);
        drop(states);
        self.sequence += 1;
        let WriterSetup { node, incarnation, claim, .. } = &self.setup;
        let name =
            segment::name_of((claim.start.start, order.view), (*node, *incarnation), self.sequence);
        match self.store().create(&name, &bytes) {
            Ok(Created::Now) => {}
            Ok(Created::Exists) => return Written::Failed(format!("{name} is there already")),
            Err(error) => return Written::Failed(error.to_string()),
        }
        let record = SegmentRecord { bytes: bytes.len() as u64, sha1: sha1_of(&bytes), name };
        // Durable is said only after it was found.
        match read_index(self.store(), &record) {
            Ok(_) => Written::Segment(Some(record)),
            Err(error) => Written::Failed(error.to_string()),
        }
    }

    /// Claims the store, unless this start of the cluster has done so, and returns the newest manifest.
    fn claim(
        &mut self,
        scene: &Scene,
    ) -> Result<Result<(Manifest, u64), ClaimError>, DurableError> {
        let Claim { start, run, commit_waits } = self.setup.claim.clone();
        loop {
            let (newest, number) = match self.newest.take() {
                Some(known) => known,
                None => {
                    let Newest { manifest, next_number, .. } = Manifest::newest(self.store())?;
                    let empty = || Manifest::before_any(scene.writes.len() as u32, start.shares);
                    (manifest.unwrap_or_else(empty), next_number)
                }
            };
            if newest.start == start.start && newest.run == run {
                self.remember()?;
                return Ok(Ok((newest, number)));
            }
            let place = self.store().place();
            if newest.start >= start.start {
                return Ok(Err(ClaimError::Taken { place, run: newest.run }));
            }
            if newest.number != start.manifest {
                let (found, expected) = (newest.number, start.manifest);
                return Ok(Err(ClaimError::InUse { place, run: newest.run, found, expected }));
            }
            let claim = Manifest {
                number,
                start: start.start,
                run: run.clone(),
                view: scene.view,
                stage: Stage::Claimed,
                // What was released before is not taken back yet.
                is_exact: start.is_exact && commit_waits,
                members: scene.members.clone(),
                ..newest
            };
            // If somebody else has written this number, what it says is looked at first.
            if claim.create(self.store())? == Created::Now {
                self.newest = Some((claim, number + 1));
            }
        }
    }

    fn write_manifest(
        &mut self,
        scene: &Scene,
        order: Order,
        segments: Vec<SegmentRecord>,
    ) -> ManifestWritten {
        match self.try_write_manifest(scene, order, segments) {
            Ok(written) => written,
            Err(error) => {
                // Whatever is known may be out of date.
                self.newest = None;
                ManifestWritten::Failed(error.to_string())
            }
        }
    }

    fn try_write_manifest(
        &mut self,
        scene: &Scene,
        order: Order,
        segments: Vec<SegmentRecord>,
    ) -> Result<ManifestWritten, DurableError> {
        loop {
            let (newest, number) = match self.claim(scene)? {
                Ok(claimed) => claimed,
                Err(ClaimError::Taken { run, .. } | ClaimError::InUse { run, .. }) => {
                    return Ok(ManifestWritten::Superseded { run });
                }
            };
            if newest.view > order.view {
                // A later view goes on; whoever leads it has said so by its manifest.
                return Ok(ManifestWritten::Failed(format!("view {} is over", order.view)));
            }
            if let Some(epoch) = newest.epoch.filter(|epoch| Some(*epoch) > order.durable) {
                self.newest = Some((newest, number));
                return Ok(ManifestWritten::Ahead(epoch));
            }
            if newest.epoch != order.durable {
                // What was written continues something else.
                return Ok(ManifestWritten::Failed(format!(
                    "the newest manifest that is whole is number {} of epoch {:?}, and {:?} was durable",
                    newest.number, newest.epoch, order.durable
                )));
            }
            let mut named = newest.segments.clone();
            named.extend(segments.iter().cloned());
            let manifest = Manifest {
                number,
                view: order.view,
                stage: Stage::Running,
                epoch: Some(order.epoch),
                is_exact: self.setup.claim.commit_waits,
                members: scene.members.clone(),
                registry: self.setup.vault.registry(),
                segments: self.needed(named)?,
                ..newest.clone()
            };
            match manifest.create(self.store())? {
                Created::Now => {
                    self.keep(&manifest);
                    self.newest = Some((manifest, number + 1));
                    // What is left over does no harm.
                    let _ = self.delete_unneeded().and_then(|()| self.sweep(order.view));
                    return Ok(ManifestWritten::Created);
                }
                // Somebody else has written this number: what it says is looked at first.
                Created::Exists => {}
            }
        }
    }

    /// Leaves out the segments of which every block is superseded by a later base.
    fn needed(&mut self, named: Vec<SegmentRecord>) -> Result<Vec<SegmentRecord>, DurableError> {
        for record in &named {
            if !self.indexes.contains_key(&record.name) {
                let index = read_index(self.setup.store.as_ref(), record)?;
                self.indexes.insert(record.name.clone(), index);
            }
        }
        // For each partition of an operator: the last segment that has a base of it.
        let mut bases = BTreeMap::new();
        for (place, record) in named.iter().enumerate() {
            for block in self.indexes[&record.name].iter().filter(|block| block.is_base) {
                bases.insert((block.operator, block.partition), place);
            }
        }
        let is_needed = |place: usize, record: &SegmentRecord| {
            self.indexes[&record.name].iter().any(|block| {
                bases.get(&(block.operator, block.partition)).is_none_or(|base| *base <= place)
            })
        };
        let needed = named.iter().enumerate().filter(|(place, record)| is_needed(*place, record));
        let needed: Vec<_> = needed.map(|(_, record)| record.clone()).collect();
        self.indexes.retain(|name, _| needed.iter().any(|record| record.name == *name));
        Ok(needed)
    }

    /// Notes what the manifests name that others have written.
    fn remember(&mut self) -> Result<(), DurableError> {
        if !self.kept.is_empty() {
            return Ok(());
        }
        for number in manifest::numbers(self.store())? {
            // A damaged one names nothing.
            if let Ok(Some(manifest)) = Manifest::read(self.store(), number) {
                self.keep(&manifest);
            }
        }
        Ok(())
    }

    /// Deletes the segments of earlier views and starts that no manifest names: what was written for a manifest
    /// that did not come about. None can come of it any more, since this view has a manifest.
    fn sweep(&mut self, view: ViewNumber) -> Result<(), DurableError> {
        if self.swept == Some(view) {
            return Ok(());
        }
        let present = (self.setup.claim.start.start, view.0);
        for (name, _) in self.store().list(segment::FOLDER)? {
            let is_named = self.kept.iter().any(|(_, names)| names.contains(&name));
            if !is_named && segment::written_in(&name).is_some_and(|written| written < present) {
                self.store().delete(&name)?;
            }
        }
        self.swept = Some(view);
        Ok(())
    }

    /// Notes what a manifest names.
    fn keep(&mut self, manifest: &Manifest) {
        if self.kept.last().is_none_or(|(number, _)| *number < manifest.number) {
            let names = manifest.segments.iter().map(|segment| segment.name.clone()).collect();
            self.kept.push((manifest.number, names));
        }
    }

    /// Deletes manifests before the last few, and the segments that none of the others names.
    ///
    /// A manifest is made from the one before it, so what one leaves out none names that comes later.
    fn delete_unneeded(&mut self) -> Result<(), DurableError> {
        while self.kept.len() > MANIFESTS_KEPT {
            let (number, names) = self.kept.remove(0);
            self.store().delete(&manifest::name_of(number))?;
            let is_named = |name: &String| self.kept.iter().any(|(_, names)| names.contains(name));
            for name in names.iter().filter(|name| !is_named(name)) {
                self.store().delete(name)?;
            }
        }
        Ok(())
    }
}
