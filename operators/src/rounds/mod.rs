//! The two rounds of the commit, and what they carry.
//!
//! | module | noun |
//! | --- | --- |
//! | `replicate` | deltas go to the backups, and all nodes record what all backups have |
//! | `clock` | what chooses the epochs that are checkpoints |
//! | `frames` | the container that carries snapshots |
//! | `outbox` | frames on their way to each backup |
//! | `pieces` | snapshots that are too large for one container |

pub(crate) mod clock;
pub(crate) mod frames;
pub(crate) mod outbox;
pub(crate) mod pieces;
pub(crate) mod replicate;
