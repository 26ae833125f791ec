//! The image in the formats that hypervisors take, and checksums of everything.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use portcullis_tests::process;

use super::build::Built;
use super::builder::{self, Builder};

/// A disk with room for the second slot and for state. Sparse: what is not used costs nothing.
pub(super) const DISK_BYTES: u64 = 4 << 30;
const LIMIT: Duration = Duration::from_secs(20 * 60);
const DESCRIPTOR: &str = "appliance-image/formats/portcullis.ovf";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Compressed, to be written to a disk of at least 2 GB
    #[value(name = "raw.zst")]
    RawZst,
    /// QEMU, Proxmox, OpenStack
    Qcow2,
    /// VMware: a disk
    Vmdk,
    /// VMware: a whole machine
    Ova,
    /// Hyper-V, second generation
    Vhdx,
    /// Bare metal: starts from a USB stick or an optical drive and installs on a disk
    Iso,
}

impl Format {
    /// Makes it from the image and returns the file.
    pub(super) fn make(self, builder: &Builder, built: &Built) -> Result<PathBuf> {
        let directory = builder::directory()?;
        let to = |ending: &str| directory.join(format!("portcullis.{ending}"));
        match self {
            Self::RawZst => {
                let made = to("raw.zst");
                let mut zstd = builder.program("usr/bin/zstd");
                zstd.args(["-q", "-T0", "-12", "--force", "-o"]).arg(&made).arg(&built.raw);
                process::run(&mut zstd, LIMIT)?.ok()?;
                let mut test = builder.program("usr/bin/zstd");
                process::run(test.args(["-q", "--test"]).arg(&made), LIMIT)?.ok()?;
                Ok(made)
            }
            Self::Qcow2 => {
                convert(builder, built, &["-c", "-O", "qcow2", "-o", "compression_type=zstd"], to("qcow2"))
            }
            Self::Vmdk => convert(
                builder,
                built,
                &["-O", "vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic"],
                to("vmdk"),
            ),
            Self::Ova => ova(builder, &Self::Vmdk.make(builder, built)?, to("ova")),
            Self::Iso => bail!("the installation medium is made from more than an image"),
            Self::Vhdx => convert(builder, built, &["-O", "vhdx", "-o", "subformat=dynamic"], to("vhdx")),
        }
    }
}

/// A copy of the image on a disk of the size that machines have.
pub(super) fn disk(raw: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    process::run(copy.arg("--sparse=always").arg(raw).arg(to), LIMIT)?.ok()?;
    empty_disk(to)
}

/// A disk of that size, with what the file holds already.
pub(super) fn empty_disk(to: &Path) -> Result<()> {
    let file = File::options().create(true).truncate(false).write(true).open(to).context("open the disk")?;
    file.set_len(DISK_BYTES).context("give the disk its size")
}

fn convert(builder: &Builder, built: &Built, how: &[&str], to: PathBuf) -> Result<PathBuf> {
    let place = tempfile::Builder::new().prefix("disk-").tempdir_in(builder::directory()?);
    let place = place.context("make a directory for the disk")?;
    let whole = place.path().join("disk.raw");
    disk(&built.raw, &whole)?;
    let mut convert = builder.program("usr/bin/qemu-img");
    convert.args(["convert", "-q", "-f", "raw"]).args(how).arg(&whole).arg(&to);
    process::run(&mut convert, LIMIT)?.ok()?;
    compare(builder, &whole, &to)?;
    Ok(to)
}

/// Reads the made disk back: every sector must be that of the image.
fn compare(builder: &Builder, whole: &Path, made: &Path) -> Result<()> {
    let mut compare = builder.program("usr/bin/qemu-img");
    compare.args(["compare", "-q", "-f", "raw"]).arg(whole).arg(made);
    process::run(&mut compare, LIMIT)?.ok().context("the disk holds something else than the image").map(drop)
}

/// A tar archive of descriptor, checksums and disk, in this order.
fn ova(builder: &Builder, vmdk: &Path, to: PathBuf) -> Result<PathBuf> {
    let descriptor = process::repository().join(DESCRIPTOR);
    let descriptor = fs::read_to_string(&descriptor).context("read the OVA's descriptor")?;
    let size = fs::metadata(vmdk).context("look at the disk")?.size();
    let place = tempfile::Builder::new().prefix("ova-").tempdir_in(builder::directory()?);
    let place = place.context("make a directory for the OVA")?;
    let file = |name: &str| place.path().join(name);
    let filled = descriptor.replace("@DISK@", "portcullis.vmdk").replace("@SIZE@", &size.to_string());
    fs::write(file("portcullis.ovf"), filled.replace("@CAPACITY@", &DISK_BYTES.to_string()))
        .context("write the descriptor")?;
    fs::hard_link(vmdk, file("portcullis.vmdk")).context("link the disk")?;
    let mut sums = String::new();
    for name in ["portcullis.ovf", "portcullis.vmdk"] {
        sums.push_str(&format!("SHA256({name})= {}\n", sha256(builder, &file(name))?));
    }
    fs::write(file("portcullis.mf"), sums).context("write the checksums")?;
    let mut tar = Command::new("tar");
    tar.args(["--format=ustar", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-cf"]).arg(&to);
    tar.arg("-C").arg(place.path()).args(["portcullis.ovf", "portcullis.mf", "portcullis.vmdk"]);
    process::run(&mut tar, LIMIT)?.ok()?;
    Ok(to)
}

pub(super) fn sha256(builder: &Builder, path: &Path) -> Result<String> {
    let mut sum = builder.program("usr/bin/sha256sum");
    let said = process::run(sum.arg(path), LIMIT)?.ok()?.stdout;
    said.split_whitespace().next().map(str::to_owned).context("sha256sum said nothing")
}

/// Writes `SHA256SUMS` into the directory of the files.
pub(super) fn checksums(builder: &Builder, directory: &Path, files: &[PathBuf]) -> Result<PathBuf> {
    let to = directory.join("SHA256SUMS");
    let mut text = String::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("{}  {name}\n", sha256(builder, path)?));
    }
    fs::write(&to, text).context("write the checksums")?;
    Ok(to)
}
