//! Every metric: name, type, labels and meaning, in one place. `gateway/docs/METRICS.md` lists them for operators.
//!
//! Prometheus conventions: base units, `_total` on counters, labels from closed sets or from the configuration.
//! No label holds a user, an address of a client, a ticket, or an address of a server that the configuration does not
//! name itself.

pub mod acme;
pub mod appliance;
pub mod ha;
pub mod node;
pub mod syslog;

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, labels, help }
}

pub const BUILD_INFO: Family =
    gauge("portcullis_build_info", &["version", "commit", "ebpf"], "Always 1; the labels say what runs.");
pub const START_TIME: Family =
    gauge("process_start_time_seconds", &[], "When the daemon started, in seconds since 1970.");
pub const CPU_SECONDS: Family =
    counter("process_cpu_seconds_total", &[], "Processor time that the daemon has used, in seconds.");
pub const RESIDENT_BYTES: Family =
    gauge("process_resident_memory_bytes", &[], "Memory of the daemon that is in RAM, in bytes.");
pub const CONNECTIONS_ACTIVE: Family =
    gauge("portcullis_connections_active", &["listener"], "Accepted connections that are open.");
pub const CONNECTIONS: Family =
    counter("portcullis_connections_total", &["listener"], "Connections that were accepted.");
pub const SESSIONS_ACTIVE: Family =
    gauge("portcullis_sessions_active", &["listener", "protocol"], "Sessions that are live.");
pub const SESSIONS: Family = counter(
    "portcullis_sessions_total",
    &["listener", "protocol", "reason"],
    "Sessions that have ended, by the reason of the end.",
);
pub const SESSION_BYTES: Family = counter(
    "portcullis_session_bytes_total",
    &["listener", "direction"],
    "Bytes that sessions moved, live ones included; up is from client to server.",
);
pub const TLS_HANDSHAKES: Family = counter(
    "portcullis_tls_handshakes_total",
    &["listener", "version", "resumed"],
    "TLS handshakes that succeeded.",
);
pub const TLS_HANDSHAKE_FAILURES: Family = counter(
    "portcullis_tls_handshake_failures_total",
    &["listener", "reason"],
    "TLS handshakes that failed.",
);
pub const SERVER_TLS_HANDSHAKES: Family = counter(
    "portcullis_server_tls_handshakes_total",
    &["listener", "version", "resumed"],
    "TLS handshakes with servers that succeeded.",
);
pub const SERVER_TLS_HANDSHAKE_FAILURES: Family = counter(
    "portcullis_server_tls_handshake_failures_total",
    &["listener", "reason"],
    "TLS handshakes with servers that failed.",
);
pub const SETUP_STAGE_SECONDS: Family = histogram(
    "portcullis_setup_stage_duration_seconds",
    &["stage"],
    "How long each stage of setting a session up took, in seconds.",
);
pub const REFUSALS: Family = counter(
    "portcullis_refusals_total",
    &["listener", "reason"],
    "Connections and sessions that were refused.",
);
pub const STA_UP: Family =
    gauge("portcullis_sta_up", &["sta"], "1 while the ticket authority answers and its id is known, else 0.");
pub const STA_REQUESTS: Family = counter(
    "portcullis_sta_requests_total",
    &["sta", "result"],
    "Requests to ticket authorities, by their outcome.",
);
pub const STA_REQUEST_SECONDS: Family = histogram(
    "portcullis_sta_request_duration_seconds",
    &["sta"],
    "How long ticket authorities took to answer, in seconds.",
);
pub const TICKETS_LIVE: Family =
    gauge("portcullis_tickets_live", &[], "Tickets of the gateway's own authority that can still be used.");
pub const TICKETS_ISSUED: Family =
    counter("portcullis_tickets_issued_total", &[], "Tickets that the gateway's own authority issued.");
pub const TICKETS_REDEEMED: Family = counter(
    "portcullis_tickets_redeemed_total",
    &["result"],
    "Attempts to redeem a ticket at the gateway's own authority.",
);
pub const CERTIFICATE_NOT_AFTER: Family = gauge(
    "portcullis_certificate_not_after_timestamp_seconds",
    &["certificate"],
    "When the certificate expires, in seconds since 1970.",
);
pub const LIMIT_CURRENT: Family =
    gauge("portcullis_limit_current", &["limit"], "How much of a limit is in use.");
