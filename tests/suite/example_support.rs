//! The tests of what the examples share: their options, inputs and verifier; and of the bare jobs on
//! differential dataflow, which must say what a plain computation over the edges of a round says.

#[path = "../../examples/support/mod.rs"]
mod support;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::support::churn::{Churn, Edge};
use self::support::graph::Shape;
use self::support::job::Job;
use self::support::orders::Market;
use crate::support::Running;
use crate::support::trials::sorted_lines;

const ROUNDS: u64 = 20;

/// What a job says, round by round: each line's first two fields.
type Rounds = Vec<BTreeSet<(String, String)>>;

/// Runs a job with two workers and sums up its changes.
#[track_caller]
fn said(name: &str, own: &str) -> Rounds {
    said_below(name, own, "")
}

/// As [`said`], for one of several outputs.
#[track_caller]
fn said_below(name: &str, own: &str, below: &str) -> Rounds {
    let place = tempfile::tempdir().expect("a temporary directory");
    let out = place.path().join("out");
    let args = format!("-w 2 -- --rounds={ROUNDS} {own} --out={}", out.display());
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    Running::start(name, &args).wait().assert_success();
    let mut changes = BTreeMap::<u64, Vec<_>>::new();
    for line in sorted_lines(&out.join(below)) {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[first, second, round, change] = &fields[..] else { panic!("{name}: {line}") };
        let change: isize = change.parse().expect("a change is a number");
        let record = (first.to_owned(), second.to_owned());
        let round = round.parse().expect("a round is a number");
        changes.entry(round).or_default().push((record, change));
    }
    let mut present = BTreeMap::new();
    let mut rounds = Rounds::new();
    for round in 0..ROUNDS {
        let mut changed = BTreeSet::new();
        for (record, change) in changes.remove(&round).unwrap_or_default() {
            assert!(change != 0 && changed.insert(record.clone()), "{name}: {record:?} twice");
            *present.entry(record).or_insert(0) += change;
        }
        present.retain(|_record, count| *count != 0);
        assert!(present.values().all(|count| *count == 1), "{name}: {present:?}");
        rounds.push(present.keys().cloned().collect());
    }
    assert!(changes.is_empty(), "{name} says something of rounds that are not");
    rounds
}

fn job(own: &str) -> Job {
    let args = format!("job -- {own}");
    Job::parse(args.split_whitespace().map(str::to_owned)).expect("these are a job's options")
}

/// What a plain computation says of the edges of each round.
fn plain<A: ToString, B: ToString>(
    churn: &Churn,
    compute: impl Fn(&BTreeSet<Edge>) -> Vec<(A, B)>,
) -> Rounds {
    let mut edges = BTreeSet::new();
    let rounds = (0..ROUNDS).map(|round| {
        for (edge, change) in churn.round(round) {
            match change {
                1 => edges.insert(edge),
                _ => edges.remove(&edge),
            };
        }
        compute(&edges).into_iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    });
    rounds.collect()
}

/// The nodes that a node leads to, itself among them, each with the number of steps.
fn steps(edges: &BTreeSet<Edge>, from: u32) -> BTreeMap<u32, u32> {
    let mut steps = BTreeMap::from([(from, 0)]);
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((node, step)) = queue.pop_front() {
        for &(_, next) in edges.range((node, 0)..=(node, u32::MAX)) {
            if let Entry::Vacant(entry) = steps.entry(next) {
                entry.insert(step + 1);
                queue.push_back((next, step + 1));
            }
        }
    }
    steps
}

fn both_ways(edges: &BTreeSet<Edge>) -> BTreeSet<Edge> {
    edges.iter().flat_map(|&(from, to)| [(from, to), (to, from)]).collect()
}

fn nodes(edges: &BTreeSet<Edge>) -> BTreeSet<u32> {
    edges.iter().flat_map(|&(from, to)| [from, to]).collect()
}

fn counted<K: Ord>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_insert(0) += 1;
    }
    counts
}

#[test]
fn components_are_those_of_a_search() {
    let own = "--nodes=80";
    let churn = Churn::undirected(&job(own), Shape::Mixed { nodes: 0, degree: 2 });
    let plain = plain(&churn, |edges| {
        let edges = both_ways(edges);
        let least = |node| steps(&edges, node).into_keys().min();
        nodes(&edges).into_iter().filter_map(|node| Some((node, least(node)?))).collect()
    });
    assert_eq!(said("dd_components_bare", own), plain);
}

