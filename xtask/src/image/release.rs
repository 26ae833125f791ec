//! What a machine updates itself from: the parts of the image with their version in their names, checksums, and a
//! signature of these. As a directory, to be served by HTTPS, and as one file, to be handed over by SSH.
//!
//! The names are those that `appliance-image/overlay/usr/lib/appliance/update.d` looks for. systemd-pull(8) checks the
//! signature with the key that the image was built with; it reads xz and not zstd.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::process;

use super::build::{Built, Order};
use super::builder::{self, Builder};
use super::formats;
use crate::shell;

/// What scenarios update to, in the order of their versions.
pub(super) const TRIALS: [&str; 2] = ["next", "broken"];
/// More files for some of them, below their names.
const OVERLAYS: &str = "appliance-image/trials";
/// A partition's name has 36 characters, of which `portcullis_` and `_v` take 13.
const VERSION_MAX_CHARS: usize = 23;
/// The partitions of a slot, as systemd-repart names their types.
const PARTITIONS: [&str; 2] = ["root-x86-64-verity", "root-x86-64"];
/// Beside what is signed.
const PUBLIC_KEY: &str = "portcullis-key.gpg";
/// gpg(1) in a home of its own, which ends with the namespace that it runs in.
const GPG: &str = "umask 077; GNUPGHOME=/tmp/gnupg; export GNUPGHOME; mkdir -p $GNUPGHOME; ";

/// A version that names of files and partitions can have, and that systemd can compare.
pub(super) fn version_of(text: &str) -> Result<String> {
    // A `+` counts the tries of a boot entry, `_` is what goes before the version.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    if text.is_empty() || text.len() > VERSION_MAX_CHARS || !text.bytes().all(fits) {
        bail!("`{text}` is no version: letters, digits, `.` and `-`, {VERSION_MAX_CHARS} at most");
    }
    Ok(text.to_owned())
}

/// The workspace's, and when the commit was made: ten digits, which grow.
pub(super) fn version(epoch: &str) -> Result<String> {
    let mut date = Command::new("date");
    let time = shell::output(date.args(["--utc", "+%y%m%d%H%M", "--date"]).arg(format!("@{epoch}")))?;
    version_of(&format!("{}.{}", env!("CARGO_PKG_VERSION"), time.trim()))
}

/// What is added to the image for a trial.
pub(super) fn overlay(trial: &str) -> Option<PathBuf> {
    Some(process::repository().join(OVERLAYS).join(trial)).filter(|place| place.is_dir())
}

/// Where the update of a trial is.
pub(super) fn trial(name: &str) -> Result<PathBuf> {
    Ok(builder::directory()?.join("trials").join(name).join("portcullis.update.tar"))
}

/// The same as a directory.
pub(super) fn trial_directory(name: &str) -> Result<PathBuf> {
    Ok(trial(name)?.with_file_name("update"))
}

/// Who signs updates: a directory with `update.key`, an OpenPGP key as `gpg --export-secret-keys` writes it.
#[derive(Debug)]
pub(super) struct Key(PathBuf);

impl Key {
    /// The given one, or that in `target/image/keys`, made when there is none.
    pub(super) fn find(given: Option<&Path>, builder: &Builder) -> Result<Self> {
        if let Some(directory) = given {
            let key = directory.join("update.key");
            if !key.is_file() {
                bail!("{} is missing: `gpg --export-secret-keys NAME` makes it", key.display());
            }
            return Ok(Self(directory.to_owned()));
        }
        let directory = builder::directory()?.join("keys");
        fs::create_dir_all(&directory).context("make the keys' directory")?;
        if !directory.join("update.key").is_file() {
            shell::say("making a key for updates in target/image/keys …");
            gpg(
                builder,
                &directory,
                "gpg --batch --passphrase '' --quick-generate-key 'Portcullis trial updates' ed25519 sign never; \
                 gpg --batch --export-secret-keys > new.key; mv new.key update.key",
            )?;
        }
        Ok(Self(directory))
    }

    /// Puts the public part where systemd-pull looks for it in the image.
    pub(super) fn stage(&self, builder: &Builder, work: &Path) -> Result<()> {
        let place = work.join("programs/usr/lib/systemd");
        fs::create_dir_all(&place).context("make the key's directory")?;
        gpg(builder, &self.0, "gpg --batch --import update.key; gpg --batch --export > update.gpg")?;
        let to = place.join("import-pubring.gpg");
        fs::copy(self.0.join("update.gpg"), &to).context("take the public key")?;
        let mut mode = Command::new("chmod");
        process::run(mode.arg("0644").arg(&to), builder::LIMIT)?.ok().map(drop)
    }

