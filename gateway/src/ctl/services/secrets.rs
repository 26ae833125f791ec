//! Secrets by name: what comes in is sealed, and nothing goes out.

use super::{Outcome, Services};
use crate::ctl::protocol::{ErrorCode, Failure, Named, SecretOrder, SecretPage, SecretRow};
use crate::log;
use crate::orders::Order;
use crate::role::Caller;
use crate::secrets::{SecretError, Vault};

impl Services {
    fn vault(&self) -> Vault {
        Vault::new(&self.config.load().server.state_dir)
    }

    /// Keeps a secret. One that the configuration names is in force at once, or not at all.
    pub(super) async fn set_secret(&self, caller: &Caller, order: &SecretOrder) -> Outcome<Named> {
        let vault = self.vault();
        let former = vault.sealed(&order.name);
        vault.set(&order.name, order.value.expose()).map_err(refused)?;
        let used = self.config.load().secrets.contains(&order.name);
        if used && let Err(failure) = self.order(caller, Order::Refresh).await {
            if let Err(error) = vault.put_back(&order.name, former.as_deref()) {
                tracing::error!(%error, secret = order.name, "the former secret cannot be put back");
            }
            return Err(failure);
        }
        Ok(Named { name: order.name.clone() })
    }

    pub(super) fn secrets(&self) -> SecretPage {
        let vault = self.vault();
        let config = self.config.load();
        let row = |kept: crate::secrets::Kept| SecretRow {
            used: config.secrets.contains(&kept.name),
            since: log::rfc3339(kept.since),
            sealed_by: kept.sealed_by.map(str::to_owned),
            name: kept.name,
        };
        SecretPage {
            key: vault.key_source().to_owned(),
            secrets: vault.list().into_iter().map(row).collect(),
        }
    }

    pub(super) fn delete_secret(&self, name: &str) -> Outcome<Named> {
        if self.config.load().secrets.contains(name) {
            let error = SecretError::Used { name: name.to_owned(), by: "the one in force".to_owned() };
            return Err(refused(error));
        }
        self.vault().delete(name).map_err(refused)?;
        Ok(Named { name: name.to_owned() })
    }
}

fn refused(error: SecretError) -> Failure {
    let code = match &error {
        SecretError::Name | SecretError::Value => ErrorCode::BadRequest,
        SecretError::Unknown(_) => ErrorCode::NotFound,
        SecretError::TooMany | SecretError::Used { .. } => ErrorCode::Refused,
        SecretError::OtherKey(_)
        | SecretError::Damaged(_)
        | SecretError::Io { .. }
        | SecretError::Randomness => ErrorCode::Internal,
    };
    Failure::new(code, error.to_string())
}
