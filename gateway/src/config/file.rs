//! What was typed: one type per table of the file, every key optional, every value with its place.
//!
//! Nothing is defaulted or judged here. The names of the fields are the keys, so the list of keys that a mistyped
//! one is compared with cannot differ from the keys that are read.

mod values;

use std::fs::File as Handle;
use std::io::Read as _;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::reader::{FromToml, Located, Problems, position, shown};
use super::schema::Shape;
pub(super) use values::{NameOrNumber, Ports, Threshold};

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident $header:literal { $($key:ident: $type:ty,)* })*) => {
        /// Every table with its keys.
        pub(super) const TABLES: &[(&str, &[&str])] = &[$(($header, &[$(stringify!($key)),*])),*];
        /// The same with what each key holds.
        pub(super) const SHAPES: &[(&str, &[(&str, Shape)])] =
            &[$(($header, &[$((stringify!($key), <$type as FromToml>::SHAPE)),*])),*];

        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default)]
            pub(super) struct $name {
                $(pub(super) $key: Option<Located<$type>>,)*
            }

            impl FromToml for $name {
                const SHAPE: Shape = Shape::Table($header);

                fn expected() -> String {
                    format!("a table `[{}]`", $header)
                }

                fn expected_array() -> String {
                    format!("tables `[[{}]]` with double brackets", $header)
                }

                fn from_toml(
                    value: &Spanned<DeValue<'_>>,
                    key: &str,
                    problems: &mut Problems<'_>,
                ) -> Option<Self> {
                    let DeValue::Table(table) = value.get_ref() else {
                        problems.not_a_table(value, key);
                        return None;
                    };
                    Some(Self::from_table(table, value.span().start, problems))
                }
            }

            impl $name {
                fn from_table(table: &DeTable<'_>, at: usize, problems: &mut Problems<'_>) -> Self {
                    problems.refuse_unknown(table, $header, &[$(stringify!($key)),*], TABLES);
                    Self { $($key: problems.field(table, at, stringify!($key)),)* }
                }
            }
        )*
    };
}

