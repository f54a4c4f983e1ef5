//! Live state, its replica, and a plain history of ordered maps go through the same generations: at
//! every step all three hold the same, whatever was sealed, pruned, rewound or taken over.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::codec::fingerprint;
use crate::ids::{OperatorName, PartitionId};
use crate::snapshot::{DeltaRef, SnapshotError, operator_id};
use crate::state::Replica;

type Model = BTreeMap<String, Vec<u16>>;
type Live = KeyedTable<String, Vec<u16>>;

#[derive(Clone, Debug)]
enum Step {
    Update(u8, u16),
    Insert(u8, u16),
    Remove(u8),
    GetMut(u8, u16),
    Get(u8),
    Retain(u16),
    ChangeAll(u16),
    Seal(u64),
    Record(u64),
    Fold(usize),
    Decode(usize),
    /// The view changes and the state rewinds itself, this many sealed epochs back if it may.
    Rewind(usize),
    /// The view changes and the state is opened from the replica.
    TakeOver(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0_u8..40;
    let step = prop_oneof![
        8 => (key(), any::<u16>()).prop_map(|(key, by)| Step::Update(key, by)),
        3 => (key(), any::<u16>()).prop_map(|(key, by)| Step::Insert(key, by)),
        6 => key().prop_map(Step::Remove),
        2 => (key(), any::<u16>()).prop_map(|(key, by)| Step::GetMut(key, by)),
        2 => key().prop_map(Step::Get),
        1 => (2_u16..5).prop_map(Step::Retain),
        1 => any::<u16>().prop_map(Step::ChangeAll),
        4 => (1_u64..4).prop_map(Step::Seal),
        1 => (0_u64..6).prop_map(Step::Record),
        1 => (1_usize..2000).prop_map(Step::Fold),
        1 => (1_usize..20).prop_map(Step::Decode),
        1 => (0_usize..4).prop_map(Step::Rewind),
        1 => (0_usize..4).prop_map(Step::TakeOver),
    ];
    proptest::collection::vec(step, 0..300)
}

fn name(key: u8) -> String {
    // Keys of several lengths, some longer than one length byte can say.
    format!("key {key}{}", "x".repeat(usize::from(key) * 5))
}

fn subject() -> Subject {
    Subject {
        operator: operator_id(&OperatorName::new("counts")),
        fingerprint: fingerprint::<String, Vec<u16>, Postcard>(),
        partition: PartitionId(3),
    }
}

struct World {
    live: Live,
    replica: Replica,
    model: Model,
    /// The state at every sealed epoch that a rewind may still ask for, oldest first.
    history: Vec<(Option<Epoch>, Model)>,
    recorded: Option<Epoch>,
    sealed: u64,
    hasher: KeyHasher,
}

impl World {
    fn new(hasher: KeyHasher) -> Self {
        World {
            live: Live::new(hasher),
            replica: Replica::new(subject()),
            model: Model::new(),
            history: vec![(None, Model::new())],
            recorded: None,
            sealed: 0,
            hasher,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Update(key, by) => {
                let key = name(key);
                let hash = self.live.hash_of(&key).unwrap();
                let length = self.live.update(
                    hash,
                    key.clone(),
                    || vec![7],
                    |value| {
                        value.push(by);
                        value.len()
                    },
                );
                let value = self.model.entry(key).or_insert_with(|| vec![7]);
                value.push(by);
                assert_eq!(length, value.len());
            }
            Step::Insert(key, by) => {
                let key = name(key);
                let hash = self.live.hash_of(&key).unwrap();
                let before = self.live.insert(hash, key.clone(), vec![by]);
                assert_eq!(before, self.model.insert(key, vec![by]));
            }
            Step::Remove(key) => {
                let key = name(key);
                let hash = self.live.hash_of(&key).unwrap();
                assert_eq!(self.live.remove(hash, &key), self.model.remove(&key));
            }
            Step::GetMut(key, by) => {
                let key = name(key);
                let hash = self.live.hash_of(&key).unwrap();
                let value = self.live.get_mut(hash, &key).map(|value| value.fill(by));
                assert_eq!(value, self.model.get_mut(&key).map(|value| value.fill(by)));
            }
            Step::Get(key) => {
                let key = name(key);
                let hash = self.live.hash_of(&key).unwrap();
                assert_eq!(self.live.get(hash, &key), self.model.get(&key));
            }
            Step::Retain(of) => {
                self.live.retain(|_, value| value[0] % of != 0);
                self.model.retain(|_, value| value[0] % of != 0);
            }
            Step::ChangeAll(by) => {
                self.live.for_each_mut(|_, value| value[0] ^= by);
                self.model.values_mut().for_each(|value| value[0] ^= by);
            }
            Step::Seal(step) => self.seal(self.sealed + step),
            Step::Record(step) => {
                // Only what is sealed is ever recorded.
                let epoch =
                    Epoch(self.recorded.map_or(0, |epoch| epoch.0) + step).min(Epoch(self.sealed));
                if self.sealed > 0 {
                    self.record(epoch);
                }
            }
            Step::Fold(budget) => {
                if let Some(recorded) = self.recorded {
                    self.replica.fold(recorded, budget).unwrap();
                }
            }
            Step::Decode(keys) => {
                self.live.decode_some(keys);
            }
            Step::Rewind(back) => {
                let at = self.resume(back);
                self.live.rewind(at).unwrap();
                assert_eq!(self.live.dirty(), 0);
                assert_eq!(self.live.last(), self.replica.through());
            }
            Step::TakeOver(back) => self.take_over(back),
        }
    }

