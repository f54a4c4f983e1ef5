//! Who orders, who answers, and what becomes of a view that ends in between.

use super::durability::*;
use ringfence_operators::ids::{Epoch, NodeId, ViewNumber};

const VIEW: ViewNumber = ViewNumber(3);
const LOW: NodeId = NodeId(1);
const HIGH: NodeId = NodeId(2);

fn parts() -> [Durability; 2] {
    [LOW, HIGH].map(|node| {
        let mut part = Durability::new(node, 100, Some(Epoch(4)));
        part.begin(VIEW, [LOW, HIGH].into());
        part
    })
}

fn order(epoch: u64) -> Order {
    Order { view: VIEW, durable: Some(Epoch(4)), epoch: Epoch(epoch) }
}

fn record(name: &str) -> SegmentRecord {
    SegmentRecord { name: name.to_owned(), bytes: 1, sha1: String::new() }
}

#[test]
fn the_lowest_member_orders_and_writes_the_manifest_when_all_have_written() {
    let [mut low, mut high] = parts();
    assert_eq!(high.committed(0, Epoch(9)), []);
    let ordered = low.committed(0, Epoch(9));
    let orders = [LOW, HIGH].map(|node| Deed::SendOrder(node, order(9)));
    assert_eq!(ordered, orders);
    // The next one waits until this one is through, and the time has come.
    assert_eq!(low.committed(1, Epoch(10)), []);
    assert_eq!(high.on_order(order(9)), [Deed::WriteSegment(order(9))]);
    let written = Written::Segment(Some(record("a")));
    let sent = high.on_segment(order(9), written.clone());
    assert_eq!(sent, [Deed::SendWritten(LOW, order(9), written.clone())]);
    assert_eq!(low.on_written(HIGH, order(9), written.clone()), []);
    assert_eq!(low.on_written(HIGH, order(9), written), [], "each counts once");
    let deeds = low.on_written(LOW, order(9), Written::Segment(None));
    assert_eq!(deeds, [Deed::WriteManifest(order(9), vec![record("a")])]);
    let deeds = low.on_manifest(order(9), ManifestWritten::Created);
    assert_eq!(deeds, [Deed::Saved(Epoch(9)), Deed::SendDurable(HIGH, VIEW, Epoch(9))]);
    assert_eq!(high.on_durable(Epoch(9)), [Deed::Saved(Epoch(9))]);
    assert_eq!(low.tick(50), []);
    let next = Order { durable: Some(Epoch(9)), ..order(10) };
    assert_eq!(low.tick(100), [LOW, HIGH].map(|node| Deed::SendOrder(node, next)));
}

#[test]
fn what_cannot_be_written_is_told_and_ordered_again() {
    let [mut low, _high] = parts();
    low.committed(0, Epoch(9));
    let deeds = low.on_written(HIGH, order(9), Written::Failed("the disk is full".to_owned()));
    assert_eq!(deeds, [Deed::Behind("node 2: the disk is full".to_owned())]);
    assert_eq!(low.on_written(LOW, order(9), Written::Segment(None)), [], "it is given up");
    assert_eq!(low.tick(100).len(), 2);
    assert_eq!(low.on_written(LOW, order(9), Written::NotNow), []);
    assert_eq!(low.tick(199), []);
    assert_eq!(low.tick(200).len(), 2);
}

#[test]
fn who_is_waited_for_is_told() {
    let [mut low, _high] = parts();
    low.committed(0, Epoch(9));
    low.on_written(LOW, order(9), Written::Segment(None));
    assert_eq!(low.tick(9_999), []);
    let told = low.tick(12_000);
    assert_eq!(told, [Deed::Behind("epoch 9 waits for node 2, for 12 s".to_owned())]);
    low.on_written(HIGH, order(9), Written::Segment(None));
    let told = low.tick(12_000);
    assert_eq!(told, [Deed::Behind("epoch 9 waits for its manifest, for 12 s".to_owned())]);
}

#[test]
fn a_view_that_ends_takes_its_orders_with_it() {
    let [mut low, mut high] = parts();
    low.committed(0, Epoch(9));
    for part in [&mut low, &mut high] {
        part.begin(ViewNumber(4), [LOW, HIGH].into());
    }
    assert_eq!(high.on_order(order(9)), []);
    assert_eq!(high.on_segment(order(9), Written::NotNow), []);
    assert_eq!(low.on_written(HIGH, order(9), Written::Segment(None)), []);
    // A manifest that was on its way counts all the same.
    assert_eq!(low.on_manifest(order(9), ManifestWritten::Created), [Deed::Saved(Epoch(9))]);
}

#[test]
fn a_new_leader_learns_what_the_last_one_has_left() {
    let [mut low, _high] = parts();
    low.committed(0, Epoch(9));
    let deeds = low.on_manifest(order(9), ManifestWritten::Ahead(Epoch(7)));
    assert_eq!(deeds, [Deed::Saved(Epoch(7)), Deed::SendDurable(HIGH, VIEW, Epoch(7))]);
    let again = Order { durable: Some(Epoch(7)), ..order(9) };
    assert_eq!(low.tick(1), [LOW, HIGH].map(|node| Deed::SendOrder(node, again)));
}

#[test]
fn who_was_superseded_ends() {
    let [mut low, _high] = parts();
    low.committed(0, Epoch(9));
    let run = "other".to_owned();
    let deeds = low.on_manifest(order(9), ManifestWritten::Superseded { run: run.clone() });
    assert_eq!(deeds, [Deed::Superseded(run)]);
}
