//! The lab as data: an outside client, the gateway between, and the farm inside.
//!
//! ```text
//!   outside 203.0.113.10 ── 203.0.113.1 gateway 10.77.0.1 ── 10.77.0.10, .11, .12 farm
//!        2001:db8:113::10 ── 2001:db8:113::1    fd77::1 ── fd77::10, ::11, ::12
//! ```
//! Only the gateway has a leg on both sides and it does not forward packets, so whatever the client reaches in the
//! farm it reached through the gateway. Where namespaces are not allowed the same places share loopback addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::Result;

use crate::netns::{self, End, Namespace};

/// One machine of the lab.
#[derive(Debug)]
pub struct Place {
    /// `None` on loopback.
    namespace: Option<Namespace>,
    pub v4: Vec<IpAddr>,
    pub v6: Vec<IpAddr>,
}

/// The whole picture. Dropping it takes the namespaces away.
#[derive(Debug)]
pub struct Lab {
    pub outside: Place,
    /// The first address faces the outside, the second the farm.
    pub gateway: Place,
    pub farm: Place,
}

const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const EDGE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const INNER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10);
const EDGE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1);
const INNER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

impl Lab {
    /// Builds the lab in namespaces.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn in_namespaces() -> Result<Self> {
        let farm_v4 = [10, 11, 12].map(|host| IpAddr::from(Ipv4Addr::new(10, 77, 0, host)));
        let farm_v6 =
            [0x10, 0x11, 0x12].map(|host| IpAddr::from(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host)));
        let place = |role: &str, v4: &[IpAddr], v6: &[IpAddr]| {
            Ok::<_, anyhow::Error>(Place {
                namespace: Some(Namespace::new(role)?),
                v4: v4.to_vec(),
                v6: v6.to_vec(),
            })
        };
        let outside = place("outside", &[OUTSIDE_V4.into()], &[OUTSIDE_V6.into()])?;
        let gateway =
            place("gateway", &[EDGE_V4.into(), INNER_V4.into()], &[EDGE_V6.into(), INNER_V6.into()])?;
        let farm = place("farm", &farm_v4, &farm_v6)?;
        let lab = Self { outside, gateway, farm };
        lab.wire()?;
        Ok(lab)
    }

    /// The same places on loopback: one address for each, no namespace, no isolation.
    #[must_use]
    pub fn on_loopback() -> Self {
        let local = |host: u8| IpAddr::from(Ipv4Addr::new(127, 0, 0, host));
        let place = |v4: &[IpAddr]| Place {
            namespace: None,
            v4: v4.to_vec(),
            v6: vec![Ipv6Addr::LOCALHOST.into(); v4.len()],
        };
        Self {
            outside: place(&[local(1)]),
            gateway: place(&[local(1), local(2)]),
            farm: place(&[local(77), local(78), local(79)]),
        }
    }

    /// Namespaces where they are allowed, else loopback and the reason.
    ///
    /// # Errors
    /// When namespaces are allowed and building the lab still fails.
    pub fn build() -> Result<(Self, Option<String>)> {
        match netns::available() {
            Ok(()) => Ok((Self::in_namespaces()?, None)),
            Err(reason) => Ok((Self::on_loopback(), Some(reason))),
        }
    }

    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.gateway.namespace.is_some()
    }

    fn wire(&self) -> Result<()> {
        let (Some(outside), Some(gateway), Some(farm)) =
            (&self.outside.namespace, &self.gateway.namespace, &self.farm.namespace)
        else {
            return Ok(());
        };
        let gw = &self.gateway;
        let wan = with_prefixes(&self.outside.v4, &self.outside.v6);
        let edge = with_prefixes(first(&gw.v4), first(&gw.v6));
        let inner = with_prefixes(gw.v4.get(1..).unwrap_or_default(), gw.v6.get(1..).unwrap_or_default());
        let lan = with_prefixes(&self.farm.v4, &self.farm.v6);
        join((outside, "wan", &wan), (gateway, "edge", &edge))?;
        join((gateway, "farm", &inner), (farm, "lan", &lan))
    }
}

fn first(addresses: &[IpAddr]) -> &[IpAddr] {
    addresses.get(..1).unwrap_or_default()
}

fn with_prefixes(v4: &[IpAddr], v6: &[IpAddr]) -> Vec<String> {
    v4.iter().map(|a| format!("{a}/24")).chain(v6.iter().map(|a| format!("{a}/64"))).collect()
}

fn join(left: (&Namespace, &str, &[String]), right: (&Namespace, &str, &[String])) -> Result<()> {
    netns::join(
        End { namespace: left.0, interface: left.1, addresses: left.2 },
        End { namespace: right.0, interface: right.1, addresses: right.2 },
    )
}

impl Place {
    /// This process's own network, for a gateway under test on loopback.
    #[must_use]
    pub fn here() -> Self {
        Self { namespace: None, v4: vec![Ipv4Addr::LOCALHOST.into()], v6: vec![Ipv6Addr::LOCALHOST.into()] }
    }

    /// The machine whose network another process has made, with one address.
    pub(crate) fn of(namespace: Namespace, address: IpAddr) -> Self {
        Self { namespace: Some(namespace), v4: vec![address], v6: Vec::new() }
    }

    /// A command that runs on this machine of the lab.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace.name()]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Runs `work` with this machine's network.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the error of `work`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.enter(work),
            None => work(),
        }
    }

    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// The `index`th IPv4 address; loopback when there are fewer.
    #[must_use]
    pub fn address(&self, index: usize) -> IpAddr {
        self.v4.get(index).copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}
