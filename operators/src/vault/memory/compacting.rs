//! Merging of chunks in a vault, outside of the workers' threads and of the locks for which they wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Cell, Key, MemoryVault, lock, read};
use crate::ids::Epoch;
use crate::planted::{self, Planted};
use crate::state::{ChunkMerger, Replica};
use crate::vault::VaultError;
use crate::vault::chunks::MergeError;

impl MemoryVault {
    /// Folds pending deltas up to the recorded epoch and merges chunks of what is folded, about
    /// `budget_bytes` of both, and returns how many bytes were folded or merged.
    ///
    /// Chunks that cannot be merged are an error only once all else is done.
    pub fn compact(&self, budget_bytes: usize) -> Result<usize, VaultError> {
        let discarded = std::mem::take(&mut *lock(&self.discarded));
        drop(discarded);
        // SUBTLE: a view may be installed while this folds; it never resumes below what is recorded.
        let Some(recorded) = self.recorded() else {
            return Ok(0);
        };
        let mergers: BTreeMap<u64, Arc<dyn ChunkMerger>> = {
            let state = read(&self.view);
            let operators = state.operators.iter();
            operators
                .filter_map(|(number, o)| Some((*number, Arc::clone(o.merger.as_ref()?))))
                .collect()
        };
        let recorded = if planted::is(Planted::FoldStored) { Epoch::END } else { recorded };
        let mut next = lock(&self.next);
        let (first, last): (Vec<_>, Vec<_>) = {
            let cells = read(&self.cells);
            cells
                .iter()
                .map(|(key, cell)| (*key, Arc::clone(cell)))
                .partition(|(key, _)| Some(*key) >= *next)
        };
        let mut folded = 0;
        let mut refused = None;
        for (key, cell) in first.into_iter().chain(last) {
            *next = Some(key);
            if folded >= budget_bytes {
                break;
            }
            let mut held = lock(&cell);
            if held.unsaved.as_ref().is_some_and(|unsaved| unsaved.wants_base) {
                continue;
            }
            folded += held.count(&self.pending_bytes, |replica| match replica {
                Some(replica) => replica.fold(recorded, budget_bytes - folded),
                None => Ok(0),
            })?;
            drop(held);
            if let Some(merger) = mergers.get(&key.0) {
                // At least one step, or folding might leave no room for any.
                let room = budget_bytes.saturating_sub(folded).max(1);
                match self.merge(key, &cell, merger.as_ref(), room) {
                    Ok(merged) => folded += merged,
                    // The others shall not wait for it.
                    Err(error) => drop(refused.get_or_insert(error)),
                }
            }
        }
        refused.map_or(Ok(folded), Err)
    }

    /// Merges chunks of a cell, about `budget_bytes` of them, and returns how many bytes were merged.
    ///
    /// The cell is locked only to find out what is there and to put in what came of it: a worker that
    /// stores a delta does not wait while chunks are merged.
    fn merge(
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
                    let operator = read(&self.view).operator(operator)?.identity.name.clone();
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
