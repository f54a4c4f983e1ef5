//! Numbers that look random and are the same each time: a function of seed and place.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

/// The number at `place` of the sequence of `seed`: the finaliser of splitmix64 (Steele, Lea and
/// Flood, OOPSLA 2014), which maps neighbours far apart.
pub fn random(seed: u64, place: u64) -> u64 {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A hash that is the same in every process: what an `Exchange` needs.
pub fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::random;

    #[test]
    fn a_place_has_one_number_and_places_differ() {
        let numbers: Vec<u64> = (0..1000).map(|place| random(7, place)).collect();
        assert_eq!(numbers, (0..1000).map(|place| random(7, place)).collect::<Vec<_>>());
        let mut distinct = numbers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), numbers.len());
        assert_ne!(numbers[..10], (0..10).map(|place| random(8, place)).collect::<Vec<_>>()[..]);
    }
}
