//! What operators see of `forward` listeners.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::balancer::Known;
use super::{Balancer, Balancers, Path, Service};
use crate::sync::lock;

/// One `forward` listener, an element of the answer to `forward-status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForwardStatus {
    pub listener: String,
    pub listen: Vec<String>,
    /// As configured: `auto`, `xdp` or `user`.
    pub data_path: String,
    /// Where new flows run: `kernel` or `user`.
    pub path: String,
    /// Why not in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_reason: Option<String>,
    /// How servers are checked: `none`, `tcp`, `tls`, `http` or `https`.
    pub check: String,
    pub servers: Vec<ForwardServer>,
}

/// A server of a `forward` listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForwardServer {
    pub name: String,
    pub address: String,
    /// As configured.
    pub weight: u16,
    /// `up`, `down`, or `unknown` before the first check and without checks.
    pub state: String,
    /// An operator lets it take no new flows.
    pub drained: bool,
    /// Its part of new flows, in percent.
    pub share: f64,
    /// Live flows, in user space and in the kernel.
    pub flows: u64,
    /// Of flows in the kernel, live and ended, since the daemon started.
    #[serde(default)]
    pub kernel: KernelTotals,
    pub checks: u64,
    pub failures: u64,
    /// What the last check found, where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check_age_ms: Option<u64>,
    /// How long the last check took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

/// What the kernel has forwarded: flows, and what they carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelTotals {
    pub flows: u64,
    pub packets_up: u64,
    pub bytes_up: u64,
    pub packets_down: u64,
    pub bytes_down: u64,
}

impl KernelTotals {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            flows: self.flows.saturating_add(other.flows),
            packets_up: self.packets_up.saturating_add(other.packets_up),
            bytes_up: self.bytes_up.saturating_add(other.bytes_up),
            packets_down: self.packets_down.saturating_add(other.packets_down),
            bytes_down: self.bytes_down.saturating_add(other.bytes_down),
        }
    }
}

impl Balancers {
    /// Every listener by name; of the flows only those that the kernel forwards are counted here.
    #[must_use]
    pub fn status(&self) -> Vec<ForwardStatus> {
        self.all().iter().map(|balancer| balancer.status()).collect()
    }
}

impl Balancer {
    fn status(&self) -> ForwardStatus {
        let inner = lock(&self.inner);
        let service = self.service();
        let checks = inner.listener.forward.as_ref().and_then(|forward| forward.health.as_ref());
        let places = 0_u16..;
        ForwardStatus {
            listener: self.name.to_string(),
            listen: service.listen.iter().map(ToString::to_string).collect(),
            data_path: service.data_path.as_str().to_owned(),
            path: inner.path.as_str().to_owned(),
            path_reason: match &inner.path {
                Path::Kernel => None,
                Path::User(reason) => Some(reason.clone()),
            },
            check: checks.map_or("none", |health| health.check.as_str()).to_owned(),
            servers: inner
                .servers
                .iter()
                .zip(places)
                .map(|(known, place)| row(known, &service, place, inner.drained.contains(&known.config.name)))
                .collect(),
        }
    }
}

fn row(known: &Known, service: &Service, place: u16, drained: bool) -> ForwardServer {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let carried = known.kernel_live.plus(known.kernel_ended);
    ForwardServer {
        name: known.config.name.clone(),
        address: known.config.address.to_string(),
        weight: known.config.weight,
        state: known.health.state().as_str().to_owned(),
        drained,
        share: share(&service.table, place),
        flows: known.kernel_live.flows,
        kernel: carried,
        checks: known.checks,
        failures: known.failures,
        last_error: known.last.as_ref().and_then(|last| last.error.clone()),
        last_check_age_ms: known.last.as_ref().map(|last| milliseconds(last.at.elapsed())),
        latency_ms: known.last.as_ref().map(|last| last.took.as_secs_f64() * 1000.0),
    }
}

/// In percent, to a hundredth.
fn share(table: &[u16], place: u16) -> f64 {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let slots = count(table.iter().filter(|server| **server == place).count());
    (f64::from(slots) * 10_000.0 / f64::from(count(table.len()).max(1))).round() / 100.0
}
