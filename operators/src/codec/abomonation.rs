//! Abomonation: plain old data as its bytes in memory, for state that never leaves one build.
//!
//! **When it may be used.** The crate `abomonation` is unsound by its own account (RUSTSEC-2021-0120): it
//! reads a value's memory as bytes, including padding, and reinterprets bytes as a value. This codec reduces
//! the risks, and the caller must accept what remains:
//!
//! - Only `Copy` types are accepted. They have nothing on the heap, so no pointer is ever read back.
//! - Each encoding begins with a fingerprint of the executable and of the type's name, size and
//!   alignment, and with a digest of the bytes. Both are checked before `abomonation` sees a byte,
//!   so that garbage, other types and the bytes of other builds are errors. The digest protects against
//!   accidents, not against an attacker: authenticate what comes from a network.
//! - Values are decoded from an aligned copy.
//! - Strictly speaking, encoding a type with padding is undefined behaviour, and its bytes are not a function
//!   of the value. Never use such a type as a key, and prefer types without padding.
//! - Never use it for a durable tier that another build must be able to read, because another build cannot
//!   read it.
#![allow(unsafe_code)]

use std::io::Read;
use std::mem::{MaybeUninit, align_of, size_of};
use std::sync::OnceLock;

use ::abomonation::Abomonation as Entomb;
use rapidhash::v3::rapidhash_v3;

use super::{Codec, CodecError};

/// Bytes before the value: the fingerprint of build and type, then the digest.
const HEADER_BYTES: usize = 16;

/// The codec for plain old data that stays within one build. Read the module's documentation first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abomonation;

/// Returns the hash of this executable's file, read once per process; `None` if it is unreadable.
fn build() -> Option<u64> {
    static BUILD: OnceLock<Option<u64>> = OnceLock::new();
    *BUILD.get_or_init(|| {
        // On Linux this opens the running file even if another file has taken its path since.
        let mut file = std::fs::File::open("/proc/self/exe")
            .or_else(|_| std::fs::File::open(std::env::current_exe()?))
            .ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        Some(rapidhash_v3(&bytes))
    })
}

/// Returns the fingerprint of this build and of `V`.
fn build_and_type<V: 'static>() -> Option<u64> {
    let shape = format!("{} {} {}", std::any::type_name::<V>(), size_of::<V>(), align_of::<V>());
    Some(rapidhash_v3(shape.as_bytes()) ^ build()?.rotate_left(1))
}

fn no_build<V>(cause: &str) -> CodecError {
    CodecError::Encode {
        format: "abomonation",
        type_name: std::any::type_name::<V>(),
        cause: cause.to_owned(),
    }
}

impl<V: Entomb + Copy + 'static> Codec<V> for Abomonation {
    const FORMAT: &'static str = "abomonation";
    const VERSION: u32 = 1;

    fn encode(value: &V, bytes: &mut Vec<u8>) -> Result<(), CodecError> {
        let fingerprint = build_and_type::<V>()
            .ok_or_else(|| no_build::<V>("this executable's file cannot be read"))?;
        let start = bytes.len();
        bytes.extend_from_slice(&fingerprint.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        // SAFETY: `value` is a live `V`, and `V: Copy` owns nothing elsewhere. Padding is the
        // documented exception that the caller accepts by choosing this codec.
        unsafe { ::abomonation::encode(value, bytes) }
            .map_err(|error| no_build::<V>(&error.to_string()))?;
        let value_bytes = bytes.len() - start - HEADER_BYTES;
        if value_bytes != size_of::<V>() {
            return Err(no_build::<V>("its encoding holds more than the value itself"));
        }
        let digest = rapidhash_v3(&bytes[start + HEADER_BYTES..]);
        bytes[start + 8..start + HEADER_BYTES].copy_from_slice(&digest.to_le_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<V, CodecError> {
        let type_name = std::any::type_name::<V>();
        let length = HEADER_BYTES + size_of::<V>();
        if bytes.len() != length {
            return Err(CodecError::Length { type_name, expected: length, actual: bytes.len() });
        }
        let word = |at: usize| {
            bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
        };
        let value_bytes = &bytes[HEADER_BYTES..];
        let (expected, actual) = (word(8), rapidhash_v3(value_bytes));
        if expected != actual {
            return Err(CodecError::Digest { type_name, expected, actual });
        }
        let (expected, actual) = (build_and_type::<V>(), word(0));
        if expected != Some(actual) {
            return Err(CodecError::OtherBuild {
                type_name,
                expected: expected.unwrap_or(0),
                actual,
            });
        }
        let mut buffer = MaybeUninit::<V>::uninit();
        // SAFETY: `buffer` is aligned and exactly as long as `value_bytes`, and is filled before it
        // is read. The checks above say that this build wrote these bytes from a valid `V`, which is
        // `Copy`: no part of it points anywhere.
        unsafe {
            std::ptr::copy_nonoverlapping(
                value_bytes.as_ptr(),
                buffer.as_mut_ptr().cast::<u8>(),
                size_of::<V>(),
            );
            let aligned =
                std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<u8>(), size_of::<V>());
            // `abomonation::decode` indexes byte 0 without a check.
            if aligned.is_empty() {
                return Ok(buffer.assume_init());
            }
            match ::abomonation::decode::<V>(aligned) {
                Some((value, [])) => Ok(*value),
                _ => Err(CodecError::Decode {
                    format: <Self as Codec<V>>::FORMAT,
                    type_name,
                    length,
                    cause: "it asks for more bytes than the value has".to_owned(),
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded<V: Entomb + Copy + 'static>(value: &V) -> Vec<u8> {
        let mut bytes = Vec::new();
        Abomonation::encode(value, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn plain_data_survives_a_round_trip_at_any_alignment() {
        let value = (3_u64, -4_i64);
        for offset in 0..8 {
            let mut bytes = vec![0; offset];
            Abomonation::encode(&value, &mut bytes).unwrap();
            let back: (u64, i64) = Abomonation::decode(&bytes[offset..]).unwrap();
            assert_eq!(back, value);
        }
        let nothing: () = Abomonation::decode(&encoded(&())).unwrap();
        assert_eq!(nothing, ());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let bytes = encoded(&0x0123_4567_89ab_cdef_u64);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(<Abomonation as Codec<u64>>::decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(<Abomonation as Codec<u64>>::decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn another_type_of_the_same_size_is_refused() {
        let error = <Abomonation as Codec<i64>>::decode(&encoded(&1_u64)).unwrap_err();
        assert!(matches!(error, CodecError::OtherBuild { .. }), "{error}");
    }

    #[test]
    fn bytes_of_another_build_are_refused() {
        let mut bytes = encoded(&true);
        bytes[0] ^= 0xff;
        let error = <Abomonation as Codec<bool>>::decode(&bytes).unwrap_err();
        assert!(matches!(error, CodecError::OtherBuild { .. }), "{error}");
    }
}
