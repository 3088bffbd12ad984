//! The `pydisk` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pydisk::cli::main()
}
