//! What a durable tier is given adds up: whatever is folded, lost, cut off or written twice, the bases and deltas
//! of all that became durable are the state.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::codec::{Postcard, fingerprint};
use crate::hash::KeyHasher;
use crate::ids::ViewNumber;
use crate::snapshot::frames;
use crate::state::KeyedTable;
use crate::vault::Vault;

const KEYS: u64 = 40;
const BOTH: Role = Role { owner: true, backup: true };

type Counts = KeyedTable<u64, u64>;
type State = BTreeMap<u64, u64>;

#[derive(Clone, Debug)]
enum Step {
    /// Some keys change, and an epoch is sealed, stored and recorded.
    Epoch { first: u64, count: u64 },
    /// What is recorded is folded.
    Fold,
    /// What is not durable is written; whether that becomes known.
    Write { is_known: bool },
    /// The next view begins, so many epochs below what was stored.
    View { undone: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..KEYS, 0..8_u64).prop_map(|(first, count)| Step::Epoch { first, count }),
        2 => Just(Step::Fold),
        3 => any::<bool>().prop_map(|is_known| Step::Write { is_known }),
        1 => (0..3_u64).prop_map(|undone| Step::View { undone }),
    ]
}

struct Story {
    vault: MemoryVault,
    operator: u64,
    view: u64,
    owner: Counts,
    epoch: u64,
    recorded: u64,
    /// The state after each epoch.
    states: BTreeMap<u64, State>,
    durable: u64,
    /// What is durable.
    saved: Replica,
    bases: usize,
}

fn subject(operator: u64) -> Subject {
    let fingerprint = fingerprint::<u64, u64, Postcard>();
    Subject { operator, fingerprint, partition: PartitionId(0) }
}

fn contents(replica: &mut Replica, at: Option<Epoch>) -> State {
    let mut counts = Counts::new(KeyHasher::Rapid);
    counts.attach(replica.open_at(at).unwrap(), at).unwrap();
    let mut state = State::new();
    counts.for_each(|key, count| {
        state.insert(*key, *count);
    });
    state
}

impl Story {
    fn begin() -> Self {
        let vault = MemoryVault::durable(1);
        vault.install(ViewNumber(1), None, &|_| BOTH).unwrap();
        let mut story = Story {
            vault,
            operator: 0,
            view: 1,
            owner: Counts::new(KeyHasher::Rapid),
            epoch: 0,
            recorded: 0,
            states: BTreeMap::from([(0, State::new())]),
            durable: 0,
            saved: Replica::new(subject(0)),
            bases: 0,
        };
        story.register();
        story.saved = Replica::new(subject(story.operator));
        story
    }