pub const LIMIT_MAX: Family = gauge("portcullis_limit_max", &["limit"], "The limit, past which is refused.");
pub const RELOAD_SUCCESS: Family = gauge(
    "portcullis_config_last_reload_success",
    &[],
    "1 when the last load of the configuration succeeded, else 0.",
);
pub const RELOAD_TIMESTAMP: Family = gauge(
    "portcullis_config_last_reload_timestamp_seconds",
    &[],
    "When the configuration was last loaded with success, in seconds since 1970.",
);
pub const LOG_LINES_LOST: Family = counter(
    "portcullis_log_lines_lost_total",
    &[],
    "Log lines that were lost because the disk was full or writing too slow.",
);
pub const RELAY_ENGINE: Family =
    gauge("portcullis_relay_engine", &["engine"], "Always 1; the label says what relay workers run on.");
pub const RELAY_ENTERS: Family =
    counter("portcullis_relay_enters_total", &[], "Calls of io_uring_enter by relay workers.");
pub const RELAY_WORKERS: Family = gauge("portcullis_relay_workers", &[], "Threads that relay sessions.");
pub const OPEN_DESCRIPTORS: Family =
    gauge("portcullis_open_descriptors", &[], "File descriptors that the daemon has open.");
pub const MAX_DESCRIPTORS: Family =
    gauge("portcullis_max_descriptors", &[], "File descriptors that the daemon may have open.");

pub const OFFENCES: Family = counter(
    "portcullis_offences_total",
    &["kind"],
    "What clients did that leads to a ban when it is repeated, whether bans are configured or not.",
);
pub const BANS: Family = gauge("portcullis_bans", &["origin"], "Bans in force, by who made them.");
pub const BANS_MADE: Family =
    counter("portcullis_bans_total", &["kind"], "Bans that were made, by what they are for.");
pub const FORWARD_SERVER_UP: Family = gauge(
    "portcullis_forward_server_up",
    &["listener", "server"],
    "1 while the server's checks succeed or it is not checked (yet), else 0.",
);
pub const FORWARD_SERVER_WEIGHT: Family = gauge(
    "portcullis_forward_server_weight",
    &["listener", "server"],
    "The server's share of new flows among usable servers; 0 while it is drained.",
);
pub const FORWARD_FLOWS: Family =
    gauge("portcullis_forward_flows", &["listener", "server"], "Flows to the server that are live.");
pub const FORWARD_KERNEL_FLOWS: Family = counter(
    "portcullis_forward_kernel_flows_total",
    &["listener", "server"],
    "Flows that the kernel forwards or has forwarded.",
);
pub const FORWARD_KERNEL_BYTES: Family = counter(
    "portcullis_forward_kernel_bytes_total",
    &["listener", "server", "direction"],
    "Bytes behind TCP headers that the kernel forwarded.",
);
pub const FORWARD_KERNEL_PACKETS: Family = counter(
    "portcullis_forward_kernel_packets_total",
    &["listener", "server", "direction"],
    "Packets that the kernel forwarded.",
);
pub const FORWARD_CHECKS_FAILED: Family = counter(
    "portcullis_forward_checks_failed_total",
    &["listener", "server", "reason"],
    "Checks of the server that failed.",
);
pub const FORWARD_REDIALED: Family = counter(
    "portcullis_forward_redialed_total",
    &["listener"],
    "Flows that went to another server because the one chosen for them did not answer.",
);
pub const FORWARD_IN_KERNEL: Family = gauge(
    "portcullis_forward_in_kernel",
    &["listener"],
    "1 while new flows are forwarded in the kernel, 0 while in user space.",
);

pub const XDP_PACKETS: Family = counter(
    "portcullis_xdp_packets_total",
    &["interface", "verdict", "reason"],
    "Packets that the kernel side let pass, dropped or answered at a filtered interface, since the daemon started.",
);

pub const XDP_PACKETS_OUT: Family = counter(
    "portcullis_xdp_packets_out_total",
    &["interface", "verdict", "reason"],
    "Packets that the kernel side let leave by a filtered interface or dropped there, and contacts of the daemon's own \
     sockets (`cgroup`), since the daemon started.",
);
pub const XDP_PRESSURE: Family = gauge(
    "portcullis_xdp_pressure",
    &[],
    "1 while more connections are begun than the budget of SYNs allows, else 0.",
);
pub const XDP_COOKIES: Family = gauge(
    "portcullis_xdp_cookies",
    &[],
    "1 while SYNs over the budget are answered with SYN cookies, else 0.",
);
pub const XDP_STEERING: Family = gauge(
    "portcullis_xdp_steering",
    &[],
    "1 when packets of sessions are brought to the processor that handles the session, else 0.",
);

