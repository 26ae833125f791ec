use alloc::format;
use alloc::string::ToString as _;
use core::str::FromStr as _;

use proptest::prelude::*;

use super::*;

const HEX: &str = "0123456789ABCDEF0123456789ABCD";

fn illegal<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed::Illegal { what })
}

fn named(name: &str) -> Address {
    Address::Name(Name::parse(name.as_bytes()).unwrap())
}

#[test]
fn a_greeting_lists_its_methods() {
    let bytes = [5, 2, 0, 2];
    assert_eq!(greeting_len(&bytes), Ok(Some(4)));
    let greeting = Greeting::parse(&bytes).unwrap();
    assert_eq!(greeting.methods, [0, 2]);
    assert!(greeting.offers(METHOD_USERNAME_PASSWORD) && !greeting.offers(1));
    assert_eq!(greeting.encode().unwrap(), bytes);
}

#[test]
fn a_greeting_with_a_request_behind_it_ends_before_the_request() {
    assert_eq!(greeting_len(&[5, 1, 0, 5, 1, 0, 3]), Ok(Some(3)));
}

#[test]
fn malformed_greetings_are_refused() {
    assert_eq!(greeting_len(&[4]), illegal("SOCKS version"));
    assert_eq!(greeting_len(&[5, 0]), illegal("SOCKS method count"));
    assert_eq!(Greeting::parse(&[4, 1, 0]), illegal("SOCKS version"));
    assert_eq!(Greeting::parse(&[5, 0]), illegal("SOCKS method count"));
    assert_eq!(Greeting::parse(&[5, 2, 0]), Err(Malformed::Truncated { what: "SOCKS methods" }));
    assert_eq!(Greeting::parse(&[5, 1, 0, 0]), Err(Malformed::Trailing { what: "SOCKS greeting" }));
}

#[test]
fn a_greeting_holds_255_methods_and_not_256() {
    let greeting = Greeting { methods: Vec::from([7; 255]) };
    assert_eq!(Greeting::parse(&greeting.encode().unwrap()), Ok(greeting));
    assert_eq!(Greeting { methods: Vec::from([7; 256]) }.encode(), illegal("SOCKS method count"));
    assert_eq!(Greeting { methods: Vec::new() }.encode(), illegal("SOCKS method count"));
}

#[test]
fn a_method_selection_is_two_bytes() {
    assert_eq!(parse_method_selection(&method_selection(METHOD_UNACCEPTABLE)), Ok(0xFF));
    assert_eq!(parse_method_selection(&[4, 0]), illegal("SOCKS version"));
    assert!(parse_method_selection(&[5]).is_err());
    assert!(parse_method_selection(&[5, 0, 0]).is_err());
}

#[test]
fn requests_with_every_kind_of_address_round_trip() {
    let addresses = [
        Address::Ip(IpAddr::from_str("10.0.0.1").unwrap()),
        Address::Ip(IpAddr::from_str("2001:db8::1").unwrap()),
        named("vda1.example.com"),
        named(&format!(";40;STA490101972;{HEX}")),
        named(&"n".repeat(255)),
    ];
    for address in addresses {
        let request = Request { command: Command::Connect, address, port: 1494 };
        let bytes = request.encode();
        assert_eq!(request_len(&bytes), Ok(Some(bytes.len())));
        assert_eq!(Request::parse(&bytes), Ok(request));
    }
}

#[test]
fn the_bytes_of_a_request_are_those_of_the_rfc() {
    let request = Request { command: Command::Connect, address: named("ab"), port: 0x1234 };
    assert_eq!(request.encode(), [5, 1, 0, 3, 2, b'a', b'b', 0x12, 0x34]);
}

#[test]
fn commands_that_are_not_spoken_are_still_read() {
    for (code, command) in
        [(1, Command::Connect), (2, Command::Bind), (3, Command::UdpAssociate), (9, Command::Other(9))]
    {
        let request = Request::parse(&[5, code, 0, 1, 10, 0, 0, 1, 0, 80]).unwrap();
        assert_eq!(request.command, command);
        assert_eq!(u8::from(command), code);
    }
}

