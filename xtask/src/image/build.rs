//! Building the image: what mkosi is given, and what it leaves.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;
use portcullis_tests::process;
use serde::Deserialize;

use super::builder::{self, Builder};
use super::keys::Keys;
use super::licences;
use super::release::Key;
use super::sbom;
use super::sources::Sources;
use crate::ci::target_directory;
use crate::{ebpf, shell};

/// The image's description in the repository.
const DESCRIPTION: &str = "appliance-image";
/// What of it mkosi reads.
const PARTS: [&str; 5] = ["mkosi.conf", "mkosi.images", "mkosi.profiles", "mkosi.repart", "overlay"];
/// Our programs, and where the gateway's unit expects them.
const PROGRAMS: [(&str, &str); 3] = [
    ("portcullisd", "usr/local/sbin"),
    ("portcullis", "usr/local/bin"),
    ("portcullis-first-boot", "usr/local/bin"),
];
const UNIT: &str = "gateway/portcullis.service";
/// What goes with the programs, below `PLACE`: rules and a dashboard for Prometheus, what operators read,
/// our licence.
const DOCUMENTS: [&str; 6] =
    ["gateway/docs", "gateway/monitoring", "CHANGELOG.md", "LICENSE", "LICENSE-APACHE", "LICENSE-MIT"];
const PLACE: &str = "usr/share/doc/portcullis";
const LICENCES_INSIDE: &str = "licences-of-crates";
/// The same beside the image.
const LICENCES: &str = "portcullis.licences";
/// os-release(5): mkosi adds the version.
const RELEASE: &str = "usr/lib/os-release";
/// There when the image was signed.
const SIGNED: &str = "portcullis.signed";
const MOMENT: Duration = Duration::from_secs(120);

/// Which kernel and which drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kernel {
    /// For virtual machines
    Cloud,
    /// For bare metal, with firmware and microcode; runs in virtual machines too
    Full,
}

impl Kernel {
    /// What its packages are called in mkosi.profiles, and updates for it by those who look for them.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Full => "full",
        }
    }

    /// Which one an image has with these packages.
    fn of(packages: &str) -> Self {
        if packages.contains("linux-image-amd64 ") { Self::Full } else { Self::Cloud }
    }

    /// The parts of Debian that they come from.
    fn components(self) -> &'static str {
        match self {
            Self::Cloud => "main",
            Self::Full => "main non-free-firmware",
        }
    }
}

/// How the programs were built, and so where they lie.
#[derive(Debug, Clone, Copy)]
pub(super) enum Profile {
    Debug,
    Release,
}

/// What is to be built.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) version: String,
    pub(super) keys: Option<&'a Keys>,
    /// Who signs updates: the image takes those of no one else.
    pub(super) key: &'a Key,
    pub(super) kernel: Kernel,
    pub(super) sources: &'a Sources,
    pub(super) profile: Profile,
    /// More files for the image, below a directory.
    pub(super) more: Option<PathBuf>,
    /// Seconds since 1970: times in the image are no later.
    pub(super) epoch: String,
}

/// What a build has left in `target/image`.
#[derive(Debug)]
pub(super) struct Built {
    /// The disk.
    pub(super) raw: PathBuf,
    /// The signed kernel image, which is on the disk too; updates need it by itself.
    pub(super) kernel: PathBuf,
    pub(super) sbom: PathBuf,
    /// Versions of all Debian packages.
    pub(super) packages: PathBuf,
    /// Of all crates; those of Debian's packages are in the image.
    licences: PathBuf,
    pub(super) boots: Kernel,
    pub(super) root_hash: String,
    pub(super) version: String,
    /// Whether firmware with the keys in `target/image/keys` starts it.
    pub(super) signed: bool,
}

impl Built {
    fn at(directory: &Path) -> Result<Self> {
        let file = |name: &str| directory.join(name);
        let kernel = file("portcullis.efi");
        let bytes = fs::read(&kernel).context("there is no image: run `cargo xtask image`")?;
        let root_hash = root_hash(&bytes).context("the kernel image carries no root hash")?;
        let version = version(&bytes).context("the kernel image carries no version: build it again")?;
        Ok(Self {
            raw: file("portcullis.raw"),
            kernel,
            sbom: file("portcullis.spdx.json"),
            boots: Kernel::of(&fs::read_to_string(file("portcullis.packages")).unwrap_or_default()),
            packages: file("portcullis.packages"),
            licences: file(LICENCES),
            root_hash,
            version,
            signed: file(SIGNED).is_file(),
        })
    }

