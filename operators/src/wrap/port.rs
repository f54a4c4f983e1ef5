//! Port: an input of a wrapped operator, which all its partitions share.
//!
//! Batches wait here by epoch until the operator may act on them, and then by partition until the partition's
//! turn. For timely, waiting batches are not consumed, so frontiers do not pass them.
//!
//! INVARIANT: what a partition's closure pulls belongs to that partition, and to no epoch beyond the limit.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use timely::communication::Pull;
use timely::dataflow::channels::Message;

use crate::error::JobError;
use crate::fence::Fence;
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::time::FencedTime;

/// The other end of a channel that brings batches for several partitions.
pub trait Receive<T, C> {
    /// Hands over all that has arrived.
    fn receive(&mut self, take: &mut dyn FnMut(u32, Message<T, C>));
}

/// One input of a wrapped operator.
pub(crate) struct Port<T, C> {
    fence: Fence,
    name: OperatorName,
    /// The operator's partitions, by their number within the operator.
    partitions: Rc<[PartitionId]>,
    queues: RefCell<Queues<T, C>>,
}

struct Queues<T, C> {
    channel: Option<Box<dyn Receive<T, C>>>,
    /// Batches by their first epoch, which is beyond the limit, with their last epoch.
    waiting: BTreeMap<Epoch, Vec<Waiting<T, C>>>,
    /// For each partition, what its closure may pull.
    ready: Vec<VecDeque<Message<T, C>>>,
    /// The partitions that have something ready.
    busy: Vec<u32>,
    /// The last epoch that may be pulled.
    limit: Option<Epoch>,
    /// The partition whose turn it is.
    current: usize,
}

struct Waiting<T, C> {
    last: Epoch,
    partition: u32,
    message: Message<T, C>,
}

/// What the stage around a wrapped operator does with a port, whatever its container.
pub(crate) trait Gate {
    /// Takes what has arrived from timely's channel.
    fn receive(&self);
    /// Adds the epochs after the limit and up to `through` that have waiting batches.
    fn waiting_epochs(&self, through: Epoch, epochs: &mut Vec<Epoch>);
    /// The first epoch that has waiting batches.
    fn first_waiting(&self) -> Option<Epoch>;
    /// Lets all epochs up to `limit` be pulled.
    fn admit(&self, limit: Epoch);
    /// Adds the partitions that have something to pull.
    fn busy(&self, partitions: &mut Vec<u32>);
    /// Begins a partition's turn.
    fn turn_to(&self, partition: PartitionId);
    /// Ends all turns.
    fn rest(&self);
}

