//! The time of a job: what a timestamp must provide so that it can be divided into epochs.

use std::time::Duration;

use timely::order::{Product, TotalOrder};
use timely::progress::Timestamp;
use timely::progress::frontier::MutableAntichain;

use crate::ids::Epoch;

/// A totally ordered timestamp that names epochs.
///
/// The mapping keeps the order and is one to one for every time a job uses: epoch `e` is complete
/// exactly when the frontier has passed `from_epoch(e)`. Only the last two numbers, `u64::MAX - 1` and
/// `u64::MAX`, are a single epoch to protected operators: the end, which is complete when the dataflow is.
///
/// ```
/// use ringfence_operators::ids::Epoch;
/// use ringfence_operators::time::EpochTime;
///
/// assert_eq!(7u64.to_epoch(), Epoch(7));
/// assert_eq!(u32::from_epoch(Epoch(7)), 7);
/// assert!((-1i64).to_epoch() < 0i64.to_epoch());
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name epochs",
    note = "protected operators need a totally ordered timestamp: an integer or `Duration`, or implement `EpochTime`",
    note = "in an iterative scope there are no sources, sinks or timers: leave the scope first"
)]
pub trait EpochTime: Timestamp + TotalOrder {
    /// The epoch that this time belongs to.
    fn to_epoch(&self) -> Epoch;
    /// The first time of an epoch, or the greatest time if the type cannot count that far.
    fn from_epoch(epoch: Epoch) -> Self;
}

macro_rules! unsigned {
    ($($time:ty),*) => { $(
        impl EpochTime for $time {
            fn to_epoch(&self) -> Epoch {
                Epoch(*self as u64)
            }
            fn from_epoch(epoch: Epoch) -> Self {
                <$time>::try_from(epoch.0).unwrap_or(<$time>::MAX)
            }
        }
    )* };
}

unsigned!(u8, u16, u32, u64, usize);

macro_rules! signed {
    ($($time:ty),*) => { $(
        impl EpochTime for $time {
            // The bias keeps the order: the least time of each type is epoch 0.
            fn to_epoch(&self) -> Epoch {
                Epoch((*self as i64).wrapping_sub(<$time>::MIN as i64) as u64)
            }
            fn from_epoch(epoch: Epoch) -> Self {
                let last = <$time>::MAX.to_epoch();
                (<$time>::MIN as i64).wrapping_add(epoch.min(last).0 as i64) as $time
            }
        }
    )* };
}

signed!(i8, i16, i32, i64, isize);

impl EpochTime for Duration {
    fn to_epoch(&self) -> Epoch {
        Epoch(u64::try_from(self.as_nanos()).unwrap_or(u64::MAX))
    }
    fn from_epoch(epoch: Epoch) -> Self {
        Duration::from_nanos(epoch.0)
    }
}

/// A timestamp whose outermost part names epochs. It belongs to a scope of any depth.
///
/// In an iterative scope, times are pairs of the surrounding scope's time and a round, and are only partially
/// ordered. The outermost part determines the epoch: everything inside a loop belongs to the epoch of the
/// record that started it, and an epoch is complete once the loop has come to rest.
///
/// ```
/// use ringfence_operators::ids::Epoch;
/// use ringfence_operators::time::FencedTime;
/// use timely::order::Product;
///
/// assert_eq!(7u64.epoch(), Epoch(7));
/// assert_eq!(Product::new(7u64, 3u32).epoch(), Epoch(7));
/// assert_eq!(Product::<u64, u32>::first_of(Epoch(7)), Product::new(7, 0));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name epochs",
    note = "protected operators need a totally ordered timestamp (an integer or `Duration`, or implement `EpochTime`), or timely's `Product` of one in iterative scopes"
)]
pub trait FencedTime: Timestamp {
    /// The time of the outermost scope.
    type Outer: EpochTime;

    /// Whether one epoch has many times, as in an iterative scope.
    ///
    /// There, an operator must not hold a capability for an epoch as such: records that come back to it round
    /// a loop would wait for that capability forever.
    const NESTED: bool;

