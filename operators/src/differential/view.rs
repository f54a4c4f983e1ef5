//! Views: the contents of a collection as of the last commit, for reading from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::collection::FencedCollection;
use crate::data::Data;
use crate::fence::HasFence;
use crate::ids::Epoch;
use crate::time::{EpochTime, FencedTime, passed};

/// The contents of a collection on one worker, as of the last committed epoch.
///
/// A worker's view has the records of the partitions that the worker runs; together, the views of all workers
/// have all records. Clones share the view, and other threads may read them. After a failure the job makes a
/// new view, which is empty until the contents as of the resume epoch have arrived again.
#[derive(Debug)]
pub struct View<D, R = isize> {
    contents: Arc<RwLock<Contents<D, R>>>,
}

#[derive(Debug)]
struct Contents<D, R> {
    through: Option<Epoch>,
    records: BTreeMap<D, R>,
}

impl<D, R> Clone for View<D, R> {
    fn clone(&self) -> Self {
        View { contents: Arc::clone(&self.contents) }
    }
}

impl<D: Ord, R: Semigroup> View<D, R> {
    fn new() -> Self {
        let contents = Contents { through: None, records: BTreeMap::new() };
        View { contents: Arc::new(RwLock::new(contents)) }
    }

    /// The epoch that the view shows; `None` if nothing is committed, or nothing has arrived yet.
    pub fn through(&self) -> Option<Epoch> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner).through
    }

    /// Reads the view: its epoch, and its records with their multiplicities, none of them zero.
    ///
    /// While `look` runs, the view does not change; a worker that has an update waits.
    pub fn read<A>(&self, look: impl FnOnce(Option<Epoch>, &BTreeMap<D, R>) -> A) -> A {
        let contents = self.contents.read().unwrap_or_else(PoisonError::into_inner);
        look(contents.through, &contents.records)
    }

    /// Applies the changes through an epoch, all at once.
    fn apply(&self, through: Epoch, changes: impl Iterator<Item = (D, R)>) {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        for (data, diff) in changes {
            match contents.records.entry(data) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(diff);
                }
                std::collections::btree_map::Entry::Occupied(mut there) => {
                    there.get_mut().plus_equals(&diff);
                    if there.get().is_zero() {
                        there.remove();
                    }
                }
            }
        }
        contents.through = Some(through);
    }
}

impl<T, D, R> FencedCollection<'_, T, D, R>
where
    T: EpochTime + Lattice + Data,
    D: Data + Ord + Sync,
    R: Data + Semigroup + Sync,
{
    /// Keeps the contents of the collection as a view, which shows what is committed and nothing else.
    ///
    /// The contents survive, as those of a protected edge of this name.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    ///
    /// testing::run_workers::<u64, _>(1, |worker, _output| {
    ///     let mut words = FencedSession::<u64, String>::new("words");
    ///     let view = worker.dataflow(|scope| words.to_collection(scope).view_fenced("view"));
    ///     for round in words.resume()..3 {
    ///         words.insert_to(0, format!("word {}", round % 2));
    ///         words.advance_to(round + 1);
    ///     }
    ///     while view.through().is_none_or(|epoch| epoch.0 < 2) {
    ///         worker.step();
    ///     }
    ///     view.read(|_epoch, records| {
    ///         assert_eq!(records.len(), 2);
    ///         assert_eq!(records["word 0"], 2);
    ///     });
    /// });
    /// ```
    pub fn view_fenced(self, name: &str) -> View<D, R> {
        let view = View::new();
        let updates = self.fenced(name).updates.inner;
        let (fence, scope) = (updates.fence(), updates.scope());
        let mut builder = OperatorBuilder::new(format!("View: {name}"), scope);
        fence.commit().wake_on_committed(scope.activator_for(builder.operator_info().address));
        let mut input = builder.new_input(updates, Pipeline);
        let shown = view.clone();
        builder.build(move |_capabilities| {
            let mut waiting: BTreeMap<Epoch, Vec<(D, R)>> = BTreeMap::new();
            move |frontiers| {
                fence.sign_of_life();
                input.for_each(|_capability, updates| {
                    for (data, time, diff) in updates.drain(..) {
                        waiting.entry(time.epoch()).or_default().push((data, diff));
                    }
                });
                // What arrives again is committed, but incomplete until all of it has arrived.
                let Some(through) = fence.commit().committed().min(passed(&frontiers[0])) else {
                    return;
                };
                if shown.through() < Some(through) {
                    let later = waiting.split_off(&through.next());
                    let news = std::mem::replace(&mut waiting, later);
                    shown.apply(through, news.into_values().flatten());
                }
            }
        });
        view
    }
}
