use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SUBJECT: Subject =
    Subject { operator: 1, fingerprint: 2, partition: crate::ids::PartitionId(3) };

/// A base of which so few units can be addressed.
fn small(units_max: u64) -> ReplicaBase {
    ReplicaBase { units_max, ..ReplicaBase::new(SUBJECT) }
}

fn apply(base: &mut ReplicaBase, epoch: u64, entries: &[(Vec<u8>, Option<Vec<u8>>)]) {
    let bytes =
        entries.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len) + 21);
    let bytes = bytes.sum();
    let entries = entries
        .iter()
        .map(|(key, value)| Ok(Entry { key: key.as_slice(), value: value.as_deref() }));
    base.apply(Epoch(epoch), bytes, entries).unwrap();
}

fn contents(base: &ReplicaBase) -> BTreeMap<Vec<u8>, Vec<u8>> {
    base.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

#[test]
fn the_unit_grows_with_the_first_byte_that_32_bits_would_not_address() {
    // The entry has the lengths of key and value besides, and the delta's bytes count it as 21 more.
    let entry = |length: usize| vec![(vec![7], Some(vec![9; length - 22]))];
    for (length, unit_bits) in [(399 - 4, 2), (400 - 4, 2), (401 - 4, 3)] {
        let mut base = small(100);
        apply(&mut base, 1, &entry(length));
        assert_eq!(base.unit_bits, unit_bits, "{length} bytes");
        assert_eq!(base.get(&[7]), Some(&vec![9; length - 22][..]));
    }
}

#[test]
fn too_many_keys_are_named_before_anything_is_changed() {
    let mut base = ReplicaBase::new(SUBJECT);
    apply(&mut base, 1, &[(vec![1], Some(vec![2]))]);
    assert_eq!(base.address(0, REPLICA_KEYS_MAX - 1), Ok(()));
    let error = base.address(0, REPLICA_KEYS_MAX).unwrap_err();
    assert!(error.to_string().contains("3221225473 keys"), "{error}");
    assert_eq!(base.get(&[1]), Some(&[2][..]));
}

proptest! {
    #[test]
    fn what_32_bits_address_changes_nothing(
        deltas in proptest::collection::vec(
            proptest::collection::btree_map(
                0u8..40,
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
                1..20,
            ),
            1..12,
        ),
        units_max in 60u64..400,
    ) {
        let (mut little, mut large) = (small(units_max), ReplicaBase::new(SUBJECT));
        for (epoch, delta) in (1..).zip(&deltas) {
            let entries: Vec<_> =
                delta.iter().map(|(key, value)| (vec![*key], value.clone())).collect();
            apply(&mut little, epoch, &entries);
            apply(&mut large, epoch, &entries);
            prop_assert_eq!(contents(&little), contents(&large));
            let units = (little.arena.len() >> little.unit_bits) as u64;
            prop_assert!(units <= units_max, "{} units of {}", units, units_max);
        }
        let (mut one, mut other) = (Vec::new(), Vec::new());
        prop_assert_eq!(little.to_base(&mut one), large.to_base(&mut other));
    }
}
