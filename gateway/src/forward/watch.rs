//! When servers are checked: each by a task of its own, so that a silent one delays no other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::{Balancer, Checker};
use crate::config::{ForwardConfig, HealthConfig};

/// Checks of one listener at once: each has a socket and perhaps a TLS handshake on the control plane's thread.
const CHECKS_MAX: usize = 32;

/// Starts the checks of a listener's servers.
pub(super) fn spawn(
    balancer: &Arc<Balancer>,
    checker: &Arc<Checker>,
    health: &HealthConfig,
    forward: &ForwardConfig,
) -> Vec<AbortHandle> {
    let places = Arc::new(Semaphore::new(CHECKS_MAX));
    let mut tasks = Vec::new();
    for server in &forward.servers {
        let source = forward.source_towards(server.address.ip());
        let (balancer, checker, places) = (Arc::clone(balancer), Arc::clone(checker), Arc::clone(&places));
        let (address, interval) = (server.address, health.interval);
        let task = async move { run(&balancer, &checker, address, source, interval, &places).await };
        tasks.push(tokio::spawn(task).abort_handle());
    }
    tasks
}

async fn run(
    balancer: &Balancer,
    checker: &Checker,
    server: SocketAddr,
    source: Option<IpAddr>,
    interval: Duration,
    places: &Semaphore,
) {
    while let Ok(place) = places.acquire().await {
        let began = Instant::now();
        let result = checker.run(server, source).await;
        drop(place);
        balancer.note_check(server, began.elapsed(), result);
        // From beginning to beginning, so that a slow failure is not seen later than a fast one.
        sleep(jittered(interval, random_byte()).saturating_sub(began.elapsed())).await;
    }
}

/// Spreads the checks of many gateways by a tenth of the interval either way.
fn jittered(interval: Duration, random: u8) -> Duration {
    interval.mul_f64(0.9 + 0.2 * f64::from(random) / 255.0)
}

fn random_byte() -> u8 {
    let mut byte = [0];
    match SystemRandom::new().fill(&mut byte) {
        Ok(()) => byte[0],
        // Without randomness all gateways check at the same pace, which is harmless.
        Err(_unspecified) => u8::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_secs(100);
        assert_eq!(jittered(interval, 0), Duration::from_secs(90));
        assert_eq!(jittered(interval, u8::MAX), Duration::from_secs(110));
    }
}
