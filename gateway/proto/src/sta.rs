//! The messages between a gateway or StoreFront and a Secure Ticket Authority: XML over HTTP.
//!
//! Follows `docs/STA.md` (after PROTOCOL §3). Reading is lenient about what carries no meaning (order, unknown
//! elements, case, DOCTYPE) and bounded in everything. What is written stands in [`write`], one template per message.
//! HTTP itself, time-outs and the choice of an authority are elsewhere.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use roxmltree::Node;

use crate::Malformed;
use crate::host_port::HostPort;
use crate::ticket::{AuthorityId, TicketSecret, VERSION_CURRENT};
use crate::xml;

mod write;

pub use write::{encode_error, encode_response_data};

/// Longest message that is read.
pub const MESSAGE_MAX_BYTES: usize = 64 * 1024;
/// Where an authority listens; compared without case.
pub const PATH: &str = "/scripts/ctxsta.dll";
/// The type of the body, as a recollection has it.
pub const CONTENT_TYPE: &str = "text/xml";
/// The ticket type of the messages here.
pub const TICKET_TYPE: &str = "STA-v4";
/// The authority id type of the messages here.
pub const AUTHORITY_ID_TYPE: &str = "STA-v1";
/// Longest inner document (`XData`). Escaping makes a character at most six times as long, so whatever is accepted
/// fits a message again.
pub const XDATA_MAX_BYTES: usize = 8 * 1024;
/// Longest text kept of a refusal, and of each field of the inner document.
pub const TEXT_MAX_BYTES: usize = 256;
/// The port of an `ICAAddress` that names none.
const ICA_PORT: u16 = 1494;
/// The port of a `CGPAddress` that names none.
const CGP_PORT: u16 = 2598;
/// A run of hexadecimal digits from this length on may be a ticket; an authority id (13) is not.
const SECRET_RUN_CHARS: usize = 16;

/// What a ticket stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TicketData {
    pub ica_address: Option<HostPort>,
    pub cgp_address: Option<HostPort>,
    /// What could be read of the inner document.
    pub connection: Option<ConnectionInfo>,
    /// The inner document as it came. When writing it goes before `connection`, so that nothing unknown is lost.
    pub xdata: Option<String>,
}

/// The inner document `CtxConnInfo`: whose session it is. Only ever shown to the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub server_address: Option<String>,
    pub user_name: Option<String>,
    pub user_domain: Option<String>,
    pub application_name: Option<String>,
    pub protocol: Option<String>,
}

/// Asks for a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTicket {
    pub data: TicketData,
    pub refreshable: bool,
}

/// Redeems a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestData {
    pub ticket: TicketSecret,
    pub ticket_type: String,
}

/// What a client may ask of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Ticket(RequestTicket),
    Data(RequestData),
}

/// A new ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseTicket {
    pub authority: AuthorityId,
    pub ticket: TicketSecret,
    pub version: u16,
}

/// The answer to [`RequestTicket`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketAnswer {
    Issued(ResponseTicket),
    /// The authority's words: at most 256 bytes, no control characters, nothing that may be a ticket.
    Refused {
        text: String,
    },
}

/// The answer to [`RequestData`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataAnswer {
    Data(TicketData),
    /// The authority's words: at most 256 bytes, no control characters, nothing that may be a ticket.
    Refused {
        text: String,
    },
}

/// Reads what a client asks.
///
/// # Errors
/// A document that is refused, a message that is neither request, a ticket request without a usable address, or a
/// malformed ticket.
pub fn parse_request(bytes: &[u8]) -> Result<Request, Malformed> {
    let document = xml::parse(bytes, MESSAGE_MAX_BYTES)?;
    let root = protocol(&document)?;
    if let Some(request) = child(root, "RequestTicket") {
        let data = ticket_data(request, |text, port| HostPort::parse_or_port(text, Some(port)).map(Some))?;
        if data.ica_address.is_none() && data.cgp_address.is_none() {
            return Err(Malformed::Missing { what: "ICAAddress" });
        }
        let refreshable = xml::named(request, "Refreshable").next().map(xml::text);
        let refreshable = refreshable.is_some_and(|text| text.eq_ignore_ascii_case("true") || text == "1");
        return Ok(Request::Ticket(RequestTicket { data, refreshable }));
    }
    let request = child(root, "RequestData").ok_or(Malformed::Missing { what: "STA request" })?;
    let ticket = xml::named(request, "Ticket").next().ok_or(Malformed::Missing { what: "ticket" })?;
    let ticket_type = xml::named(request, "TicketType").next().map(xml::text);
    Ok(Request::Data(RequestData {
        ticket: TicketSecret::parse(&xml::text(ticket))?,
        ticket_type: ticket_type.map_or_else(|| TICKET_TYPE.to_string(), |text| clean(&text)),
    }))
}

/// Reads the answer to [`RequestTicket`]. An answer without an authority id and a ticket is a refusal.
///
/// # Errors
/// A document that is refused, another root element, or an id, ticket or version of an illegal shape.
pub fn parse_response_ticket(bytes: &[u8]) -> Result<TicketAnswer, Malformed> {
    let document = xml::parse(bytes, MESSAGE_MAX_BYTES)?;
    let root = protocol(&document)?;
    let value = |name| xml::named(root, name).next().map(xml::text);
    let (Some(authority), Some(ticket)) = (value("AuthorityID"), value("Ticket")) else {
        return Ok(TicketAnswer::Refused { text: words(root) });
    };
    let version = match value("TicketVersion") {
        Some(text) => text.parse().map_err(|_| Malformed::Illegal { what: "TicketVersion" })?,
        None => VERSION_CURRENT,
    };
    Ok(TicketAnswer::Issued(ResponseTicket {
        authority: AuthorityId::parse(&authority)?,
        ticket: TicketSecret::parse(&ticket)?,
        version,
    }))
}

