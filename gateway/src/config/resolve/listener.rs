//! `[[listener]]`: which keys go with which kind, and what they refer to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_core::policy::{Destination, Policy, Rule};
use portcullis_core::profile::Kind;
use portcullis_proto::host_port::{Host, HostPort};

use super::Resolver;
use super::forward::{self, ServerPlaces};
use super::server_tls::FLOORS;
use super::tables::Names;
use crate::config::file;
use crate::config::interfaces;
use crate::config::reader::{Located, shown};
use crate::config::{ForwardConfig, ListenerConfig, TlsFloor, UnmatchedSni};

/// Certificates or authorities of one listener.
const REFERENCES_MAX: usize = 256;

/// A listener whose policy still lacks the gateway's own addresses: those are known after the last listener.
struct Draft {
    config: ListenerConfig,
    permit_own: bool,
    /// Where the target of an `ssl-relay` stands.
    target_at: Option<usize>,
    /// The servers of a `forward` listener and where they stand.
    servers_at: ServerPlaces,
}

impl Resolver<'_> {
    pub(super) fn listeners(
        &mut self,
        rows: Vec<Located<file::Listener>>,
        names: &Names,
    ) -> Vec<ListenerConfig> {
        let drafts: Vec<Draft> = rows
            .into_iter()
            .zip(&names.listeners)
            .filter_map(|(row, name)| self.listener(row, name, names))
            .collect();
        let mut own: BTreeSet<IpAddr> = match interfaces::own_addresses() {
            Ok(addresses) => addresses,
            Err(error) => {
                // Without them a ticket could lead back into the gateway.
                self.problems.add(0, format!("cannot list the addresses of this machine: {error}"));
                BTreeSet::new()
            }
        };
        own.extend(self.bound.iter().map(|bound| bound.address.ip()).filter(|ip| !ip.is_unspecified()));
        own.extend(&self.floating);
        let own: Vec<IpAddr> = own.into_iter().collect();
        drafts.into_iter().map(|draft| self.finish_listener(draft, own.clone())).collect()
    }

    fn listener(
        &mut self,
        Located { value: row, at }: Located<file::Listener>,
        name: &str,
        names: &Names,
    ) -> Option<Draft> {
        let table = format!("[[listener]] `{}`", shown(name));
        let kinds = Kind::ALL.map(|kind| (kind.as_str(), kind));
        let words = kinds.map(|(word, _)| word).join(", ");
        self.required(row.kind.as_ref(), at, &table, "kind", &format!("one of {words}"));
        let kind = self.choice("kind", row.kind.as_ref(), &kinds);
        if let Some(kind) = kind {
            self.check_keys_of_kind(&row, at, &table, kind);
        }
        self.required(row.listen.as_ref(), at, &table, "listen", "such as [\"0.0.0.0:443\", \"[::]:443\"]");
        let listen = self.listen(&table, row.listen);
        let certificates = self.list("certificates", row.certificates, REFERENCES_MAX, |resolver, typed| {
            resolver.refers("certificate", typed, &names.certificates).then(|| typed.value.clone())
        });
        let stas = self.list("stas", row.stas, REFERENCES_MAX, |resolver, typed| {
            resolver.refers_to_sta(typed, names).then(|| typed.value.clone())
        });
        let users = row.users.filter(|typed| self.refers("users", typed, &names.users));
        let unmatched = [("default", UnmatchedSni::Default), ("reject", UnmatchedSni::Reject)];
        let target_at = row.target.as_ref().map(|target| target.at);
        let target = row.target.and_then(|typed| self.target(&typed));
        let server_tls = row.server_tls.map(|typed| self.server_tls(typed.value, names));
        let everyone = [IpAddr::from([0; 4]), IpAddr::from([0; 16])].map(|zero| IpNet::new_assert(zero, 0));
        let allow_from = row.allow_from.is_some();
        let sources = self.prefixes("allow_from", row.allow_from);
        let forward = forward::Typed {
            servers: row.server,
            health: row.health,
            data_path: row.data_path,
            idle_timeout: row.idle_timeout,
            source: row.source,
            source_ports: row.source_ports,
        };
        let forward = (kind == Some(Kind::Forward)).then(|| self.forward(&table, &listen, forward));
        let (forward, servers_at) = forward.unzip();
        let rules = self.rules(kind, row.allow, target.as_ref(), forward.as_ref());
        let permit_loopback = row.permit_loopback.is_some_and(|typed| typed.value);
        let config = ListenerConfig {
            name: name.to_owned(),
            kind: kind?,
            listen,
            certificates: certificates.into_iter().map(|name| name.value).collect(),
            min_tls: self.choice("min_tls", row.min_tls.as_ref(), &FLOORS).unwrap_or(TlsFloor::Tls12),
            unmatched_sni: self
                .choice("unmatched_sni", row.unmatched_sni.as_ref(), &unmatched)
                .unwrap_or(UnmatchedSni::Default),
            stas: stas.into_iter().map(|name| name.value).collect(),
            users: users.map(|typed| typed.value),
            target,
            server_tls,
            forward,
            allow_from: if allow_from { sources } else { everyone.to_vec() },
            policy: Policy::new(rules).with_loopback(permit_loopback),
        };
        let permit_own = row.permit_own_addresses.is_some_and(|typed| typed.value);
        Some(Draft { config, permit_own, target_at, servers_at: servers_at.unwrap_or_default() })
    }

    /// Which keys a kind needs and which mean nothing to it.
    fn check_keys_of_kind(&mut self, row: &file::Listener, at: usize, table: &str, kind: Kind) {
        use Kind::{Forward, Gateway, HdxOnly, Relay, SecureProxy, Socks, SslRelay};
        let tls: &[Kind] = &[Gateway, HdxOnly, Socks, SecureProxy, Relay, SslRelay];
        let keys: [(&str, Option<usize>, &[Kind]); 12] = [
            ("certificates", row.certificates.as_ref().map(|typed| typed.at), tls),
            ("server_tls", row.server_tls.as_ref().map(|typed| typed.at), tls),
            ("server", row.server.as_ref().map(|typed| typed.at), &[Forward]),
            ("health", row.health.as_ref().map(|typed| typed.at), &[Forward]),
            ("data_path", row.data_path.as_ref().map(|typed| typed.at), &[Forward]),
            ("idle_timeout", row.idle_timeout.as_ref().map(|typed| typed.at), &[Forward]),
            ("source", row.source.as_ref().map(|typed| typed.at), &[Forward]),
            ("source_ports", row.source_ports.as_ref().map(|typed| typed.at), &[Forward]),
            ("stas", row.stas.as_ref().map(|typed| typed.at), &[Gateway, HdxOnly, SecureProxy]),
            ("users", row.users.as_ref().map(|typed| typed.at), &[Socks, SecureProxy]),
            ("target", row.target.as_ref().map(|typed| typed.at), &[SslRelay]),
            (
                "allow",
                row.allow.as_ref().map(|typed| typed.at),
                &[Gateway, HdxOnly, Socks, SecureProxy, Relay],
            ),
        ];
        for (key, key_at, kinds) in keys {
            if let Some(key_at) = key_at.filter(|_| !kinds.contains(&kind)) {
                let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
                self.problems
                    .add(key_at, format!("`{key}` means nothing for the kind {kind}"))
                    .expected(format!("no `{key}`, or one of the kinds {}", kinds.join(", ")));
            }
        }
        let certificates = row.certificates.is_some();
        let needs: &[(&str, bool, &str)] = match kind {
            Gateway | HdxOnly => &[
                ("certificates", certificates, "the names of [[certificate]] tables: tickets need TLS"),
                ("stas", row.stas.is_some(), "the names of [[sta]] tables, or \"local\""),
            ],
            Relay => &[
                ("certificates", certificates, "the names of [[certificate]] tables"),
                ("allow", row.allow.is_some(), OPEN_PROXY),
            ],
            SslRelay => &[
                ("certificates", certificates, "the names of [[certificate]] tables"),
                ("target", row.target.is_some(), "such as \"10.0.0.9:1494\""),
            ],
            Forward => &[("server", row.server.is_some(), "a [[listener.server]] table for each server")],
            Socks | SecureProxy => &[("allow", row.allow.is_some(), OPEN_PROXY)],
        };
        for (key, present, expected) in needs {
            self.required(present.then_some(()), at, &format!("{table} of kind {kind}"), key, expected);
        }
        let of_tls = [("min_tls", row.min_tls.as_ref()), ("unmatched_sni", row.unmatched_sni.as_ref())];
        for (key, typed) in of_tls {
            if let Some(typed) = typed.filter(|_| !certificates) {
                self.problems
                    .add(typed.at, format!("`{key}` means nothing without TLS"))
                    .expected(format!("`certificates`, or no `{key}`"));
            }
        }
    }

    fn refers_to_sta(&mut self, typed: &Located<String>, names: &Names) -> bool {
        if typed.value != ListenerConfig::LOCAL_STA {
            return self.refers("sta", typed, &names.stas);
        }
        if !names.local_sta {
            self.problems
                .add(typed.at, "`local` is our own ticket authority, and there is no [sta_server]")
                .expected("a [sta_server] table");
        }
        names.local_sta
    }

    fn target(&mut self, typed: &Located<String>) -> Option<HostPort> {
        let target = HostPort::parse(&typed.value);
        if let Err(error) = target {
            self.problems
                .add(typed.at, format!("`target` is \"{}\": {error}", shown(&typed.value)))
                .expected("a host and a port, such as \"10.0.0.9:1494\"");
        }
        target.ok()
    }

    fn finish_listener(&mut self, draft: Draft, own: Vec<IpAddr>) -> ListenerConfig {
        let Draft { mut config, permit_own, target_at, servers_at } = draft;
        config.policy = config.policy.with_own_addresses(own, permit_own);
        // Every session of an ssl-relay goes there, so a target that the policy refuses is a mistake here.
        if let (Some(at), Some(target)) = (target_at, &config.target)
            && matches!(target.host(), Host::Ip(_))
            && config.policy.permit(target, &[]).is_err()
        {
            self.problems
                .add(at, format!("`target` {target} is an address that is never reached"))
                .expected("another address, or `permit_loopback` or `permit_own_addresses` = true");
        }
        for (server, at) in servers_at {
            let target = HostPort::new(Host::Ip(server.ip()), server.port());
            if target.is_ok_and(|target| config.policy.permit(&target, &[]).is_err()) {
                self.problems
                    .add(at, format!("the server {server} is an address that is never reached"))
                    .expected("another address, or `permit_loopback` or `permit_own_addresses` = true");
            }
        }
        config
    }

    /// What may be reached: the access list, or the default of the kind.
    fn rules(
        &mut self,
        kind: Option<Kind>,
        allow: Option<Located<Vec<Located<file::Allow>>>>,
        target: Option<&HostPort>,
        forward: Option<&ForwardConfig>,
    ) -> Vec<Rule> {
        let tickets = matches!(kind, Some(Kind::Gateway | Kind::HdxOnly));
        if let Some(allow) = allow {
            return self.access_list(allow, tickets);
        }
        if let Some(forward) = forward {
            return forward::rules(&forward.servers);
        }
        match target {
            Some(target) => vec![Rule {
                to: vec![match target.host() {
                    Host::Ip(address) => Destination::Prefix(IpNet::from(*address)),
                    Host::Name(name) => Destination::Name(name.clone()),
                }],
                ports: vec![target.port()..=target.port()],
            }],
            None if tickets => vec![Rule::ica_anywhere()],
            None => Vec::new(),
        }
    }
}

const OPEN_PROXY: &str = "a [[listener.allow]] table: without one it would be an open proxy";