    /// The image that was built last.
    pub(super) fn find() -> Result<Self> {
        Self::at(&builder::directory()?)
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        [&self.raw, &self.kernel, &self.sbom, &self.packages, &self.licences].map(Clone::clone).to_vec()
    }
}

/// Builds what is ours in the image, as it is released.
pub(super) fn programs() -> Result<()> {
    let object = ebpf::build()?;
    shell::say("building portcullisd, portcullis and portcullis-first-boot …");
    let mut cargo = shell::cargo(&["build", "--locked", "--release", "--bins"]);
    cargo.args(["--package", "portcullis", "--package", "portcullis-first-boot"]);
    // Named, so that no image is made of a gateway that has none.
    cargo.env("PORTCULLIS_EBPF_OBJECT", object);
    // What `show version` and the metric `portcullis_build_info` tell.
    cargo.env("PORTCULLIS_COMMIT", commit()?);
    if !shell::succeeds(&mut cargo)? {
        bail!("the programs do not build, see above");
    }
    Ok(())
}

pub(super) fn image(builder: &Builder, order: &Order<'_>) -> Result<Built> {
    let directory = builder::directory()?;
    let work = directory.join("work");
    stage(&work, order)?;
    order.key.stage(builder, &work)?;
    let Order { version, epoch, .. } = order;
    if let Some(more) = &order.more {
        copy(&more.join("."), &work.join("overlay"))?;
    }
    let mut mkosi = vec!["mkosi", "--mirror", &order.sources.mirror, "--image-version", version];
    mkosi.extend(["--profile", order.kernel.name()]);
    mkosi.extend(["--source-date-epoch", epoch, "--force"]);
    if let Some(keys) = order.keys {
        keys.stage(&work)?;
        mkosi.extend(["--secure-boot=yes", "--secure-boot-auto-enroll=no", "--sign-expected-pcr=no"]);
        mkosi.extend(["--secure-boot-key=keys/db.key", "--secure-boot-certificate=keys/db.crt"]);
    }
    mkosi.push("build");
    shell::say("building the image; the whole log is target/image/mkosi.out …");
    builder.run("mkosi", &work, &mkosi, progress)?;
    let out = work.join("out");
    for name in ["portcullis.raw", "portcullis.efi"] {
        fs::rename(out.join(name), directory.join(name)).with_context(|| format!("take {name}"))?;
    }
    let signed = directory.join(SIGNED);
    if order.keys.is_some() {
        fs::write(&signed, "").context("note that the image is signed")?;
    } else if signed.exists() {
        fs::remove_file(&signed).context("note that the image is not signed")?;
    }
    let manifests = [out.join("portcullis.manifest"), out.join("initrd.manifest")];
    let packages = sbom::packages(&manifests)?;
    fs::write(directory.join("portcullis.packages"), sbom::list(&packages)).context("note the packages")?;
    let document = sbom::document(&packages, &sbom::crates()?, ("portcullis", version), epoch)?;
    fs::write(directory.join("portcullis.spdx.json"), document).context("write the SBOM")?;
    fs::copy(work.join("programs").join(PLACE).join(LICENCES_INSIDE), directory.join(LICENCES))
        .context("take the licences")?;
    Built::at(&directory)
}

/// What of mkosi's output is for the person who watches: the names of its steps.
pub(super) fn progress(line: &str) -> Option<String> {
    let step = line.strip_prefix('‣')?;
    // The workspace lies in memory, the result does not.
    (!step.contains("Could not rename")).then(|| format!("  {step}"))
}

