//! What all protected operators share.
//!
//! | module | noun |
//! | --- | --- |
//! | `partitions` | an operator's state at a worker: restore, seal, leave |
//! | `outlet` | the way out for what is sealed, and when it is |
//! | `turns` | records that wait until their epoch is complete |
//! | `route` | key -> partition -> owner |

pub(crate) mod outlet;
pub(crate) mod partitions;
pub(crate) mod route;
pub(crate) mod turns;
