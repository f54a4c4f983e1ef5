//! What a protected key, value or record must be.

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
pub trait Data: Clone + Send + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Send + Serialize + DeserializeOwned + 'static> Data for T {}
