//! Codec: how a key or a value is encoded as bytes and decoded.
//!
//! Equal keys must have equal bytes: replicas look keys up by their encoded form. Formats carry a
//! name and a version, which every snapshot holds (as [`fingerprint`]), so that bytes of one format
//! are never read as another.

use std::any::Any;

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "abomonation")]
pub mod abomonation;

/// An encoding of values of type `V`.
pub trait Codec<V>: 'static {
    /// The name of the format, as errors show it.
    const FORMAT: &'static str;
    /// The version of the format: raised whenever the bytes of some value change.
    const VERSION: u32;

    /// Appends the encoding of `value` to `bytes`.
    ///
    /// After an error, `bytes` may have a partial encoding at its end; the earlier contents are kept.
    fn encode(value: &V, bytes: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Returns the value that `bytes` encode. All of the bytes must belong to it.
    ///
    /// Bytes that encode no value result in an error, never in a panic.
    fn decode(bytes: &[u8]) -> Result<V, CodecError>;
}

/// A value that could not be encoded, or bytes that encode no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value's own `Serialize` failed, or the value has no encoding in this format.
    #[error("{format} cannot encode a {type_name}: {cause}")]
    Encode {
        /// The format.
        format: &'static str,
        /// The type of the value.
        type_name: &'static str,
        /// What the format said.
        cause: String,
    },
    /// The bytes encode no value of this type.
    #[error("{format} cannot decode a {type_name} from {length} bytes: {cause}")]
    Decode {
        /// The format.
        format: &'static str,
        /// The type of the value.
        type_name: &'static str,
        /// How many bytes there were.
        length: usize,
        /// What the format said.
        cause: String,
    },
    /// Bytes were left over after a value.
    #[error("{remaining} bytes are left over after an encoded {type_name}")]
    Trailing {
        /// The type of the value.
        type_name: &'static str,
        /// How many bytes were left.
        remaining: usize,
    },
    /// An encoding of fixed length has a different length.
    #[error("an encoded {type_name} has {expected} bytes, not {actual}")]
    Length {
        /// The type of the value.
        type_name: &'static str,
        /// The length it must have.
        expected: usize,
        /// The length it has.
        actual: usize,
    },
    /// The digest of the bytes is not the one written with them.
    #[error(
        "the digest of an encoded {type_name} is {actual:016x}, but {expected:016x} was written with it"
    )]
    Digest {
        /// The type of the value.
        type_name: &'static str,
        /// The digest written with the bytes.
        expected: u64,
        /// The digest of the bytes.
        actual: u64,
    },
    /// The bytes were written by another executable, or for another type.
    #[error("a {type_name} was encoded by build {actual:016x}, but this is build {expected:016x}")]
    OtherBuild {
        /// The type of the value.
        type_name: &'static str,
        /// The fingerprint of this build and type.
        expected: u64,
        /// The fingerprint in the bytes.
        actual: u64,
    },
}

/// Returns the fingerprint of a table's encoding: formats, versions, and the types of key and value.
///
/// Two tables of equal fingerprints can read each other's snapshots. Type names are those of
/// [`std::any::type_name`]: renaming or moving a type changes the fingerprint.
pub fn fingerprint<K: 'static, V: 'static, C: Codec<K> + Codec<V>>() -> u32 {
    fingerprint_of::<K, V, C, C>()
}

/// As [`fingerprint`], if keys and values have separate codecs.
pub fn fingerprint_of<K: 'static, V: 'static, C: Codec<K>, W: Codec<V>>() -> u32 {
    let text = encoding_of::<K, V, C, W>();
    (rapidhash::v3::rapidhash_v3(text.as_bytes()) >> 32) as u32
}

/// The description of a table's encoding, from which its fingerprint is computed.
pub(crate) fn encoding_of<K: 'static, V: 'static, C: Codec<K>, W: Codec<V>>() -> String {
    format!(
        "{} {} {} / {} {} {}",
        C::FORMAT,
        C::VERSION,
        std::any::type_name::<K>(),
        W::FORMAT,
        W::VERSION,
        std::any::type_name::<V>(),
    )
}

/// The default codec: serde, in the documented and stable format of `postcard` 1.
///
/// Integers take as few bytes as their value needs. Maps and sets of the standard library with a
/// random order (`HashMap`) may be values, but not parts of keys: equal keys must have equal bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postcard;

