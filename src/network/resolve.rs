//! Resolves host names without waiting long for the resolver.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The result for one address: `None` if the resolver has not answered in time.
pub(crate) type Resolved = Option<io::Result<Vec<SocketAddr>>>;

/// Resolves all `addresses` at once and returns the answers that came within `limit`, in order.
///
/// If the resolver takes longer, a thread for each address outlives the call.
pub(crate) fn resolve(addresses: &[String], limit: Duration) -> Vec<Resolved> {
    let (sender, answers) = mpsc::channel();
    for (index, address) in addresses.iter().cloned().enumerate() {
        let sender = sender.clone();
        let asked = thread::Builder::new().name("fence:resolve".into()).spawn(move || {
            let found = address.to_socket_addrs().map(Iterator::collect);
            let _ = sender.send((index, found));
        });
        drop(asked);
    }
    drop(sender);
    let until = Instant::now() + limit;
    let mut resolved: Vec<Resolved> = addresses.iter().map(|_| None).collect();
    while let Ok((index, found)) =
        answers.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        resolved[index] = Some(found);
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_in_order_and_unknown_ones_are_told() {
        let addresses = ["127.0.0.1:7", "no-such-host.invalid:7", "localhost:8"].map(String::from);
        let resolved = resolve(&addresses, Duration::from_secs(20));
        let ports = |place: usize| match &resolved[place] {
            Some(Ok(found)) => found.iter().map(SocketAddr::port).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(ports(0), [7]);
        assert!(ports(2).iter().all(|port| *port == 8));
        // Without a network the resolver may not answer at all.
        assert!(!matches!(&resolved[1], Some(Ok(_))), "{:?}", resolved[1]);
    }
}
