//! Origins: which operators of a protected dataflow bring something in, and whether they are protected.
//!
//! An input of timely's own begins anew after a failure, and what it brings then is of epochs that are
//! committed already. That would be found at the first failure; here it is found when the dataflow is built.
//!
//! Timely tells who registers for it how the inputs and outputs of each operator hang together, while it
//! builds a dataflow and never again: an operator without inputs is where something comes in. Those that
//! protected verbs build are known; those that a job vouches for are told from others by being built
//! within [`Vouched::vouched`]. What is built after the last protected verb of its dataflow can reach none.

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
    /// The numbers of such operators, in what was built since the present dataflow was begun.
    found: Rc<RefCell<Vec<usize>>>,
    /// What tells them, for each type of time.
    tellers: RefCell<Vec<Teller>>,
    /// Those that are protected, or vouched for.
    known: RefCell<BTreeSet<usize>>,
    vouched: RefCell<Vec<Range<usize>>>,
    present: RefCell<Option<Dataflow>>,
}

/// A topic of timely's, and what makes it tell all that it has to say of that.
type Teller = (String, Box<dyn Fn()>);

/// A dataflow with protected operators, as far as it is built.
struct Dataflow {
    index: usize,
    /// Its protected operators, and how far timely had counted before each.
    protected: Vec<(usize, OperatorName)>,
}

/// An operator that brings in what is not protected.
pub(crate) struct Unprotected {
    /// The protected operator that was built before it, if any.
    pub(crate) after: Option<OperatorName>,
    /// The one that was built next.
    pub(crate) before: OperatorName,
}

impl Origins {
    /// Notes a protected operator that is about to be built; returns what is wrong with the dataflow that
    /// was built before, if this is the first of another one.
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

    /// Notes that the operator of this number is protected.
    pub(crate) fn know(&self, number: usize) {
        self.known.borrow_mut().insert(number);
    }

    /// Runs what builds operators that are protected, or vouched for.
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

    /// Looks through the dataflow that was built last for an operator that brings something in unprotected.
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

    /// Makes timely tell how operators of this type of time are made, unless the job listens itself.
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

    /// Ends the telling at a worker whose job is built.
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
    /// Builds operators that bring something in and are not protected, in a dataflow with protected ones.
    ///
    /// Without this such an input is refused when the job is built, since after a failure it begins anew:
    /// what it brings then is of epochs that are committed, and the job ends with the first such record that
    /// reaches a protected operator. Here a job vouches that this does not happen: that what is built
    /// reaches no protected operator, or only through operators of its own that give it later times.
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
