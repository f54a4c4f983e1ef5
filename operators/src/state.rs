//! State: what a protected operator keeps between records, and what is kept to undo it.
//!
//! [`KeyedTable`] is the live state of one partition; [`Replica`] is its encoded copy on a backup.
//! Both follow the same chain of deltas: at every sealed epoch they hold the same entries.

mod table;

pub use table::Table;