tables! {
    File "" {
        server: Server,
        control: Control,
        log: Log,
        metrics: Metrics,
        dns: Dns,
        limits: Limits,
        certificate: Vec<Located<Certificate>>,
        acme: Acme,
        users: Vec<Located<Users>>,
        sta: Vec<Located<Sta>>,
        sta_server: StaServer,
        listener: Vec<Located<Listener>>,
        bans: Bans,
        xdp: Xdp,
        high_availability: HighAvailability,
        network: Network,
        syslog: Syslog,
        support: Support,
    }
    Server "server" {
        workers: i64,
        record_layer: String,
        state_dir: String,
        drain_timeout: String,
        relay_engine: String,
        relay_gather: String,
    }
    Control "control" {
        socket: String,
    }
    Log "log" {
        level: String,
        format: String,
        file: String,
    }
    Metrics "metrics" {
        listen: String,
        certificate: String,
        client_ca: String,
        token_file: String,
        token_secret: String,
    }
    Dns "dns" {
        servers: Vec<Located<String>>,
        timeout: String,
    }
    Limits "limits" {
        connections: i64,
        connections_per_source: i64,
        handshakes: i64,
        handshakes_per_source: i64,
        sessions: i64,
        sessions_per_source: i64,
        sessions_per_user: i64,
        handshake_timeout: String,
        first_bytes_timeout: String,
        redeem_timeout: String,
        dial_timeout: String,
        idle_timeout: String,
    }
    Certificate "certificate" {
        name: String,
        chain: String,
        key: String,
        acme_names: Vec<Located<String>>,
    }
    Acme "acme" {
        directory: String,
        contact: Vec<Located<String>>,
        terms_agreed: bool,
        ca: String,
        challenge: String,
        http_listen: Vec<Located<String>>,
        renew_before: String,
        eab_key_id: String,
        eab_key_secret: String,
    }
    Users "users" {
        name: String,
        file: String,
    }
    Sta "sta" {
        name: String,
        url: String,
        authority_id: String,
        ca: String,
        pin_sha256: String,
        timeout: String,
        health_interval: String,
        connections: i64,
        security_key_header: String,
        security_key_files: Vec<Located<String>>,
        security_key_secrets: Vec<Located<String>>,
    }
    StaServer "sta_server" {
        listen: Vec<Located<String>>,
        certificate: String,
        authority_id: String,
        allow_from: Vec<Located<String>>,
        security_key_header: String,
        security_key_files: Vec<Located<String>>,
        security_key_secrets: Vec<Located<String>>,
        ticket_life: String,
        max_tickets: i64,
    }
    Listener "listener" {
        name: String,
        kind: String,
        listen: Vec<Located<String>>,
        certificates: Vec<Located<String>>,
        min_tls: String,
        unmatched_sni: String,
        stas: Vec<Located<String>>,
        users: String,
        target: String,
        server_tls: ServerTls,
        allow_from: Vec<Located<String>>,
        permit_loopback: bool,
        permit_own_addresses: bool,
        allow: Vec<Located<Allow>>,
        server: Vec<Located<ForwardServer>>,
        health: Health,
        data_path: String,
        idle_timeout: String,
        source: Vec<Located<String>>,
        source_ports: String,
    }
    Allow "listener.allow" {
        to: Vec<Located<String>>,
        ports: Vec<Located<Ports>>,
    }
    ServerTls "listener.server_tls" {
        ca: String,
        pin_sha256: String,
        verify: bool,
        server_name: String,
        min_tls: String,
        certificate: String,
    }
    ForwardServer "listener.server" {
        name: String,
        address: String,
        weight: i64,
    }
    Health "listener.health" {
        kind: String,
        interval: String,
        timeout: String,
        rise: i64,
        fall: i64,
        path: String,
        expect: String,
        server_name: String,
        ca: String,
        pin_sha256: String,
    }
    Syslog "syslog" {
        server: String,
        protocol: String,
        ca: String,
        pin_sha256: String,
        verify: bool,
        server_name: String,
        min_tls: String,
        certificate: String,
        send: String,
        level: String,
        facility: String,
    }
    Support "support" {
        shell: bool,
    }
    HighAvailability "high_availability" {
        interface: String,
        router_id: i64,
        advertise: String,
        preempt: bool,
        track: Vec<Located<String>>,
        directory: String,
        virtual_address: Vec<Located<VirtualAddress>>,
        node: Node,
    }
    VirtualAddress "high_availability.virtual_address" {
        address: String,
        interface: String,
    }
    Node "high_availability.node" {
        priority: i64,
        address: String,
        peer: String,
        peer_sha256: String,
        port: i64,
        keep: Vec<Located<String>>,
    }
    Network "network" {
        host_name: String,
        time_zone: String,
        dns: Vec<Located<String>>,
        search: Vec<Located<String>>,
        ntp: Vec<Located<String>>,
        interface: Vec<Located<NetworkInterface>>,
    }
    NetworkInterface "network.interface" {
        name: String,
        dhcp: String,
        addresses: Vec<Located<String>>,
        gateways: Vec<Located<String>>,
        accept_ra: bool,
        mtu: i64,
        parent: String,
        vlan: i64,
        members: Vec<Located<String>>,
        mode: String,
        route: Vec<Located<NetworkRoute>>,
    }
    NetworkRoute "network.interface.route" {
        to: String,
        via: String,
        metric: i64,
    }
    Bans "bans" {
        bad_tickets: Threshold,
        failed_logins: Threshold,
        broken_handshakes: Threshold,
        violations: Threshold,
        ban_time: String,
        ban_time_most: String,
        ipv4_prefix: i64,
        ipv6_prefix: i64,
        allow: Vec<Located<String>>,
    }
    Xdp "xdp" {
        preset: String,
        mode: String,
        pin_dir: String,
        allow_no_management: bool,
        bogons: String,
        confirm: String,
        egress_policy: String,
        cgroup: String,
        flows: i64,
        forwards: i64,
        fragments: i64,
        bans: i64,
        events: i64,
        event_rate: i64,
        steering: String,
        flood: Flood,
        interface: Vec<Located<XdpInterface>>,
        rule: Vec<Located<XdpRule>>,
        egress: Vec<Located<XdpEgress>>,
    }
    Flood "xdp.flood" {
        syn_per_source: String,
        syn_total: String,
        icmp_total: String,
        cookies: String,
        calm: String,
        cookie_life: String,
    }
    XdpInterface "xdp.interface" {
        name: String,
        role: String,
    }
    XdpRule "xdp.rule" {
        role: String,
        protocol: NameOrNumber,
        ports: Vec<Located<Ports>>,
        from: Vec<Located<String>>,
        action: String,
        rate: String,
    }
    XdpEgress "xdp.egress" {
        to: Vec<Located<String>>,
        protocol: NameOrNumber,
        ports: Vec<Located<Ports>>,
        action: String,
    }
}

