//! Addresses that something listens on, and that no two things want the same one.

use std::net::{IpAddr, SocketAddr};

use super::Resolver;
use crate::config::reader::{Located, shown};

/// Addresses of one listener.
const LISTEN_MAX: usize = 16;

/// An address and what listens there.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    owner: String,
}

impl Resolver<'_> {
    /// The addresses of `owner`, none of which anything else has.
    pub(super) fn listen(
        &mut self,
        owner: &str,
        typed: Option<Located<Vec<Located<String>>>>,
    ) -> Vec<SocketAddr> {
        let Some(typed) = typed else { return Vec::new() };
        self.check_length("listen", typed.at, typed.value.len(), LISTEN_MAX);
        typed.value.iter().take(LISTEN_MAX).filter_map(|address| self.bind(owner, address)).collect()
    }

    /// One address to listen on.
    pub(super) fn bind(&mut self, owner: &str, typed: &Located<String>) -> Option<SocketAddr> {
        let address = match typed.value.parse::<SocketAddr>() {
            Ok(SocketAddr::V6(v6)) if v6.ip().to_ipv4_mapped().is_some() => {
                self.problems
                    .add(typed.at, format!("\"{}\" is an IPv4 address in IPv6 dress", shown(&typed.value)))
                    .suggest(v6.ip().to_ipv4_mapped().map(|v4| format!("{v4}:{}", v6.port())));
                return None;
            }
            Ok(address) => address,
            Err(_) => {
                let suggestion = typed.value.parse::<IpAddr>().map(|address| SocketAddr::new(address, 443));
                let port_only = typed.value.strip_prefix(':').unwrap_or(&typed.value).parse::<u16>();
                let suggestion = suggestion.map(|address| address.to_string());
                let suggestion =
                    suggestion.ok().or_else(|| port_only.ok().map(|port| format!("0.0.0.0:{port}")));
                self.problems
                    .add(typed.at, format!("\"{}\" is no address to listen on", shown(&typed.value)))
                    .expected("an address and a port, such as \"0.0.0.0:443\" or \"[::]:443\"")
                    .suggest(suggestion);
                return None;
            }
        };
        if let Some(other) = self.bound.iter().find(|bound| clash(bound.address, address)) {
            let message = if other.address == address {
                format!("{address} is already taken by {}", other.owner)
            } else {
                format!("{address} clashes with {} of {}", other.address, other.owner)
            };
            self.problems.add(typed.at, message).expected("an address of its own");
        }
        self.bound.push(Bound { address, owner: owner.to_owned() });
        Some(address)
    }
}

/// Whether two listening sockets would compete. IPv6 sockets here take no IPv4; port 0 is any free port.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
