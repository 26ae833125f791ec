//! The installation medium: an ISO that starts from an optical drive and, written to it as it is, from a USB stick.
//!
//! All of it is one kernel image with the installer and the compressed appliance inside, which firmware loads whole: the
//! installer needs no drivers for the medium, and a signature of the kernel image vouches for everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::process;

use super::build::{self, Built};
use super::builder::{self, Builder};
use super::formats::{self, Format};
use super::keys::Keys;
use super::sbom;
use super::sources::Sources;
use crate::ci::target_directory;
use crate::shell;

const DESCRIPTION: &str = "appliance-image/installer";
const PROGRAM: &str = "portcullis-install";
const PACKAGE: &str = "portcullis-installer";
const ISO: &str = "portcullis.iso";
/// What is on the medium besides the image, which has one of its own.
const SBOM: &str = "portcullis-installer.spdx.json";
const LIMIT: Duration = Duration::from_secs(120);
/// Makes the system partition and the ISO around it. Firmware reads the partition from optical drives too; it has enough
/// clusters for FAT32, and room for credentials.
const ISO_SCRIPT: &str = r#"
kernel=portcullis-installer.efi
bytes=$(stat -c %s $kernel)
rm -f esp.img portcullis.iso
truncate -s $((bytes / 1048576 + 48))M esp.img
mkfs.vfat -F 32 -s 1 -n PORTCULLIS --invariant esp.img
mmd -i esp.img ::/EFI ::/EFI/BOOT ::/loader ::/loader/credentials
mcopy -m -i esp.img $kernel ::/EFI/BOOT/BOOTX64.EFI
mkdir -p tree
printf 'Portcullis: start a machine with UEFI from this medium to install the appliance on one of its disks.\n' >tree/README.TXT
xorriso -as mkisofs -quiet -r -V PORTCULLIS -o portcullis.iso -partition_offset 16 \
    -append_partition 2 C12A7328-F81F-11D2-BA4B-00A0C93EC93B esp.img -appended_part_as_gpt \
    -e --interval:appended_partition_2:all:: -no-emul-boot tree
rm -r esp.img tree
"#;

/// How the medium is made.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) sources: &'a Sources,
    /// Who signs it; must be who signed the image.
    pub(super) keys: Option<&'a Keys>,
    /// Whether the installer is built, or is there already.
    pub(super) cargo: bool,
}

/// What goes with the medium.
pub(super) fn sbom() -> Result<PathBuf> {
    Ok(builder::directory()?.join(SBOM))
}

/// Where the medium is, when there is one.
pub(super) fn find() -> Option<PathBuf> {
    let iso = builder::directory().ok()?.join(ISO);
    iso.is_file().then_some(iso)
}

pub(super) fn iso(builder: &Builder, built: &Built, order: &Order<'_>) -> Result<PathBuf> {
    if built.signed && order.keys.is_none() {
        bail!("the image is signed and the medium would not be: give --secure-boot or --keys");
    }
    if order.cargo {
        shell::say("building portcullis-install …");
        let mut cargo = shell::cargo(&["build", "--locked", "--release", "--package", PACKAGE]);
        if !shell::succeeds(&mut cargo)? {
            bail!("the installer does not build, see above");
        }
    }
    let image = Format::RawZst.make(builder, built)?;
    let work = builder::directory()?.join("work");
    let place = work.join("installer");
    stage(builder, &place, &image, order)?;
    let time = build::commit_time()?;
    let mut mkosi = vec!["mkosi", "--directory", "installer", "--mirror", &order.sources.mirror];
    mkosi.extend(["--source-date-epoch", &time, "--force"]);
    if let Some(keys) = order.keys {
        keys.stage(&place)?;
        mkosi.extend(["--secure-boot=yes", "--secure-boot-auto-enroll=no", "--sign-expected-pcr=no"]);
        mkosi.extend(["--secure-boot-key=keys/db.key", "--secure-boot-certificate=keys/db.crt"]);
    }
    mkosi.push("build");
    shell::say("building the installation medium; the whole log is target/image/mkosi-installer.out …");
    builder.run("mkosi-installer", &work, &mkosi, build::progress)?;
    let epoch = format!("SOURCE_DATE_EPOCH={time}");
    builder.run("iso", &place.join("out"), &["env", &epoch, "sh", "-ec", ISO_SCRIPT], |_| None)?;
    let to = builder::directory()?.join(ISO);
    fs::rename(place.join("out").join(ISO), &to).context("take the ISO")?;
    let packages = sbom::packages(&[place.join("out/portcullis-installer.manifest")])?;
    let about = ("portcullis-installer", built.version.as_str());
    let document = sbom::document(&packages, &sbom::crates_of(&[PACKAGE])?, about, &time)?;
    fs::write(sbom()?, document).context("write the SBOM")?;
    // The compressed image is in there once more.
    fs::remove_dir_all(&place).context("remove what the medium was made of")?;
    Ok(to)
}

/// Puts together what mkosi reads, in a directory of its own beside the appliance's.
fn stage(builder: &Builder, place: &Path, image: &Path, order: &Order<'_>) -> Result<()> {
    if place.exists() {
        fs::remove_dir_all(place).context("remove the last medium's work directory")?;
    }
    let make = |name: &str| {
        let made = place.join(name);
        fs::create_dir_all(&made).with_context(|| format!("make {}", made.display())).map(|()| made)
    };
    make("out")?;
    make("cache")?;
    let description = process::repository().join(DESCRIPTION);
    fs::copy(description.join("mkosi.conf"), place.join("mkosi.conf")).context("copy mkosi.conf")?;
    let mut copy = Command::new("cp");
    copy.args(["-r", "-P", "--preserve=mode,links", "--no-preserve=ownership,timestamps"]);
    process::run(copy.arg(description.join("overlay")).arg(place), LIMIT)?.ok()?;
    let sources = make("mkosi.sandbox/etc/apt/sources.list.d")?.join("mkosi.sources");
    fs::write(sources, order.sources.text("main")).context("write apt's sources")?;
    let program = target_directory()?.join("release").join(PROGRAM);
    fs::copy(&program, make("programs/usr/local/bin")?.join(PROGRAM))
        .with_context(|| format!("{} is missing: leave out --no-cargo", program.display()))?;
    let payload = make("programs/usr/lib/portcullis")?;
    let name = image.file_name().context("the image has no name")?.to_string_lossy();
    fs::hard_link(image, payload.join(&*name)).context("link the image")?;
    let sum = formats::sha256(builder, image)?;
    fs::write(payload.join(format!("{name}.sha256")), format!("{sum}  {name}\n"))
        .context("write the checksum")
}
