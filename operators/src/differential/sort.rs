//! Sort: updates into the order of a batch.
//!
//! Sorting numbers takes little more than half the time of sorting updates by comparing their keys. So if the
//! key type has an order-preserving mapping to numbers, the numbers are sorted in place of the updates, each
//! with the position of its update (key-prefix sort: Nyberg et al., "AlphaSort", SIGMOD 1994, section 4).

use std::any::Any;

use super::chunk::{Update, order};

/// Sorts updates; it reuses its memory.
pub(super) struct Sorter<K, V, T, R> {
    /// For each update, the rank of its key, cut to the bits above the update's position.
    ranks: Vec<u64>,
    sorted: Vec<Update<K, V, T, R>>,
}

impl<K, V, T, R> Default for Sorter<K, V, T, R> {
    fn default() -> Self {
        Sorter { ranks: Vec::new(), sorted: Vec::new() }
    }
}

impl<K, V, T, R> Sorter<K, V, T, R>
where
    K: Ord + Clone + 'static,
    V: Ord + Clone,
    T: Ord + Clone,
    R: Clone,
{
    pub(super) fn sort(&mut self, updates: &mut Vec<Update<K, V, T, R>>) {
        // Updates are cloned to move them by their ranks, which is a plain copy if they own nothing.
        if std::mem::needs_drop::<Update<K, V, T, R>>() || !self.rank(updates) {
            return sort_by_key(updates);
        }
        let Sorter { ranks, sorted } = self;
        ranks.sort_unstable();
        let place_bits = place_bits(updates.len());
        let place = |rank: u64| (rank & ((1 << place_bits) - 1)) as usize;
        sorted.extend(ranks.iter().map(|&rank| updates[place(rank)].clone()));
        let mut begin = 0;
        for same in ranks.chunk_by(|rank, next| rank >> place_bits == next >> place_bits) {
            let end = begin + same.len();
            if same.len() > 1 {
                sorted[begin..end].sort_unstable_by(order);
            }
            begin = end;
        }
        std::mem::swap(updates, sorted);
        sorted.clear();
    }

    /// Computes the ranks of updates; returns whether their keys have ranks.
    fn rank(&mut self, updates: &[Update<K, V, T, R>]) -> bool {
        self.ranks.clear();
        let (mut least, mut greatest) = (u64::MAX, 0);
        for ((key, _), _, _) in updates {
            let Some(rank) = rank(key) else { return false };
            (least, greatest) = (least.min(rank), greatest.max(rank));
            self.ranks.push(rank);
        }
        let place_bits = place_bits(updates.len());
        let rank_bits = u64::BITS - greatest.saturating_sub(least).leading_zeros();
        let cut_bits = (rank_bits + place_bits).saturating_sub(u64::BITS);
        for (place, rank) in (0..).zip(&mut self.ranks) {
            *rank = ((*rank - least) >> cut_bits) << place_bits | place;
        }
        true
    }
}

/// The number of bits for the positions of `count` updates.
fn place_bits(count: usize) -> u32 {
    usize::BITS - count.leading_zeros()
}

/// A number for a key, if its type has one: a smaller key never has a greater number.
#[inline(always)]
fn rank<K: 'static>(key: &K) -> Option<u64> {
    const SIGN: u64 = 1 << 63;
    // The type tests are decided at compile time.
    let key = key as &dyn Any;
    if let Some(&number) = key.downcast_ref::<u64>() {
        Some(number)
    } else if let Some(&number) = key.downcast_ref::<u32>() {
        Some(number.into())
    } else if let Some(&number) = key.downcast_ref::<usize>() {
        Some(number as u64)
    } else if let Some(&number) = key.downcast_ref::<i64>() {
        Some(number as u64 ^ SIGN)
    } else if let Some(&number) = key.downcast_ref::<i32>() {
        Some(i64::from(number) as u64 ^ SIGN)
    } else if let Some(&(first, second)) = key.downcast_ref::<(u32, u32)>() {
        Some(u64::from(first) << 32 | u64::from(second))
    } else if let Some(&(first, _)) = key.downcast_ref::<(u64, u64)>() {
        Some(first)
    } else {
        None
    }
}

/// Sorts updates, most of which have distinct keys.
fn sort_by_key<K: Ord, V: Ord, T: Ord, R>(updates: &mut [Update<K, V, T, R>]) {
    updates.sort_unstable_by(|((key, _), _, _), ((other, _), _, _)| key.cmp(other));
    for same in updates.chunk_by_mut(|((key, _), _, _), ((other, _), _, _)| key == other) {
        if same.len() > 1 {
            same.sort_unstable_by(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    fn is_sorted_as_by_order<K: Ord + Clone + Debug + 'static>(keys: Vec<K>) {
        let mut updates: Vec<Update<K, u8, u64, usize>> = keys
            .into_iter()
            .enumerate()
            .map(|(place, key)| ((key, place as u8 % 3), place as u64 % 5, place))
            .collect();
        let mut expected = updates.clone();
        expected.sort_by(order);
        let mut sorter = Sorter::default();
        sorter.sort(&mut updates.clone());
        sorter.sort(&mut updates);
        let by = |updates: &[Update<K, u8, u64, usize>]| -> Vec<_> {
            updates.iter().map(|(data, time, _)| (data.clone(), *time)).collect()
        };
        assert_eq!(by(&updates), by(&expected));
        let places = |updates: &[Update<K, u8, u64, usize>]| {
            let mut places: Vec<usize> = updates.iter().map(|update| update.2).collect();
            places.sort_unstable();
            places
        };
        assert_eq!(places(&updates), places(&expected));
    }

    proptest! {
        #[test]
        fn keys_of_all_types_are_sorted(numbers: Vec<u64>, shift in 0_u32..64) {
            let each = || numbers.iter().map(|number| number >> shift);
            is_sorted_as_by_order(each().collect());
            is_sorted_as_by_order(each().map(|number| u64::MAX - number).collect());
            is_sorted_as_by_order(each().map(|number| number as u32).collect());
            is_sorted_as_by_order(each().map(|number| number as usize).collect());
            is_sorted_as_by_order(each().map(|number| number as i64).collect());
            is_sorted_as_by_order(each().map(|number| -(number as i64 >> 1)).collect());
            is_sorted_as_by_order(each().map(|number| number as i32).collect());
            is_sorted_as_by_order(each().map(|number| (number as u32 % 4, number as u32)).collect());
            is_sorted_as_by_order(each().map(|number| (number % 4, number)).collect());
            is_sorted_as_by_order(each().map(|number| (number as u8, number)).collect());
            is_sorted_as_by_order(each().map(|number| number.to_string()).collect());
        }
    }
}
