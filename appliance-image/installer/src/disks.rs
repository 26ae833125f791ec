//! The disks of the machine, as the kernel lists them in `/sys/class/block`.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The image, both slots, and room for the state.
pub const BYTES_MIN: u64 = 2_000_000_000;
/// Files on the system partition and the partition table are made for it.
const SECTOR_BYTES: u64 = 512;
/// Devices that are no disks: memory, loops, what is built of disks, optical and floppy drives.
const NO_DISKS: [&str; 9] = ["ram", "zram", "loop", "dm-", "md", "sr", "fd", "nbd", "mtdblock"];
/// What the appliance calls its partitions; a second disk with them would be taken for the first.
const OURS: &str = "state";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// As the kernel calls it: `sda`, `nvme0n1`.
    pub name: String,
    pub node: PathBuf,
    pub bytes: u64,
    pub model: String,
    pub serial: String,
    /// What is on it, for a person; `None` when there is nothing.
    pub holds: Option<String>,
    /// Whether an appliance has run from it.
    pub ours: bool,
    /// Why it cannot be used.
    pub unfit: Option<String>,
}

impl Disk {
    /// One line for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let tenths = self.bytes / 100_000_000;
        let holds = self.holds.as_deref().unwrap_or("empty");
        let serial = if self.serial.is_empty() { String::new() } else { format!(", serial {}", self.serial) };
        let model = if self.model.is_empty() { "disk" } else { &self.model };
        format!("{}: {}.{} GB, {model}{serial}; {holds}", self.name, tenths / 10, tenths % 10)
    }

    fn is(&self, wanted: &str) -> bool {
        wanted == self.name
            || wanted == self.serial
            || fs::canonicalize(wanted).is_ok_and(|path| path == self.node)
    }
}

/// All disks, by name, except the one that the installer was started from.
///
/// # Errors
/// When the kernel lists none at all.
pub fn find(sys: &Path, dev: &Path, medium: Option<&str>) -> Result<Vec<Disk>> {
    let class = sys.join("class/block");
    let mut disks = Vec::new();
    for entry in fs::read_dir(&class).with_context(|| format!("list {}", class.display()))? {
        let place = entry.context("list the block devices")?.path();
        let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if place.join("partition").exists() || NO_DISKS.iter().any(|start| name.starts_with(start)) {
            continue;
        }
        let Some(bytes) = number(&place.join("size")).map(|sectors| sectors * 512).filter(|bytes| *bytes > 0)
        else {
            continue;
        };
        let partitions = partitions(&place)?;
        let is_medium = |one: &Partition| {
            one.uuid
                .as_deref()
                .is_some_and(|uuid| medium.is_some_and(|medium| uuid.eq_ignore_ascii_case(medium)))
        };
        if partitions.iter().any(is_medium) {
            continue;
        }
        let node = dev.join(&name);
        let holds = holds(&partitions, &node);
        disks.push(Disk {
            ours: partitions.iter().any(|one| one.label.as_deref() == Some(OURS)),
            unfit: unfit(&place, bytes),
            model: text(&place.join("device/model")),
            serial: serial(&place),
            name,
            node,
            bytes,
            holds,
        });
    }
    disks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(disks)
}

/// The disk that a credential or a person names.
///
/// # Errors
/// When there is no such disk, when `only` is not unambiguous, or when it cannot be used.
pub fn choose<'a>(disks: &'a [Disk], wanted: &str) -> Result<&'a Disk> {
    let known = || disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(", ");
    let disk = if wanted == "only" {
        let mut fit = disks.iter().filter(|disk| disk.unfit.is_none());
        match (fit.next(), fit.next()) {
            (Some(disk), None) => disk,
            (None, _) => bail!("there is no disk that could be used"),
            (Some(_), Some(_)) => bail!("there is more than one disk: {}; name one", known()),
        }
    } else {
        let found = disks.iter().find(|disk| disk.is(wanted));
        found.with_context(|| format!("there is no disk `{wanted}`; there are: {}", known()))?
    };
    if let Some(why) = &disk.unfit {
        bail!("{} cannot be used: {why}", disk.name);
    }
    // The state partition is found by its name.
    if let Some(other) = disks.iter().find(|other| other.ours && other.name != disk.name) {
        bail!(
            "an appliance is on {} already, and with two the wrong one may be used: unplug or erase it",
            other.name
        );
    }
    Ok(disk)
}

#[derive(Debug)]
struct Partition {
    label: Option<String>,
    uuid: Option<String>,
}

fn partitions(place: &Path) -> Result<Vec<Partition>> {
    let mut partitions = Vec::new();
    for entry in fs::read_dir(place).with_context(|| format!("list {}", place.display()))? {
        let inner = entry.context("list a disk's partitions")?.path();
        if inner.join("partition").exists() {
            let uevent = fs::read_to_string(inner.join("uevent")).unwrap_or_default();
            let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
            partitions.push(Partition { label: value("PARTNAME="), uuid: value("PARTUUID=") });
        }
    }
    Ok(partitions)
}

