//! What keeps junk out, each in its best form: our program by the daemon, and nftables at three places.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::process;

use super::bed::{Bed, GATEWAY, Pins};
use crate::cpu;

/// The port that every filter leaves open.
pub(super) const OPEN: u16 = 443;

/// A filter at the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Ours,
    /// A program that looks at the headers and drops everything: what is left is the pair's own cost.
    Nothing,
    /// Stateless, before the network stack: what comes nearest to ours.
    Netdev,
    /// Stateless, at the first hook of IP.
    Raw,
    /// As most firewalls are: connection tracking, and a verdict before sockets.
    Input,
}

impl Filter {
    pub(super) const PEERS: [Self; 4] = [Self::Nothing, Self::Netdev, Self::Raw, Self::Input];

    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Ours => "portcullis",
            Self::Nothing => "xdp-drop-only",
            Self::Netdev => "nft-netdev",
            Self::Raw => "nft-raw",
            Self::Input => "nft-input-conntrack",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ours => "Portcullis in XDP",
            Self::Nothing => "an XDP program that only looks and drops",
            Self::Netdev => "nftables netdev ingress",
            Self::Raw => "nftables raw prerouting",
            Self::Input => "nftables input with conntrack",
        }
    }

    /// Rules of nftables that let the open port in and drop the rest, without counters, which would cost. The first
    /// rule that junk meets is the last, or there is none but the policy.
    pub(super) fn rules(self, edge: &str) -> Option<String> {
        let chain = |hook: &str, rules: &str| {
            format!(
                "table inet filter {{\nchain c {{\ntype filter hook {hook}; policy drop; {rules}\n}}\n}}\n"
            )
        };
        match self {
            Self::Ours | Self::Nothing => None,
            Self::Netdev => Some(format!(
                "table netdev filter {{\nchain c {{\ntype filter hook ingress device \"{edge}\" priority 0; \
                 policy drop; tcp dport {OPEN} accept; ether type arp accept\n}}\n}}\n"
            )),
            Self::Raw => Some(chain(
                "prerouting priority -300",
                &format!("iifname != \"{edge}\" accept; tcp dport {OPEN} accept;"),
            )),
            Self::Input => Some(chain(
                "input priority 0",
                &format!(
                    "ct state established,related accept; iifname \"lo\" accept; tcp dport {OPEN} accept;"
                ),
            )),
        }
    }
}

/// A daemon in the gateway's namespace, on its CPU, with a TLS relay on the open port; `filtered` by our program or
/// by nothing.
pub(super) fn daemon(bed: &Bed, backend: SocketAddr, filtered: Option<&Pins>, cpu: usize) -> Result<Gateway> {
    let mut setup = Setup::new()?;
    setup.own_authority([127, 0, 0, 1].into())?;
    setup.merge("[server]\nworkers = 1\n[log]\nlevel = \"info\"\n")?;
    let keys = format!("target = \"{backend}\"\npermit_loopback = true\nmin_tls = \"1.3\"\n");
    setup.listener_at("relay", "ssl-relay", &[SocketAddr::from((GATEWAY, OPEN))], &keys)?;
    if let Some(pins) = filtered {
        let (edge, pins) = (&bed.edge, pins.dir(&bed.edge));
        setup.merge(&format!(
            "[xdp]\npin_dir = \"{}\"\nallow_no_management = true\nmode = \"driver\"\n\
             interface = [{{ name = \"{edge}\", role = \"edge\" }}]\n",
            pins.display()
        ))?;
    }
    start(bed, setup, cpu)
}

/// Starts a daemon in the gateway's namespace, on its CPU.
pub(super) fn start(bed: &Bed, setup: Setup, cpu: usize) -> Result<Gateway> {
    let config = setup.write()?;
    let dir = setup.dir().to_owned();
    let mut command = bed.gateway.command(&program()?);
    command.arg("--config").arg(config).current_dir(dir);
    cpu::pinned(cpu, || setup.start_command(&mut command)).context("start the daemon in a namespace")
}

fn program() -> Result<String> {
    let path = process::binary("portcullisd")?;
    Ok(path.to_str().context("the path of portcullisd is not UTF-8")?.to_owned())
}

/// Puts a filter other than ours in force.
pub(super) fn peer(bed: &Bed, filter: Filter, dir: &Path) -> Result<()> {
    filter.rules(&bed.edge).map_or(Ok(()), |rules| bed.nft(&rules, dir))
}
