//! Debian 13's kernel, and the programs that start it, fetched without touching this machine's packages.
//!
//! apt does the work, on a configuration, lists and a package state of its own below `target/boot`: it asks the mirror
//! that this machine is configured for, as signed by the keys of Debian's archive. The packages are unpacked, not
//! installed, so this needs neither root nor room in the system. QEMU comes from Debian 13 too, with all its
//! libraries: Debian 12's crashes guests with this kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::process;

use crate::ci::target_directory;
use crate::shell;

/// What the appliance is made of.
pub(crate) const SUITE: &str = "trixie";
/// Always depends on the newest kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What starts the kernel, shares this machine's files with it, is its first program, and sorts its modules.
const PROGRAMS: [&str; 4] = ["qemu-system-x86", "virtiofsd", "busybox-static", "kmod"];
pub(crate) const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"];
/// Lists that this machine's configuration may ask for and that nothing here reads.
const USELESS_LISTS: [&str; 5] =
    ["CNF", "DEP-11", "DEP-11-icons", "DEP-11-icons-hidpi", "DEP-11-icons-small"];
/// Where a Debian for x86-64 has its libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Downloading 80 MB may take a while.
const LIMIT: Duration = Duration::from_secs(900);

/// An unpacked Debian with a kernel and no system around it.
#[derive(Debug)]
pub(crate) struct Machine {
    root: PathBuf,
    release: String,
}

/// Where everything of `cargo xtask boot` lies.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(target_directory()?.join("boot"))
}

pub(crate) fn is_there() -> bool {
    directory().is_ok_and(|directory| Machine::find(&directory.join("machine")).is_some())
}

/// The machine that is there, or a new one from Debian's mirror.
pub(crate) fn ensure(mirror: Option<&str>, update: bool) -> Result<Machine> {
    let directory = directory()?;
    if !update && let Some(machine) = Machine::find(&directory.join("machine")) {
        return Ok(machine);
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!("the appliance's kernel and the tests that run on it are for x86-64");
    }
    shell::say("fetching Debian 13's kernel and QEMU, 75 MB, into target/boot; nothing is installed …");
    let apt = Apt::new(&directory.join("apt"), mirror, SUITE)?;
    apt.run(&["update"])?;
    let described = apt.ask(&["show", "--no-all-versions", KERNEL])?;
    let kernel = kernel_package(&described).with_context(|| format!("{KERNEL} names no kernel"))?;
    apt.run(&[&["--download-only", "--no-install-recommends", "install"], &PROGRAMS[..]].concat())?;
    apt.run(&["download", kernel])?;
    let release = kernel.trim_start_matches("linux-image-");
    Machine::unpack(&apt.packages()?, release, &directory.join("machine"))
}

/// Unpacks a package of a suite with all its libraries, without a system around it, below `directory`, and returns where.
/// What is there already stays as it is.
pub(crate) fn unpack_program(suite: &str, package: &str, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    let complete = directory.join("complete");
    if complete.is_file() {
        return Ok(root);
    }
    shell::say(&format!("fetching {package} of Debian {suite} with its libraries; nothing is installed …"));
    let apt = Apt::new(&directory.join("apt"), None, suite)?;
    apt.run(&["update"])?;
    apt.run(&["--download-only", "--no-install-recommends", "install", package])?;
    if root.exists() {
        fs::remove_dir_all(&root).context("remove what was unpacked before")?;
    }
    fs::create_dir_all(&root).context("make a directory to unpack into")?;
    for package in apt.packages()? {
        unpack_one(&package, &root)?;
    }
    // Last: without it the rest is not whole.
    fs::write(&complete, suite).context("note that everything is unpacked")?;
    Ok(root)
}

fn unpack_one(package: &Path, root: &Path) -> Result<()> {
    let mut unpack = Command::new("dpkg-deb");
    process::run(unpack.arg("-x").arg(package).arg(root), LIMIT)?.ok()?;
    fs::remove_file(package).with_context(|| format!("remove {}", package.display()))
}

impl Machine {
    fn find(root: &Path) -> Option<Self> {
        let release = fs::read_to_string(root.join("release")).ok()?;
        Some(Self { root: root.to_owned(), release })
    }

