//! The root that images are built in: a Debian 13 with mkosi and its tools, in `target/image/builder`.
//!
//! mmdebstrap makes it, itself fetched and not installed, from the mirror that this machine's apt is configured for.
//! What runs in it has a mount and process namespace of its own, which ends with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;
use portcullis_tests::process::{self, Child};
use portcullis_tests::wait;

use super::sources::Sources;
use crate::boot::debian::{Apt, KEYRINGS, SUITE, program};
use crate::boot::lines::Lines;
use crate::ci::target_directory;
use crate::shell;

/// mkosi and what it calls; what turns disks into other formats; firmware, and what enrols keys in it.
const PACKAGES: [&str; 25] = [
    "mkosi",
    "systemd",
    "systemd-repart",
    "systemd-ukify",
    "systemd-boot-efi",
    "systemd-boot-tools",
    "systemd-container",
    "erofs-utils",
    "dosfstools",
    "mtools",
    "cryptsetup-bin",
    "sbsigntool",
    "openssl",
    "qemu-utils",
    "fdisk",
    "e2fsprogs",
    "zstd",
    "ca-certificates",
    "ovmf",
    "uidmap",
    "bubblewrap",
    "kmod",
    "cpio",
    "python3-virt-firmware",
    "xorriso",
];
/// Raised when the builder must be made anew.
const GENERATION: &str = "3";
pub(super) const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Runs in the namespaces. Everything that is not kept lies in memory: much of the work is small files.
const INSIDE: &str = r#"
root=$1; work=$2; shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mkdir -p "$root/mk"
mount --bind "$work" "$root/mk"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
for place in run tmp; do mount -t tmpfs tmpfs "$root/$place"; done
mount -t tmpfs -o size=6G tmpfs "$root/var/tmp"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
exec chroot "$root" /bin/sh -ec 'cd /mk; HOME=/root; PATH=/usr/sbin:/usr/bin; export HOME PATH; exec "$@" 2>&1' sh "$@"
"#;

/// Where everything of `cargo xtask image` lies.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(target_directory()?.join("image"))
}

#[derive(Debug)]
pub(crate) struct Builder {
    root: PathBuf,
    logs: PathBuf,
}

impl Builder {
    /// The builder that is there, or a new one.
    pub(crate) fn ensure(sources: &Sources, update: bool) -> Result<Self> {
        let directory = directory()?;
        let builder = Self { root: directory.join("builder"), logs: directory.clone() };
        if !update && builder.is_whole() {
            return Ok(builder);
        }
        can_build()?;
        builder.make(&directory, &sources.mirror)?;
        Ok(builder)
    }

    /// The builder that is there, for its programs and firmware.
    pub(crate) fn find() -> Option<Self> {
        let directory = directory().ok()?;
        let builder = Self { root: directory.join("builder"), logs: directory };
        builder.is_whole().then_some(builder)
    }

    fn is_whole(&self) -> bool {
        fs::read_to_string(self.root.join("generation")).is_ok_and(|text| text == GENERATION)
    }

    fn make(&self, directory: &Path, mirror: &str) -> Result<()> {
        shell::say("making a Debian 13 with mkosi in target/image/builder, 330 MB; nothing is installed …");
        let apt = Apt::new(&directory.join("apt"), Some(mirror), SUITE)?;
        apt.run(&["update"])?;
        apt.run(&["download", "mmdebstrap"])?;
        let tools = directory.join("mmdebstrap");
        for package in apt.packages()? {
            process::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tools), LIMIT)?.ok()?;
        }
        let new = directory.join("builder.new");
        for old in [&new, &self.root] {
            if old.exists() {
                fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
            }
        }
        let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).is_file());
        let keyring = keyring.context("the keys of Debian's archive are missing")?;
        let programs = tools.join("usr/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut mmdebstrap = Command::new(programs.join("mmdebstrap"));
        mmdebstrap.env("PATH", format!("{}:{path}", programs.display()));
        mmdebstrap.args(["--mode=root", "--variant=minbase", "--quiet"]);
        mmdebstrap.arg("--aptopt=Apt::Install-Recommends \"false\"");
        mmdebstrap.arg("--dpkgopt=path-exclude=/usr/share/man/*");
        mmdebstrap.arg(format!("--include=apt,debian-archive-keyring,{}", PACKAGES.join(",")));
        mmdebstrap.arg(SUITE).arg(&new).arg(format!("deb [signed-by={keyring}] {mirror} {SUITE} main"));
        process::run(&mut mmdebstrap, LIMIT)?.ok()?;
        // A program from outside of it finds the loader where it was built to look.
        if !new.join("lib64").exists() {
            symlink("usr/lib64", new.join("lib64")).context("link lib64")?;
        }
        fs::rename(&new, &self.root).context("put the builder in its place")?;
        // Last: a builder without it is not whole.
        fs::write(self.root.join("generation"), GENERATION).context("note the builder's generation")
    }

    /// Runs a program in the builder, in `work`, with its output in `NAME.log`; lines that `show` returns are shown.
    pub(crate) fn run(
        &self,
        name: &str,
        work: &Path,
        command: &[&str],
        show: impl Fn(&str) -> Option<String>,
    ) -> Result<()> {
        can_build()?;
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-ec", INSIDE, "sh"]);
        inside.arg(&self.root).arg(work).args(command);
        let mut child = Child::spawn(name, &mut inside, &self.logs)?;
        let log = self.logs.join(format!("{name}.out"));
        let mut lines = Lines::new(log.clone());
        let status = wait::attempt(LIMIT, name, || {
            // Asked first: what is said until the end is read after the end.
            let ended = child.try_status()?;
            lines.read()?.iter().filter_map(|line| show(line)).for_each(|line| shell::say(&line));
            Ok::<_, anyhow::Error>(ended)
        })?;
        if status.success() {
            return Ok(());
        }
        bail!("{name} ended with {status}; its log is {}, at its end:\n{}", log.display(), tail(&log))
    }

    /// A program of the builder that needs none of its namespaces, with the builder's loader and libraries.
    pub(crate) fn program(&self, path: &str) -> Command {
        program(&self.root, path)
    }

    /// A file of the builder.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
}

fn can_build() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the image is for x86-64, and is built there");
    }
    if !Uid::effective().is_root() {
        bail!("building an image needs root, for namespaces and files of all users: sudo cargo xtask image");
    }
    if process::find_program("unshare").is_none() {
        bail!("unshare is missing: apt-get install util-linux");
    }
    if process::find_program("perl").is_none() {
        bail!("perl is missing, in which mmdebstrap is written: apt-get install perl");
    }
    Ok(())
}