/// Appends to what is already in a vector.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends `value` in groups of seven bits, lowest first: postcard's form of an integer.
#[inline]
pub(crate) fn push_varint(value: u64, bytes: &mut Vec<u8>) {
    if value < 0x80 {
        bytes.push(value as u8);
    } else if value < 1 << 56 {
        // Spread the groups over eight bytes by halves, without a branch per group.
        let spread = (value & 0x0fff_ffff) | (value & 0x00ff_ffff_f000_0000) << 4;
        let spread = (spread & 0x0000_3fff_0000_3fff) | (spread & 0x0fff_c000_0fff_c000) << 2;
        let spread = (spread & 0x007f_007f_007f_007f) | (spread & 0x3f80_3f80_3f80_3f80) << 1;
        let length = (70 - value.leading_zeros()) / 7;
        let more = 0x8080_8080_8080_8080 & ((1 << (8 * (length - 1))) - 1);
        // A copy of fixed length and a cut are cheaper than a copy of unknown length.
        let end = bytes.len() + length as usize;
        bytes.extend_from_slice(&(spread | more).to_le_bytes());
        bytes.truncate(end);
    } else {
        push_long_varint(value, bytes);
    }
}

fn push_long_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The most bytes that a `u32` takes.
const U32_BYTES_MAX: usize = 5;

/// Reads an integer as [`push_varint`] writes it, and returns it with what follows.
#[inline]
pub(crate) fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((u64::from(first), rest));
    }
    let Some(word) = bytes.first_chunk().map(|word| u64::from_le_bytes(*word)) else {
        return take_long_varint(bytes);
    };
    let last_bits = !word & 0x8080_8080_8080_8080;
    if last_bits == 0 {
        return take_long_varint(bytes);
    }
    // Bring the groups together by halves, without a branch per group.
    let length = last_bits.trailing_zeros() / 8 + 1;
    let groups = word & 0x7f7f_7f7f_7f7f_7f7f & (u64::MAX >> (64 - 8 * length));
    let pairs = (groups & 0x007f_007f_007f_007f) | (groups & 0x7f00_7f00_7f00_7f00) >> 1;
    let fours = (pairs & 0x0000_3fff_0000_3fff) | (pairs & 0x3fff_0000_3fff_0000) >> 2;
    let value = (fours & 0x0fff_ffff) | (fours & 0x0fff_ffff_0000_0000) >> 4;
    Some((value, &bytes[length as usize..]))
}

fn take_long_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        let shift = 7 * index as u32;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

impl Postcard {
    /// Reads the value at the beginning of `bytes`, and moves them on to what follows it.
    #[inline(always)]
    pub(crate) fn take<V>(bytes: &mut &[u8]) -> Result<V, CodecError>
    where
        V: Serialize + DeserializeOwned + 'static,
    {
        // Errors are large: where a number is read by hand, no error is passed through memory.
        match Self::take_by_hand(bytes) {
            Some(number) => Ok(number),
            None => Self::take_any(bytes),
        }
    }

    fn take_any<V>(bytes: &mut &[u8]) -> Result<V, CodecError>
    where
        V: Serialize + DeserializeOwned + 'static,
    {
        match postcard::take_from_bytes(bytes) {
            Ok((value, rest)) => {
                *bytes = rest;
                Ok(value)
            }
            Err(error) => Err(CodecError::Decode {
                format: <Self as Codec<V>>::FORMAT,
                type_name: std::any::type_name::<V>(),
                length: bytes.len(),
                cause: error.to_string(),
            }),
        }
    }

    /// Reads a value of one of the most common types by hand; `None` if it is of another type or malformed.
    #[inline(always)]
    fn take_by_hand<V: 'static>(bytes: &mut &[u8]) -> Option<V> {
        // The tests of type are decided at compile time.
        let mut value = None::<V>;
        let any = &mut value as &mut dyn Any;
        if let Some(nothing) = any.downcast_mut::<Option<()>>() {
            *nothing = Some(());
            return value;
        }
        let signed = |number: u64| (number >> 1) as i64 ^ -((number & 1) as i64);
        let (number, rest) = take_varint(bytes)?;
        if let Some(value) = any.downcast_mut::<Option<u64>>() {
            *value = Some(number);
        } else if let Some(value) = any.downcast_mut::<Option<u32>>() {
            // Longer forms of small numbers are malformed.
            let is_short = bytes.len() - rest.len() <= U32_BYTES_MAX;
            *value = Some(number.try_into().ok().filter(|_| is_short)?);
        } else if let Some(value) = any.downcast_mut::<Option<i64>>() {
            *value = Some(signed(number));
        } else if let Some(value) = any.downcast_mut::<Option<isize>>() {
            *value = Some(signed(number) as isize);
        } else {
            return None;
        }
        *bytes = rest;
        value
    }
}