    fn take_over(&mut self, back: usize) {
        let at = self.resume(back);
        self.live = Live::new(self.hasher);
        let base = self.replica.open_at(at).unwrap();
        self.live.attach(base, at).unwrap();
        // There is no rewind below the epoch at which a replica was opened.
        self.recorded = at;
        self.history.retain(|(epoch, _)| *epoch >= at);
    }

    fn seal(&mut self, epoch: u64) {
        let mut bytes = vec![1, 2, 3];
        let entries = self.live.seal(Epoch(epoch), subject(), &mut bytes).unwrap();
        match entries {
            Some(entries) => {
                let (delta, rest) = DeltaRef::parse(&bytes[3..]).unwrap();
                assert!(rest.is_empty());
                assert_eq!(delta.header().entries, entries);
                self.replica.push(&delta).unwrap();
            }
            None => assert_eq!(bytes, [1, 2, 3]),
        }
        assert_eq!(self.live.dirty(), 0);
        self.sealed = epoch;
        self.history.push((Some(Epoch(epoch)), self.model.clone()));
    }

    fn record(&mut self, epoch: Epoch) {
        self.recorded = self.recorded.max(Some(epoch));
        self.live.prune(epoch);
        // The state at the last sealed epoch up to `epoch` is what a rewind to `epoch` gives.
        let kept = self.history.iter().rposition(|(sealed, _)| *sealed <= Some(epoch)).unwrap();
        self.history.drain(..kept);
        self.history[0].0 = self.history[0].0.max(Some(epoch));
    }

    /// Chooses an epoch to resume from, and makes the model and the replica the state at it.
    fn resume(&mut self, back: usize) -> Option<Epoch> {
        let index = self.history.len().saturating_sub(1 + back);
        self.history.truncate(index + 1);
        let (at, model) = self.history[index].clone();
        self.model = model;
        self.replica.truncate_above(at).unwrap();
        self.sealed = at.map_or(0, |epoch| epoch.0);
        at
    }

