//! Where a worker is: the protected operator that is active, its epoch and its partition.
//!
//! Each worker writes its own place with plain relaxed stores. Supervising code reads it after a panic or
//! while the worker hangs. A place is a hint for users and decides nothing, so a reader may see an operator
//! from one moment with the epoch from the next.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::{Epoch, OperatorName, PartitionId, Spot};
use crate::text::cut;

const NO_EPOCH: u64 = u64::MAX;
const NO_PARTITION: u32 = u32::MAX;

/// The place of one worker of one generation.
///
/// It has its own cache line: a store by one worker costs the others nothing.
#[derive(Debug)]
#[repr(align(64))]
pub struct Whereabouts {
    /// 0 outside of protected operators, and otherwise one more than the index in `operators`.
    operator: AtomicUsize,
    epoch: AtomicU64,
    partition: AtomicU32,
    worker: usize,
    operators: Mutex<Vec<Operator>>,
    record: Mutex<Option<String>>,
}

/// What is known about a protected operator of the worker.
#[derive(Clone, Debug)]
struct Operator {
    name: OperatorName,
    /// The last epoch that all backups have stored.
    stored: Option<Epoch>,
    /// Whether it stores anything at all.
    stores: bool,
}

impl Whereabouts {
    /// The place of a worker, by its index in this process, before it has entered any operator.
    pub fn new(worker: usize) -> Self {
        Whereabouts {
            operator: AtomicUsize::new(0),
            epoch: AtomicU64::new(NO_EPOCH),
            partition: AtomicU32::new(NO_PARTITION),
            worker,
            operators: Mutex::default(),
            record: Mutex::default(),
        }
    }

    /// The index of the worker in this process.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Where the worker is.
    pub fn spot(&self) -> Spot {
        let index = self.operator.load(Ordering::Relaxed);
        let operator =
            index.checked_sub(1).and_then(|at| Some(self.operators().get(at)?.name.clone()));
        let epoch = self.epoch.load(Ordering::Relaxed);
        let partition = self.partition.load(Ordering::Relaxed);
        Spot {
            operator,
            partition: (partition != NO_PARTITION).then_some(PartitionId(partition)),
            epoch: (epoch != NO_EPOCH).then_some(Epoch(epoch)),
        }
    }

    /// The record that the worker could not process, as text, if it was kept.
    pub fn record(&self) -> Option<String> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The protected operator that holds the commit back, and the last of its epochs that all backups
    /// have stored. If several have stored equally far, the first one that was built: the others wait for it.
    ///
    /// `None` if all have stored equally far, so that none holds the others back.
    pub fn held_back_by(&self) -> Option<(OperatorName, Option<Epoch>)> {
        let operators = self.operators();
        let storing = || operators.iter().filter(|operator| operator.stores);
        let least = storing().map(|operator| operator.stored).min()?;
        let most = storing().map(|operator| operator.stored).max()?;
        let mut behind = storing().filter(|operator| operator.stored == least);
        let behind = behind.next().filter(|_| least < most)?;
        Some((behind.name.clone(), behind.stored))
    }

    fn operators(&self) -> MutexGuard<'_, Vec<Operator>> {
        self.operators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn admit(&self, operator: &OperatorName, stored: Option<Epoch>) {
        self.operators().push(Operator { name: operator.clone(), stored, stores: true });
    }

    pub(crate) fn stored(&self, operator: &OperatorName, through: Option<Epoch>) {
        let mut operators = self.operators();
        if let Some(there) = operators.iter_mut().find(|there| there.name == *operator) {
            there.stored = there.stored.max(through);
        }
    }

    /// Notes that an operator stores nothing, and so never holds a commit back.
    pub(crate) fn stores_nothing(&self, operator: &OperatorName) {
        let mut operators = self.operators();
        if let Some(there) = operators.iter_mut().find(|there| there.name == *operator) {
            there.stores = false;
        }
    }

    /// Notes the operator at `index`; the returned guard notes its end.
    #[inline]
    pub(crate) fn enter(&self, index: usize) -> Active<'_> {
        self.operator.store(index + 1, Ordering::Relaxed);
        Active { whereabouts: self }
    }

    #[inline]
    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn set_partition(&self, partition: PartitionId) {
        self.partition.store(partition.0, Ordering::Relaxed);
    }

    pub(crate) fn set_record(&self, text: String) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut(text));
    }
}

/// The time during which an operator is active; the place is kept if it ends in a panic.
#[must_use]
pub(crate) struct Active<'a> {
    whereabouts: &'a Whereabouts,
}

impl Drop for Active<'_> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.whereabouts.operator.store(0, Ordering::Relaxed);
        self.whereabouts.epoch.store(NO_EPOCH, Ordering::Relaxed);
        self.whereabouts.partition.store(NO_PARTITION, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::*;
    use crate::text::TEXT_BYTES_MAX;

    #[test]
    fn a_place_is_left_with_the_operator_but_kept_by_a_panic() {
        let here = Whereabouts::new(0);
        here.admit(&OperatorName::new("counts"), None);
        drop(here.enter(0));
        assert_eq!(here.spot(), Spot::default());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _active = here.enter(0);
            here.set_epoch(Epoch(7));
            here.set_partition(PartitionId(3));
            resume_unwind(Box::new("on purpose"));
        }));
        assert!(panicked.is_err());
        let spot = Spot {
            operator: Some(OperatorName::new("counts")),
            partition: Some(PartitionId(3)),
            epoch: Some(Epoch(7)),
        };
        assert_eq!(here.spot(), spot);
    }

    #[test]
    fn the_first_of_the_slowest_holds_the_commit_back() {
        let here = Whereabouts::new(0);
        let names = ["lines", "counts", "totals"].map(OperatorName::new);
        for name in &names {
            here.admit(name, None);
        }
        assert_eq!(here.held_back_by(), None);
        here.stored(&names[0], Some(Epoch(9)));
        here.stored(&names[2], Some(Epoch(6)));
        here.stored(&names[1], Some(Epoch(6)));
        assert_eq!(here.held_back_by(), Some((names[1].clone(), Some(Epoch(6)))));
        here.stores_nothing(&names[1]);
        assert_eq!(here.held_back_by(), Some((names[2].clone(), Some(Epoch(6)))));
    }

    #[test]
    fn a_long_record_is_cut_between_letters() {
        let here = Whereabouts::new(0);
        here.set_record("ä".repeat(TEXT_BYTES_MAX));
        let kept = here.record().unwrap();
        assert!(kept.ends_with("ä... (cut: it has 8192 bytes)"), "{kept}");
    }
}
