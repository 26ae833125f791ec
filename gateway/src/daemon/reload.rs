//! Reloading: a new configuration is read, checked and assembled whole before any of it takes effect.
//!
//! Live sessions keep what they began with. What cannot change in a running daemon is named, and waits for the
//! restart. Certificates are looked at every few seconds and renewed when their files change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Interval, MissedTickBehavior};

use super::assemble::{self, Assembled};
use crate::acme;
use crate::check;
use crate::config::{self, Config, ListenerConfig, ReloadPlan, Settings, Severity};
use crate::ctl::services::Services;
use crate::log;
use crate::orders::{Applied, Order};
use crate::role::Origin;
use crate::settings;
use crate::sync::lock;
use crate::tls::certs;
use crate::xdp::Hold;

/// How soon a new certificate is noticed.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(2);

pub(super) struct Reloader {
    /// As the daemon started: what a restart would change is measured against it.
    pub(super) booted: Config,
    pub(super) current: Config,
    /// The listeners that there are: made at start, with the newest settings of theirs.
    serving: Vec<Arc<ListenerConfig>>,
    parts: Assembled,
    pub(super) services: Arc<Services>,
    log: log::Control,
    fingerprint: u64,
    certificates: Interval,
    /// What the system was asked to follow last.
    settings: Settings,
}

impl Reloader {
    pub(super) fn new(config: Config, parts: Assembled, services: Arc<Services>, log: log::Control) -> Self {
        let mut certificates = tokio::time::interval(CERTIFICATES_EVERY);
        certificates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let fingerprint = certs::fingerprint(&config.certificates);
        let serving = config.listeners.clone();
        let settings = config.settings.clone();
        Self {
            booted: config.clone(),
            current: config,
            serving,
            parts,
            services,
            log,
            fingerprint,
            certificates,
            settings,
        }
    }

    pub(super) fn services(&self) -> Arc<Services> {
        Arc::clone(&self.services)
    }

    pub(super) fn drain_timeout(&self) -> Duration {
        self.current.server.drain_timeout
    }

    /// SIGHUP: log files were perhaps moved away, and the configuration perhaps changed.
    pub(super) fn on_signal(&mut self) {
        self.log.reopen();
        let origin = Origin { who: "a signal".to_owned(), ..Origin::default() };
        // The outcome is logged; there is nobody else to tell.
        self.carry_out(Order::Reload, &origin).ok();
    }

    /// Does what was asked for. On any error everything stays as it is.
    pub(super) fn carry_out(&mut self, what: Order, origin: &Origin) -> Result<Applied, String> {
        let outcome = match what {
            Order::Reload => self.reload(origin),
            Order::Refresh => self.refresh(),
            Order::Commit { text, hold, comment } => self.commit(&text, hold, &comment, origin),
        };
        self.hand_over_settings();
        match &outcome {
            Ok(Applied { plan, .. }) => {
                tracing::info!(live = ?plan.live, restart = ?plan.restart, "configuration reloaded");
            }
            Err(error) => tracing::error!("configuration not reloaded, the old one stays: {error}"),
        }
        self.services.note_reload(SystemTime::now(), &outcome);
        outcome
    }

    /// Lets the system follow what the file says now, when that is something else. Only once the file says it: who follows
    /// reads the file, and nothing that the daemon could say instead.
    fn hand_over_settings(&mut self) {
        if self.settings == self.current.settings {
            return;
        }
        self.settings.clone_from(&self.current.settings);
        if let Err(error) = settings::ask() {
            tracing::error!(%error, "the system cannot be asked to follow the changed settings");
        }
    }

    /// Reads the configuration again.
    fn reload(&mut self, origin: &Origin) -> Result<Applied, String> {
        let text = config::read(&self.current.path).map_err(|error| error.to_string())?;
        let new = config::parse(&text, &self.current.path).map_err(|error| error.to_string())?;
        let plan = self.put_in_force(new, &text, Hold::AsConfigured)?;
        lock(&self.services.store).note_reloaded(&text, origin);
        Ok(Applied { plan, number: 0 })
    }

    /// Reads again what the configuration in force names; the file may have been changed by hand and is not looked at.
    fn refresh(&mut self) -> Result<Applied, String> {
        let text = lock(&self.services.store).running();
        let new = config::parse(&text, &self.current.path).map_err(|error| error.to_string())?;
        let plan = self.put_in_force(new, &text, Hold::Elsewhere)?;
        Ok(Applied { plan, number: 0 })
    }

