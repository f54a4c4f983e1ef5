//! The protocol's rules, as far as a vault keeps them: what a copy is, what a view drops, what is
//! accepted from whom.

use super::*;
use crate::codec::{Postcard, fingerprint};
use crate::hash::KeyHasher;
use crate::snapshot::SnapshotError;
use crate::state::{FILLED, KeyedTable};
use crate::vault::{Role, Span};

const OWNER: Role = Role { owner: true, backup: false };
const BACKUP: Role = Role { owner: false, backup: true };
const BOTH: Role = Role { owner: true, backup: true };
const NOTHING: Role = Role { owner: false, backup: false };

const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);

type Counts = KeyedTable<u64, u64>;

/// The state of one partition on its owner, wherever that is, and a vault under test.
struct Story {
    vault: MemoryVault,
    operator: u64,
    owner: Counts,
}

fn print() -> u32 {
    fingerprint::<u64, u64, Postcard>()
}

fn name(text: &str) -> OperatorName {
    OperatorName::new(text)
}

impl Story {
    /// View 1 of two partitions, in which the vault's node is `role` to partition 0.
    fn begin(role: Role) -> Self {
        let mut story =
            Story { vault: MemoryVault::new(2), operator: 0, owner: Counts::new(KeyHasher::Rapid) };
        story.install(1, None, role);
        story
    }

    fn install(&mut self, view: u64, resume: Option<u64>, role: Role) {
        self.try_install(view, resume, role).unwrap();
        self.operator = self
            .vault
            .register(self.vault.present(), &name("counts"), print(), StateKind::Table(2))
            .unwrap();
        self.owner.rewind(resume.map(Epoch)).unwrap();
    }

    fn try_install(&self, view: u64, resume: Option<u64>, role: Role) -> Result<(), VaultError> {
        let role = |partition| if partition == P0 { role } else { NOTHING };
        self.vault.install(ViewNumber(view), resume.map(Epoch), &role)
    }

    /// Adds one to the counts of some keys and returns the delta of partition 0.
    fn seal(&mut self, epoch: u64, keys: std::ops::Range<u64>) -> Vec<u8> {
        for key in keys {
            let hash = self.owner.hash_of(&key).unwrap();
            self.owner.update(hash, key, || 0, |count| *count += 1);
        }
        let mut bytes = Vec::new();
        let subject = Subject { operator: self.operator, fingerprint: print(), partition: P0 };
        self.owner.seal(Epoch(epoch), subject, &mut bytes).unwrap();
        bytes
    }

    fn store(&mut self, view: u64, epoch: u64, keys: std::ops::Range<u64>) -> usize {
        let bytes = self.seal(epoch, keys);
        self.vault.store(ViewNumber(view), &bytes).unwrap()
    }

    fn replica(&self) -> Option<Span> {
        self.vault.inventory().partitions.get(&P0).and_then(|copies| copies.replica)
    }

    fn sum(&self) -> Option<u64> {
        let opened = self.vault.open_replica(self.vault.present(), self.operator, P0).unwrap()?;
        let mut counts = Counts::new(KeyHasher::Rapid);
        counts.attach(opened.base, self.vault.recorded()).unwrap();
        let mut sum = 0;
        counts.for_each(|_, count| sum += count);
        Some(sum)
    }
}

fn span(from: Option<u64>, through: Option<u64>) -> Option<Span> {
    Some(Span { from: from.map(Epoch), through: through.map(Epoch) })
}

#[test]
fn a_partition_that_never_had_a_delta_is_a_complete_and_empty_copy() {
    let story = Story::begin(BACKUP);
    assert_eq!(story.replica(), span(None, None));
    assert_eq!(story.sum(), Some(0));
    assert!(!story.vault.inventory().partitions.contains_key(&P1));
    assert!(story.vault.open_replica(story.vault.present(), story.operator, P1).unwrap().is_none());
    story.vault.complete(ViewNumber(1), story.operator, Epoch(9)).unwrap();
    assert_eq!(story.replica(), span(None, Some(9)));
}

