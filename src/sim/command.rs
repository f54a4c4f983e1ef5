//! Command: many seeds.