#[test]
fn malformed_requests_are_refused_as_soon_as_they_show() {
    assert_eq!(request_len(&[4]), illegal("SOCKS version"));
    assert_eq!(request_len(&[5, 1, 1]), illegal("SOCKS reserved byte"));
    assert_eq!(request_len(&[5, 1, 0, 2]), illegal("SOCKS address type"));
    assert_eq!(request_len(&[5, 1, 0, 3, 0]), Err(Malformed::Missing { what: "SOCKS domain name" }));
    assert_eq!(Request::parse(&[4, 1, 0, 1, 1, 1, 1, 1, 0, 1]), illegal("SOCKS version"));
    assert_eq!(Request::parse(&[5, 1, 1, 1, 1, 1, 1, 1, 0, 1]), illegal("SOCKS reserved byte"));
    assert_eq!(Request::parse(&[5, 1, 0, 2]), illegal("SOCKS address type"));
    assert_eq!(Request::parse(&[5, 1, 0, 3, 0, 0, 1]), Err(Malformed::Missing { what: "SOCKS domain name" }));
    assert_eq!(Request::parse(&[5, 1, 0, 3, 1, b' ', 0, 1]), illegal("SOCKS domain name"));
    assert_eq!(Request::parse(&[5, 1, 0, 3, 1, 0x80, 0, 1]), illegal("SOCKS domain name"));
    assert_eq!(Request::parse(&[5, 1, 0, 3, 1, 0, 0, 1]), illegal("SOCKS domain name"));
    assert_eq!(
        Request::parse(&[5, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0]),
        Err(Malformed::Trailing { what: "SOCKS request" })
    );
    let whole = Request { command: Command::Connect, address: named("abc"), port: 1 }.encode();
    for end in 0..whole.len() {
        assert_eq!(request_len(&whole[..end]), Ok(None));
        assert!(matches!(Request::parse(&whole[..end]), Err(Malformed::Truncated { .. })));
    }
}

#[test]
fn a_domain_name_has_1_to_255_bytes() {
    assert_eq!(Name::parse(b""), Err(Malformed::Missing { what: "SOCKS domain name" }));
    assert!(Name::parse(&[b'a'; 255]).is_ok());
    assert_eq!(Name::parse(&[b'a'; 256]), Err(Malformed::TooLong { what: "SOCKS domain name", limit: 255 }));
}

#[test]
fn a_name_is_a_ticket_or_a_server() {
    let request = |name: &str, port| Request { command: Command::Connect, address: named(name), port };
    let ticket = format!(";40;STA490101972;{HEX}");
    assert_eq!(request(&ticket, 0).ticket().unwrap().unwrap().expose(), ticket);
    assert!(request(";40;nonsense", 1).ticket().unwrap().is_err());
    assert!(request("vda1", 1494).ticket().is_none());
    assert_eq!(request("VDA1", 1494).server().unwrap().to_string(), "vda1:1494");
    assert_eq!(request("10.0.0.1", 1494).server().unwrap().to_string(), "10.0.0.1:1494");
    assert_eq!(request("127.1", 80).server(), illegal("host name"));
    assert_eq!(request("a", 0).server(), illegal("port"));
    assert!(request(&ticket, 1).server().is_err());
}

#[test]
fn a_ticket_fits_a_name() {
    let ticket =
        TicketString::parse(&format!(";42;STA0123456789AB;{HEX}01;STA0123456789AB;{HEX}02")).unwrap();
    let name = Name::from(&ticket);
    assert_eq!(Name::parse(name.as_ref().as_bytes()), Ok(name));
}

#[test]
fn nothing_secret_is_printed() {
    let request =
        Request { command: Command::Connect, address: named(&format!(";40;STA490101972;{HEX}")), port: 1 };
    assert!(!format!("{request:?}").contains("STA"));
    assert!(format!("{:?}", named("vda1")).contains("vda1"));
    let credentials =
        Credentials { user: b"alice".to_vec(), password: Zeroizing::new(b"open sesame".to_vec()) };
    assert_eq!(format!("{credentials:?}"), "Credentials(…)");
}

