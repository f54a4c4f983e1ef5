//! Keyed pact: timely's own pacts, with partitions in place of workers.
//!
//! An exchange distributes by a number that its function gives for each record, modulo the number of targets.
//! Here the targets are the partitions. Each partition's batch then goes to the worker that runs it, in a
//! [`Parcel`] with the other batches for that worker. Batches are tagged even if there is only one worker.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use timely::Container;
use timely::communication::{Pull, Push};
use timely::dataflow::channels::pact::{
    DistributorPact, LogPuller, LogPusher, ParallelizationContract, Pipeline,
};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::logging::TimelyLogger;
use timely::progress::{Stamp, Timestamp};
use timely::worker::Worker;

use super::parcel::Parcel;
use super::port::{PartitionPuller, Port, Receive};
use crate::fence::Fence;
use crate::ids::{OperatorName, PartitionId};
use crate::time::FencedTime;

/// A parcel is sent once it holds this many records, or when timely flushes the channel.
const PARCEL_RECORDS: i64 = 8 << 10;

/// A pact that gives each record a partition: timely's unmodified [`Exchange`] and [`Pipeline`].
///
/// With an exchange a record belongs to the operator's partition `f(record) % partitions`, whatever the
/// number of workers, and goes to the worker that runs it. With [`Pipeline`] a record stays where it is and belongs
/// to the lowest partition that its worker runs.
///
/// [`Exchange`]: timely::dataflow::channels::pact::Exchange
#[diagnostic::on_unimplemented(
    message = "`{Self}` gives records of `{C}` no partition",
    note = "a wrapped operator takes timely's `Exchange::new(|record| ..)`, whose records must be \
            serializable, or `Pipeline`"
)]
pub trait KeyedPact<C> {
    /// Whether records stay on their worker.
    #[doc(hidden)]
    const IS_LOCAL: bool;

    /// Makes both ends of the channel.
    #[doc(hidden)]
    fn connect<T: FencedTime>(self, wiring: Wiring<'_>) -> Ends<T, C>;
}

/// Both ends of a channel.
pub(super) type Ends<T, C> = (Box<dyn Push<Message<T, C>>>, Box<dyn Receive<T, C>>);

/// The parts of which a channel is made.
pub struct Wiring<'a> {
    fence: &'a Fence,
    name: &'a OperatorName,
    /// The operator's partitions, by their number at it.
    partitions: &'a [PartitionId],
    worker: &'a Worker,
    identifier: usize,
    address: Rc<[usize]>,
    logging: Option<TimelyLogger>,
}

/// The pact with which timely builds a wrapped operator's input.
pub(crate) struct PartitionPact<T, C, P> {
    pact: P,
    port: Rc<Port<T, C>>,
}

impl<T, C, P> PartitionPact<T, C, P> {
    pub(crate) fn new(pact: P, port: &Rc<Port<T, C>>) -> Self {
        PartitionPact { pact, port: Rc::clone(port) }
    }
}

impl<T: FencedTime, C: Container, P: KeyedPact<C>> ParallelizationContract<T, C>
    for PartitionPact<T, C, P>
{
    type Pusher = Box<dyn Push<Message<T, C>>>;
    type Puller = PartitionPuller<T, C>;

    fn connect(
        self,
        worker: &Worker,
        identifier: usize,
        address: Rc<[usize]>,
        logging: Option<TimelyLogger>,
    ) -> (Self::Pusher, Self::Puller) {
        let PartitionPact { pact, port } = self;
        let (fence, name, partitions) = (port.fence(), port.name(), port.partitions());
        let wiring = Wiring { fence, name, partitions, worker, identifier, address, logging };
        let (pusher, channel) = pact.connect(wiring);
        port.connect(channel);
        (pusher, PartitionPuller::new(port))
    }
}

impl<B, D, C> KeyedPact<C> for DistributorPact<B>
where
    B: FnOnce(usize) -> D,
    D: Distributor<C> + 'static,
    C: Container + ContainerBytes + Send,
{
    const IS_LOCAL: bool = false;

    fn connect<T: FencedTime>(self, wiring: Wiring<'_>) -> Ends<T, C> {
        let Wiring { fence, partitions, worker, identifier, address, logging, .. } = wiring;
        let (senders, receiver) = worker.allocate::<Message<T, Parcel<C>>>(identifier, address);
        let index = worker.index();
        let pusher =
            |(target, sender)| LogPusher::new(sender, index, target, identifier, logging.clone());
        let targets: Vec<_> = senders.into_iter().enumerate().map(pusher).collect();
        let owners = &fence.generation().routes.owners;
        let distributor = (self.0)(partitions.len());
        let pusher = ParcelPusher::new(targets, owners.clone(), partitions, distributor);
        let puller = LogPuller::new(receiver, index, identifier, logging);
        (Box::new(pusher), Box::new(Parcels(puller)))
    }
}

impl<C: Container> KeyedPact<C> for Pipeline {
    const IS_LOCAL: bool = true;

    fn connect<T: FencedTime>(self, wiring: Wiring<'_>) -> Ends<T, C> {
        let Wiring { fence, name, worker, identifier, address, logging, .. } = wiring;
        let (pusher, puller) =
            ParallelizationContract::<T, C>::connect(self, worker, identifier, address, logging);
        let lowest = fence.owned().first().map(|partition| partition.0);
        let local = Local { puller, lowest, fence: fence.clone(), name: name.clone() };
        (Box::new(pusher), Box::new(local))
    }
}

