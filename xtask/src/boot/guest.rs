//! What happens inside the guest, as two shell scripts: its start, and the work.
//!
//! The guest sees this machine's files, read-only, with a layer of its own in memory above them. So every program and
//! library that the tests find here they find there, at the same place; only the kernel is another.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::debian::Machine;
use super::initramfs::Archive;
use super::report::Mark;

/// The name by which the guest finds this machine's files.
pub(crate) const TAG: &str = "host";
/// The serial line of the work; the kernel has the first.
const TERMINAL: &str = "/dev/ttyS1";
/// What Debian's kernel has as a module, and what asks for it does so too late or not at all.
const MODULES: [&str; 4] = ["veth", "virtio_net", "sch_ingress", "cls_bpf"];
const OVERLAY: &str = "kernel/fs/overlayfs/overlay.ko.xz";

/// One program of the work.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    /// Whether what follows is pointless when it fails.
    pub(crate) decisive: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) parts: Vec<Part>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: String,
    /// For each part; the guest also ends by itself.
    pub(crate) limit: Duration,
}

/// The file system that the kernel starts from.
pub(crate) fn initramfs(machine: &Machine, work: &Work, mark: &Mark) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let modules = machine.modules();
    let start = start(&modules.to_string_lossy(), machine.release());
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "host", "own", "root", "run"] {
        archive.directory(directory)?;
    }
    archive.program("bin/busybox", &read(&machine.busybox())?)?;
    archive.link("bin/sh", "busybox")?;
    archive.program("overlay.ko.xz", &read(&modules.join(OVERLAY))?)?;
    archive.program("init", start.as_bytes())?;
    archive.program("work", script(work, mark).as_bytes())?;
    archive.finish()
}

/// Mounts everything and begins the work as the first process.
fn start(modules: &str, release: &str) -> String {
    format!(
        r#"#!/bin/sh
set -e
export PATH=/bin
# Without the first process the kernel panics, and ends by that.
trap 'echo "the guest cannot start, see above"; busybox poweroff -f' EXIT
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t virtiofs -o ro {TAG} /host
insmod /overlay.ko.xz
mount -t tmpfs -o mode=755 own /own
mkdir /own/upper /own/work
mount -t overlay -o lowerdir=/host,upperdir=/own/upper,workdir=/own/work root /root
mkdir -p /root/dev /root/proc /root/sys /root/run /root/lib/modules
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t bpf bpf /root/sys/fs/bpf
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /root/run/lock /root/run/boot
ln -sfn {modules} /root/lib/modules/{release}
cp /bin/busybox /work /root/run/boot/
ln -s busybox /root/run/boot/modprobe
trap - EXIT
exec switch_root /root /run/boot/busybox sh /run/boot/work
"#,
        modules = quoted(modules),
        release = quoted(release),
    )
}

/// Runs the parts one after the other, says how each ended, and switches the machine off.
fn script(work: &Work, mark: &Mark) -> String {
    let mark = mark.as_str();
    let mut script = format!(
        r#"busybox=/run/boot/busybox
$busybox stty -F {TERMINAL} raw -echo
exec <{TERMINAL} >{TERMINAL} 2>&1
echo "{mark} kernel $($busybox uname -r)"
# The kernel loads further modules itself, by the program that is surely there.
echo /run/boot/modprobe >/proc/sys/kernel/modprobe
$busybox modprobe -a {modules}
$busybox ip link set lo up
"#,
        modules = MODULES.join(" "),
    );
    // Writing to a string cannot fail.
    for (name, value) in &work.environment {
        writeln!(script, "export {name}={}", quoted(value)).unwrap_or_default();
    }
    writeln!(script, "cd {}\nfailed=", quoted(&work.directory)).unwrap_or_default();
    for part in &work.parts {
        let words = part.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        let name = &part.name;
        let decisive = if part.decisive { "\n    [ $status = 0 ] || failed=yes" } else { "" };
        write!(
            script,
            r#"if [ -z "$failed" ]; then
    echo "{mark} begin {name}"
    $busybox timeout -k 5 {seconds} {words}
    status=$?
    echo "{mark} end {name} $status"{decisive}
fi
"#,
            seconds = work.limit.as_secs(),
        )
        .unwrap_or_default();
    }
    write!(
        script,
        r#"if [ -f "$PORTCULLIS_SKIPS" ]; then
    while read -r line; do echo "{mark} skip $line"; done <"$PORTCULLIS_SKIPS"
fi
echo "{mark} done"
$busybox poweroff -f
"#
    )
    .unwrap_or_default();
    script
}

/// A word as the shell takes it unchanged.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use portcullis_tests::process;
    use portcullis_tests::wait::PATIENCE;

    use super::*;

    #[test]
    fn a_quoted_word_comes_through_the_shell_unchanged() {
        for word in ["", "plain", "two words", "it's", "$HOME `id` \\ \"x\"", "a\nb"] {
            let mut shell = Command::new("sh");
            let output = process::run(shell.args(["-c", &format!("printf %s {}", quoted(word))]), PATIENCE);
            assert_eq!(output.unwrap().stdout, word);
        }
    }

    #[test]
    fn what_follows_a_decisive_part_waits_for_its_success() {
        let part = |name: &str, decisive| Part {
            name: name.to_owned(),
            command: vec![String::from("true"), String::from("it's")],
            decisive,
        };
        let work = Work {
            parts: vec![part("load", true), part("tests", false)],
            environment: vec![(String::from("A"), String::from("b c"))],
            directory: String::from("/"),
            limit: Duration::from_secs(7),
        };
        let script = script(&work, &Mark::new("m"));
        assert!(script.contains(r"timeout -k 5 7 'true' 'it'\''s'"), "{script}");
        assert!(script.contains("export A='b c'"));
        assert_eq!(script.matches("failed=yes").count(), 1);
        let checked = process::run(Command::new("sh").args(["-n", "-c", &script]), PATIENCE).unwrap();
        assert!(checked.success(), "{checked:?}");
        let start = start("/where/modules", "6.12");
        let checked = process::run(Command::new("sh").args(["-n", "-c", &start]), PATIENCE).unwrap();
        assert!(checked.success(), "{checked:?}");
    }
}