#[test]
fn a_copy_is_complete_through_the_slowest_operator() {
    let mut story = Story::begin(BACKUP);
    let other = story
        .vault
        .register(story.vault.present(), &name("joins"), 5, StateKind::Table(2))
        .unwrap();
    assert_eq!(story.store(1, 3, 0..10), 1);
    story.vault.complete(ViewNumber(1), story.operator, Epoch(3)).unwrap();
    assert_eq!(story.replica(), span(None, None));
    story.vault.complete(ViewNumber(1), other, Epoch(2)).unwrap();
    assert_eq!(story.replica(), span(None, Some(2)));
}

/// Protocol, rule 3 and 6: R may be above what this node heard of, and what is above R is dropped.
#[test]
fn a_view_drops_what_is_above_its_resume_epoch_and_completes_what_is_below() {
    let mut story = Story::begin(BACKUP);
    for epoch in 1..=4 {
        story.store(1, epoch, 0..10);
    }
    story.vault.complete(ViewNumber(1), story.operator, Epoch(1)).unwrap();
    story.vault.record(ViewNumber(1), Epoch(1)).unwrap();
    story.install(2, Some(3), BACKUP);
    assert_eq!(story.replica(), span(None, Some(3)));
    assert_eq!(story.vault.recorded(), Some(Epoch(3)));
    assert_eq!(story.sum(), Some(30));
    // The owner rewound too, and its next delta follows epoch 3.
    assert_eq!(story.store(2, 7, 0..10), 1);
    story.vault.record(ViewNumber(2), Epoch(7)).unwrap();
    story.install(3, Some(7), BACKUP);
    assert_eq!(story.sum(), Some(40));
}

/// Protocol, rules 3 and 4: neither views nor resume epochs fall.
#[test]
fn an_older_view_and_a_lower_resume_epoch_are_refused() {
    let mut story = Story::begin(BACKUP);
    story.store(1, 1, 0..10);
    story.vault.record(ViewNumber(1), Epoch(1)).unwrap();
    assert_eq!(
        story.try_install(2, None, BACKUP),
        Err(VaultError::ResumeFell { expected: Some(Epoch(1)), actual: None })
    );
    story.install(3, Some(1), BACKUP);
    assert_eq!(
        story.try_install(2, Some(1), BACKUP),
        Err(VaultError::ViewFell { installed: ViewNumber(3), actual: ViewNumber(2) })
    );
    assert_eq!(story.sum(), Some(10));
}

/// Protocol, rule 3: what a zombie of an older view does counts for nothing.
#[test]
fn calls_of_another_view_are_refused() {
    let mut story = Story::begin(BACKUP);
    let bytes = story.seal(1, 0..10);
    story.install(2, None, BACKUP);
    let refused = VaultError::View { expected: Some(ViewNumber(2)), actual: ViewNumber(1) };
    assert_eq!(story.vault.store(ViewNumber(1), &bytes), Err(refused.clone()));
    assert_eq!(story.vault.record(ViewNumber(1), Epoch(1)), Err(refused.clone()));
    assert_eq!(story.vault.complete(ViewNumber(1), story.operator, Epoch(1)), Err(refused));
    assert_eq!((story.vault.recorded(), story.sum()), (None, Some(0)));
}

/// Protocol, rule 6: a copy being filled is none.
#[test]
fn a_partition_backed_from_a_later_view_on_is_no_copy() {
    let mut story = Story::begin(NOTHING);
    assert_eq!(story.store(1, 1, 0..10), 0);
    assert_eq!(story.vault.usage().dropped_frames, 1);
    story.install(2, Some(1), BACKUP);
    assert_eq!(story.store(2, 2, 0..10), 1);
    assert_eq!((story.replica(), story.sum()), (None, None));
    assert_eq!(story.vault.usage().filling_partitions, 1);
    story.install(3, Some(2), BACKUP);
    assert_eq!((story.replica(), story.sum()), (None, None));
}

impl Story {
    /// Seals what ends the filling of a copy, and stores it.
    fn store_filled(&mut self, view: u64, epoch: u64) {
        assert_eq!(self.owner.touch_some(0, usize::MAX), FILLED);
        let subject = Subject { operator: self.operator, fingerprint: print(), partition: P0 };
        let mut bytes = Vec::new();
        self.owner.seal_filled(Epoch(epoch), subject, &mut bytes).unwrap();
        assert_eq!(self.vault.store(ViewNumber(view), &bytes), Ok(1));
    }
}