/// What would be lost.
fn holds(partitions: &[Partition], node: &Path) -> Option<String> {
    if !partitions.is_empty() {
        let labels: Vec<&str> = partitions.iter().filter_map(|one| one.label.as_deref()).collect();
        let named = if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(", ")) };
        return Some(format!("{} partitions{named}", partitions.len()));
    }
    let mut start = Vec::new();
    let read = fs::File::open(node).and_then(|file| file.take(1 << 20).read_to_end(&mut start));
    // What cannot be read counts as something: nobody shall be told that it is empty.
    (read.is_err() || start.iter().any(|byte| *byte != 0)).then(|| "data without partitions".to_owned())
}

fn unfit(place: &Path, bytes: u64) -> Option<String> {
    if text(&place.join("ro")) == "1" {
        return Some("it is read-only".to_owned());
    }
    if bytes < BYTES_MIN {
        return Some("it is smaller than 2 GB".to_owned());
    }
    match number(&place.join("queue/logical_block_size")) {
        Some(SECTOR_BYTES) | None => None,
        Some(other) => {
            Some(format!("its sectors have {other} bytes and not 512; many can be reformatted to that"))
        }
    }
}

fn serial(place: &Path) -> String {
    let found = ["device/serial", "serial"].map(|name| text(&place.join(name)));
    found.into_iter().find(|serial| !serial.is_empty()).unwrap_or_default()
}

fn text(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().chars().filter(|c| !c.is_control()).take(64).collect()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let world = Self(tempfile::tempdir().unwrap());
            world.write("sys/class/block/loop0/size", "100\n");
            fs::create_dir_all(world.path("dev")).unwrap();
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn disk(&self, name: &str, gigabytes: u64, start: &str) {
            self.write(&format!("sys/class/block/{name}/size"), &format!("{}\n", gigabytes * 1_953_125));
            self.write(&format!("sys/class/block/{name}/device/model"), "QEMU DISK   \n");
            self.write(&format!("dev/{name}"), start);
        }

        fn partition(&self, disk: &str, number: u8, uevent: &str) {
            self.write(&format!("sys/class/block/{disk}/{disk}{number}/partition"), "1\n");
            self.write(&format!("sys/class/block/{disk}/{disk}{number}/uevent"), uevent);
        }

        fn find(&self, medium: Option<&str>) -> Vec<Disk> {
            find(&self.path("sys"), &self.path("dev"), medium).unwrap()
        }
    }

    #[test]
    fn disks_are_listed_with_what_would_be_lost() {
        let world = World::new();
        world.disk("sda", 8, "\0\0");
        world.disk("sdb", 8, "boot code");
        world.disk("sdc", 8, "");
        world.partition("sdc", 1, "PARTN=1\nPARTNAME=data\n");
        let lines: Vec<String> = world.find(None).iter().map(Disk::describe).collect();
        assert_eq!(
            lines,
            [
                "sda: 8.0 GB, QEMU DISK; empty",
                "sdb: 8.0 GB, QEMU DISK; data without partitions",
                "sdc: 8.0 GB, QEMU DISK; 1 partitions (data)",
            ]
        );
    }

    #[test]
    fn the_medium_itself_is_never_offered() {
        let world = World::new();
        world.disk("sda", 8, "");
        world.disk("sdb", 8, "");
        world.partition("sdb", 2, "PARTN=2\nPARTUUID=0a0b0c0d-0000-4000-8000-000000000001\n");
        let disks = world.find(Some("0A0B0C0D-0000-4000-8000-000000000001"));
        assert_eq!(choose(&disks, "only").unwrap().name, "sda");
        assert!(choose(&world.find(None), "only").unwrap_err().to_string().contains("sda, sdb"));
    }

    #[test]
    fn a_disk_is_named_by_name_serial_or_path() {
        let world = World::new();
        world.disk("sda", 8, "");
        world.disk("nvme0n1", 8, "");
        world.write("sys/class/block/nvme0n1/device/serial", "S4EVNX0R\n");
        let disks = world.find(None);
        let path = fs::canonicalize(world.path("dev")).unwrap().join("sda");
        for (wanted, found) in [("sda", "sda"), ("S4EVNX0R", "nvme0n1"), (path.to_str().unwrap(), "sda")] {
            assert_eq!(choose(&disks, wanted).unwrap().name, found, "{wanted}");
        }
        assert!(choose(&disks, "sdz").unwrap_err().to_string().contains("nvme0n1, sda"));
    }

    #[test]
    fn what_cannot_hold_the_appliance_is_refused_with_the_reason() {
        let world = World::new();
        world.disk("sda", 1, "");
        world.disk("sdb", 8, "");
        world.write("sys/class/block/sdb/queue/logical_block_size", "4096\n");
        world.disk("sdc", 8, "");
        world.write("sys/class/block/sdc/ro", "1\n");
        let disks = world.find(None);
        for (name, why) in [("sda", "2 GB"), ("sdb", "4096"), ("sdc", "read-only")] {
            assert!(choose(&disks, name).unwrap_err().to_string().contains(why), "{name}");
        }
        assert!(choose(&disks, "only").is_err());
    }

    #[test]
    fn a_second_appliance_in_the_machine_is_an_error_and_its_own_disk_is_not() {
        let world = World::new();
        world.disk("sda", 8, "");
        world.partition("sda", 6, "PARTNAME=state\n");
        world.disk("sdb", 8, "");
        let disks = world.find(None);
        assert!(choose(&disks, "sdb").unwrap_err().to_string().contains("on sda already"));
        assert_eq!(choose(&disks, "sda").unwrap().name, "sda");
    }
}
