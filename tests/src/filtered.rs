//! Gateways under test behind the packet filter: the tests run in one network namespace, the daemons that they start in
//! another, and both interfaces between the two are filtered. Clients come by the one, servers are reached by the
//! other. `cargo xtask test --only filtered` makes the namespaces and runs the tests of the gateway in the first.
//!
//! What a test gets from here is loopback elsewhere, so that it is the same test. One that speaks of loopback itself
//! (another program's idea of `localhost`, an own authority over HTTP) cannot run there and is left out by that step.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Result;

use crate::netns::{self, End, Namespace};
use crate::topology::Place;

/// A variable in the environment of the tests: the network namespace in which daemons are started.
const VARIABLE: &str = "PORTCULLIS_TEST_FILTERED";
const EDGE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const INNER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const FARM: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 77);

/// The two namespaces. They go when it is dropped.
#[derive(Debug)]
pub struct World {
    tests: Namespace,
    gateway: Namespace,
}

impl World {
    /// Makes and joins them.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn build() -> Result<Self> {
        let world = Self { tests: Namespace::new("tests")?, gateway: Namespace::new("filtered")? };
        let ends = [("wan", CLIENT, "edge", EDGE), ("lan", FARM, "farm", INNER)];
        for (outer, address, inner, own) in ends {
            netns::join(
                End { namespace: &world.tests, interface: outer, addresses: &[format!("{address}/24")] },
                End { namespace: &world.gateway, interface: inner, addresses: &[format!("{own}/24")] },
            )?;
        }
        Ok(world)
    }

    /// A command that runs tests there.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.tests.command(program);
        command.env(VARIABLE, self.gateway.name());
        command
    }
}

/// Where daemons are started and filtered, if that is not here and not at all.
pub(crate) fn gateway() -> Option<&'static Place> {
    // Nobody drops it, as it is another's.
    static PLACE: OnceLock<Option<Place>> = OnceLock::new();
    let place = || Some(Place::of(Namespace::named(std::env::var(VARIABLE).ok()?), EDGE.into()));
    PLACE.get_or_init(place).as_ref()
}

/// Where listeners under test are reached.
#[must_use]
pub fn edge() -> IpAddr {
    if gateway().is_some() { EDGE.into() } else { Ipv4Addr::LOCALHOST.into() }
}

/// Where back ends listen: no address that clients or the gateway use, so that it can be searched for in answers.
#[must_use]
pub fn farm() -> IpAddr {
    if gateway().is_some() { FARM.into() } else { Ipv4Addr::new(127, 0, 0, 77).into() }
}

/// Where clients under test come from.
#[must_use]
pub fn client() -> IpAddr {
    if gateway().is_some() { CLIENT.into() } else { Ipv4Addr::LOCALHOST.into() }
}

/// Where doubles of ticket authorities listen.
pub(crate) fn authority() -> IpAddr {
    if gateway().is_some() { FARM.into() } else { Ipv4Addr::new(127, 0, 0, 78).into() }
}

/// Keys of a listener that say loopback, for where servers are instead.
pub(crate) fn translated(keys: &str) -> Cow<'_, str> {
    match gateway() {
        Some(_) => {
            keys.replace("127.0.0.0/8", "10.77.0.0/24").replace("127.0.0.77", &FARM.to_string()).into()
        }
        None => keys.into(),
    }
}
