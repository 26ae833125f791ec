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
/// Longest inner document (`XData`).
pub const XDATA_MAX_BYTES: usize = 16 * 1024;
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
        let data = ticket_data(request)?;
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
    match ticket_data(root) {
        Ok(data) if data.ica_address.is_some() || data.cgp_address.is_some() => Ok(DataAnswer::Data(data)),
        Ok(_) | Err(_) => Ok(DataAnswer::Refused { text: words(root) }),
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

/// The values of the first `TicketData`. An address that cannot be read is an error here and a refusal above;
/// two different values for one name are too, since each reader might take another.
fn ticket_data(parent: Node<'_, '_>) -> Result<TicketData, Malformed> {
    let Some(data) = xml::named(parent, "TicketData").next() else { return Ok(TicketData::default()) };
    let ica_address = value(data, "ICAAddress")?.map(|text| address(&text, ICA_PORT)).transpose()?;
    let cgp_address = value(data, "CGPAddress")?.map(|text| address(&text, CGP_PORT)).transpose()?;
    let xdata = value(data, "XData")?;
    if xdata.as_ref().is_some_and(|text| text.len() > XDATA_MAX_BYTES) {
        return Err(Malformed::TooLong { what: "XData", limit: XDATA_MAX_BYTES });
    }
    let connection = xdata.as_deref().and_then(ConnectionInfo::parse);
    Ok(TicketData { ica_address, cgp_address, connection, xdata })
}

fn address(text: &str, default_port: u16) -> Result<HostPort, Malformed> {
    HostPort::parse_or_port(text, Some(default_port))
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
            xml::named(info, name).next().map(|node| clean(&xml::text(node))).filter(|t| !t.is_empty())
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
    let mut all: Vec<&str> = Vec::new();
    let secret = |node: Node<'_, '_>| xml::is(node, "Ticket") || xml::is(node, "TicketData");
    for node in root.descendants().filter(|node| node.is_text() && !node.ancestors().any(secret)) {
        all.extend(node.text().into_iter().flat_map(str::split_whitespace));
    }
    clean(&all.join(" "))
}

/// Bounds a text for people: no control characters, nothing that may be a ticket, at most 256 bytes.
fn clean(text: &str) -> String {
    let mut cleaned = String::new();
    let mut run = String::new();
    for c in text.chars().take(XDATA_MAX_BYTES) {
        if c.is_ascii_hexdigit() {
            run.push(c);
            continue;
        }
        push_run(&mut cleaned, &mut run);
        if !c.is_control() {
            cleaned.push(c);
        }
    }
    push_run(&mut cleaned, &mut run);
    let mut end = cleaned.len().min(TEXT_MAX_BYTES);
    while !cleaned.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    cleaned.truncate(end);
    cleaned
}

fn push_run(cleaned: &mut String, run: &mut String) {
    cleaned.push_str(if run.len() < SECRET_RUN_CHARS { run } else { "…" });
    run.clear();
}

#[cfg(test)]
mod tests;
