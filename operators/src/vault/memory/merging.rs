//! Merging of chunks in a vault, off the workers' threads and off the locks for which they wait.

use std::sync::Mutex;

use super::{Cell, Key, MemoryVault, lock, read};
use crate::state::{ChunkMerger, Replica};
use crate::vault::VaultError;
use crate::vault::chunks::{MergeError, Pass};

impl MemoryVault {
    /// Merges chunks of a cell, about `budget_bytes` of them, and returns how many bytes were merged.
    ///
    /// The cell is locked only to find out what is there and to put in what came of it: a worker that
    /// stores a delta does not wait while chunks are merged.
    pub(super) fn merge(
        &self,
        (operator, partition): Key,
        cell: &Mutex<Cell>,
        merger: &dyn ChunkMerger,
        budget_bytes: usize,
    ) -> Result<usize, VaultError> {
        let mut pass = Pass::default();
        let mut merged_bytes = 0;
        while merged_bytes < budget_bytes {
            let (base, merged) = {
                let mut cell = lock(cell);
                let merged = cell.merged;
                let replica = cell.replica.as_mut();
                let replica = replica.filter(|replica| replica.base_epoch() != merged.at);
                match replica.and_then(Replica::unshared) {
                    Some(base) => (base, merged),
                    None => break,
                }
            };
            // Never above what is recorded, and so never above the epoch of any view to come. Before
            // the first delta there is nothing to merge.
            let Some(since) = base.epoch() else { break };
            #[cfg(feature = "planted")]
            let since = match crate::planted::is(crate::planted::Planted::MergeAhead) {
                true => lock(cell).replica.as_ref().and_then(Replica::through).unwrap_or(since),
                false => since,
            };
            let step = pass.next(&base, merged);
            let step = step.and_then(|step| {
                let Some(step) = step else { return Ok(None) };
                Ok(Some((step.bytes, step.is_all, step.merge(merger, since)?)))
            });
            let mut cell = lock(cell);
            let Some(replica) = &mut cell.replica else { break };
            if !replica.is_base(&base) {
                break;
            }
            match step {
                Ok(Some((bytes, is_all, replaced))) => {
                    let ids: Vec<_> = replaced.iter().map(|(id, _)| id.encode()).collect();
                    let values = replaced.iter().map(|(_, value)| value.as_deref());
                    let entries = ids.iter().map(|id| id.as_slice()).zip(values.clone());
                    if !replica.rewrite(base, entries)? {
                        break;
                    }
                    merged_bytes += bytes;
                    if is_all {
                        cell.merged.all_bytes = values.flatten().map(<[u8]>::len).sum();
                    }
                }
                Ok(None) => {
                    cell.merged.at = Some(since);
                    break;
                }
                Err(error) => {
                    // Not again before something new is folded.
                    cell.merged.at = Some(since);
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
