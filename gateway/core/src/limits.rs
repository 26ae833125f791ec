//! How big, how many, how long: every bound of the gateway, with its reason.

use std::time::Duration;

/// Most bytes a client may send before it is known what it wants: an HTTP head is the longest of these.
pub const SETUP_INPUT_MAX_BYTES: usize = portcullis_proto::http_head::HEAD_MAX_BYTES;
/// How long `05 01 00` may stand alone before it is taken for a SOCKS5 greeting (PROTOCOL §1), and how long a
/// ticket at the very end of a CGP packet may wait for more of itself.
pub const AMBIGUITY_WAIT: Duration = Duration::from_millis(60);
/// How long a refusal may take to reach the client before the connection is cut.
pub const REFUSAL_LINGER: Duration = Duration::from_secs(2);
/// Addresses of one name that are tried, in the resolver's order.
pub const DIAL_ADDRESSES_MAX: usize = 4;
/// Session records that are kept for `sessions list --ended`.
pub const ENDED_SESSIONS_KEPT: usize = 256;
/// Asks that may wait for the control plane; past that the gateway is overloaded and says so.
pub const CONTROL_QUEUE: usize = 4096;
/// Sessions that may wait for one relay worker.
pub const RELAY_QUEUE: usize = 1024;
/// Sources whose offences are remembered; some 10 MiB when an attack comes from that many.
pub const SUSPECTS_MAX: usize = 65_536;
/// Bans in force; as many as the kernel's table for one family of addresses holds.
pub const BANS_MAX: usize = 65_536;
/// Bytes of user, domain and application names that are kept for display.
pub const LABEL_MAX_BYTES: usize = 128;

/// The limits that an operator may set; `Default` is what an installation starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Accepted connections, all listeners. Default 16,000: below the 20,000 descriptors of a small machine when
    /// half of them are sessions with two sockets.
    pub connections: usize,
    /// Accepted connections from one source address. Default 1,000: a branch office behind one NAT address.
    pub connections_per_source: usize,
    /// TLS handshakes in flight.
    pub handshakes: usize,
    /// TLS handshakes in flight from one source address.
    pub handshakes_per_source: usize,
    /// Relayed sessions. Default 9,000: two descriptors each.
    pub sessions: usize,
    pub sessions_per_source: usize,
    /// Sessions of one user name, where the ticket tells it.
    pub sessions_per_user: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From there to a complete request.
    pub first_bytes_timeout: Duration,
    /// All ticket authorities of one request together.
    pub redeem_timeout: Duration,
    /// All addresses of one server together, name resolution included.
    pub dial_timeout: Duration,
    /// A session in which no byte moves for that long ends.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_000,
            connections_per_source: 1_000,
            handshakes: 2_000,
            handshakes_per_source: 100,
            sessions: 9_000,
            sessions_per_source: 1_000,
            sessions_per_user: 100,
            handshake_timeout: Duration::from_secs(10),
            first_bytes_timeout: Duration::from_secs(10),
            redeem_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_hours(2),
        }
    }
}
