//! The command for operators and users of the gateway.

fn main() -> std::process::ExitCode {
    portcullis::cli::main()
}
