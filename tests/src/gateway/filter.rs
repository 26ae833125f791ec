//! A gateway whose interfaces are filtered by the kernel side, and what it says about that.
//!
//! Its pins are on a BPF file system of its own: the filter goes with it, whatever becomes of the daemon.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use tempfile::TempDir;

use super::{Gateway, Setup};
use crate::process;

const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// A private BPF file system, which is taken away with what is pinned on it.
#[derive(Debug)]
pub struct BpfFs(TempDir);

impl BpfFs {
    /// Mounts one.
    ///
    /// # Errors
    /// Where this process may not mount, as in most containers.
    pub fn mount() -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("pc-bpf-").tempdir().context("make a temporary directory")?;
        let mounted = mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>);
        mounted.context("mount a BPF file system")?;
        Ok(Self(dir))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where a daemon keeps its pins.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        self.path().join("portcullis")
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // A mount that stays cannot be helped from here; its name shows whose it was.
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap_or_default();
    }
}

/// Whether this process may attach the filter and the daemon has it. Attaching may still fail.
///
/// # Errors
/// Why not, in words for a person.
pub fn available() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(|| probe().map_err(|error| format!("{error:#}"))).clone()
}

fn probe() -> Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "only root may load programs into the kernel");
    let mut daemon = Command::new(process::binary("portcullisd")?);
    let version = process::run(daemon.arg("--version"), VERSION_LIMIT)?.ok()?.stdout;
    let built = version.contains("kernel side: built");
    anyhow::ensure!(
        built,
        "the gateway was built without its kernel side (`cargo xtask ebpf`, then build again)"
    );
    BpfFs::mount().map(drop)
}

impl Setup {
    /// Has the daemon filter these interfaces, each with its role, without a way in for administrators.
    ///
    /// # Errors
    /// When no BPF file system can be mounted.
    pub fn filtered(&mut self, interfaces: &[(&str, &str)]) -> Result<&mut Self> {
        let pins = BpfFs::mount()?;
        let list: Vec<String> = interfaces
            .iter()
            .map(|(name, role)| format!("{{ name = \"{name}\", role = \"{role}\" }}"))
            .collect();
        self.merge(&format!(
            "[xdp]\npin_dir = \"{}\"\nallow_no_management = true\ninterface = [{}]",
            pins.pin_dir().display(),
            list.join(", ")
        ))?;
        self.pins = Some(pins);
        Ok(self)
    }
}

impl Gateway {
    /// What the daemon says of its kernel side, as `attached (driver)`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn filter_state(&self) -> Result<String> {
        let status = self.cli_json(["status"])?;
        status
            .get("ebpf")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("the status does not name the filter")
    }

    /// How many packets the filter has dropped at an interface for this reason.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn dropped(&self, interface: &str, reason: &str) -> Result<u64> {
        let rows = self.cli_json(["xdp", "drops"])?;
        let rows = rows.as_array().context("the drops are no list")?;
        let is = |row: &&Value| row["interface"] == interface && row["reason"] == reason;
        let packets = rows.iter().filter(is).filter_map(|row| row["packets"].as_u64());
        Ok(packets.sum())
    }
}
