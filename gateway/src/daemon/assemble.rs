//! From a configuration to parts that work: everything that can fail does so here, before anybody is served.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use portcullis_core::profile::Profile;
use rustls::ServerConfig;
use rustls::server::ProducesTickets;

use crate::acme::{self, Acme};
use crate::authn::local::UserDb;
use crate::certificates;
use crate::config::{CertificateFiles, Config, ListenerConfig, UserFile};
use crate::ctl;
use crate::dns::Resolver;
use crate::forward::{Balancer, Balancers};
use crate::front::{Bound, Listener, Service};
use crate::metrics::{self, http::Access};
use crate::sockets;
use crate::sta::authority::Authority;
use crate::sta::pool::Pool;
use crate::tls::certs;
use crate::tls::client::ServerTls;
use crate::xdp::steering::Cores;

pub(super) type Users = HashMap<String, UserDb>;

/// The parts that a reload may renew, and those that it uses for it.
pub(super) struct Assembled {
    pub(super) listeners: Vec<Arc<Listener>>,
    pub(super) pool: Arc<Pool>,
    pub(super) authority: Option<Arc<Authority>>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) users: Arc<ArcSwap<Users>>,
    pub(super) ticketer: Arc<dyn ProducesTickets>,
    pub(super) sta_server_tls: Option<Arc<ArcSwap<ServerConfig>>>,
    pub(super) balancers: Arc<Balancers>,
    pub(super) metrics_access: Arc<ArcSwap<Access>>,
    pub(super) acme: Arc<Acme>,
}

impl Assembled {
    pub(super) fn new(config: &Config, metrics: &metrics::Handle) -> anyhow::Result<Self> {
        let state_dir = &config.server.state_dir;
        make_state_dir(state_dir)?;
        certificates::finish(&config.certificates);
        acme::ensure_files(config).map_err(anyhow::Error::msg)?;
        let ticketer = certs::ticketer()?;
        let authority = match &config.sta_server {
            Some(server) => Some(Arc::new(Authority::open(server, state_dir)?)),
            None => None,
        };
        let resolver = Arc::new(Resolver::new(&config.dns)?);
        let pool = Arc::new(Pool::new(&config.stas, authority.clone(), Arc::clone(&resolver))?);
        let users = Arc::new(ArcSwap::from_pointee(load_users(&config.users)?));
        let balancers = Arc::new(Balancers::new(config.xdp.is_some()));
        let forwarding = balancers.prepare(&config.listeners)?;
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            let balancer = forwarding.get(&listener.name);
            listeners.push(Arc::new(Listener {
                name: listener.name.as_str().into(),
                metrics: metrics.listener(&listener.name),
                service: ArcSwap::from_pointee(service(listener, config, &ticketer, balancer)?),
            }));
        }
        let sta_server_tls = sta_server_tls(config)?.map(|tls| Arc::new(ArcSwap::new(tls)));
        let metrics_access = metrics_access(config)?.unwrap_or_default();
        let metrics_access = Arc::new(ArcSwap::from_pointee(metrics_access));
        let acme = Arc::new(Acme::new(Arc::clone(&resolver)));
        balancers.install(forwarding);
        Ok(Self {
            listeners,
            pool,
            authority,
            resolver,
            users,
            ticketer,
            sta_server_tls,
            balancers,
            metrics_access,
            acme,
        })
    }
}

/// What a listener serves by this configuration.
pub(super) fn service(
    listener: &ListenerConfig,
    config: &Config,
    ticketer: &Arc<dyn ProducesTickets>,
    balancer: Option<Arc<Balancer>>,
) -> anyhow::Result<Service> {
    let tls = if listener.uses_tls() {
        let (tickets, records) = (Arc::clone(ticketer), config.server.record_layer);
        let tls = certs::server_config(listener, &config.certificates, tickets, records);
        Some(tls.with_context(|| format!("listener `{}`", listener.name))?)
    } else {
        None
    };
    let server_tls = listener.server_tls.as_ref().map(|settings| {
        let records = config.server.record_layer;
        let tls = ServerTls::new(settings, &listener.name, &config.certificates, records);
        tls.with_context(|| format!("listener `{}`: server_tls", listener.name))
    });
    let mut limits = config.limits.clone();
    let mut source = Vec::new();
    if let Some(forward) = &listener.forward {
        limits.idle_timeout = forward.idle_timeout;
        source.clone_from(&forward.source);
    }
    let profile = Profile {
        listener: listener.name.clone(),
        kind: listener.kind,
        tickets: !listener.stas.is_empty(),
        credentials: listener.users.is_some(),
        target: listener.target.clone(),
        policy: listener.policy.clone(),
        limits,
    };
    Ok(Service {
        profile: Arc::new(profile),
        tls,
        server_tls: server_tls.transpose()?,
        stas: listener.stas.clone().into(),
        users: listener.users.clone(),
        allow_from: listener.allow_from.clone(),
        balancer,
        source,
    })
}

