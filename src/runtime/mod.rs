//! Where threads, processes and the wall clock are.

pub mod channel;
pub mod launcher;
