//! What a ticket authority said of a ticket.

use crate::ticket_store::{TicketData, TicketRefusal};

/// The outcome of one redemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketAnswer {
    Granted(TicketData),
    /// The authority answered and said no.
    Refused(TicketRefusal),
    /// Nobody who could know was asked, or answered with sense.
    Unavailable(Unavailable),
}

/// Why no authority answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unavailable {
    /// No authority of that id is configured for this listener.
    NoAuthority,
    /// The connection or the TLS handshake failed, or HTTP said so.
    Down,
    Timeout,
    /// The answer breaks its format or its bounds.
    Garbage,
    /// Our own queue or pool is full.
    Overloaded,
}
