//! `forward` listeners: their servers, the checks of these, and where flows run.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use portcullis_core::balance::health::Thresholds;
use portcullis_core::policy::{Destination, Rule};
use portcullis_ebpf_common::maglev::SERVERS_MAX;

use super::Resolver;
use super::access::port_range;
use super::limits::IDLE_BOUNDS;
use crate::config::file;
use crate::config::reader::{Located, shown};
use crate::config::{Check, CheckTls, CheckTrust, DataPath, ForwardConfig, HealthConfig, ServerConfig};

const WEIGHT_MAX: usize = 256;
const WEIGHT_DEFAULT: usize = 1;
const INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// More checks a second than that are an attack on one's own server.
const WAIT_MIN: Duration = Duration::from_millis(100);
const RISE_DEFAULT: usize = 2;
const FALL_DEFAULT: usize = 3;
const THRESHOLD_MAX: usize = 100;
/// Below Linux' own `ip_local_port_range`, 32768 to 60999, and above the ports that services have.
const SOURCE_PORTS_DEFAULT: RangeInclusive<u16> = 20_000..=29_999;
/// Below these, ports belong to services.
const SOURCE_PORT_MIN: u16 = 1_024;
const PATH_MAX_BYTES: usize = 512;
/// What most applications answer when they are well, redirections to a login page included.
const EXPECT_DEFAULT: RangeInclusive<u16> = 200..=399;

/// The keys of a listener that mean something only for this kind.
#[derive(Debug)]
pub(super) struct Typed {
    pub(super) servers: Option<Located<Vec<Located<file::ForwardServer>>>>,
    pub(super) health: Option<Located<file::Health>>,
    pub(super) data_path: Option<Located<String>>,
    pub(super) idle_timeout: Option<Located<String>>,
    pub(super) source: Option<Located<Vec<Located<String>>>>,
    pub(super) source_ports: Option<Located<String>>,
}

/// A server's address and where it stands in the file.
pub(super) type ServerPlaces = Vec<(SocketAddr, usize)>;

