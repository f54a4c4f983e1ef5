//! Keyed state that Ringfence manages: `fold_fenced`, `stateful_fenced`, and timers.

mod keyed;
mod timers;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use timely::dataflow::StreamVec;

use self::keyed::{Hashed, Keyed, keyed};
use self::timers::WithTimers;
use crate::data::{Data, Key};
use crate::protected::outlet::{Seal, Seals};
use crate::protected::partitions::Partitions;
use crate::time::{EpochTime, FencedTime};
use crate::verbs::quarantine::Panic;

/// How many keys of an opened replica are decoded at each activation until none are left.
const DECODE_KEYS: usize = 512;

/// The output of a protected operator's closure.
pub struct Give<'a, R> {
    results: &'a mut Vec<R>,
}

impl<R> Give<'_, R> {
    /// Sends `result`, at the time of the record or timer that led to it.
    #[inline]
    pub fn give(&mut self, result: R) {
        self.results.push(result);
    }

    /// Sends all of `results`.
    pub fn give_iterator(&mut self, results: impl IntoIterator<Item = R>) {
        self.results.extend(results);
    }
}

/// The reason for which a stateful operator is called.
#[derive(Debug)]
pub enum Event<D> {
    /// A record of the key.
    Record(D),
    /// A time that was requested with [`At::wake_at`] is complete.
    Timer,
}

/// The context in which a stateful operator is called: key, state, time.
pub struct At<'a, K, S, T> {
    /// The key.
    pub key: &'a K,
    /// Its state, or the default value if the key has none.
    pub state: &'a mut S,
    /// The time of the record, or the one that was requested.
    pub time: &'a T,
    wake: &'a mut BTreeSet<T>,
    remove: &'a mut bool,
    /// Whether the call is for a timer of the current time.
    is_timer: bool,
}

impl<K, S, T> At<'_, K, S, T> {
    /// Requests a call with [`Event::Timer`] once all records up to and at `time` have been seen.
    ///
    /// A time before the current one counts as the current one. Timers are part of the state: they survive
    /// what the state survives. Two requests for the same time result in one call. A timer that requests its
    /// own time again is not called again.
    ///
    /// A timer holds its time open, up to the greatest value of the type. When the input has ended, all
    /// remaining timers fire, in order. So a timer that requests a later time whenever it fires must stop at
    /// some point, or the job never ends.
    ///
    /// There are no timers in iterative scopes, where a time may be complete and still occur again.
    pub fn wake_at(&mut self, time: T)
    where
        T: EpochTime,
    {
        if self.is_timer && time <= *self.time {
            return;
        }
        self.wake.insert(time.max(self.time.clone()));
    }

    /// Forgets the key's state after this call; its timers stay.
    pub fn remove(&mut self) {
        *self.remove = true;
    }
}

/// Keyed state that survives the loss of a worker.
pub trait Stateful<'scope, T: FencedTime, D: Data> {
    /// Folds the records of each key into state that survives the loss of a worker.
    ///
    /// Records are sent to the owner of their key's partition and applied epoch by epoch. `fold` gets the
    /// key's state (initially `init`), the record, and an output for results, which keep the record's time.
    /// `name` identifies the state across failures.
    ///
    /// In an iterative scope the outermost part of the time is the epoch: an epoch's records are applied
    /// as they come round, and those of later epochs wait until the loop has come to rest.
    ///
    /// The state as of the last committed epoch survives, and the job's sources replay later records. So
    /// `fold` may see a record again, but never on a state that has already absorbed it.
    ///
    /// ```
    /// use ringfence_operators::testing;
    /// use ringfence_operators::prelude::*;
    ///
    /// let totals = testing::run(2, |scope, output| {
    ///     per_share(|share| (0..10u64).filter(move |n| n % share.count == share.index))
    ///         .to_stream_fenced(scope, "numbers")
    ///         .fold_fenced("sums", |n| n % 2, 0, |sum, n, out| {
    ///             *sum += n;
    ///             out.give((n % 2, *sum));
    ///         })
    ///         .sink_fenced("totals", output);
    /// });
    /// assert!(totals.contains(&(0, 20)) && totals.contains(&(1, 25)));
    /// ```
    fn fold_fenced<K, S, R>(
        self,
        name: &str,
        key: impl Fn(&D) -> K + 'static,
        init: S,
        fold: impl FnMut(&mut S, D, &mut Give<'_, R>) + 'static,
    ) -> StreamVec<'scope, T, R>
    where
        K: Key,
        S: Data,
        R: Data;

    /// Runs `logic` for each record and each timer of a key, on state that survives.
    ///
    /// This is like [`fold_fenced`](Stateful::fold_fenced), with access to the key, timers, and removal: a
    /// key whose state was removed starts from the default again.
    ///
    /// ```
    /// use ringfence_operators::testing;
    /// use ringfence_operators::prelude::*;
    ///
    /// // Counts the records of each key and tells the count once the epoch is complete.
    /// let counts = testing::run(1, |scope, output| {
    ///     per_share(|_share| 0..6u64)
    ///         .to_stream_fenced(scope, "numbers")
    ///         .stateful_fenced("counts", |n| n % 3, |at, event, out| match event {
    ///             Event::Record(_) => {
    ///                 *at.state += 1u64;
    ///                 at.wake_at(*at.time);
    ///             }
    ///             Event::Timer => {
    ///                 out.give((*at.key, *at.state));
    ///                 at.remove();
    ///             }
    ///         })
    ///         .sink_fenced("told", output);
    /// });
    /// assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 6);
    /// ```
    fn stateful_fenced<K, S, R>(
        self,
        name: &str,
        key: impl Fn(&D) -> K + 'static,
        logic: impl FnMut(&mut At<'_, K, S, T>, Event<D>, &mut Give<'_, R>) + 'static,
    ) -> StreamVec<'scope, T, R>
    where
        K: Key,
        S: Data + Default,
        R: Data;
}

