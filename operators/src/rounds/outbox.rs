//! Outbox: frames for the backups of a worker's partitions, with a buffer for each target.

use std::collections::BTreeMap;

use crate::fence::Fence;
use crate::rounds::frames::Frames;
use crate::rounds::pieces::send_frames;

/// Frames are sent once a buffer holds this much.
const FULL_BYTES: usize = 256 << 10;

/// The frames of one operator that are not sent yet.
pub(crate) struct Outbox {
    fence: Fence,
    buffers: BTreeMap<usize, Vec<u8>>,
}

impl Outbox {
    pub(crate) fn new(fence: &Fence) -> Self {
        Outbox { fence: fence.clone(), buffers: BTreeMap::new() }
    }

    /// Lets `write` append frames once for all of `targets`; if there are none, it is not called.
    ///
    /// Returns how many bytes were written. Full buffers are sent.
    pub(crate) fn put<E>(
        &mut self,
        targets: impl IntoIterator<Item = usize>,
        send: &mut dyn FnMut(Frames),
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut targets = targets.into_iter().peekable();
        let Some(first) = targets.next() else { return Ok(0) };
        let buffer = self.buffers.entry(first).or_default();
        let begin = buffer.len();
        write(buffer)?;
        let written = buffer.len() - begin;
        if written > 0 && targets.peek().is_some() {
            let frame = buffer[begin..].to_vec();
            for target in targets {
                self.buffers.entry(target).or_default().extend_from_slice(&frame);
                self.send_full(target, send);
            }
        }
        self.send_full(first, send);
        Ok(written)
    }

    /// Sends everything that is left.
    pub(crate) fn flush(&mut self, send: &mut dyn FnMut(Frames)) {
        for (&target, buffer) in &mut self.buffers {
            if !buffer.is_empty() {
                send_frames(&self.fence, target, std::mem::take(buffer), send);
            }
        }
    }

    fn send_full(&mut self, target: usize, send: &mut dyn FnMut(Frames)) {
        if let Some(buffer) = self.buffers.get_mut(&target)
            && buffer.len() >= FULL_BYTES
        {
            send_frames(&self.fence, target, std::mem::take(buffer), send);
        }
    }
}
