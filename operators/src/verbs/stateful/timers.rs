//! Timers: keyed state whose keys request another call once a time is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{At, DECODE_KEYS, Event, Give, Hashed, Keyed};
use crate::data::Data;
use crate::fence::Fence;
use crate::ids::{Epoch, OperatorName};
use crate::protected::outlet::{Seal, Seals};
use crate::protected::partitions::Partitions;
use crate::time::{EpochTime, FencedTime};
use crate::verbs::quarantine::Panic;

/// Keyed state with timers, which are keyed state themselves: (epoch, key) -> nothing.
pub(super) struct WithTimers<K: Data + Eq, S: Data, L> {
    fence: Fence,
    states: Partitions<K, S>,
    timers: Partitions<(u64, K), ()>,
    /// The same timers in the order in which they fire.
    due: BTreeMap<u64, Vec<Hashed<K>>>,
    logic: L,
}

impl<K: Data + Eq, S: Data + Default, L> WithTimers<K, S, L> {
    pub(super) fn restore(fence: &Fence, name: &OperatorName, logic: L) -> Self {
        let mut states = Partitions::<K, S>::restore(fence, name, &mut |_| {});
        let timers_name = OperatorName::new(&format!("{name}.timers"));
        let mut timers = Partitions::<(u64, K), ()>::restore(fence, &timers_name, &mut |_| {});
        let mut due = BTreeMap::<u64, Vec<Hashed<K>>>::new();
        for partition in timers.owned().to_vec() {
            let mut found = Vec::new();
            timers.table(partition).for_each(|(epoch, key), ()| found.push((*epoch, key.clone())));
            for (epoch, key) in found {
                let hash = states.hash(partition, &key);
                due.entry(epoch).or_default().push(Hashed { key, hash, partition });
            }
        }
        WithTimers { fence: fence.clone(), states, timers, due, logic }
    }

    fn call<T, D, R>(&mut self, time: &T, at: Hashed<K>, event: Event<D>, out: &mut Give<'_, R>)
    where
        T: FencedTime,
        L: FnMut(&mut At<'_, K, S, T>, Event<D>, &mut Give<'_, R>),
    {
        let (mut wake, mut remove) = (BTreeSet::new(), false);
        let logic = &mut self.logic;
        let key = at.key.clone();
        let is_timer = matches!(event, Event::Timer);
        let table = self.states.table(at.partition);
        table.update(at.hash, key, S::default, |state| {
            let (wake, remove) = (&mut wake, &mut remove);
            let mut here = At { key: &at.key, state, time, wake, remove, is_timer };
            logic(&mut here, event, out);
        });
        self.settle(at, wake, remove);
    }

    /// Does what a call has requested.
    fn settle<T: FencedTime>(&mut self, at: Hashed<K>, wake: BTreeSet<T>, remove: bool) {
        if remove {
            self.states.table(at.partition).remove(at.hash, &at.key);
        }
        for time in wake {
            // Not the epoch: the last epoch has two times.
            let number = time.outer().to_epoch().0;
            let timer = (number, at.key.clone());
            let hash = self.timers.hash(at.partition, &timer);
            let timers = self.timers.table(at.partition);
            if timers.insert(hash, timer, ()).is_none() {
                let place = Hashed { key: at.key.clone(), hash: at.hash, partition: at.partition };
                self.due.entry(number).or_default().push(place);
            }
        }
    }
}

impl<K: Data + Eq, S: Data, L> Seals for WithTimers<K, S, L> {
    fn each(&mut self, seal: &mut dyn FnMut(&mut dyn Seal)) {
        seal(&mut self.states);
        seal(&mut self.timers);
    }
}

impl<T, D, K, S, R, L> Keyed<T, D, K, R> for WithTimers<K, S, L>
where
    T: FencedTime,
    K: Data + Eq,
    S: Data + Default,
    L: FnMut(&mut At<'_, K, S, T>, Event<D>, &mut Give<'_, R>) + 'static,
{
    fn record(&mut self, time: &T, at: Hashed<K>, record: D, out: &mut Give<'_, R>) {
        self.call(time, at, Event::Record(record), out);
    }

    fn attempt(
        &mut self,
        time: &T,
        at: Hashed<K>,
        record: D,
        out: &mut Give<'_, R>,
    ) -> Result<(), Panic> {
        let (mut wake, mut remove) = (BTreeSet::new(), false);
        let table = self.states.table(at.partition);
        let mut state = table.get(at.hash, &at.key).cloned().unwrap_or_default();
        let logic = &mut self.logic;
        catch_unwind(AssertUnwindSafe(|| {
            let (state, wake, remove) = (&mut state, &mut wake, &mut remove);
            let mut here = At { key: &at.key, state, time, wake, remove, is_timer: false };
            logic(&mut here, Event::Record(record), out);
        }))?;
        table.insert(at.hash, at.key.clone(), state);
        self.settle(at, wake, remove);
        Ok(())
    }

    fn next_timer(&self) -> Option<T> {
        self.due.first_key_value().map(|(&epoch, _)| T::first_of(Epoch(epoch)))
    }

    fn fire(&mut self, time: &T, out: &mut Give<'_, R>) {
        let Some((epoch, places)) = self.due.pop_first() else { return };
        for at in places {
            self.fence.whereabouts().set_partition(at.partition);
            let timer = (epoch, at.key.clone());
            let hash = self.timers.hash(at.partition, &timer);
            self.timers.table(at.partition).remove(hash, &timer);
            self.call(time, at, Event::Timer, out);
        }
    }

    fn decode_some(&mut self) -> bool {
        self.states.decode_some(DECODE_KEYS)
    }

    fn ids(&self) -> Vec<u64> {
        vec![self.states.id(), self.timers.id()]
    }
}
