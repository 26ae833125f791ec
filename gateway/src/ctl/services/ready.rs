//! Whether the gateway should get new clients.

use super::Services;

impl Services {
    /// # Errors
    /// Why the gateway should get no new clients. It gets some when it listens by its configuration, packets are filtered
    /// where that says so, and tickets can be redeemed.
    pub fn ready(&self) -> Result<(), String> {
        if !self.state.is_ready() {
            return Err(self.state.as_str().to_owned());
        }
        if let Some(open) = self.kernel.interfaces().iter().find(|interface| !interface.is_attached()) {
            return Err(format!("packets are not filtered at {}", open.name));
        }
        let stas = self.pool.status();
        if !stas.is_empty() && stas.iter().all(|sta| sta.state != "up") {
            return Err("no ticket authority is up".to_owned());
        }
        Ok(())
    }
}
