//! A register in the memory of one process, for tests and simulators.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ringfence_operators::ids::ViewNumber;

use super::{Creation, DoneRecord, Register, RegisterError, RunRecord, check_run, check_same_run};
use crate::protocol::view::View;

const PLACE: &str = "the register in memory";

/// A register that lives as long as this value.
#[derive(Debug, Default)]
pub struct MemoryRegister {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    run: Option<RunRecord>,
    views: BTreeMap<ViewNumber, View>,
    done: Option<DoneRecord>,
}

impl MemoryRegister {
    /// Returns an empty register.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is a single insertion, so a panic elsewhere cannot leave it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register for MemoryRegister {
    fn open_run(&self, record: &RunRecord) -> Result<RunRecord, RegisterError> {
        let mut inner = self.lock();
        let winner = inner.run.get_or_insert_with(|| record.clone()).clone();
        check_run(PLACE, record, &winner, inner.done.is_some())?;
        Ok(winner)
    }

    fn create_view(&self, view: &View) -> Result<Creation, RegisterError> {
        let mut inner = self.lock();
        let number = view.number;
        let gap = || RegisterError::Gap { place: PLACE.to_owned(), number };
        check_same_run(PLACE, inner.run.as_ref().ok_or_else(gap)?, &view.run)?;
        if inner.views.contains_key(&number) {
            return Ok(Creation::Exists);
        }
        if number.0 != inner.views.len() as u64 + 1 {
            return Err(gap());
        }
        inner.views.insert(number, view.clone());
        Ok(Creation::Created)
    }

    fn read_view(&self, number: ViewNumber) -> Result<Option<View>, RegisterError> {
        Ok(self.lock().views.get(&number).cloned())
    }

    fn latest(&self) -> Result<Option<ViewNumber>, RegisterError> {
        Ok(self.lock().views.last_key_value().map(|(number, _)| *number))
    }

    fn mark_done(&self, record: &DoneRecord) -> Result<(), RegisterError> {
        let mut inner = self.lock();
        let gap = || RegisterError::Gap { place: PLACE.to_owned(), number: record.view };
        check_same_run(PLACE, inner.run.as_ref().ok_or_else(gap)?, &record.run)?;
        inner.done.get_or_insert_with(|| record.clone());
        Ok(())
    }

    fn done(&self) -> Result<bool, RegisterError> {
        Ok(self.lock().done.is_some())
    }
}
