//! Whether the gateway should get new clients, and whether it does what it should.

use super::Services;
use crate::ctl::protocol::{Health, HealthCheck};

/// What is not in this machine's hands.
const AUTHORITIES: &str = "authorities";

impl Services {
    /// # Errors
    /// Why the gateway should get no new clients. It gets some when it listens by its configuration, packets are filtered
    /// where that says so, and tickets can be redeemed.
    pub fn ready(&self) -> Result<(), String> {
        match self.checks().into_iter().find(|check| !check.ok) {
            Some(wrong) => Err(wrong.told),
            None => Ok(()),
        }
    }

    /// The same, check by check.
    pub(super) fn health(&self) -> Health {
        let checks = self.checks();
        Health {
            ready: checks.iter().all(|check| check.ok),
            own: checks.iter().all(|check| check.ok || check.name == AUTHORITIES),
            checks,
        }
    }

    fn checks(&self) -> Vec<HealthCheck> {
        let check = |name: &str, ok: bool, told: String| HealthCheck { name: name.to_owned(), ok, told };
        let interfaces = self.kernel.interfaces();
        let open = interfaces.iter().find(|interface| !interface.is_attached());
        let filter = match open {
            Some(open) => format!("packets are not filtered at {}", open.name),
            None => format!("on {} interfaces", interfaces.len()),
        };
        let stas = self.pool.status();
        let up = stas.iter().filter(|sta| sta.state == "up").count();
        let authorities = match (stas.len(), up) {
            (1.., 0) => "no ticket authority is up".to_owned(),
            (all, up) => format!("{up} of {all} up"),
        };
        vec![
            check("gateway", self.state.is_ready(), self.state.as_str().to_owned()),
            check("packet-filter", open.is_none(), filter),
            check(AUTHORITIES, stas.is_empty() || up > 0, authorities),
        ]
    }
}
