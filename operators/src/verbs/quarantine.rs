//! Quarantine: records that cannot be processed leave the stream for a file of dead letters.
//!
//! Keyed operators apply one record after another, so when the user's closure panics, the code around it
//! holds the very record. No search is necessary: in a partition where a worker panicked before, each record
//! is tried on a copy of its key's state. A record that panics there, and again when it is retried, leaves no
//! trace in the state or the results. It becomes a record of a second stream, which ends in a sink like any
//! other: it is released with its epoch, exactly once, whatever is replayed.
//!
//! A record has no identity across replays, since the clock closes epochs and batches arrive in a different
//! order; here it needs none. If an equal record arrives later, it is tried again like any other.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pushers::Output;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;

use crate::codec::{Codec, Postcard};
use crate::data::Data;
use crate::error::Leave;
use crate::fence::generation::Notice;
use crate::fence::{Fence, panics};
use crate::ids::{Epoch, OperatorName, PartitionId};
use crate::protected::outlet::advance;
use crate::text::cut;
use crate::time::FencedTime;
use crate::verbs::sink::{LineFiles, SinkFenced};

/// A line of a file of dead letters: the partition, the panic's message and the record. The last two are
/// JSON.
pub(crate) type DeadLetter = (u32, String, String);

/// The output of a keyed operator for records that it cannot process.
pub(crate) struct DeadLetters<T: FencedTime> {
    output: OutputBuilder<T, CapacityContainerBuilder<Vec<DeadLetter>>>,
    held: Option<Capability<T>>,
    waiting: Vec<DeadLetter>,
}

impl<T: FencedTime> DeadLetters<T> {
    pub(crate) fn new(output: Output<T, Vec<DeadLetter>>, held: Capability<T>) -> Self {
        DeadLetters { output: OutputBuilder::from(output), held: Some(held), waiting: Vec::new() }
    }

    pub(crate) fn put(&mut self, partition: PartitionId, message: &str, record: String) {
        // A message may have lines and tabs; as JSON it has none.
        let message = serde_json::Value::from(message).to_string();
        self.waiting.push((partition.0, message, record));
    }

    /// Sends what was put, at the time of the records.
    pub(crate) fn flush(&mut self, time: &T) {
        if let Some(held) = &self.held
            && !self.waiting.is_empty()
        {
            let capability = held.delayed(time);
            self.output.activate().session(&capability).give_container(&mut self.waiting);
            self.waiting.clear();
        }
    }

    /// Releases all times before `epoch`, or all times.
    pub(crate) fn advance(&mut self, epoch: Option<Epoch>) {
        advance(&mut self.held, epoch);
    }
}

/// What a caught panic left behind.
pub(crate) type Panic = Box<dyn Any + Send>;

/// A record that could not be processed.
pub(crate) struct Unfit<D> {
    pub(crate) record: D,
    pub(crate) partition: PartitionId,
    pub(crate) panic: Panic,
}

/// Sends a record to the dead letters; if there are none, resumes its panic.
pub(crate) fn set_apart<T: FencedTime, D: Data>(
    fence: &Fence,
    name: &OperatorName,
    time: &T,
    unfit: Unfit<D>,
    letters: Option<&mut DeadLetters<T>>,
) {
    let Unfit { record, partition, panic } = unfit;
    let text = describe(&record);
    match letters.filter(|_| !panic.is::<Leave>()) {
        Some(letters) => {
            // The panic is handled: a later panic has its own place.
            panics::forget();
            letters.put(partition, &panics::message_of(panic.as_ref()), text.clone());
            fence.notice(Notice::Quarantined {
                operator: name.clone(),
                partition,
                epoch: time.epoch(),
                record: cut(text),
            });
        }
        None => {
            fence.whereabouts().set_record(text);
            resume_unwind(panic);
        }
    }
}

/// The partitions of an operator whose records are kept while they are processed.
pub(crate) fn watched_partitions(fence: &Fence, name: &OperatorName) -> BTreeSet<PartitionId> {
    let watched = fence.generation().watched.iter();
    watched.filter(|(operator, _)| operator == name).map(|(_, partition)| *partition).collect()
}

/// A record in readable form: JSON, or its encoded bytes if JSON cannot represent it.
fn describe<D: Data>(record: &D) -> String {
    serde_json::to_string(record).unwrap_or_else(|_| {
        let mut bytes = Vec::new();
        match Postcard::encode(record, &mut bytes) {
            Ok(()) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            Err(error) => format!("a record that cannot be encoded: {error}"),
        }
    })
}

/// Writes the dead letters of an operator to separate files below `root`.
pub(crate) fn release<'scope, T: FencedTime>(
    letters: StreamVec<'scope, T, DeadLetter>,
    short_name: &str,
    full_name: &OperatorName,
    root: &Path,
) {
    let directory = directory(root, full_name);
    letters.sink_fenced(&format!("{short_name}.dead-letters"), LineFiles::new(directory));
}

/// A directory for an operator: different names have different ones, and none lies outside of `root`.
fn directory(root: &Path, name: &OperatorName) -> PathBuf {
    let mut file_name = String::new();
    for byte in name.0.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => file_name.push(byte.into()),
            _ => file_name.push_str(&format!("%{byte:02x}")),
        }
    }
    root.join(file_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_has_a_directory_of_its_own_inside() {
        let name = |name: &str| directory(Path::new("dead"), &OperatorName::new(name));
        assert_eq!(name("counts"), Path::new("dead/counts"));
        assert_eq!(name("left/counts"), Path::new("dead/left%2fcounts"));
        assert_eq!(name(".."), Path::new("dead/%2e%2e"));
        assert_ne!(name("a/b"), name("a%2fb"));
    }
}
