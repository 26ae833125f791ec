//! Ticket authorities: those that are asked, `[[sta]]`, and our own, `[sta_server]`.

use std::time::Duration;

use ipnet::IpNet;
use portcullis_core::ticket_store::{LIFE_DEFAULT, LIFE_MAX};
use portcullis_proto::host_port::HostPort;
use portcullis_proto::ticket::AuthorityId;

use super::Resolver;
use super::tables::Names;
use crate::config::file;
use crate::config::reader::{Located, shown};
use crate::config::suggest::nearest;
use crate::config::{StaConfig, StaServerConfig, StaTls, StaUrl};

/// Where a Citrix authority answers (PROTOCOL §3).
const PATH_DEFAULT: &str = "/scripts/ctxsta.dll";
/// Longest path of an authority's URL.
const URL_PATH_MAX_BYTES: usize = 512;
/// Requests in flight to one authority.
const CONNECTIONS_MAX: usize = 1_024;
/// About 500 MB of tickets.
const TICKETS_MAX: usize = 1_000_000;
/// Source prefixes of one list.
pub(super) const PREFIXES_MAX: usize = 1_000;

impl Resolver<'_> {
    pub(super) fn stas(&mut self, rows: Vec<Located<file::Sta>>, names: &Names) -> Vec<Located<StaConfig>> {
        rows.into_iter()
            .zip(&names.stas)
            .filter_map(|(row, name)| {
                let at = row.value.authority_id.as_ref().map_or(row.at, |id| id.at);
                self.sta(row, name).map(|value| Located { value, at })
            })
            .collect()
    }

    fn sta(&mut self, Located { value: row, at }: Located<file::Sta>, name: &str) -> Option<StaConfig> {
        let table = format!("[[sta]] `{}`", shown(name));
        let url = self.required(row.url, at, &table, "url", "such as \"https://ddc1.example.com\"");
        let url = url.and_then(|typed| self.url(&typed));
        let https = url.as_ref().is_none_or(|url| url.https);
        let sta = StaConfig {
            name: name.to_owned(),
            tls: self.sta_tls(https, row.ca, row.pin_sha256),
            authority_id: self.authority_id(row.authority_id),
            timeout: self.duration(
                "timeout",
                row.timeout,
                Duration::from_secs(5),
                Duration::from_millis(100)..=Duration::from_mins(1),
            ),
            health_interval: self.duration(
                "health_interval",
                row.health_interval,
                Duration::from_secs(30),
                Duration::from_secs(1)..=Duration::from_hours(1),
            ),
            connections: self.number("connections", row.connections, 16, 1..=CONNECTIONS_MAX),
            security_key: self.security_key(
                &table,
                row.security_key_header,
                (row.security_key_files, row.security_key_secrets),
            ),
            url: url?,
        };
        Some(sta)
    }

    /// `http[s]://host[:port][/path]`: no user, no query, no fragment.
    fn url(&mut self, typed: &Located<String>) -> Option<StaUrl> {
        let parsed = parse_url(&typed.value);
        if let Err((message, suggestion)) = &parsed {
            self.problems
                .add(typed.at, format!("\"{}\" {message}", shown(&typed.value)))
                .expected("http:// or https://, a host, an optional port and path")
                .suggest(suggestion.clone());
        }
        parsed.ok()
    }

    fn sta_tls(&mut self, https: bool, ca: Option<Located<String>>, pin: Option<Located<String>>) -> StaTls {
        for (key, at) in [("ca", ca.as_ref()), ("pin_sha256", pin.as_ref())] {
            if let Some(typed) = at.filter(|_| !https) {
                self.problems
                    .add(typed.at, format!("`{key}` means nothing for an http url"))
                    .expected(format!("an https url, or no `{key}`"));
            }
        }
        if !https {
            return StaTls::PublicRoots;
        }
        match (ca, pin) {
            (None, None) => StaTls::PublicRoots,
            (Some(ca), None) => StaTls::Ca(self.path("ca", &ca)),
            (None, Some(pin)) => StaTls::Pin(self.pin("pin_sha256", &pin)),
            (Some(ca), Some(pin)) => {
                self.ca_contradicts_pin(&ca, &pin);
                StaTls::PublicRoots
            }
        }
    }

    pub(super) fn pin(&mut self, key: &str, typed: &Located<String>) -> [u8; 32] {
        // `openssl x509 -fingerprint -sha256` writes colons between the bytes.
        let digits: Vec<u8> = typed
            .value
            .chars()
            .filter(|character| *character != ':')
            .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()
            .unwrap_or_default();
        let bytes: Vec<u8> =
            digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
        let pin = <[u8; 32]>::try_from(bytes).ok().filter(|_| digits.len() == 64);
        if pin.is_none() {
            self.problems
                .add(typed.at, format!("`{key}` is no SHA-256 fingerprint"))
                .expected("64 hexadecimal digits, as `openssl x509 -noout -fingerprint -sha256` prints");
        }
        pin.unwrap_or_default()
    }

    fn authority_id(&mut self, typed: Option<Located<String>>) -> Option<AuthorityId> {
        let typed = typed?;
        let id = AuthorityId::parse(&typed.value);
        if id.is_err() {
            self.problems
                .add(typed.at, format!("\"{}\" is no authority id", shown(&typed.value)))
                .expected("`STA` and 9 decimal or 12 hexadecimal digits");
        }
        id.ok()
    }

    pub(super) fn sta_server(
        &mut self,
        Located { value: row, at }: Located<file::StaServer>,
        names: &Names,
    ) -> Option<Located<StaServerConfig>> {
        let table = "[sta_server]";
        // Without an address it serves the listeners that name `local`, and the control socket.
        if row.listen.is_some() {
            self.required(
                row.allow_from.as_ref(),
                at,
                table,
                "allow_from",
                "the prefixes of those who may ask for tickets, such as [\"10.0.0.0/8\"]",
            );
        }
        let id_at = row.authority_id.as_ref().map_or(at, |id| id.at);
        let listen = self.listen(table, row.listen);
        let certificate =
            row.certificate.filter(|typed| self.refers("certificate", typed, &names.certificates));
        let value = StaServerConfig {
            listen,
            certificate: certificate.map(|typed| typed.value),
            authority_id: self.authority_id(row.authority_id),
            allow_from: self.prefixes("allow_from", row.allow_from),
            security_key: self.security_key(
                table,
                row.security_key_header,
                (row.security_key_files, row.security_key_secrets),
            ),
            ticket_life: self.duration(
                "ticket_life",
                row.ticket_life,
                LIFE_DEFAULT,
                Duration::from_secs(1)..=LIFE_MAX,
            ),
            max_tickets: self.number("max_tickets", row.max_tickets, 100_000, 1..=TICKETS_MAX),
        };
        Some(Located { value, at: id_at })
    }

    /// Tickets are sent to the authority whose id they carry, so an id belongs to one.
    pub(super) fn refuse_shared_authority_ids(
        &mut self,
        stas: &[Located<StaConfig>],
        server: Option<&Located<StaServerConfig>>,
    ) {
        let of_stas = stas.iter().map(|sta| (sta.value.authority_id.as_ref(), sta.at));
        let of_server = server.map(|server| (server.value.authority_id.as_ref(), server.at));
        let mut seen: Vec<&AuthorityId> = Vec::new();
        for (id, at) in of_stas.chain(of_server) {
            let Some(id) = id else { continue };
            if seen.contains(&id) {
                self.problems
                    .add(at, format!("the authority id {id} is used twice"))
                    .expected("an id of its own: tickets find their authority by it");
            }
            seen.push(id);
        }
    }

    pub(super) fn prefixes(&mut self, key: &str, typed: Option<Located<Vec<Located<String>>>>) -> Vec<IpNet> {
        let prefixes = self.list(key, typed, PREFIXES_MAX, |resolver, typed| {
            let prefix = parse_prefix(&typed.value);
            if let Err(suggestion) = &prefix {
                resolver
                    .problems
                    .add(typed.at, format!("\"{}\" is no prefix of addresses", shown(&typed.value)))
                    .expected("such as \"10.0.0.0/8\", \"192.0.2.7\" or \"::/0\"")
                    .suggest(suggestion.as_deref());
            }
            prefix.ok()
        });
        prefixes.into_iter().map(|prefix| prefix.value).collect()
    }
}