    fn check(&mut self) {
        let mut read = Model::new();
        self.live.for_each(|key, value| assert!(read.insert(key.clone(), value.clone()).is_none()));
        assert_eq!(read, self.model);
        assert_eq!(self.live.len(), self.model.len());

        self.seal(self.sealed + 1);
        let image = self.replica.open_at(Some(Epoch(self.sealed))).unwrap();
        let copy: Model = image
            .iter()
            .map(|(key, value)| (Postcard::decode(key).unwrap(), Postcard::decode(value).unwrap()))
            .collect();
        assert_eq!(copy, self.model);
        assert_eq!(image.len(), self.model.len());

        let mut bytes = Vec::new();
        image.to_base(&mut bytes);
        let mut again = Vec::new();
        Replica::from_base(subject(), &bytes).unwrap().to_base(image.epoch(), &mut again).unwrap();
        assert_eq!(bytes, again);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn live_state_and_replica_follow_the_model_through_all_generations(steps in steps(), sha1: bool) {
        let mut world = World::new(if sha1 { KeyHasher::Sha1 } else { KeyHasher::Rapid });
        for step in steps {
            world.step(step);
        }
        world.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A copy that begins in the middle and is filled while keys come, change and go has, at its end
    /// and ever after, what the state has.
    #[test]
    fn a_copy_is_filled_while_the_state_goes_on(
        before in proptest::collection::vec((0_u64..3000, any::<bool>()), 0..2000),
        after in proptest::collection::vec(
            (proptest::collection::vec((0_u64..6000, 0_u8..3), 0..400), 1_usize..500), 1..12),
    ) {
        let subject = Subject {
            operator: 1,
            fingerprint: fingerprint::<u64, u64, Postcard>(),
            partition: PartitionId(0),
        };
        let mut live = KeyedTable::<u64, u64>::new(KeyHasher::Rapid);
        for (key, removes) in before {
            let hash = live.hash_of(&key).unwrap();
            if removes {
                live.remove(hash, &key);
            } else {
                count(&mut live, key);
            }
        }
        live.seal(Epoch(1), subject, &mut Vec::new()).unwrap();

        let mut copy: Option<Replica> = None;
        let (mut from, mut epoch) = (0, 1);
        let mut rounds = after.into_iter();
        let mut is_filled = false;
        loop {
            let (changes, keys_max) = rounds.next().unwrap_or((Vec::new(), 1000));
            for (key, change) in changes {
                let hash = live.hash_of(&key).unwrap();
                match change {
                    0 => drop(live.remove(hash, &key)),
                    _ => drop(count(&mut live, key)),
                }
            }
            epoch += 1;
            let mut bytes = Vec::new();
            let was_filled = std::mem::replace(&mut is_filled, {
                from = live.touch_some(from, keys_max);
                from == FILLED
            });
            if is_filled && !was_filled {
                live.seal_filled(Epoch(epoch), subject, &mut bytes).unwrap();
            } else {
                live.seal(Epoch(epoch), subject, &mut bytes).unwrap();
            }
            if !bytes.is_empty() {
                let (delta, _) = DeltaRef::parse(&bytes).unwrap();
                prop_assert_eq!(delta.header().completes, is_filled && !was_filled);
                copy.get_or_insert_with(|| Replica::filling(subject, delta.header().previous))
                    .push(&delta)
                    .unwrap();
            }
            if is_filled {
                let base = copy.as_mut().unwrap().open_at(Some(Epoch(epoch))).unwrap();
                let mut opened = KeyedTable::<u64, u64>::new(KeyHasher::Rapid);
                opened.attach(base, Some(Epoch(epoch))).unwrap();
                let (mut expected, mut actual) = (BTreeMap::new(), BTreeMap::new());
                live.for_each(|key, value| assert_eq!(expected.insert(*key, *value), None));
                opened.for_each(|key, value| assert_eq!(actual.insert(*key, *value), None));
                prop_assert_eq!(expected, actual);
                if rounds.len() == 0 {
                    break;
                }
            }
        }
    }
}

fn count(live: &mut KeyedTable<u64, u64>, key: u64) -> u64 {
    let hash = live.hash_of(&key).unwrap();
    live.update(
        hash,
        key,
        || 0,
        |count| {
            *count += 1;
            *count
        },
    )
}

#[test]
fn a_removed_key_does_not_come_back_from_the_replica() {
    let subject = Subject {
        operator: 1,
        fingerprint: fingerprint::<u64, u64, Postcard>(),
        partition: PartitionId(0),
    };
    let mut owner = KeyedTable::<u64, u64>::new(KeyHasher::Rapid);
    let mut replica = Replica::new(subject);
    (0..10).for_each(|key| assert_eq!(count(&mut owner, key), 1));
    let mut bytes = Vec::new();
    owner.seal(Epoch(1), subject, &mut bytes).unwrap();
    replica.push(&DeltaRef::parse(&bytes).unwrap().0).unwrap();

    let mut successor = KeyedTable::<u64, u64>::new(KeyHasher::Rapid);
    successor.attach(replica.open_at(Some(Epoch(1))).unwrap(), Some(Epoch(1))).unwrap();
    let hash = successor.hash_of(&3).unwrap();
    assert_eq!(successor.remove(hash, &3), Some(1));
    assert_eq!(successor.get(hash, &3), None);
    bytes.clear();
    assert_eq!(successor.seal(Epoch(2), subject, &mut bytes).unwrap(), Some(1));
    assert_eq!(successor.get(hash, &3), None);
    assert!(!successor.decode_some(2));
    assert_eq!(successor.get(hash, &3), None);
    assert_eq!(successor.len(), 9);
    assert_eq!(successor.rewind(Some(Epoch(1))).unwrap(), Rewound { keys: 1, epochs: 1 });
    assert_eq!(successor.get(hash, &3), Some(&1));
    assert_eq!(
        successor.rewind(None),
        Err(StateError::Pruned { wanted: None, pruned: Some(Epoch(1)) })
    );
}

#[test]
fn a_rewind_below_what_is_pruned_is_refused_and_changes_nothing() {
    let subject = Subject { operator: 1, fingerprint: 2, partition: PartitionId(0) };
    let mut live = KeyedTable::<u64, u64>::new(KeyHasher::Rapid);
    for epoch in 1..4 {
        count(&mut live, 7);
        live.seal(Epoch(epoch), subject, &mut Vec::new()).unwrap();
    }
    live.prune(Epoch(2));
    assert!(matches!(live.rewind(Some(Epoch(1))), Err(StateError::Pruned { .. })));
    let hash = live.hash_of(&7).unwrap();
    assert_eq!(live.get(hash, &7), Some(&3));
    live.rewind(Some(Epoch(2))).unwrap();
    assert_eq!(live.get(hash, &7), Some(&2));
    assert_eq!(live.last(), Some(Epoch(2)));
    assert_eq!(
        live.seal(Epoch(2), subject, &mut Vec::new()),
        Err(StateError::Sealed { epoch: Epoch(2), sealed: Epoch(2) })
    );
}

#[test]
fn a_replica_refuses_what_does_not_follow() {
    let subject = Subject { operator: 1, fingerprint: 2, partition: PartitionId(0) };
    let frame = |epoch, previous: Option<u64>, subject| {
        let mut bytes = Vec::new();
        DeltaWriter::new(&mut bytes, subject, Epoch(epoch), previous.map(Epoch)).finish();
        bytes
    };
    let push =
        |replica: &mut Replica, bytes: Vec<u8>| replica.push(&DeltaRef::parse(&bytes).unwrap().0);
    let mut replica = Replica::new(subject);
    push(&mut replica, frame(3, None, subject)).unwrap();
    push(&mut replica, frame(5, Some(3), subject)).unwrap();
    for bad in [frame(6, None, subject), frame(6, Some(4), subject), frame(5, Some(3), subject)] {
        assert!(matches!(push(&mut replica, bad), Err(SnapshotError::Chain { .. })));
    }
    for bad in [Subject { operator: 2, ..subject }, Subject { fingerprint: 3, ..subject }] {
        assert!(matches!(
            push(&mut replica, frame(6, Some(5), bad)),
            Err(SnapshotError::Subject { .. })
        ));
    }
    replica.fold(Epoch(4), usize::MAX).unwrap();
    assert_eq!((replica.base_epoch(), replica.through()), (Some(Epoch(3)), Some(Epoch(5))));
    assert!(matches!(replica.truncate_above(Some(Epoch(2))), Err(SnapshotError::Folded { .. })));
    replica.truncate_above(Some(Epoch(4))).unwrap();
    assert_eq!((replica.through(), replica.pending_bytes()), (Some(Epoch(3)), 0));
}

#[test]
fn a_shared_base_is_not_changed_under_its_reader() {
    let subject = Subject { operator: 1, fingerprint: 2, partition: PartitionId(0) };
    let mut live = KeyedTable::<u64, u64>::new(KeyHasher::Rapid);
    let mut replica = Replica::new(subject);
    let mut step = |replica: &mut Replica, epoch| {
        for key in 0..100 {
            count(&mut live, key);
        }
        let mut bytes = Vec::new();
        live.seal(Epoch(epoch), subject, &mut bytes).unwrap();
        replica.push(&DeltaRef::parse(&bytes).unwrap().0).unwrap();
    };
    step(&mut replica, 1);
    let reader = replica.open_at(Some(Epoch(1))).unwrap();
    step(&mut replica, 2);
    assert_eq!(replica.fold(Epoch(2), usize::MAX).unwrap(), 0);
    assert_eq!(reader.get(&[5]), Some(&[1][..]));
    let later = replica.open_at(Some(Epoch(2))).unwrap();
    assert_eq!((reader.get(&[5]), later.get(&[5])), (Some(&[1][..]), Some(&[2][..])));
    drop((reader, later));
    step(&mut replica, 3);
    assert!(replica.fold(Epoch(3), usize::MAX).unwrap() > 0);
}
