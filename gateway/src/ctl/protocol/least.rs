//! Which role a command needs, and which commands change something: one place for both.

use serde_json::{Value, json};

use super::{Command, UpdateOrder, UpdateSource};
use crate::ctl::role::Role;

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
                | Self::LogLevel { level: Some(_) }
                | Self::TicketIssue(_)
                | Self::TicketRedeem { .. }
                | Self::ConfigCommit(_)
                | Self::ConfigPush(_)
                | Self::Reload {}
                | Self::ReloadConfirm {}
                | Self::Update(UpdateOrder::Install { .. } | UpdateOrder::Rollback {})
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
            // Nothing else has a secret, and nothing of it can fail to serialise: all keys are strings.
            other => serde_json::to_value(other).unwrap_or_default(),
        }
    }
}
