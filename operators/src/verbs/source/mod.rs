//! Replayable sources: inputs that can be reread from an offset, so that nothing is lost.

mod epochs;
mod file_copy;
mod followed_files;
mod listing;
mod pace;
mod per_share;
mod reading;
mod text_files;

pub use followed_files::{FollowPosition, FollowReader, FollowedFiles};
pub use per_share::{PerShare, per_share};
pub use text_files::TextFiles;

use std::io;
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use self::epochs::Epochs;
use self::pace::Pace;
use crate::data::Data;
use crate::fence::HasFence;
use crate::fence::alarm::Alarm;
use crate::fence::careful::Careful;
use crate::protected::outlet::Outlet;
use crate::rounds::replicate::commit;
use crate::time::EpochTime;
use listing::Order;
use reading::{Reading, Turn};

/// How long a source waits before it compares its input again, if a difference was not clear.
const COMPARE_PAUSE: Duration = Duration::from_millis(10);

/// An input that can be reread: it has shards, and each shard can be opened at a position.
///
/// The list of shards is decided once for a run: worker 0 of the first view lists them, and the list is kept
/// as protected state from then on. Each worker checks that its own node has the same input before it reads,
/// when it has read a shard to its end, and when it takes over a shard: [`agree`](Source::agree) compares the
/// lists, and [`check`](Source::check) compares the contents of a shard. A difference ends the job with an
/// error that names both sides.
///
/// A shard that is read twice from the same position must yield the same items. That is what makes replay
/// exact.
///
/// An error ends the job. The exception is [`WouldBlock`](io::ErrorKind::WouldBlock) from comparing or
/// reading, which means "not now": the call is repeated after a pause.
///
/// ```
/// use std::io;
///
/// use ringfence_operators::prelude::*;
/// use ringfence_operators::testing;
///
/// /// Counts up to a number; each shard is the number's name.
/// struct Counts(Vec<u64>);
///
/// struct CountReader {
///     next: u64,
///     end: u64,
/// }
///
/// impl Source for Counts {
///     type Item = u64;
///     type Position = u64;
///     type Reader = CountReader;
///
///     fn shards(&self, _share_count: u32) -> io::Result<Vec<String>> {
///         Ok(self.0.iter().map(u64::to_string).collect())
///     }
///
///     fn open(&self, shard: &str, at: Option<&u64>) -> io::Result<CountReader> {
///         let end = shard.parse().map_err(io::Error::other)?;
///         Ok(CountReader { next: at.copied().unwrap_or(0), end })
///     }
/// }
///
/// impl Reader for CountReader {
///     type Item = u64;
///     type Position = u64;
///
///     fn read(&mut self, batch: &mut Vec<u64>) -> io::Result<bool> {
///         let until = self.end.min(self.next + 1000);
///         batch.extend(self.next..until);
///         self.next = until;
///         Ok(until < self.end)
///     }
///
///     fn position(&self) -> u64 {
///         self.next
///     }
/// }
///
/// let numbers = testing::run(2, |scope, output| {
///     Counts(vec![3, 4]).to_stream_fenced(scope, "counts").sink_fenced("out", output);
/// });
/// assert_eq!(numbers.len(), 3 + 4);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a source of records that can be protected",
    note = "an iterator becomes a source by `per_share(|share| ..)`, which makes the same one again for a share",
    note = "its records are `Clone`, `Send` and serializable: \
            `#[derive(Clone, serde::Serialize, serde::Deserialize)]`"
)]
pub trait Source: 'static {
    /// What it reads.
    type Item: Data;
    /// Where a reader stands; kept as protected state.
    type Position: Data;
    /// Reads one shard.
    type Reader: Reader<Item = Self::Item, Position = Self::Position>;

    /// The names of its shards, each once.
    ///
    /// `share_count` is the number of workers that the run began with, for sources that can be split into any
    /// number of shards.
    fn shards(&self, share_count: u32) -> io::Result<Vec<String>>;

    /// Opens a shard at a position, or at its beginning.
    fn open(&self, shard: &str, at: Option<&Self::Position>) -> io::Result<Self::Reader>;

    /// Checks that this node has the shards that were decided; an error says what differs.
    ///
    /// Called by every worker before it reads for the first time. By default it lists the shards
    /// again and compares: the lists must be equal.
    fn agree(&self, decided: &[String], share_count: u32) -> io::Result<()> {
        listing::compare(decided, &self.shards(share_count)?)
    }

    /// Identifies a shard's contents in any form: a length, a version, a digest.
    ///
    /// Called once in a run, by the worker that lists the shards; empty by default.
    fn fingerprint(&self, shard: &str) -> io::Result<Vec<u8>> {
        let _ = shard;
        Ok(Vec::new())
    }

    /// Checks that this node's contents of a shard are those that were decided; an error says what differs.
    ///
    /// Called for all shards before the first is read, for each that was read to its end, and for
    /// each that is taken over. By default the [`fingerprint`](Source::fingerprint) must be the same.
    fn check(&self, shard: &str, fingerprint: &[u8]) -> io::Result<()> {
        listing::compare_fingerprints(fingerprint, &self.fingerprint(shard)?)
    }

    /// How much a shard holds, in units such as bytes; `None` if that is unknown.
    fn extent(&self, shard: &str) -> Option<u64> {
        let _ = shard;
        None
    }

    /// How much of a shard lies before `position`, in the same units.
    fn consumed(&self, shard: &str, position: &Self::Position) -> u64 {
        let _ = (shard, position);
        0
    }
}