pub const XDP_ATTACHED: Family = gauge(
    "portcullis_xdp_attached",
    &["interface", "mode"],
    "1 while the filter of an interface is in force, else 0.",
);
pub const XDP_EVENTS: Family =
    counter("portcullis_xdp_events_total", &[], "Dropped packets that were shown one by one.");
pub const XDP_EVENTS_LOST: Family = counter(
    "portcullis_xdp_events_lost_total",
    &[],
    "Dropped packets that would have been shown one by one, but found the ring full.",
);
pub const XDP_FLOWS_UNLISTED: Family = counter(
    "portcullis_xdp_flows_unlisted_total",
    &[],
    "Halves of sessions that found no place in the flow table and go on by their sockets.",
);
pub const XDP_MAP_ENTRIES: Family =
    gauge("portcullis_xdp_map_entries", &["map"], "Entries of a table of the kernel side.");
pub const XDP_MAP_MAX: Family =
    gauge("portcullis_xdp_map_entries_max", &["map"], "Entries that a table of the kernel side can have.");
pub const XDP_REPAIRS: Family = counter(
    "portcullis_xdp_repairs_total",
    &["interface"],
    "Times that a filter was put back which others had taken off or replaced, or whose interface came back.",
);

/// All of them but those of [`node`], by name.
pub const ALL: [Family; 56] = [
    BANS,
    BANS_MADE,
    BUILD_INFO,
    CERTIFICATE_NOT_AFTER,
    RELOAD_SUCCESS,
    RELOAD_TIMESTAMP,
    CONNECTIONS_ACTIVE,
    CONNECTIONS,
    FORWARD_CHECKS_FAILED,
    FORWARD_FLOWS,
    FORWARD_IN_KERNEL,
    FORWARD_KERNEL_BYTES,
    FORWARD_KERNEL_FLOWS,
    FORWARD_KERNEL_PACKETS,
    FORWARD_REDIALED,
    FORWARD_SERVER_UP,
    FORWARD_SERVER_WEIGHT,
    LIMIT_CURRENT,
    LIMIT_MAX,
    LOG_LINES_LOST,
    MAX_DESCRIPTORS,
    OFFENCES,
    OPEN_DESCRIPTORS,
    REFUSALS,
    RELAY_ENGINE,
    RELAY_ENTERS,
    RELAY_WORKERS,
    SERVER_TLS_HANDSHAKE_FAILURES,
    SERVER_TLS_HANDSHAKES,
    SESSION_BYTES,
    SESSIONS_ACTIVE,
    SESSIONS,
    SETUP_STAGE_SECONDS,
    STA_REQUEST_SECONDS,
    STA_REQUESTS,
    STA_UP,
    TICKETS_ISSUED,
    TICKETS_LIVE,
    TICKETS_REDEEMED,
    TLS_HANDSHAKE_FAILURES,
    TLS_HANDSHAKES,
    XDP_ATTACHED,
    XDP_COOKIES,
    XDP_EVENTS_LOST,
    XDP_EVENTS,
    XDP_FLOWS_UNLISTED,
    XDP_MAP_ENTRIES,
    XDP_MAP_MAX,
    XDP_PACKETS,
    XDP_PACKETS_OUT,
    XDP_PRESSURE,
    XDP_REPAIRS,
    XDP_STEERING,
    CPU_SECONDS,
    RESIDENT_BYTES,
    START_TIME,
];

/// All of them.
pub fn all() -> impl Iterator<Item = Family> {
    ALL.into_iter().chain(acme::ALL).chain(appliance::ALL).chain(ha::ALL).chain(node::ALL).chain(syslog::ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for family in all() {
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            assert!(!family.help.is_empty() && family.help.ends_with('.'));
        }
    }

    #[test]
    fn the_operators_document_lists_every_metric_with_its_type_and_labels() {
        let document = include_str!("../../docs/METRICS.md");
        for family in all() {
            let start = format!("| `{}` | {} |", family.name, family.kind.as_str());
            let row = document.lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("no row that starts with {start}"));
            for label in family.labels {
                assert!(row.contains(&format!("`{label}`")), "{}: {label}", family.name);
            }
        }
    }
}
