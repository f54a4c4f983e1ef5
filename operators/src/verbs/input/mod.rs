//! Inputs that a program feeds by hand, journaled to the backups before the dataflow sees them.
//!
//! A program that feeds its dataflow itself, as timely's examples do, cannot read its input again. So what it
//! feeds is kept: once an epoch is closed by [`FencedInput::advance_to`], its records are put into the
//! journals of the node and of all backups of the share. The epoch enters the dataflow only when all of them
//! have it. After a failure the journal is replayed from the resume epoch on, by the successor if the worker
//! is gone, and the handle names the first epoch that the program must feed.
//!
//! Every epoch that anything in the dataflow has seen survives, as long as one holder of each partition does.
//! An epoch that was fed but had not entered the dataflow may be lost. It may be in no journal, or in some of
//! them. If the journal that counts does not have it, the program feeds it again from its start, and may feed
//! it differently. A probe on the stream distinguishes the two cases: an epoch that it has passed is kept.
//! [`InputShare::records`] tells a program that reads its records from elsewhere where to continue.
//!
//! Records that were fed stay in the memory of the node that feeds them and of its backups until their epoch
//! is committed. The limit is [`JOURNAL_BYTES_MAX`] per node; beyond it, the job ends with an error that says
//! so. A program that lets its worker step until a probe has passed what it fed never reaches the limit.

mod feed;
mod feeding;

use std::cell::RefCell;
use std::rc::Rc;

use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::Activator;

use crate::data::Data;
use crate::error::JobError;
use crate::fence::{Fence, HasFence};
use crate::ids::{Epoch, OperatorName, Share};
use crate::time::EpochTime;
use crate::vault::JOURNAL_BYTES_MAX;
use feed::Feed;

/// An input that the program feeds, epoch by epoch, and that survives failures.
///
/// It is timely's `InputHandle` with three differences. Records are sent to *shares*: what a program would
/// feed on worker i it feeds to share i, and a worker has the shares that come with its partitions. The
/// program does not begin at the least time but at [`resume`](FencedInput::resume). And an epoch enters the
/// dataflow when it is closed and journaled, so a loop must close an epoch before it waits for it.
///
/// The outer loop must go over epochs and the inner loop over shares. A program that feeds all of one share
/// first would wait forever for the others.
///
/// Dropping the handle closes the input. The exception is a worker that is made to leave: then the next
/// generation continues.
///
/// ```
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing;
/// use timely::dataflow::operators::Probe;
///
/// let mut words = testing::run_workers(2, |worker, output| {
///     let mut input = FencedInput::<u64, String>::new("words");
///     let probe = worker.dataflow(|scope| {
///         let (probe, words) = input.to_stream(scope).probe();
///         words.sink_fenced("out", output);
///         probe
///     });
///     for round in input.resume()..3 {
///         for share in input.shares() {
///             input.send_to(share.index, format!("{round} of share {}", share.index));
///         }
///         input.advance_to(round + 1);
///         while probe.less_than(input.time()) {
///             worker.step();
///         }
///     }
/// });
/// words.sort();
/// assert_eq!(words.len(), 6);
/// assert_eq!(words[1], "0 of share 1");
/// ```
pub struct FencedInput<T: EpochTime, D: Data> {
    name: String,
    attached: Option<Attached<T, D>>,
}

/// An input that is part of a dataflow.
struct Attached<T: EpochTime, D: Data> {
    fence: Fence,
    name: OperatorName,
    shares: Vec<Share>,
    resume: T,
    now: T,
    activator: Activator,
    feed: Rc<RefCell<Feed<T, D>>>,
}

/// An input that can begin where others do: see [`resume_in_step`].
pub trait InStep<T> {
    /// The first time at which to feed it.
    fn resume(&self) -> T;
    /// Begins at `time` if that is earlier than [`resume`](InStep::resume); nothing may have been sent.
    fn begin_at(&mut self, time: T);
}

