//! Care with what a job drops: a panic in a `Drop` of its own is told, and ends nothing.
//!
//! Operators are dropped when they have ended, and when their worker leaves. A panic there would come too
//! late to undo anything, would pass for one of the worker's in the first case, and in the second end the
//! whole process if there were two of them.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::fence::generation::Notice;
use crate::fence::{Fence, panics};
use crate::ids::OperatorName;

/// Something of the job's that an operator keeps: it is dropped with care.
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

/// Runs what drops something of the job's; returns what it says if it panics.
pub(crate) fn drop_with_care(dropping: impl FnOnce()) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(dropping)).err()?;
    let message = panics::message_of(payload.as_ref());
    let message = match panics::location() {
        Some(place) => format!("{message}, at {place}"),
        None => message,
    };
    // What a panic carries may panic when it is dropped, too. It is small, and this happens once.
    std::mem::forget(payload);
    Some(message)
}
