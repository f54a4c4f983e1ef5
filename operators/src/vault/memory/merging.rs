//! Merging of chunks in a vault, outside of the workers' threads and of the locks for which they wait.

use std::sync::Mutex;

use super::{Cell, Key, MemoryVault, lock, read};
use crate::planted::{self, Planted};
use crate::state::ChunkMerger;
use crate::state::Replica;
use crate::vault::VaultError;
use crate::vault::chunks::MergeError;

impl MemoryVault {
    /// Merges chunks of a cell, about `budget_bytes` of them, and returns how many bytes were merged.
    ///
    /// The cell is locked only to read what is there and to store the result: a worker that stores a delta
    /// does not wait while chunks are merged.
    pub(super) fn merge(
        &self,
        (operator, partition): Key,
        cell: &Mutex<Cell>,
        merger: &dyn ChunkMerger,
        budget_bytes: usize,
    ) -> Result<usize, VaultError> {
        let mut merged_bytes = 0;
        while merged_bytes < budget_bytes {
            let (base, merged) = {
                let mut cell = lock(cell);
                let Cell { replica: Some(replica), merged, .. } = &mut *cell else { break };
                if !merged.begin(replica.base_epoch()) {
                    break;
                }
                let Some(base) = replica.unshared() else { break };
                (base, *merged)
            };
            // Never above what is recorded, and so never above the resume epoch of any future view.
            let Some(since) = base.epoch() else { break };
            let since = if planted::is(Planted::MergeAhead) {
                lock(cell).replica.as_ref().and_then(Replica::through).unwrap_or(since)
            } else {
                since
            };
            let step = merged.next(&base).and_then(|step| {
                let Some(step) = step else { return Ok(None) };
                Ok(Some((step.bytes, step.class, step.merge(merger, since)?)))
            });
            let mut cell = lock(cell);
            let Cell { replica: Some(replica), merged, .. } = &mut *cell else { break };
            if !replica.is_base(&base) {
                break;
            }
            match step {
                Ok(Some((bytes, class, replaced))) => {
                    let ids: Vec<_> = replaced.iter().map(|(id, _)| id.encode()).collect();
                    let values = replaced.iter().map(|(_, value)| value.as_deref());
                    let entries = ids.iter().map(|id| id.as_slice()).zip(values);
                    if !replica.rewrite(base, entries)? {
                        break;
                    }
                    merged_bytes += bytes;
                    merged.note(class, &replaced);
                }
                Ok(None) => {
                    merged.end();
                    break;
                }
                Err(error) => {
                    // Not again before something new is folded.
                    merged.end();
                    drop(cell);
                    let operator = read(&self.view).operator(operator)?.name.clone();
                    return Err(match error {
                        MergeError::Refused(cause) => {
                            VaultError::Chunks { operator, partition, cause }
                        }
                        MergeError::More { given, actual } => {
                            VaultError::MoreChunks { operator, partition, given, actual }
                        }
                    });
                }
            }
        }
        Ok(merged_bytes)
    }
}
