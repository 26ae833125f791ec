//! Which role a command needs, and which commands change something: one place for both.

use serde_json::{Value, json};

use super::{Command, UpdateOrder, UpdateSource};
use crate::role::Role;

impl Command {
    /// The least role that may ask this.
    #[must_use]
    pub fn least_role(&self) -> Role {
        match self {
            Self::Status {}
            | Self::SessionsList(_)
            | Self::SessionShow { .. }
            | Self::StaList {}
            | Self::ConfigShow {}
            | Self::ConfigText(_)
            | Self::ConfigCompare { .. }
            | Self::ConfigHistory {}
            | Self::ConfigSaved {}
            | Self::WhoAmI {}
            | Self::Resolve { .. }
            | Self::Health {}
            | Self::HighAvailability {}
            | Self::Metrics {}
            | Self::UpdateStatus {}
            | Self::Update(UpdateOrder::List { source: UpdateSource::Known })
            | Self::XdpStatus {}
            | Self::XdpRules {}
            | Self::XdpTest(_)
            | Self::XdpFlows(_)
            | Self::XdpEvents { .. }
            | Self::BansList(_)
            | Self::ForwardStatus {}
            | Self::ForwardFlows(_)
            | Self::CertificateList {}
            | Self::CertificateShow { .. }
            | Self::CertificateExport { .. }
            | Self::SecretList {}
            | Self::LogLevel { level: None } => Role::Viewer,
            Self::SessionKill(_)
            | Self::StaTest { .. }
            | Self::BanAdd(_)
            | Self::BanRemove { .. }
            | Self::BansClear { .. }
            | Self::ForwardDrain(_)
            | Self::ForwardUndrain(_)
            | Self::GatewayDrain { .. }
            | Self::AuditList { .. }
            | Self::Ping(_)
            | Self::Trace(_)
            | Self::TlsTest(_)
            | Self::LogRead(_)
            | Self::LogLevel { level: Some(_) } => Role::Operator,
            // All that is not named above. A ticket opens whatever it names: whoever issues one is not bound by policy's
            // intent; and whoever names a source of updates has the system go there.
            _ => Role::Administrator,
        }
    }

    /// Whether it changes what the gateway does, or takes away what was seen of its users, and so belongs into the audit
    /// log. A candidate does nothing yet.
    #[must_use]
    pub fn is_change(&self) -> bool {
        matches!(
            self,
            Self::SessionKill(_)
                | Self::BanAdd(_)
                | Self::BanRemove { .. }
                | Self::BansClear { .. }
                | Self::ForwardDrain(_)
                | Self::ForwardUndrain(_)
                | Self::GatewayDrain { .. }
                | Self::LogLevel { level: Some(_) }
                | Self::TicketIssue(_)
                | Self::TicketRedeem { .. }
                | Self::ConfigCommit(_)
                | Self::ConfigPush(_)
                | Self::Reload {}
                | Self::ReloadConfirm {}
                // A directory that is named is remembered, with who vouches for it.
                | Self::Update(
                    UpdateOrder::Install { .. }
                        | UpdateOrder::Rollback {}
                        | UpdateOrder::List { source: UpdateSource::Url(_) | UpdateSource::Private { .. } }
                )
                | Self::CaptureStart(_)
                | Self::CaptureStop { .. }
                | Self::CaptureRead { offset: 0, .. }
                | Self::CaptureDelete { .. }
                | Self::SupportBundle {}
                | Self::SupportShell(_)
                | Self::CertificateRequest(_)
                | Self::CertificateImport(_)
                | Self::CertificateDelete { .. }
                | Self::CertificateRenew { .. }
                | Self::SecretSet(_)
                | Self::SecretDelete { .. }
                | Self::AccessChange(_)
                | Self::Machine(_)
        )
    }

    /// What was asked, without secrets and without whole texts.
    #[must_use]
    pub fn for_audit(&self) -> Value {
        match self {
            Self::TicketRedeem { .. } => json!({"cmd": "ticket-redeem"}),
            Self::ConfigLoad { text, .. } => json!({"cmd": "config-load", "bytes": text.len()}),
            Self::CertificateImport(import) => {
                json!({"cmd": "certificate-import", "name": import.name, "force": import.force})
            }
            Self::SecretSet(order) => json!({"cmd": "secret-set", "name": order.name}),
            Self::AccessChange(order) => json!({"cmd": "access-change", "change": order.change}),
            Self::Update(order) => update_for_audit(order),
            // Nothing else has a secret, and nothing of it can fail to serialise: all keys are strings.
            other => serde_json::to_value(other).unwrap_or_default(),
        }
    }
}

/// With fingerprints of authorities in the place of their certificates.
fn update_for_audit(order: &UpdateOrder) -> Value {
    // As of all commands.
    let mut what = serde_json::to_value(Command::Update(order.clone())).unwrap_or_default();
    if let UpdateOrder::List { source } | UpdateOrder::Install { source, .. } = order
        && let UpdateSource::Private { authorities, .. } = source
        && let Some(told) = what.pointer_mut("/source/private/authorities")
    {
        *told = json!(authorities.fingerprints());
    }
    what
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Authorities, Url};

    #[test]
    fn who_may_log_in_is_an_administrators_to_see_and_change_and_audited_without_the_ticket() {
        use crate::access::{Change, User};
        use crate::ctl::protocol::AccessOrder;
        assert_eq!(Command::AccessList {}.least_role(), Role::Administrator);
        for change in [
            Change::KeyAdd { user: User::Viewer, fingerprint: "SHA256:x".into() },
            Change::KeyRemove { user: User::Viewer, fingerprint: "SHA256:x".into(), force: true },
            Change::PasswordSet { user: User::Viewer },
            Change::PasswordClear { user: User::Viewer, force: false },
        ] {
            let order = Command::AccessChange(AccessOrder { ticket: "0123".into(), change });
            assert!(order.least_role() == Role::Administrator && order.is_change());
            let told = order.for_audit();
            assert_eq!((&told["cmd"], &told["change"]["user"]), (&json!("access-change"), &json!("viewer")));
            assert!(told.get("ticket").is_none() && !told.to_string().contains("0123"));
        }
    }

    #[test]
    fn a_source_of_updates_that_somebody_names_is_in_the_audit_log_and_so_is_who_vouches_for_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        let url = Url::parse("https://u.example/p").unwrap();
        let authorities = Authorities::parse(&pem.repeat(4)).unwrap();
        let private = UpdateSource::Private { url: url.clone(), authorities };
        let list = |source| Command::Update(UpdateOrder::List { source });
        assert!(!list(UpdateSource::Known).is_change());
        assert!(list(UpdateSource::Url(url)).is_change() && list(private.clone()).is_change());
        for order in [
            UpdateOrder::List { source: private.clone() },
            UpdateOrder::Install { source: private, version: None },
        ] {
            let told = Command::Update(order).for_audit();
            assert_eq!(told["source"]["private"]["url"], "https://u.example/p");
            let prints = told["source"]["private"]["authorities"].as_array().unwrap();
            assert_eq!((prints.len(), prints[0].as_str().map(str::len)), (4, Some(64)));
            assert!(told.to_string().len() < 1000, "{told}");
        }
    }
}
