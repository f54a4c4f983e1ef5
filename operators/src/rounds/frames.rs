//! Frames: encoded snapshots in transit to a backup, as a timely container that moves bytes once.

use std::io::Write;

use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::communication::Push;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::progress::Stamp;

/// Snapshot frames for one worker.
///
/// When built, it knows its target. When received, it is a slice of timely's receive buffer. Such a slice
/// keeps the whole buffer alive, so what must live long is copied out of it.
#[derive(Clone)]
pub(crate) enum Frames {
    Built { target: usize, bytes: Vec<u8> },
    Received(Bytes),
}

impl Frames {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Frames::Built { bytes, .. } => bytes,
            Frames::Received(bytes) => bytes,
        }
    }
}

impl Default for Frames {
    fn default() -> Self {
        Frames::Built { target: 0, bytes: Vec::new() }
    }
}

impl Accountable for Frames {
    /// A container counts as one record: it is never split.
    fn record_count(&self) -> i64 {
        i64::from(!self.bytes().is_empty())
    }
}

impl ContainerBytes for Frames {
    fn from_bytes(mut bytes: Bytes) -> Self {
        let mut length = [0u8; 8];
        length.copy_from_slice(&bytes[..8]);
        let _length = bytes.extract_to(8);
        // The reader of the frames will notice missing bytes.
        let length = u64::from_le_bytes(length).min(bytes.len() as u64) as usize;
        Frames::Received(bytes.extract_to(length))
    }

    fn length_in_bytes(&self) -> usize {
        8 + self.bytes().len().next_multiple_of(8)
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let bytes = self.bytes();
        let padding = bytes.len().next_multiple_of(8) - bytes.len();
        let written = writer
            .write_all(&(bytes.len() as u64).to_le_bytes())
            .and_then(|()| writer.write_all(bytes))
            .and_then(|()| writer.write_all(&[0u8; 8][..padding]));
        // Timely reserved `length_in_bytes` for this: running out of room is a bug here.
        written.expect("timely reserved room for the frames");
    }
}

/// Sends each container of frames to its target, whole.
pub(crate) struct ToTarget;

impl Distributor<Frames> for ToTarget {
    fn partition<T: Clone, P: Push<Message<T, Frames>>>(
        &mut self,
        container: &mut Frames,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        if let Frames::Built { target, .. } = *container {
            Message::push_at(container, stamp.clone(), &mut pushers[target]);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Frames>>>(
        &mut self,
        _stamp: &Stamp<T>,
        _pushers: &mut [P],
    ) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use timely::bytes::arc::BytesMut;

    #[test]
    fn bytes_survive_the_way_through_timely() {
        for length in [1usize, 7, 8, 9, 1000] {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let frames = Frames::Built { target: 3, bytes: bytes.clone() };
            let mut sent = Vec::new();
            frames.into_bytes(&mut sent);
            assert_eq!(sent.len(), frames.length_in_bytes());
            let received = Frames::from_bytes(BytesMut::from(sent).freeze());
            assert_eq!(received.bytes(), &bytes[..]);
            assert_eq!(received.record_count(), 1);
        }
    }
}
