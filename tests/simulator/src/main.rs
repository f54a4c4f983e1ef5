//! The command that runs seeds.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringfence_simulator::command::main(std::env::args_os())
}
