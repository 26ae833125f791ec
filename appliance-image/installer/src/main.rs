//! What the installation medium starts.

fn main() -> std::process::ExitCode {
    portcullis_installer::main()
}
