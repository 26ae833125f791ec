use alloc::format;

use proptest::prelude::*;

use super::*;

const HEX: &str = "0123456789ABCDEF0123456789ABCD";

fn address(text: &str) -> Option<HostPort> {
    Some(HostPort::parse(text).unwrap())
}

fn data() -> TicketData {
    let connection = ConnectionInfo {
        server_address: Some("10.0.0.1:1494".to_string()),
        user_name: Some("alice".to_string()),
        user_domain: Some("R&D <lab>".to_string()),
        application_name: Some("Notepad \"x\" 'y'".to_string()),
        protocol: Some("ICA".to_string()),
    };
    TicketData {
        ica_address: address("10.0.0.1:1494"),
        cgp_address: address("vda1.example.com:2598"),
        xdata: Some(connection.encode()),
        connection: Some(connection),
    }
}

/// A response with `body` inside, as an authority writes it.
fn response(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<!DOCTYPE CtxSTAProtocol SYSTEM \"CtxSTA.dtd\">\r\n\
        <CtxSTAProtocol version=\"4.0\">\r\n{body}\r\n</CtxSTAProtocol>\r\n"
    )
}

fn answer(body: &str) -> Result<DataAnswer, Malformed> {
    parse_response_data(response(body).as_bytes())
}

fn refusal(body: &str) -> String {
    match answer(body) {
        Ok(DataAnswer::Refused { text }) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_for_a_ticket_as_a_storefront_sends_it_is_read() {
    let xml = "<?xml version=\"1.0\"?>\n<!DOCTYPE CtxSTAProtocol SYSTEM \"CtxSTA.dtd\">\n\
        <CtxSTAProtocol version=\"4.0\">\n  <RequestTicket>\n    <AllowedTicketType>STA-v4</AllowedTicketType>\n    \
        <AllowedAuthorityIDType>STA-v1</AllowedAuthorityIDType>\n    <TicketData>\n      \
        <Value name=\"ICAAddress\">10.0.0.1:1494</Value>\n      <Value name=\"XData\">&lt;?xml \
        version=&quot;1.0&quot;?&gt;&lt;CtxConnInfo version=&quot;1.0&quot;&gt;&lt;ServerAddress&gt;10.0.0.1:1494\
        &lt;/ServerAddress&gt;&lt;UserName&gt;alice&lt;/UserName&gt;&lt;UserDomain&gt;CORP&lt;/UserDomain&gt;\
        &lt;ApplicationName&gt;Desktop&lt;/ApplicationName&gt;&lt;Protocol&gt;ICA&lt;/Protocol&gt;&lt;/CtxConnInfo&gt;\
        </Value>\n    </TicketData>\n    <Control><Refreshable>true</Refreshable></Control>\n  </RequestTicket>\n\
        </CtxSTAProtocol>\n";
    let Ok(Request::Ticket(request)) = parse_request(xml.as_bytes()) else { panic!() };
    assert!(request.refreshable);
    assert_eq!((request.data.ica_address, request.data.cgp_address), (address("10.0.0.1:1494"), None));
    assert!(request.data.xdata.unwrap().starts_with("<?xml version=\"1.0\"?><CtxConnInfo"));
    let connection = request.data.connection.unwrap();
    assert_eq!(connection.user_name.as_deref(), Some("alice"));
    assert_eq!(connection.user_domain.as_deref(), Some("CORP"));
    assert_eq!(connection.application_name.as_deref(), Some("Desktop"));
    assert_eq!(connection.server_address.as_deref(), Some("10.0.0.1:1494"));
    assert_eq!(connection.protocol.as_deref(), Some("ICA"));
}

#[test]
fn every_message_is_read_back() {
    for refreshable in [false, true] {
        let request = RequestTicket { data: data(), refreshable };
        assert_eq!(parse_request(request.encode().as_bytes()), Ok(Request::Ticket(request)));
    }
    let request =
        RequestData { ticket: TicketSecret::parse(HEX).unwrap(), ticket_type: TICKET_TYPE.to_string() };
    assert_eq!(parse_request(request.encode().as_bytes()), Ok(Request::Data(request)));
    let ticket = ResponseTicket {
        authority: AuthorityId::parse("STA0123456789AB").unwrap(),
        ticket: TicketSecret::parse(HEX).unwrap(),
        version: 40,
    };
    assert_eq!(parse_response_ticket(ticket.encode().as_bytes()), Ok(TicketAnswer::Issued(ticket)));
    assert_eq!(parse_response_data(encode_response_data(&data()).as_bytes()), Ok(DataAnswer::Data(data())));
}

#[test]
fn a_refusal_is_read_back_by_both_readers() {
    let text = "ticket <unknown> & gone".to_string();
    let xml = encode_error(&text);
    assert_eq!(parse_response_data(xml.as_bytes()), Ok(DataAnswer::Refused { text: text.clone() }));
    assert_eq!(parse_response_ticket(xml.as_bytes()), Ok(TicketAnswer::Refused { text }));
}

#[test]
fn xdata_is_kept_as_it_came_and_made_only_where_there_is_none() {
    let kept = TicketData { xdata: Some("not xml at all <".to_string()), connection: None, ..data() };
    let Ok(DataAnswer::Data(found)) = parse_response_data(encode_response_data(&kept).as_bytes()) else {
        panic!()
    };
    assert_eq!(found, kept);
    let made = TicketData { xdata: None, ..data() };
    assert_eq!(parse_response_data(encode_response_data(&made).as_bytes()), Ok(DataAnswer::Data(data())));
}

#[test]
fn order_case_unknown_elements_and_namespaces_do_not_matter() {
    let body = "<x:Extra xmlns:x='urn:y'><x:deep/></x:Extra><responsedata><ticketdata>\
        <Value name='Unknown'>?</Value><Value name='XData'/>\
        <value Name='no' name=' cgpaddress '> vda1:2598 </value>\
        <Value name='ICAADDRESS'><!-- c -->10.0.0<![CDATA[.1:]]>1494</Value></ticketdata></responsedata>";
    let Ok(DataAnswer::Data(found)) = answer(body) else { panic!() };
    assert_eq!((found.ica_address, found.cgp_address), (address("10.0.0.1:1494"), address("vda1:2598")));
    assert_eq!((found.xdata, found.connection), (None, None));
}

#[test]
fn an_address_without_a_port_has_the_usual_one() {
    let body = "<TicketData><Value name='ICAAddress'>vda1</Value><Value name='CGPAddress'>[::1]</Value></TicketData>";
    let Ok(DataAnswer::Data(found)) = answer(body) else { panic!() };
    assert_eq!((found.ica_address, found.cgp_address), (address("vda1:1494"), address("[::1]:2598")));
}

#[test]
fn an_unreadable_address_does_not_spoil_the_other() {
    let body = "<TicketData><Value name='ICAAddress'>127.1:0</Value><Value name='CGPAddress'>a:1</Value></TicketData>";
    let Ok(DataAnswer::Data(found)) = answer(body) else { panic!() };
    assert_eq!((found.ica_address, found.cgp_address), (None, address("a:1")));
}

#[test]
fn anything_without_a_usable_address_is_a_refusal() {
    for body in [
        "",
        "<ResponseData/>",
        "<ResponseData><TicketData/></ResponseData>",
        "<TicketData><Value name='ICAAddress'></Value></TicketData>",
        "<TicketData><Value name='ICAAddress'>not an address</Value></TicketData>",
        "<TicketData><Value name='ICAAddress'>a:0</Value></TicketData>",
        "<TicketData><Value>a:1</Value></TicketData>",
    ] {
        assert_eq!(refusal(body), "", "{body}");
    }
    assert_eq!(refusal("<Value name='ICAAddress'>a:1</Value>"), "a:1");
    assert_eq!(refusal("<E><Id> ticket \n expired </Id><Code>7</Code></E>"), "ticket expired 7");
}

#[test]
fn two_values_for_one_name_are_a_refusal_unless_they_agree() {
    let two = |second: &str| {
        format!(
            "<TicketData><Value name='ICAAddress'>a:1</Value><Value name='ICAAddress'>{second}</Value></TicketData>"
        )
    };
    assert!(matches!(answer(&two("a:1")), Ok(DataAnswer::Data(_))));
    assert_eq!(refusal(&two("b:1")), "ICAAddress is followed by trailing bytes");
}

#[test]
fn the_words_of_a_refusal_are_bounded_and_hold_no_ticket() {
    let words = refusal(&format!("<E>bad ticket {HEX} from STA0123456789AB, {}</E>", HEX.to_lowercase()));
    assert_eq!(words, "bad ticket … from STA0123456789AB, …");
    assert_eq!(refusal(&format!("<Ticket>{HEX}</Ticket><E>gone</E>")), "gone");
    assert_eq!(refusal("<E>a&#x85;b</E>"), "a b");
    let split = HEX.chars().map(|c| format!("{c}\u{7F}")).collect::<String>();
    assert_eq!(refusal(&format!("<E>x {split} y</E>")), "x … y");
    assert_eq!(refusal(&format!("<E>{}</E>", "z".repeat(256))).len(), TEXT_MAX_BYTES);
    assert_eq!(refusal(&format!("<E>{}</E>", "z".repeat(257))).len(), TEXT_MAX_BYTES);
    assert_eq!(refusal(&format!("<E>z{}</E>", "é".repeat(200))).len(), TEXT_MAX_BYTES - 1);
}

#[test]
fn an_answer_with_a_ticket_is_read_leniently_and_checked_strictly() {
    let read = |body: &str| parse_response_ticket(response(body).as_bytes());
    let body = |id: &str, ticket: &str, version: &str| {
        format!(
            "<ResponseTicket>{version}<Ticket>{ticket}</Ticket><AuthorityID> {id} </AuthorityID></ResponseTicket>"
        )
    };
    let Ok(TicketAnswer::Issued(found)) = read(&body("sta490101972", HEX, "")) else { panic!() };
    assert_eq!((found.authority.as_str(), found.version), ("STA490101972", VERSION_CURRENT));
    let Ok(TicketAnswer::Issued(found)) =
        read(&body("STA490101972", HEX, "<TicketVersion>10</TicketVersion>"))
    else {
        panic!()
    };
    assert_eq!(found.version, 10);
    let illegal = |what| Err(Malformed::Illegal { what });
    assert_eq!(read(&body("STA1", HEX, "")), illegal("authority id"));
    assert_eq!(read(&body("STA490101972", "XYZ", "")), illegal("ticket"));
    assert_eq!(
        read(&body("STA490101972", HEX, "<TicketVersion>v</TicketVersion>")),
        illegal("TicketVersion")
    );
    assert_eq!(
        read("<AuthorityID>STA490101972</AuthorityID>no"),
        Ok(TicketAnswer::Refused { text: "STA490101972 no".to_string() })
    );
}

#[test]
fn malformed_requests_are_refused() {
    let read = |body: &str| parse_request(response(body).as_bytes());
    let ticket =
        |values: &str| read(&format!("<RequestTicket><TicketData>{values}</TicketData></RequestTicket>"));
    assert_eq!(read(""), Err(Malformed::Missing { what: "STA request" }));
    assert_eq!(read("<Other/>"), Err(Malformed::Missing { what: "STA request" }));
    assert_eq!(read("<RequestTicket/>"), Err(Malformed::Missing { what: "ICAAddress" }));
    assert_eq!(ticket(""), Err(Malformed::Missing { what: "ICAAddress" }));
    assert_eq!(
        ticket("<Value name='ICAAddress'>127.1</Value>"),
        Err(Malformed::Illegal { what: "host name" })
    );
    assert_eq!(ticket("<Value name='ICAAddress'>a:0</Value>"), Err(Malformed::Illegal { what: "port" }));
    assert_eq!(
        ticket("<Value name='ICAAddress'>a:1</Value><Value name='CGPAddress'>b c</Value>"),
        Err(Malformed::Illegal { what: "host name" })
    );
    assert_eq!(
        ticket("<Value name='ICAAddress'>a:1</Value><Value name='ICAAddress'>b:1</Value>"),
        Err(Malformed::Trailing { what: "ICAAddress" })
    );
    assert_eq!(read("<RequestData/>"), Err(Malformed::Missing { what: "ticket" }));
    assert_eq!(
        read("<RequestData><Ticket>x</Ticket></RequestData>"),
        Err(Malformed::Illegal { what: "ticket" })
    );
    let cgp_only = ticket("<Value name='CGPAddress'>a:1</Value>");
    assert!(matches!(cgp_only, Ok(Request::Ticket(RequestTicket { refreshable: false, .. }))));
}

#[test]
fn another_root_element_is_refused() {
    let xml = "<CtxOther><RequestTicket/></CtxOther>";
    assert_eq!(parse_request(xml.as_bytes()), Err(Malformed::Missing { what: "CtxSTAProtocol" }));
    assert_eq!(parse_response_data(xml.as_bytes()), Err(Malformed::Missing { what: "CtxSTAProtocol" }));
    assert_eq!(
        parse_response_ticket(b"<html><body>404</body></html>"),
        Err(Malformed::Missing { what: "CtxSTAProtocol" })
    );
}

#[test]
fn xdata_ends_at_8_kibibytes() {
    let with = |length: usize| TicketData { xdata: Some("x".repeat(length)), connection: None, ..data() };
    let read = |data: &TicketData| parse_response_data(encode_response_data(data).as_bytes());
    assert_eq!(read(&with(XDATA_MAX_BYTES)), Ok(DataAnswer::Data(with(XDATA_MAX_BYTES))));
    let quotes = TicketData { xdata: Some("\"".repeat(XDATA_MAX_BYTES)), ..with(1) };
    assert_eq!(read(&quotes), Ok(DataAnswer::Data(quotes)));
    let Ok(DataAnswer::Refused { text }) = read(&with(XDATA_MAX_BYTES + 1)) else { panic!() };
    assert_eq!(text, "XData is longer than 8192 bytes");
    let request = RequestTicket { data: with(XDATA_MAX_BYTES + 1), refreshable: false };
    let too_long = Malformed::TooLong { what: "XData", limit: XDATA_MAX_BYTES };
    assert_eq!(parse_request(request.encode().as_bytes()), Err(too_long));
}

#[test]
fn a_message_ends_at_64_kibibytes() {
    let good = encode_response_data(&data());
    let padded = |length: usize| good.clone() + &" ".repeat(length - good.len());
    assert!(parse_response_data(padded(MESSAGE_MAX_BYTES).as_bytes()).is_ok());
    let too_long = Malformed::TooLong { what: "XML document", limit: MESSAGE_MAX_BYTES };
    assert_eq!(parse_response_data(padded(MESSAGE_MAX_BYTES + 1).as_bytes()), Err(too_long));
    assert_eq!(parse_request(padded(MESSAGE_MAX_BYTES + 1).as_bytes()), Err(too_long));
    assert_eq!(parse_response_ticket(padded(MESSAGE_MAX_BYTES + 1).as_bytes()), Err(too_long));
}

#[test]
fn a_hostile_inner_document_is_as_good_as_none() {
    for inner in [
        "<!DOCTYPE a [<!ENTITY b 'c'>]><CtxConnInfo><UserName>&b;</UserName></CtxConnInfo>",
        "<CtxConnInfo><UserName>alice</UserName>",
        "<Other/>",
        &"<a>".repeat(1000),
    ] {
        assert_eq!(ConnectionInfo::parse(inner), None, "{inner}");
    }
    let info = ConnectionInfo::parse(&format!(
        "<CtxConnInfo><UserName>a\u{85}b{}</UserName></CtxConnInfo>",
        "c".repeat(300)
    ));
    let name = info.unwrap().user_name.unwrap();
    assert!(name.starts_with("abc") && name.len() == TEXT_MAX_BYTES);
}

#[test]
fn a_message_cut_at_any_byte_is_refused() {
    let response = encode_response_data(&data());
    let request = RequestTicket { data: data(), refreshable: true }.encode();
    assert!(parse_response_data(response.as_bytes()).is_ok() && parse_request(request.as_bytes()).is_ok());
    for end in 0..response.trim_end().len() {
        assert!(parse_response_data(&response.as_bytes()[..end]).is_err(), "{end}");
    }
    for end in 0..request.trim_end().len() {
        assert!(parse_request(&request.as_bytes()[..end]).is_err(), "{end}");
    }
}

fn any_data() -> impl Strategy<Value = TicketData> {
    let host = prop_oneof![
        any::<core::net::IpAddr>().prop_map(crate::host_port::Host::Ip),
        "[a-z]([a-z0-9_-]{0,10}[a-z])?(\\.[a-z]{1,5}){0,3}"
            .prop_map(|name| crate::host_port::Host::parse(&name).unwrap()),
    ];
    let address = (host, 1..=u16::MAX).prop_map(|(host, port)| HostPort::new(host, port).unwrap());
    let text = proptest::option::of("[!-~é€]([ -~é€]{0,20}[!-~é€])?");
    let connection =
        (text.clone(), text.clone(), text.clone(), text.clone(), text).prop_map(|(a, b, c, d, e)| {
            ConnectionInfo {
                server_address: a,
                user_name: b,
                user_domain: c,
                application_name: d,
                protocol: e,
            }
        });
    (address.clone(), proptest::option::of(address), connection).prop_map(|(ica, cgp, connection)| {
        TicketData {
            ica_address: Some(ica),
            cgp_address: cgp,
            xdata: Some(connection.encode()),
            connection: Some(connection),
        }
    })
}

proptest! {
    #[test]
    fn any_data_round_trips(data in any_data(), refreshable: bool) {
        prop_assert_eq!(parse_response_data(encode_response_data(&data).as_bytes()), Ok(DataAnswer::Data(data.clone())));
        let request = RequestTicket { data, refreshable };
        prop_assert_eq!(parse_request(request.encode().as_bytes()), Ok(Request::Ticket(request)));
    }

    #[test]
    fn arbitrary_bodies_never_panic(bytes: Vec<u8>, body in "(<(/)?(TicketData|Value|Ticket|RequestData|RequestTicket|AuthorityID)( name='(ICAAddress|XData)')?>|[ -~é]){0,20}") {
        let xml = response(&body);
        for bytes in [&bytes[..], xml.as_bytes()] {
            drop(parse_request(bytes));
            drop(parse_response_ticket(bytes));
            drop(parse_response_data(bytes));
        }
    }

    #[test]
    fn no_long_run_of_digits_is_left_in_words(words in "[0-9a-fA-Fxyz <>&é]{0,600}") {
        let Ok(DataAnswer::Refused { text }) = parse_response_data(encode_error(&words).as_bytes()) else { panic!() };
        prop_assert!(text.len() <= TEXT_MAX_BYTES);
        let runs = text.split(|c: char| !c.is_ascii_hexdigit());
        prop_assert!(runs.map(str::len).max().unwrap_or(0) < SECRET_RUN_CHARS);
    }
}
