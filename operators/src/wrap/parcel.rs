//! Parcel: what one worker sends to another at once, with a container for each partition.
//!
//! An operator has many more partitions than there are workers. If each partition had its own message, a
//! small batch would become hundreds of messages; in a parcel they travel together.

use std::io::Write;

use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::dataflow::channels::ContainerBytes;

/// Containers with their target partitions.
pub(crate) struct Parcel<C> {
    pub(crate) parts: Vec<(u32, C)>,
}

impl<C> Default for Parcel<C> {
    fn default() -> Self {
        Parcel { parts: Vec::new() }
    }
}

impl<C: Accountable> Accountable for Parcel<C> {
    fn record_count(&self) -> i64 {
        self.parts.iter().map(|(_, container)| container.record_count()).sum()
    }
}

/// Writes a number, or panics: timely reserved `length_in_bytes` for the whole, so that running out of
/// room is a bug here.
fn put<W: Write>(writer: &mut W, bytes: &[u8]) {
    writer.write_all(bytes).expect("timely reserved room for the parcel");
}

fn take(bytes: &mut Bytes) -> usize {
    let mut number = [0u8; 8];
    number.copy_from_slice(&bytes.extract_to(8));
    u64::from_le_bytes(number) as usize
}

/// The number of parts, and then for each part its partition, its length, and its bytes. Everything is
/// aligned to eight bytes, since containers may be read in place.
impl<C: ContainerBytes> ContainerBytes for Parcel<C> {
    fn from_bytes(mut bytes: Bytes) -> Self {
        let count = take(&mut bytes);
        let mut parts = Vec::with_capacity(count.min(bytes.len() / 16));
        for _ in 0..count {
            let partition = take(&mut bytes) as u32;
            let length = take(&mut bytes);
            parts.push((partition, C::from_bytes(bytes.extract_to(length))));
        }
        Parcel { parts }
    }

    fn length_in_bytes(&self) -> usize {
        let part = |(_, container): &(u32, C)| 16 + container.length_in_bytes().next_multiple_of(8);
        8 + self.parts.iter().map(part).sum::<usize>()
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        put(writer, &(self.parts.len() as u64).to_le_bytes());
        for (partition, container) in &self.parts {
            let length = container.length_in_bytes();
            let padded = length.next_multiple_of(8);
            put(writer, &u64::from(*partition).to_le_bytes());
            put(writer, &(padded as u64).to_le_bytes());
            container.into_bytes(writer);
            put(writer, &[0u8; 8][..padded - length]);
        }
    }
}

#[cfg(test)]
mod tests {
    use timely::bytes::arc::BytesMut;

    use super::*;

    #[test]
    fn parts_survive_the_way_through_timely() {
        let parts = vec![(3, vec!["a".to_owned()]), (255, vec![]), (0, vec!["bc".to_owned(); 9])];
        let parcel = Parcel { parts: parts.clone() };
        assert_eq!(parcel.record_count(), 10);
        let mut sent = Vec::new();
        parcel.into_bytes(&mut sent);
        assert_eq!(sent.len(), parcel.length_in_bytes());
        assert!(sent.len().is_multiple_of(8));
        let received = Parcel::<Vec<String>>::from_bytes(BytesMut::from(sent).freeze());
        assert_eq!(received.parts, parts);
    }
}
