//! Inspection of committed records.

use std::io;
use std::marker::PhantomData;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use crate::codec::{Codec, Postcard};
use crate::data::Data;
use crate::time::FencedTime;
use crate::verbs::sink::{Release, Sink, SinkFenced};

/// Looks at records once they are committed.
pub trait InspectFenced<'scope, T: FencedTime, D: Data> {
    /// Calls `look` with each record, and its time, once its epoch is committed.
    ///
    /// After a failure `look` may be called again for a record, but it is never called for a record that is
    /// not committed. The stream passes through unchanged, without waiting for the commit. Until they are
    /// committed, the records are part of the checkpoint: inspecting many records costs as much as a sink.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    ///
    /// use ringfence_operators::prelude::*;
    /// use ringfence_operators::testing;
    ///
    /// let seen = Arc::new(Mutex::new(Vec::new()));
    /// let looking = Arc::clone(&seen);
    /// testing::run(1, move |scope, output| {
    ///     let seen = Arc::clone(&looking);
    ///     per_share(|_share| 0..3u64)
    ///         .to_stream_fenced(scope, "numbers")
    ///         .inspect_fenced("seen", move |_time, n| seen.lock().unwrap().push(*n))
    ///         .sink_fenced("out", output);
    /// });
    /// assert_eq!(*seen.lock().unwrap(), [0, 1, 2]);
    /// ```
    fn inspect_fenced(self, name: &str, look: impl FnMut(&T, &D) + 'static) -> Self;
}

impl<'scope, T: FencedTime, D: Data> InspectFenced<'scope, T, D> for StreamVec<'scope, T, D> {
    fn inspect_fenced(self, name: &str, look: impl FnMut(&T, &D) + 'static) -> Self {
        let timed = self.clone().unary::<CapacityContainerBuilder<Vec<(T, D)>>, _, _, _>(
            Pipeline,
            "Times",
            |_, _| {
                |input, output| {
                    input.for_each(|capability, records| {
                        // The first of several times: this is when the record may first have been made.
                        let Some(time) = capability.stamp().iter().min().cloned() else { return };
                        let timed = records.drain(..).map(|record| (time.clone(), record));
                        output.session(&capability).give_iterator(timed);
                    });
                }
            },
        );
        timed.sink_fenced(name, Looking { look, record: PhantomData });
        self
    }
}

/// A sink that passes what it releases to `look`.
struct Looking<T, D, F> {
    look: F,
    record: PhantomData<(T, D)>,
}

impl<T: FencedTime, D: Data, F: FnMut(&T, &D) + 'static> Sink<(T, D)> for Looking<T, D, F> {
    type Position = ();

    fn prepare(&mut self, _at: &mut (), rows: &[(T, D)]) -> io::Result<Vec<u8>> {
        let mut prepared = Vec::new();
        Postcard::encode(&rows.to_vec(), &mut prepared).map_err(io::Error::other)?;
        Ok(prepared)
    }

    fn release(&mut self, _id: &Release, prepared: &[u8]) -> io::Result<()> {
        let rows: Vec<(T, D)> = Postcard::decode(prepared).map_err(io::Error::other)?;
        rows.iter().for_each(|(time, record)| (self.look)(time, record));
        Ok(())
    }
}
