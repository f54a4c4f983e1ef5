//! Held times: the times for which the partitions of an operator hold capabilities in protected state.
//!
//! The stage around the closures stops at the epochs of these times, so that what is done when they are
//! complete belongs to them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use timely::progress::frontier::MutableAntichain;

use crate::ids::Epoch;
use crate::time::FencedTime;

/// How many partitions hold each time.
pub(crate) struct HeldTimes<T>(RefCell<BTreeMap<T, usize>>);

impl<T: FencedTime> HeldTimes<T> {
    pub(crate) fn new() -> Self {
        HeldTimes(RefCell::default())
    }

    pub(super) fn hold(&self, time: &T) {
        *self.0.borrow_mut().entry(time.clone()).or_default() += 1;
    }

    pub(super) fn release(&self, time: &T) {
        let mut times = self.0.borrow_mut();
        if let Some(count) = times.get_mut(time) {
            *count -= 1;
            if *count == 0 {
                times.remove(time);
            }
        }
    }

    /// Whether a time after `epoch` is held.
    pub(crate) fn any_after(&self, epoch: Epoch) -> bool {
        let times = self.0.borrow();
        times.last_key_value().is_some_and(|(time, _)| time.epoch() > epoch)
    }

    /// Adds the epochs from `from` to `through` that have held times which all frontiers have passed.
    pub(crate) fn complete_epochs(
        &self,
        from: Epoch,
        through: Epoch,
        frontiers: &[MutableAntichain<T>],
        epochs: &mut Vec<Epoch>,
    ) {
        for time in self.0.borrow().range(T::first_of(from)..).map(|(time, _)| time) {
            let epoch = time.epoch();
            if epoch > through {
                break;
            }
            if frontiers.iter().any(|frontier| frontier.less_equal(time)) {
                if T::NESTED {
                    continue;
                }
                break;
            }
            if epochs.last() != Some(&epoch) {
                epochs.push(epoch);
            }
        }
    }
}
