//! Restored: a trace that begins with what was committed.
//!
//! Differential's operators create their traces themselves, empty, and expect them to begin at the least
//! time. So this trace contains its restored beginning: when it is created, it finds what was left for it
//! under the operator's name. It never reports that part as new. An operator that reads the trace up to a
//! frontier still gets it, as the past on which the new updates are based.

use std::any::Any;
use std::cell::RefCell;

use differential_dataflow::lattice::antichain_join;
use differential_dataflow::logging::Logger;
use differential_dataflow::trace::{Description, ExertionLogic, Span, Trace, TraceReader};
use timely::PartialOrder;
use timely::dataflow::operators::generic::OperatorInfo;
use timely::progress::frontier::AntichainRef;
use timely::progress::{Antichain, Timestamp};
use timely::scheduling::Activator;

use crate::ids::Epoch;
use crate::planted::{self, Planted};
use crate::time::FencedTime;

thread_local! {
    /// What the next trace that is created on this thread begins with.
    static NEXT: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// What a trace begins with: the updates through an epoch, at times of that epoch.
pub(super) struct Beginning<Tr: TraceReader> {
    pub(super) through: Epoch,
    pub(super) batch: Option<Tr::Batch>,
}

/// Makes the trace that `build` makes begin with `beginning`.
pub(super) fn with_beginning<Tr, A>(
    beginning: Option<Beginning<Tr>>,
    build: impl FnOnce() -> A,
) -> A
where
    Tr: TraceReader + 'static,
{
    NEXT.set(beginning.map(|beginning| Box::new(beginning) as Box<dyn Any>));
    let built = build();
    let left = NEXT.take();
    debug_assert!(left.is_none(), "no trace was made for what was restored");
    built
}

/// A trace that begins with what was committed, if anything was.
///
/// The restored beginning is not part of [`map_spans`](TraceReader::map_spans), which tells readers what they
/// must act on, but is always part of [`spans_through`](TraceReader::spans_through).
pub struct Restored<Tr: TraceReader> {
    trace: Tr,
    /// The upper bound of what the trace began with.
    floor: Option<Antichain<Tr::Time>>,
}

impl<Tr: TraceReader> Restored<Tr> {
    fn raised(&self, frontier: AntichainRef<'_, Tr::Time>) -> Antichain<Tr::Time> {
        match &self.floor {
            Some(floor) => antichain_join(&frontier[..], floor.elements()),
            None => frontier.to_owned(),
        }
    }
}

impl<Tr: TraceReader> TraceReader for Restored<Tr> {
    type Time = Tr::Time;
    type Batch = Tr::Batch;

    fn spans_through(
        &mut self,
        upper: AntichainRef<'_, Tr::Time>,
    ) -> Option<Vec<Span<Tr::Time, Tr::Batch>>> {
        if planted::is(Planted::RestoredUnseen) {
            return self.trace.spans_through(upper);
        }
        let upper = self.raised(upper);
        self.trace.spans_through(upper.borrow())
    }

    fn set_logical_compaction(&mut self, frontier: AntichainRef<'_, Tr::Time>) {
        self.trace.set_logical_compaction(frontier);
    }

    fn get_logical_compaction(&mut self) -> AntichainRef<'_, Tr::Time> {
        self.trace.get_logical_compaction()
    }

    fn set_physical_compaction(&mut self, frontier: AntichainRef<'_, Tr::Time>) {
        self.trace.set_physical_compaction(frontier);
    }

    fn get_physical_compaction(&mut self) -> AntichainRef<'_, Tr::Time> {
        self.trace.get_physical_compaction()
    }

    fn map_spans<F: FnMut(&Span<Tr::Time, Tr::Batch>)>(&self, mut visit: F) {
        let Some(floor) = &self.floor else { return self.trace.map_spans(visit) };
        self.trace.map_spans(|span| {
            let is_new = !PartialOrder::less_equal(span.upper(), floor);
            let is_new = is_new || planted::is(Planted::RestoredShown);
            if is_new {
                visit(span);
            }
        });
    }
}

impl<Tr> Trace for Restored<Tr>
where
    Tr: Trace<Time: FencedTime> + 'static,
{
    fn new(info: OperatorInfo, logging: Option<Logger>, activator: Option<Activator>) -> Self {
        let mut trace = Tr::new(info, logging, activator);
        let beginning = NEXT.take().and_then(|next| next.downcast::<Beginning<Tr>>().ok());
        let floor = beginning.map(|beginning| {
            let Beginning { through, batch } = *beginning;
            let upper = Antichain::from_elem(Tr::Time::first_of(through.next()));
            let since = Antichain::from_elem(Tr::Time::first_of(through));
            let lower = Antichain::from_elem(Tr::Time::minimum());
            trace.insert(Span::new(Description::new(lower, upper.clone(), since), batch));
            upper
        });
        Restored { trace, floor }
    }

    fn exert(&mut self) {
        self.trace.exert();
    }

    fn set_exert_logic(&mut self, logic: ExertionLogic) {
        self.trace.set_exert_logic(logic);
    }

    fn insert(&mut self, span: Span<Tr::Time, Tr::Batch>) {
        if self.floor.is_none() {
            return self.trace.insert(span);
        }
        let lower = self.raised(span.lower().borrow());
        let upper = self.raised(span.upper().borrow());
        if lower == upper {
            assert!(span.inner.is_none(), "updates came again that were committed");
            return;
        }
        let since = span.desc.since().clone();
        self.trace.insert(Span::new(Description::new(lower, upper, since), span.inner));
    }

    fn close(&mut self) {
        self.trace.close();
    }
}
