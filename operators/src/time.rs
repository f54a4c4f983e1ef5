//! The time of a job: what a timestamp must be so that epochs can be cut from it.

use std::time::Duration;

use timely::order::TotalOrder;
use timely::progress::Timestamp;

use crate::ids::Epoch;

/// A totally ordered timestamp that names epochs.
///
/// The mapping keeps the order and is one to one for every time a job uses: epoch `e` is complete
/// exactly when the frontier has passed `from_epoch(e)`.
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
    note = "protected operators need a totally ordered timestamp: an integer or `Duration`, or implement `EpochTime`"
)]
pub trait EpochTime: Timestamp + TotalOrder {
    /// The epoch that this time belongs to.
    fn to_epoch(&self) -> Epoch;
    /// The first time of an epoch; the greatest time where the type cannot count that far.
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
            // The bias keeps the order: the least time is epoch 0.
            fn to_epoch(&self) -> Epoch {
                Epoch((*self as i64 as u64) ^ (1 << 63))
            }
            fn from_epoch(epoch: Epoch) -> Self {
                let time = (epoch.0 ^ (1 << 63)) as i64;
                time.clamp(<$time>::MIN as i64, <$time>::MAX as i64) as $time
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

#[cfg(test)]
mod tests {
    use super::*;

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