    /// Puts a configuration in force whose text is known: all of it, or nothing.
    pub(super) fn put_in_force(&mut self, new: Config, text: &str, hold: Hold) -> Result<ReloadPlan, String> {
        acme::ensure_files(&new)?;
        for finding in check::check(&new).iter().filter(|finding| finding.severity == Severity::Error) {
            tracing::error!("{finding}");
        }
        let plan = ReloadPlan {
            live: config::compare(&self.current, &new).live,
            restart: config::compare(&self.booted, &new).restart,
        };
        self.renew(&new).map_err(|error| format!("{error:#}"))?;
        self.change_policy(&new, text, hold)?;
        self.log.reconfigure(&new.log).map_err(|error| error.to_string())?;
        self.services.config.store(Arc::new(new.clone()));
        if let Err(error) = self.services.ha.apply(new.high_availability.as_ref()) {
            tracing::error!("high availability: {error}");
        }
        self.fingerprint = certs::fingerprint(&new.certificates);
        self.current = new;
        Ok(plan)
    }

    /// The policy of the kernel side, for what listens until the next restart.
    fn change_policy(&self, new: &Config, text: &str, hold: Hold) -> Result<(), String> {
        let changed = self.services.kernel.change(&self.as_served(new), text, hold);
        let changed = changed.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        match self.services.kernel.reverts_at() {
            Some(_) if changed => tracing::warn!(
                "the policy of the kernel side has changed; it is taken back unless `portcullis reload confirm` comes \
                 within `confirm` of [xdp]"
            ),
            _ if changed => tracing::info!("the policy of the kernel side has changed"),
            _ => {}
        }
        Ok(())
    }

    /// What the policy of the kernel side follows from: listeners and servers are those of the start.
    pub(super) fn as_served(&self, new: &Config) -> Config {
        Config {
            listeners: self.serving.clone(),
            sta_server: self.booted.sta_server.clone(),
            metrics: self.booted.metrics.clone(),
            ..new.clone()
        }
    }

    /// Takes back what nobody has confirmed in time: a commit, or the changed policy of a reload.
    pub(super) fn revert(&mut self) {
        self.revert_commit();
        self.hand_over_settings();
        match self.services.kernel.revert_overdue() {
            Ok(Some(xdp)) => {
                tracing::error!(
                    "nobody has confirmed the changed policy of the kernel side: the one before is in force again"
                );
                self.current.xdp = Some(xdp);
                self.services.config.store(Arc::new(self.current.clone()));
            }
            // Confirmed in the last moment.
            Ok(None) => {}
            Err(error) => {
                tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "not taken back")
            }
        }
    }

    /// Assembles everything anew, and only then puts it in place.
    fn renew(&mut self, new: &Config) -> anyhow::Result<()> {
        let users = assemble::load_users(&new.users)?;
        let sta_server_tls = assemble::sta_server_tls(new)?;
        let metrics_access = assemble::metrics_access(new)?;
        let serving: Vec<_> = self.serving.iter().map(|old| still_serving(old, new)).collect();
        let forwarding = self.parts.balancers.prepare(&serving)?;
        let mut services = Vec::new();
        for settings in &new.listeners {
            let listener = self.parts.listeners.iter().find(|listener| *listener.name == settings.name);
            if let Some(listener) = listener {
                let balancer = forwarding.get(&settings.name);
                services.push((listener, assemble::service(settings, new, &self.parts.ticketer, balancer)?));
            }
        }
        self.parts.pool.replace(&new.stas, self.parts.authority.clone())?;
        self.parts.users.store(Arc::new(users));
        if let (Some(current), Some(tls)) = (&self.parts.sta_server_tls, sta_server_tls) {
            current.store(tls);
        }
        // Without [metrics] the listener stays until the restart, and so does who may ask.
        if let Some(access) = metrics_access {
            self.parts.metrics_access.store(Arc::new(access));
        }
        self.parts.balancers.install(forwarding);
        self.serving = serving;
        for (listener, service) in services {
            listener.service.store(Arc::new(service));
        }
        self.services.metrics.set_certificates(assemble::certificate_expiry(&new.certificates));
        self.services.bans.reconfigure(new);
        Ok(())
    }

    pub(super) async fn certificates_due(&mut self) {
        self.certificates.tick().await;
    }

    /// Renews certificates whose files changed; a half-written file is tried again when it changes again.
    pub(super) fn check_certificates(&mut self) {
        let fingerprint = certs::fingerprint(&self.current.certificates);
        if fingerprint == self.fingerprint {
            return;
        }
        self.fingerprint = fingerprint;
        let current = self.current.clone();
        match self.renew(&current) {
            Ok(()) => tracing::info!("certificates renewed"),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "changed certificates are not usable, the old ones stay"
                );
            }
        }
    }
}

/// What a listener serves with a new configuration. Its sockets stay, whatever that says of `listen`, and it is there
/// until the daemon ends.
fn still_serving(old: &Arc<ListenerConfig>, new: &Config) -> Arc<ListenerConfig> {
    match new.listeners.iter().find(|settings| settings.name == old.name) {
        None => Arc::clone(old),
        Some(settings) if settings.listen == old.listen => Arc::clone(settings),
        Some(settings) => {
            Arc::new(ListenerConfig { listen: old.listen.clone(), ..ListenerConfig::clone(settings) })
        }
    }
}
