//! What the kernel side is told: interfaces, rules, sizes, budgets and modes. `config/resolve/xdp.rs` reads them.

pub mod presets;
pub mod protocols;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use portcullis_ebpf_common::tables::{Action, Role};
use portcullis_ebpf_common::{Bogons, Protocol};

use presets::Preset;

/// Where programs and bans are pinned unless the configuration says otherwise.
pub const PINS_DEFAULT: &str = "/sys/fs/bpf/portcullis";
/// The port of SSH, by which administrators come.
const SSH: u16 = 22;

/// The kernel side: which interfaces it filters, and what may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpConfig {
    pub interfaces: Vec<XdpInterface>,
    pub rules: Vec<XdpRule>,
    pub bogons: Bogons,
    pub egress: Vec<XdpEgress>,
    /// Whether the machine begins nothing but what a row accepts.
    pub egress_closed: bool,
    /// Whose sockets are asked; the daemon's own where absent.
    pub cgroup: Option<PathBuf>,
    /// How long a changed policy waits to be confirmed; at once in force for good where zero.
    pub confirm: Duration,
    pub preset: Option<Preset>,
    pub mode: XdpMode,
    /// A directory on a BPF file system.
    pub pins: PathBuf,
    pub allow_no_management: bool,
    pub sizes: XdpSizes,
    /// Dropped packets that are shown one by one, each second and on each processor.
    pub event_rate: u32,
    pub flood: FloodConfig,
    pub steering: Steering,
}

/// How much the kernel's tables hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpSizes {
    /// Two for each session.
    pub flows: u32,
    /// Two for each flow that is forwarded.
    pub forwards: u32,
    /// Datagrams in fragments at the same time.
    pub fragments: u32,
    /// Banned prefixes of each family.
    pub bans: u32,
    /// Drop events that wait for the daemon.
    pub events: u32,
}

/// How much strangers may begin. Rates are packets a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloodConfig {
    /// SYNs of one source: an address of IPv4, a /64 of IPv6.
    pub syn_per_source: u32,
    pub syn_total: u32,
    /// Echoes of ICMP.
    pub icmp_total: u32,
    pub cookies: CookieMode,
    /// How long no SYN must have been over the budget before the pressure is over.
    pub calm: Duration,
    /// How long the kernel's listeners take cookies after that.
    pub cookie_life: Duration,
}

impl Default for FloodConfig {
    fn default() -> Self {
        Self {
            syn_per_source: 100,
            syn_total: 5_000,
            icmp_total: 1_000,
            cookies: CookieMode::Auto,
            calm: Duration::from_secs(10),
            cookie_life: Duration::from_mins(2),
        }
    }
}

/// When SYNs are answered with cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieMode {
    /// Those over the budget, under pressure.
    Auto,
    /// Never; those over the budget are dropped.
    Off,
    /// All of them.
    Always,
}

impl CookieMode {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Off, Self::Always];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Always => "always",
        }
    }
}

/// Whether the packets of a session are brought to the processor that relays it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Where that can help.
    Auto,
    On,
    Off,
}

impl Steering {
    pub const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpInterface {
    pub name: String,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpRule {
    pub role: Role,
    /// As in the IP header.
    pub protocol: u8,
    /// Empty for protocols without ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Everywhere where empty.
    pub from: Vec<IpNet>,
    pub action: Action,
    /// Of a limit: so many a second from each source.
    pub per_second: u32,
}

/// What the machine itself may contact, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpEgress {
    /// As in the IP header; 0 for every protocol.
    pub protocol: u8,
    /// All where empty.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Everywhere where empty.
    pub to: Vec<IpNet>,
    pub action: Action,
}

/// Where on its way a packet meets the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, or behind it where the driver cannot.
    Auto,
    /// In the driver or not at all.
    Driver,
    /// Behind the driver.
    Generic,
}

impl XdpMode {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Driver => "driver",
            Self::Generic => "generic",
        }
    }
}

/// Whether an administrator still gets in by SSH after these rules are in force: from somewhere, and not shut out by
/// an earlier rule.
#[must_use]
pub fn keeps_management(roles: &[Role], rules: &[XdpRule]) -> bool {
    let about_ssh = rules.iter().filter(|rule| {
        rule.protocol == Protocol::Tcp.number()
            && rule.role == Role::Mgmt
            && rule.ports.iter().any(|ports| ports.contains(&SSH))
    });
    let mut shut_out: Vec<&IpNet> = Vec::new();
    for rule in about_ssh {
        let is_open = |prefix: &IpNet| !shut_out.iter().any(|shut| shut.contains(prefix));
        match rule.action {
            Action::Accept | Action::Limit if rule.from.is_empty() || rule.from.iter().any(is_open) => {
                return roles.contains(&Role::Mgmt);
            }
            Action::Drop if rule.from.is_empty() => return false,
            Action::Drop => shut_out.extend(&rule.from),
            Action::Accept | Action::Limit => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_must_be_let_in_by_ssh_from_somewhere() {
        let rule = |role, action, from: &[&str]| XdpRule {
            role,
            protocol: 6,
            ports: vec![20..=22],
            from: from.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            action,
            per_second: 0,
        };
        let both = [Role::Edge, Role::Mgmt];
        let (accept, drop) = (Action::Accept, Action::Drop);
        assert!(keeps_management(&both, &[rule(Role::Mgmt, accept, &[])]));
        assert!(!keeps_management(&both, &[]));
        assert!(!keeps_management(&both, &[rule(Role::Edge, accept, &[])]));
        assert!(!keeps_management(&[Role::Edge], &[rule(Role::Mgmt, accept, &[])]));
        assert!(!keeps_management(&both, &[rule(Role::Mgmt, drop, &[]), rule(Role::Mgmt, accept, &[])]));
        let net = rule(Role::Mgmt, accept, &["10.1.0.0/16"]);
        assert!(keeps_management(&both, &[rule(Role::Mgmt, drop, &["10.2.0.0/16"]), net.clone()]));
        assert!(!keeps_management(&both, &[rule(Role::Mgmt, drop, &["10.0.0.0/8"]), net.clone()]));
        assert!(keeps_management(&both, &[net, rule(Role::Mgmt, drop, &[])]));
    }
}