/// Puts together what mkosi reads.
fn stage(work: &Path, order: &Order<'_>) -> Result<()> {
    let repository = process::repository();
    for part in PARTS.into_iter().chain(["mkosi.sandbox", "programs", "out", "keys"]) {
        let place = work.join(part);
        let removed = if place.is_dir() { fs::remove_dir_all(&place) } else { fs::remove_file(&place) };
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("remove {}", place.display()));
        }
    }
    for directory in ["out", "packages", "programs/usr/lib/systemd/system"] {
        fs::create_dir_all(work.join(directory)).context("make the work directory")?;
    }
    for part in PARTS {
        copy(&repository.join(DESCRIPTION).join(part), work)?;
    }
    // An installed image looks for updates of its own kind: see `Source` in usr/lib/appliance/update.d.
    let mut about = fs::File::options().append(true).open(work.join("overlay").join(RELEASE));
    let about = about.as_mut().map_err(|error| anyhow!("{RELEASE} cannot be written: {error}"))?;
    writeln!(about, "VARIANT_ID={}", order.kernel.name()).context("tell the kernel")?;
    let sources = work.join("mkosi.sandbox/etc/apt/sources.list.d");
    fs::create_dir_all(&sources).context("make apt's directory")?;
    // mkosi's own sources name archives that not every mirror has.
    let text = order.sources.text(order.kernel.components());
    fs::write(sources.join("mkosi.sources"), text).context("write apt's sources")?;
    let built = target_directory()?.join(match order.profile {
        Profile::Debug => "debug",
        Profile::Release => "release",
    });
    for (name, place) in PROGRAMS {
        let place = work.join("programs").join(place);
        fs::create_dir_all(&place).context("make the programs' directory")?;
        let from = built.join(name);
        fs::copy(&from, place.join(name))
            .with_context(|| format!("{} is missing: leave out --no-cargo", from.display()))?;
        let mut strip = Command::new("strip");
        // Only the line tables go: backtraces keep the names of functions.
        process::run(strip.arg("--strip-debug").arg(place.join(name)), MOMENT)?.ok()?;
    }
    let unit = work.join("programs/usr/lib/systemd/system/portcullis.service");
    fs::copy(repository.join(UNIT), unit).context("copy the gateway's unit")?;
    documents(&work.join("programs"))
}

fn documents(programs: &Path) -> Result<()> {
    let repository = process::repository();
    let place = programs.join(PLACE);
    fs::create_dir_all(&place).context("make the documents' directory")?;
    for name in DOCUMENTS {
        let mut copy = Command::new("cp");
        // Links are followed: what they lead to is not in the image.
        copy.args(["-r", "-L", "--no-preserve=mode,ownership,timestamps"]);
        process::run(copy.arg(repository.join(name)).arg(&place), MOMENT)?.ok()?;
    }
    fs::write(place.join(LICENCES_INSIDE), licences::document(&sbom::crates()?)?)
        .context("write the licences")?;
    let standard_library = licences::of_the_standard_library()?;
    fs::copy(&standard_library, place.join("licences-of-rust.html")).map(drop).context("copy Rust's licences")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    // Owners and times are not part of what is described; links and modes are.
    copy.args(["-r", "-P", "--preserve=mode,links", "--no-preserve=ownership,timestamps"]);
    process::run(copy.arg(from).arg(to), MOMENT)?.ok().map(drop)
}

/// The commit that is built, and whether files differ from it.
fn commit() -> Result<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--exclude=*", "--dirty", "--abbrev=12"]);
    let said = shell::output(git.current_dir(process::repository()))?;
    Ok(said.trim().to_owned())
}

/// The time of the last commit.
pub(super) fn commit_time() -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(process::repository()).args(["log", "-1", "--format=%ct"]);
    Ok(shell::output(&mut git).context("ask git for the time of the commit")?.trim().to_owned())
}

/// What the kernel's command line says that the root file system must hash to.
fn root_hash(kernel: &[u8]) -> Option<String> {
    let hash = text_after(kernel, b"roothash=", |byte| byte.is_ascii_hexdigit())?;
    (hash.len() == 64).then_some(hash)
}

/// What the kernel image says of itself, as its os-release(5).
fn version(kernel: &[u8]) -> Option<String> {
    let version = text_after(kernel, b"IMAGE_VERSION=\"", |byte| **byte != b'"')?;
    super::release::version_of(&version).ok()
}

fn text_after(bytes: &[u8], key: &[u8], belongs: impl Fn(&&u8) -> bool) -> Option<String> {
    let at = bytes.windows(key.len()).position(|window| window == key)? + key.len();
    Some(bytes.get(at..)?.iter().take_while(belongs).map(|byte| char::from(*byte)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_tell_the_kernel() {
        assert_eq!(Kernel::of("kmod 34-2 amd64\nlinux-image-amd64 6.12.117-1 amd64\n"), Kernel::Full);
        assert_eq!(Kernel::of("linux-image-cloud-amd64 6.12.117-1 amd64\n"), Kernel::Cloud);
    }

    #[test]
    fn root_hash_and_version_are_found_in_the_kernel_image() {
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(root_hash(format!("MZ\0 roothash={hash} ro\0").as_bytes()), Some(hash));
        assert_eq!(root_hash(b"roothash=12 ro"), None);
        assert_eq!(root_hash(b"MZ"), None);
        assert_eq!(version(b"MZ\0IMAGE_VERSION=\"1.2\"\n").as_deref(), Some("1.2"));
        assert_eq!(version(b"IMAGE_VERSION=\"a b\""), None);
    }
}