    fn unpack(packages: &[PathBuf], release: &str, root: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).context("remove the old machine")?;
        }
        fs::create_dir_all(root).context("make the machine's directory")?;
        packages.iter().try_for_each(|package| unpack_one(package, root))?;
        let machine = Self { root: root.to_owned(), release: release.to_owned() };
        // Which module needs which is found out when a kernel is installed; this one is not.
        let mut depmod = machine.program("usr/sbin/depmod");
        depmod.arg("-b").arg(root.join("usr")).arg(release);
        process::run(&mut depmod, LIMIT)?.ok()?;
        // Last: a machine without it is not whole.
        fs::write(root.join("release"), release).context("note the kernel's release")?;
        Ok(machine)
    }

    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("usr/lib/modules").join(&self.release)
    }

    /// Linked statically: it runs here and in the guest.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.root.join("usr/bin/busybox")
    }

    pub(crate) fn qemu(&self) -> Command {
        let mut qemu = self.program("usr/bin/qemu-system-x86_64");
        qemu.env("QEMU_MODULE_DIR", self.libraries().join("qemu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(self.root.join(firmware));
        }
        qemu
    }

    pub(crate) fn virtiofsd(&self) -> Command {
        self.program("usr/libexec/virtiofsd")
    }

    fn libraries(&self) -> PathBuf {
        self.root.join(LIBRARIES)
    }

    fn program(&self, path: &str) -> Command {
        program(&self.root, path)
    }
}

/// A program below `root` with Debian 13's loader and libraries, whatever this machine has.
pub(crate) fn program(root: &Path, path: &str) -> Command {
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(root.join(LIBRARIES)).arg(root.join(path));
    command
}

/// apt with everything of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    directory: PathBuf,
}

impl Apt {
    pub(crate) fn new(directory: &Path, mirror: Option<&str>, suite: &str) -> Result<Self> {
        if process::find_program("apt-get").is_none() {
            bail!("this needs apt, as on Debian and Ubuntu");
        }
        let Some(keyring) = KEYRINGS.into_iter().find(|path| Path::new(path).is_file()) else {
            bail!("the keys of Debian's archive are missing: `apt-get install debian-archive-keyring`");
        };
        let mirror = match mirror {
            Some(mirror) => mirror.to_owned(),
            None => configured_mirror()?,
        };
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(directory.join(part)).context("make apt's directories")?;
        }
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        // No package counts as installed, so that all libraries come along.
        write("status", "")?;
        write("sources.list", &format!("deb [signed-by={keyring}] {mirror} {suite} main\n"))?;
        let place = directory.to_str().filter(|place| !place.contains(['"', '\n']));
        write("apt.conf", &configuration(place.context("apt cannot be told of this directory's name")?))?;
        let apt = Self { directory: directory.to_owned() };
        // Left behind by an interrupted run: they may be of an older version.
        for package in apt.packages()? {
            fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
        }
        Ok(apt)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.directory.join("apt.conf")).args(arguments);
        command.current_dir(self.directory.join("archives")).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command("apt-get", &[&["-q", "-y"], arguments].concat());
        process::run(&mut command, LIMIT)?.ok().map(drop)
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        Ok(process::run(&mut self.command("apt-cache", arguments), LIMIT)?.ok()?.stdout)
    }

    pub(crate) fn packages(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.directory.join("archives")).context("list the packages")?;
        let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "deb")).collect())
    }
}

/// Read after this machine's own configuration, of which it keeps what leads to the mirror: proxy and access.
fn configuration(place: &str) -> String {
    let hooks =
        ["Pre-Invoke", "Post-Invoke", "Post-Invoke-Success"].map(|hook| format!("APT::Update::{hook}"));
    let lists = USELESS_LISTS.map(|list| format!("Acquire::IndexTargets::deb::{list}"));
    let other = [String::from("APT::Default-Release"), String::from("Dir::Etc::preferencesparts")];
    let cleared = hooks.into_iter().chain(lists).chain(other).map(|name| format!("#clear {name};\n"));
    let set = [
        ("Dir::Etc::sourcelist", format!("{place}/sources.list")),
        ("Dir::Etc::sourceparts", String::from("/dev/null")),
        ("Dir::Etc::preferences", String::from("/dev/null")),
        ("Dir::Etc::preferencesparts", String::from("/dev/null")),
        ("Dir::State", place.to_owned()),
        ("Dir::State::lists", format!("{place}/lists")),
        ("Dir::State::status", format!("{place}/status")),
        ("Dir::Cache", place.to_owned()),
        ("Dir::Cache::archives", format!("{place}/archives")),
        ("Acquire::AllowInsecureRepositories", String::from("false")),
        ("Acquire::Languages", String::from("none")),
        ("Acquire::Retries", String::from("3")),
        ("APT::Update::Error-Mode", String::from("any")),
        ("APT::Get::AllowUnauthenticated", String::from("false")),
        // root's apt fetches as a user who may not enter just any directory; this one is of no other use.
        ("APT::Sandbox::User", String::from("root")),
    ];
    let set = set.into_iter().map(|(name, value)| format!("{name} \"{value}\";\n"));
    cleared.chain(set).collect()
}

