//! Looking around from this machine: names, echoes, the way to a server, its TLS.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_proto::host_port::{Host, HostPort};
use rustls_pki_types::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Outcome, Services};
use crate::config::{ServerTrust, StaTls};
use crate::ctl::protocol::{
    ECHO_MAX_BYTES, ECHOES_MAX, ErrorCode, Failure, Family, HOPS_MAX, Hop, PROBES_MAX, PingOrder, Pinged,
    Resolved, TlsTestOrder, TlsTested, TraceMethod, TraceOrder, Traced,
};
use crate::dns::Resolver;
use crate::support_shell::watch::Shells;
use crate::tls::certs;
use crate::tools::capture::Captures;
use crate::tools::probe::{Question, ask, icmp_is_allowed};
use crate::tools::tls::{Trust, look};

/// Tools that may be at work at once: each holds a thread and asks others.
const AT_ONCE: usize = 4;
/// How long one request may take: less than a client waits for its answer.
const TIME_MAX: Duration = Duration::from_secs(45);
const TLS_TIME_MAX: Duration = Duration::from_secs(15);
const TIMEOUTS_MS: std::ops::RangeInclusive<u16> = 50..=5000;
/// Nobody's network is to be flooded from here.
const INTERVALS_MS: std::ops::RangeInclusive<u16> = 100..=10_000;

/// What the tools of one daemon share.
#[derive(Debug)]
pub struct Bench {
    places: Arc<Semaphore>,
    pub(super) captures: Captures,
    resolver: Arc<Resolver>,
    pub(crate) shells: Arc<Shells>,
}

impl Bench {
    #[must_use]
    pub fn new(state: &Path, resolver: Arc<Resolver>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            captures: Captures::new(state),
            resolver,
            shells: Arc::default(),
        }
    }

    pub(super) fn place(&self) -> Outcome<OwnedSemaphorePermit> {
        let full = "as many tools are at work as may be at once; try again in a moment";
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| Failure::new(ErrorCode::Unavailable, full))
    }
}

impl Services {
    pub(super) async fn resolve(&self, name: &str) -> Outcome<Resolved> {
        Ok(Resolved { name: name.to_owned(), addresses: self.addresses(name, None).await? })
    }

    pub(super) async fn ping(&self, order: PingOrder) -> Outcome<Pinged> {
        within("count", order.count, &(1..=ECHOES_MAX))?;
        within("size", order.size, &(0..=ECHO_MAX_BYTES))?;
        within("timeout_ms", order.timeout_ms, &TIMEOUTS_MS)?;
        within("interval_ms", order.interval_ms, &INTERVALS_MS)?;
        let _place = self.bench.place()?;
        let address = self.address(&order.host, order.family, order.source).await?;
        icmp_is_allowed(address).map_err(|error| no_icmp(&error))?;
        on_a_thread(move || ping(&order, address)).await
    }

    pub(super) async fn trace(&self, order: TraceOrder) -> Outcome<Traced> {
        within("first", order.first, &(1..=HOPS_MAX))?;
        within("last", order.last, &(order.first..=HOPS_MAX))?;
        within("probes", order.probes, &(1..=PROBES_MAX))?;
        within("timeout_ms", order.timeout_ms, &TIMEOUTS_MS)?;
        let _place = self.bench.place()?;
        let address = self.address(&order.host, order.family, order.source).await?;
        let method = match (order.method, icmp_is_allowed(address)) {
            (Some(TraceMethod::Icmp), Err(error)) => return Err(no_icmp(&error)),
            (Some(method), _) => method,
            (None, Ok(())) => TraceMethod::Icmp,
            (None, Err(_)) => TraceMethod::Udp,
        };
        on_a_thread(move || trace(&order, address, method)).await
    }

