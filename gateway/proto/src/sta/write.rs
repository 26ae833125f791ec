//! What we write to and as an authority, one template per message.

use alloc::string::{String, ToString};

use super::{
    AUTHORITY_ID_TYPE, ConnectionInfo, RequestData, RequestTicket, ResponseTicket, TICKET_TYPE, TicketData,
};
use crate::xml::escape;

const HEAD: &str = "<?xml version=\"1.0\"?>\n<!DOCTYPE CtxSTAProtocol SYSTEM \"CtxSTA.dtd\">\n";
const OPEN: &str = "<CtxSTAProtocol version=\"4.0\">";
const CLOSE: &str = "</CtxSTAProtocol>\n";

/// A message under construction.
struct Message(String);

impl Message {
    fn new() -> Self {
        let mut text = String::from(HEAD);
        text.push_str(OPEN);
        Self(text)
    }

    fn raw(mut self, markup: &str) -> Self {
        self.0.push_str(markup);
        self
    }

    fn text(mut self, text: &str) -> Self {
        escape(&mut self.0, text);
        self
    }

    fn element(self, name: &str, text: &str) -> Self {
        self.raw("<").raw(name).raw(">").text(text).raw("</").raw(name).raw(">")
    }

    fn value(self, name: &str, text: Option<&str>) -> Self {
        let Some(text) = text else { return self };
        self.raw("<Value name=\"").raw(name).raw("\">").text(text).raw("</Value>")
    }

    fn ticket_data(self, data: &TicketData) -> Self {
        let address =
            |address: &Option<crate::host_port::HostPort>| address.as_ref().map(ToString::to_string);
        let made = data.connection.as_ref().map(ConnectionInfo::encode);
        self.raw("<TicketData>")
            .value("ICAAddress", address(&data.ica_address).as_deref())
            .value("CGPAddress", address(&data.cgp_address).as_deref())
            .value("XData", data.xdata.as_deref().or(made.as_deref()))
            .raw("</TicketData>")
    }

    fn end(self) -> String {
        self.raw(CLOSE).0
    }
}

impl RequestTicket {
    /// The message to an authority.
    #[must_use]
    pub fn encode(&self) -> String {
        Message::new()
            .raw("<RequestTicket>")
            .element("AllowedTicketType", TICKET_TYPE)
            .element("AllowedAuthorityIDType", AUTHORITY_ID_TYPE)
            .ticket_data(&self.data)
            .raw("<Control>")
            .element("Refreshable", if self.refreshable { "true" } else { "false" })
            .raw("</Control></RequestTicket>")
            .end()
    }
}

impl RequestData {
    /// The message to an authority. It holds the ticket.
    #[must_use]
    pub fn encode(&self) -> String {
        Message::new()
            .raw("<RequestData>")
            .element("Ticket", self.ticket.expose())
            .element("TicketType", &self.ticket_type)
            .raw("</RequestData>")
            .end()
    }
}

impl ResponseTicket {
    /// The answer of an authority. It holds the ticket.
    #[must_use]
    pub fn encode(&self) -> String {
        Message::new()
            .raw("<ResponseTicket>")
            .element("AuthorityID", self.authority.as_str())
            .element("Ticket", self.ticket.expose())
            .element("TicketVersion", &self.version.to_string())
            .raw("</ResponseTicket>")
            .end()
    }
}

impl ConnectionInfo {
    /// The inner document.
    #[must_use]
    pub fn encode(&self) -> String {
        let fields = [
            ("ServerAddress", &self.server_address),
            ("UserName", &self.user_name),
            ("UserDomain", &self.user_domain),
            ("ApplicationName", &self.application_name),
            ("Protocol", &self.protocol),
        ];
        let mut message = Message(String::from("<?xml version=\"1.0\"?><CtxConnInfo version=\"1.0\">"));
        for (name, text) in fields {
            if let Some(text) = text {
                message = message.element(name, text);
            }
        }
        message.raw("</CtxConnInfo>").0
    }
}

/// An authority's answer to a ticket that it knows.
#[must_use]
pub fn encode_response_data(data: &TicketData) -> String {
    Message::new()
        .raw("<ResponseData>")
        .element("TicketType", TICKET_TYPE)
        .ticket_data(data)
        .raw("</ResponseData>")
        .end()
}

/// An authority's refusal. The element names are ours: how the original refuses is unknown, and every reader must
/// take an answer without data for a refusal anyway.
#[must_use]
pub fn encode_error(text: &str) -> String {
    Message::new().raw("<ResponseError>").element("ErrorId", text).raw("</ResponseError>").end()
}