#[test]
fn replies_show_no_inside_address() {
    for (code, reply) in [
        (0, Reply::Succeeded),
        (1, Reply::GeneralFailure),
        (2, Reply::NotAllowed),
        (3, Reply::NetworkUnreachable),
        (4, Reply::HostUnreachable),
        (5, Reply::ConnectionRefused),
        (6, Reply::TtlExpired),
        (7, Reply::CommandNotSupported),
        (8, Reply::AddressTypeNotSupported),
    ] {
        assert_eq!(reply.encode(), [5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse_reply(&reply.encode()), Ok(code));
    }
}

#[test]
fn an_unknown_address_type_has_its_own_reply() {
    let error = request_len(&[5, 1, 0, 9]).unwrap_err();
    assert_eq!(Reply::for_malformed(&error), Reply::AddressTypeNotSupported);
    let error = request_len(&[4]).unwrap_err();
    assert_eq!(Reply::for_malformed(&error), Reply::GeneralFailure);
}

#[test]
fn a_client_reads_replies_with_any_bound_address() {
    let cases: [&[u8]; 4] = [
        &[5, 2, 0, 1, 1, 2, 3, 4, 0, 9],
        &[5, 2, 0, 3, 2, b'a', b'b', 0, 9],
        &[5, 2, 0, 3, 0, 0, 9],
        &[5, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9],
    ];
    for bytes in cases {
        assert_eq!(reply_len(bytes), Ok(Some(bytes.len())));
        assert_eq!(parse_reply(bytes), Ok(2));
        let short = &bytes[..bytes.len() - 1];
        assert_eq!(reply_len(short), Ok(None));
        assert_eq!(parse_reply(short), Err(Malformed::Truncated { what: "SOCKS reply" }));
        let long = [bytes, &[0]].concat();
        assert_eq!(parse_reply(&long), Err(Malformed::Trailing { what: "SOCKS reply" }));
    }
    assert_eq!(reply_len(&[4]), illegal("SOCKS version"));
    assert_eq!(reply_len(&[5, 0, 0, 7]), illegal("SOCKS address type"));
}

#[test]
fn credentials_round_trip_up_to_255_bytes_each() {
    let make = |user: usize, password: usize| Credentials {
        user: Vec::from_iter(core::iter::repeat_n(b'u', user)),
        password: Zeroizing::new(Vec::from_iter(core::iter::repeat_n(b'p', password))),
    };
    for credentials in [make(1, 1), make(255, 255)] {
        let bytes = credentials.encode().unwrap();
        assert_eq!(credentials_len(&bytes), Ok(Some(bytes.len())));
        assert_eq!(Credentials::parse(&bytes), Ok(credentials));
    }
    assert_eq!(make(256, 1).encode(), Err(Malformed::TooLong { what: "SOCKS user name", limit: 255 }));
    assert_eq!(make(1, 256).encode(), Err(Malformed::TooLong { what: "SOCKS password", limit: 255 }));
    assert_eq!(make(0, 1).encode(), Err(Malformed::Missing { what: "SOCKS user name" }));
    assert_eq!(make(1, 0).encode(), Err(Malformed::Missing { what: "SOCKS password" }));
}

#[test]
fn malformed_credentials_are_refused() {
    assert_eq!(credentials_len(&[5]), illegal("SOCKS credentials version"));
    assert_eq!(credentials_len(&[1, 0]), Err(Malformed::Missing { what: "SOCKS user name" }));
    assert_eq!(credentials_len(&[1, 1, b'u', 0]), Err(Malformed::Missing { what: "SOCKS password" }));
    assert_eq!(Credentials::parse(&[5, 1, 1, 1, 1]), illegal("SOCKS credentials version"));
    assert_eq!(Credentials::parse(&[1, 0, 1, 1]), Err(Malformed::Missing { what: "SOCKS user name" }));
    assert_eq!(Credentials::parse(&[1, 1, 1, 0]), Err(Malformed::Missing { what: "SOCKS password" }));
    assert_eq!(
        Credentials::parse(&[1, 1, 1, 1, 1, 1]),
        Err(Malformed::Trailing { what: "SOCKS credentials" })
    );
    let whole = [1, 2, b'u', b'v', 1, b'p'];
    for end in 0..whole.len() {
        assert_eq!(credentials_len(&whole[..end]), Ok(None));
        assert!(matches!(Credentials::parse(&whole[..end]), Err(Malformed::Truncated { .. })));
    }
}

#[test]
fn a_credentials_status_is_two_bytes() {
    assert_eq!(parse_credentials_status(&credentials_status(true)), Ok(true));
    assert_eq!(parse_credentials_status(&credentials_status(false)), Ok(false));
    assert_eq!(parse_credentials_status(&[1, 7]), Ok(false));
    assert_eq!(parse_credentials_status(&[5, 0]), illegal("SOCKS credentials version"));
    assert!(parse_credentials_status(&[1]).is_err() && parse_credentials_status(&[1, 0, 0]).is_err());
}

fn any_request() -> impl Strategy<Value = Request> {
    let address = prop_oneof![
        any::<IpAddr>().prop_map(Address::Ip),
        "[!-~]{1,255}".prop_map(|name| Address::Name(Name::parse(name.as_bytes()).unwrap())),
    ];
    (any::<u8>(), address, any::<u16>()).prop_map(|(command, address, port)| Request {
        command: Command::from(command),
        address,
        port,
    })
}

proptest! {
    #[test]
    fn any_request_round_trips_and_its_prefixes_wait(request in any_request(), after: Vec<u8>) {
        let mut bytes = request.encode();
        let length = bytes.len();
        bytes.extend(after);
        for end in 0..length {
            prop_assert_eq!(request_len(&bytes[..end]), Ok(None));
        }
        prop_assert_eq!(request_len(&bytes), Ok(Some(length)));
        prop_assert_eq!(Request::parse(&bytes[..length]), Ok(request));
    }

    #[test]
    fn any_greeting_round_trips_and_its_prefixes_wait(methods in proptest::collection::vec(any::<u8>(), 1..=255)) {
        let greeting = Greeting { methods };
        let bytes = greeting.encode().unwrap();
        for end in 0..bytes.len() {
            prop_assert_eq!(greeting_len(&bytes[..end]), Ok(None));
        }
        prop_assert_eq!(Greeting::parse(&bytes), Ok(greeting));
    }

    #[test]
    fn any_credentials_round_trip_and_their_prefixes_wait(
        user in proptest::collection::vec(any::<u8>(), 1..=255),
        password in proptest::collection::vec(any::<u8>(), 1..=255),
    ) {
        let credentials = Credentials { user, password: Zeroizing::new(password) };
        let bytes = credentials.encode().unwrap();
        for end in 0..bytes.len() {
            prop_assert_eq!(credentials_len(&bytes[..end]), Ok(None));
        }
        prop_assert_eq!(Credentials::parse(&bytes), Ok(credentials));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_lengths_agree_with_parsers(bytes: Vec<u8>, version in 1..=5_u8) {
        let bytes = [&[version][..], &bytes].concat();
        let whole = |length: Option<usize>| length.and_then(|length| bytes.get(..length));
        if let Some(frame) = greeting_len(&bytes).ok().and_then(whole) {
            prop_assert!(Greeting::parse(frame).is_ok());
        }
        if let Some(frame) = credentials_len(&bytes).ok().and_then(whole) {
            prop_assert!(Credentials::parse(frame).is_ok());
        }
        if let Some(frame) = reply_len(&bytes).ok().and_then(whole) {
            prop_assert!(parse_reply(frame).is_ok());
        }
        if let Some(frame) = request_len(&bytes).ok().and_then(whole) {
            // Only the characters of a name are left to the parser.
            let fine = !matches!(Request::parse(frame), Err(Malformed::Truncated { .. } | Malformed::Trailing { .. }));
            prop_assert!(fine);
        }
    }
}
