//! What operators see of `forward` listeners.

use std::time::Duration;

use super::balancer::Known;
use super::{Balancer, Balancers, Path, Service};
use crate::ctl::protocol::{ForwardServer, ForwardStatus, KernelTotals};
use crate::sync::lock;

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
        kernel: KernelTotals {
            flows: carried.flows,
            packets_up: carried.packets_up,
            bytes_up: carried.bytes_up,
            packets_down: carried.packets_down,
            bytes_down: carried.bytes_down,
        },
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
