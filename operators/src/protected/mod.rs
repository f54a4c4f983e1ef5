//! What all protected operators share.
//!
//! | module | noun |
//! | --- | --- |
//! | `partitions` | an operator's state on a worker: restore, seal, leave |
//! | `outlet` | the output for what is sealed, and when to seal |
//! | `turns` | records that wait until their epoch is complete |
//! | `route` | key -> partition -> owner |

pub(crate) mod outlet;
pub(crate) mod partitions;
pub(crate) mod route;
pub(crate) mod turns;