/// The receiving end of a channel of parcels.
struct Parcels<P>(P);

impl<T: Timestamp, C, P: Pull<Message<T, Parcel<C>>>> Receive<T, C> for Parcels<P> {
    fn receive(&mut self, take: &mut dyn FnMut(u32, Message<T, C>)) {
        while let Some(message) = self.0.pull().take() {
            for (partition, container) in message.data.parts {
                take(partition, Message::new(message.stamp.clone(), container));
            }
        }
    }
}

/// The receiving end of a channel within a worker.
struct Local<P> {
    puller: P,
    lowest: Option<u32>,
    fence: Fence,
    name: OperatorName,
}

impl<T: Timestamp, C, P: Pull<Message<T, C>>> Receive<T, C> for Local<P> {
    fn receive(&mut self, take: &mut dyn FnMut(u32, Message<T, C>)) {
        while let Some(message) = self.puller.pull().take() {
            match self.lowest {
                Some(partition) => take(partition, message),
                None => {
                    let here = self.fence.worker();
                    let what = format!(
                        "records stay on worker {here}, which runs no partition: use an exchange"
                    );
                    self.fence.misplaced(&self.name, what)
                }
            }
        }
    }
}

/// The sending end of a channel of parcels.
struct ParcelPusher<T, C, D, P> {
    /// A pusher for each worker.
    targets: Vec<P>,
    /// The worker that runs each partition.
    owners: Vec<usize>,
    distributor: D,
    /// The targets of the distributor: one for each of the operator's partitions.
    collectors: Vec<Collector<C>>,
    collected: Rc<RefCell<VecDeque<(u32, C)>>>,
    /// For each worker, the batches to be sent to it, and their number of records.
    parcels: Vec<(Parcel<C>, i64)>,
    stamp: Option<Stamp<T>>,
}

/// Collects what a distributor sends to a partition.
struct Collector<C> {
    partition: u32,
    collected: Rc<RefCell<VecDeque<(u32, C)>>>,
}

impl<T, C> Push<Message<T, C>> for Collector<C> {
    fn push(&mut self, message: &mut Option<Message<T, C>>) {
        if let Some(message) = message.take() {
            self.collected.borrow_mut().push_back((self.partition, message.data));
        }
    }
}

impl<T, C, D, P> ParcelPusher<T, C, D, P>
where
    T: Timestamp,
    C: Container,
    D: Distributor<C>,
    P: Push<Message<T, Parcel<C>>>,
{
    fn new(
        targets: Vec<P>,
        owners: Vec<usize>,
        partitions: &[PartitionId],
        distributor: D,
    ) -> Self {
        let collected = Rc::default();
        let collector = |partition: &PartitionId| Collector {
            partition: partition.0,
            collected: Rc::clone(&collected),
        };
        let collectors = partitions.iter().map(collector).collect();
        let parcels = targets.iter().map(|_| (Parcel::default(), 0)).collect();
        ParcelPusher { targets, owners, distributor, collectors, collected, parcels, stamp: None }
    }

    fn take_collected(&self) -> Option<(u32, C)> {
        self.collected.borrow_mut().pop_front()
    }

    /// Packs what the distributor has given out, and sends the parcels that are full.
    fn pack(&mut self, stamp: &Stamp<T>) {
        while let Some((partition, container)) = self.take_collected() {
            let owner = self.owners[partition as usize];
            let (parcel, records) = &mut self.parcels[owner];
            *records += container.record_count();
            parcel.parts.push((partition, container));
            if *records >= PARCEL_RECORDS {
                self.send(owner, stamp);
            }
        }
    }

    fn send(&mut self, target: usize, stamp: &Stamp<T>) {
        let (parcel, records) = &mut self.parcels[target];
        *records = 0;
        if parcel.parts.is_empty() {
            return;
        }
        let mut message = Some(Message::new(stamp.clone(), std::mem::take(parcel)));
        self.targets[target].push(&mut message);
        // If it was serialized, its list is reused.
        if let Some(mut message) = message {
            message.data.parts.clear();
            *parcel = message.data;
        }
    }

    /// Sends everything that was pushed so far.
    fn flush(&mut self) {
        if let Some(stamp) = self.stamp.take() {
            self.distributor.flush(&stamp, &mut self.collectors);
            self.pack(&stamp);
            for target in 0..self.targets.len() {
                self.send(target, &stamp);
            }
        }
    }
}

impl<T, C, D, P> Push<Message<T, C>> for ParcelPusher<T, C, D, P>
where
    T: Timestamp,
    C: Container,
    D: Distributor<C>,
    P: Push<Message<T, Parcel<C>>>,
{
    fn push(&mut self, message: &mut Option<Message<T, C>>) {
        match message {
            Some(message) => {
                if self.stamp.as_ref() != Some(&message.stamp) {
                    self.flush();
                    self.stamp = Some(message.stamp.clone());
                }
                self.distributor.partition(&mut message.data, &message.stamp, &mut self.collectors);
                if !self.collected.borrow().is_empty() {
                    self.pack(&message.stamp);
                }
            }
            None => {
                self.flush();
                self.distributor.relax();
                for target in &mut self.targets {
                    target.done();
                }
            }
        }
    }
}
