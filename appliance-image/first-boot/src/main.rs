//! What the appliance starts when it is new.

fn main() -> std::process::ExitCode {
    portcullis_first_boot::main()
}
