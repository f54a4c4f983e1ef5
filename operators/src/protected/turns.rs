//! Turns: records wait until their epoch is complete.

use std::collections::BTreeMap;

use timely::progress::Stamp;

use crate::error::JobError;
use crate::fence::Fence;
use crate::ids::{Epoch, OperatorName};
use crate::time::FencedTime;

/// Holds records back until their epoch's turn.
///
/// INVARIANT: batches come out in the order of their times' epochs, and none before the frontier has reached
/// its epoch, so everything that is applied before it is complete. Within an epoch, the order of the batches
/// that have arrived respects that of their times; in a loop, more batches may follow.
pub(crate) struct Turns<T, B> {
    waiting: BTreeMap<T, Vec<B>>,
}

impl<T: FencedTime, B> Turns<T, B> {
    pub(crate) fn new() -> Self {
        Turns { waiting: BTreeMap::new() }
    }

    pub(crate) fn wait(&mut self, time: T, batch: B) {
        self.waiting.entry(time).or_default().push(batch);
    }

    /// The next time whose turn it is, given that all epochs through `through` are complete.
    pub(crate) fn next(&self, through: Option<Epoch>) -> Option<&T> {
        self.first_time().filter(|time| Epoch::before(Some(time.epoch())) <= through)
    }

    /// Takes the batches of a time.
    pub(crate) fn take(&mut self, time: &T) -> Vec<B> {
        self.waiting.remove(time).unwrap_or_default()
    }

    /// The first epoch that waits, if it is among those through `through`, which are complete.
    pub(crate) fn complete_epoch(&self, through: Option<Epoch>) -> Option<Epoch> {
        self.first_epoch().filter(|epoch| Some(*epoch) <= through)
    }

    /// Takes the batches of the first epoch that waits, of all its times.
    pub(crate) fn take_epoch(&mut self, epoch: Epoch) -> Vec<B> {
        let mut all = Vec::new();
        while self.first_epoch() == Some(epoch)
            && let Some((_, batches)) = self.waiting.pop_first()
        {
            all.extend(batches);
        }
        all
    }

    fn first_time(&self) -> Option<&T> {
        self.waiting.first_key_value().map(|(time, _)| time)
    }

    pub(crate) fn first_epoch(&self) -> Option<Epoch> {
        self.first_time().map(T::epoch)
    }
}

/// The last epoch that is complete for an operator whose input has passed `through`, and which must still act
/// on what `waits`.
pub(crate) fn complete(through: Option<Epoch>, waits: Option<Epoch>) -> Option<Epoch> {
    match waits {
        None => through,
        Some(waits) => through.min(Epoch::before(Some(waits))),
    }
}

/// The time that a batch counts for: of the times on its stamp, the one with the least epoch.
///
/// Ends the job if that epoch is already committed, since then the batch must not arrive again.
pub(crate) fn time_of<T: FencedTime>(fence: &Fence, name: &OperatorName, stamp: &Stamp<T>) -> T {
    let time = stamp.iter().min_by_key(|time| time.epoch());
    match time.filter(|time| time.epoch() >= fence.first_epoch()) {
        Some(time) => time.clone(),
        None => fence.fail(JobError::LateRecord {
            operator: name.clone(),
            epoch: time.map_or(Epoch(0), T::epoch),
            resume: fence.generation().resume.unwrap_or_default(),
        }),
    }
}
