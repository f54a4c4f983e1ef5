//! Waiting: updates that have arrived but are not encoded yet, since their epochs have not begun.

use std::collections::BTreeMap;

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;

use super::chunk::{Update, numbered, order};
use super::layout::Kept;
use crate::data::Data;
use crate::ids::Epoch;
use crate::time::FencedTime;

/// A buffer of more updates than this is freed once they are encoded.
const SPARE_UPDATES_MAX: usize = 1 << 16;

/// A batch of more epochs than this is split rather than read once for each epoch.
const BATCH_EPOCHS_MAX: usize = 4;

/// Updates that wait for their epochs.
pub(super) trait Waiting {
    type Key: Data + Ord;
    type Val: Data + Ord;
    type Time: FencedTime + Lattice + Data;
    type Diff: Data + Semigroup;

    /// The first epoch that has waiting updates.
    fn first(&self) -> Option<Epoch>;

    /// Removes and hands out the updates of an epoch. Updates with equal numbers have the same key and the
    /// same value.
    fn take(
        &mut self,
        epoch: Epoch,
        visit: impl FnMut((usize, usize), &Self::Key, &Self::Val, &Self::Time, &Self::Diff),
    );
}

/// Updates in the order in which they arrived.
pub(super) struct Loose<K, V, T, R> {
    epochs: BTreeMap<Epoch, Vec<Update<K, V, T, R>>>,
    /// Memory for those of the next epoch.
    spare: Vec<Update<K, V, T, R>>,
}

impl<K, V, T, R> Default for Loose<K, V, T, R> {
    fn default() -> Self {
        Loose { epochs: BTreeMap::new(), spare: Vec::new() }
    }
}

impl<K, V, T: FencedTime, R> Loose<K, V, T, R> {
    #[inline]
    pub(super) fn add(&mut self, update: Update<K, V, T, R>) {
        let Loose { epochs, spare } = self;
        epochs.entry(update.1.epoch()).or_insert_with(|| std::mem::take(spare)).push(update);
    }
}

impl<K, V, T, R> Waiting for Loose<K, V, T, R>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
{
    type Key = K;
    type Val = V;
    type Time = T;
    type Diff = R;

    fn first(&self) -> Option<Epoch> {
        self.epochs.first_key_value().map(|(epoch, _)| *epoch)
    }

    fn take(&mut self, epoch: Epoch, mut visit: impl FnMut((usize, usize), &K, &V, &T, &R)) {
        let mut updates = self.epochs.remove(&epoch).unwrap_or_default();
        for (place, (data, time, diff)) in numbered(&updates) {
            visit(place, &data.0, &data.1, time, diff);
        }
        if updates.capacity() <= SPARE_UPDATES_MAX {
            updates.clear();
            self.spare = updates;
        }
    }
}

/// The updates of a trace's batches, in the order of keys.
pub(super) struct Batches<K, V, T, R, Tr: Kept<K, V, T, R>> {
    /// Whole batches, of which the updates of this epoch are still needed.
    whole: BTreeMap<Epoch, Tr::Batch>,
    loose: Loose<K, V, T, R>,
}

impl<K, V, T, R, Tr: Kept<K, V, T, R>> Default for Batches<K, V, T, R, Tr> {
    fn default() -> Self {
        Batches { whole: BTreeMap::new(), loose: Loose::default() }
    }
}

impl<K, V, T, R, Tr> Batches<K, V, T, R, Tr>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
    Tr: Kept<K, V, T, R>,
{
    pub(super) fn add(&mut self, batch: Tr::Batch) {
        let mut epochs: Vec<Epoch> = Vec::new();
        for epoch in Tr::times(&batch).iter().map(T::epoch) {
            if !epochs.contains(&epoch) {
                epochs.push(epoch);
            }
            if epochs.len() > BATCH_EPOCHS_MAX {
                break;
            }
        }
        // In a loop an epoch has several batches, which are sorted together.
        let is_whole = !T::NESTED
            && epochs.len() <= BATCH_EPOCHS_MAX
            && epochs.iter().all(|epoch| !self.whole.contains_key(epoch));
        if is_whole {
            self.whole.extend(epochs.into_iter().map(|epoch| (epoch, batch.clone())));
        } else {
            Tr::for_each(&batch, |_place, key, val, time, diff| {
                self.loose.add(((key.clone(), val.clone()), time.clone(), diff.clone()));
            });
        }
    }
}

impl<K, V, T, R, Tr> Waiting for Batches<K, V, T, R, Tr>
where
    K: Data + Ord,
    V: Data + Ord,
    T: FencedTime + Lattice + Data,
    R: Data + Semigroup,
    Tr: Kept<K, V, T, R>,
{
    type Key = K;
    type Val = V;
    type Time = T;
    type Diff = R;

    fn first(&self) -> Option<Epoch> {
        let whole = self.whole.first_key_value().map(|(epoch, _)| *epoch);
        whole.into_iter().chain(self.loose.first()).min()
    }

    fn take(&mut self, epoch: Epoch, mut visit: impl FnMut((usize, usize), &K, &V, &T, &R)) {
        if let Some(batch) = self.whole.remove(&epoch) {
            let is_alone = !self.loose.epochs.contains_key(&epoch);
            Tr::for_each(&batch, |place, key, val, time, diff| {
                if time.epoch() != epoch {
                    return;
                }
                if is_alone {
                    visit(place, key, val, time, diff);
                } else {
                    self.loose.add(((key.clone(), val.clone()), time.clone(), diff.clone()));
                }
            });
            if is_alone {
                return;
            }
        }
        if let Some(updates) = self.loose.epochs.get_mut(&epoch) {
            updates.sort_by(order);
        }
        self.loose.take(epoch, visit);
    }
}
