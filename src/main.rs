//! The `dpfs` daemon and its tools.

use std::process::ExitCode;

fn main() -> ExitCode {
    dpfs::runtime::cli::main()
}
