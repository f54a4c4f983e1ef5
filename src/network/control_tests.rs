//! Control connections: every message in order, then exactly one end, and the last words arrive.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ringfence_operators::ids::NodeId;

use super::control::{ControlLoss, LENGTH_BYTES, MESSAGE_COST_BYTES};
use super::link_tests::socket_pair;

use super::*;

type Control = ControlConnection<String>;
type Events = mpsc::Receiver<ControlEvent<String>>;

fn start(stream: TcpStream, limits: ControlLimits) -> (Control, Events) {
    let (sender, events) = mpsc::channel();
    let control = Control::start(stream, NodeId(3), limits, move |event| {
        let _ = sender.send(event);
    });
    (control.unwrap(), events)
}

/// Returns the messages and the end; no event may follow it.
fn all(events: &Events) -> (Vec<String>, ControlLoss) {
    let mut messages = Vec::new();
    loop {
        match events.recv_timeout(Duration::from_secs(10)).unwrap() {
            ControlEvent::Message(message, _held) => messages.push(message),
            ControlEvent::Lost(why) => {
                // The sender lives in the reader's closure, which is gone after the last event.
                assert!(events.recv_timeout(Duration::from_secs(10)).is_err());
                return (messages, why);
            }
        }
    }
}

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("message {i}")).collect()
}

#[test]
fn messages_keep_their_order_and_the_last_one_before_a_close_arrives() {
    for _ in 0..4 {
        let (near, far) = socket_pair();
        let (near, near_events) = start(near, ControlLimits::default());
        let (far, far_events) = start(far, ControlLimits::default());
        for line in lines(500) {
            near.send(&line).unwrap();
            far.send(&line).unwrap();
        }
        // Large, so that a close that forgets its queue would cut it.
        let last = "x".repeat(1 << 20);
        near.send(&last).unwrap();
        near.close();
        let (mut messages, why) = all(&far_events);
        assert!(messages.pop().unwrap() == last);
        assert_eq!((messages, why), (lines(500), ControlLoss::ClosedByPeer));
        assert_eq!(all(&near_events), (lines(500), ControlLoss::ClosedHere));
        assert!(matches!(near.send(&last), Err(ControlSendError::Over { node: NodeId(3) })));
        assert!(matches!(far.send(&last), Err(ControlSendError::Over { .. })));
        near.close();
        far.close();
    }
}

#[test]
fn both_sides_may_close_at_once_with_a_last_message_each() {
    let (near, far) = socket_pair();
    let (near, near_events) = start(near, ControlLimits::default());
    let (far, far_events) = start(far, ControlLimits::default());
    near.send(&"from near".into()).unwrap();
    far.send(&"from far".into()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| near.close());
        far.close();
    });
    assert_eq!(all(&near_events).0, ["from far"]);
    assert_eq!(all(&far_events).0, ["from near"]);
}

#[test]
fn a_death_is_an_end_without_farewell() {
    let (near, far) = socket_pair();
    let (_near, events) = start(near, ControlLimits::default());
    (&far).write_all(b"\0\0\0\x04\"hi\"\0\0\0\x09\"hal").unwrap();
    drop(far);
    assert_eq!(all(&events), (vec!["hi".into()], ControlLoss::EndOfFile));

    // A dropped connection is such a death to its peer.
    let (near, far) = socket_pair();
    let (near, _near_events) = start(near, ControlLimits::default());
    let (_far, events) = start(far, ControlLimits::default());
    drop(near);
    assert_eq!(all(&events).1, ControlLoss::EndOfFile);
}

#[test]
fn what_is_no_message_ends_the_connection() {
    let limits = ControlLimits { message_bytes_max: 1000, ..ControlLimits::default() };
    let lose = |bytes: &[u8]| {
        let (near, mut far) = socket_pair();
        let (near, events) = start(near, limits);
        far.write_all(bytes).unwrap();
        let (messages, why) = all(&events);
        assert!(messages.is_empty());
        assert!(near.send(&String::new()).is_err());
        let _ = far.read(&mut [0]);
        why
    };
    let too_long = ControlLoss::TooLong { length: 1001, limit: 1000 };
    assert_eq!(lose(&1001u32.to_be_bytes()), too_long);
    assert_eq!(lose(&[0xFF; 64]), ControlLoss::TooLong { length: u32::MAX as usize, limit: 1000 });
    assert!(matches!(lose(b"\0\0\0\x02{]"), ControlLoss::Malformed { .. }));
}