#[test]
fn levels_are_those_of_a_search() {
    let own = "--nodes=80";
    let churn = Churn::of(&job(own), Shape::Long { nodes: 0, degree: 4 });
    let plain = plain(&churn, |edges| steps(edges, 0).into_iter().collect());
    assert_eq!(said("dd_bfs_bare", own), plain);
}

#[test]
fn triangles_are_those_of_three_loops() {
    let own = "--nodes=60";
    let churn = Churn::undirected(&job(own), Shape::Mixed { nodes: 0, degree: 10 });
    let plain = plain(&churn, |edges| {
        let mut corners = Vec::new();
        for &(corner, left) in edges {
            for &(_, right) in edges.range((corner, left + 1)..=(corner, u32::MAX)) {
                corners.extend(edges.contains(&(left, right)).then_some(corner));
            }
        }
        counted(corners.into_iter()).into_iter().collect()
    });
    assert_eq!(said("dd_triangles_bare", own), plain);
}

#[test]
fn degrees_are_counted() {
    let own = "--nodes=150";
    let churn = Churn::undirected(&job(own), Shape::Mixed { nodes: 0, degree: 5 });
    let plain = plain(&churn, |edges| {
        let degrees = counted(edges.iter().flat_map(|&(from, to)| [from, to]));
        counted(degrees.into_values()).into_iter().collect()
    });
    assert_eq!(said("dd_degrees_bare", own), plain);
}

#[test]
fn ways_are_those_of_a_search() {
    let own = "--nodes=30";
    let churn = Churn::of(&job(own), Shape::Mixed { nodes: 0, degree: 2 });
    let plain = plain(&churn, |edges| {
        let mut ways = BTreeSet::new();
        for node in nodes(edges) {
            for (_, next) in edges.range((node, 0)..=(node, u32::MAX)) {
                ways.extend(steps(edges, *next).into_keys().map(|to| (node, to)));
            }
        }
        ways.into_iter().collect()
    });
    assert_eq!(said("dd_reach_bare", own), plain);
}

#[test]
fn revenue_is_that_of_a_plain_join() {
    let own = "--nodes=60";
    let market = Market::of(&job(own));
    let (mut customers, mut orders) = (BTreeMap::new(), BTreeMap::new());
    let mut items = BTreeMap::new();
    let mut plain = Rounds::new();
    for round in 0..ROUNDS {
        let mut changes: Vec<_> = market.customers(round).collect();
        // What goes must not take away what has just come.
        changes.sort_by_key(|(_, change)| *change);
        for ((customer, segment), change) in changes {
            match change {
                1 => customers.insert(customer, segment),
                _ => customers.remove(&customer),
            };
        }
        for ((order, customer), change) in market.orders(round) {
            match change {
                1 => orders.insert(order, customer),
                _ => orders.remove(&order),
            };
        }
        for (item, change) in market.items(round) {
            *items.entry(item).or_insert(0) += change;
        }
        let mut revenue = BTreeMap::<&String, isize>::new();
        for ((order, cents), count) in &items {
            let segment = orders.get(order).and_then(|customer| customers.get(customer));
            if let Some(segment) = segment {
                *revenue.entry(segment).or_default() += *cents as isize * count;
            }
        }
        let revenue = revenue.into_iter().filter(|(_, cents)| *cents != 0);
        plain.push(revenue.map(|(name, cents)| (name.clone(), cents.to_string())).collect());
    }
    assert_eq!(said("dd_orders_bare", own), plain);
}

#[test]
fn both_readers_see_the_edges() {
    let own = "--nodes=100";
    let churn = Churn::of(&job(own), Shape::Mixed { nodes: 0, degree: 5 });
    let degrees =
        |edges: &BTreeSet<Edge>| counted(edges.iter().map(|(from, _)| *from)).into_iter().collect();
    assert_eq!(said_below("dd_shared_bare", own, "degrees"), plain(&churn, degrees));
    let mut neighbours = plain(&churn, |edges| edges.iter().copied().collect());
    for (round, neighbours) in neighbours.iter_mut().enumerate() {
        // The nodes of the last ten rounds are asked about.
        let asked: Vec<_> = (0..=round).rev().take(10).map(|node| node.to_string()).collect();
        neighbours.retain(|(node, _)| asked.contains(node));
    }
    assert_eq!(said_below("dd_shared_bare", own, "asked"), neighbours);
}
