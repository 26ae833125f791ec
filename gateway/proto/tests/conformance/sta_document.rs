//! `docs/STA.md`, our own account of the Secure Ticket Authority's messages.

use portcullis_proto::Malformed;
use portcullis_proto::host_port::HostPort;
use portcullis_proto::sta::{
    ConnectionInfo, DataAnswer, MESSAGE_MAX_BYTES, PATH, Request, RequestData, RequestTicket, ResponseTicket,
    TicketAnswer, TicketData, encode_error, encode_response_data, parse_request, parse_response_data,
    parse_response_ticket,
};
use portcullis_proto::ticket::{AuthorityId, TicketSecret};

const SECRET: &str = "0123456789ABCDEF0123456789ABCDEF";
const HEAD: &str = "<?xml version=\"1.0\"?>\n<!DOCTYPE CtxSTAProtocol SYSTEM \"CtxSTA.dtd\">\n";

fn address(text: &str) -> Option<HostPort> {
    HostPort::parse(text).ok()
}

fn data() -> TicketData {
    TicketData {
        ica_address: address("10.0.0.1:1494"),
        cgp_address: address("10.0.0.1:2598"),
        connection: None,
        xdata: None,
    }
}

fn body(inside: &str) -> String {
    format!("<CtxSTAProtocol version=\"4.0\">{inside}</CtxSTAProtocol>")
}

// STA.md §1: "The path is `/scripts/ctxsta.dll`."
#[test]
fn the_path_is_that_of_the_original() {
    assert_eq!(PATH, "/scripts/ctxsta.dll");
}

// STA.md §2: the message that asks for a ticket.
#[test]
fn a_request_for_a_ticket_has_the_documented_shape() {
    let text = RequestTicket { data: data(), refreshable: true }.encode();
    let expected = body(
        "<RequestTicket><AllowedTicketType>STA-v4</AllowedTicketType>\
        <AllowedAuthorityIDType>STA-v1</AllowedAuthorityIDType><TicketData>\
        <Value name=\"ICAAddress\">10.0.0.1:1494</Value><Value name=\"CGPAddress\">10.0.0.1:2598</Value>\
        </TicketData><Control><Refreshable>true</Refreshable></Control></RequestTicket>",
    );
    assert_eq!(text, format!("{HEAD}{expected}\n"));
}

// STA.md §2: the answer with a ticket.
#[test]
fn an_answer_with_a_ticket_has_the_documented_shape() {
    let text = ResponseTicket {
        authority: AuthorityId::parse("STA0123456789AB").unwrap(),
        ticket: TicketSecret::parse(SECRET).unwrap(),
        version: 40,
    }
    .encode();
    let expected = body(&format!(
        "<ResponseTicket><AuthorityID>STA0123456789AB</AuthorityID><Ticket>{SECRET}</Ticket>\
        <TicketVersion>40</TicketVersion></ResponseTicket>"
    ));
    assert_eq!(text, format!("{HEAD}{expected}\n"));
}

// STA.md §3: the message that redeems a ticket, and its answer.
#[test]
fn redeeming_has_the_documented_shape() {
    let ask = RequestData { ticket: TicketSecret::parse(SECRET).unwrap(), ticket_type: "STA-v4".to_owned() };
    let expected =
        body(&format!("<RequestData><Ticket>{SECRET}</Ticket><TicketType>STA-v4</TicketType></RequestData>"));
    assert_eq!(ask.encode(), format!("{HEAD}{expected}\n"));
    let expected = body(
        "<ResponseData><TicketType>STA-v4</TicketType><TicketData><Value name=\"ICAAddress\">10.0.0.1:1494</Value>\
        <Value name=\"CGPAddress\">10.0.0.1:2598</Value></TicketData></ResponseData>",
    );
    assert_eq!(encode_response_data(&data()), format!("{HEAD}{expected}\n"));
}

// STA.md §4: "Names of elements and values compare without case, their order and unknown ones do not matter."
#[test]
fn reading_is_lenient_about_what_carries_no_meaning() {
    let xml = body(
        "<new/><TICKETDATA><value NAME='x' name='cgpaddress'>h:1</value><Value name='More'>y</Value></TICKETDATA>",
    );
    let Ok(DataAnswer::Data(found)) = parse_response_data(xml.as_bytes()) else { panic!() };
    assert_eq!((found.ica_address, found.cgp_address), (None, address("h:1")));
}

