//! Jobs with a clock of checkpoints: the same ones everywhere, and epochs that go on between them.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use timely::dataflow::operators::vec::{Filter, Map};
use timely::dataflow::operators::{Concat, ConnectLoop, Enter, Feedback, Inspect, Leave};
use timely::order::Product;

use crate::fence::generation::{Notice, Observer};
use crate::ids::{Epoch, OperatorName, PartitionId, ViewNumber};
use crate::prelude::*;
use crate::snapshot::frames;
use crate::testing::Interruption::Stop;
use crate::testing::{Trial, in_time};
use crate::vault::{Journal, Live, Opened, StateKind, Vault, VaultError};

/// A vault that notes of which epochs it is sent snapshots, and the observer of the commits.
struct Spy {
    vault: Arc<dyn Vault>,
    sealed: Arc<Mutex<BTreeSet<Epoch>>>,
}

/// What each worker is told to be committed.
#[derive(Default)]
struct Commits(Mutex<Vec<Epoch>>);

impl Observer for Commits {
    fn notice(&self, notice: Notice) {
        if let Notice::Committed { epoch } = notice {
            self.0.lock().unwrap().push(epoch);
        }
    }
}

impl Vault for Spy {
    fn store(&self, view: ViewNumber, bytes: &[u8]) -> Result<usize, VaultError> {
        for delta in frames(bytes) {
            self.sealed.lock().unwrap().insert(delta?.header().epoch);
        }
        self.vault.store(view, bytes)
    }
    fn complete(&self, view: ViewNumber, operator: u64, epoch: Epoch) -> Result<(), VaultError> {
        self.vault.complete(view, operator, epoch)
    }
    fn record(&self, view: ViewNumber, epoch: Epoch) -> Result<(), VaultError> {
        self.vault.record(view, epoch)
    }
    fn deposit(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
        live: Box<dyn std::any::Any + Send>,
    ) {
        self.vault.deposit(view, operator, partition, live);
    }
    fn take_live(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Live>, VaultError> {
        self.vault.take_live(view, operator, partition)
    }
    fn open_replica(
        &self,
        view: ViewNumber,
        operator: u64,
        partition: PartitionId,
    ) -> Result<Option<Opened>, VaultError> {
        self.vault.open_replica(view, operator, partition)
    }
    fn close_replica(&self, view: ViewNumber, operator: u64, partition: PartitionId) {
        self.vault.close_replica(view, operator, partition);
    }
    fn store_journal(&self, view: ViewNumber, frames: &[u8]) -> Result<usize, VaultError> {
        self.vault.store_journal(view, frames)
    }
    fn read_journal(
        &self,
        view: ViewNumber,
        operator: u64,
        share: u32,
    ) -> Result<Option<Journal>, VaultError> {
        self.vault.read_journal(view, operator, share)
    }
    fn register(
        &self,
        view: ViewNumber,
        operator: &OperatorName,
        fingerprint: u32,
        kind: StateKind,
    ) -> Result<u64, VaultError> {
        self.vault.register(view, operator, fingerprint, kind)
    }
    fn drop_operators(&self, view: ViewNumber, numbers: &[u64]) -> Result<(), VaultError> {
        self.vault.drop_operators(view, numbers)
    }
    fn dropped(&self) -> BTreeSet<u64> {
        self.vault.dropped()
    }
    fn unclaimed(&self, view: ViewNumber) -> Result<Vec<OperatorName>, VaultError> {
        self.vault.unclaimed(view)
    }
}

/// What came of a job.
struct Outcome {
    totals: Vec<(u64, u64)>,
    /// The epochs in which results came out of the operator.
    epochs: BTreeSet<u64>,
    /// The epochs of which snapshots were sent.
    sealed: BTreeSet<Epoch>,
    /// The epochs that were told to be committed, before the end.
    committed: BTreeSet<Epoch>,
}

const NUMBERS: u64 = 6_000;

/// All numbers, ten of them a millisecond and shard.
struct Numbers;

struct Slowly {
    next: u64,
    step: u64,
}

impl Source for Numbers {
    type Item = u64;
    type Position = u64;
    type Reader = Slowly;

    fn shards(&self, count: u32) -> io::Result<Vec<String>> {
        Ok((0..count).map(|index| format!("{index} {count}")).collect())
    }

    fn open(&self, shard: &str, at: Option<&u64>) -> io::Result<Slowly> {
        let numbers: Vec<u64> = shard.split(' ').map(|number| number.parse().unwrap()).collect();
        Ok(Slowly { next: at.copied().unwrap_or(numbers[0]), step: numbers[1] })
    }
}

impl Reader for Slowly {
    type Item = u64;
    type Position = u64;

    fn read(&mut self, batch: &mut Vec<u64>) -> io::Result<bool> {
        std::thread::sleep(Duration::from_millis(1));
        for _ in 0..10 {
            if self.next < NUMBERS {
                batch.push(self.next);
                self.next += self.step;
            }
        }
        Ok(self.next < NUMBERS)
    }