#[test]
fn a_copy_that_was_filled_is_one_from_there_on() {
    let mut story = Story::begin(NOTHING);
    story.store(1, 1, 0..10);
    story.install(2, Some(1), BACKUP);
    story.store(2, 2, 5..12);
    story.store_filled(2, 3);
    story.store(2, 4, 0..1);
    assert_eq!(story.replica(), None, "what is not known to be stored by all is no copy yet");
    story.vault.complete(ViewNumber(2), story.operator, Epoch(4)).unwrap();
    story.vault.record(ViewNumber(2), Epoch(3)).unwrap();
    assert_eq!(story.vault.usage().filling_partitions, 0);
    assert_eq!(story.replica(), span(Some(3), Some(4)));
    story.install(3, Some(3), BACKUP);
    assert_eq!((story.replica(), story.sum()), (span(Some(3), Some(3)), Some(17)));
    story.store(3, 4, 0..2);
    story.vault.record(ViewNumber(3), Epoch(4)).unwrap();
    assert_eq!(story.sum(), Some(17), "as of the view's beginning");
    story.install(4, Some(4), OWNER);
    assert_eq!(story.sum(), Some(19));
}

/// Protocol, rule 6: a copy filled from a base above the resume epoch is void.
#[test]
fn a_copy_that_was_filled_too_late_is_filled_anew() {
    let mut story = Story::begin(NOTHING);
    story.store(1, 1, 0..10);
    story.install(2, Some(1), BACKUP);
    story.store(2, 2, 5..12);
    story.store_filled(2, 3);
    story.install(3, Some(2), BACKUP);
    assert_eq!((story.replica(), story.sum()), (None, None));
    assert_eq!(story.vault.usage().filling_partitions, 1);
    story.store_filled(3, 3);
    story.vault.record(ViewNumber(3), Epoch(3)).unwrap();
    story.install(4, Some(3), OWNER);
    assert_eq!(story.sum(), Some(17));
}

#[test]
fn before_the_first_commit_every_backup_has_all_there_is() {
    let mut story = Story::begin(NOTHING);
    story.seal(1, 0..10);
    story.install(2, None, BACKUP);
    assert_eq!(story.replica(), span(None, None));
    assert_eq!(story.store(2, 1, 0..10), 1);
    story.install(3, Some(1), BACKUP);
    assert_eq!(story.sum(), Some(10));
}

/// A successor opens its replica; fed no more, it serves once more only at the same epoch.
#[test]
fn an_opened_replica_counts_until_something_is_committed_without_it() {
    let mut story = Story::begin(BACKUP);
    story.store(1, 1, 0..10);
    story.install(2, Some(1), OWNER);
    assert_eq!(story.replica(), span(None, Some(1)));
    assert_eq!(story.sum(), Some(10));
    assert_eq!(story.store(2, 2, 0..10), 0);
    story.install(3, Some(1), OWNER);
    assert_eq!((story.replica(), story.sum()), (span(Some(1), Some(1)), Some(10)));
    story.install(4, Some(2), OWNER);
    assert_eq!((story.replica(), story.sum()), (None, None));
}

#[test]
fn a_closed_replica_is_gone_unless_it_is_fed() {
    for (role, left) in [(OWNER, None), (BOTH, span(Some(1), Some(1)))] {
        let mut story = Story::begin(BACKUP);
        let other = story
            .vault
            .register(story.vault.present(), &name("joins"), 5, StateKind::Table(2))
            .unwrap();
        story.store(1, 1, 0..10);
        story.install(2, Some(1), role);
        story
            .vault
            .register(story.vault.present(), &name("joins"), 5, StateKind::Table(2))
            .unwrap();
        assert_eq!(story.sum(), Some(10));
        story.vault.close_replica(story.vault.present(), story.operator, P0);
        assert_eq!(story.replica(), left);
        // The other operator may still be about to open its own.
        assert!(story.vault.open_replica(story.vault.present(), other, P0).unwrap().is_some());
        story.install(3, Some(1), role);
        assert_eq!(story.sum(), left.map(|_| 10));
    }
}

