//! What `--version` says.

/// The commit that was built, where the build knows it.
pub const COMMIT: &str = match option_env!("PORTCULLIS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
/// Whether this build has a kernel side.
pub const KERNEL_SIDE: &str = if cfg!(kernel_side) { "built" } else { "absent" };

/// Version, and whether this build has a kernel side: one without it says so.
#[cfg(kernel_side)]
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (kernel side: built)");
/// Version, and whether this build has a kernel side: one without it says so.
#[cfg(not(kernel_side))]
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (kernel side: absent)");

/// The version of the appliance that this runs on, or else of the program: what changes with an update.
#[must_use]
pub fn installed() -> &'static str {
    static INSTALLED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    INSTALLED.get_or_init(|| {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        assigned(&release, "IMAGE_VERSION").unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned())
    })
}

/// `NAME="value"` of os-release(5).
pub(crate) fn assigned(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}