pub(crate) fn configured_mirror() -> Result<String> {
    let targets = configured_targets()?;
    let mirror = mirror_of(&targets);
    mirror.map(str::to_owned).context("apt is configured for no mirror of Debian; name one with --mirror")
}

/// Where this machine's apt gets Debian's security updates, if it does.
pub(crate) fn configured_security_mirror() -> Result<Option<String>> {
    Ok(archive_of(&configured_targets()?, "Debian-Security", "/debian-security").map(str::to_owned))
}

fn configured_targets() -> Result<String> {
    let format = "$(REPO_URI)|$(LABEL)|$(COMPONENT)";
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format", format, "Created-By: Packages"]);
    Ok(process::run(&mut ask, LIMIT)?.ok()?.stdout)
}

fn mirror_of(targets: &str) -> Option<&str> {
    archive_of(targets, "Debian", "/debian")
}

/// The first source that calls itself so, or, when no list was fetched yet, looks like it by the end of its address.
fn archive_of<'a>(targets: &'a str, name: &str, ending: &str) -> Option<&'a str> {
    let rows = || {
        targets.lines().filter_map(|line| {
            let mut fields = line.split('|');
            let (uri, label, component) = (fields.next()?, fields.next()?, fields.next()?);
            (component == "main").then_some((uri.trim_end_matches('/'), label))
        })
    };
    let named = rows().find(|(_, label)| *label == name);
    named.or_else(|| rows().find(|(uri, _)| uri.ends_with(ending))).map(|(uri, _)| uri)
}

/// The package of a kernel that the package without a version depends on.
fn kernel_package(described: &str) -> Option<&str> {
    let depends = described.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let mut names = depends.split(',').filter_map(|one| one.split_whitespace().next());
    names.find(|name| name.starts_with("linux-image-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_main_archive() {
        let targets = "http://m.example/security/|Debian-Security|main\nhttp://m.example/d/|Debian|contrib\n\
                       http://m.example/d/|Debian|main\nhttp://n.example/debian/|Debian|main\n";
        assert_eq!(mirror_of(targets), Some("http://m.example/d"));
        assert_eq!(archive_of(targets, "Debian-Security", "/x"), Some("http://m.example/security"));
    }

    #[test]
    fn before_lists_are_fetched_the_address_tells() {
        let targets = "http://m.example/debian-security/||main\nhttp://m.example/debian/||main\n";
        assert_eq!(mirror_of(targets), Some("http://m.example/debian"));
        assert_eq!(mirror_of("http://m.example/ubuntu/|Ubuntu|main\n"), None);
    }

    #[test]
    fn the_kernel_is_what_the_package_without_a_version_depends_on() {
        let described = "Package: linux-image-cloud-amd64\nDepends: base, linux-image-6.12.1+deb13-cloud-amd64 (= 6.12.1-1)\n";
        assert_eq!(kernel_package(described), Some("linux-image-6.12.1+deb13-cloud-amd64"));
        assert_eq!(kernel_package("Package: x\n"), None);
    }

    #[test]
    fn everything_of_this_apt_lies_in_its_own_directory() {
        let text = configuration("/somewhere");
        for key in ["State", "State::lists", "State::status", "Cache", "Cache::archives", "Etc::sourcelist"] {
            assert!(text.contains(&format!("Dir::{key} \"/somewhere")), "{key}");
        }
        assert!(text.contains("#clear APT::Update::Post-Invoke;"));
    }
}
