//! The list of shards. One worker decides it and sends it to all, and each compares it with what its node
//! has.

use std::collections::BTreeSet;
use std::io;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use crate::fence::Fence;
use crate::time::EpochTime;

/// The worker that lists the shards.
pub(super) const LISTER: usize = 0;

/// A shard as it was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) fingerprint: Vec<u8>,
}

/// What the lister tells a worker about one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) to: u64,
    pub(super) index: u64,
    pub(super) shard: Listed,
}

/// Sends the list to every worker, if this worker has decided it; the stream ends after the whole list.
pub(super) fn spread<'scope, T: EpochTime>(
    scope: Scope<'scope, T>,
    fence: &Fence,
    list: Option<Vec<Listed>>,
) -> StreamVec<'scope, T, Order> {
    let mut builder = OperatorBuilder::new("Shards: tell".to_owned(), scope);
    // It brings in none of the job's records.
    fence.origins().know(builder.operator_info().global_id);
    let (output, orders) = builder.new_output();
    let fence = fence.clone();
    builder.build(move |capabilities: Vec<Capability<T>>| {
        let mut output = OutputBuilder::<T, CapacityContainerBuilder<Vec<Order>>>::from(output);
        let mut telling = capabilities.into_iter().next().zip(list);
        move |_frontiers| {
            fence.leave_if_stopping();
            let Some((capability, list)) = telling.take() else { return };
            let mut output = output.activate();
            let mut session = output.session(&capability);
            for to in 0..fence.peers() as u64 {
                for (index, shard) in (0..).zip(&list) {
                    session.give(Order { to, index, shard: shard.clone() });
                }
            }
        }
    });
    orders
}

/// The first name that occurs twice in a list.
pub(super) fn twice(names: &[String]) -> Option<&String> {
    let mut seen = BTreeSet::new();
    names.iter().find(|name| !seen.insert(*name))
}

fn differs(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Compares the list that was decided with that of this node.
pub(super) fn compare(decided: &[String], here: &[String]) -> io::Result<()> {
    let same = decided.iter().zip(here).take_while(|(decided, here)| decided == here).count();
    match (decided.get(same), here.get(same)) {
        (None, None) => Ok(()),
        (Some(decided), Some(here)) => {
            Err(differs(format!("shard {same} is {here:?} here and {decided:?} there")))
        }
        (decided_more, here_more) => Err(differs(format!(
            "there are {} shards here and {} there: {:?} is only {}",
            here.len(),
            decided.len(),
            here_more.or(decided_more).map_or("", String::as_str),
            if here_more.is_some() { "here" } else { "there" },
        ))),
    }
}

/// Compares the fingerprint that was decided with that of this node.
pub(super) fn compare_fingerprints(decided: &[u8], here: &[u8]) -> io::Result<()> {
    if decided == here {
        return Ok(());
    }
    let (here, decided) = (here.escape_ascii(), decided.escape_ascii());
    let what = format!("its fingerprint is \"{here}\" here and was \"{decided}\" at the start");
    Err(differs(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_difference_of_two_lists_names_both_sides() {
        let told = |decided, here| compare(&names(decided), &names(here)).unwrap_err().to_string();
        assert!(compare(&names("a b"), &names("a b")).is_ok());
        assert!(compare(&[], &[]).is_ok());
        assert_eq!(told("a b", "a c"), "shard 1 is \"c\" here and \"b\" there");
        assert_eq!(told("a b", "a"), "there are 1 shards here and 2 there: \"b\" is only there");
        assert_eq!(told("", "a"), "there are 1 shards here and 0 there: \"a\" is only here");
    }

    #[test]
    fn a_name_that_stands_twice_is_found() {
        assert_eq!(twice(&names("a b c")), None);
        assert_eq!(twice(&names("a b c b")), Some(&"b".to_owned()));
    }
}
