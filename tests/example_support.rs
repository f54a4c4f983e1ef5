//! The tests of what the examples share: their options and their verifier.

#[path = "../examples/support/mod.rs"]
mod support;