#[test]
fn live_state_comes_back_with_the_epoch_to_rewind_to() {
    let mut story = Story::begin(OWNER);
    story.vault.deposit(story.vault.present(), story.operator, P0, Box::new(7_u32));
    story.vault.deposit(story.vault.present(), story.operator, P1, Box::new(8_u32));
    assert!(story.vault.inventory().partitions[&P0].live);
    assert!(
        story.vault.take_live(story.vault.present(), story.operator, P0).unwrap().is_none(),
        "it is for the next generation"
    );
    story.install(2, Some(5), OWNER);
    story.install(3, Some(6), OWNER);
    assert!(
        story.vault.take_live(story.vault.present(), story.operator, P1).unwrap().is_none(),
        "not an owner"
    );
    let live = story.vault.take_live(story.vault.present(), story.operator, P0).unwrap().unwrap();
    assert_eq!(live.rewind_to, Some(Epoch(5)));
    assert_eq!(live.state.downcast_ref::<u32>(), Some(&7));
    assert!(story.vault.take_live(story.vault.present(), story.operator, P0).unwrap().is_none());
    story.vault.deposit(story.vault.present(), story.operator, P0, Box::new(9_u32));
    story.install(4, Some(7), BACKUP);
    assert_eq!(story.vault.usage().deposits, 0);
}

#[test]
fn a_partition_is_live_only_with_every_operator_and_all_its_partitions() {
    let story = Story::begin(OWNER);
    // Five partitions over the view's two: 0, 2 and 4 belong to the view's partition 0.
    let wide =
        story.vault.register(story.vault.present(), &name("wide"), 1, StateKind::Table(5)).unwrap();
    let narrow = story
        .vault
        .register(story.vault.present(), &name("narrow"), 1, StateKind::Table(1))
        .unwrap();
    let mut missing = vec![(story.operator, 0), (wide, 0), (wide, 2), (wide, 4), (narrow, 0)];
    while let Some((operator, partition)) = missing.pop() {
        assert!(!story.vault.inventory().partitions[&P0].live);
        story.vault.deposit(story.vault.present(), operator, PartitionId(partition), Box::new(()));
    }
    assert!(story.vault.inventory().partitions[&P0].live);
}

#[test]
fn one_name_has_one_codec_and_a_state_without_its_operator_is_reported() {
    let mut story = Story::begin(BACKUP);
    assert_eq!(
        story.vault.register(story.vault.present(), &name("counts"), 1, StateKind::Table(2)),
        Err(VaultError::Changed {
            operator: name("counts"),
            expected: (print(), 2),
            actual: (1, 2)
        })
    );
    assert!(matches!(
        story.vault.register(story.vault.present(), &name("counts"), print(), StateKind::Table(3)),
        Err(VaultError::Changed { .. })
    ));
    story
        .vault
        .register(story.vault.present(), &name("stateless"), 1, StateKind::Table(2))
        .unwrap();
    story.store(1, 1, 0..10);
    story.try_install(2, Some(1), BACKUP).unwrap();
    assert_eq!(story.vault.unclaimed(story.vault.present()).unwrap(), [name("counts")]);
    story
        .vault
        .register(story.vault.present(), &name("counts"), print(), StateKind::Table(2))
        .unwrap();
    assert_eq!(story.vault.unclaimed(story.vault.present()).unwrap(), []);
}

