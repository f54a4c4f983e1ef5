//! Contents: what a log holds when a view begins.

use std::sync::Arc;
use std::time::Instant;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;

use super::chunk::{self, Update};
use super::layout::{BatchWriter, Kept, Room};
use super::merge::Merge;
use crate::data::Data;
use crate::fence::Fence;
use crate::fence::generation::Notice;
use crate::ids::{OperatorName, PartitionId};
use crate::planted::{self, Planted};
use crate::state::ReplicaBase;
use crate::time::FencedTime;

/// What a log holds when a view begins.
pub(super) struct Contents {
    pub(super) fence: Fence,
    pub(super) name: OperatorName,
    /// When opening it began.
    pub(super) begun: Instant,
    pub(super) bases: Vec<(PartitionId, Arc<ReplicaBase>)>,
}

impl Contents {
    /// All updates: sorted, consolidated, and with times advanced to the resume epoch.
    pub(super) fn updates<K, V, T, R>(self) -> Vec<Update<K, V, T, R>>
    where
        K: Data + Ord,
        V: Data + Ord,
        T: FencedTime + Lattice + Data,
        R: Data + Semigroup,
    {
        let begin = |room: Room| Vec::with_capacity(room.vals);
        self.gather(begin, Vec::append).unwrap_or_default()
    }

    /// A batch of all updates, with times advanced to the resume epoch; `None` if there are none.
    pub(super) fn batch<K, V, T, R, Tr>(self) -> Option<Tr::Batch>
    where
        K: Data + Ord,
        V: Data + Ord,
        T: FencedTime + Lattice + Data,
        R: Data + Semigroup,
        Tr: Kept<K, V, T, R>,
    {
        self.gather(Tr::Writer::new, Tr::Writer::push)?.done()
    }

    /// Collects all updates, piece by piece; `None` if nothing is resumed.
    fn gather<K, V, T, R, A>(
        self,
        begin: impl FnOnce(Room) -> A,
        mut add: impl FnMut(&mut A, &mut Vec<Update<K, V, T, R>>),
    ) -> Option<A>
    where
        K: Data + Ord,
        V: Data + Ord,
        T: FencedTime + Lattice + Data,
        R: Data + Semigroup,
    {
        let gathered = self.fence.generation().resume.map(|resume| {
            let chunks = self.chunks();
            let merged = Merge::<K, V, T, R>::new(&chunks).and_then(|merge| {
                let mut all = begin(merge.room());
                let mut loses = planted::is(Planted::TraceLosesFirst);
                merge.run(resume, |updates| {
                    if std::mem::take(&mut loses) && !updates.is_empty() {
                        updates.remove(0);
                    }
                    add(&mut all, updates);
                })?;
                Ok(all)
            });
            merged.unwrap_or_else(|error| {
                let is_bad = |chunk: &&[u8]| {
                    let mut updates: Vec<Update<K, V, T, R>> = Vec::new();
                    let decoded = chunk::decode(chunk, &mut updates);
                    decoded.is_err() || !updates.is_sorted_by(|one, next| one.0.0 <= next.0.0)
                };
                let place = chunks.iter().position(|chunks| chunks.iter().any(is_bad));
                self.fence.unusable(&self.name, self.bases[place.unwrap_or(0)].0, error)
            })
        });
        self.tell();
        gathered
    }

    fn chunks(&self) -> Vec<Vec<&[u8]>> {
        let mut all = Vec::with_capacity(self.bases.len());
        for (partition, base) in &self.bases {
            let chunks = base.chunks();
            let chunks =
                chunks.unwrap_or_else(|error| self.fence.unusable(&self.name, *partition, error));
            all.push(chunks.into_iter().map(|(_, chunk)| chunk).collect());
        }
        all
    }

    fn tell(&self) {
        if !self.fence.is_first_view() {
            self.fence.notice(Notice::Restored {
                worker: self.fence.worker(),
                operator: self.name.clone(),
                rewound: 0,
                opened: self.bases.len(),
                bytes_opened: self.bases.iter().map(|(_, base)| base.encoded_bytes()).sum(),
                keys_rewound: 0,
                elapsed: self.begun.elapsed(),
            });
        }
    }
}
