//! Contents: what a log holds when a view begins.

use std::sync::Arc;
use std::time::Instant;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;

use super::chunk::{self, Update};
use super::layout::{BatchWriter, Kept};
use super::merge::Merge;
use crate::codec::CodecError;
use crate::data::Data;
use crate::error::JobError;
use crate::fence::Fence;
use crate::generation::Notice;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::state::ReplicaBase;
use crate::time::FencedTime;

/// What a log holds when a view begins.
pub(super) struct Contents {
    pub(super) fence: Fence,
    pub(super) name: OperatorName,
    /// When it was begun to be opened.
    pub(super) begun: Instant,
    pub(super) bases: Vec<(PartitionId, Arc<ReplicaBase>)>,
}

impl Contents {
    /// All updates, partition by partition; those of each sorted, consolidated, and with times advanced
    /// to the resume epoch.
    pub(super) fn updates<K, V, T, R>(self) -> Vec<Update<K, V, T, R>>
    where
        K: Data + Ord,
        V: Data + Ord,
        T: FencedTime + Lattice + Data,
        R: Data + Semigroup,
    {
        let (mut all, mut updates) = (Vec::new(), Vec::new());
        for (chunks, (partition, _)) in self.chunks().into_iter().zip(&self.bases) {
            for chunk in chunks {
                let decoded = chunk::decode(chunk, &mut updates);
                decoded.unwrap_or_else(|error| self.refuse(*partition, &error));
            }
            if let Some(resume) = self.fence.generation().resume {
                chunk::advance(&mut updates, resume);
            }
            all.append(&mut updates);
        }
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Planted::TraceLosesFirst) && !all.is_empty() {
            all.remove(0);
        }
        self.tell();
        all
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
        let batch = self.fence.generation().resume.and_then(|resume| {
            let chunks = self.chunks();
            let written = self.write_batch::<K, V, T, R, Tr>(&chunks, resume);
            written.unwrap_or_else(|error| {
                let is_bad = |chunks: &Vec<&[u8]>| {
                    let mut updates: Vec<Update<K, V, T, R>> = Vec::new();
                    chunks.iter().any(|chunk| chunk::decode(chunk, &mut updates).is_err())
                };
                let place = chunks.iter().position(is_bad).unwrap_or(0);
                self.refuse(self.bases[place].0, &error)
            })
        });
        self.tell();
        batch
    }

    fn write_batch<K, V, T, R, Tr>(
        &self,
        chunks: &[Vec<&[u8]>],
        since: Epoch,
    ) -> Result<Option<Tr::Batch>, CodecError>
    where
        K: Data + Ord,
        V: Data + Ord,
        T: FencedTime + Lattice + Data,
        R: Data + Semigroup,
        Tr: Kept<K, V, T, R>,
    {
        let merge = Merge::<K, V, T, R>::new(chunks)?;
        let mut writer = Tr::Writer::new(merge.room());
        #[cfg(feature = "planted")]
        let mut loses = crate::planted::is(crate::planted::Planted::TraceLosesFirst);
        merge.run(since, |updates| {
            #[cfg(feature = "planted")]
            if std::mem::take(&mut loses) && !updates.is_empty() {
                updates.remove(0);
            }
            writer.push(updates);
        })?;
        Ok(writer.done())
    }

    fn chunks(&self) -> Vec<Vec<&[u8]>> {
        let mut all = Vec::with_capacity(self.bases.len());
        for (partition, base) in &self.bases {
            let chunks = base.chunks().unwrap_or_else(|error| self.refuse(*partition, &error));
            all.push(chunks.into_iter().map(|(_, chunk)| chunk).collect());
        }
        all
    }

    fn refuse(&self, partition: PartitionId, error: &CodecError) -> ! {
        let (operator, what) = (self.name.clone(), error.to_string());
        self.fence.fail(JobError::State { operator, partition, what })
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
