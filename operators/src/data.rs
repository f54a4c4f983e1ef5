//! What a protected key, value or record must be.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that can be copied, moved to another thread, and encoded by serde.
///
/// Implemented for every type that qualifies; there is nothing to implement by hand.
pub trait Data: Clone + Send + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Send + Serialize + DeserializeOwned + 'static> Data for T {}
