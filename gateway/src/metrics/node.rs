//! What the kernel says of the machine, read when somebody looks. A number that cannot be read is left out.
//!
//! Only what is small and bounded: no series for each processor, file system or process. Whoever wants more runs
//! node_exporter beside the gateway.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use portcullis_uring::Clock;

use super::names::Family;
use super::names::node as names;
use super::text::Writer;

/// Interfaces that are told of, in the kernel's order: those that were there at boot come first.
const DEVICES_MAX: usize = 32;
/// Clock ticks of a second in `/proc/stat`, proc(5): `USER_HZ`, which is 100 wherever the gateway runs.
const TICKS_PER_SECOND: u64 = 100;
/// What the numbers of the line `cpu` are; the two behind them are in the first two already.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
/// Says that the clock may be looked at although system calls are filtered: most filters kill who asks for it.
const CLOCK_PERMITTED: &str = "PORTCULLIS_MAY_READ_CLOCK";

/// Everything. `directories` are those whose file systems matter, each with the value of its label.
pub(super) fn render(directories: &[(&'static str, PathBuf)], writer: &mut Writer) {
    if let Some(stat) = proc("stat") {
        processors(&stat, writer);
    }
    if let Some(load) = proc("loadavg") {
        let mut averages = load.split_whitespace().map(|word| word.parse::<f64>().ok());
        for family in [names::LOAD1, names::LOAD5, names::LOAD15] {
            writer.single(family, averages.next().flatten());
        }
    }
    if let Some(memory) = proc("meminfo") {
        for (family, key) in [
            (names::MEMORY_TOTAL, "MemTotal:"),
            (names::MEMORY_AVAILABLE, "MemAvailable:"),
            (names::MEMORY_SWAP_TOTAL, "SwapTotal:"),
            (names::MEMORY_SWAP_FREE, "SwapFree:"),
        ] {
            writer.single(family, kilobytes(&memory, key));
        }
    }
    if let Some(descriptors) = proc("sys/fs/file-nr") {
        let mut numbers = descriptors.split_whitespace().map(|word| word.parse::<u64>().ok());
        writer.single(names::DESCRIPTORS, numbers.next().flatten());
        writer.single(names::DESCRIPTORS_MAX, numbers.nth(1).flatten());
    }
    filesystems(directories, writer);
    if let Some(table) = proc("net/dev") {
        devices(&table, writer);
    }
    clock(writer);
}

fn proc(path: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc").join(path)).ok()
}

fn processors(stat: &str, writer: &mut Writer) {
    let line = |name: &str| {
        let found = stat.lines().find_map(|line| line.strip_prefix(name));
        found.map(|rest| rest.split_whitespace().map_while(|word| word.parse::<u64>().ok()))
    };
    let modes = line("cpu ").into_iter().flat_map(|ticks| MODES.into_iter().zip(ticks));
    writer.family(names::CPU_SECONDS, modes.map(|(mode, ticks)| (vec![mode.to_owned()], seconds(ticks))));
    let one = |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| !rest.starts_with(' '));
    writer.single(names::CPUS, Some(stat.lines().filter(one).count()));
    writer.single(names::BOOT_TIME, line("btime ").and_then(|mut numbers| numbers.next()));
}

fn seconds(ticks: u64) -> String {
    format!("{}.{:02}", ticks / TICKS_PER_SECOND, ticks % TICKS_PER_SECOND)
}

fn kilobytes(memory: &str, key: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn filesystems(directories: &[(&'static str, PathBuf)], writer: &mut Writer) {
    let found: Vec<_> =
        directories.iter().filter_map(|(name, path)| Some((*name, statvfs(path).ok()?))).collect();
    let mut family = |family: Family, number: fn(&nix::sys::statvfs::Statvfs) -> u64| {
        writer.family(family, found.iter().map(|(name, at)| (vec![(*name).to_owned()], number(at))));
    };
    family(names::FILESYSTEM_SIZE, |at| at.blocks().saturating_mul(at.fragment_size()));
    family(names::FILESYSTEM_AVAIL, |at| at.blocks_available().saturating_mul(at.fragment_size()));
    family(names::FILESYSTEM_FILES, |at| at.files());
    family(names::FILESYSTEM_FILES_FREE, |at| at.files_free());
    family(names::FILESYSTEM_READONLY, |at| u64::from(at.flags().contains(FsFlags::ST_RDONLY)));
}

fn devices(table: &str, writer: &mut Writer) {
    let rows: Vec<_> = table.lines().filter_map(device).take(DEVICES_MAX).collect();
    for (family, column) in [
        (names::NETWORK_RECEIVE_BYTES, 0),
        (names::NETWORK_RECEIVE_PACKETS, 1),
        (names::NETWORK_RECEIVE_ERRORS, 2),
        (names::NETWORK_RECEIVE_DROP, 3),
        (names::NETWORK_TRANSMIT_BYTES, 8),
        (names::NETWORK_TRANSMIT_PACKETS, 9),
        (names::NETWORK_TRANSMIT_ERRORS, 10),
        (names::NETWORK_TRANSMIT_DROP, 11),
    ] {
        let numbers = rows.iter().filter_map(|(name, row)| Some((vec![name.clone()], *row.get(column)?)));
        writer.family(family, numbers);
    }
    let is_up = |name: &str| {
        let state = fs::read_to_string(Path::new("/sys/class/net").join(name).join("operstate"));
        state.ok().map(|state| u8::from(state.trim() == "up"))
    };
    writer.family(
        names::NETWORK_UP,
        rows.iter().filter_map(|(name, _)| Some((vec![name.clone()], is_up(name)?))),
    );
}

/// A line of `/proc/net/dev`: the interface's name, and its numbers. The loopback interface is none to watch.
fn device(line: &str) -> Option<(String, Vec<u64>)> {
    let (name, numbers) = line.rsplit_once(':')?;
    let numbers: Vec<u64> = numbers.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let name = name.trim();
    (numbers.len() >= 12 && name != "lo").then(|| (name.to_owned(), numbers))
}

fn clock(writer: &mut Writer) {
    let permitted = std::env::var_os(CLOCK_PERMITTED).is_some_and(|value| value == "yes");
    if !permitted && !proc("self/status").is_some_and(|status| calls_are_unfiltered(&status)) {
        return;
    }
    if let Ok(clock) = Clock::now() {
        writer.single(names::CLOCK_SYNCHRONISED, Some(u8::from(clock.synchronised)));
        let most = clock.max_error_microseconds;
        writer.single(names::CLOCK_MAX_ERROR, Some(format!("{}.{:06}", most / 1_000_000, most % 1_000_000)));
    }
}

/// Whether no seccomp filter is in force (`Seccomp:` in proc(5)).
fn calls_are_unfiltered(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Writer)) -> String {
        let mut writer = Writer::default();
        write(&mut writer);
        writer.finish()
    }

    #[test]
    fn processors_are_added_up_by_mode() {
        let stat = "cpu  1050 0 300 90001 7 0 12 3 0 0\ncpu0 525 0 150 45000 3 0 6 1 0 0\n\
                    cpu1 525 0 150 45001 4 0 6 2 0 0\nintr 5 1 2\nctxt 9\nbtime 1700000000\n";
        let text = written(|writer| processors(stat, writer));
        for line in [
            "portcullis_node_cpu_seconds_total{mode=\"user\"} 10.50\n",
            "portcullis_node_cpu_seconds_total{mode=\"idle\"} 900.01\n",
            "portcullis_node_cpu_seconds_total{mode=\"steal\"} 0.03\n",
            "portcullis_node_cpus 2\n",
            "portcullis_node_boot_time_seconds 1700000000\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("guest"), "{text}");
    }

    #[test]
    fn interfaces_are_bounded_and_loopback_is_left_out() {
        let header =
            "Inter-|   Receive                       |  Transmit\n face |bytes    packets errs drop\n";
        let row = |name: &str| format!("{name:>6}: 11 12 13 14 0 0 0 0 21 22 23 24 0 0 0 0\n");
        let many: String = (0..40).map(|index| row(&format!("eth{index}"))).collect();
        let text = written(|writer| devices(&format!("{header}{}{many}", row("lo")), writer));
        assert!(text.contains("portcullis_node_network_receive_drop_total{device=\"eth0\"} 14\n"), "{text}");
        assert!(
            text.contains("portcullis_node_network_transmit_bytes_total{device=\"eth31\"} 21\n"),
            "{text}"
        );
        assert!(!text.contains("eth32") && !text.contains("\"lo\""), "{text}");
    }

    #[test]
    fn memory_is_told_in_bytes() {
        let memory = "MemTotal:        2000 kB\nMemFree: 5 kB\nMemAvailable:    1500 kB\n";
        assert_eq!(kilobytes(memory, "MemAvailable:"), Some(1_536_000));
        assert_eq!(kilobytes(memory, "SwapTotal:"), None);
    }

    #[test]
    fn texts_of_another_shape_tell_nothing_and_break_nothing() {
        for text in ["", "cpu", "cpu x\nbtime\n", "eth0: 1 2 3\n", ":\n"] {
            let text = written(|writer| {
                processors(text, writer);
                devices(text, writer);
            });
            assert!(!text.contains("seconds_total{") && !text.contains("bytes_total"), "{text}");
        }
    }

    #[test]
    fn this_machine_tells_everything_but_perhaps_its_clock() {
        let here = vec![("state", std::env::temp_dir()), ("log", PathBuf::from("/does/not/exist"))];
        let text = written(|writer| render(&here, writer));
        for family in names::ALL {
            let depends = family.name.contains("_timex_") || family.name.contains("_network_");
            assert!(depends || text.contains(family.name), "{} in {text}", family.name);
        }
        assert!(text.contains("directory=\"state\"") && !text.contains("directory=\"log\""), "{text}");
    }

    #[test]
    fn the_clock_is_not_asked_for_where_calls_are_filtered() {
        assert!(calls_are_unfiltered("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n"));
        assert!(!calls_are_unfiltered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t7\n"));
        assert!(!calls_are_unfiltered(""));
    }
}
