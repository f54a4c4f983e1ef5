//! The epochs of a source: the clock and the throttle say which one it is in.

use std::sync::atomic::Ordering;

use timely::dataflow::operators::Capability;

use crate::error::JobError;
use crate::fence::Fence;
use crate::ids::{Epoch, OperatorName};
use crate::protected::outlet::{Outlet, Seal, advance};
use crate::time::{EpochTime, FencedTime};

/// The epoch that a source is in, and what it holds for it.
pub(super) struct Epochs<T: EpochTime> {
    fence: Fence,
    name: OperatorName,
    dataflow: usize,
    current: Epoch,
    held: Option<Capability<T>>,
    outlet: Outlet<T>,
}

impl<T: EpochTime> Epochs<T> {
    /// Begins the first epoch after what is committed.
    pub(super) fn begin(
        fence: &Fence,
        name: &OperatorName,
        dataflow: usize,
        held: Option<Capability<T>>,
        outlet: Outlet<T>,
    ) -> Self {
        let (fence, name, current) = (fence.clone(), name.clone(), fence.first_epoch());
        let mut epochs = Epochs { fence, name, dataflow, current, held, outlet };
        epochs.enter(current);
        // What the shards begin with is a change, too.
        epochs.outlet.begin(current);
        epochs
    }

    /// What the items of the present epoch are given with; `None` once the source has ended.
    pub(super) fn held(&self) -> Option<&Capability<T>> {
        self.held.as_ref()
    }

    /// Goes on to the epoch that it should be in, and says whether the source may read now.
    ///
    /// If not, it is too far ahead of what is stored, and is woken by what is.
    pub(super) fn go_on(&mut self, states: &mut impl Seal) -> bool {
        let clock = self.fence.clock_epoch(self.dataflow);
        // A short type counts less far than the clock.
        let last = T::from_epoch(Epoch::END).epoch();
        if clock.epoch > last {
            let what = no_time_left::<T>(last);
            self.fence.fail(JobError::Source { operator: self.name.clone(), what });
        }
        if clock.epoch > self.current && self.fence.checkpoints().admit(clock.epoch) {
            // It was through with the last epoch when it chose to begin another one.
            self.outlet.pass(Epoch::before(Some(clock.epoch)), states);
            self.enter(clock.epoch);
        } else if clock.throttled {
            return false;
        }
        self.outlet.begin(self.current);
        self.fence.whereabouts().set_epoch(self.current);
        true
    }

    /// Ends the source: nothing will be read any more.
    pub(super) fn end(&mut self, states: &mut impl Seal) {
        // After the end of everything nothing changes: all shards were exhausted before.
        if self.current <= Epoch::END {
            self.outlet.seal_last(&T::from_epoch(self.current), states);
        }
        self.held = None;
        self.outlet.close();
    }

    fn enter(&mut self, epoch: Epoch) {
        self.current = epoch;
        // After the end of everything no epoch begins.
        if epoch <= Epoch::END {
            let begun = &self.fence.generation().gauges.epochs_begun;
            begun.fetch_max(epoch.next().0, Ordering::Relaxed);
        }
        advance(&mut self.held, Some(epoch));
    }
}

fn no_time_left<T>(last: Epoch) -> String {
    format!(
        "the time type {} has no epoch after {last}, so nothing more could be committed: give its dataflow a \
         wider type, such as u64, or longer epochs (--epoch-ms)",
        std::any::type_name::<T>()
    )
}
