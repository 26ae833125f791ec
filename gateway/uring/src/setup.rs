//! How a ring comes to be, and what it may do: built disabled, given its tables, restricted, enabled.
//!
//! After this the kernel accepts only the operations below, only on descriptors of the ring's own table, and no
//! registration but that table's updates.

use std::fs;
use std::io;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, Probe, opcode};
use rustix::process::Resource;

use crate::settings::{Settings, Unsupported};

/// Every operation this crate uses.
const OPERATIONS: [(u8, &str); 5] = [
    (opcode::RecvMulti::CODE, "recv"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::AsyncCancel::CODE, "cancel"),
];
/// `IORING_REGISTER_FILES_UPDATE` of `linux/io_uring.h`, the only registration after set-up.
const FILES_UPDATE: u8 = 6;
/// Single issuer, deferred task work, rings of buffers, multishot recv: all there since this one.
const KERNEL_NEEDED: &str = "use Linux 6.1 or newer, or the epoll engine";
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// A disabled ring with the features that are needed.
pub(crate) fn build(settings: &Settings) -> Result<IoUring, Unsupported> {
    let completions = settings.entries.saturating_mul(settings.completions_per_entry);
    let mut builder = IoUring::builder();
    builder.setup_r_disabled().setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    builder.setup_cqsize(completions).dontfork();
    // The array of indices is gone since Linux 6.6.
    let built = match builder.clone().setup_no_sqarray().build(settings.entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(settings.entries),
        built => built,
    };
    let ring = built.map_err(|error| refused(&Step::Build(settings.entries, completions), &error))?;
    probe(&ring)?;
    Ok(ring)
}

fn probe(ring: &IoUring) -> Result<(), Unsupported> {
    let features = [
        (ring.params().is_feature_nodrop(), "completions that are never dropped"),
        (ring.params().is_feature_ext_arg(), "waiting with a timeout"),
        (ring.params().is_feature_submit_stable(), "parameters that are copied at submission"),
        (ring.params().is_feature_fast_poll(), "polling without threads"),
        (ring.params().is_feature_skip_cqe_on_success(), "operations without completion"),
    ];
    if let Some((_, name)) = features.iter().find(|(there, _)| !there) {
        return Err(Unsupported::new(format!("the kernel lacks {name}"), KERNEL_NEEDED));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| refused(&Step::Register("probe"), &error))?;
    match OPERATIONS.iter().find(|(code, _)| !probe.is_supported(*code)) {
        None => Ok(()),
        Some((_, name)) => {
            Err(Unsupported::new(format!("the kernel lacks the operation {name}"), KERNEL_NEEDED))
        }
    }
}

/// Makes the ring's table of descriptors, all empty: one for the waker behind the sockets. Returns how many sockets fit.
pub(crate) fn make_table(ring: &IoUring, settings: &Settings) -> Result<u32, Unsupported> {
    let sockets = settings.sockets.min(open_files_max().saturating_sub(1)).max(1);
    let made = ring.submitter().register_files_sparse(sockets.saturating_add(1));
    made.map_err(|error| refused(&Step::Table(sockets), &error))?;
    Ok(sockets)
}

/// No process can have more sockets than open files, and the kernel makes no larger table.
fn open_files_max() -> u32 {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(u32::MAX)
}

/// Allows what is used and nothing else, and starts the ring for this thread.
pub(crate) fn enable(ring: &IoUring) -> Result<(), Unsupported> {
    let mut allowed: Vec<_> = OPERATIONS.iter().map(|(code, _)| Restriction::sqe_op(*code)).collect();
    allowed.push(Restriction::register_op(FILES_UPDATE));
    allowed.push(Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()));
    let flags = Flags::FIXED_FILE | Flags::BUFFER_SELECT | Flags::SKIP_SUCCESS;
    allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
    let submitter = ring.submitter();
    let restricted = submitter.register_restrictions(&mut allowed);
    restricted.map_err(|error| refused(&Step::Register("restrictions"), &error))?;
    submitter.register_enable_rings().map_err(|error| refused(&Step::Register("enabling"), &error))
}

