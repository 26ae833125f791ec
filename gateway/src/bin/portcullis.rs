//! The command that controls the gateway and connects through it. Everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    portcullis::cli::main()
}
