//! The writer: writes segments and manifests on a thread of its own.
//!
//! A store may be slow or hang, and neither a worker nor the node's loop may wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, unbounded};
use ringfence_operators::ids::{Epoch, Incarnation, NodeId, PartitionId, ViewNumber};
use ringfence_operators::vault::MemoryVault;

use super::DurableError;
use super::manifest::{self, Manifest, Stage};
use super::segment::{self, Block, read_index, sha1_of};
use super::store::{Created, Store};
use crate::protocol::durability::{ManifestWritten, Order, SegmentRecord, Written};

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

/// What the writer has done.
pub(crate) enum Outcome {
    /// A segment.
    Segment(Order, Written),
    /// A manifest.
    Manifest(Order, ManifestWritten),
}

enum Task {
    Segment(Arc<Scene>, Order),
    Manifest(Arc<Scene>, Order, Vec<SegmentRecord>),
}

/// Writes one thing at a time.
pub(crate) struct Writer {
    tasks: Sender<Task>,
}

impl Writer {
    /// Starts the thread. `newest` is the manifest that this start of the cluster has claimed, if this node
    /// knows it. The thread ends with the writer, unless it hangs in the store: then with the process.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        vault: Arc<MemoryVault>,
        (node, incarnation): (NodeId, Incarnation),
        start: u64,
        run: String,
        done: impl Fn(Outcome) + Send + 'static,
    ) -> Self {
        let (tasks, due) = unbounded();
        let mut work = Work {
            store,
            vault,
            node,
            incarnation,
            start,
            run,
            sequence: 0,
            newest: None,
            kept: Vec::new(),
            indexes: BTreeMap::new(),
        };
        thread::spawn(move || {
            for task in due {
                done(match task {
                    Task::Segment(scene, order) => {
                        Outcome::Segment(order, work.write_segment(&scene, order))
                    }
                    Task::Manifest(scene, order, segments) => {
                        Outcome::Manifest(order, work.write_manifest(&scene, order, segments))
                    }
                });
            }
        });
        Writer { tasks }
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
    store: Arc<dyn Store>,
    vault: Arc<MemoryVault>,
    node: NodeId,
    incarnation: Incarnation,
    start: u64,
    run: String,
    /// How many segments this process has written.
    sequence: u64,
    /// The newest manifest that is known.
    newest: Option<Manifest>,
    /// The segments that each of the last manifests names, and its number.
    kept: Vec<(u64, BTreeSet<String>)>,
    /// The index of each segment that the newest manifest names.
    indexes: BTreeMap<String, Vec<Block>>,
}

impl Work {
    fn write_segment(&mut self, scene: &Scene, order: Order) -> Written {
        let writes = |partition: PartitionId| {
            scene.writes.get(partition.0 as usize).copied().unwrap_or(false)
        };
        let states = match self.vault.unsaved(order.view, order.durable, order.epoch, &writes) {
            Ok(Some(states)) => states,
            // The view is over, or something is folded too far.
            Ok(None) | Err(_) => return Written::TooLate,
        };
        if states.is_empty() {
            return Written::Segment(None);
        }
        let bytes = segment::encode(&states);
        drop(states);
        self.sequence += 1;
        let name = format!(
            "segments/{:06}-{}-{}-{}/{:08}",
            self.start, order.view.0, self.node.0, self.incarnation.0, self.sequence
        );
        match self.store.create(&name, &bytes) {
            Ok(Created::Now) => {}
            Ok(Created::Exists) => return Written::Failed(format!("{name} is there already")),
            Err(error) => return Written::Failed(error.to_string()),
        }
        let record = SegmentRecord { bytes: bytes.len() as u64, sha1: sha1_of(&bytes), name };
        // Durable is said only after it was found.
        match read_index(self.store.as_ref(), &record) {
            Ok(_) => Written::Segment(Some(record)),
            Err(error) => Written::Failed(error.to_string()),
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
            let newest = match self.newest.take() {
                Some(newest) => newest,
                None => Manifest::newest(self.store.as_ref())?
                    .0
                    .unwrap_or_else(|| Manifest::before_any(scene.writes.len() as u32)),
            };
            if newest.start > self.start {
                return Ok(ManifestWritten::Superseded { run: newest.run });
            }
            if let Some(epoch) = newest.epoch.filter(|epoch| Some(*epoch) > order.durable) {
                self.newest = Some(newest);
                return Ok(ManifestWritten::Ahead(epoch));
            }
            let mut named = newest.segments.clone();
            named.extend(segments.iter().cloned());
            let manifest = Manifest {
                number: newest.number + 1,
                start: self.start,
                run: self.run.clone(),
                view: order.view,
                stage: if order.epoch == Epoch::END { Stage::Done } else { Stage::Running },
                epoch: Some(order.epoch),
                members: scene.members.clone(),
                operators: self.vault.operator_records(),
                segments: self.needed(named)?,
                ..newest
            };
            match manifest.create(self.store.as_ref())? {
                Created::Now => {
                    self.delete_unneeded(&manifest)?;
                    self.newest = Some(manifest);
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
                let index = read_index(self.store.as_ref(), record)?;
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

    /// Deletes manifests before the last few, and the segments that none of the others names.
    ///
    /// A manifest is made from the one before it, so what one leaves out none names that comes later.
    fn delete_unneeded(&mut self, manifest: &Manifest) -> Result<(), DurableError> {
        let names = manifest.segments.iter().map(|segment| segment.name.clone()).collect();
        self.kept.push((manifest.number, names));
        while self.kept.len() > MANIFESTS_KEPT {
            let (number, names) = self.kept.remove(0);
            self.store.delete(&manifest::name_of(number))?;
            let is_named = |name: &String| self.kept.iter().any(|(_, names)| names.contains(name));
            for name in names.iter().filter(|name| !is_named(name)) {
                self.store.delete(name)?;
            }
        }
        Ok(())
    }
}
