//! What the kernel says of the machine, read when somebody looks. A number that cannot be read is left out.
//!
//! Only what is small and bounded: no series for each processor, file system or process. Whoever wants more runs
//! node_exporter beside the gateway.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
/// Names the file with what `chronyc -c tracking` says, for daemons that may not ask the kernel: most filters of system
/// calls kill who does.
const TRACKING: &str = "PORTCULLIS_CLOCK_TRACKING";
/// How old that may be; nobody knows of the clock what was true before.
const TRACKING_AGE: Duration = Duration::from_secs(5 * 60);

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
    let told = match std::env::var_os(TRACKING) {
        Some(path) => Some(tracking(Path::new(&path))),
        None if proc("self/status").is_some_and(|status| calls_are_unfiltered(&status)) => {
            Clock::now().ok().map(|clock| (clock.synchronised, Some(clock.max_error_microseconds)))
        }
        None => None,
    };
    let Some((synchronised, most)) = told else { return };
    writer.single(names::CLOCK_SYNCHRONISED, Some(u8::from(synchronised)));
    let seconds = |most: u64| format!("{}.{:06}", most / 1_000_000, most % 1_000_000);
    writer.single(names::CLOCK_MAX_ERROR, most.map(seconds));
}

/// Whether chronyd has the time from somebody, and how many microseconds it may be off. Where chronyd does not answer, or
/// nobody has asked it for a while, it has not.
fn tracking(path: &Path) -> (bool, Option<u64>) {
    let read = || {
        let file = fs::File::open(path).ok()?;
        let age = file.metadata().ok()?.modified().ok()?.elapsed();
        // A time in the future is that of a clock that was set since.
        if age.is_ok_and(|age| age > TRACKING_AGE) {
            return None;
        }
        let mut said = String::new();
        file.take(1024).read_to_string(&mut said).ok()?;
        let fields: Vec<&str> = said.trim_end().split(',').collect();
        let number = |index: usize| fields.get(index)?.parse::<f64>().ok();
        // chronyc(1), tracking: the offset of the system's time, root delay and root dispersion, in seconds. Together they
        // bound the error.
        let most = number(4)?.abs() + number(10)?.abs() / 2.0 + number(11)?;
        let synchronised = ["Normal", "Insert second", "Delete second"].contains(fields.get(13)?);
        let most = Duration::try_from_secs_f64(most).ok().filter(|_| synchronised);
        Some((synchronised, most.and_then(|most| u64::try_from(most.as_micros()).ok())))
    };
    read().unwrap_or((false, None))
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

    #[test]
    fn what_chronyc_says_tells_the_clock() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("tracking");
        assert_eq!(tracking(&file), (false, None), "nobody has asked");
        fs::write(
            &file,
            "A29FC87B,162.159.200.123,4,1700000000.5,-0.000010,-0.00002,0.00003,-1.1,0.0,0.1,0.020,0.005,64.4,Normal\n",
        )
        .unwrap();
        assert_eq!(tracking(&file), (true, Some(15_010)));
        fs::write(&file, "00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised\n").unwrap();
        assert_eq!(tracking(&file), (false, None));
        for text in ["", "506 Cannot talk to daemon\n", "a,b,c\n"] {
            fs::write(&file, text).unwrap();
            assert_eq!(tracking(&file), (false, None), "{text:?}");
        }
    }

    #[test]
    fn what_chronyc_said_long_ago_tells_nothing() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("tracking");
        fs::write(&file, "7F7F0101,,1,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,Normal\n").unwrap();
        assert_eq!(tracking(&file), (true, Some(0)));
        let before = std::time::SystemTime::now() - TRACKING_AGE - Duration::from_secs(1);
        fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
        assert_eq!(tracking(&file), (false, None));
    }
}
