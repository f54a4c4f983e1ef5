//! Storing: a delta is added to the replica that it belongs to, or is dropped.

use std::sync::atomic::Ordering;

use super::holdings::Completeness;
use super::present::Present;
use super::{MemoryVault, lock};
use crate::planted::{self, Planted};
use crate::snapshot::{DeltaRef, Subject};
use crate::state::Replica;
use crate::vault::VaultError;
use crate::vault::chunks::without_filling;
use crate::vault::identity::Identity;

impl MemoryVault {
    /// Stores one delta; returns whether this node holds its partition.
    pub(super) fn store_one(
        &self,
        view: &Present,
        delta: &DeltaRef<'_>,
    ) -> Result<bool, VaultError> {
        let subject = delta.header().subject;
        let operator = view.operator(subject.operator)?;
        if view.dropped.contains(&subject.operator) {
            self.dropped_frames.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        let Identity { name, fingerprint, partitions } = &operator.identity;
        if subject.partition.0 >= *partitions {
            return Err(VaultError::UnknownPartition {
                operator: name.clone(),
                partitions: *partitions,
                partition: subject.partition,
            });
        }
        let holding = view.holding(subject.partition);
        let is_chunks = operator.merger.is_some();
        let is_fed = holding.is_fed(is_chunks);
        let is_filling = holding.completeness == Completeness::Filling;
        if !is_fed && !is_filling {
            self.dropped_frames.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        let expected = Subject { fingerprint: *fingerprint, ..subject };
        let empty = || {
            if is_fed {
                Replica::new(expected)
            } else {
                Replica::filling(expected, delta.header().previous)
            }
        };
        let rewritten = if is_chunks { without_filling(delta, view.resume, is_fed)? } else { None };
        let rewritten = rewritten.filter(|_| !planted::is(Planted::FillingTakenTwice));
        let rewritten = rewritten.as_deref().map(DeltaRef::parse).transpose()?;
        let delta = rewritten.as_ref().map_or(delta, |(delta, _)| delta);
        let cell = self.cell_or_new(subject.operator, subject.partition);
        let mut cell = lock(&cell);
        let frame = cell
            .count(&self.pending_bytes, |replica| replica.get_or_insert_with(empty).push(delta))?;
        // What completes a copy that is being filled is the last delta that does not stand for itself.
        let is_complete = is_fed || cell.filled.is_some();
        self.keep_unsaved(&mut cell, delta.header(), frame, is_complete);
        // An owner's own copy of chunks is complete, but the filling ends only when that of each operator
        // does.
        if delta.header().completes && is_filling {
            cell.filled.get_or_insert(delta.header().epoch);
        }
        if self.pending_bytes.load(Ordering::Relaxed) > self.pending_bytes_max
            && let Some(recorded) = view.recorded
        {
            // Twice what arrived, so that the backlog shrinks while this continues.
            let budget_bytes = 2 * delta.frame().len();
            cell.count(&self.pending_bytes, |replica| match replica {
                Some(replica) => replica.fold(recorded, budget_bytes),
                None => Ok(0),
            })?;
        }
        Ok(true)
    }
}
