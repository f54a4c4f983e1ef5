//! Origins: which operators of a protected dataflow bring in records, and whether they are protected.
//!
//! After a failure, an input of timely's own begins again, and its records belong to epochs that are already
//! committed. Without this module that would be noticed at the first failure; with it, it is noticed when the
//! dataflow is built.
//!
//! While timely builds a dataflow, and only then, it tells registered loggers how the inputs and outputs of
//! each operator are connected. An operator without inputs is where records come in. Those that protected
//! verbs build are known; those that a job vouches for are built within [`Vouched::vouched`]. An operator
//! that is built after the last protected verb of its dataflow cannot reach any protected operator.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use timely::dataflow::Scope;
use timely::logging::{OperatesSummaryEvent, TimelySummaryEventBuilder, TimelySummaryLogger};
use timely::progress::Timestamp;

use crate::fence::HasFence;
use crate::ids::OperatorName;

/// The operators of a worker that have no inputs.
#[derive(Default)]
pub(crate) struct Origins {
    /// The numbers of such operators that were built since the current dataflow was begun.
    found: Rc<RefCell<Vec<usize>>>,
    /// What tells them, for each type of time.
    tellers: RefCell<Vec<Teller>>,
    /// The operators that are protected or vouched for.
    known: RefCell<BTreeSet<usize>>,
    vouched: RefCell<Vec<Range<usize>>>,
    present: RefCell<Option<Dataflow>>,
}

/// A topic of timely's, and what makes it tell all that it has to say of that.
type Teller = (String, Box<dyn Fn()>);

/// A dataflow with protected operators, as far as it is built.
struct Dataflow {
    index: usize,
    /// Its protected operators, and timely's count before each.
    protected: Vec<(usize, OperatorName)>,
}

/// An operator that brings in unprotected records.
pub(crate) struct Unprotected {
    /// The protected operator that was built before it, if any.
    pub(crate) after: Option<OperatorName>,
    /// The protected operator that was built next.
    pub(crate) before: OperatorName,
}

impl Origins {
    /// Notes a protected operator that is about to be built. If it is the first one of its dataflow, returns
    /// what is wrong with the previous dataflow.
    pub(crate) fn admit<T: Timestamp>(
        &self,
        name: &OperatorName,
        scope: Scope<'_, T>,
    ) -> Option<Unprotected> {
        let index = scope.addr()[0];
        let is_new = self.present.borrow().as_ref().is_none_or(|present| present.index != index);
        let wrong = if is_new { self.check() } else { None };
        self.listen(scope);
        let counted = scope.worker().peek_identifier();
        let mut present = self.present.borrow_mut();
        let present = present.get_or_insert_with(|| Dataflow { index, protected: Vec::new() });
        present.protected.push((counted, name.clone()));
        wrong
    }

    /// Notes that the operator with this number is protected.
    pub(crate) fn know(&self, number: usize) {
        self.known.borrow_mut().insert(number);
    }

    /// Runs code that builds operators that are protected or vouched for.
    pub(crate) fn knowing<'scope, T: Timestamp, R>(
        &self,
        scope: Scope<'scope, T>,
        build: impl FnOnce() -> R,
    ) -> R {
        let first = scope.worker().peek_identifier();
        let result = build();
        self.vouched.borrow_mut().push(first..scope.worker().peek_identifier());
        result
    }

    /// Searches the dataflow that was built last for an operator that brings in unprotected records.
    pub(crate) fn check(&self) -> Option<Unprotected> {
        self.tellers.borrow().iter().for_each(|(_, teller)| teller());
        let found = std::mem::take(&mut *self.found.borrow_mut());
        let Dataflow { protected, .. } = self.present.borrow_mut().take()?;
        let is_known = |number: &usize| {
            let vouched = self.vouched.borrow();
            self.known.borrow().contains(number)
                || vouched.iter().any(|numbers| numbers.contains(number))
        };
        found.into_iter().filter(|number| !is_known(number)).find_map(|number| {
            let next = protected.iter().position(|(counted, _)| *counted > number)?;
            let after = next.checked_sub(1).map(|before| protected[before].1.clone());
            Some(Unprotected { after, before: protected[next].1.clone() })
        })
    }

    /// Makes timely report how operators with this time type are built, unless the job itself listens.
    fn listen<T: Timestamp>(&self, scope: Scope<'_, T>) {
        let topic = format!("timely/summary/{}", std::any::type_name::<T>());
        if self.tellers.borrow().iter().any(|(known, _)| *known == topic) {
            return;
        }
        let Some(mut register) = scope.worker().log_register() else { return };
        if register.names().any(|name| name == topic) {
            return;
        }
        let found = Rc::clone(&self.found);
        let note = move |_: &Duration, events: &mut Option<Vec<(Duration, Event<T>)>>| {
            let events = events.iter_mut().flat_map(|events| events.drain(..));
            let without_inputs = events.filter(|(_, event)| event.summary.is_empty());
            found.borrow_mut().extend(without_inputs.map(|(_, event)| event.id));
        };
        register.insert::<TimelySummaryEventBuilder<T::Summary>, _>(&topic, note);
        let teller = register.get::<TimelySummaryEventBuilder<T::Summary>>(&topic);
        let teller: Option<TimelySummaryLogger<T::Summary>> = teller;
        if let Some(teller) = teller {
            self.tellers.borrow_mut().push((topic, Box::new(move || teller.flush())));
        }
    }

    /// Stops listening on a worker whose job is built.
    pub(crate) fn stop_listening(&self, worker: &timely::worker::Worker) {
        if let Some(mut register) = worker.log_register() {
            for (topic, _) in self.tellers.borrow_mut().drain(..) {
                register.remove(&topic);
            }
        }
    }
}

type Event<T> = OperatesSummaryEvent<<T as Timestamp>::Summary>;

/// Inputs that a job vouches for.
pub trait Vouched<'scope, T: Timestamp> {
    /// Builds unprotected operators that bring in records, in a dataflow with protected operators.
    ///
    /// Otherwise such an input is refused when the job is built, because after a failure it begins again: its
    /// records then belong to committed epochs, and the job ends with the first such record that reaches a
    /// protected operator. With this method, a job vouches that this does not happen: that the records reach
    /// no protected operator, or only through the job's own operators that give them later times.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::operators::{Inspect, ToStream};
    ///
    /// let numbers = testing::run(1, |scope, output| {
    ///     // Looked at and never kept.
    ///     scope.vouched(|scope| (0..3).to_stream(scope).container::<Vec<u64>>().inspect(|_| {}));
    ///     per_share(|_share| 0..3u64).to_stream_fenced(scope, "numbers").sink_fenced("out", output);
    /// });
    /// assert_eq!(numbers.len(), 3);
    /// ```
    fn vouched<R>(self, build: impl FnOnce(Scope<'scope, T>) -> R) -> R;
}

impl<'scope, T: Timestamp> Vouched<'scope, T> for Scope<'scope, T> {
    fn vouched<R>(self, build: impl FnOnce(Scope<'scope, T>) -> R) -> R {
        self.fence().origins().knowing(self, || build(self))
    }
}