impl<T: FencedTime, C> Port<T, C> {
    pub(crate) fn new(
        fence: &Fence,
        name: &OperatorName,
        partitions: &Rc<[PartitionId]>,
    ) -> Rc<Self> {
        let mut ready = Vec::new();
        ready.resize_with(fence.generation().routes.owners.len(), VecDeque::new);
        let queues = Queues {
            channel: None,
            waiting: BTreeMap::new(),
            ready,
            busy: Vec::new(),
            limit: None,
            current: usize::MAX,
        };
        let (fence, name, partitions) = (fence.clone(), name.clone(), Rc::clone(partitions));
        Rc::new(Port { fence, name, partitions, queues: RefCell::new(queues) })
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    pub(crate) fn name(&self) -> &OperatorName {
        &self.name
    }

    pub(crate) fn partitions(&self) -> &[PartitionId] {
        &self.partitions
    }

    pub(crate) fn connect(&self, channel: Box<dyn Receive<T, C>>) {
        self.queues.borrow_mut().channel = Some(channel);
    }

    /// The first and the last epoch of a batch.
    fn epochs(&self, message: &Message<T, C>) -> (Epoch, Epoch) {
        let mut times = message.stamp.iter().map(T::epoch);
        let Some(some) = times.next() else {
            let what = "a batch without a time arrived: it belongs to no epoch, so send it with a capability";
            self.fence.misplaced(&self.name, what)
        };
        let (first, last) =
            times.fold((some, some), |(first, last), epoch| (first.min(epoch), last.max(epoch)));
        if first < self.fence.first_epoch() {
            self.fence.fail(JobError::LateRecord {
                operator: self.name.clone(),
                epoch: first,
                resume: self.fence.generation().resume.unwrap_or_default(),
            })
        }
        (first, last)
    }

    fn spans(&self, first: Epoch, last: Epoch, checkpoint: Epoch) -> ! {
        self.fence.fail(JobError::SpansCheckpoint {
            operator: self.name.clone(),
            first,
            last,
            checkpoint,
        })
    }
}

impl<T, C> Queues<T, C> {
    fn make_ready(&mut self, partition: u32, message: Message<T, C>) {
        let queue = &mut self.ready[partition as usize];
        if queue.is_empty() {
            self.busy.push(partition);
        }
        queue.push_back(message);
    }
}

impl<T: FencedTime, C> Gate for Port<T, C> {
    fn receive(&self) {
        let mut queues = self.queues.borrow_mut();
        let Some(mut channel) = queues.channel.take() else { return };
        let owners = &self.fence.generation().routes.owners;
        channel.receive(&mut |partition, message| {
            let (first, last) = self.epochs(&message);
            if owners.get(partition as usize) != Some(&self.fence.worker()) {
                let here = self.fence.worker();
                let what = format!(
                    "records of partition {partition} reached worker {here}, which does not run it"
                );
                self.fence.misplaced(&self.name, what)
            }
            match queues.limit {
                Some(limit) if last <= limit => queues.make_ready(partition, message),
                Some(limit) if first <= limit => self.spans(first, last, limit),
                _ => queues.waiting.entry(first).or_default().push(Waiting {
                    last,
                    partition,
                    message,
                }),
            }
        });
        queues.channel = Some(channel);
    }

    fn waiting_epochs(&self, through: Epoch, epochs: &mut Vec<Epoch>) {
        epochs.extend(self.queues.borrow().waiting.range(..=through).map(|(epoch, _)| *epoch));
    }

    fn first_waiting(&self) -> Option<Epoch> {
        self.queues.borrow().waiting.first_key_value().map(|(epoch, _)| *epoch)
    }

    fn admit(&self, limit: Epoch) {
        let mut queues = self.queues.borrow_mut();
        queues.limit = queues.limit.max(Some(limit));
        while let Some(entry) = queues.waiting.first_entry()
            && *entry.key() <= limit
        {
            let (first, batches) = entry.remove_entry();
            for batch in batches {
                if batch.last > limit {
                    self.spans(first, batch.last, limit);
                }
                queues.make_ready(batch.partition, batch.message);
            }
        }
    }

    fn busy(&self, partitions: &mut Vec<u32>) {
        let mut queues = self.queues.borrow_mut();
        let Queues { busy, ready, .. } = &mut *queues;
        busy.retain(|&partition| !ready[partition as usize].is_empty());
        partitions.extend_from_slice(busy);
    }

    fn turn_to(&self, partition: PartitionId) {
        self.queues.borrow_mut().current = partition.0 as usize;
    }

    fn rest(&self) {
        self.queues.borrow_mut().current = usize::MAX;
    }
}

/// The input of a wrapped operator, as its closures see it: the batches of the partition whose turn it is.
pub struct PartitionPuller<T, C> {
    port: Rc<Port<T, C>>,
    pulled: Option<Message<T, C>>,
}

impl<T, C> PartitionPuller<T, C> {
    pub(crate) fn new(port: Rc<Port<T, C>>) -> Self {
        PartitionPuller { port, pulled: None }
    }
}

impl<T, C> Pull<Message<T, C>> for PartitionPuller<T, C> {
    #[inline]
    fn pull(&mut self) -> &mut Option<Message<T, C>> {
        let mut queues = self.port.queues.borrow_mut();
        let current = queues.current;
        self.pulled = queues.ready.get_mut(current).and_then(VecDeque::pop_front);
        &mut self.pulled
    }
}
