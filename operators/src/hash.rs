//! Key hash: the stable mapping from an encoded key to its partition.
//!
//! INVARIANT: for given key bytes, hasher and number of partitions, the partition never changes: not
//! across processes, machines or versions. State on disk and in other nodes depends on it.
//!
//! Disjoint parts of a hash have different uses: its top bits choose the partition, the lowest 32 bits choose
//! the bucket of a table, and the bits between them are the tag in the table's control bytes.

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::ids::PartitionId;

/// How encoded keys are hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyHasher {
    /// rapidhash v3, whose output is guaranteed stable: 2 to 4 ns for a short key.
    #[default]
    Rapid,
    /// The first eight bytes of SHA-1, big endian: about nine times slower. Colliding keys are harder to find,
    /// but not impossible, since SHA-1 is broken and is used without a secret.
    Sha1,
}

impl KeyHasher {
    /// Returns the hash of a key in its encoded form.
    #[inline]
    pub fn hash(self, encoded_key: &[u8]) -> u64 {
        match self {
            KeyHasher::Rapid => rapidhash::v3::rapidhash_v3(encoded_key),
            KeyHasher::Sha1 => {
                let digest = Sha1::digest(encoded_key);
                digest[..8].iter().fold(0, |hash, &byte| hash << 8 | u64::from(byte))
            }
        }
    }
}

/// Returns the partition of a hash among `partitions`, which must not be zero.
///
/// Multiply-shift divides the unit interval into equal parts. With a power of two these are the top bits.
#[inline]
pub fn partition_of(hash: u64, partitions: u32) -> PartitionId {
    assert!(partitions > 0, "a key space needs at least one partition");
    PartitionId(((u128::from(hash) * u128::from(partitions)) >> 64) as u32)
}

/// The partition of shard `index` of `count`: evenly spread, and independent of the view.
pub(crate) fn partition_of_shard(index: usize, count: usize, partitions: u32) -> PartitionId {
    let partitions = partitions as usize;
    let partition =
        if count >= partitions { index % partitions } else { index * partitions / count };
    PartitionId(partition as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, existing state would be read under the wrong partitions: do not edit the values.
    #[test]
    fn the_mapping_is_pinned() {
        let golden: &[(&[u8], u64, u64, u32, u32)] = &[
            (b"", 0x0338_dc4b_e2ce_cdae, 0xda39_a3ee_5e6b_4b0d, 3, 1),
            (b"a", 0x599f_47df_33a2_e1eb, 0x86f7_e437_faa5_a7fc, 89, 35),
            (b"ringfence", 0xbaf2_fb54_08a1_40f8, 0x7c2e_1965_169e_a185, 186, 73),
            (
                b"\x80\x80\x80\x80\x10 a longer key, past every short path of the hash",
                0x19e4_c43b_3baf_9b53,
                0xd28c_8f88_bb39_c5a8,
                25,
                10,
            ),
        ];
        for &(key, rapid, sha1, of_256, of_100) in golden {
            assert_eq!(KeyHasher::Rapid.hash(key), rapid, "{key:?}");
            assert_eq!(KeyHasher::Sha1.hash(key), sha1, "{key:?}");
            assert_eq!(partition_of(rapid, 256), PartitionId(of_256), "{key:?}");
            assert_eq!(partition_of(rapid, 100), PartitionId(of_100), "{key:?}");
        }
        assert_eq!(golden.len(), 4);
    }

    #[test]
    fn a_power_of_two_takes_the_top_bits() {
        for hash in [0, 1, u64::MAX, 0x1234_5678_9abc_def0, 1 << 56] {
            assert_eq!(partition_of(hash, 256).0, (hash >> 56) as u32);
            assert_eq!(partition_of(hash, 1).0, 0);
        }
    }

    #[test]
    fn every_partition_gets_its_share() {
        let mut counts = [0_u32; 48];
        for key in 0..48_000_u64 {
            counts[partition_of(KeyHasher::Rapid.hash(&key.to_le_bytes()), 48).0 as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }

    #[test]
    fn shards_are_spread_evenly() {
        for (count, partitions) in [(3, 256), (256, 256), (1000, 256), (1, 7), (5, 1)] {
            let mut load = vec![0usize; partitions as usize];
            for index in 0..count {
                load[partition_of_shard(index, count, partitions).0 as usize] += 1;
            }
            let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
            assert!(most - least <= 1, "{count} shards over {partitions}: {least} to {most}");
        }
    }
}
