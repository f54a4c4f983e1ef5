//! Requirements on protected keys, values and records.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that can be copied, moved to another thread, and encoded by serde.
///
/// Implemented for every type that qualifies; there is nothing to implement by hand.
///
/// ```
/// use ringfence_operators::data::Data;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Bid {
///     auction: u64,
///     price: u64,
/// }
///
/// fn can_be_protected<T: Data>() {}
/// can_be_protected::<Bid>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be protected: it has no encoding, or cannot be copied or sent",
    note = "records, keys and state of protected operators are `Clone`, `Send` and serializable: \
            `#[derive(Clone, serde::Serialize, serde::Deserialize)]`"
)]
pub trait Data: Clone + Send + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Send + Serialize + DeserializeOwned + 'static> Data for T {}

/// A value that can be copied and moved to another thread: state whose encoding is chosen separately, as a
/// [`Codec`](crate::codec::Codec).
///
/// Implemented for every type that qualifies; there is nothing to implement by hand.
pub trait Plain: Clone + Send + 'static {}

impl<T: Clone + Send + 'static> Plain for T {}

/// A value that can be a protected key.
///
/// Implemented for every type that qualifies; there is nothing to implement by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key",
    note = "a key is found again by its encoding and by `Eq`: derive `Clone, PartialEq, Eq, \
            serde::Serialize, serde::Deserialize`",
    note = "floats have no `Eq`: use `to_bits()`, or a whole number of some unit"
)]
pub trait Key: Data + Eq {}

impl<K: Data + Eq> Key for K {}
