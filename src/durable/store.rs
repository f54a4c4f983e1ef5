//! A store of immutable objects: each name is written once, in full or not at all.

use std::path::PathBuf;

/// Whether an object was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// It was: the bytes have the name now, and survive a power cut.
    Now,
    /// An object of this name is there already.
    Exists,
}

/// Immutable objects under names such as `manifests/00000001`.
///
/// Every method may be called from any thread and any process, and again after any error. After an error of
/// [`create`](Store::create), the object may exist or not: creating it again settles the question.
pub(crate) trait Store: Send + Sync {
    /// Gives `bytes` a name, unless the name is taken.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError>;

    /// Returns the bytes from `offset` on, at most `length` of them; `None` if there is no such object.
    fn read_range(
        &self,
        name: &str,
        offset: u64,
        length: u64,
    ) -> Result<Option<Vec<u8>>, StoreError>;

    /// Returns the names that begin with `prefix` and a slash, and the lengths of the objects, in order.
    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, StoreError>;

    /// Removes an object; one that is not there is no error.
    fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// Where the store is, for messages.
    fn place(&self) -> String;

    /// Returns all bytes of an object; `None` if there is no such object.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_range(name, 0, u64::MAX)
    }
}

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {error}", path.display())]
pub(crate) struct StoreError {
    /// What was tried: a verb.
    pub(crate) action: &'static str,
    /// The file.
    pub(crate) path: PathBuf,
    /// What the system said.
    #[source]
    pub(crate) error: std::io::Error,
}
