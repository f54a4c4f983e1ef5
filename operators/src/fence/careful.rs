//! Careful dropping of the job's values: a panic in one of the job's `Drop` implementations is reported and
//! ends nothing.
//!
//! Operators are dropped when they have ended, and when their worker leaves. A panic there would come too
//! late to undo anything. In the first case it would be mistaken for the worker's panic; in the second, two
//! such panics would end the whole process.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::fence::generation::Notice;
use crate::fence::{Fence, panics};
use crate::ids::OperatorName;

/// A value of the job that an operator keeps and that is dropped with care.
pub(crate) struct Careful<V> {
    kept: Option<V>,
    fence: Fence,
    name: OperatorName,
}

impl<V> Careful<V> {
    pub(crate) fn new(fence: &Fence, name: &OperatorName, kept: V) -> Self {
        Careful { kept: Some(kept), fence: fence.clone(), name: name.clone() }
    }
}

impl<V> Deref for Careful<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        match &self.kept {
            Some(kept) => kept,
            None => unreachable!("it is taken only when this is dropped"),
        }
    }
}

impl<V> DerefMut for Careful<V> {
    #[inline]
    fn deref_mut(&mut self) -> &mut V {
        match &mut self.kept {
            Some(kept) => kept,
            None => unreachable!("it is taken only when this is dropped"),
        }
    }
}

impl<V> Drop for Careful<V> {
    fn drop(&mut self) {
        let kept = self.kept.take();
        if let Some(message) = drop_with_care(|| drop(kept)) {
            let operator = Some(self.name.clone());
            self.fence.notice(Notice::DropPanicked { operator, message });
        }
    }
}

/// Runs code that drops a value of the job; returns the panic's message if it panics.
pub(crate) fn drop_with_care(dropping: impl FnOnce()) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(dropping)).err()?;
    let message = panics::message_of(payload.as_ref());
    let message = match panics::location() {
        Some(place) => format!("{message}, at {place}"),
        None => message,
    };
    // A panic's payload may itself panic when it is dropped. It is small, and this happens once.
    std::mem::forget(payload);
    Some(message)
}