/// Reads the tables of `text`. Where its syntax is wrong nothing is read: what follows would be guesswork.
pub(super) fn read(text: &str, problems: &mut Problems<'_>) -> Option<File> {
    read_some(text, |_| true, problems)
}

/// Reads those tables of `text` that are `wanted`. What is in the others is not looked at.
pub(super) fn read_some(
    text: &str,
    wanted: impl Fn(&str) -> bool,
    problems: &mut Problems<'_>,
) -> Option<File> {
    let (mut root, errors) = DeTable::parse_recoverable(text);
    let keys = root.get_ref().keys().map(|key| key.get_ref().clone().into_owned());
    let others: Vec<String> = keys.filter(|key| !wanted(key)).collect();
    for other in others {
        root.get_mut().remove(other.as_str());
    }
    for error in errors {
        let span = error.span().unwrap_or_default();
        let key = text.get(span.clone()).filter(|_| error.message() == "duplicate key");
        let key = key.map(|key| format!(" `{}`", shown(key))).unwrap_or_default();
        problems.add(span.start, format!("{}{key}", error.message().replace('\n', ", ")));
    }
    problems.is_empty().then(|| File::from_table(root.get_ref(), 0, problems))
}

/// Reads a whole file of at most `most` bytes as UTF-8.
pub(super) fn read_text(path: &Path, most: u64) -> Result<String, ConfigError> {
    let unreadable = |error| ConfigError::unplaced(path, format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    Handle::open(path)
        .and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        return Err(ConfigError::unplaced(path, format!("is longer than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let (line, column) = position(error.as_bytes(), error.utf8_error().valid_up_to());
        let message = "not UTF-8 text".to_owned();
        let problem = Problem { line, column, message, expected: None, suggestion: None };
        ConfigError { path: path.to_owned(), problems: vec![problem] }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EXAMPLE: &str = include_str!("../../portcullis.example.toml");

    /// The keys of the example with their tables, those in comments too.
    fn keys_of_the_example() -> BTreeSet<(String, String)> {
        let mut table = String::new();
        let mut keys = BTreeSet::new();
        for line in EXAMPLE.lines() {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if let Some(header) = line.strip_prefix('[') {
                table = header.trim_start_matches('[').split(']').next().unwrap().to_owned();
                keys.insert((String::new(), table.clone()));
            } else if let Some((key, _)) = line.split_once(" = ")
                && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            {
                keys.insert((table.clone(), key.to_owned()));
            }
        }
        keys
    }

    #[test]
    fn the_example_has_every_key_that_is_read_and_no_other() {
        let below = [
            ("listener", "allow"),
            ("listener", "server_tls"),
            ("listener", "server"),
            ("listener", "health"),
            ("xdp", "flood"),
            ("xdp", "interface"),
            ("xdp", "rule"),
            ("xdp", "egress"),
            ("high_availability", "virtual_address"),
            ("high_availability", "node"),
            ("network", "interface"),
            ("network.interface", "route"),
        ];
        let known: BTreeSet<(String, String)> = TABLES
            .iter()
            .flat_map(|(table, keys)| keys.iter().map(|key| ((*table).to_owned(), (*key).to_owned())))
            // A table of tables has its keys under its own header.
            .filter(|(table, key)| !below.contains(&(table.as_str(), key.as_str())))
            .chain(below.map(|(table, key)| (String::new(), format!("{table}.{key}"))))
            .collect();
        assert_eq!(known, keys_of_the_example());
    }

    #[test]
    fn syntax_errors_are_reported_and_nothing_else() {
        let text = "[server\nworkers = 1\nnonsense = 1\n";
        let mut problems = Problems::new(text);
        assert!(read(text, &mut problems).is_none());
        let error = problems.into_error(Path::new("x")).unwrap();
        assert_eq!(error.to_string(), "x:1:8: unclosed table, expected `]`");
    }
}