/// Makes inputs that are fed in step begin at the earliest of their resume times, and returns that time.
///
/// After a failure, one input's journal may have epochs that another's lacks. The program feeds such an epoch
/// again to all of them. If a journal has the epoch, the journal decides, and what is sent is ignored.
///
/// ```
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing;
///
/// let mut sums = testing::run_workers(2, |worker, output| {
///     let mut left = FencedInput::<u64, u64>::new("left");
///     let mut right = FencedInput::<u64, u64>::new("right");
///     worker.dataflow(|scope| {
///         let (left, right) = (left.to_stream(scope), right.to_stream(scope));
///         timely::dataflow::operators::Concat::concat(left, right).sink_fenced("out", output);
///     });
///     for round in resume_in_step([&mut left, &mut right])..3 {
///         left.send_to(0, round);
///         right.send_to(1, round + 10);
///         left.advance_to(round + 1);
///         right.advance_to(round + 1);
///         worker.step();
///     }
/// });
/// sums.sort();
/// assert_eq!(sums, [0, 1, 2, 10, 11, 12]);
/// ```
pub fn resume_in_step<T: EpochTime, const N: usize>(inputs: [&mut dyn InStep<T>; N]) -> T {
    let least = inputs.iter().map(|input| input.resume()).min().unwrap_or_else(T::minimum);
    for input in inputs {
        input.begin_at(least.clone());
    }
    least
}

impl<T: EpochTime, D: Data> InStep<T> for FencedInput<T, D> {
    fn resume(&self) -> T {
        FencedInput::resume(self)
    }

    fn begin_at(&mut self, time: T) {
        let attached = self.attached_mut();
        if attached.now != attached.resume || attached.feed.borrow().has_open() {
            attached.fail("it was fed before it was put in step with others".to_owned());
        }
        attached.now = attached.feed.borrow_mut().begin_at(time);
    }
}

impl<T: EpochTime, D: Data> FencedInput<T, D> {
    /// Creates an input. Its name identifies its journal, so it must be used only once in a job.
    ///
    /// ```
    /// use ringfence_operators::prelude::*;
    ///
    /// let input = FencedInput::<u64, String>::new("words");
    /// # drop(input);
    /// ```
    pub fn new(name: &str) -> Self {
        FencedInput { name: name.to_owned(), attached: None }
    }