    /// The part of this time that the outermost scope sees.
    fn outer(&self) -> Self::Outer;

    /// The least time with this outer part.
    fn from_outer(outer: Self::Outer) -> Self;

    /// The epoch that this time belongs to.
    ///
    /// All times from [`Epoch::END`] on belong to that epoch, which is complete when no more input can come.
    fn epoch(&self) -> Epoch {
        self.outer().to_epoch().min(Epoch::END)
    }

    /// The least time of an epoch.
    fn first_of(epoch: Epoch) -> Self {
        Self::from_outer(Self::Outer::from_epoch(epoch))
    }
}

impl<T: EpochTime> FencedTime for T {
    type Outer = T;

    const NESTED: bool = false;

    fn outer(&self) -> T {
        self.clone()
    }

    fn from_outer(outer: T) -> T {
        outer
    }
}

impl<TOuter: FencedTime, TInner: Timestamp> FencedTime for Product<TOuter, TInner> {
    type Outer = TOuter::Outer;

    const NESTED: bool = true;

    fn outer(&self) -> TOuter::Outer {
        self.outer.outer()
    }

    fn from_outer(outer: TOuter::Outer) -> Self {
        Product::new(TOuter::from_outer(outer), TInner::minimum())
    }
}

/// The first epoch for which something may still come; `None` if nothing can come any more.
pub(crate) fn reached<T: FencedTime>(frontier: &MutableAntichain<T>) -> Option<Epoch> {
    frontier.frontier().iter().map(T::epoch).min()
}

/// The last epoch that `frontier` has passed; [`Epoch::END`] if nothing can come any more.
pub(crate) fn passed<T: FencedTime>(frontier: &MutableAntichain<T>) -> Option<Epoch> {
    Epoch::before(reached(frontier))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_loop_the_outermost_part_names_the_epoch() {
        type Once = Product<u32, u64>;
        type Twice = Product<Once, u8>;
        let time = Twice::new(Once::new(5, 17), 200);
        assert_eq!((time.epoch(), FencedTime::outer(&time)), (Epoch(5), 5));
        assert_eq!(Twice::from_outer(5), Twice::new(Once::new(5, 0), 0));
        assert_eq!(Twice::first_of(Epoch(6)), Twice::new(Once::new(6, 0), 0));
        assert_eq!([Twice::NESTED, Once::NESTED, u64::NESTED], [true, true, false]);
        assert_eq!(FencedTime::outer(&Duration::from_secs(3)), Duration::from_secs(3));
    }

    #[test]
    fn a_frontier_is_as_far_as_its_least_epoch() {
        let mut frontier = MutableAntichain::<Product<u64, u64>>::new();
        assert_eq!((reached(&frontier), passed(&frontier)), (None, Some(Epoch::END)));
        frontier.update_iter([(Product::new(7, 1), 1), (Product::new(5, 9), 1)]);
        assert_eq!((reached(&frontier), passed(&frontier)), (Some(Epoch(5)), Some(Epoch(4))));
        frontier.update_iter([(Product::new(5, 9), -1), (Product::new(0, 20), 1)]);
        assert_eq!((reached(&frontier), passed(&frontier)), (Some(Epoch(0)), None));
    }

    #[test]
    fn epochs_keep_the_order_of_times() {
        let signed = [i64::MIN, -5, -1, 0, 1, i64::MAX];
        for pair in signed.windows(2) {
            assert!(pair[0].to_epoch() < pair[1].to_epoch());
        }
        for time in signed {
            assert_eq!(i64::from_epoch(time.to_epoch()), time);
        }
        assert_eq!(i32::from_epoch((-3i32).to_epoch()), -3);
        assert_eq!(u32::from_epoch(Epoch(u64::MAX)), u32::MAX);
        let time = Duration::from_millis(17);
        assert_eq!(Duration::from_epoch(time.to_epoch()), time);
    }
}

#[cfg(test)]
mod edges_tests;
