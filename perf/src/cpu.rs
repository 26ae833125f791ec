//! CPU time: of a contender, of this process, of the whole machine; and on which CPU whom runs.
//!
//! A contender's time comes from a cgroup (version 2) of its own where one can be made: `usage_usec` is exact and
//! counts every thread and child. Elsewhere it comes from the CPU clocks of the process and its descendants, which are
//! exact too but lose a child that ends. Neither sees work that the kernel does in its own threads: hence the machine's
//! busy time.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, gettid};
use portcullis_tests::process;

/// The unit of every time in `/proc/stat`: fixed for user space on all architectures that we build for.
const TICK: Duration = Duration::from_millis(10);
/// Most processes that one contender may consist of.
const FAMILY_MAX: usize = 64;

/// The CPUs of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    /// Where the contenders run.
    pub(crate) contender: usize,
    /// Where load and back end run.
    pub(crate) load: usize,
}

impl Cpus {
    /// The first two CPUs that this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask which CPUs may be used")?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let (Some(contender), Some(load)) = (usable.next(), usable.next()) else {
            bail!(
                "only one CPU may be used: contenders and load need one each; \
                 run on a machine with two CPUs, or widen the affinity (`taskset -c 0,1 …`)"
            );
        };
        Ok(Self { contender, load })
    }
}

/// What keeps the CPUs out of idle states as long as it is held; none where that is not allowed.
///
/// A halted CPU of a virtual machine is woken by its hypervisor, and that time is billed to who sends the message: to
/// each contender for waking the load. A request of no latency lets idle CPUs poll instead
/// (Documentation/power/pm_qos_interface.rst of the kernel).
pub(crate) fn keep_awake() -> Option<File> {
    let mut request = File::options().write(true).open("/dev/cpu_dma_latency").ok()?;
    request.write_all(&0_i32.to_ne_bytes()).ok()?;
    Some(request)
}

/// Binds the calling thread, and all that it starts from now on, to one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("bind a thread to CPU {cpu}"))
}

/// Runs `start` in a thread that is bound to `cpu`, so that a process that it starts has never run elsewhere.
pub(crate) fn pinned<T: Send>(cpu: usize, start: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        pin(cpu)?;
        start()
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|_| bail!("the thread that starts a contender has panicked"))
}

/// Lets nothing else on its CPU delay the calling thread. False where that is not allowed.
pub(crate) fn hurry() -> bool {
    let mut chrt = Command::new("chrt");
    chrt.args(["--fifo", "--pid", "1", &gettid().to_string()]);
    process::run(&mut chrt, Duration::from_secs(5)).is_ok_and(|output| output.success())
}

/// Lets everything else on its CPU delay the calling thread.
pub(crate) fn give_way() {
    let mut chrt = Command::new("chrt");
    chrt.args(["--idle", "--pid", "0", &gettid().to_string()]);
    // Everybody may; without the program the thread is one among equals, which the measured rate shows.
    drop(process::run(&mut chrt, Duration::from_secs(5)));
}

/// Ends what [`hurry`] began.
pub(crate) fn relax() {
    let mut chrt = Command::new("chrt");
    chrt.args(["--other", "--pid", "0", &gettid().to_string()]);
    // Whoever may hurry may also stop hurrying.
    drop(process::run(&mut chrt, Duration::from_secs(5)));
}

/// As many descriptors as this machine allows, for this process and those that it starts.
pub(crate) fn widen_descriptors() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of descriptors")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of descriptors")?;
    Ok(hard)
}

/// Fails unless every thread of the process and of its descendants may run on `cpu` only.
pub(crate) fn expect_pinned(root: u32, cpu: usize) -> Result<()> {
    family(root).into_iter().try_for_each(|pid| expect_threads_pinned(pid, cpu))
}

fn expect_threads_pinned(pid: u32, cpu: usize) -> Result<()> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("list the threads of a contender")?;
    for task in tasks {
        let id: i32 = task?.file_name().to_string_lossy().parse().context("thread id")?;
        let set =
            sched_getaffinity(Pid::from_raw(id)).context("ask for the affinity of a contender's thread")?;
        let elsewhere = (0..CpuSet::count()).find(|n| *n != cpu && set.is_set(*n).unwrap_or(false));
        if let Some(other) = elsewhere {
            bail!(
                "thread {id} of process {pid} may also run on CPU {other}: the comparison would not be fair"
            );
        }
    }
    Ok(())
}

/// CPU time that this process has used: load generator and back end.
pub(crate) fn own_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).context("read this process's CPU time")?;
    Ok(Duration::from(time))
}

/// CPU time that another process has used, its threads that have ended included.
pub(crate) fn time_of(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?));
    let time = clock.and_then(clock_gettime).with_context(|| format!("CPU time of process {pid}"))?;
    Ok(Duration::from(time))
}

/// A source of one contender's CPU time.
#[derive(Debug)]
pub(crate) struct Meter {
    source: Source,
    /// The CPU that the contender is bound to.
    pub(crate) cpu: usize,
}

#[derive(Debug)]
enum Source {
    /// The directory of a cgroup made for the contender.
    Cgroup(PathBuf),
    /// The process at the root of the contender.
    Clocks(u32),
    /// There is no contender.
    Nobody,
}

impl Meter {
    /// Puts a running process under a cgroup of its own, or settles for `/proc`.
    pub(crate) fn attach(label: &str, pid: u32, cpu: usize) -> Self {
        Self { source: Source::make_cgroup(label, pid).unwrap_or(Source::Clocks(pid)), cpu }
    }

    /// Of the way without a contender, which costs nothing.
    pub(crate) fn nobody(cpu: usize) -> Self {
        Self { source: Source::Nobody, cpu }
    }