    /// Makes the input part of a dataflow; returns the stream of the records that are fed.
    ///
    /// The stream has the records of all closed epochs, at the epochs at which they were sent. Its frontier
    /// passes an epoch once all workers have closed the epoch and the journals of all backups have it. After
    /// a failure the stream begins with what the journals have above the resume epoch.
    ///
    /// A worker without shares does not hold the frontier back.
    pub fn to_stream<'scope>(&mut self, scope: Scope<'scope, T>) -> StreamVec<'scope, T, D> {
        let fence = scope.fence();
        let name = fence.admit("fed input", &self.name, scope);
        let feed = Feed::restore(&fence, &name);
        let resume = feed.resume();
        let feed = Rc::new(RefCell::new(feed));
        let (activator, stream) = feeding::build(scope, &fence, &name, &feed);
        self.attached = Some(Attached {
            shares: fence.shares(),
            fence,
            name,
            now: resume.clone(),
            resume,
            activator,
            feed,
        });
        stream
    }

    /// The first time at which to feed: the first epoch that is not in the journals of this worker's shares.
    ///
    /// In the first view that is the least time. If all of the worker's shares are closed, it is the time at
    /// which they were closed. If the worker has no shares, it is the first time that is not committed.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let numbers = testing::run_input(1, |worker, input| {
    ///     assert_eq!(input.resume(), 0);
    ///     for round in input.resume()..10 {
    ///         input.send(round);
    ///         input.advance_to(round + 1);
    ///         worker.step();
    ///     }
    /// });
    /// assert_eq!(numbers.len(), 10);
    /// ```
    ///
    /// # Panics
    ///
    /// Panics before [`to_stream`](FencedInput::to_stream), as do all of the following methods.
    pub fn resume(&self) -> T {
        self.attached().resume.clone()
    }

    /// The time at which records are currently sent.
    pub fn time(&self) -> &T {
        &self.attached().now
    }

    /// The shares that this worker has: those of [`Fence::shares`].
    pub fn shares(&self) -> Vec<Share> {
        self.attached().shares.clone()
    }

    /// The number of all shares, on all workers.
    ///
    /// Together with [`send_to`](FencedInput::send_to) it distributes records, like a program that takes
    /// every nth record on each of n workers:
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let numbers = testing::run_input(2, |_worker, input| {
    ///     for (number, record) in (0..).zip(10..15) {
    ///         input.send_to(number % input.share_count(), record);
    ///     }
    /// });
    /// assert_eq!(numbers, [10, 11, 12, 13, 14]);
    /// ```
    pub fn share_count(&self) -> u64 {
        self.attached().fence.share_count()
    }

    /// Sends a record to the only share of this worker, or nowhere if it has none.
    ///
    /// This is for programs with one worker, and for programs in which every worker feeds its own records. A
    /// worker that has several shares, which may happen after a failure, ends the job with an error. Use
    /// [`send_to`](FencedInput::send_to) to avoid that.
    pub fn send(&mut self, record: D) {
        if let Some(place) = self.only_share() {
            self.attached_mut().send(place, record);
        }
    }

    /// As [`send`](FencedInput::send), for all of `records`, which are drained.
    pub fn send_batch(&mut self, records: &mut Vec<D>) {
        let place = self.only_share();
        for record in records.drain(..) {
            if let Some(place) = place {
                self.attached_mut().send(place, record);
            }
        }
    }

    /// Sends a record to a share; does nothing if the share is on another worker.
    ///
    /// Records for an epoch that the share's journal already has are ignored: for such an epoch the journal
    /// decides.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let numbers = testing::run_input(2, |worker, input| {
    ///     for round in input.resume()..3 {
    ///         // In place of `if worker.index() == 0`.
    ///         input.send_to(0, round);
    ///         input.advance_to(round + 1);
    ///         worker.step();
    ///     }
    /// });
    /// assert_eq!(numbers, [0, 1, 2]);
    /// ```
    pub fn send_to(&mut self, share: u64, record: D) {
        if let Some(mut share) = self.share(share) {
            share.send(record);
        }
    }

    /// One share of this worker; `None` if it is on another worker.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let numbers = testing::run_input(2, |_worker, input| {
    ///     if let Some(mut share) = input.share(1) {
    ///         share.send_batch(&mut vec![1, 2, 3]);
    ///     }
    /// });
    /// assert_eq!(numbers, [1, 2, 3]);
    /// ```
    pub fn share(&mut self, index: u64) -> Option<InputShare<'_, T, D>> {
        let attached = self.attached_mut();
        let place = attached.shares.iter().position(|share| share.index == index)?;
        Some(InputShare { attached, place })
    }

    /// Closes the current epoch and all others before `time`.
    ///
    /// The records of the closed epochs go to the journals, and from there into the dataflow. A time before
    /// the current one ends the job with an error. So do the last two values of a 64-bit time: they stand for
    /// the end of all input, for which there is [`close`](FencedInput::close).
    pub fn advance_to(&mut self, time: T) {
        let attached = self.attached_mut();
        // User code may feed for a long time without a step.
        attached.fence.leave_if_stopping();
        if time.to_epoch() >= Epoch::END {
            let last = T::from_epoch(Epoch(Epoch::END.0 - 1));
            let what = format!(
                "it cannot advance to {time:?}: {last:?} is the last time that can be fed, and closing or \
                 dropping the input ends that"
            );
            attached.fail(what);
        }
        if time < attached.now {
            let what = format!(
                "it cannot go back from {:?} to {time:?}: after a failure a program feeds from \
                 `resume()` on",
                attached.now
            );
            attached.fail(what);
        }
        // A program that has fed an epoch and closes none began before the journals end: the open records
        // belong to a different epoch than the program thinks.
        let began_early = time == attached.now && time == attached.resume;
        if began_early && !attached.fence.is_first_view() && attached.feed.borrow().has_open() {
            let what = format!(
                "it was fed something of before {time:?}, at which it resumes: inputs that are fed in \
                 step begin at `resume_in_step([&mut left, &mut right])`"
            );
            attached.fail(what);
        }
        if attached.now < time {
            attached.feed.borrow_mut().advance(&time);
            attached.now = time;
            attached.activator.activate();
        }
    }

    /// Closes the input, as dropping it does: the current epoch is its last.
    pub fn close(self) {}

    fn only_share(&self) -> Option<usize> {
        let attached = self.attached();
        match attached.shares.len() {
            0 => None,
            1 => Some(0),
            _ => {
                let shares: Vec<String> =
                    attached.shares.iter().map(|share| share.index.to_string()).collect();
                let what = format!(
                    "this worker has shares {}, and `send` cannot tell for which of them a record is: \
                     feed each by `send_to`, for shares move when a worker fails",
                    shares.join(", ")
                );
                attached.fail(what)
            }
        }
    }

    fn attached(&self) -> &Attached<T, D> {
        match &self.attached {
            Some(attached) => attached,
            None => self.refuse(),
        }
    }

    fn attached_mut(&mut self) -> &mut Attached<T, D> {
        if self.attached.is_none() {
            self.refuse();
        }
        match &mut self.attached {
            Some(attached) => attached,
            None => unreachable!("it was there"),
        }
    }

    fn refuse(&self) -> ! {
        panic!("input \"{}\" is not part of a dataflow yet: call `to_stream` first", self.name)
    }
}