impl Resolver<'_> {
    pub(super) fn forward(
        &mut self,
        table: &str,
        listen: &[SocketAddr],
        typed: Typed,
    ) -> (ForwardConfig, ServerPlaces) {
        let (servers, places) = self.servers(table, typed.servers);
        let data_paths = DataPath::ALL.map(|path| (path.as_str(), path));
        let data_path = self.choice("data_path", typed.data_path.as_ref(), &data_paths);
        let data_path_at = typed.data_path.as_ref().map_or(0, |typed| typed.at);
        let config = ForwardConfig {
            servers,
            health: self.health(typed.health),
            data_path: data_path.unwrap_or(DataPath::Auto),
            idle_timeout: self.duration("idle_timeout", typed.idle_timeout, self.idle_timeout, IDLE_BOUNDS),
            source: self.source(typed.source),
            source_ports: typed.source_ports.map_or(SOURCE_PORTS_DEFAULT, |typed| self.source_ports(&typed)),
        };
        if config.data_path == DataPath::Xdp {
            self.check_kernel_path(table, data_path_at, listen, &config);
        }
        (config, places)
    }

    fn servers(
        &mut self,
        table: &str,
        typed: Option<Located<Vec<Located<file::ForwardServer>>>>,
    ) -> (Vec<ServerConfig>, ServerPlaces) {
        let Some(typed) = typed else { return (Vec::new(), Vec::new()) };
        let most = usize::from(SERVERS_MAX);
        self.check_length("server", typed.at, typed.value.len(), most);
        let mut servers: Vec<ServerConfig> = Vec::new();
        let mut places = Vec::new();
        for Located { value: row, at } in typed.value.into_iter().take(most) {
            let place = format!("[[listener.server]] of {table}");
            let expected = "such as \"10.0.0.5:443\" or \"[2001:db8::5]:443\"";
            let typed = self.required(row.address, at, &place, "address", expected);
            let weight = self.number("weight", row.weight, WEIGHT_DEFAULT, 0..=WEIGHT_MAX);
            let named = row.name.filter(|typed| self.is_name(typed));
            let Some(address) = typed.as_ref().and_then(|typed| self.server_address(typed)) else { continue };
            let at = typed.map_or(at, |typed| typed.at);
            let name_at = named.as_ref().map_or(at, |typed| typed.at);
            let name = named.map_or_else(|| address.to_string(), |typed| typed.value);
            if servers.iter().any(|server| server.address == address) {
                self.problems
                    .add(at, format!("the server {address} stands there twice"))
                    .expected("each server once; a `weight` gives it a larger share");
            } else if servers.iter().any(|server| server.name == name) {
                self.problems
                    .add(name_at, format!("a second server of {table} is named `{name}`"))
                    .expected("a name of its own");
            }
            servers.push(ServerConfig { name, address, weight: u16::try_from(weight).unwrap_or(1) });
            places.push((address, at));
        }
        if !servers.is_empty() && servers.iter().all(|server| server.weight == 0) {
            let subject = table.replace("[[listener]] `", "listener ").replace('`', "");
            let remedy = "every connection is closed; give one of its servers a weight";
            self.remark(super::Severity::Warning, &subject, "all of its servers have weight 0", remedy);
        }
        (servers, places)
    }

    fn server_address(&mut self, typed: &Located<String>) -> Option<SocketAddr> {
        let address = typed.value.parse::<SocketAddr>().ok();
        let mapped = |address: &SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let legal = address.filter(|address| {
            let ip = address.ip();
            let special = ip.is_unspecified() || ip.is_multicast();
            address.port() != 0 && !special && mapped(address) == *address
        });
        if legal.is_none() {
            let suggestion = address.as_ref().map(mapped).filter(|mapped| Some(*mapped) != address);
            self.problems
                .add(typed.at, format!("\"{}\" is no address of a server", shown(&typed.value)))
                .expected("an IP address and a port, such as \"10.0.0.5:443\" or \"[2001:db8::5]:443\"")
                .suggest(suggestion.map(|address| address.to_string()));
        }
        legal
    }

    fn source(&mut self, typed: Option<Located<Vec<Located<String>>>>) -> Vec<IpAddr> {
        let addresses = self.list("source", typed, 2, |resolver, typed| {
            let address = typed.value.parse::<IpAddr>().ok();
            let address = address.filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
            if address.is_none() {
                resolver
                    .problems
                    .add(typed.at, format!("\"{}\" is no address of this machine", shown(&typed.value)))
                    .expected("such as \"10.0.0.2\" or \"2001:db8::2\"");
            }
            address
        });
        let mut families = addresses.iter().map(|address| address.value.is_ipv4());
        if let (Some(first), Some(second)) = (families.next(), families.next())
            && first == second
            && let Some(second) = addresses.get(1)
        {
            self.problems
                .add(second.at, "`source` has two addresses of one family")
                .expected("one IPv4 address, one IPv6 address, or one of each");
        }
        addresses.into_iter().map(|address| address.value).collect()
    }

    fn source_ports(&mut self, typed: &Located<String>) -> RangeInclusive<u16> {
        let range = port_range(&typed.value).filter(|range| *range.start() >= SOURCE_PORT_MIN);
        if range.is_none() {
            self.problems
                .add(typed.at, format!("`source_ports` is \"{}\"", shown(&typed.value)))
                .expected(format!("a range from {SOURCE_PORT_MIN} to 65535, such as \"20000-29999\""));
        }
        range.unwrap_or(SOURCE_PORTS_DEFAULT)
    }

    /// What the kernel cannot do is a contradiction only where it was asked for; `auto` falls back.
    fn check_kernel_path(&mut self, table: &str, at: usize, listen: &[SocketAddr], config: &ForwardConfig) {
        if !self.has_xdp {
            self.problems
                .add(at, format!("{table} forwards in the kernel, and there is no [xdp]"))
                .expected("an [xdp] table, or `data_path` = \"auto\" or \"user\"");
        }
        let families = |v4: bool| {
            listen.iter().any(|address| address.is_ipv4() == v4)
                && config.servers.iter().any(|server| server.address.is_ipv4() != v4)
        };
        if families(true) || families(false) {
            self.problems
                .add(at, format!("{table} forwards in the kernel, between IPv4 and IPv6"))
                .expected("servers of the family of `listen`, or `data_path` = \"auto\" or \"user\"");
        }
    }

    fn health(&mut self, typed: Option<Located<file::Health>>) -> Option<HealthConfig> {
        let at = typed.as_ref().map_or(0, |typed| typed.at);
        let mut row = typed.map(|typed| typed.value).unwrap_or_default();
        let kinds = ["none", "tcp", "tls", "http", "https"].map(|kind| (kind, kind));
        let kind = self.choice("kind", row.kind.as_ref(), &kinds).unwrap_or("tcp");
        self.check_keys_of_check(&row, kind);
        let interval = self.duration(
            "interval",
            row.interval.take(),
            INTERVAL_DEFAULT,
            WAIT_MIN..=Duration::from_hours(1),
        );
        let timeout =
            self.duration("timeout", row.timeout.take(), TIMEOUT_DEFAULT, WAIT_MIN..=Duration::from_mins(1));
        let threshold = |number| u32::try_from(number).unwrap_or(1);
        let thresholds = Thresholds {
            rise: threshold(self.number("rise", row.rise.take(), RISE_DEFAULT, 1..=THRESHOLD_MAX)),
            fall: threshold(self.number("fall", row.fall.take(), FALL_DEFAULT, 1..=THRESHOLD_MAX)),
        };
        let check = match kind {
            "none" => return None,
            "tls" => Check::Tls(self.check_tls(row)),
            "http" | "https" => {
                self.required(row.path.as_ref(), at, "[listener.health]", "path", "such as \"/\"");
                let path = row.path.take().map(|typed| self.check_path(&typed));
                let expect = row.expect.take().map_or(EXPECT_DEFAULT, |typed| self.expected_status(&typed));
                let tls = self.check_tls(row);
                let host = tls.server_name.clone();
                let path = path.unwrap_or_else(|| "/".to_owned());
                Check::Http { path, expect, host, tls: (kind == "https").then_some(tls) }
            }
            _ => Check::Tcp,
        };
        Some(HealthConfig { check, interval, timeout, thresholds })
    }

    fn check_keys_of_check(&mut self, row: &file::Health, kind: &str) {
        let http: &[&str] = &["http", "https"];
        let tls: &[&str] = &["tls", "https"];
        let checks: &[&str] = &["tcp", "tls", "http", "https"];
        let at = |typed: &Option<Located<String>>| typed.as_ref().map(|typed| typed.at);
        let number = |typed: &Option<Located<i64>>| typed.as_ref().map(|typed| typed.at);
        let keys = [
            ("interval", at(&row.interval), checks),
            ("timeout", at(&row.timeout), checks),
            ("rise", number(&row.rise), checks),
            ("fall", number(&row.fall), checks),
            ("path", at(&row.path), http),
            ("expect", at(&row.expect), http),
            ("server_name", at(&row.server_name), &["tls", "http", "https"]),
            ("ca", at(&row.ca), tls),
            ("pin_sha256", at(&row.pin_sha256), tls),
        ];
        for (key, at, kinds) in keys {
            if let Some(at) = at.filter(|_| !kinds.contains(&kind)) {
                self.problems
                    .add(at, format!("`{key}` means nothing for a check of the kind {kind}"))
                    .expected(format!("no `{key}`, or one of the kinds {}", kinds.join(", ")));
            }
        }
    }

    fn check_path(&mut self, typed: &Located<String>) -> String {
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte);
        let fits = (1..=PATH_MAX_BYTES).contains(&typed.value.len());
        if !fits || !typed.value.starts_with('/') || !typed.value.bytes().all(legal) {
            self.problems
                .add(typed.at, format!("`path` is \"{}\"", shown(&typed.value)))
                .expected("an absolute path as it stands in a URL, such as \"/\"");
        }
        typed.value.clone()
    }

    fn expected_status(&mut self, typed: &Located<String>) -> RangeInclusive<u16> {
        let range = port_range(&typed.value).filter(|range| *range.start() >= 100 && *range.end() <= 599);
        if range.is_none() {
            self.problems
                .add(typed.at, format!("`expect` is \"{}\"", shown(&typed.value)))
                .expected("a status such as \"200\" or a range such as \"200-399\"");
        }
        range.unwrap_or(EXPECT_DEFAULT)
    }

    fn check_tls(&mut self, row: file::Health) -> CheckTls {
        let server_name = row.server_name.filter(|typed| self.is_server_name(typed));
        let trust = match (row.ca, row.pin_sha256) {
            (None, None) => CheckTrust::Any,
            (Some(ca), None) => CheckTrust::Ca(self.path("ca", &ca)),
            (None, Some(pin)) => CheckTrust::Pin(self.pin("pin_sha256", &pin)),
            (Some(ca), Some(pin)) => {
                self.ca_contradicts_pin(&ca, &pin);
                CheckTrust::Any
            }
        };
        CheckTls { server_name: server_name.map(|typed| typed.value), trust }
    }
}

/// The rules by which the policy judges the servers themselves: this machine is not among them unless permitted.
pub(super) fn rules(servers: &[ServerConfig]) -> Vec<Rule> {
    let rule = |server: &ServerConfig| Rule {
        to: vec![Destination::Prefix(IpNet::from(server.address.ip()))],
        ports: vec![server.address.port()..=server.address.port()],
    };
    servers.iter().map(rule).collect()
}
