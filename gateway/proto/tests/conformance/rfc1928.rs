//! RFC 1928, SOCKS Protocol Version 5.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_proto::Malformed;
use portcullis_proto::socks5::{
    Address, Command, Greeting, METHOD_NONE, METHOD_UNACCEPTABLE, METHOD_USERNAME_PASSWORD, Name, Reply,
    Request, greeting_len, method_selection, parse_method_selection, parse_reply, request_len,
};

// RFC 1928 §3: "The VER field is set to X'05' for this version of the protocol."
#[test]
fn a_greeting_has_version_5() {
    assert!(Greeting::parse(&[5, 1, 0]).is_ok());
    for version in (0..=255).filter(|v| *v != 5) {
        assert_eq!(Greeting::parse(&[version, 1, 0]), Err(Malformed::Illegal { what: "SOCKS version" }));
        assert_eq!(greeting_len(&[version]), Err(Malformed::Illegal { what: "SOCKS version" }));
    }
}

// RFC 1928 §3: "The NMETHODS field contains the number of method identifier octets that appear in the METHODS
// field." The figure above it allows 1 to 255 of them.
#[test]
fn a_greeting_is_as_long_as_its_method_count_says() {
    for count in 1..=255_u8 {
        let bytes = [&[5, count][..], &vec![0; usize::from(count)], &[0xEE; 3]].concat();
        let length = usize::from(count) + 2;
        assert_eq!(greeting_len(&bytes), Ok(Some(length)));
        assert_eq!(Greeting::parse(&bytes[..length]).unwrap().methods.len(), usize::from(count));
    }
    assert!(greeting_len(&[5, 0]).is_err());
}

// RFC 1928 §3: "The server selects from one of the methods given in METHODS, and sends a METHOD selection message".
#[test]
fn a_method_selection_is_the_version_and_one_method() {
    assert_eq!(method_selection(METHOD_NONE), [0x05, 0x00]);
    assert_eq!(method_selection(METHOD_USERNAME_PASSWORD), [0x05, 0x02]);
    assert_eq!(parse_method_selection(&[0x05, 0x02]), Ok(METHOD_USERNAME_PASSWORD));
}

// RFC 1928 §3: "If the selected METHOD is X'FF', none of the methods listed by the client are acceptable, and the
// client MUST close the connection."
#[test]
fn no_acceptable_method_is_ff() {
    assert_eq!(method_selection(METHOD_UNACCEPTABLE), [0x05, 0xFF]);
}

// RFC 1928 §4: "CONNECT X'01'", "BIND X'02'", "UDP ASSOCIATE X'03'".
#[test]
fn commands_have_their_codes() {
    let command = |code| Request::parse(&[5, code, 0, 1, 192, 0, 2, 1, 0, 80]).unwrap().command;
    assert_eq!(
        [command(1), command(2), command(3), command(4)],
        [Command::Connect, Command::Bind, Command::UdpAssociate, Command::Other(4)]
    );
}

// RFC 1928 §4: "DST.PORT desired destination port in network octet order".
#[test]
fn a_port_is_in_network_order() {
    assert_eq!(Request::parse(&[5, 1, 0, 1, 192, 0, 2, 1, 0x05, 0xD6]).unwrap().port, 1494);
}

// RFC 1928 §5: "the address is a version-4 IP address, with a length of 4 octets".
#[test]
fn address_type_1_is_ipv4() {
    let request = Request::parse(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]).unwrap();
    assert_eq!(request.address, Address::Ip(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))));
}

// RFC 1928 §5: "the address field contains a fully-qualified domain name. The first octet of the address field
// contains the number of octets of name that follow, there is no terminating NUL octet."
#[test]
fn address_type_3_is_a_name_after_its_length() {
    let request = Request::parse(b"\x05\x01\x00\x03\x0Bexample.com\x00\x50").unwrap();
    assert_eq!(request.address, Address::Name(Name::parse(b"example.com").unwrap()));
    // A NUL is not taken for an end, it is refused.
    assert!(Request::parse(b"\x05\x01\x00\x03\x0Cexample.com\x00\x00\x50").is_err());
}

// RFC 1928 §5: "the address is a version-6 IP address, with a length of 16 octets."
#[test]
fn address_type_4_is_ipv6() {
    let bytes = [&[5, 1, 0, 4][..], &Ipv6Addr::LOCALHOST.octets(), &[0, 80]].concat();
    assert_eq!(Request::parse(&bytes).unwrap().address, Address::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST)));
}

// RFC 1928 §6: "X'08' Address type not supported".
#[test]
fn other_address_types_are_refused_with_08() {
    for kind in (0..=255).filter(|kind| ![1, 3, 4].contains(kind)) {
        let error = request_len(&[5, 1, 0, kind]).unwrap_err();
        assert_eq!(Reply::for_malformed(&error).encode()[1], 8);
    }
}

// RFC 1928 §6: the codes of the REP field.
#[test]
fn replies_have_their_codes() {
    let codes = [
        Reply::Succeeded,
        Reply::GeneralFailure,
        Reply::NotAllowed,
        Reply::NetworkUnreachable,
        Reply::HostUnreachable,
        Reply::ConnectionRefused,
        Reply::TtlExpired,
        Reply::CommandNotSupported,
        Reply::AddressTypeNotSupported,
    ]
    .map(Reply::code);
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

// RFC 1928 §6: "Fields marked RESERVED (RSV) must be set to X'00'."
#[test]
fn reserved_fields_are_zero() {
    assert_eq!(Reply::Succeeded.encode()[2], 0);
    let request =
        Request { command: Command::Connect, address: Address::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)), port: 1 };
    assert_eq!(request.encode()[2], 0);
    assert!(Request::parse(&[5, 1, 1, 1, 192, 0, 2, 1, 0, 80]).is_err());
    assert!(parse_reply(&[5, 0, 1, 1, 0, 0, 0, 0, 0, 0]).is_err());
}
