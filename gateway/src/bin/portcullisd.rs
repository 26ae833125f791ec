//! The gateway daemon.

fn main() -> std::process::ExitCode {
    portcullis::daemon::main()
}
