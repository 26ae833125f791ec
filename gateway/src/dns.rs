//! Name resolution with a deadline, for the servers that tickets name and for ticket authorities.
//!
//! DNS over UDP and TCP (RFC 1035) by hickory-resolver, which also reads `/etc/hosts`; answers are cached for
//! their life, within a bound. Names that can be resolved only by other services of the system (LLMNR, NIS, …) are
//! not found. Whether an address may be reached is for the policy to say, never for this module.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::{DnsError, NetError, runtime::TokioRuntimeProvider};
use hickory_resolver::proto::op::ResponseCode;
use portcullis_proto::host_port::HostName;

use crate::config::Dns;

/// Most addresses of one name that are given out: twice what is ever dialed, so that policy may refuse some.
pub const ADDRESSES_MAX: usize = 8;
/// Names whose answers are remembered; a farm of that size has other worries.
const CACHE_ENTRIES: u64 = 4096;
/// A name that does not exist may begin to: a machine that has just been added must not stay unknown for long.
const NEGATIVE_LIFE_MAX: Duration = Duration::from_secs(30);
/// Longest that an address is believed, whatever its record says: farms move machines.
const POSITIVE_LIFE_MAX: Duration = Duration::from_hours(1);
/// Questions in flight to one name server over one connection; the caller bounds lookups as a whole.
const IN_FLIGHT_MAX: usize = 512;

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResolveError {
    #[error("the name has no address")]
    NotFound,
    #[error("no name server answered in time")]
    Timeout,
    #[error("the name servers failed")]
    Failed,
}

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the resolver cannot be set up: {0}")]
pub struct ResolverError(String);

/// Looks names up.
pub struct Resolver {
    inner: TokioResolver,
    timeout: Duration,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Takes the servers of the configuration, else those of `/etc/resolv.conf` as it is now; where that file
    /// names none, the server on this machine (resolv.conf(5)).
    ///
    /// # Errors
    /// When the resolver cannot be set up at all.
    pub fn new(config: &Dns) -> Result<Self, ResolverError> {
        let mut builder = if config.servers.is_empty() {
            TokioResolver::builder_tokio().unwrap_or_else(|error| {
                tracing::warn!(%error, "no name servers in /etc/resolv.conf, using 127.0.0.1");
                Self::with_servers(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 53))])
            })
        } else {
            Self::with_servers(&config.servers)
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Always;
        options.cache_size = CACHE_ENTRIES;
        options.positive_max_ttl = Some(POSITIVE_LIFE_MAX);
        options.negative_max_ttl = Some(NEGATIVE_LIFE_MAX);
        options.max_active_requests = IN_FLIGHT_MAX;
        options.try_tcp_on_error = true;
        // A lost datagram is asked for again, and a server that answers for one family only still serves, before
        // the time of the whole lookup is over.
        options.attempts = 1;
        options.timeout = config.timeout / 3;
        let inner = builder.build().map_err(|error| ResolverError(error.to_string()))?;
        Ok(Self { inner, timeout: config.timeout })
    }

    fn with_servers(servers: &[SocketAddr]) -> hickory_resolver::ResolverBuilder<TokioRuntimeProvider> {
        let servers = servers.iter().map(|server| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    }

    /// The addresses of a name, IPv4 first, at most [`ADDRESSES_MAX`], never none.
    ///
    /// # Errors
    /// See [`ResolveError`]; the deadline is that of the configuration.
    pub async fn lookup(&self, name: &HostName) -> Result<Vec<IpAddr>, ResolveError> {
        let lookup = tokio::time::timeout(self.timeout, self.inner.lookup_ip(name.as_str())).await;
        let found = lookup.map_err(|_elapsed| ResolveError::Timeout)?.map_err(|error| {
            tracing::debug!(%name, %error, "name not resolved");
            Self::classify(&error)
        })?;
        let addresses: Vec<IpAddr> = found.iter().take(ADDRESSES_MAX).collect();
        if addresses.is_empty() { Err(ResolveError::NotFound) } else { Ok(addresses) }
    }

    /// "No such name" and "no such record" are answers; a server's failure reaches us in the same clothes.
    fn classify(error: &NetError) -> ResolveError {
        match error {
            NetError::Timeout => ResolveError::Timeout,
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => ResolveError::NotFound,
                _ => ResolveError::Failed,
            },
            _ => ResolveError::Failed,
        }
    }
}
