//! Compile errors of the commonest mistakes say what to do. What must be true: each is refused in the words
//! that the file beside it holds.
//!
//! The words are the compiler's around ours, so they may change with it: `TRYBUILD=overwrite cargo test
//! --test mistakes -- --ignored` writes them anew, to be read before they are committed.

#[test]
#[ignore = "compiles the dependencies once more"]
fn compile_errors_say_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