/// A prefix or a single address. A prefix with bits set behind its length is refused with the one it lies in:
/// whoever writes 10.0.0.7/8 meant something narrower, or did not look.
pub(super) fn parse_prefix(text: &str) -> Result<IpNet, Option<String>> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let prefix: IpNet = text.parse().map_err(|_| None)?;
    if prefix.trunc() == prefix { Ok(prefix) } else { Err(Some(prefix.trunc().to_string())) }
}

fn parse_url(text: &str) -> Result<StaUrl, (&'static str, Option<String>)> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(("is no URL", Some(format!("http://{text}")).filter(|_| !text.is_empty())));
    };
    let https = match scheme {
        "https" => true,
        "http" => false,
        other => {
            let near = nearest(other, ["http", "https"]).map(|near| format!("{near}://{rest}"));
            return Err(("has another scheme", near));
        }
    };
    let (server, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let server = HostPort::parse_or_port(server, Some(if https { 443 } else { 80 }))
        .map_err(|_| ("has no host (and port) as it should be", None))?;
    let path = if path.is_empty() || path == "/" { PATH_DEFAULT } else { path };
    let legal = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    if path.len() > URL_PATH_MAX_BYTES || !path.bytes().all(legal) {
        return Err(("has no path as it should be", None));
    }
    Ok(StaUrl { https, server, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_its_defaults_filled_in() {
        for (text, full) in [
            ("https://a.example", "https://a.example:443/scripts/ctxsta.dll"),
            ("http://a.example/", "http://a.example:80/scripts/ctxsta.dll"),
            ("http://10.0.0.1:8080/x/y.dll", "http://10.0.0.1:8080/x/y.dll"),
            ("https://[2001:db8::1]/z", "https://[2001:db8::1]:443/z"),
        ] {
            assert_eq!(parse_url(text).unwrap().to_string(), full);
        }
    }

    #[test]
    fn urls_with_users_queries_odd_schemes_or_no_host_are_refused() {
        for text in [
            "",
            "a.example",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a/x?y",
            "http://a/#x",
            "http://a:0/",
            "http://a/ b",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_must_not_have_bits_behind_its_length() {
        assert_eq!(parse_prefix("10.0.0.7"), Ok("10.0.0.7/32".parse().unwrap()));
        assert_eq!(parse_prefix("10.0.0.7/8"), Err(Some("10.0.0.0/8".into())));
        assert_eq!(parse_prefix("10/8"), Err(None));
    }
}