/// Where set-up failed.
pub(crate) enum Step {
    Build(u32, u32),
    Table(u32),
    Buffers(u16),
    Register(&'static str),
    Waker,
}

/// What a failed step means for an operator.
pub(crate) fn refused(step: &Step, error: &io::Error) -> Unsupported {
    refused_with(step, error, fs::read_to_string(SYSCTL).ok().as_deref().map(str::trim))
}

fn refused_with(step: &Step, error: &io::Error, disabled: Option<&str>) -> Unsupported {
    let code = error.raw_os_error().unwrap_or_default();
    match (step, code) {
        (Step::Build(..), libc::ENOSYS) => Unsupported::new("the kernel has no io_uring", KERNEL_NEEDED),
        (Step::Build(..), libc::EPERM | libc::EACCES) => match disabled {
            Some(value @ ("1" | "2")) => Unsupported::new(
                format!("the sysctl kernel.io_uring_disabled is {value}"),
                "set it to 0, or to 1 with the group of the service in kernel.io_uring_group, or use the epoll engine",
            ),
            _ => Unsupported::new(
                "a security policy forbids io_uring_setup",
                "allow the io_uring calls in the seccomp profile of the container or service, or use the epoll engine",
            ),
        },
        (Step::Build(entries, completions), libc::EINVAL) => Unsupported::new(
            format!("the kernel refuses a ring of {entries} operations and {completions} completions"),
            format!("stay below 32,769 and 65,537; otherwise {KERNEL_NEEDED}"),
        ),
        (_, libc::ENOMEM) => Unsupported::new(
            format!("no memory for {}", step.name()),
            "raise the limit of locked memory (LimitMEMLOCK) or of the control group, or make the ring smaller",
        ),
        (_, libc::EMFILE | libc::ENFILE) => Unsupported::new(
            format!("too many open files for {}", step.name()),
            "raise the limit of open files (LimitNOFILE), or make the table of sockets smaller",
        ),
        _ => Unsupported::new(format!("{} failed: {error}", step.name()), KERNEL_NEEDED),
    }
}

impl Step {
    fn name(&self) -> String {
        match self {
            Self::Build(entries, completions) => {
                format!("a ring of {entries} operations and {completions} completions")
            }
            Self::Table(sockets) => format!("a table of {sockets} sockets"),
            Self::Buffers(count) => format!("a group of {count} buffers"),
            Self::Register(what) => format!("the registration of {what}"),
            Self::Waker => String::from("the waker"),
        }
    }
}

#[cfg(test)]
mod tests {
    use io_uring::squeue;
    use io_uring::types::Fixed;

    use super::*;

    /// What an operation ends with that points to no memory.
    fn outcome(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
        // SAFETY: the operations of these tests point to no memory.
        unsafe { ring.submission().push(entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        let completion = ring.completion().next();
        completion.unwrap().result()
    }

    #[test]
    fn an_enabled_ring_does_what_is_used_and_nothing_else() {
        let settings = Settings { entries: 4, sockets: 2, ..Settings::default() };
        let mut ring = build(&settings).unwrap();
        assert_eq!(make_table(&ring, &settings), Ok(2));
        enable(&ring).unwrap();
        let poll = |flags| opcode::PollAdd::new(Fixed(0), 1).build().flags(flags);
        assert_eq!(
            outcome(&mut ring, &poll(Flags::empty())),
            -libc::EBADF,
            "allowed, but the place is empty"
        );
        assert_eq!(outcome(&mut ring, &poll(Flags::ASYNC)), -libc::EACCES);
        let outside = opcode::PollAdd::new(io_uring::types::Fd(0), 1).build();
        assert_eq!(outcome(&mut ring, &outside), -libc::EACCES, "a descriptor that is not in the table");
        let other = opcode::Nop::new().build().flags(Flags::FIXED_FILE);
        assert_eq!(outcome(&mut ring, &other), -libc::EACCES);
        let register = ring.submitter().register_eventfd(0);
        assert_eq!(register.unwrap_err().raw_os_error(), Some(libc::EACCES));
    }

    fn text(step: &Step, code: i32, disabled: Option<&str>) -> String {
        refused_with(step, &io::Error::from_raw_os_error(code), disabled).to_string()
    }

    #[test]
    fn a_refused_ring_says_why_and_what_to_do() {
        let build = Step::Build(256, 1024);
        assert_eq!(
            text(&build, libc::ENOSYS, None),
            "io_uring cannot be used: the kernel has no io_uring; use Linux 6.1 or newer, or the epoll engine"
        );
        let disabled = text(&build, libc::EPERM, Some("2"));
        assert!(disabled.contains("kernel.io_uring_disabled is 2; set it to 0"), "{disabled}");
        let policy = text(&build, libc::EPERM, Some("0"));
        assert!(policy.contains("seccomp"), "{policy}");
        assert!(text(&build, libc::EINVAL, None).contains("a ring of 256 operations and 1024 completions"));
        assert!(text(&build, libc::ENOMEM, None).contains("LimitMEMLOCK"));
        assert!(text(&Step::Table(70_000), libc::EMFILE, None).contains("a table of 70000 sockets; raise"));
        assert!(text(&Step::Buffers(40_000), libc::EINVAL, None).contains("a group of 40000 buffers failed"));
        assert!(text(&Step::Register("restrictions"), libc::EINVAL, None).contains("restrictions failed"));
        assert!(text(&Step::Waker, libc::ENFILE, None).contains("LimitNOFILE"));
    }
}
