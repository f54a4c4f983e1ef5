//! A snapshot reads back as it was written, and any damage to it is refused.

use proptest::prelude::*;

use super::*;
use crate::ids::OperatorName;

type Change = (Vec<u8>, Option<Vec<u8>>);

fn subject() -> Subject {
    Subject {
        operator: operator_id(&OperatorName::new("counts")),
        fingerprint: 9,
        partition: PartitionId(3),
    }
}

fn write_delta(bytes: &mut Vec<u8>, epoch: u64, previous: Option<u64>, changes: &[Change]) {
    let mut writer = DeltaWriter::new(bytes, subject(), Epoch(epoch), previous.map(Epoch));
    for (key, value) in changes {
        let put = |part: &[u8], bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(part);
            Ok(())
        };
        match value {
            Some(value) => writer.put(|bytes| put(key, bytes), |bytes| put(value, bytes)).unwrap(),
            None => writer.remove(|bytes| put(key, bytes)).unwrap(),
        }
    }
    assert_eq!(writer.finish(), changes.len() as u64);
}

fn read_entries(entries: Entries<'_>) -> Vec<Change> {
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.key.to_vec(), entry.value.map(<[u8]>::to_vec)))
        .collect()
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let part = || proptest::collection::vec(any::<u8>(), 0..200);
    proptest::collection::vec((part(), proptest::option::of(part())), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn frames_of_one_buffer_read_back_as_written(all in proptest::collection::vec(changes(), 0..5)) {
        let mut bytes = Vec::new();
        for (index, changes) in all.iter().enumerate() {
            let epoch = index as u64 * 2;
            write_delta(&mut bytes, epoch, epoch.checked_sub(2), changes);
        }
        let read: Vec<_> = frames(&bytes).map(|frame| frame.unwrap()).collect();
        prop_assert_eq!(read.len(), all.len());
        for (index, (frame, changes)) in read.iter().zip(&all).enumerate() {
            prop_assert_eq!(frame.header().subject, subject());
            prop_assert_eq!(frame.header().epoch, Epoch(index as u64 * 2));
            prop_assert_eq!(frame.header().previous, (index as u64 * 2).checked_sub(2).map(Epoch));
            prop_assert_eq!(&read_entries(frame.entries()), changes);
        }
    }

    #[test]
    fn garbage_entries_end_in_an_error_without_a_panic(payload: Vec<u8>, count in 0_u64..20) {
        let read: Vec<_> = Entries::new(&payload, count).collect();
        prop_assert!(read.len() as u64 <= count + 1);
        prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
        prop_assert_eq!(DeltaRef::parse(&payload).is_err(), true);
        prop_assert_eq!(BaseRef::parse(&payload).is_err(), true);
    }

    #[test]
    fn a_base_reads_back_as_written(all: Vec<(Vec<u8>, Vec<u8>)>, epoch: Option<u64>) {
        let mut bytes = Vec::new();
        let mut writer = BaseWriter::new(&mut bytes, subject(), epoch.map(Epoch));
        all.iter().for_each(|(key, value)| writer.put(key, value));
        let digest = writer.finish();
        let base = BaseRef::parse(&bytes).unwrap();
        prop_assert_eq!(base.digest(), digest);
        prop_assert_eq!(base.header().epoch, epoch.map(Epoch));
        let expected: Vec<Change> = all.into_iter().map(|(key, value)| (key, Some(value))).collect();
        prop_assert_eq!(read_entries(base.entries()), expected);
    }
}

/// Flips every bit and cuts at every length, and expects `accepts` to refuse each.
fn refuses_all_damage(bytes: &[u8], accepts: impl Fn(&[u8]) -> bool) {
    assert!(accepts(bytes));
    let mut bad = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!accepts(&bad), "bit {bit} flipped");
        bad[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..bytes.len() {
        assert!(!accepts(&bytes[..length]), "cut to {length}");
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    let changes =
        [(vec![1, 2, 3], Some(vec![4; 150])), (vec![], None), (vec![5; 130], Some(vec![]))];
    for previous in [None, Some(6)] {
        let mut bytes = Vec::new();
        write_delta(&mut bytes, 7, previous, &changes);
        refuses_all_damage(&bytes, |bytes| DeltaRef::parse(bytes).is_ok());
    }
    for epoch in [None, Some(Epoch(7))] {
        let mut bytes = Vec::new();
        let mut writer = BaseWriter::new(&mut bytes, subject(), epoch);
        writer.put(&[1, 2], &[3; 140]);
        writer.finish();
        refuses_all_damage(&bytes, |bytes| BaseRef::parse(bytes).is_ok());
    }
}

#[test]
fn a_writer_that_is_dropped_takes_back_what_it_wrote() {
    let mut bytes = vec![1, 2, 3];
    let mut writer = DeltaWriter::new(&mut bytes, subject(), Epoch(1), None);
    writer.remove(|_| Ok(())).unwrap();
    drop(writer);
    assert_eq!(bytes, [1, 2, 3]);
}

#[test]
fn damage_in_one_frame_ends_the_buffer() {
    let mut bytes = Vec::new();
    write_delta(&mut bytes, 1, None, &[(vec![1], None)]);
    let first = bytes.len();
    write_delta(&mut bytes, 2, Some(1), &[(vec![2], None)]);
    bytes[first + 70 - 6] ^= 1;
    let read: Vec<_> = frames(&bytes).collect();
    assert_eq!(read.len(), 2);
    assert!(matches!(read[1], Err(SnapshotError::Checksum { .. })));
}
