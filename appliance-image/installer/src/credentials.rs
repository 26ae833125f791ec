//! What the machine is to be told at its first boot: credentials that the installer was given go on to the new system
//! partition, where systemd finds them at every boot.
//!
//! They are wrapped by systemd-creds(1): bound to the machine's TPM where systemd can use one, else only encoded. Whoever
//! has the disk can read and replace those that are only encoded; public keys and names of networks are no secrets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount, umount};

use crate::output;

/// Where systemd looks, in the boot loader's name (systemd.system-credentials(7)).
const PLACE: &str = "loader/credentials";
/// Larger ones are no credentials.
const BYTES_MAX: u64 = 1 << 20;

pub type Credentials = BTreeMap<String, Vec<u8>>;

/// All that there are; none where there is no directory.
///
/// # Errors
/// When one cannot be read.
pub fn read(directory: Option<&Path>) -> Result<Credentials> {
    let mut credentials = Credentials::new();
    let Some(directory) = directory.filter(|directory| directory.is_dir()) else { return Ok(credentials) };
    for entry in fs::read_dir(directory).context("list the credentials")? {
        let path = entry.context("list the credentials")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= BYTES_MAX) {
            let value = fs::read(&path).with_context(|| format!("read the credential {name}"))?;
            credentials.insert(name, value);
        }
    }
    Ok(credentials)
}

/// Puts them on the system partition. Those of the installer itself stay behind. Returns the names of the others.
///
/// # Errors
/// When the partition cannot be mounted or written.
pub fn hand_over(credentials: &Credentials, partition: &Path, at: &Path) -> Result<Vec<String>> {
    let ours = |name: &&String| !name.starts_with("install.");
    let names: Vec<String> = credentials.keys().filter(ours).cloned().collect();
    if names.is_empty() {
        return Ok(names);
    }
    fs::create_dir_all(at).context("make a mount point")?;
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(partition), at, Some("vfat"), flags, Some("umask=0077"))
        .context("mount the system partition")?;
    let written =
        credentials.iter().filter(|(name, _)| ours(name)).try_for_each(|(name, value)| wrap(name, value, at));
    let unmounted = umount(at).context("unmount the system partition");
    written.and(unmounted)?;
    Ok(names)
}

fn wrap(name: &str, value: &[u8], at: &Path) -> Result<()> {
    let place = at.join(PLACE);
    fs::create_dir_all(&place).with_context(|| format!("make {PLACE}"))?;
    // systemd-creds takes a file; this one lies in memory, as `at` stands in /run.
    let plain = at.with_extension("plain");
    fs::write(&plain, value).context("write a credential to memory")?;
    let mut creds = Command::new("systemd-creds");
    creds.args(["encrypt", "--with-key=auto-initrd", &format!("--name={name}")]);
    let wrapped = output(creds.arg(&plain).arg(place.join(format!("{name}.cred"))));
    fs::remove_file(&plain).context("remove a credential from memory")?;
    wrapped.map(drop).with_context(|| format!("hand over the credential {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_by_name() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("system.hostname"), "gate1").unwrap();
        fs::create_dir(directory.path().join("other")).unwrap();
        let read_back = read(Some(directory.path())).unwrap();
        assert_eq!(read_back, Credentials::from([("system.hostname".to_owned(), b"gate1".to_vec())]));
        assert!(read(None).unwrap().is_empty());
    }

    #[test]
    fn where_nothing_is_to_be_told_nothing_is_mounted() {
        let own = Credentials::from([("install.disk".to_owned(), b"only".to_vec())]);
        assert!(hand_over(&own, Path::new("/nowhere"), Path::new("/nowhere")).unwrap().is_empty());
    }
}