impl<V: Serialize + DeserializeOwned + 'static> Codec<V> for Postcard {
    const FORMAT: &'static str = "postcard";
    const VERSION: u32 = 1;

    #[inline]
    fn encode(value: &V, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        // The most common types are encoded by hand: the same bytes, in a third of the time. The type tests
        // are decided at compile time.
        let any = value as &dyn Any;
        if let Some(&number) = any.downcast_ref::<u64>() {
            push_varint(number, bytes);
            return Ok(());
        }
        if let Some(&number) = any.downcast_ref::<u32>() {
            push_varint(number.into(), bytes);
            return Ok(());
        }
        let signed = any.downcast_ref::<i64>().copied();
        if let Some(number) = signed.or(any.downcast_ref::<isize>().map(|&number| number as i64)) {
            push_varint((number << 1 ^ number >> 63) as u64, bytes);
            return Ok(());
        }
        if let Some(text) = any.downcast_ref::<String>() {
            push_varint(text.len() as u64, bytes);
            bytes.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        postcard::serialize_with_flavor(value, Append(bytes)).map_err(|error| CodecError::Encode {
            format: <Self as Codec<V>>::FORMAT,
            type_name: std::any::type_name::<V>(),
            cause: error.to_string(),
        })
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        let mut rest = bytes;
        let value = Postcard::take(&mut rest)?;
        if rest.is_empty() {
            Ok(value)
        } else {
            let type_name = std::any::type_name::<V>();
            Err(CodecError::Trailing { type_name, remaining: rest.len() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Shape = (u64, String, Option<i32>, Vec<(u8, bool)>, BTreeMap<u16, String>);

    fn bytes_of<V: Serialize + DeserializeOwned + 'static>(value: &V) -> Vec<u8> {
        let mut bytes = vec![7];
        Postcard::encode(value, &mut bytes).unwrap();
        assert_eq!(bytes[0], 7);
        bytes.split_off(1)
    }

    fn reads_as_postcard<V>(bytes: &[u8])
    where
        V: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static,
    {
        let mut rest = bytes;
        match postcard::take_from_bytes::<V>(bytes) {
            Ok(read) => assert_eq!((Postcard::take(&mut rest), rest), (Ok(read.0), read.1)),
            Err(_) => assert!(Postcard::take::<V>(&mut rest).is_err() && rest == bytes),
        }
    }

    proptest! {
        #[test]
        fn a_value_survives_a_round_trip(value: (u64, String, Option<i32>, Vec<(u8, bool)>)) {
            let bytes = bytes_of(&value);
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&value).unwrap());
            let back: (u64, String, Option<i32>, Vec<(u8, bool)>) = Postcard::decode(&bytes).unwrap();
            prop_assert_eq!(back, value);
        }

        #[test]
        fn the_fast_paths_write_what_postcard_writes(number: u64, shift in 0_u32..64, text: String) {
            let number = number >> shift;
            let bytes = bytes_of(&number);
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&number).unwrap());
            prop_assert_eq!(take_varint(&bytes), Some((number, &[][..])));
            let longer = [&bytes[..], &[0xff; 9]].concat();
            prop_assert_eq!(take_varint(&longer), Some((number, &[0xff; 9][..])));
            prop_assert_eq!(bytes_of(&text), postcard::to_stdvec(&text).unwrap());
        }

        #[test]
        fn the_fast_paths_read_what_postcard_reads(bytes: Vec<u8>, number: u64, shift in 0_u32..64) {
            let bytes = [bytes_of(&(number >> shift)), bytes].concat();
            for begin in 0..bytes.len() {
                reads_as_postcard::<u64>(&bytes[begin..]);
                reads_as_postcard::<i64>(&bytes[begin..]);
                reads_as_postcard::<isize>(&bytes[begin..]);
                reads_as_postcard::<u32>(&bytes[begin..]);
            }
        }

        #[test]
        fn garbage_gives_an_error_or_a_value_but_no_panic(bytes: Vec<u8>) {
            let _ = <Postcard as Codec<Shape>>::decode(&bytes);
            let _ = <Postcard as Codec<String>>::decode(&bytes);
            let _ = <Postcard as Codec<u64>>::decode(&bytes);
            let _ = take_varint(&bytes);
        }
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let error = <Postcard as Codec<u8>>::decode(&[1, 2, 3]).unwrap_err();
        assert_eq!(error, CodecError::Trailing { type_name: "u8", remaining: 2 });
    }

    #[test]
    fn fingerprints_tell_types_and_formats_apart() {
        let same = fingerprint::<u64, u64, Postcard>();
        assert_eq!(same, fingerprint::<u64, u64, Postcard>());
        assert_ne!(same, fingerprint::<u64, i64, Postcard>());
        assert_ne!(same, fingerprint::<i64, u64, Postcard>());
    }
}
