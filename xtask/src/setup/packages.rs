//! The Debian packages that the repository's programs need, and what proves that each is there.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use portcullis_tests::process;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Use {
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask test`
    Test,
    /// `cargo xtask perf`
    Perf,
    /// `cargo xtask ebpf`
    Ebpf,
    /// `cargo xtask boot`
    Boot,
}

impl Use {
    pub(crate) const ALL: [Self; 5] = [Self::Demo, Self::Test, Self::Perf, Self::Ebpf, Self::Boot];
}

/// A file that exists only when the package is installed.
enum Proof {
    Program(&'static str),
    File(&'static str),
    /// A target of the compiler in /usr.
    RustLibrary(&'static str),
    /// A file inside one of `/usr/lib/python3.*`.
    PythonFile(&'static str),
    /// A module for Debian's own Python.
    PythonModule(&'static str),
}

pub(crate) struct Package {
    pub(crate) name: &'static str,
    proof: Proof,
    uses: &'static [Use],
    /// Without a required package its use fails; without another one some tests are skipped, and say so.
    pub(crate) required: bool,
    pub(crate) why: &'static str,
}

impl Package {
    pub(crate) fn is_for(&self, wanted: Use) -> bool {
        self.uses.contains(&wanted)
    }

    pub(crate) fn is_there(&self) -> bool {
        match self.proof {
            Proof::Program(name) => process::find_program(name).is_some(),
            Proof::File(path) => Path::new(path).exists(),
            Proof::RustLibrary(target) => Path::new("/usr/lib/rustlib").join(target).is_dir(),
            Proof::PythonModule(name) => Path::new("/usr/lib/python3/dist-packages").join(name).exists(),
            Proof::PythonFile(path) => python_libraries().any(|dir| dir.join(path).exists()),
        }
    }
}

fn python_libraries() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python3."))
        .map(|entry| entry.path())
}

const fn required(name: &'static str, proof: Proof, uses: &'static [Use], why: &'static str) -> Package {
    Package { name, proof, uses, required: true, why }
}

const fn optional(name: &'static str, proof: Proof, uses: &'static [Use], why: &'static str) -> Package {
    Package { name, proof, uses, required: false, why }
}

const DEMO_AND_TEST: &[Use] = &[Use::Demo, Use::Test];
const TEST: &[Use] = &[Use::Test];
const ALL: &[Use] = &[Use::Demo, Use::Test, Use::Perf];
const BOOT: &[Use] = &[Use::Boot];
const EBPF: &[Use] = &[Use::Ebpf];

pub(crate) const PACKAGES: &[Package] = &[
    required("iproute2", Proof::Program("ip"), ALL, "network namespaces of the lab"),
    required("openssl", Proof::Program("openssl"), ALL, "RSA certificates, and s_client as a TLS client"),
    required("ca-certificates", Proof::File("/etc/ssl/certs/ca-certificates.crt"), TEST, "public roots"),
    required("curl", Proof::Program("curl"), ALL, "a client of CONNECT, SOCKS5 and the web pages"),
    required("openssh-client", Proof::Program("ssh"), DEMO_AND_TEST, "ssh through `portcullis connect`"),
    required("openssh-server", Proof::Program("sshd"), DEMO_AND_TEST, "a farm machine with a shell"),
    required("nginx", Proof::Program("nginx"), ALL, "a farm machine that serves files"),
    required("keepalived", Proof::Program("keepalived"), TEST, "virtual addresses of two appliances"),
    required("git", Proof::Program("git"), TEST, "the list of files that tidy looks at"),
    optional(
        "python3-venv",
        Proof::PythonFile("ensurepip"),
        TEST,
        "Python clients: python-socks, websockets",
    ),
    optional(
        "prometheus",
        Proof::Program("promtool"),
        DEMO_AND_TEST,
        "scrapes a gateway; promtool judges metrics and alerts",
    ),
    optional("rsyslog", Proof::Program("rsyslogd"), TEST, "a syslog server that gets the log"),
    optional(
        "rsyslog-openssl",
        Proof::File("/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_ossl.so"),
        TEST,
        "TLS of that server",
    ),
    optional("chrony", Proof::Program("chronyd"), TEST, "a time server for the appliance"),
    optional(
        "systemd-journal-remote",
        Proof::File("/lib/systemd/systemd-journal-remote"),
        TEST,
        "writes journals for the tests of the log that goes to a syslog server",
    ),
    optional("pebble", Proof::Program("pebble"), TEST, "an ACME server that issues certificates"),
    optional("freerdp2-x11", Proof::Program("xfreerdp"), TEST, "an RDP client"),
    optional("freerdp2-shadow-x11", Proof::Program("freerdp-shadow-cli"), TEST, "an RDP server"),
    optional("xvfb", Proof::Program("Xvfb"), TEST, "screens for the RDP programs"),
    optional("x11-xserver-utils", Proof::Program("xsetroot"), TEST, "paints the RDP server's screen"),
    optional("imagemagick", Proof::File("/usr/bin/convert"), TEST, "looks at the RDP client's screen"),
    optional("nmap", Proof::Program("nmap"), TEST, "looks for open ports from outside and from the farm"),
    optional(
        "python3-scapy",
        Proof::PythonModule("scapy"),
        TEST,
        "makes packets that no network stack makes",
    ),
    optional("dosfstools", Proof::Program("mkfs.vfat"), TEST, "a hypervisor's volume as FAT"),
    optional("mtools", Proof::Program("mcopy"), TEST, "what is on that volume"),
    optional("genisoimage", Proof::Program("genisoimage"), TEST, "such a volume as ISO 9660"),
    optional("xorriso", Proof::Program("xorrisofs"), TEST, "such a volume by the other usual program"),
    optional("bpftool", Proof::Program("bpftool"), TEST, "takes programs of the filter away by force"),
    optional("tcpdump", Proof::Program("tcpdump"), TEST, "witness of which packets pass the filter"),
    required(
        "haproxy",
        Proof::Program("haproxy"),
        &[Use::Perf],
        "the peer that the gateway is measured against",
    ),
    optional(
        "libnginx-mod-stream",
        Proof::File("/usr/lib/nginx/modules/ngx_stream_module.so"),
        &[Use::Perf],
        "nginx as a relay, a peer of the measurements",
    ),
    optional("hitch", Proof::Program("hitch"), &[Use::Perf], "a peer of the measurements"),
    optional("stunnel4", Proof::Program("stunnel"), &[Use::Perf], "a peer of the measurements"),
    optional("valgrind", Proof::Program("valgrind"), &[Use::Perf], "counts instructions"),
    required("nftables", Proof::Program("nft"), &[Use::Perf], "what the kernel side is measured against"),
    required("ethtool", Proof::Program("ethtool"), ALL, "sets how interfaces of the lab receive"),
    optional("rustc-web", Proof::File("/usr/bin/rustc"), EBPF, "a compiler for the kernel side"),
    optional("libstd-rust-web-dev-bpf", Proof::RustLibrary("bpfel-unknown-none"), EBPF, "its core library"),
    optional("rust-web-clippy", Proof::File("/usr/bin/clippy-driver"), EBPF, "its lints"),
    optional(
        "llvm-22-dev",
        Proof::File("/usr/lib/llvm-22/include/llvm-c"),
        EBPF,
        "bpf-linker is built with it",
    ),
    optional(
        "debian-archive-keyring",
        Proof::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
        BOOT,
        "signatures of Debian 13's packages",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_listed_once() {
        for (index, package) in PACKAGES.iter().enumerate() {
            assert!(PACKAGES[..index].iter().all(|other| other.name != package.name), "{}", package.name);
        }
    }
}
