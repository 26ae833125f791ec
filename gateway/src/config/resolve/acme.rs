//! `[acme]`, and the names that a `[[certificate]]` gets by it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hyper::Uri;
use portcullis_proto::host_port::{HostName, HostPort};

use super::Resolver;
use crate::config::file;
use crate::config::reader::{Located, shown};
use crate::config::{AcmeCertificate, AcmeChallenge, AcmeConfig, ExternalAccount};

/// Names in one certificate; issuers of public certificates take a hundred.
const NAMES_MAX: usize = 100;
const CONTACTS_MAX: usize = 8;
const LISTEN_MAX: usize = 8;
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
/// Longest URL of a directory.
const URL_MAX_BYTES: usize = 512;
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

impl Resolver<'_> {
    /// The certificates that have names to be got for, of the typed rows.
    pub(super) fn acme_certificates(
        &mut self,
        rows: &[Located<file::Certificate>],
        names: &[String],
    ) -> Vec<(usize, AcmeCertificate)> {
        let mut wanted = Vec::new();
        for (row, name) in rows.iter().zip(names) {
            let Some(typed) = &row.value.acme_names else { continue };
            if row.value.chain.is_some() || row.value.key.is_some() {
                self.problems
                    .add(typed.at, format!("[[certificate]] `{}` has files and `acme_names`", shown(name)))
                    .expected("either: what comes by ACME is kept in the state directory");
                continue;
            }
            let of_hosts = self.list("acme_names", Some(typed.clone()), NAMES_MAX, Self::host_to_be_proven);
            let names = of_hosts.into_iter().map(|name| name.value).collect();
            wanted.push((typed.at, AcmeCertificate { name: name.clone(), names }));
        }
        wanted
    }

    fn host_to_be_proven(&mut self, typed: &Located<String>) -> Option<String> {
        match HostName::parse(&typed.value) {
            Ok(name) => Some(name.as_str().to_owned()),
            Err(_) => {
                self.problems
                    .add(typed.at, format!("`{}` cannot be proven here", shown(&typed.value)))
                    .expected("a host name; wildcards and addresses need ways that there are none of");
                None
            }
        }
    }

    pub(super) fn acme(
        &mut self,
        typed: Option<Located<file::Acme>>,
        wanted: Vec<(usize, AcmeCertificate)>,
    ) -> Option<AcmeConfig> {
        let Some(Located { value: typed, at }) = typed else {
            if let Some((at, certificate)) = wanted.first() {
                let message = format!(
                    "[[certificate]] `{}` has `acme_names`, and there is no [acme]",
                    certificate.name
                );
                self.problems.add(*at, message).expected("an [acme] section that says where from");
            }
            return None;
        };
        let table = "[acme]";
        let agreed = typed.terms_agreed.as_ref().is_some_and(|agreed| agreed.value);
        if !agreed && !self.problems.is_unread(at, "terms_agreed") {
            let at = typed.terms_agreed.as_ref().map_or(at, |agreed| agreed.at);
            self.problems
                .add(at, "[acme] does not agree to the terms of the certificates' issuer")
                .expected("`terms_agreed = true`, by somebody who has read them");
        }
        let choices = AcmeChallenge::ALL.map(|kind| (kind.as_str(), kind));
        let challenge = self.choice("challenge", typed.challenge.as_ref(), &choices);
        let challenge = challenge.unwrap_or(AcmeChallenge::TlsAlpn01);
        let contact = self.list("contact", typed.contact, CONTACTS_MAX, Self::contact);
        let http_listen = self.http_listen(typed.http_listen, challenge);
        let external_account = self.external_account(typed.eab_key_id, typed.eab_key_secret);
        let bounds = Duration::from_mins(1)..=Duration::from_hours(365 * 24);
        let renew_before = self.duration("renew_before", typed.renew_before, RENEW_BEFORE, bounds);
        let ca = typed.ca.map(|ca| self.path("ca", &ca));
        let directory = self.required(
            typed.directory,
            at,
            table,
            "directory",
            "such as \"https://acme-v02.api.letsencrypt.org/directory\"",
        )?;
        let server = self.directory(&directory)?;
        Some(AcmeConfig {
            directory: directory.value,
            server,
            contact: contact.into_iter().map(|contact| contact.value).collect(),
            ca,
            challenge,
            http_listen,
            renew_before,
            external_account,
            certificates: wanted.into_iter().map(|(_, certificate)| certificate).collect(),
        })
    }

    fn directory(&mut self, typed: &Located<String>) -> Option<HostPort> {
        let uri: Option<Uri> = typed.value.parse().ok().filter(|_| typed.value.len() <= URL_MAX_BYTES);
        let uri = uri.filter(|uri| uri.scheme_str() == Some("https"));
        let server = uri.as_ref().and_then(|uri| uri.authority());
        let server = server.and_then(|at| HostPort::parse_or_port(at.as_str(), Some(HTTPS_PORT)).ok());
        if server.is_none() {
            self.problems
                .add(typed.at, format!("`directory` is \"{}\"", shown(&typed.value)))
                .expected("an https URL, as the certificates' issuer publishes it");
        }
        server
    }

    fn contact(&mut self, typed: &Located<String>) -> Option<String> {
        let address = typed.value.strip_prefix("mailto:");
        let legal = address.is_some_and(|address| {
            address.contains('@')
                && address.len() <= 254
                && address.bytes().all(|byte| byte.is_ascii_graphic())
        });
        if !legal {
            self.problems
                .add(typed.at, format!("`contact` has \"{}\"", shown(&typed.value)))
                .expected("such as \"mailto:operators@example.com\"");
        }
        legal.then(|| typed.value.clone())
    }

    fn http_listen(
        &mut self,
        typed: Option<Located<Vec<Located<String>>>>,
        challenge: AcmeChallenge,
    ) -> Vec<SocketAddr> {
        let Some(typed) = typed else {
            return match challenge {
                AcmeChallenge::Http01 => {
                    vec![(Ipv4Addr::UNSPECIFIED, HTTP_PORT).into(), (Ipv6Addr::UNSPECIFIED, HTTP_PORT).into()]
                }
                AcmeChallenge::TlsAlpn01 => Vec::new(),
            };
        };
        if challenge != AcmeChallenge::Http01 {
            self.problems
                .add(typed.at, "`http_listen` means something with `challenge = \"http-01\"` only")
                .expected("that challenge, or no such key");
        }
        let listen = self
            .list("http_listen", Some(typed), LISTEN_MAX, |resolver, typed| resolver.bind("[acme]", typed));
        listen.into_iter().map(|at| at.value).collect()
    }

    fn external_account(
        &mut self,
        id: Option<Located<String>>,
        secret: Option<Located<String>>,
    ) -> Option<ExternalAccount> {
        match (id, secret) {
            (None, None) => None,
            (Some(id), Some(secret)) => {
                let key = self.secret("external account's key", &secret)?;
                Some(ExternalAccount { id: id.value, key })
            }
            (Some(Located { at, .. }), None) | (None, Some(Located { at, .. })) => {
                self.problems
                    .add(at, "[acme] has one of `eab_key_id` and `eab_key_secret`")
                    .expected("both, as the certificates' issuer gives them, or neither");
                None
            }
        }
    }
}