    pub(super) async fn tls_test(&self, order: TlsTestOrder) -> Outcome<TlsTested> {
        let target = HostPort::parse(&order.target)
            .map_err(|error| Failure::bad_request(format!("{}: {error}; write host:port", order.target)))?;
        let (trust, told) = self.trust(&order)?;
        let _place = self.bench.place()?;
        let ip = self.address(&target.host().to_string(), None, None).await?;
        let asked = order.server_name.unwrap_or_else(|| match target.host() {
            Host::Ip(address) => address.to_string(),
            Host::Name(name) => name.to_string(),
        });
        let name = ServerName::try_from(asked.clone())
            .map_err(|_| Failure::bad_request(format!("`{asked}` is no name of a server")))?;
        let address = SocketAddr::new(ip, target.port());
        let seen = tokio::time::timeout(TLS_TIME_MAX, look(address, name, trust)).await;
        let unavailable = |why| Failure::new(ErrorCode::Unavailable, why);
        let seconds = TLS_TIME_MAX.as_secs();
        let late = || unavailable(format!("{address} has not answered within {seconds} seconds"));
        let seen = seen.map_err(|_elapsed| late())?.map_err(unavailable)?;
        Ok(TlsTested {
            address: address.to_string(),
            server_name: asked,
            version: seen.version,
            suite: seen.suite,
            group: seen.group,
            trust: told,
            verified: seen.problem.is_none(),
            problem: seen.problem.unwrap_or_default(),
            chain: seen.chain,
            connect_ms: milliseconds(seen.connected),
            handshake_ms: milliseconds(seen.shaken),
        })
    }

    /// By what the server is to be believed, and what that is called.
    fn trust(&self, order: &TlsTestOrder) -> Outcome<(Trust, String)> {
        let name = match (&order.ca, &order.trust) {
            (Some(_), Some(_)) => return Err(Failure::bad_request("give `ca` or `trust`, not both")),
            (Some(text), None) => {
                return Ok((Trust::pem(text).map_err(Failure::bad_request)?, "ca".to_owned()));
            }
            (None, None) => return Ok((Trust::public(), "public".to_owned())),
            (None, Some(name)) => name,
        };
        let config = self.config.load();
        let roots = |path| {
            let roots =
                certs::roots(path).map_err(|error| Failure::new(ErrorCode::Unavailable, error.to_string()));
            Ok::<_, Failure>(Trust::Authorities(roots?))
        };
        if let Some(sta) = config.stas.iter().find(|sta| sta.name == *name) {
            let trust = match &sta.tls {
                StaTls::PublicRoots => Trust::public(),
                StaTls::Ca(path) => roots(path)?,
                StaTls::Pin(pin) => Trust::Pin(*pin),
            };
            return Ok((trust, format!("sta {name}")));
        }
        let listener = config.listeners.iter().find(|listener| listener.name == *name);
        if let Some(tls) = listener.and_then(|listener| listener.server_tls.as_ref()) {
            let trust = match &tls.trust {
                ServerTrust::PublicRoots => Trust::public(),
                ServerTrust::Ca(path) => roots(path)?,
                ServerTrust::Pin(pin) => Trust::Pin(*pin),
                ServerTrust::Anyone => Trust::Anyone,
            };
            return Ok((trust, format!("listener {name}")));
        }
        let text = format!("no STA is called `{name}`, and no listener with `server_tls`");
        Err(Failure::new(ErrorCode::NotFound, text))
    }

