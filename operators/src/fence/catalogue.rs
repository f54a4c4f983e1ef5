//! The catalogue of a job: what a worker has built, in order.
//!
//! Every worker must build the same dataflows: timely numbers operators and channels consecutively, and what
//! one worker sends on a channel arrives at whatever has the same number on the other workers. If workers
//! build different things, timely waits forever or, worse, does not. So each worker's catalogue is compared,
//! item by item as it is built, with that of the first worker of its process, and the catalogues of the
//! processes are compared before anything is recorded.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use crate::error::JobError;
use crate::ids::{OperatorName, escaped};

/// How much of an item is shown. A longer item is still compared in full.
const SHOWN_BYTES_MAX: usize = 400;

/// The end of a catalogue.
const END: &str = "nothing more";

/// One thing that a worker has built, or the end of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    digest: u64,
    shown: String,
}

impl Item {
    /// An item that says `text`.
    fn new(text: &str) -> Self {
        let digest = rapidhash::v3::rapidhash_v3(text.as_bytes());
        let mut shown = escaped(text);
        if shown.len() > SHOWN_BYTES_MAX {
            let end = (0..=SHOWN_BYTES_MAX).rev().find(|&at| shown.is_char_boundary(at));
            shown.truncate(end.unwrap_or(0));
            let _ = write!(shown, ".. ({} bytes, hash {digest:016x})", text.len());
        }
        Item { digest, shown }
    }

    /// A protected operator, built by this verb when timely's count was `counted`.
    pub(crate) fn operator(kind: &str, name: &OperatorName, counted: usize) -> Self {
        Item::new(&format!("{kind} \"{}\", after {counted} operators and channels", name.0))
    }

    /// A state of an operator: its name, its encoding, and its number of partitions.
    pub(crate) fn state(name: &OperatorName, encoding: &str, partitions: u32) -> Self {
        Item::new(&format!("state \"{}\" of {partitions} partitions in {encoding}", name.0))
    }

    /// The number of partitions of an operator that may have fewer than the job.
    pub(crate) fn partitions(name: &OperatorName, partitions: usize) -> Self {
        Item::new(&format!("{partitions} partitions of \"{}\"", name.0))
    }

    /// The end of a job.
    pub(crate) fn end() -> Self {
        Item::new(END)
    }

    /// Equal only for equal items, except by chance.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The item in readable form, with bounded length and without control characters.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    fn is_end(&self) -> bool {
        self.shown == END
    }
}

/// What the workers of a process have built: each item as built by the first worker that came to it.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    items: Mutex<Vec<(usize, Item)>>,
}

impl Catalogue {
    /// Compares the item that `worker` has built at `position` with what the others have there.
    pub(crate) fn compare(
        &self,
        worker: usize,
        position: usize,
        item: Item,
    ) -> Result<(), JobError> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        match items.get(position) {
            Some((_, there)) if *there == item => Ok(()),
            Some((first, there)) => Err(difference(
                position,
                (&format!("worker {first} of this node"), there.shown()),
                (&format!("worker {worker}"), item.shown()),
            )),
            None => {
                items.push((worker, item));
                Ok(())
            }
        }
    }

    /// Everything that was built, once a worker has built everything.
    pub(crate) fn whole(&self) -> Option<Vec<Item>> {
        let items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        items.last().filter(|(_, item)| item.is_end())?;
        Some(items.iter().map(|(_, item)| item.clone()).collect())
    }
}

/// The error with which a job ends if its workers differ at `position`: it says who has what.
pub fn difference(position: usize, one: (&str, &str), other: (&str, &str)) -> JobError {
    JobError::Differs {
        position: position + 1,
        one: format!("{} has {}", one.0, one.1),
        other: format!("{} has {}", other.0, other.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(kind: &str, name: &str) -> Item {
        Item::operator(kind, &OperatorName::new(name), 7)
    }

    #[test]
    fn the_first_difference_names_both_workers_and_both_items() {
        let catalogue = Catalogue::default();
        for worker in 0..2 {
            catalogue.compare(worker, 0, operator("to_stream_fenced", "lines")).unwrap();
        }
        catalogue.compare(1, 1, operator("fold_fenced", "counts")).unwrap();
        let error = catalogue.compare(0, 1, operator("sink_fenced", "out")).unwrap_err();
        let text = error.to_string();
        for part in ["worker 1 of this node has fold_fenced \"counts\"", "worker 0 has sink_fenced"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(catalogue.whole().is_none());
    }

    #[test]
    fn a_catalogue_that_goes_on_differs_from_one_that_has_ended() {
        let catalogue = Catalogue::default();
        catalogue.compare(0, 0, Item::end()).unwrap();
        assert_eq!(catalogue.whole().unwrap().len(), 1);
        let text = catalogue.compare(1, 0, operator("sink_fenced", "out")).unwrap_err().to_string();
        assert!(text.contains("nothing more") && text.contains("\"out\""), "{text}");
    }

    #[test]
    fn an_item_of_any_length_is_shown_in_part_and_compared_in_full() {
        let long = |last: &str| operator("sink_fenced", &format!("{}{last}", "ä\n".repeat(5_000)));
        let (one, other) = (long("1"), long("2"));
        assert!(one != other && one.shown() != other.shown());
        assert!(one.shown().len() < SHOWN_BYTES_MAX + 60);
        assert!(!one.shown().contains('\n'), "{}", one.shown());
    }
}
