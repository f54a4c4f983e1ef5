//! The command `ringfence`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringfence::sim::command::main(std::env::args_os())
}