    fn position(&self) -> u64 {
        self.next
    }
}

/// Counts numbers by their last digit, over some hundred milliseconds, in epochs of 1 ms.
fn run(workers: usize, checkpoint: Option<Duration>) -> Outcome {
    let sealed = Arc::new(Mutex::new(BTreeSet::new()));
    let commits = Arc::new(Commits::default());
    let epochs = Arc::new(Mutex::new(BTreeSet::new()));
    let (spy, seen) = (Arc::clone(&sealed), Arc::clone(&epochs));
    let mut trial = Trial::new(workers)
        .epoch(Duration::from_millis(1))
        .observer(Arc::clone(&commits) as Arc<dyn Observer>)
        .vault(|vault| Arc::new(Spy { vault, sealed: spy }));
    if let Some(interval) = checkpoint {
        trial = trial.checkpoint(interval);
    }
    let totals = trial.run(move |worker, output| {
        let seen = Arc::clone(&seen);
        worker.dataflow::<u64, _, _>(|scope| {
            let counts = Numbers.to_stream_fenced(scope, "numbers").fold_fenced(
                "counts",
                |number| number % 10,
                0_u64,
                |count, number, out| {
                    *count += 1;
                    out.give((number % 10, *count));
                },
            );
            counts
                .inspect_core(move |event| {
                    if let Ok((stamp, _)) = event {
                        seen.lock().unwrap().extend(stamp.iter().copied());
                    }
                })
                .sink_fenced("totals", output);
        });
    });
    let end = Epoch::END;
    let committed = commits.0.lock().unwrap().iter().copied().filter(|e| *e < end).collect();
    let sealed = sealed.lock().unwrap().clone();
    let epochs = epochs.lock().unwrap().clone();
    Outcome { totals, epochs, sealed, committed }
}

fn is_exact(outcome: &Outcome) -> bool {
    let mut totals = outcome.totals.clone();
    totals.sort_unstable();
    let each = NUMBERS / 10;
    totals == (0..10).flat_map(|n| (1..=each).map(move |m| (n, m))).collect::<Vec<_>>()
}

#[test]
fn state_is_sealed_and_committed_at_checkpoints_alone() {
    for workers in [1, 3] {
        let outcome = run(workers, Some(Duration::from_millis(30)));
        assert!(is_exact(&outcome), "with {workers} workers");
        // Each worker's last changes are sealed at its end, which need not be a checkpoint.
        let ends = workers * 3;
        let Outcome { epochs, sealed, committed, .. } = outcome;
        let checkpoints = sealed.intersection(&committed).count();
        assert!(checkpoints >= 3, "{sealed:?} are sealed, {committed:?} committed");
        assert!(sealed.difference(&committed).count() <= ends + 4, "{sealed:?} / {committed:?}");
        // The epochs between were not waited for: far more passed than were checkpoints.
        let (epochs, committed) = (epochs.len(), committed.len());
        assert!(epochs >= 4 * committed, "{epochs} epochs, {committed} checkpoints");
    }
}

#[test]
fn a_clock_that_never_strikes_keeps_nobody_waiting() {
    let outcome = run(2, Some(Duration::from_secs(3_600)));
    assert!(is_exact(&outcome));
    assert!(outcome.committed.is_empty(), "{:?}", outcome.committed);
    assert!(outcome.epochs.len() > 20, "{} epochs", outcome.epochs.len());
}

#[test]
fn a_clock_faster_than_epochs_chooses_no_more_than_there_are() {
    let outcome = run(2, Some(Duration::from_micros(100)));
    assert!(is_exact(&outcome));
    assert!(!outcome.committed.is_empty());
}

#[test]
fn a_worker_that_has_nothing_but_the_clock_leaves_when_it_is_asked_to() {
    // Its own dataflows have ended, as far as it can tell, and no other operator is there to be woken.
    let shares = in_time(Duration::from_secs(60), || {
        let stops = [(Duration::from_millis(100), Stop)];
        let trial = Trial::new(2).checkpoint(Duration::from_secs(3_600));
        trial.run_interrupted(&stops, |worker, output| {
            let fence = worker.fence();
            if fence.is_first_view() {
                worker.dataflow::<u64, _, _>(|scope| fence.admit("nothing", "ended", scope));
                return;
            }
            worker.dataflow::<u64, _, _>(|scope| {
                per_share(|share| std::iter::once(share.index))
                    .to_stream_fenced(scope, "shares")
                    .sink_fenced("out", output);
            });
        })
    });
    assert_eq!(shares.len(), 2);
}

#[test]
fn a_job_that_steps_by_itself_ends_with_its_clock() {
    // Of several dataflows, one with a loop; nothing but the end of all of them ends the program's own.
    let trial = Trial::new(2).epoch(Duration::from_millis(1)).checkpoint(Duration::from_millis(3));
    let mut all = trial.run(|worker, output| {
        let sink = output.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            let numbers = Numbers.to_stream_fenced(scope, "numbers");
            let halved = scope.scoped::<Product<u64, u32>, _, _>("loop", |inner| {
                let (handle, again) = inner.feedback(Product::new(0, 1));
                let seen =
                    numbers.filter(|n| n % 100 == 64).enter(inner).concat(again).fold_fenced(
                        "halve",
                        |number| *number,
                        0_u64,
                        |seen, number, out| {
                            *seen += 1;
                            out.give((number, *seen));
                        },
                    );
                let more = seen.clone().filter(|(number, _)| *number > 1);
                more.map(|(number, _)| number / 2).connect_loop(handle);
                seen.leave(scope)
            });
            halved.filter(|(number, _)| *number == 1).sink_fenced("halved", sink);
        });
        worker.dataflow::<u32, _, _>(|scope| {
            per_share(|share| std::iter::once((0, share.index)))
                .to_stream_fenced(scope, "shares")
                .sink_fenced("share", output);
        });
        while worker.step_or_park(None) {}
    });
    all.sort_unstable();
    let mut expected: Vec<(u64, u64)> = (1..=NUMBERS / 100).map(|seen| (1, seen)).collect();
    expected.extend([(0, 0), (0, 1)]);
    expected.sort_unstable();
    assert_eq!(all, expected);
}
