//! State: the source of a partition's protected state, for its closure.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use timely::dataflow::operators::Capability;

use super::capabilities::Capabilities;
use super::held::HeldTimes;
use super::list::List;
use super::map::Map;
use super::ordered_map::OrderedMap;
use super::slot::{Slot, Turn};
use super::stash::Stash;
use super::value::Value;
use crate::codec::Codec;
use crate::data::{Data, Key, Plain};
use crate::error::JobError;
use crate::fence::Fence;
use crate::ids::{OperatorName, PartitionId};
use crate::protected::outlet::{Seal, Seals};
use crate::protected::partitions::Partitions;
use crate::time::FencedTime;

/// How many keys of an opened replica are decoded at each activation until none are left.
const DECODE_KEYS: usize = 512;

/// Creates the protected state of one partition, for the constructor of a wrapped operator.
///
/// Every named state survives with the operator. A name identifies the state within its operator, so two
/// operators may use the same name. The constructors of all partitions must make the same states.
pub struct State<T: FencedTime> {
    store: Rc<Store<T>>,
    partition: PartitionId,
    /// The number of the partition within this operator, and the number of partitions.
    number: u32,
    count: u32,
    names: BTreeSet<String>,
}

impl<T: FencedTime> State<T> {
    /// The partition for which this constructor makes a closure.
    pub fn partition(&self) -> u32 {
        self.number
    }

    /// The number of partitions, which corresponds to the number of workers in timely: this closure gets the
    /// records for which the exchange's function, modulo this number, gives [`partition`](State::partition).
    ///
    /// It is the number of the job's partitions, unless [`Fence::partitions`] gives another one.
    pub fn partitions(&self) -> u32 {
        self.count
    }

    /// Whether nothing has been committed yet, so that all state is new.
    pub fn is_first(&self) -> bool {
        self.store.fence.generation().resume.is_none()
    }

    /// A map, with the methods of `HashMap`.
    pub fn map<K: Key, V: Data>(&mut self, name: &str) -> Map<K, V> {
        Map::new(self.open(name))
    }

    /// A map whose values are encoded by your own codec: they need not support serde.
    ///
    /// Keys are encoded as everywhere. The codec's [`FORMAT`](Codec::FORMAT) and [`VERSION`](Codec::VERSION)
    /// are part of the state's identity: what one codec has written is never read by another, and a job whose
    /// codec differs from that of the existing state ends with an error.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use ringfence_operators::codec::{Codec, CodecError};
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    /// use timely::dataflow::channels::pact::Exchange;
    ///
    /// /// How long something took: no serde here.
    /// #[derive(Clone, Default)]
    /// struct Longest(Duration);
    ///
    /// struct Nanos;
    ///
    /// impl Codec<Longest> for Nanos {
    ///     const FORMAT: &'static str = "nanoseconds";
    ///     const VERSION: u32 = 1;
    ///
    ///     fn encode(value: &Longest, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
    ///         bytes.extend(value.0.as_nanos().to_le_bytes());
    ///         Ok(())
    ///     }
    ///
    ///     fn decode(bytes: &[u8]) -> Result<Longest, CodecError> {
    ///         let nanos = bytes.try_into().map_err(|_| CodecError::Length {
    ///             type_name: "Longest",
    ///             expected: 16,
    ///             actual: bytes.len(),
    ///         })?;
    ///         Ok(Longest(Duration::from_nanos(u128::from_le_bytes(nanos) as u64)))
    ///     }
    /// }
    ///
    /// let mut longest = testing::run(2, |scope, output| {
    ///     per_share(|_share| (0..100u64).map(|n| (n % 3, n)))
    ///         .to_stream_fenced(scope, "times")
    ///         .unary_fenced(Exchange::new(|(key, _): &(u64, u64)| *key), "longest", |_, state| {
    ///             let mut longest = state.map_with::<u64, Longest, Nanos>("longest");
    ///             move |input, output| {
    ///                 input.for_each(|capability, times| {
    ///                     let mut session = output.session(&capability);
    ///                     for (key, millis) in times.drain(..) {
    ///                         let time = Duration::from_millis(millis);
    ///                         let mut held = longest.entry(key).or_default();
    ///                         if time > held.0 {
    ///                             held.0 = time;
    ///                             session.give((key, millis));
    ///                         }
    ///                     }
    ///                 });
    ///             }
    ///         })
    ///         .sink_fenced("out", output);
    /// });
    /// longest.sort();
    /// assert_eq!(longest.last(), Some(&(2, 98)));
    /// ```
    pub fn map_with<K: Key, V: Plain, C: Codec<V>>(&mut self, name: &str) -> Map<K, V, C> {
        Map::new(self.open(name))
    }

    /// A map in the order of its keys, with the methods of `BTreeMap`.
    pub fn ordered_map<K: Data + Ord, V: Data>(&mut self, name: &str) -> OrderedMap<K, V> {
        OrderedMap::new(self.open(name))
    }

    /// A list, with the methods of `Vec`.
    pub fn list<V: Data>(&mut self, name: &str) -> List<V> {
        List::new(self.open(name))
    }

    /// One value, which is `initial` until it is set.
    pub fn value<V: Data>(&mut self, name: &str, initial: V) -> Value<V> {
        Value::new(self.open(name), initial)
    }

    /// A stash: items that wait for their time, with the capability to respond.
    pub fn stash<D: Data>(&mut self, name: &str) -> Stash<T, D> {
        let slot = self.open(name);
        Stash::open(slot, &self.store.held, &self.origin())
    }