    /// Where the figures come from, for the report.
    pub(crate) fn source(&self) -> &'static str {
        match self.source {
            Source::Cgroup(_) => "cgroup v2 cpu.stat usage_usec",
            Source::Nobody => "nobody",
            Source::Clocks(_) => "CPU clocks of the process and its descendants",
        }
    }

    /// CPU time used so far.
    pub(crate) fn read(&self) -> Result<Duration> {
        self.source.read()
    }
}

impl Source {
    fn make_cgroup(label: &str, pid: u32) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let dir = cgroup2_mount(&mounts)?
            .join(own_cgroup2(&own)?.trim_start_matches('/'))
            .join(format!("portcullis-perf-{}-{label}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        let source = Self::Cgroup(dir.clone());
        for member in family(pid) {
            fs::write(dir.join("cgroup.procs"), member.to_string()).ok()?;
        }
        source.read().is_ok().then_some(source)
    }

    fn read(&self) -> Result<Duration> {
        match self {
            Self::Cgroup(dir) => {
                let text =
                    fs::read_to_string(dir.join("cpu.stat")).context("read cpu.stat of a contender")?;
                usage(&text).context("cpu.stat of a contender holds no usage_usec")
            }
            Self::Nobody => Ok(Duration::ZERO),
            Self::Clocks(root) => family(*root).into_iter().map(time_of).sum(),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Cgroup(dir) = self {
            // The contender has ended before its meter; a directory that stays behind is empty and harmless.
            drop(fs::remove_dir(dir));
        }
    }
}

fn cgroup2_mount(mounts: &str) -> Option<&Path> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(Path::new(place))
    })
}

fn own_cgroup2(own: &str) -> Option<&str> {
    own.lines().find_map(|line| line.strip_prefix("0::"))
}

fn usage(cpu_stat: &str) -> Option<Duration> {
    let micros = cpu_stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    micros.parse().ok().map(Duration::from_micros)
}

/// A process and its living descendants.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut members = vec![root];
    let mut next = 0;
    while let Some(pid) = members.get(next).copied() {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            members.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        members.truncate(FAMILY_MAX);
    }
    members
}

/// The machine's time, from `/proc/stat`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Machine {
    /// Of all CPUs: anything but idle, waiting for disks, and stolen.
    pub(crate) busy: Duration,
    /// Of all CPUs: taken by the hypervisor for others.
    pub(crate) stolen: Duration,
    /// Of one CPU: nothing to do.
    pub(crate) idle: Duration,
}

impl Machine {
    /// Reads the times, the idle time of `cpu`.
    pub(crate) fn read(cpu: usize) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::parse(&text, cpu).with_context(|| format!("/proc/stat has no times of CPU {cpu}"))
    }

    /// proc(5): user nice system idle iowait irq softirq steal guest guest_nice; guests count as user already.
    fn parse(text: &str, cpu: usize) -> Option<Self> {
        let ticks = |name: &str| -> Option<Vec<u32>> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            line.split_whitespace().map(|field| field.parse().ok()).collect()
        };
        let (all, one) = (ticks("cpu")?, ticks(&format!("cpu{cpu}"))?);
        let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = all.as_slice() else {
            return None;
        };
        let &[_, _, _, idle, iowait, ..] = one.as_slice() else { return None };
        let busy = [user, nice, system, irq, softirq].into_iter().map(|ticks| TICK * *ticks).sum();
        Some(Self { busy, stolen: TICK * *steal, idle: TICK * (idle + iowait) })
    }
}

#[cfg(test)]
mod tests {
    use portcullis_tests::wait;

    use super::*;

    #[test]
    fn usage_is_read_from_cpu_stat() {
        let text = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n";
        assert_eq!(usage(text), Some(Duration::from_micros(1_234_567)));
        assert_eq!(usage("user_usec 5\n"), None);
        assert_eq!(usage("usage_usec many\n"), None);
    }

    #[test]
    fn busy_time_leaves_out_idle_disk_and_stolen_time() {
        let text =
            "cpu  100 20 30 4000 500 6 7 8 90 10\ncpu1 1 1 1 1 1 1 1 1 1 1\ncpu10 2 2 2 5 4 2 2 2 0 0\n";
        let expected = Machine { busy: TICK * 163, stolen: TICK * 8, idle: TICK * 9 };
        assert_eq!(Machine::parse(text, 10), Some(expected));
        assert_eq!(Machine::parse(text, 0), None);
        assert_eq!(Machine::parse("intr 5\n", 0), None);
    }

    #[test]
    fn the_second_hierarchy_is_found_beside_the_first() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(mounts), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\n"), None);
        assert_eq!(own_cgroup2("2:cpu:/x\n0::/user.slice\n"), Some("/user.slice"));
    }

    #[test]
    fn the_clock_of_a_living_process_goes_with_its_work() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let source = Source::Clocks(child.id());
        let busy = wait::until(wait::PATIENCE, "work", || {
            source.read().is_ok_and(|time| time > Duration::from_millis(5))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        busy.unwrap();
    }

    #[test]
    fn descendants_belong_to_the_family() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let members = family(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(members.contains(&child.id()), "{members:?}");
    }

    #[test]
    fn a_pinned_thread_starts_children_on_its_cpu_only() {
        let cpus = Cpus::choose().map_or(0, |cpus| cpus.contender);
        let mut child = pinned(cpus, || Command::new("sleep").arg("600").spawn().context("start")).unwrap();
        let verdict = expect_pinned(child.id(), cpus);
        child.kill().unwrap();
        child.wait().unwrap();
        verdict.unwrap();
    }
}
