//! The two rounds of the commit, and what they carry.
//!
//! | module | noun |
//! | --- | --- |
//! | `replicate` | deltas go to the backups, and what all have is recorded by all |
//! | `clock` | what chooses the epochs that are checkpoints |
//! | `frames` | the container that carries snapshots |
//! | `outbox` | frames on their way to each backup |
//! | `pieces` | what is too large for one container |

pub(crate) mod clock;
pub(crate) mod frames;
pub(crate) mod outbox;
pub(crate) mod pieces;
pub(crate) mod replicate;