pub(super) fn load_users(files: &[UserFile]) -> anyhow::Result<Users> {
    files.iter().map(|users| Ok((users.name.clone(), UserDb::load(&users.file)?))).collect()
}

pub(super) fn sta_server_tls(config: &Config) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let name = config.sta_server.as_ref().and_then(|server| server.certificate.as_ref());
    let files = name.and_then(|name| config.certificates.iter().find(|files| files.name == *name));
    Ok(files.map(certs::certified_server_config).transpose()?)
}

/// Who may ask for metrics; `None` where the configuration has none.
pub(super) fn metrics_access(config: &Config) -> anyhow::Result<Option<Access>> {
    let Some(metrics) = &config.metrics else { return Ok(None) };
    let name = metrics.certificate.as_ref();
    let files = name.and_then(|name| config.certificates.iter().find(|files| files.name == *name));
    let tls = files.map(|files| match &metrics.client_ca {
        None => certs::certified_server_config(files),
        Some(client_ca) => certs::mutual_server_config(files, client_ca),
    });
    Ok(Some(Access { tls: tls.transpose().context("metrics")?, token: metrics.token.clone() }))
}

fn make_state_dir(directory: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| {
        format!("cannot make {}; make it, or set another `server.state_dir`", directory.display())
    })
}

/// When each certificate expires, for the metrics.
pub(super) fn certificate_expiry(certificates: &[CertificateFiles]) -> Vec<(String, SystemTime)> {
    let expiry = |files: &CertificateFiles| Some((files.name.clone(), certs::not_after(files).ok()?));
    certificates.iter().filter_map(expiry).collect()
}

/// Everything that the daemon listens on.
pub(super) struct Sockets {
    pub(super) control: Option<UnixListener>,
    pub(super) metrics: Option<TcpListener>,
    pub(super) sta: Vec<TcpListener>,
    /// One set for each front thread.
    pub(super) listeners: Vec<Vec<Bound>>,
}

impl Sockets {
    pub(super) fn bind(config: &Config, listeners: &[Arc<Listener>], cores: &Cores) -> anyhow::Result<Self> {
        let control = Some(ctl::server::bind(&config.control.socket)?);
        if crate::role::any_group_exists() {
            ctl::server::open_to_groups(&config.control.socket)
                .context("open the control socket to groups")?;
        }
        let ha = config.high_availability.as_ref();
        let floats = |address: SocketAddr| ha.is_some_and(|ha| ha.floats(address.ip()));
        let failed = |address: SocketAddr, what: &str| format!("{what}: cannot listen on {address}");
        let alone = |address: SocketAddr, what: &str| {
            sockets::bind_alone(address, floats(address)).with_context(|| failed(address, what))
        };
        let metrics = config.metrics.as_ref().map(|metrics| alone(metrics.listen, "metrics")).transpose()?;
        let sta = config.sta_server.iter().flat_map(|server| &server.listen);
        let sta = sta.map(|address| alone(*address, "sta_server")).collect::<Result<_, _>>()?;
        let addresses = || {
            let settings = config.listeners.iter().zip(listeners);
            settings.flat_map(|(settings, listener)| {
                let name = format!("listener `{}`", settings.name);
                settings.listen.iter().map(move |address| (*address, listener, name.clone()))
            })
        };
        for (address, _, name) in addresses() {
            sockets::ensure_free(address, floats(address)).with_context(|| failed(address, &name))?;
        }
        let mut threads = Vec::new();
        for index in 0..config.server.workers {
            let mut bound = Vec::new();
            for (address, listener, name) in addresses() {
                let socket = sockets::bind(address, floats(address), cores.accepts_from(index))
                    .with_context(|| failed(address, &name))?;
                bound.push(Bound { listener: Arc::clone(listener), socket });
            }
            threads.push(bound);
        }
        Ok(Self { control, metrics, sta, listeners: threads })
    }
}

/// Sets session ids apart from those of an earlier run.
pub(super) fn session_seed() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Wrapping after 136 years is as good as any other number.
    u32::try_from(since.as_secs() & u64::from(u32::MAX)).unwrap_or(0)
}

/// Takes all descriptors that the system grants and says how many.
pub(super) fn raise_descriptor_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "cannot raise the descriptor limit");
            soft
        }
    }
}

/// Says so when the configured limits can never be reached because descriptors run out first.
pub(super) fn warn_of_narrow_limits(config: &Config, descriptors: u64) {
    let limits = &config.limits;
    // A session has two sockets, a connection without one has one.
    let wanted = limits.connections.saturating_add(limits.sessions);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    if descriptors < wanted {
        tracing::warn!(
            descriptors,
            wanted,
            "descriptors run out before the limits are met; raise LimitNOFILE or lower `limits`"
        );
    }
}