#[test]
fn a_message_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let limits = ControlLimits { message_bytes_max: 1000, ..ControlLimits::default() };
    let (near, far) = socket_pair();
    let (near, _near_events) = start(near, limits);
    let (far, events) = start(far, limits);
    let error = near.send(&"x".repeat(999)).unwrap_err();
    assert!(matches!(error, ControlSendError::TooLong { length: 1001, limit: 1000 }));
    near.send(&"x".repeat(998)).unwrap();
    near.close();
    assert_eq!(all(&events).0, ["x".repeat(998)]);
    far.close();
}

/// Sends to a peer that reads nothing until the connection is over.
fn lose_to_a_sleeper(limits: ControlLimits, size: usize) -> ControlLoss {
    let (near, _far) = socket_pair();
    let (near, events) = start(near, limits);
    let message = "x".repeat(size);
    loop {
        let started = Instant::now();
        let sent = near.send(&message);
        assert!(started.elapsed() < Duration::from_secs(1), "a send blocked");
        if sent.is_err() {
            return all(&events).1;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_peer_that_reads_nothing_is_lost_at_a_named_limit() {
    let limit = 3 << 20;
    let full = ControlLimits { queued_bytes_max: limit, ..ControlLimits::default() };
    let lost = lose_to_a_sleeper(full, 1 << 18);
    assert!(matches!(&lost, ControlLoss::Overflow { limit: 3145728, .. }), "{lost}");
    let limit = Duration::from_millis(50);
    let slow = ControlLimits {
        write_time_max: limit,
        queued_bytes_max: usize::MAX,
        ..ControlLimits::default()
    };
    assert_eq!(lose_to_a_sleeper(slow, 1 << 18), ControlLoss::WriteTimedOut { limit });
}

#[test]
fn many_small_messages_wait_for_a_slow_peer_and_count_with_what_they_cost() {
    // Far more of them than any count of messages would have allowed, and all arrive.
    let (near, far) = socket_pair();
    let (near, _near_events) = start(near, ControlLimits::default());
    for _ in 0..50_000 {
        near.send(&"x".repeat(10)).unwrap();
    }
    let (far, events) = start(far, ControlLimits::default());
    near.close();
    assert_eq!(all(&events).0.len(), 50_000);
    far.close();
    // One byte less than the limit, the limit, and one more.
    for (spare, is_sent) in [(1, true), (0, true), (-1, false)] {
        let message = "x".repeat(100);
        let cost = message.len() + 2 + LENGTH_BYTES + MESSAGE_COST_BYTES;
        let limit = cost.checked_add_signed(spare).unwrap();
        let (near, _far) = socket_pair();
        let limits = ControlLimits { queued_bytes_max: limit, ..ControlLimits::default() };
        let (near, _events) = start(near, limits);
        assert_eq!(near.send(&message).is_ok(), is_sent, "{spare} bytes to spare");
    }
}

#[test]
fn who_does_not_handle_what_is_heard_is_told_no_more() {
    let limits = ControlLimits { unhandled_bytes_max: 1 << 20, ..ControlLimits::default() };
    let (near, far) = socket_pair();
    let (near, _near_events) = start(near, ControlLimits::default());
    let (far, events) = start(far, limits);
    let message = "x".repeat(1 << 18);
    for _ in 0..40 {
        near.send(&message).unwrap();
    }
    // Three of them are heard and kept.
    let heard: Vec<_> =
        (0..3).map(|_| events.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
    assert!(events.recv_timeout(Duration::from_millis(100)).is_err(), "a fourth one was heard");
    // The others follow as those are dropped.
    drop(heard);
    for _ in 0..37 {
        let event = events.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(matches!(event, ControlEvent::Message(text, _held) if text == message));
    }
    near.close();
    far.close();
}

#[test]
fn a_close_waits_for_a_stopped_peer_no_longer_than_its_limits() {
    let limits = ControlLimits {
        flush_time_max: Duration::from_millis(50),
        drain_time_max: Duration::from_millis(50),
        ..ControlLimits::default()
    };
    for size in [10, 14 << 20] {
        let (near, far) = socket_pair();
        let (near, events) = start(near, limits);
        near.send(&"x".repeat(size)).unwrap();
        let started = Instant::now();
        near.close();
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(all(&events).1, ControlLoss::ClosedHere);
        far.shutdown(Shutdown::Both).unwrap();
    }
}
