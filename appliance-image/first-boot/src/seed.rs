//! A NoCloud volume: a disk with the label `cidata`, ISO 9660 or FAT, as Proxmox and other hypervisors attach it, with
//! `meta-data`, `user-data` and `network-config`. A file `portcullis.toml` on it is the gateway's configuration.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount, umount};

use crate::cloud::Told;
use crate::network::{self, Cards, Network};

/// Longer ones are no such files.
const FILE_MAX_BYTES: u64 = 256 * 1024;
const LABELS: [&str; 2] = ["cidata", "CIDATA"];
const KINDS: [&str; 2] = ["iso9660", "vfat"];
const MOUNT_POINT: &str = "/run/appliance-seed";
const PAUSE: Duration = Duration::from_millis(250);

/// What a volume has said.
#[derive(Debug, Default)]
pub struct Seed {
    pub told: Told,
    pub network: Option<Network>,
    /// `portcullis.toml`.
    pub configuration: Option<String>,
}

/// The volume, once it is there; optical drives take their time.
#[must_use]
pub fn find(dev: &Path, patience: Duration) -> Option<PathBuf> {
    let begun = Instant::now();
    loop {
        let mut devices = LABELS.iter().map(|label| dev.join("disk/by-label").join(label));
        if let Some(device) = devices.find(|device| device.exists()) {
            return Some(device);
        }
        if begun.elapsed() >= patience {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Reads a volume; nothing on it is changed or run.
///
/// # Errors
/// When it cannot be mounted.
pub fn read_volume(device: &Path, root: &Path, cards: &Cards) -> Result<Seed> {
    let at = root.join(MOUNT_POINT.trim_start_matches('/'));
    fs::create_dir_all(&at).context("make a mount point")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mounts = KINDS.map(|kind| mount(Some(device), &at, Some(kind), flags, None::<&str>));
    if let [Err(error), Err(_)] = mounts {
        bail!("{} is neither ISO 9660 nor FAT: {error}", device.display());
    }
    let seed = read(&at, cards);
    for _ in mounts.iter().filter(|mounted| mounted.is_ok()) {
        umount(&at).context("unmount the volume")?;
    }
    Ok(seed)
}

/// Reads the files of a volume.
#[must_use]
pub fn read(directory: &Path, cards: &Cards) -> Seed {
    let mut seed = Seed::default();
    let mut file = |name: &str| match text(&directory.join(name)) {
        Ok(text) => text,
        Err(error) => {
            seed.told.notes.push(format!("{name}: {error:#}"));
            None
        }
    };
    let [meta, user, net, own] =
        ["meta-data", "user-data", "network-config", "portcullis.toml"].map(&mut file);
    seed.configuration = own;
    if let Some(meta) = meta {
        seed.told.meta_data(&meta);
    }
    if let Some(user) = user {
        seed.told.user_data(&user);
    }
    match net.filter(|net| !net.trim().is_empty()).map(|net| network::parse(&net, cards)) {
        Some(Ok(network)) => seed.network = Some(network),
        Some(Err(error)) => {
            seed.told.notes.push(format!("network-config is not taken, the machine uses DHCP: {error:#}"));
        }
        None => {}
    }
    seed
}

/// A file of the volume and nothing else: a link would lead to the machine's own files, and a pipe never ends.
fn text(path: &Path) -> Result<Option<String>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.context("open it")?,
    };
    if !file.metadata().context("look at it")?.is_file() {
        bail!("it is no file");
    }
    let mut text = String::new();
    file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text).context("read it")?;
    if u64::try_from(text.len()).is_ok_and(|length| length > FILE_MAX_BYTES) {
        bail!("it is longer than {FILE_MAX_BYTES} bytes");
    }
    Ok(Some(text))
}

impl Seed {
    /// The whole of what belongs into `[network]`; `None` when that is nothing.
    #[must_use]
    pub fn network(&self) -> Option<Network> {
        let mut network = self.network.clone().unwrap_or_default();
        network.host_name.clone_from(&self.told.host_name);
        network.time_zone.clone_from(&self.told.time_zone);
        network.ntp.clone_from(&self.told.ntp);
        (network != Network::default()).then_some(network)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_files_of_the_volume_are_read() {
        let volume = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "local-hostname: secret\n").unwrap();
        let at = |name: &str| volume.path().join(name);
        symlink(outside.path(), at("meta-data")).unwrap();
        nix::unistd::mkfifo(&at("user-data"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::create_dir(at("network-config")).unwrap();
        fs::write(at("portcullis.toml"), "[server]\n").unwrap();
        let seed = read(volume.path(), &Cards::find(volume.path()));
        assert_eq!((&seed.told.host_name, &seed.network), (&None, &None));
        assert_eq!(seed.configuration.as_deref(), Some("[server]\n"));
        assert_eq!(seed.told.notes.len(), 3, "{:?}", seed.told.notes);
    }
}