// STA.md §4: "A DOCTYPE is passed over; one with an internal subset is refused, and nothing is ever fetched."
#[test]
fn a_doctype_is_tolerated_and_an_internal_subset_refused() {
    let good = body("<RequestData><Ticket>0123456789ABCDEF0123456789ABCD</Ticket></RequestData>");
    assert!(
        parse_request(format!("<!DOCTYPE CtxSTAProtocol SYSTEM 'http://h/x.dtd'>{good}").as_bytes()).is_ok()
    );
    let bad = format!("<!DOCTYPE CtxSTAProtocol [<!ENTITY a 'b'>]>{good}");
    assert_eq!(parse_request(bad.as_bytes()), Err(Malformed::Illegal { what: "XML DOCTYPE" }));
}

// STA.md §4: "An answer without a usable address is a refusal, whatever else it says."
#[test]
fn an_answer_without_an_address_is_a_refusal() {
    for inside in
        ["<ResponseData/>", "<anything/>", "<TicketData><Value name='ICAAddress'>::</Value></TicketData>"]
    {
        assert!(matches!(parse_response_data(body(inside).as_bytes()), Ok(DataAnswer::Refused { .. })));
    }
    assert_eq!(
        parse_response_data(encode_error("no").as_bytes()),
        Ok(DataAnswer::Refused { text: "no".to_owned() })
    );
    assert_eq!(
        parse_response_ticket(encode_error("no").as_bytes()),
        Ok(TicketAnswer::Refused { text: "no".to_owned() })
    );
}

// STA.md §4: "The inner document only informs: one that cannot be read is kept as text and otherwise ignored."
#[test]
fn an_unreadable_inner_document_is_kept() {
    let sent = TicketData { xdata: Some("<broken".to_owned()), ..data() };
    let Ok(DataAnswer::Data(found)) = parse_response_data(encode_response_data(&sent).as_bytes()) else {
        panic!()
    };
    assert_eq!((found.connection, found.xdata), (None, Some("<broken".to_owned())));
}

// STA.md §5: the inner document.
#[test]
fn the_inner_document_has_the_documented_shape() {
    let info = ConnectionInfo {
        server_address: Some("10.0.0.1:1494".to_owned()),
        user_name: Some("alice".to_owned()),
        user_domain: Some("CORP".to_owned()),
        application_name: Some("Desktop".to_owned()),
        protocol: Some("ICA".to_owned()),
    };
    let expected = "<?xml version=\"1.0\"?><CtxConnInfo version=\"1.0\"><ServerAddress>10.0.0.1:1494</ServerAddress>\
        <UserName>alice</UserName><UserDomain>CORP</UserDomain><ApplicationName>Desktop</ApplicationName>\
        <Protocol>ICA</Protocol></CtxConnInfo>";
    assert_eq!(info.encode(), expected);
    assert_eq!(ConnectionInfo::parse(expected), Some(info));
}

// STA.md §6: "A message has at most 64 KiB; a longer one is refused unread."
#[test]
fn a_longer_message_is_refused_unread() {
    let xml = body(&" ".repeat(MESSAGE_MAX_BYTES));
    assert!(matches!(parse_request(xml.as_bytes()), Err(Malformed::TooLong { .. })));
    assert!(matches!(parse_response_data(xml.as_bytes()), Err(Malformed::TooLong { .. })));
    assert!(matches!(parse_response_ticket(xml.as_bytes()), Err(Malformed::TooLong { .. })));
}

// STA.md §2: "A request names at least one address, and every address that it names can be read."
#[test]
fn a_request_without_a_usable_address_is_refused() {
    let ask = |values: &str| {
        parse_request(
            body(&format!("<RequestTicket><TicketData>{values}</TicketData></RequestTicket>")).as_bytes(),
        )
    };
    assert!(matches!(ask("<Value name='CGPAddress'>h:1</Value>"), Ok(Request::Ticket(_))));
    assert!(ask("").is_err());
    assert!(ask("<Value name='ICAAddress'>h:1</Value><Value name='CGPAddress'>h:0</Value>").is_err());
}
