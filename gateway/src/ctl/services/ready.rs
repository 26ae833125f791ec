//! Whether the gateway should get new clients.

use super::{Outcome, Services};
use crate::ctl::protocol::{Drained, ErrorCode, Failure};
use crate::ha::Standing;
use crate::sync::lock;

impl Services {
    /// Lets nothing new in, or again; what lives goes on. Of two appliances the other takes the addresses.
    pub(super) fn drain_gateway(&self, drained: bool) -> Outcome<Drained> {
        if !self.state.set_drained(drained) {
            let text = format!("the gateway is {}: it can be drained while it is ready", self.state.as_str());
            return Err(Failure::new(ErrorCode::Unavailable, text));
        }
        let sessions = lock(&self.sessions).len();
        tracing::warn!(
            drained,
            sessions,
            "an operator drains the gateway, or lets it take new sessions again"
        );
        Ok(Drained { state: self.state.as_str().to_owned(), sessions })
    }

    /// # Errors
    /// Why the gateway should get no new clients. It gets some when it listens by its configuration, packets are filtered
    /// where that says so, and tickets can be redeemed.
    pub fn ready(&self) -> Result<(), String> {
        match self.standing() {
            Standing::Serves => Ok(()),
            Standing::Weak(reason) | Standing::Faulty(reason) => Err(reason),
        }
    }

    /// The same in degrees, for a peer that may be better off. Without a ticket authority live sessions go on, and so this
    /// appliance gives its addresses away only to one that has more to offer.
    pub(crate) fn standing(&self) -> Standing {
        if !self.state.is_ready() {
            return Standing::Faulty(self.state.as_str().to_owned());
        }
        if let Some(open) = self.kernel.interfaces().iter().find(|interface| !interface.is_attached()) {
            return Standing::Faulty(format!("packets are not filtered at {}", open.name));
        }
        let stas = self.pool.status();
        if !stas.is_empty() && stas.iter().all(|sta| sta.state != "up") {
            return Standing::Weak("no ticket authority is up".to_owned());
        }
        Standing::Serves
    }
}