    /// Writes `SHA256SUMS.gpg` beside `SHA256SUMS`, and the public key.
    pub(super) fn sign(&self, builder: &Builder, directory: &Path) -> Result<()> {
        // Both are seen where only one is mounted.
        let (sums, signature) = (self.0.join("SHA256SUMS"), self.0.join("SHA256SUMS.gpg"));
        fs::copy(directory.join("SHA256SUMS"), &sums).context("copy the checksums")?;
        gpg(
            builder,
            &self.0,
            "gpg --batch --import update.key; gpg --batch --export > update.gpg; \
             gpg --batch --yes --detach-sign --output SHA256SUMS.gpg SHA256SUMS; \
             gpg --batch --no-default-keyring --keyring ./update.gpg --verify SHA256SUMS.gpg SHA256SUMS",
        )?;
        let given = directory.join("SHA256SUMS.gpg");
        fs::copy(&signature, &given).context("take the signature")?;
        let public = directory.join(PUBLIC_KEY);
        fs::copy(self.0.join("update.gpg"), &public).context("take the public key")?;
        // A web server reads them as it reads the others.
        for read in [&given, &public] {
            fs::set_permissions(read, fs::Permissions::from_mode(0o644))
                .context("let the signature be read")?;
        }
        for passing in [sums, signature] {
            fs::remove_file(&passing).with_context(|| format!("remove {}", passing.display()))?;
        }
        Ok(())
    }
}

fn gpg(builder: &Builder, keys: &Path, script: &str) -> Result<()> {
    let script = format!("{GPG}{script}");
    builder.run("gpg", keys, &["/bin/sh", "-ec", &script], |_| None)
}

/// Packs what the last build has left into `target/image/update`, and returns the one file that holds all of it.
pub(super) fn make(
    builder: &Builder,
    order: &Order<'_>,
    built: &Built,
    trial_of: Option<&str>,
) -> Result<PathBuf> {
    let image = builder::directory()?;
    let (version, kernel) = (&built.version, order.kernel.name());
    let (place, bundle) = match trial_of {
        Some(name) => (trial_directory(name)?, trial(name)?),
        None => (image.join("update"), image.join(format!("portcullis-{kernel}_{version}.update.tar"))),
    };
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("remove {}", place.display()))?;
    }
    fs::create_dir_all(&place).context("make the update's directory")?;
    shell::say("packing the update …");
    let mut files = Vec::new();
    for (part, uuid) in PARTITIONS.into_iter().zip(uuids(&built.root_hash)?) {
        let raw = image.join("work/out").join(format!("portcullis.{part}.{uuid}.raw"));
        let name = format!("portcullis-{kernel}_{version}.{part}.{uuid}.raw");
        fs::rename(&raw, place.join(&name)).with_context(|| format!("take {}", raw.display()))?;
        builder.run("xz", &place, &["xz", "-0", "-T0", "--check=sha256", &name], |_| None)?;
        files.push(place.join(format!("{name}.xz")));
    }
    let started = place.join(format!("portcullis-{kernel}_{version}.efi"));
    fs::copy(&built.kernel, &started).context("copy the kernel image")?;
    files.push(started);
    formats::checksums(builder, &place, &files)?;
    order.key.sign(builder, &place)?;
    let mut tar = Command::new("tar");
    tar.args(["--format=ustar", "--owner=0", "--group=0", "--numeric-owner", "--mode=0644"]);
    tar.arg(format!("--mtime=@{}", order.epoch)).arg("-cf").arg(&bundle).arg("-C").arg(&place);
    // What is checked first comes first.
    tar.args(["SHA256SUMS", "SHA256SUMS.gpg"]).args(files.iter().filter_map(|file| file.file_name()));
    process::run(&mut tar, builder::LIMIT)?.ok()?;
    Ok(bundle)
}

/// The kernel image names both partitions by halves of the root hash: the file system by the first, the hashes by the
/// second. In the order of `PARTITIONS`.
fn uuids(root_hash: &str) -> Result<[&str; 2]> {
    let (data, hashes) = root_hash.split_at_checked(32).context("the root hash is short")?;
    Ok([hashes, data])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_fits_into_names_of_files_and_partitions() {
        for good in ["0.1.0.2611220811", "1", "2.0-rc1"] {
            assert_eq!(version_of(good).unwrap(), good);
        }
        for bad in ["", "1+3", "1_2", "1 2", "../1", "0123456789.0123456789.12"] {
            assert!(version_of(bad).is_err(), "{bad}");
        }
        assert_eq!(version("0").unwrap(), format!("{}.7001010000", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn halves_of_the_root_hash_name_the_partitions() {
        let hash = "0".repeat(32) + &"f".repeat(32);
        assert_eq!(uuids(&hash).unwrap(), ["f".repeat(32), "0".repeat(32)]);
        assert!(uuids("12").is_err());
    }
}
