//! Entry: one key of a snapshot, with its value or the fact that it was removed.

use super::SnapshotError;
use crate::codec::{CodecError, push_varint, take_varint};

pub(super) const REMOVE: u8 = 0;
pub(super) const PUT: u8 = 1;

/// One key of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded value; `None` if the key was removed.
    pub value: Option<&'a [u8]>,
}

/// The entries of a snapshot, in the order in which they were written.
///
/// Ends after the first malformed entry, which it returns as an error, or after an error that says
/// that there are more or fewer entries than the header promised.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    index: u64,
    expected: u64,
    ended: bool,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(payload: &'a [u8], expected: u64) -> Self {
        Entries { rest: payload, index: 0, expected, ended: false }
    }
}

#[inline]
pub(crate) fn take_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = take_varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

#[inline]
pub(crate) fn push_bytes(part: &[u8], bytes: &mut Vec<u8>) {
    push_varint(part.len() as u64, bytes);
    bytes.extend_from_slice(part);
}

#[inline]
fn take_entry(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (key, rest) = take_bytes(bytes)?;
    let (&tag, rest) = rest.split_first()?;
    match tag {
        REMOVE => Some((Entry { key, value: None }, rest)),
        PUT => {
            let (value, rest) = take_bytes(rest)?;
            Some((Entry { key, value: Some(value) }, rest))
        }
        _ => None,
    }
}

/// Lets `encode` append to `bytes`, and puts the length of what it appended before it.
#[inline]
pub(crate) fn with_length(
    bytes: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let start = bytes.len();
    bytes.push(0);
    encode(bytes)?;
    let length = bytes.len() - start - 1;
    if length < 0x80 {
        bytes[start] = length as u8;
    } else {
        widen(bytes, start, length);
    }
    Ok(())
}

#[cold]
fn widen(bytes: &mut Vec<u8>, start: usize, length: usize) {
    let mut prefix = Vec::with_capacity(10);
    push_varint(length as u64, &mut prefix);
    bytes.splice(start..=start, prefix);
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, SnapshotError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.rest.is_empty() || self.index == self.expected {
            self.ended = true;
            if self.rest.is_empty() && self.index == self.expected {
                return None;
            }
            let actual = self.index + u64::from(!self.rest.is_empty());
            return Some(Err(SnapshotError::EntryCount { expected: self.expected, actual }));
        }
        match take_entry(self.rest) {
            Some((entry, rest)) => {
                self.rest = rest;
                self.index += 1;
                Some(Ok(entry))
            }
            None => {
                self.ended = true;
                Some(Err(SnapshotError::Entry { index: self.index }))
            }
        }
    }
}
