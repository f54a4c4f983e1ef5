use proptest::prelude::*;

use super::*;
use crate::fence::generation::PIECE_BYTES;

/// The containers in which `bytes` travel.
fn sent(piece_bytes: usize, sender: usize, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut containers = Vec::new();
    send_in_pieces_of(piece_bytes, sender, 7, bytes.to_vec(), &mut |frames| match frames {
        Frames::Built { target: 7, bytes } => containers.push(bytes),
        _ => panic!("it goes elsewhere"),
    });
    containers
}

/// What `assembly` makes of a container.
fn taken(assembly: &mut Assembly, bytes: &[u8]) -> Result<Option<Vec<u8>>, SnapshotError> {
    let mut made = None;
    assembly.take(bytes, |whole| {
        made = Some(whole.to_vec());
        Ok::<_, SnapshotError>(())
    })?;
    Ok(made)
}

fn some_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 256) as u8).collect()
}

#[test]
fn one_byte_less_than_the_limit_and_the_limit_travel_whole_and_one_more_does_not() {
    for (length, containers) in
        [(1, 1), (PIECE_BYTES - 1, 1), (PIECE_BYTES, 1), (PIECE_BYTES + 1, 2)]
    {
        let bytes = some_bytes(length);
        let sent = sent(PIECE_BYTES, 1, &bytes);
        assert_eq!(sent.len(), containers, "{length} bytes");
        let mut assembly = Assembly::default();
        let made: Vec<_> =
            sent.iter().filter_map(|bytes| taken(&mut assembly, bytes).unwrap()).collect();
        assert!(made == [bytes] && assembly.open.is_empty(), "{length} bytes");
    }
}

#[test]
fn a_container_of_frames_leaves_room_in_timelys_buffers() {
    let largest = PIECE_BYTES + PIECE_HEADER_BYTES;
    assert!(2 * (largest + 1024) < 1 << 20, "two of {largest} bytes and their headers");
}

#[test]
fn lost_repeated_and_swapped_pieces_are_refused() {
    let pieces = sent(10, 1, &some_bytes(35));
    for order in [vec![1], vec![0, 2], vec![0, 0], vec![0, 2, 1, 3], vec![0, 1, 3]] {
        let mut assembly = Assembly::default();
        let refused = order.iter().find_map(|at| taken(&mut assembly, &pieces[*at]).err());
        let error = refused.unwrap_or_else(|| panic!("{order:?} was taken"));
        assert!(matches!(error, SnapshotError::Piece { .. }), "{order:?}: {error}");
        assert!(error.is_damage(), "the next generation is sent it anew");
    }
}

#[test]
fn a_piece_of_another_whole_is_refused() {
    let (first, second) = (sent(10, 1, &some_bytes(35)), sent(10, 1, &some_bytes(45)));
    let mut assembly = Assembly::default();
    assert_eq!(taken(&mut assembly, &first[0]), Ok(None));
    assert!(taken(&mut assembly, &second[1]).is_err());
}

#[test]
fn a_header_that_promises_much_takes_no_memory() {
    let header = PieceHeader { sender: 1, begin: 0, total: u64::MAX };
    let bytes = [&header.encode()[..], &[1, 2, 3]].concat();
    let mut assembly = Assembly::default();
    assert_eq!(taken(&mut assembly, &bytes), Ok(None));
    assert!(assembly.open[&1].1.capacity() < 100);
}

proptest! {
    #[test]
    fn what_is_cut_is_put_together(
        lengths in proptest::collection::vec(0usize..200, 1..4),
        piece_bytes in 1usize..60,
        turns in proptest::collection::vec(0usize..4, 0..400),
    ) {
        // Each sender's pieces in their order, and those of several senders mixed.
        let wholes: Vec<Vec<u8>> = lengths.iter().map(|length| some_bytes(*length)).collect();
        let mut waiting: Vec<_> = wholes.iter().enumerate()
            .map(|(sender, whole)| sent(piece_bytes, sender, whole).into_iter())
            .collect();
        let mut assembly = Assembly::default();
        let mut made = vec![None; wholes.len()];
        let all = (0..wholes.len()).cycle().take(1_000);
        for sender in turns.into_iter().map(|turn| turn % wholes.len()).chain(all) {
            if let Some(container) = waiting[sender].next() {
                prop_assert!(container.len() <= piece_bytes + PIECE_HEADER_BYTES);
                if let Some(whole) = taken(&mut assembly, &container).unwrap() {
                    made[sender] = Some(whole);
                }
            }
        }
        prop_assert_eq!(made, wholes.into_iter().map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn no_flipped_bit_of_a_header_passes(at in 0..PIECE_HEADER_BYTES * 8) {
        let mut piece = sent(10, 1, &some_bytes(35)).remove(0);
        piece[at / 8] ^= 1 << (at % 8);
        // Without its first word it is no piece, and no other frame either.
        match taken(&mut Assembly::default(), &piece) {
            Ok(whole) => prop_assert!(at < 32 && whole == Some(piece)),
            Err(error) => prop_assert!(error.is_damage()),
        }
    }
}