/// Reads the answer to [`RequestData`]. An answer without a usable address is a refusal.
///
/// # Errors
/// A document that is refused, or another root element.
pub fn parse_response_data(bytes: &[u8]) -> Result<DataAnswer, Malformed> {
    let document = xml::parse(bytes, MESSAGE_MAX_BYTES)?;
    let root = protocol(&document)?;
    // An address that cannot be read does not spoil the other one.
    match ticket_data(root, |text, port| Ok(HostPort::parse_or_port(text, Some(port)).ok())) {
        Ok(data) if data.ica_address.is_some() || data.cgp_address.is_some() => Ok(DataAnswer::Data(data)),
        Ok(_) => Ok(DataAnswer::Refused { text: words(root) }),
        Err(fault) => Ok(DataAnswer::Refused { text: fault.to_string() }),
    }
}

fn protocol<'a, 'i>(document: &'a roxmltree::Document<'i>) -> Result<Node<'a, 'i>, Malformed> {
    let root = document.root_element();
    let known = xml::is(root, "CtxSTAProtocol");
    if known { Ok(root) } else { Err(Malformed::Missing { what: "CtxSTAProtocol" }) }
}

fn child<'a, 'i>(parent: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    parent.children().find(|node| xml::is(*node, name))
}

/// The values of the first `TicketData`; `address` reads one with a default port. Two different values for one name
/// are an error, since each reader might take another.
fn ticket_data(
    parent: Node<'_, '_>,
    address: impl Fn(&str, u16) -> Result<Option<HostPort>, Malformed>,
) -> Result<TicketData, Malformed> {
    let Some(data) = xml::named(parent, "TicketData").next() else { return Ok(TicketData::default()) };
    let read = |name, port| value(data, name)?.map_or(Ok(None), |text| address(&text, port));
    let ica_address = read("ICAAddress", ICA_PORT)?;
    let cgp_address = read("CGPAddress", CGP_PORT)?;
    let xdata = value(data, "XData")?;
    if xdata.as_ref().is_some_and(|text| text.len() > XDATA_MAX_BYTES) {
        return Err(Malformed::TooLong { what: "XData", limit: XDATA_MAX_BYTES });
    }
    let connection = xdata.as_deref().and_then(ConnectionInfo::parse);
    Ok(TicketData { ica_address, cgp_address, connection, xdata })
}

/// The text of `<Value name="…">`; an empty one counts as absent.
fn value(data: Node<'_, '_>, name: &'static str) -> Result<Option<String>, Malformed> {
    let mut values = xml::named(data, "Value")
        .filter(|node| node.attribute("name").is_some_and(|n| n.trim().eq_ignore_ascii_case(name)))
        .map(xml::text)
        .filter(|text| !text.is_empty());
    let first = values.next();
    if values.any(|other| Some(&other) != first.as_ref()) {
        return Err(Malformed::Trailing { what: name });
    }
    Ok(first)
}

impl ConnectionInfo {
    /// Reads an inner document. It only informs, so one that cannot be read is as good as none.
    #[must_use]
    pub fn parse(xdata: &str) -> Option<Self> {
        let document = xml::parse(xdata.as_bytes(), XDATA_MAX_BYTES).ok()?;
        let info = xml::named(document.root(), "CtxConnInfo").next()?;
        let field = |name| {
            xml::named(info, name).next().map(|node| bounded(&xml::text(node))).filter(|t| !t.is_empty())
        };
        Some(Self {
            server_address: field("ServerAddress"),
            user_name: field("UserName"),
            user_domain: field("UserDomain"),
            application_name: field("ApplicationName"),
            protocol: field("Protocol"),
        })
    }
}

/// The words of an answer that is no success, for the log: all text outside tickets and their data.
fn words(root: Node<'_, '_>) -> String {
    let mut all = String::new();
    let secret = |node: Node<'_, '_>| xml::is(node, "Ticket") || xml::is(node, "TicketData");
    for node in root.descendants().filter(|node| node.is_text() && !node.ancestors().any(secret)) {
        all.push(' ');
        all.push_str(node.text().unwrap_or_default());
    }
    clean(&all)
}

/// A text for the log: one space between words, nothing in it that may be a ticket, bounded.
fn clean(text: &str) -> String {
    // Control characters go first, since without them what is left may run together to a ticket.
    let plain: String = text.chars().filter(|c| c.is_whitespace() || !c.is_control()).collect();
    let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut cleaned = String::new();
    let mut rest = plain.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
        let (before, from) = rest.split_at(at);
        let run = from.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(from.len());
        let (digits, after) = from.split_at(run);
        cleaned.push_str(before);
        cleaned.push_str(if digits.len() < SECRET_RUN_CHARS { digits } else { "…" });
        rest = after;
    }
    cleaned.push_str(rest);
    bounded(&cleaned)
}

/// A text without control characters, cut to 256 bytes.
fn bounded(text: &str) -> String {
    let all: String = text.chars().filter(|c| !c.is_control()).collect();
    let mut end = all.len().min(TEXT_MAX_BYTES);
    while !all.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let (kept, _) = all.split_at(end);
    kept.trim().to_string()
}

#[cfg(test)]
mod tests;