impl<T: EpochTime, D: Data> Attached<T, D> {
    fn send(&mut self, place: usize, record: D) {
        let sent = self.feed.borrow_mut().send(place, record);
        match sent {
            Ok(queued_bytes) => {
                if let Err(what) = check_queue(queued_bytes, JOURNAL_BYTES_MAX) {
                    self.fail(what);
                }
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&self, what: String) -> ! {
        self.fence.fail(JobError::Input { operator: self.name.clone(), what })
    }
}

/// Refuses to keep more bytes than a journal has room for.
#[inline]
fn check_queue(queued_bytes: usize, limit_bytes: usize) -> Result<(), String> {
    if queued_bytes <= limit_bytes {
        return Ok(());
    }
    Err(format!(
        "{queued_bytes} bytes were sent and are not in the journal yet, and at most {limit_bytes} may be: \
         close epochs by `advance_to` and let the worker step"
    ))
}

/// One share of a [`FencedInput`].
pub struct InputShare<'a, T: EpochTime, D: Data> {
    attached: &'a mut Attached<T, D>,
    place: usize,
}

impl<T: EpochTime, D: Data> InputShare<'_, T, D> {
    /// The index of the share.
    pub fn index(&self) -> u64 {
        self.attached.shares[self.place].index
    }

    /// The first time that is not in this share's journal; if the share is closed, the time at which it was
    /// closed.
    ///
    /// A worker's input begins at the least of these times over its shares. A program that would not feed an
    /// epoch in the same way twice needs to know which of its shares already have it.
    pub fn resume(&self) -> T {
        self.attached.feed.borrow().resume_of(self.place)
    }

    /// How many records the share's journal has, from the beginning of the run.
    ///
    /// A program whose records come from elsewhere in a fixed order continues after that many of them: at
    /// [`resume`](InputShare::resume) this is how many the earlier epochs have taken. The program cannot
    /// count what it has fed itself, because any one of several attempts to feed an epoch may be in the
    /// journal that counts.
    ///
    /// ```
    /// use ringfence_operators::testing;
    ///
    /// let numbers = testing::run_input(1, |worker, input| {
    ///     let begin = input.share(0).map_or(0, |share| share.records());
    ///     let (mut queue, first) = (begin..10, input.resume());
    ///     for round in first..first + 5 {
    ///         queue.by_ref().take(3).for_each(|number| input.send_to(0, number));
    ///         input.advance_to(round + 1);
    ///         worker.step();
    ///     }
    /// });
    /// assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    /// ```
    pub fn records(&self) -> u64 {
        self.attached.feed.borrow().records_of(self.place)
    }

    /// Whether the share's journal says that it is closed: what is sent to it is ignored.
    pub fn is_closed(&self) -> bool {
        self.attached.feed.borrow().is_closed(self.place)
    }

    /// Sends a record to the share.
    pub fn send(&mut self, record: D) {
        self.attached.send(self.place, record);
    }

    /// Sends all of `records`, which are drained.
    pub fn send_batch(&mut self, records: &mut Vec<D>) {
        for record in records.drain(..) {
            self.send(record);
        }
    }
}

impl<T: EpochTime, D: Data> Drop for FencedInput<T, D> {
    fn drop(&mut self) {
        let Some(attached) = &self.attached else { return };
        // A worker that is made to leave has not fed everything: the next generation continues.
        if std::thread::panicking() || attached.fence.generation().is_stopping() {
            return;
        }
        attached.feed.borrow_mut().close();
        attached.activator.activate();
    }
}

#[cfg(test)]
mod tests;