#[test]
fn frames_that_are_damaged_or_foreign_or_out_of_order_are_refused() {
    let mut story = Story::begin(BACKUP);
    let view = ViewNumber(1);
    let first = story.seal(1, 0..10);
    let second = story.seal(2, 0..10);
    let mut damaged = [first.clone(), second.clone()].concat();
    *damaged.last_mut().unwrap() ^= 1;
    let refused = story.vault.store(view, &damaged);
    assert!(matches!(refused, Err(VaultError::Snapshot(SnapshotError::Checksum { .. }))));
    assert!(refused.unwrap_err().is_damage());
    let refused = story.vault.store(view, &second);
    assert!(matches!(refused, Err(VaultError::Snapshot(SnapshotError::Chain { .. }))));
    assert!(!refused.unwrap_err().is_damage(), "a whole snapshot in the wrong place is a mistake");
    assert_eq!(story.vault.store(view, &[first, second.clone()].concat()), Ok(2));
    let refused = story.vault.store(view, &second);
    assert!(matches!(refused, Err(VaultError::Snapshot(SnapshotError::Chain { .. }))));

    let mut frame = |subject| {
        let mut bytes = Vec::new();
        story.owner.seal(Epoch(9), subject, &mut bytes).unwrap();
        story.owner.rewind(Some(Epoch(2))).unwrap();
        let hash = story.owner.hash_of(&1).unwrap();
        story.owner.insert(hash, 1, 1);
        bytes
    };
    let subject = Subject { operator: story.operator, fingerprint: print(), partition: P0 };
    frame(subject);
    let refused = story.vault.store(view, &frame(Subject { fingerprint: 1, ..subject }));
    assert!(matches!(refused, Err(VaultError::Snapshot(SnapshotError::Subject { .. }))));
    let refused = story.vault.store(view, &frame(Subject { operator: 1, ..subject }));
    assert_eq!(refused, Err(VaultError::UnknownOperator(1)));
    let refused = story.vault.store(view, &frame(Subject { partition: PartitionId(2), ..subject }));
    assert!(matches!(refused, Err(VaultError::UnknownPartition { .. })));
}

/// Protocol, rule 8: folding goes up to the node's own record and not further.
#[test]
fn compaction_stops_at_what_is_recorded() {
    let mut story = Story::begin(BACKUP);
    for epoch in 1..=6 {
        story.store(1, epoch, 0..10);
    }
    assert_eq!(story.vault.compact(usize::MAX), Ok(0));
    story.vault.record(ViewNumber(1), Epoch(4)).unwrap();
    story.vault.record(ViewNumber(1), Epoch(2)).unwrap();
    let before = story.vault.usage().pending_bytes;
    let folded = story.vault.compact(1).unwrap();
    assert!(folded > 0 && folded < before / 2, "{folded} of {before}");
    let rest = story.vault.compact(usize::MAX).unwrap();
    let usage = story.vault.usage();
    assert_eq!(usage.pending_bytes, before - folded - rest);
    assert!(usage.replica_bytes > 0 && usage.pending_bytes > 0);
    story.vault.complete(ViewNumber(1), story.operator, Epoch(6)).unwrap();
    assert_eq!(story.replica(), span(Some(4), Some(6)));
}

#[test]
fn storing_folds_by_itself_above_the_limit() {
    let mut story = Story::begin(BACKUP);
    story.vault = MemoryVault::with_limit(2, 4096);
    story.install(1, None, BACKUP);
    let mut most = 0;
    for epoch in 1..200 {
        story.store(1, epoch, 0..50);
        story.vault.record(ViewNumber(1), Epoch(epoch)).unwrap();
        most = most.max(story.vault.usage().pending_bytes);
    }
    assert!(most < 4096 + 2 * 1024, "{most}");
    story.install(2, Some(199), BACKUP);
    assert_eq!(story.sum(), Some(199 * 50));
}