impl<'scope, T: FencedTime, D: Data> Stateful<'scope, T, D> for StreamVec<'scope, T, D> {
    fn fold_fenced<K, S, R>(
        self,
        name: &str,
        key: impl Fn(&D) -> K + 'static,
        init: S,
        fold: impl FnMut(&mut S, D, &mut Give<'_, R>) + 'static,
    ) -> StreamVec<'scope, T, R>
    where
        K: Key,
        S: Data,
        R: Data,
    {
        keyed(self, "fold_fenced", name, key, move |fence, name| Fold {
            states: Partitions::restore(fence, name, &mut |_| {}),
            init,
            fold,
        })
    }

    fn stateful_fenced<K, S, R>(
        self,
        name: &str,
        key: impl Fn(&D) -> K + 'static,
        logic: impl FnMut(&mut At<'_, K, S, T>, Event<D>, &mut Give<'_, R>) + 'static,
    ) -> StreamVec<'scope, T, R>
    where
        K: Key,
        S: Data + Default,
        R: Data,
    {
        keyed(self, "stateful_fenced", name, key, move |fence, name| {
            WithTimers::restore(fence, name, logic)
        })
    }
}

struct Fold<K: Data + Eq, S: Data, F> {
    states: Partitions<K, S>,
    init: S,
    fold: F,
}

impl<K: Data + Eq, S: Data, F> Seals for Fold<K, S, F> {
    fn each(&mut self, seal: &mut dyn FnMut(&mut dyn Seal)) {
        seal(&mut self.states);
    }
}

impl<T, D, K, S, R, F> Keyed<T, D, K, R> for Fold<K, S, F>
where
    T: FencedTime,
    K: Data + Eq,
    S: Data,
    F: FnMut(&mut S, D, &mut Give<'_, R>) + 'static,
{
    #[inline]
    fn record(&mut self, _time: &T, at: Hashed<K>, record: D, out: &mut Give<'_, R>) {
        let (init, fold) = (&self.init, &mut self.fold);
        let table = self.states.table(at.partition);
        table.update(at.hash, at.key, || init.clone(), |state| fold(state, record, out));
    }

    fn attempt(
        &mut self,
        _time: &T,
        at: Hashed<K>,
        record: D,
        out: &mut Give<'_, R>,
    ) -> Result<(), Panic> {
        let table = self.states.table(at.partition);
        let mut state = table.get(at.hash, &at.key).cloned().unwrap_or_else(|| self.init.clone());
        let fold = &mut self.fold;
        catch_unwind(AssertUnwindSafe(|| fold(&mut state, record, out)))?;
        table.insert(at.hash, at.key, state);
        Ok(())
    }

    fn next_timer(&self) -> Option<T> {
        None
    }

    fn fire(&mut self, _time: &T, _out: &mut Give<'_, R>) {}

    fn decode_some(&mut self) -> bool {
        self.states.decode_some(DECODE_KEYS)
    }

    fn ids(&self) -> Vec<u64> {
        vec![self.states.id()]
    }
}
