//! `[listener.server_tls]`: TLS towards the servers of a listener.

use portcullis_proto::host_port::HostName;

use super::Resolver;
use super::tables::Names;
use crate::config::file;
use crate::config::reader::{Located, shown};
use crate::config::{ServerTlsConfig, ServerTrust, TlsFloor};

/// The words of `min_tls`.
pub(super) const FLOORS: [(&str, TlsFloor); 2] = [("1.2", TlsFloor::Tls12), ("1.3", TlsFloor::Tls13)];

impl Resolver<'_> {
    pub(super) fn server_tls(&mut self, row: file::ServerTls, names: &Names) -> ServerTlsConfig {
        let min_tls = self.choice("min_tls", row.min_tls.as_ref(), &FLOORS);
        let certificate =
            row.certificate.filter(|typed| self.refers("certificate", typed, &names.certificates));
        let server_name = row.server_name.filter(|typed| self.is_server_name(typed));
        ServerTlsConfig {
            trust: self.server_trust(row.verify.as_ref(), row.ca, row.pin_sha256),
            server_name: server_name.map(|typed| typed.value),
            min_tls: min_tls.unwrap_or(TlsFloor::Tls12),
            certificate: certificate.map(|typed| typed.value),
        }
    }

    fn server_trust(
        &mut self,
        verify: Option<&Located<bool>>,
        ca: Option<Located<String>>,
        pin: Option<Located<String>>,
    ) -> ServerTrust {
        let off = verify.filter(|typed| !typed.value);
        let given = match (&ca, &pin) {
            (Some(_), _) => Some("ca"),
            (None, Some(_)) => Some("pin_sha256"),
            (None, None) => None,
        };
        if let (Some(typed), Some(key)) = (off, given) {
            self.problems
                .add(typed.at, format!("`verify` = false and `{key}` contradict each other"))
                .expected(format!("no `verify`, or no `{key}`"));
        }
        match (ca, pin) {
            _ if off.is_some() => ServerTrust::Anyone,
            (None, None) => ServerTrust::PublicRoots,
            (Some(ca), None) => ServerTrust::Ca(self.path("ca", &ca)),
            (None, Some(pin)) => ServerTrust::Pin(self.pin("pin_sha256", &pin)),
            (Some(ca), Some(pin)) => {
                self.ca_contradicts_pin(&ca, &pin);
                ServerTrust::PublicRoots
            }
        }
    }

    pub(super) fn ca_contradicts_pin(&mut self, ca: &Located<String>, pin: &Located<String>) {
        self.problems
            .add(pin.at.max(ca.at), "`ca` and `pin_sha256` contradict each other")
            .expected("one of them: a pin replaces the check of the chain");
    }

    /// Whether it can be asked for in TLS; reported where not.
    pub(super) fn is_server_name(&mut self, typed: &Located<String>) -> bool {
        let legal = HostName::parse(&typed.value).is_ok();
        if !legal {
            self.problems
                .add(typed.at, format!("\"{}\" is no name of a server", shown(&typed.value)))
                .expected("such as \"storefront.example.com\"");
        }
        legal
    }
}