    fn register(&mut self) {
        let name = OperatorName::new("counts");
        let fingerprint = fingerprint::<u64, u64, Postcard>();
        let kind = crate::vault::StateKind::Table(1);
        self.operator =
            self.vault.register(ViewNumber(self.view), &name, fingerprint, kind).unwrap();
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Epoch { first, count } => {
                self.epoch += 1;
                for key in first..first + count {
                    let hash = self.owner.hash_of(&key).unwrap();
                    self.owner.update(hash, key, || 0, |count| *count += 1);
                }
                let mut bytes = Vec::new();
                self.owner.seal(Epoch(self.epoch), subject(self.operator), &mut bytes).unwrap();
                self.vault.store(ViewNumber(self.view), &bytes).unwrap();
                let mut state = State::new();
                self.owner.for_each(|key, count| {
                    state.insert(*key, *count);
                });
                self.states.insert(self.epoch, state);
                // The last epoch is stored and not recorded.
                self.recorded = self.recorded.max(self.epoch - 1);
                if self.recorded > 0 {
                    self.vault.record(ViewNumber(self.view), Epoch(self.recorded)).unwrap();
                }
            }
            Step::Fold => while self.vault.compact(usize::MAX).unwrap() > 0 {},
            Step::Write { is_known } => self.write(is_known),
            Step::View { undone } => {
                let resume = self.recorded.max(self.epoch.saturating_sub(undone));
                self.view += 1;
                let epoch = (resume > 0).then_some(Epoch(resume));
                self.vault.install(ViewNumber(self.view), epoch, &|_| BOTH).unwrap();
                self.register();
                self.owner.rewind(epoch).unwrap();
                (self.epoch, self.recorded) = (resume, resume);
            }
        }
    }

    fn write(&mut self, is_known: bool) {
        if self.recorded <= self.durable {
            return;
        }
        let durable = (self.durable > 0).then_some(Epoch(self.durable));
        let epoch = Epoch(self.recorded);
        let view = ViewNumber(self.view);
        let Some(states) = self.vault.unsaved(view, durable, epoch, &|_| true).unwrap() else {
            return;
        };
        if !is_known {
            return;
        }
        for UnsavedState { base, deltas, .. } in states {
            if let Some(base) = base {
                let mut bytes = Vec::new();
                base.to_base(&mut bytes);
                self.saved = Replica::from_base(subject(self.operator), &bytes).unwrap();
                self.bases += 1;
            }
            for delta in &deltas {
                let delta = frames(delta).next().unwrap().unwrap();
                self.saved.push(&delta).unwrap();
            }
        }
        self.durable = self.recorded;
        self.vault.saved(epoch);
        let expected = &self.states[&self.durable];
        assert_eq!(&contents(&mut self.saved, Some(epoch)), expected, "epoch {epoch}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_adds_up(steps in proptest::collection::vec(step(), 1..120)) {
        let mut story = Story::begin();
        for step in steps {
            story.take(step);
        }
    }
}

#[test]
fn too_many_deltas_are_written_as_a_base() {
    let mut story = Story::begin();
    // Nothing becomes durable for so long that the deltas outweigh the base.
    for _ in 0..600 {
        story.take(Step::Epoch { first: 0, count: KEYS });
    }
    story.take(Step::Fold);
    story.take(Step::Write { is_known: true });
    assert_eq!((story.bases, story.durable > 0), (1, true));
}

#[test]
fn what_is_preloaded_is_a_complete_copy_that_goes_on() {
    let mut first = Story::begin();
    for round in 0..30 {
        first.take(Step::Epoch { first: round % 7, count: 5 });
    }
    first.take(Step::Write { is_known: true });
    let durable = Epoch(first.durable);
    let expected = first.states[&first.durable].clone();
    let registry = first.vault.registry();

    let second = MemoryVault::durable(1);
    second.preload(durable, registry, vec![first.saved], &|_| BOTH).unwrap();
    second.install(ViewNumber(1), Some(durable), &|_| BOTH).unwrap();
    let name = OperatorName::new("counts");
    let print = fingerprint::<u64, u64, Postcard>();
    let table = || crate::vault::StateKind::Table(1);
    let changed = second.register(ViewNumber(1), &name, print ^ 1, table()).unwrap_err();
    assert!(changed.to_string().contains("operator counts has changed"), "{changed}");
    for kind in [table(), crate::vault::StateKind::Journals(1)] {
        let added = second.register(ViewNumber(1), &OperatorName::new("added"), print, kind);
        assert_eq!(added, Err(VaultError::New { operator: OperatorName::new("added") }));
    }
    let operator = second.register(ViewNumber(1), &name, print, table()).unwrap();
    let opened = second.open_replica(ViewNumber(1), operator, PartitionId(0)).unwrap().unwrap();
    let mut counts = Counts::new(KeyHasher::Rapid);
    counts.attach(opened.base, Some(durable)).unwrap();
    let mut state = State::new();
    counts.for_each(|key, count| {
        state.insert(*key, *count);
    });
    assert_eq!(state, expected);
    assert_eq!(second.recorded(), Some(durable));
    assert!(
        second
            .unsaved(ViewNumber(1), Some(durable), durable, &|_| true)
            .unwrap()
            .unwrap()
            .is_empty()
    );
}