/// Reads one shard of a [`Source`].
pub trait Reader: 'static {
    /// What it reads.
    type Item;
    /// Where it stands.
    type Position;

    /// Appends some items to `batch`; returns `false` once the shard is exhausted.
    ///
    /// A call should read a moderate amount (about a thousand items), because the worker does all of its
    /// other work between two calls. It should not wait: if there is nothing to read yet, it appends nothing
    /// and returns `true`, and is called again after a pause that grows from 1 ms to 200 ms.
    fn read(&mut self, batch: &mut Vec<Self::Item>) -> io::Result<bool>;

    /// As [`read`](Reader::read), but no more than about `items_max` items.
    ///
    /// This is the method that is called. A source asks for fewer items when the job takes long to process
    /// them, for example because the records are large, since all of them are in memory at once. The default
    /// implementation calls `read`.
    fn read_some(&mut self, batch: &mut Vec<Self::Item>, items_max: usize) -> io::Result<bool> {
        let _ = items_max;
        self.read(batch)
    }

    /// The position after the last item read. A reader that is opened there reads the next item.
    fn position(&self) -> Self::Position;
}

/// Turns a [`Source`] into a protected stream.
pub trait ToStreamFenced: Source + Sized {
    /// Reads the source into a stream that can be replayed from any committed epoch.
    ///
    /// The shards are spread over the partitions and move with them. Each worker reads its shards in turns,
    /// and a shard that has nothing to read does not delay the others; at most 16 shards are open at a time.
    /// The clock determines a record's epoch, and each epoch lasts `epoch-ms`. The source pauses when it is
    /// too many checkpoints ahead of what its dataflow has stored. After a failure every shard returns to its
    /// position at the committed epoch.
    ///
    /// A source that cannot be listed or read, or whose shards are not the same on all nodes and for the
    /// whole of the run, ends the job with an error that names it and the shard.
    ///
    /// ```
    /// use ringfence_operators::testing;
    /// use ringfence_operators::prelude::*;
    ///
    /// let mut numbers = testing::run(2, |scope, output| {
    ///     per_share(|share| (0..5u64).filter(move |n| n % share.count == share.index))
    ///         .to_stream_fenced(scope, "numbers")
    ///         .sink_fenced("numbers out", output);
    /// });
    /// numbers.sort();
    /// assert_eq!(numbers, vec![0, 1, 2, 3, 4]);
    /// ```
    fn to_stream_fenced<'scope, T: EpochTime>(
        self,
        scope: Scope<'scope, T>,
        name: &str,
    ) -> StreamVec<'scope, T, Self::Item> {
        let fence = scope.fence();
        let name = fence.admit("to_stream_fenced", name, scope);
        let reading = Reading::restore(self, &fence, &name);
        let mut reading = Careful::new(&fence, &name, reading);
        let ids = vec![reading.id()];
        let decided = listing::spread(scope, &fence, reading.list());

        let mut builder = OperatorBuilder::new(name.to_string(), scope);
        let info = builder.operator_info();
        fence.origins().know(info.global_id);
        let activator = scope.activator_for(info.address);
        let dataflow = scope.addr()[0];
        fence.commit().wake_on_stored(dataflow, activator.clone());
        let mut decided = builder.new_input(decided, Exchange::new(|order: &Order| order.to));
        let (output, items) = builder.new_output();
        let (frames_output, frames) = builder.new_output();
        let (inner_fence, inner_name) = (fence.clone(), name.clone());
        builder.build(move |capabilities| {
            let (fence, name) = (inner_fence, inner_name);
            let mut capabilities = capabilities.into_iter();
            let held = capabilities.next();
            let outlet = Outlet::new(&fence, frames_output, capabilities.next());
            let mut epochs = Epochs::begin(&fence, &name, dataflow, held, outlet);
            let mut output =
                OutputBuilder::<T, CapacityContainerBuilder<Vec<Self::Item>>>::from(output);
            let mut alarm = Alarm::new(activator.clone());
            let (mut batch, mut pace) = (Vec::new(), Pace::new());
            move |frontiers| {
                let _active = fence.check(&name);
                decided.for_each(|_time, orders| reading.gather(orders));
                if epochs.held().is_none() {
                    return;
                }
                pace.end(fence.generation().clock.elapsed());
                let all_is_told = frontiers[0].is_empty();
                if !reading.has_begun(all_is_told) {
                    if all_is_told {
                        alarm.wake_after(&fence, COMPARE_PAUSE);
                    }
                    return;
                }
                if !epochs.go_on(reading.states()) {
                    return;
                }
                let items_max = pace.begin(fence.generation().clock.elapsed());
                let turn = reading.read(&mut batch, items_max);
                if let Some(held) = epochs.held()
                    && !batch.is_empty()
                {
                    output.activate().session(held).give_container(&mut batch);
                    batch.clear();
                }
                match turn {
                    Turn::Read => activator.activate(),
                    // It is activated once per epoch, so that the epochs of all other workers advance.
                    Turn::Idle(pause) => {
                        let interval = fence.generation().settings.epoch_interval;
                        alarm.wake_after(&fence, pause.min(interval));
                    }
                    Turn::Exhausted => epochs.end(reading.states()),
                }
            }
        });
        commit(frames, &fence, &name, ids);
        items
    }
}

impl<S: Source> ToStreamFenced for S {}