/// Workers store while the compactor folds and the supervisor looks on: nothing is lost.
#[test]
fn a_vault_serves_many_threads() {
    const PARTITIONS: u32 = 8;
    const EPOCHS: u64 = 60;
    let vault = Arc::new(MemoryVault::with_limit(PARTITIONS, 2048));
    vault.install(ViewNumber(1), None, &|_| BOTH).unwrap();
    let operator = vault
        .register(vault.present(), &name("counts"), print(), StateKind::Table(PARTITIONS))
        .unwrap();
    std::thread::scope(|scope| {
        for partition in (0..PARTITIONS).map(PartitionId) {
            let vault = Arc::clone(&vault);
            scope.spawn(move || {
                let subject = Subject { operator, fingerprint: print(), partition };
                let mut counts = Counts::new(KeyHasher::Rapid);
                for epoch in 1..=EPOCHS {
                    for key in 0..20 {
                        let hash = counts.hash_of(&key).unwrap();
                        counts.update(hash, key, || 0, |count| *count += 1);
                    }
                    let mut bytes = Vec::new();
                    counts.seal(Epoch(epoch), subject, &mut bytes).unwrap();
                    assert_eq!(vault.store(ViewNumber(1), &bytes), Ok(1));
                    if partition == P0 {
                        vault.record(ViewNumber(1), Epoch(epoch / 2)).unwrap();
                        vault.complete(ViewNumber(1), operator, Epoch(epoch / 2)).unwrap();
                    }
                }
                vault.deposit(vault.present(), operator, partition, Box::new(counts));
            });
        }
        for _ in 0..50 {
            vault.compact(1000).unwrap();
            assert_eq!(vault.inventory().partitions.len(), PARTITIONS as usize);
            assert_eq!(vault.usage().dropped_frames, 0);
        }
    });
    vault.install(ViewNumber(2), Some(Epoch(EPOCHS / 2)), &|_| BOTH).unwrap();
    vault
        .register(vault.present(), &name("counts"), print(), StateKind::Table(PARTITIONS))
        .unwrap();
    for partition in (0..PARTITIONS).map(PartitionId) {
        let opened = vault.open_replica(vault.present(), operator, partition).unwrap().unwrap();
        assert_eq!(opened.last, Some(Epoch(EPOCHS / 2)));
        let live = vault.take_live(vault.present(), operator, partition).unwrap().unwrap();
        let mut counts = *live.state.downcast::<Counts>().unwrap();
        counts.rewind(live.rewind_to).unwrap();
        let mut copy = Counts::new(KeyHasher::Rapid);
        copy.attach(opened.base, Some(Epoch(EPOCHS / 2))).unwrap();
        let mut sums = [0; 2];
        counts.for_each(|_, count| sums[0] += count);
        copy.for_each(|_, count| sums[1] += count);
        assert_eq!(sums, [20 * EPOCHS / 2; 2]);
    }
}

#[test]
fn a_closed_view_changes_nothing_and_still_takes_live_state() {
    let mut story = Story::begin(BOTH);
    let (vault, operator) = (&story.vault, story.operator);
    vault.deposit(vault.present(), operator, P0, Box::new(Counts::new(KeyHasher::Rapid)));
    story.install(2, None, BOTH);
    assert_eq!(story.store(2, 1, 0..10), 1);
    story.vault.complete(ViewNumber(2), operator, Epoch(1)).unwrap();
    let later = story.seal(2, 0..10);
    // Only the view that is installed can be closed.
    story.vault.close(ViewNumber(1));
    story.vault.record(ViewNumber(2), Epoch(1)).unwrap();
    story.vault.close(ViewNumber(2));
    let before = story.vault.inventory();

    let view = ViewNumber(2);
    let closed = VaultError::Closed { view };
    let vault = &story.vault;
    assert_eq!(vault.store(view, &later), Err(closed.clone()));
    assert_eq!(vault.store_journal(view, &[]), Err(closed.clone()));
    assert_eq!(vault.complete(view, operator, Epoch(2)), Err(closed.clone()));
    assert_eq!(vault.record(view, Epoch(2)), Err(closed.clone()));
    assert_eq!(vault.register(view, &name("joins"), 5, StateKind::Table(2)), Err(closed.clone()));
    assert_eq!(vault.register(view, &name("fed"), 5, StateKind::Journals(2)), Err(closed.clone()));
    assert_eq!(vault.unclaimed(view), Err(closed.clone()));
    // Whoever builds late takes nothing away from the next generation.
    assert_eq!(vault.take_live(view, operator, P0).err(), Some(closed.clone()));
    assert_eq!(vault.open_replica(view, operator, P0).err(), Some(closed.clone()));
    assert_eq!(vault.read_journal(view, operator, 0).err(), Some(closed));
    assert_eq!(vault.inventory(), before);
    assert_eq!(vault.recorded(), Some(Epoch(1)));

    assert!(before.partitions[&P0].live, "what was left by the view before is still a copy");
    vault.deposit(view, operator, P0, Box::new(Counts::new(KeyHasher::Rapid)));
    assert_eq!(vault.inventory(), before);

    // The next view is open, and knows nothing of who comes later still.
    story.install(3, Some(1), BOTH);
    let vault = &story.vault;
    assert!(vault.take_live(ViewNumber(3), operator, P0).unwrap().is_some());
    vault.deposit(view, operator, P0, Box::new(Counts::new(KeyHasher::Rapid)));
    vault.close(ViewNumber(3));
    assert!(!vault.inventory().partitions[&P0].live);
    assert!(vault.store(view, &later).unwrap_err().is_late());
}
