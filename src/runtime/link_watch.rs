//! Stuck links: data connections that accept bytes but deliver none.
//!
//! A working control connection says nothing about the data connection to the same node: a firewall, a full
//! connection table or a half-open socket may block one of the two forever. So every node regularly tells
//! every other node how many bytes have arrived over their link, and the sender compares.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ringfence_operators::ids::NodeId;

/// Watches the links of one generation.
#[derive(Debug)]
pub(super) struct LinkWatch {
    limit: Duration,
    links: BTreeMap<NodeId, Progress>,
}

/// The longest time between two checks that counts in full: a node that was asleep for longer saw nothing.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How much of what was sent is known to have arrived.
#[derive(Clone, Copy, Debug)]
struct Progress {
    received_bytes: u64,
    looked: Instant,
    /// For how long nothing more has arrived although more was sent.
    quiet: Duration,
}

/// A link that delivers nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) stuck: Duration,
}

impl LinkWatch {
    pub(super) fn new(limit: Duration) -> Self {
        LinkWatch { limit, links: BTreeMap::new() }
    }

    /// Notes that `node` has received this many bytes from this node in this view.
    pub(super) fn received(&mut self, now: Instant, node: NodeId, bytes: u64) {
        let link = self.link(now, node);
        if bytes > link.received_bytes {
            (link.received_bytes, link.quiet) = (bytes, Duration::ZERO);
        }
    }

    /// Returns what is wrong with the link to `node`, to which `sent_bytes` were sent, if something is.
    pub(super) fn look(&mut self, now: Instant, node: NodeId, sent_bytes: u64) -> Option<Stuck> {
        let limit = self.limit;
        let link = self.link(now, node);
        link.quiet += (now - link.looked).min(LOOK_MAX);
        link.looked = now;
        let received_bytes = link.received_bytes;
        if received_bytes >= sent_bytes {
            link.quiet = Duration::ZERO;
        }
        let stuck = link.quiet;
        (stuck >= limit).then_some(Stuck { sent_bytes, received_bytes, stuck })
    }

    fn link(&mut self, now: Instant, node: NodeId) -> &mut Progress {
        let fresh = Progress { received_bytes: 0, looked: now, quiet: Duration::ZERO };
        self.links.entry(node).or_insert(fresh)
    }
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Stuck { sent_bytes, received_bytes, stuck } = self;
        let stuck_ms = stuck.as_millis();
        write!(
            f,
            "it is stuck: of {sent_bytes} bytes {received_bytes} have arrived, and none for {stuck_ms} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);
    const LIMIT: Duration = Duration::from_secs(3);

    #[test]
    fn a_link_that_delivers_is_not_stuck_however_much_waits() {
        let begin = Instant::now();
        let mut watch = LinkWatch::new(LIMIT);
        for second in 0..20 {
            let now = begin + Duration::from_secs(second);
            watch.received(now, NODE, second * 10);
            assert_eq!(watch.look(now, NODE, 1_000_000), None);
        }
    }

    /// Looks each half second; returns after how long the link was found to be stuck.
    fn found(watch: &mut LinkWatch, begin: Instant, sent_bytes: u64) -> Option<Duration> {
        (0..60)
            .map(|half| Duration::from_millis(500) * half)
            .find(|after| watch.look(begin + *after, NODE, sent_bytes).is_some())
    }

    #[test]
    fn a_link_on_which_nothing_is_sent_is_not_stuck() {
        let begin = Instant::now();
        let mut watch = LinkWatch::new(LIMIT);
        watch.received(begin, NODE, 10);
        assert_eq!(found(&mut watch, begin, 10), None);
        let later = begin + Duration::from_secs(30);
        assert_eq!(found(&mut watch, later, 20), Some(LIMIT - Duration::from_millis(500)));
        let stuck = watch.look(later + LIMIT, NODE, 20).unwrap();
        assert_eq!((stuck.sent_bytes, stuck.received_bytes), (20, 10));
    }

    #[test]
    fn a_link_of_which_nothing_was_ever_heard_is_stuck() {
        let mut watch = LinkWatch::new(LIMIT);
        assert_eq!(found(&mut watch, Instant::now(), 5), Some(LIMIT));
    }

    #[test]
    fn who_slept_blames_no_link() {
        let begin = Instant::now();
        let mut watch = LinkWatch::new(LIMIT);
        assert_eq!(watch.look(begin, NODE, 5), None);
        assert_eq!(watch.look(begin + 10 * LIMIT, NODE, 5), None);
    }
}
