//! Inputs fed by hand, over several generations. What must hold: whatever the dataflow has seen is fed
//! by nobody again and comes out again from the journals, at a successor too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use timely::communication::allocator::ProcessBuilder;
use timely::communication::{Allocator, Hooks};
use timely::dataflow::operators::{Concat, Probe};
use timely::worker::{Config, Worker};

use super::*;
use crate::fence::generation::{
    Clock, Gauges, Generation, Notice, Observer, PIECE_BYTES, Routes, Settings,
};
use crate::hash::KeyHasher;
use crate::ids::{Epoch, PartitionId, ViewNumber};
use crate::testing::{Collected, run_workers};
use crate::vault::{MemoryVault, Role, Vault};
use crate::verbs::sink::SinkFenced;
use crate::worker::{WorkerEnd, run_worker};

const PARTITIONS: usize = 4;

struct Since(Instant);

impl Clock for Since {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Sums up what workers tell of the replay.
#[derive(Default)]
struct Told {
    replaying: AtomicU64,
    caught_up: AtomicU64,
}

impl Observer for Told {
    fn notice(&self, notice: Notice) {
        match notice {
            Notice::Resumed { replaying, .. } => {
                self.replaying.fetch_add(replaying, Ordering::SeqCst);
            }
            Notice::CaughtUp { .. } => {
                self.caught_up.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

/// One worker for each node, each with a vault of its own, which outlives generations.
struct Cluster {
    vaults: Vec<Arc<MemoryVault>>,
    view: u64,
    output: Collected<(u64, u64)>,
    told: Arc<Told>,
}

/// The generations of all nodes.
#[derive(Clone)]
struct Stop(Vec<Arc<Generation>>);

impl Stop {
    fn stop(&self) {
        self.0.iter().for_each(|generation| generation.stop());
    }
}

impl Cluster {
    fn new(nodes: usize) -> Self {
        let vaults = (0..nodes).map(|_| Arc::new(MemoryVault::new(PARTITIONS as u32)));
        Cluster {
            vaults: vaults.collect(),
            view: 0,
            output: Collected::default(),
            told: Arc::default(),
        }
    }

    /// A place: the owner of a partition, and its backups.
    fn view(&mut self, places: [(usize, &[usize]); PARTITIONS]) -> Vec<Arc<Generation>> {
        self.view += 1;
        let recorded = self.vaults.iter().map(|vault| vault.recorded()).max().flatten();
        let routes = Routes {
            owners: places.iter().map(|(owner, _)| *owner).collect(),
            backups: places.iter().map(|(_, backups)| backups.to_vec()).collect(),
            filling: vec![false; PARTITIONS],
        };
        let view = ViewNumber(self.view);
        self.told = Arc::default();
        let generation = |(node, vault): (usize, &Arc<MemoryVault>)| {
            let role = |partition: PartitionId| {
                let (owner, backups) = places[partition.0 as usize];
                Role { owner: owner == node, backup: backups.contains(&node) }
            };
            vault.install(view, recorded, &role).unwrap();
            let settings = Settings {
                hasher: KeyHasher::default(),
                epoch_interval: Duration::from_millis(5),
                checkpoint_interval: None,
                in_flight_epochs_max: 4,
                run: "testing".to_owned(),
                workers_per_node: 1,
                share_count: 2,
                refill_bytes_per_second: u64::MAX,
                piece_bytes: PIECE_BYTES,
                durable: None,
            };
            Arc::new(Generation::new(
                view,
                recorded,
                routes.clone(),
                settings,
                Arc::clone(vault) as Arc<dyn Vault>,
                Arc::new(Since(Instant::now())),
                Arc::clone(&self.told) as Arc<dyn Observer>,
                Arc::new(Gauges::default()),
            ))
        };
        self.vaults.iter().enumerate().map(generation).collect()
    }

    /// Runs a generation to its end; returns how each worker ended.
    fn run(
        &mut self,
        places: [(usize, &[usize]); PARTITIONS],
        job: impl Fn(&Stop, &mut Worker, Collected<(u64, u64)>) + Send + Sync + 'static,
    ) -> Vec<WorkerEnd<()>> {
        let generations = self.view(places);
        let nodes = generations.len();
        let builders = ProcessBuilder::new_typed_vector(nodes, Hooks::default().refill, None);
        let (job, all) = (Arc::new(job), Stop(generations.clone()));
        let start = |(builder, generation): (ProcessBuilder, Arc<Generation>)| {
            let (job, output, all) = (Arc::clone(&job), self.output.clone(), all.clone());
            thread::spawn(move || {
                let allocator = Allocator::Process(builder.build());
                let run = |worker: &mut Worker| job(&all, worker, output);
                let end = run_worker(allocator, Config::default(), &generation, run);
                if matches!(end, WorkerEnd::Failed(_)) {
                    all.stop();
                }
                end
            })
        };
        let threads: Vec<_> = builders.into_iter().zip(generations).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

/// Feeds `(round, share)` to each share in rounds below `end`; then stops the generation, or closes.
fn feeding(
    end: u64,
    stop: bool,
    begun: Arc<Mutex<BTreeMap<usize, u64>>>,
) -> impl Fn(&Stop, &mut Worker, Collected<(u64, u64)>) + Send + Sync + 'static {
    move |all, worker, output| {
        let mut input = FencedInput::<u64, (u64, u64)>::new("numbers");
        let (probe, released) = worker.dataflow(|scope| {
            let (probe, numbers) = input.to_stream(scope).probe();
            (probe, numbers.sink_fenced("out", output).probe().0)
        });
        begun.lock().unwrap().insert(worker.index(), input.resume());
        for round in input.resume()..end {
            for share in input.shares() {
                input.send_to(share.index, (round, share.index));
            }
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
        }
        if stop {
            // Not all that is admitted need be committed, nor is it in every run.
            all.stop();
            while !released.done() {
                worker.step();
            }
        }
    }
}

fn all(rounds: u64) -> Vec<(u64, u64)> {
    (0..rounds).flat_map(|round| [(round, 0), (round, 1)]).collect()
}

const TWO: [(usize, &[usize]); PARTITIONS] = [(0, &[1]), (0, &[1]), (1, &[0]), (1, &[0])];
const THREE: [(usize, &[usize]); PARTITIONS] = [(0, &[1]), (0, &[1]), (1, &[2]), (1, &[2])];

#[test]
fn an_input_and_a_sink_are_a_job() {
    let mut cluster = Cluster::new(2);
    let ends = cluster.run(TWO, feeding(10, false, Arc::default()));
    assert!(ends.iter().all(|end| matches!(end, WorkerEnd::Finished(()))), "{ends:?}");
    let mut rows = cluster.output.take();
    rows.sort_unstable();
    assert_eq!(rows, all(10));
    assert_eq!(cluster.vaults[0].usage().journal_bytes, 0, "what is recorded is let go of");
}

#[test]
fn a_stopped_program_goes_on_where_the_journal_ends() {
    let mut cluster = Cluster::new(2);
    let begun = Arc::new(Mutex::new(BTreeMap::new()));
    for (view, end) in [(1, 7), (2, 15), (3, 15)] {
        let ends = cluster.run(TWO, feeding(end, view < 3, Arc::clone(&begun)));
        let stopped = ends.iter().filter(|end| matches!(end, WorkerEnd::Stopped)).count();
        assert_eq!(stopped, if view < 3 { 2 } else { 0 }, "{ends:?}");
        let expected = [0, 7, 15][view - 1];
        // A worker may be stopped in its last rounds by the other.
        let begun = begun.lock().unwrap();
        assert!(begun.values().all(|first| *first <= expected), "view {view} began at {begun:?}");
        assert!(begun.values().any(|first| *first == expected || view > 1));
    }
    let mut rows = cluster.output.take();
    rows.sort_unstable();
    assert_eq!(rows, all(15));
}

/// The journal is all there is of the epochs that were admitted and not committed: here it is played by
/// the successor of the node that fed them.
#[test]
fn a_successor_plays_the_journal_and_feeds_on() {
    let mut cluster = Cluster::new(3);
    let begun = Arc::new(Mutex::new(BTreeMap::new()));
    cluster.run(THREE, feeding(9, true, Arc::clone(&begun)));
    // Node 1, which fed share 1, and its vault are gone.
    cluster.vaults[1] = Arc::new(MemoryVault::new(PARTITIONS as u32));
    let places: [(usize, &[usize]); PARTITIONS] = [(0, &[2]), (0, &[2]), (2, &[0]), (2, &[0])];
    begun.lock().unwrap().clear();
    let ends = cluster.run(places, feeding(12, false, Arc::clone(&begun)));
    assert!(ends.iter().all(|end| matches!(end, WorkerEnd::Finished(()))), "{ends:?}");
    let mut rows = cluster.output.take();
    rows.sort_unstable();
    assert_eq!(rows, all(12));
    let told = &cluster.told;
    let (replaying, caught_up) = (&told.replaying, &told.caught_up);
    assert!(caught_up.load(Ordering::SeqCst) <= replaying.load(Ordering::SeqCst));
}

/// Admitted and never recorded: the whole input is in the journals, and the program cannot feed it again.
#[test]
fn what_was_admitted_before_the_first_commit_is_kept() {
    let mut cluster = Cluster::new(3);
    cluster.run(THREE, |all, worker, output| {
        let mut input = FencedInput::<u64, (u64, u64)>::new("numbers");
        let probe = worker.dataflow(|scope| {
            let (probe, numbers) = input.to_stream(scope).probe();
            // Whatever its frontier, this operator never lets go: nothing is committed.
            let held = numbers.unary_frontier_held();
            held.sink_fenced("out", output);
            probe
        });
        for round in 0..5 {
            input.send((round, u64::from(worker.index() != 0)));
            input.advance_to(round + 1);
            while probe.less_than(input.time()) {
                worker.step();
            }
        }
        all.stop();
        loop {
            worker.step();
        }
    });
    assert!(cluster.vaults.iter().all(|vault| vault.recorded().is_none()));
    cluster.vaults[1] = Arc::new(MemoryVault::new(PARTITIONS as u32));
    let places: [(usize, &[usize]); PARTITIONS] = [(0, &[2]), (0, &[2]), (2, &[0]), (2, &[0])];
    let begun = Arc::new(Mutex::new(BTreeMap::new()));
    cluster.run(places, feeding(5, false, Arc::clone(&begun)));
    let mut rows = cluster.output.take();
    rows.sort_unstable();
    assert_eq!(rows, all(5));
    assert_eq!(cluster.told.replaying.load(Ordering::SeqCst), 10);
    assert_eq!(cluster.told.caught_up.load(Ordering::SeqCst), 2);
    let begun = begun.lock().unwrap();
    assert_eq!((begun[&0], begun[&2]), (5, 5));
}

/// Holds all that comes, for ever.
trait Held {
    fn unary_frontier_held(self) -> Self;
}

impl Held for StreamVec<'_, u64, (u64, u64)> {
    fn unary_frontier_held(self) -> Self {
        use timely::dataflow::channels::pact::Pipeline;
        use timely::dataflow::operators::generic::operator::Operator;
        type Builder = timely::container::CapacityContainerBuilder<Vec<(u64, u64)>>;
        self.unary_frontier::<Builder, _, _, _>(Pipeline, "Held", |capability, _info| {
            let _kept = Some(capability);
            move |(input, _frontier), _output| {
                let _ = &_kept;
                input.for_each(|_capability, _records| {});
            }
        })
    }
}

#[test]
fn a_closed_share_stays_closed() {
    let mut cluster = Cluster::new(2);
    let ends = cluster.run(TWO, |all, worker, output| {
        let index = worker.index();
        let mut input = FencedInput::<u64, (u64, u64)>::new("numbers");
        let probe = worker.dataflow(|scope| {
            let (probe, numbers) = input.to_stream(scope).probe();
            numbers.sink_fenced("out", output);
            probe
        });
        input.advance_to(3);
        input.send((3, index as u64));
        if index == 0 {
            input.close();
            while !probe.done() {
                worker.step();
            }
        } else {
            input.advance_to(8);
            while probe.less_than(&8) {
                worker.step();
            }
            all.stop();
            worker.step();
        }
    });
    assert!(ends.iter().all(|end| matches!(end, WorkerEnd::Stopped)), "{ends:?}");
    // Both shares are one worker's now: one is closed, the other goes on at 8.
    let places: [(usize, &[usize]); PARTITIONS] = [(1, &[0]), (1, &[0]), (1, &[0]), (1, &[0])];
    cluster.run(places, |_all, worker, output| {
        let index = worker.index();
        let mut input = FencedInput::<u64, (u64, u64)>::new("numbers");
        worker.dataflow(|scope| {
            input.to_stream(scope).sink_fenced("out", output);
        });
        if index == 0 {
            assert!(input.shares().is_empty());
            return;
        }
        assert_eq!(input.resume(), 8);
        assert_eq!(input.share(0).unwrap().resume(), 3);
        assert_eq!(input.share(1).unwrap().resume(), 8);
        input.send_to(0, (8, 0));
        input.send_to(1, (8, 1));
    });
    let mut rows = cluster.output.take();
    rows.sort_unstable();
    assert_eq!(rows, [(3, 0), (3, 1), (8, 1)]);
}

type Numbers = FencedInput<u64, (u64, u64)>;

/// Runs two inputs, of which the first alone is in the journals up to 5, and then both from `begin` on.
fn left_is_ahead(
    begin: fn(&mut Numbers, &mut Numbers) -> u64,
) -> (Vec<WorkerEnd<()>>, Vec<(u64, u64)>) {
    let mut cluster = Cluster::new(2);
    let mut ends = Vec::new();
    for is_first in [true, false] {
        ends = cluster.run(TWO, move |all, worker, output| {
            let index = worker.index() as u64;
            let (mut left, mut right) = (Numbers::new("left"), Numbers::new("right"));
            let probe = worker.dataflow(|scope| {
                let (probe, lefts) = left.to_stream(scope).probe();
                lefts.concat(right.to_stream(scope)).sink_fenced("out", output);
                probe
            });
            let end = if is_first { 5 } else { 8 };
            for round in begin(&mut left, &mut right)..end {
                left.send_to(index, (round, index));
                left.advance_to(round + 1);
                if !is_first || round < 2 {
                    right.send_to(index, (round, 10 + index));
                    right.advance_to(round + 1);
                }
                while probe.less_than(&(round + 1)) {
                    worker.step();
                }
            }
            if is_first {
                all.stop();
                worker.step();
            }
        });
    }
    let mut rows = cluster.output.take();
    rows.sort_unstable();
    (ends, rows)
}

#[test]
fn inputs_in_step_begin_at_the_earliest_of_their_times() {
    let (_, rows) = left_is_ahead(|left, right| resume_in_step([left, right]));
    let feeders = [0, 1, 10, 11];
    let expected: Vec<_> = (0..8).flat_map(|round| feeders.map(|of| (round, of))).collect();
    assert_eq!(rows, expected);
}

#[test]
fn an_input_that_is_fed_what_its_journal_has_says_so() {
    let (ends, _) = left_is_ahead(|left, _right| left.resume().saturating_sub(1));
    let failed = ends.iter().find_map(|end| match end {
        WorkerEnd::Failed(error) => Some(error.to_string()),
        _ => None,
    });
    assert!(failed.is_some_and(|error| error.contains("resume_in_step")), "{ends:?}");
}

#[test]
fn a_program_that_goes_back_or_names_no_share_is_told_so() {
    let mut cluster = Cluster::new(2);
    let alone: [(usize, &[usize]); PARTITIONS] = [(0, &[1]), (0, &[1]), (0, &[1]), (0, &[1])];
    for (text, back) in [("it cannot go back from 2 to 1", true), ("has shares 0, 1", false)] {
        let ends = cluster.run(alone, move |_all, worker, output| {
            let mut input = FencedInput::<u64, (u64, u64)>::new("numbers");
            worker.dataflow(|scope| {
                input.to_stream(scope).sink_fenced("out", output);
            });
            if worker.index() == 1 {
                // No share: nothing is sent, and nothing is wrong with that.
                input.send((0, 0));
                loop {
                    worker.step();
                }
            }
            if back {
                input.advance_to(2);
                input.advance_to(1);
            } else {
                input.send((0, 0));
            }
        });
        let failed = ends.iter().find_map(|end| match end {
            WorkerEnd::Failed(error) => Some(error.to_string()),
            _ => None,
        });
        let failed = failed.unwrap_or_default();
        assert!(failed.contains(text), "{failed}");
        assert!(failed.starts_with("input \"numbers\": "), "{failed}");
    }
}

#[test]
fn large_epochs_come_in_pieces_and_whole() {
    let mut rows = run_workers(2, |worker, output| {
        let mut input = FencedInput::<u64, (u64, String)>::new("texts");
        worker.dataflow(|scope| {
            input.to_stream(scope).sink_fenced("out", output);
        });
        for n in 0..2_000 {
            input.send_to(0, (n, "x".repeat(500)));
        }
        input.advance_to(1);
        input.send_batch(&mut vec![(5_000, String::new())]);
    });
    rows.sort_unstable();
    assert_eq!(rows.len(), 2_002);
    assert!(rows.iter().zip(0..).take(2_000).all(|((n, _), wanted)| *n == wanted));
}

#[test]
#[should_panic(expected = "call `to_stream` first")]
fn an_input_outside_of_a_dataflow_cannot_be_fed() {
    FencedInput::<u64, u64>::new("numbers").send(1);
}

#[test]
fn epochs_are_those_of_the_timestamp() {
    let rows = run_workers(1, |worker, output| {
        let mut input = FencedInput::<u64, Epoch>::new("epochs");
        worker.dataflow(|scope| {
            input.to_stream(scope).sink_fenced("out", output);
        });
        assert_eq!(input.resume(), 0);
        input.advance_to(7);
        input.send(Epoch(7));
    });
    assert_eq!(rows, [Epoch(7)]);
}

#[test]
fn what_waits_for_the_journal_has_a_limit_that_is_named() {
    assert_eq!(check_queue(99, 100), Ok(()));
    assert_eq!(check_queue(100, 100), Ok(()));
    let what = check_queue(101, 100).unwrap_err();
    assert!(what.contains("101 bytes") && what.contains("at most 100"), "{what}");
}
