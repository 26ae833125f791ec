use super::talk::*;

fn with_users(kind: Kind) -> Profile {
    Profile { credentials: true, ..profile(kind) }
}

#[test]
fn socks_credentials_are_demanded_and_checked() {
    let mut talk = Talk::with(with_users(Kind::Socks), World::default());
    talk.send(&[5, 1, 2]).send(b"\x01\x03ann\x02pw");
    assert_eq!(talk.client, [5, 2, 1, 0]);
    talk.send(&[5, 1, 0, 1, 10, 77, 0, 9, 0x05, 0xD6]);
    assert!(talk.relays());
    assert_eq!(talk.info.expect("a legal value").user.as_deref(), Some("ann"));
}

#[test]
fn a_socks_client_that_offers_no_credentials_is_told_that_no_method_fits() {
    let mut talk = Talk::with(with_users(Kind::Socks), World::default());
    talk.send(&[5, 1, 0]);
    assert_eq!(talk.client, [5, 0xFF]);
    assert_eq!(talk.denied(), Some(Deny::CredentialsRequired));
}

#[test]
fn leaving_the_greeting_out_does_not_leave_the_credentials_out() {
    let mut talk = Talk::with(with_users(Kind::Socks), World::default());
    talk.send(&[5, 1, 0, 1, 10, 77, 0, 9, 0x05, 0xD6]);
    assert_eq!(talk.denied(), Some(Deny::CredentialsRequired));
    assert_eq!(talk.dialed, None);
}

#[test]
fn wrong_credentials_end_the_connection() {
    let wrong = || World { password_is_right: Some(false), ..World::default() };
    let mut talk = Talk::with(with_users(Kind::Socks), wrong());
    talk.send(&[5, 1, 2]).send(b"\x01\x03ann\x02pw");
    assert_eq!(talk.client, [5, 2, 1, 1]);
    assert_eq!(talk.denied(), Some(Deny::CredentialsWrong));
    let mut talk = Talk::with(with_users(Kind::SecureProxy), wrong());
    talk.send(b"CONNECT 10.77.0.9:1494 HTTP/1.0\r\nProxy-Authorization: Basic YW5uOnB3\r\n\r\n");
    assert!(talk.text().starts_with("HTTP/1.1 407 "), "{}", talk.text());
}

#[test]
fn a_proxy_asks_for_basic_credentials_and_takes_them() {
    let mut talk = Talk::with(with_users(Kind::SecureProxy), World::default());
    talk.send(b"CONNECT 10.77.0.9:1494 HTTP/1.0\r\n\r\n");
    assert!(talk.text().contains("Proxy-Authenticate: Basic "), "{}", talk.text());
    let mut talk = Talk::with(with_users(Kind::SecureProxy), World::default());
    talk.send(b"CONNECT 10.77.0.9:1494 HTTP/1.0\r\nProxy-Authorization: Basic YW5uOnB3\r\n\r\n");
    assert!(talk.relays());
}

#[test]
fn nobody_with_time_to_check_a_password_is_overload_and_not_a_wrong_password() {
    let world = World { password_is_right: None, ..World::default() };
    let mut talk = Talk::with(with_users(Kind::Socks), world);
    talk.send(&[5, 1, 2]).send(b"\x01\x03ann\x02pw");
    assert_eq!(talk.denied(), Some(Deny::Overloaded));
}
