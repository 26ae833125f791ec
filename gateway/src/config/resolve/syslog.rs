//! `[syslog]`: the server, and how it is recognised.

use portcullis_proto::host_port::HostPort;

use super::Resolver;
use super::tables::Names;
use crate::config::file;
use crate::config::reader::{Located, shown};
use crate::config::syslog::LEVELS;
use crate::config::{FACILITIES, FACILITY_DEFAULT};
use crate::config::{SyslogConfig, SyslogProtocol, SyslogScope};

const TABLE: &str = "[syslog]";
const PRIORITY_DEFAULT: u8 = 6;

impl Resolver<'_> {
    pub(super) fn syslog(
        &mut self,
        Located { value: typed, at }: Located<file::Syslog>,
        names: &Names,
    ) -> Option<SyslogConfig> {
        let protocols = SyslogProtocol::ALL.map(|protocol| (protocol.as_str(), protocol));
        let protocol = self.choice("protocol", typed.protocol.as_ref(), &protocols);
        let protocol = protocol.unwrap_or(SyslogProtocol::Tls);
        let expected = "such as \"syslog.example.com\" or \"syslog.example.com:6514\"";
        let server = self.required(typed.server, at, TABLE, "server", expected);
        let server = server.and_then(|typed| self.syslog_server(&typed, protocol));
        if protocol != SyslogProtocol::Tls {
            let texts =
                [&typed.ca, &typed.pin_sha256, &typed.server_name, &typed.min_tls, &typed.certificate];
            let keys = ["ca", "pin_sha256", "server_name", "min_tls", "certificate"];
            let given = keys.iter().zip(texts).filter_map(|(key, text)| Some((*key, text.as_ref()?.at)));
            let verify = typed.verify.as_ref().map(|typed| ("verify", typed.at));
            for (key, at) in given.chain(verify) {
                self.problems
                    .add(at, format!("`{key}` is for TLS, and `protocol` is \"{}\"", protocol.as_str()))
                    .expected("`protocol` = \"tls\", or no such key");
            }
        }
        let tls = file::ServerTls {
            ca: typed.ca,
            pin_sha256: typed.pin_sha256,
            verify: typed.verify,
            server_name: typed.server_name,
            min_tls: typed.min_tls,
            certificate: typed.certificate,
        };
        let tls = self.server_tls(tls, names);
        let scopes = SyslogScope::ALL.map(|scope| (scope.as_str(), scope));
        let scope = self.choice("send", typed.send.as_ref(), &scopes);
        let priority = self.choice("level", typed.level.as_ref(), &LEVELS);
        let facility = self.choice("facility", typed.facility.as_ref(), &FACILITIES);
        Some(SyslogConfig {
            server: server?,
            protocol,
            tls,
            scope: scope.unwrap_or(SyslogScope::Gateway),
            priority: priority.unwrap_or(PRIORITY_DEFAULT),
            facility: facility.unwrap_or(FACILITY_DEFAULT),
        })
    }

    /// The port is that of the protocol where none is given.
    fn syslog_server(&mut self, typed: &Located<String>, protocol: SyslogProtocol) -> Option<HostPort> {
        let text = &typed.value;
        let server = HostPort::parse_or_port(text, Some(protocol.port())).ok();
        if server.is_none() {
            self.problems.add(typed.at, format!("\"{}\" is no server", shown(text))).expected(
                "such as \"syslog.example.com\", \"syslog.example.com:6514\" or \"[2001:db8::5]:6514\"",
            );
        }
        server
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, ConfigError, ServerTrust, SyslogProtocol, SyslogScope, parse};

    fn read(keys: &str) -> Result<Config, ConfigError> {
        parse(&format!("[syslog]\n{keys}\n"), Path::new("/etc/portcullis/portcullis.toml"))
    }

    #[test]
    fn a_server_alone_gets_the_gateways_lines_by_tls_and_must_prove_who_it_is() {
        let config = read("server = \"syslog.example.com\"").unwrap().syslog.unwrap();
        assert_eq!(config.server.to_string(), "syslog.example.com:6514");
        assert_eq!((config.protocol, config.scope), (SyslogProtocol::Tls, SyslogScope::Gateway));
        assert_eq!(config.tls.trust, ServerTrust::PublicRoots);
        let config = read("server = \"192.0.2.5\"\nprotocol = \"udp\"").unwrap().syslog.unwrap();
        assert_eq!(config.server.to_string(), "192.0.2.5:514");
    }

    #[test]
    fn what_contradicts_itself_or_is_no_word_is_refused_in_its_place() {
        for (keys, told) in [
            ("", "`server`"),
            ("server = \"a b\"", "is no server"),
            ("server = \"s\"\nprotocol = \"relp\"", "relp"),
            ("server = \"s\"\nprotocol = \"tcp\"\nca = \"x.pem\"", ":4:6: `ca` is for TLS"),
            ("server = \"s\"\nverify = false\nca = \"x.pem\"", "contradict"),
            ("server = \"s\"\ncertificate = \"none\"", "none"),
            ("server = \"s\"\nfacility = \"local9\"", "local9"),
            ("server = \"s\"\nlevel = \"loud\"", "loud"),
            ("server = \"s\"\nverfy = true", "did you mean `verify`"),
        ] {
            let error = read(keys).unwrap_err().to_string();
            assert!(error.contains(told), "{keys}: {error}");
        }
    }
}