    /// A set of capabilities.
    pub fn capabilities(&mut self, name: &str) -> Capabilities<T> {
        let slot = self.open(name);
        Capabilities::open(slot, &self.store.held, &self.origin(), self.is_first())
    }

    fn origin(&self) -> Capability<T> {
        match &*self.store.origin.borrow() {
            Some(origin) => origin.clone(),
            // The constructor has returned but kept its `State`, which it may use only during the call.
            None => unreachable!("a constructor's state outlives it"),
        }
    }

    fn open<K: Data + Eq, V: Plain, C: Codec<V>>(&mut self, name: &str) -> Slot<K, V, C> {
        let store = &self.store;
        let full_name = OperatorName::new(&format!("{}.{name}", store.name));
        if !self.names.insert(name.to_owned()) {
            store.fence.fail(JobError::DuplicateName { name: full_name });
        }
        let states = store.named::<K, V, C>(name, &full_name, self.partition);
        Slot::new(states, self.partition, Rc::clone(&store.turn), &store.fence, full_name)
    }
}

/// The named states of a wrapped operator at one worker.
pub(crate) struct Store<T: FencedTime> {
    fence: Fence,
    name: OperatorName,
    states: RefCell<Vec<Named>>,
    turn: Rc<Turn>,
    held: Rc<HeldTimes<T>>,
    /// The origin of the capabilities of restored state, while constructors run.
    origin: RefCell<Option<Capability<T>>>,
}

struct Named {
    name: String,
    /// The same state twice: once to find it by its type, and once to seal it whatever its type.
    by_type: Rc<dyn Any>,
    kept: Rc<dyn AnyPartitions>,
}

/// The operations on a state that do not depend on its types.
trait AnyPartitions {
    fn id(&self) -> u64;
    fn each(&self, seal: &mut dyn FnMut(&mut dyn Seal));
    fn decode_some(&self) -> bool;
    fn deposit(&self);
}

impl<K, V, C> AnyPartitions for RefCell<Partitions<K, V, C>>
where
    K: Data + Eq,
    V: Plain,
    C: Codec<V>,
{
    fn id(&self) -> u64 {
        self.borrow().id()
    }

    fn each(&self, seal: &mut dyn FnMut(&mut dyn Seal)) {
        seal(&mut *self.borrow_mut());
    }

    fn decode_some(&self) -> bool {
        self.borrow_mut().decode_some(DECODE_KEYS)
    }

    fn deposit(&self) {
        // A leaked guard would keep the state from its successor and from the vault.
        if let Ok(mut states) = self.try_borrow_mut() {
            states.deposit();
        }
    }
}

impl<T: FencedTime> Store<T> {
    pub(crate) fn new(fence: &Fence, name: &OperatorName, origin: Capability<T>) -> Rc<Self> {
        Rc::new(Store {
            fence: fence.clone(),
            name: name.clone(),
            states: RefCell::default(),
            turn: Rc::default(),
            held: Rc::new(HeldTimes::new()),
            origin: RefCell::new(Some(origin)),
        })
    }

    /// The state of a partition's constructor.
    ///
    /// The partition has number `number` of the operator's `count` partitions.
    pub(crate) fn state_of(
        self: &Rc<Self>,
        partition: PartitionId,
        number: usize,
        count: usize,
    ) -> State<T> {
        let (number, count) = (number as u32, count as u32);
        State { store: Rc::clone(self), partition, number, count, names: BTreeSet::new() }
    }

    /// All constructors have run.
    pub(crate) fn begin(&self) {
        *self.origin.borrow_mut() = None;
    }

    pub(crate) fn turn(&self) -> &Turn {
        &self.turn
    }

    pub(crate) fn held(&self) -> &HeldTimes<T> {
        &self.held
    }

    fn named<K: Data + Eq, V: Plain, C: Codec<V>>(
        &self,
        name: &str,
        full_name: &OperatorName,
        partition: PartitionId,
    ) -> Rc<RefCell<Partitions<K, V, C>>> {
        let mut states = self.states.borrow_mut();
        if let Some(named) = states.iter().find(|named| named.name == name) {
            return match Rc::clone(&named.by_type).downcast() {
                Ok(found) => found,
                Err(_) => self.fence.fail(JobError::StateType { name: full_name.clone() }),
            };
        }
        let mut made = Partitions::<K, V, C>::restore(&self.fence, full_name, &mut |_| {});
        if !made.owned().contains(&partition) {
            // A constructor must run even on a worker without partitions, to make the names known.
            made.pretend(partition);
        }
        let made = Rc::new(RefCell::new(made));
        let (by_type, kept) =
            (Rc::clone(&made) as Rc<dyn Any>, Rc::clone(&made) as Rc<dyn AnyPartitions>);
        states.push(Named { name: name.to_owned(), by_type, kept });
        made
    }

    /// The identities of all states in the vault.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.states.borrow().iter().map(|named| named.kept.id()).collect()
    }

    /// Decodes some keys of opened replicas; returns whether all are decoded.
    pub(crate) fn decode_some(&self) -> bool {
        self.states.borrow().iter().all(|named| named.kept.decode_some())
    }
}

impl<T: FencedTime> Seals for Rc<Store<T>> {
    fn each(&mut self, seal: &mut dyn FnMut(&mut dyn Seal)) {
        self.states.borrow().iter().for_each(|named| named.kept.each(seal));
    }
}

impl<T: FencedTime> Drop for Store<T> {
    /// Even if handles still exist somewhere, the state goes to the vault with its operator.
    fn drop(&mut self) {
        self.states.borrow().iter().for_each(|named| named.kept.deposit());
    }
}