    /// One address of a host, of the wanted family.
    async fn address(&self, host: &str, family: Option<Family>, source: Option<IpAddr>) -> Outcome<IpAddr> {
        let of_source = source.map(|source| if source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 });
        if let (Some(family), Some(own)) = (family, of_source)
            && family != own
        {
            return Err(Failure::bad_request("`source` is of the other family"));
        }
        let family = family.or(of_source);
        let none = || Failure::new(ErrorCode::NotFound, format!("{host} has no address of that family"));
        self.addresses(host, family).await?.first().copied().ok_or_else(none)
    }

    async fn addresses(&self, host: &str, family: Option<Family>) -> Outcome<Vec<IpAddr>> {
        let parsed = Host::parse(host)
            .map_err(|error| Failure::bad_request(format!("`{host}` is no name or address: {error}")))?;
        let found = match parsed {
            Host::Ip(address) => vec![address],
            Host::Name(name) => self.bench.resolver.lookup(&name).await.map_err(|error| {
                Failure::new(ErrorCode::NotFound, format!("{name} has no address: {error}"))
            })?,
        };
        let fits = |address: &IpAddr| match family {
            None => true,
            Some(Family::Ipv4) => address.is_ipv4(),
            Some(Family::Ipv6) => address.is_ipv6(),
        };
        Ok(found.into_iter().filter(fits).collect())
    }
}

fn ping(order: &PingOrder, address: IpAddr) -> Outcome<Pinged> {
    let begun = Instant::now();
    let (timeout, interval) = (order.timeout_ms, Duration::from_millis(order.interval_ms.into()));
    let mut echoes = Vec::new();
    for number in 0..order.count {
        let asked = Instant::now();
        let question = Question {
            to: address,
            from: order.source,
            method: TraceMethod::Icmp,
            hops: None,
            size: order.size.into(),
            wait: Duration::from_millis(timeout.into()),
            number: number.into(),
        };
        echoes.push(ask(&question).map_err(|error| not_asked(address, &error))?);
        if number + 1 < order.count {
            if begun.elapsed() + interval > TIME_MAX {
                break;
            }
            std::thread::sleep(interval.saturating_sub(asked.elapsed()));
        }
    }
    let answered = echoes.iter().filter(|echo| echo.outcome == "answer").count();
    Ok(Pinged { address, sent: echoes.len(), answered, echoes })
}

fn trace(order: &TraceOrder, address: IpAddr, method: TraceMethod) -> Outcome<Traced> {
    let begun = Instant::now();
    let one_hop = Duration::from_millis(u64::from(order.timeout_ms) * u64::from(order.probes));
    let mut traced = Traced { address, method, hops: Vec::new(), ended: false, reached: false, next: None };
    for hop in order.first..=order.last {
        if begun.elapsed() + one_hop > TIME_MAX {
            traced.next = Some(hop);
            break;
        }
        let mut probes = Vec::new();
        for probe in 0..order.probes {
            let question = Question {
                to: address,
                from: order.source,
                method,
                hops: Some(hop),
                size: 32,
                wait: Duration::from_millis(order.timeout_ms.into()),
                number: u16::from(hop) * u16::from(PROBES_MAX) + u16::from(probe),
            };
            probes.push(ask(&question).map_err(|error| not_asked(address, &error))?);
        }
        traced.reached = probes.iter().any(|probe| probe.outcome == "answer");
        traced.ended = traced.reached || probes.iter().any(|probe| probe.outcome == "unreachable");
        traced.hops.push(Hop { hop, probes });
        if traced.ended {
            break;
        }
    }
    Ok(traced)
}

pub(super) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?
}

pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    range: &std::ops::RangeInclusive<T>,
) -> Outcome<()> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Failure::bad_request(format!("`{name}` is from {} to {}", range.start(), range.end())))
}

fn no_icmp(error: &std::io::Error) -> Failure {
    let text = format!(
        "the kernel opens no ICMP socket for the gateway ({error}): let `sysctl net.ipv4.ping_group_range` include \
         the group of portcullisd"
    );
    Failure::new(ErrorCode::Unavailable, text)
}

fn not_asked(address: IpAddr, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "; the packet filter's policy of what may leave refuses it",
        std::io::ErrorKind::AddrNotAvailable => "; `source` is no address of this machine",
        _ => "",
    };
    Failure::new(ErrorCode::Unavailable, format!("{address} cannot be asked: {error}{hint}"))
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
