//! Whole conversations of the tunnel, without a socket.
//!
//! `Talk` plays the gateway: it feeds bytes, answers commands, and keeps what the client would see.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_core::answer::{TicketAnswer, Unavailable};
use portcullis_core::command::{Command, Framing};
use portcullis_core::deny::Deny;
use portcullis_core::limits::{AMBIGUITY_WAIT, Limits, SETUP_INPUT_MAX_BYTES};
use portcullis_core::policy::{Destination, Policy, Rule};
use portcullis_core::profile::{Kind, Profile};
use portcullis_core::session::SessionInfo;
use portcullis_core::ticket_store::{TicketData, TicketRefusal};
use portcullis_core::tunnel::{DialError, ResolveError, Tunnel};
use portcullis_proto::host_port::HostPort;
use proptest::prelude::*;

const TICKET: &str = ";40;STA490101972;0123456789ABCDEF0123456789ABCD";
const DOUBLE: &str =
    ";42;STA111111111;0123456789ABCDEF0123456789ABCD;STA222222222;FEDCBA98765432100123456789ABCD";
const INSIDE: &str = "10.77.0.9";

/// How the outside world answers.
struct World {
    tickets: Vec<TicketAnswer>,
    names: Result<Vec<IpAddr>, ResolveError>,
    admitted: Result<(), Deny>,
    dialed: Result<(), DialError>,
    password_is_right: Option<bool>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            tickets: vec![TicketAnswer::Granted(data(Some("10.77.0.9:1494"), Some("10.77.0.9:2598")))],
            names: Ok(vec![INSIDE.parse().expect("a legal value")]),
            admitted: Ok(()),
            dialed: Ok(()),
            password_is_right: Some(true),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Relays { forward: Vec<u8>, framed: bool },
    Web(Vec<u8>),
    Closed(Option<Deny>),
}

struct Talk {
    tunnel: Tunnel,
    world: World,
    now: Instant,
    /// All bytes that the client got.
    client: Vec<u8>,
    redeemed: usize,
    dialed: Option<String>,
    info: Option<SessionInfo>,
    outcome: Option<Outcome>,
}

impl Talk {
    fn new(kind: Kind, world: World) -> Self {
        Self::with(profile(kind), world)
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    fn with(profile: Profile, world: World) -> Self {
        let now = Instant::now();
        let tunnel = Tunnel::new(Arc::new(profile), "192.0.2.7:5000".parse().expect("a legal value"), now);
        let mut talk = Self {
            tunnel,
            world,
            now,
            client: Vec::new(),
            redeemed: 0,
            dialed: None,
            info: None,
            outcome: None,
        };
        talk.drain();
        talk
    }

    fn send(&mut self, bytes: &[u8]) -> &mut Self {
        if self.outcome.is_none() {
            assert!(self.tunnel.wants_bytes());
            self.tunnel.handle_bytes(bytes, self.now);
            self.drain();
        }
        self
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self.tunnel.handle_timeout(self.now);
        self.drain();
        self
    }

    fn drain(&mut self) {
        while let Some(command) = self.tunnel.poll_command() {
            assert!(self.outcome.is_none(), "{command:?} after the end");
            match command {
                Command::Redeem { .. } => {
                    let answer = self.world.tickets[self.redeemed].clone();
                    self.redeemed += 1;
                    self.tunnel.handle_ticket(answer, self.now);
                }
                Command::Verify { .. } => self.tunnel.handle_verified(self.world.password_is_right, self.now),
                Command::Resolve { .. } => self.tunnel.handle_resolved(self.world.names.clone(), self.now),
                Command::Admit { info } => {
                    self.info = Some(info);
                    self.tunnel.handle_admitted(self.world.admitted);
                }
                Command::Dial { permit } => {
                    self.dialed = Some(permit.addresses()[0].to_string());
                    self.tunnel.handle_dialed(self.world.dialed);
                }
                Command::Reply { bytes } => self.client.extend(bytes),
                Command::Relay(relay) => {
                    let framed = matches!(relay.framing, Framing::WebSocket(_));
                    self.outcome = Some(Outcome::Relays { forward: relay.forward, framed });
                }
                Command::HandToWeb { bytes } => self.outcome = Some(Outcome::Web(bytes)),
                Command::Close { reason } => self.outcome = Some(Outcome::Closed(reason)),
            }
        }
    }

    fn relays(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Relays { .. }))
    }

    fn denied(&self) -> Option<Deny> {
        match self.outcome {
            Some(Outcome::Closed(reason)) => reason,
            _ => None,
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.client).into_owned()
    }
}

fn data(ica: Option<&str>, cgp: Option<&str>) -> TicketData {
    let address = |text: Option<&str>| text.map(|text| HostPort::parse(text).expect("a legal value"));
    TicketData { ica: address(ica), cgp: address(cgp), ..TicketData::default() }
}

fn profile(kind: Kind) -> Profile {
    Profile {
        listener: "test".into(),
        kind,
        tickets: matches!(kind, Kind::Gateway | Kind::HdxOnly),
        credentials: false,
        target: None,
        policy: Policy::new(vec![Rule::ica_anywhere()]),
        limits: Limits::default(),
    }
}

fn socks_request(name: &str) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 3, u8::try_from(name.len()).expect("a legal value")];
    bytes.extend(name.as_bytes());
    bytes.extend(1494_u16.to_be_bytes());
    bytes
}

fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | u8::try_from(payload.len()).expect("a legal value"), 1, 2, 3, 4];
    frame.extend(payload.iter().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

// --- each way in ------------------------------------------------------------------------------------------

#[test]
fn a_bare_socks_request_with_a_ticket_opens_the_ica_server() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&socks_request(TICKET));
    assert!(talk.relays());
    assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:1494"));
    assert_eq!(talk.client, [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_socks_greeting_is_answered_before_the_request() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[5, 2, 0, 2]);
    assert_eq!(talk.client, [5, 0]);
    talk.send(&socks_request(TICKET));
    assert!(talk.relays());
}

#[test]
fn three_ambiguous_bytes_are_a_greeting_once_the_wait_is_over() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[5, 1, 0]);
    assert!(talk.client.is_empty());
    talk.wait(AMBIGUITY_WAIT);
    assert_eq!(talk.client, [5, 0]);
    talk.send(&socks_request(TICKET));
    assert!(talk.relays());
}

#[test]
fn a_greeting_with_a_pipelined_request_needs_no_wait() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[&[5, 1, 0][..], &socks_request(TICKET), b"hello"].concat());
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: b"hello".to_vec(), framed: false }));
}

#[test]
fn a_plain_socks_listener_answers_a_greeting_at_once() {
    let mut talk = Talk::new(Kind::Socks, World::default());
    talk.send(&[5, 1, 0]);
    assert_eq!(talk.client, [5, 0]);
}

#[test]
fn a_cgp_packet_goes_to_the_cgp_server_unchanged() {
    let packet = [b"\x1aCGP/01\x00\x07", TICKET.as_bytes(), b"\x00rest"].concat();
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&packet);
    assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:2598"));
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: packet, framed: false }));
    assert!(talk.client.is_empty());
}

#[test]
fn a_ticket_at_the_very_end_of_a_cgp_packet_is_whole_after_the_wait() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[b"\x1aCGP/01\x00", TICKET.as_bytes()].concat());
    assert_eq!(talk.redeemed, 0);
    talk.wait(AMBIGUITY_WAIT);
    assert!(talk.relays());
}

#[test]
fn a_cgp_client_goes_to_port_2598_when_the_ticket_names_only_the_ica_address() {
    let world = World {
        tickets: vec![TicketAnswer::Granted(data(Some("10.77.0.9:1494"), None))],
        ..World::default()
    };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(&[b"\x1aCGP/01\x00", TICKET.as_bytes(), b"\x00"].concat());
    assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:2598"));
}

#[test]
fn connect_with_a_ticket_answers_200_and_passes_early_bytes_on() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(format!("CONNECT {TICKET}:1494 HTTP/1.1\r\nHost: x\r\n\r\nearly").as_bytes());
    assert!(talk.text().starts_with("HTTP/1.1 200 "), "{}", talk.text());
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: b"early".to_vec(), framed: false }));
}

#[test]
fn a_websocket_carries_socks_and_its_answers_are_framed() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(UPGRADE);
    assert!(talk.text().contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 §1.3's example");
    talk.client.clear();
    talk.send(&masked(&socks_request(TICKET)));
    assert_eq!(talk.client, [0x82, 10, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: vec![], framed: true }));
}

#[test]
fn a_websocket_carries_cgp_even_when_the_frame_comes_with_the_upgrade() {
    let packet = [b"\x1aCGP/01\x00", TICKET.as_bytes(), b"\x00"].concat();
    let mut talk = Talk::new(Kind::HdxOnly, World::default());
    talk.send(&[UPGRADE, &masked(&packet)].concat());
    assert_eq!(talk.outcome, Some(Outcome::Relays { forward: packet, framed: true }));
}

#[test]
fn a_ping_before_the_request_is_answered() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(UPGRADE);
    talk.client.clear();
    talk.send(&[0x89, 0x80, 1, 2, 3, 4]);
    assert_eq!(talk.client, [0x8A, 0]);
}

#[test]
fn other_http_goes_to_the_control_plane_whole() {
    let request = b"GET /cgi/login HTTP/1.1\r\nHost: g\r\n\r\n";
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(request);
    assert_eq!(talk.outcome, Some(Outcome::Web(request.to_vec())));
}

#[test]
fn an_hdx_only_listener_has_no_pages() {
    let mut talk = Talk::new(Kind::HdxOnly, World::default());
    talk.send(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n");
    assert!(talk.text().starts_with("HTTP/1.1 405 "), "{}", talk.text());
}

#[test]
fn an_ssl_relay_dials_its_target_before_any_byte() {
    let target = Some(HostPort::parse("127.0.0.1:80").expect("a legal value"));
    let talk = Talk::with(Profile { target, ..profile(Kind::SslRelay) }, World::default());
    assert_eq!(talk.dialed.as_deref(), Some("127.0.0.1:80"));
    assert!(talk.relays());
}

#[test]
fn a_relay_listener_reaches_its_access_list_without_a_ticket() {
    let mut talk = Talk::new(Kind::Relay, World::default());
    talk.send(&[5, 1, 0, 1, 10, 77, 0, 9, 0x05, 0xD6]);
    assert!(talk.relays());
    let mut talk = Talk::new(Kind::Relay, World::default());
    talk.send(b"CONNECT 10.77.0.9:22 HTTP/1.0\r\n\r\n");
    assert_eq!(talk.denied(), Some(Deny::Forbidden));
}

// --- tickets ------------------------------------------------------------------------------------------------

#[test]
fn the_session_knows_user_and_application_of_the_ticket() {
    let granted = TicketData {
        user: Some("ann".into()),
        domain: Some("CORP".into()),
        application: Some("Notepad".into()),
        ..data(Some("10.77.0.9:1494"), None)
    };
    let world = World { tickets: vec![TicketAnswer::Granted(granted)], ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(&socks_request(TICKET));
    let info = talk.info.expect("a legal value");
    assert_eq!(info.user.as_deref(), Some("CORP\\ann"));
    assert_eq!(info.application.as_deref(), Some("Notepad"));
}

#[test]
fn the_second_authority_is_asked_when_the_first_cannot_or_will_not_redeem() {
    for first in [
        TicketAnswer::Unavailable(Unavailable::Down),
        TicketAnswer::Unavailable(Unavailable::NoAuthority),
        TicketAnswer::Refused(TicketRefusal::Unknown),
    ] {
        let granted = TicketAnswer::Granted(data(Some("10.77.0.9:1494"), None));
        let world = World { tickets: vec![first, granted], ..World::default() };
        let mut talk = Talk::new(Kind::Gateway, world);
        talk.send(&socks_request(DOUBLE));
        assert!(talk.relays());
        assert_eq!(talk.redeemed, 2);
    }
}

#[test]
fn overload_does_not_ask_the_second_authority() {
    let world =
        World { tickets: vec![TicketAnswer::Unavailable(Unavailable::Overloaded)], ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(&socks_request(DOUBLE));
    assert_eq!(talk.denied(), Some(Deny::Overloaded));
}

#[test]
fn a_refusal_outweighs_an_authority_that_is_down() {
    let tickets =
        vec![TicketAnswer::Refused(TicketRefusal::Expired), TicketAnswer::Unavailable(Unavailable::Timeout)];
    let mut talk = Talk::new(Kind::Gateway, World { tickets, ..World::default() });
    talk.send(&socks_request(DOUBLE));
    assert_eq!(talk.denied(), Some(Deny::TicketRefused));
}

#[test]
fn a_ticket_without_a_server_is_refused() {
    let world = World { tickets: vec![TicketAnswer::Granted(TicketData::default())], ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(&socks_request(TICKET));
    assert_eq!(talk.denied(), Some(Deny::TicketWithoutServer));
}

#[test]
fn a_ticket_for_a_forbidden_server_is_refused_without_dialing() {
    for server in ["10.77.0.9:22", "127.0.0.1:1494", "169.254.169.254:1494"] {
        let world =
            World { tickets: vec![TicketAnswer::Granted(data(Some(server), None))], ..World::default() };
        let mut talk = Talk::new(Kind::Gateway, world);
        talk.send(&socks_request(TICKET));
        assert_eq!(talk.denied(), Some(Deny::Forbidden), "{server}");
        assert_eq!(talk.client[1], 2);
        assert_eq!(talk.dialed, None);
    }
}

#[test]
fn a_server_named_by_the_client_is_refused_where_tickets_rule() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(&[5, 1, 0, 1, 10, 77, 0, 9, 0x05, 0xD6]);
    assert_eq!(talk.denied(), Some(Deny::TicketRequired));
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(b"CONNECT 10.77.0.9:1494 HTTP/1.0\r\n\r\n");
    assert!(talk.text().starts_with("HTTP/1.1 403 "), "{}", talk.text());
}

#[test]
fn a_ticket_is_refused_where_none_are_redeemed() {
    let mut talk = Talk::new(Kind::Socks, World::default());
    talk.send(&[5, 1, 0]).send(&socks_request(TICKET));
    assert_eq!(talk.denied(), Some(Deny::Forbidden));
    assert_eq!(talk.redeemed, 0);
}

#[test]
fn what_a_name_resolves_to_is_what_is_checked() {
    let world = || World {
        tickets: vec![TicketAnswer::Granted(data(Some("vda.example:1494"), None))],
        ..World::default()
    };
    let mut talk = Talk::new(Kind::Gateway, world());
    talk.send(&socks_request(TICKET));
    assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:1494"));
    let names = Ok(vec!["127.0.0.1".parse().expect("a legal value")]);
    let mut talk = Talk::new(Kind::Gateway, World { names, ..world() });
    talk.send(&socks_request(TICKET));
    assert_eq!(talk.denied(), Some(Deny::Forbidden));
}

// --- refusals in each protocol's words ------------------------------------------------------------------------

#[test]
fn each_failure_of_the_server_has_its_socks_reply() {
    for (error, code) in [(DialError::Refused, 5), (DialError::Unreachable, 4), (DialError::Timeout, 6)] {
        let mut talk = Talk::new(Kind::Gateway, World { dialed: Err(error), ..World::default() });
        talk.send(&socks_request(TICKET));
        assert_eq!(talk.client, [5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn each_failure_of_the_server_has_its_http_status() {
    for (error, status) in [(DialError::Refused, "502"), (DialError::Timeout, "504")] {
        let mut talk = Talk::new(Kind::Gateway, World { dialed: Err(error), ..World::default() });
        talk.send(format!("CONNECT {TICKET} HTTP/1.0\r\n\r\n").as_bytes());
        assert!(talk.text().starts_with(&format!("HTTP/1.1 {status} ")), "{}", talk.text());
    }
}

#[test]
fn a_websocket_client_gets_the_socks_refusal_and_a_close_frame() {
    let world = World { tickets: vec![TicketAnswer::Refused(TicketRefusal::Unknown)], ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(UPGRADE);
    talk.client.clear();
    talk.send(&masked(&socks_request(TICKET)));
    let close = [0x88, 2, 0x03, 0xF0];
    assert_eq!(talk.client, [&[0x82, 10, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0][..], &close].concat());
}

#[test]
fn no_answer_ever_holds_the_inside_address() {
    for dialed in [Ok(()), Err(DialError::Refused), Err(DialError::Timeout)] {
        for request in [
            socks_request(TICKET),
            format!("CONNECT {TICKET} HTTP/1.0\r\n\r\n").into_bytes(),
            [b"\x1aCGP/01\x00", TICKET.as_bytes(), b"\x00"].concat(),
        ] {
            let mut talk = Talk::new(Kind::Gateway, World { dialed, ..World::default() });
            talk.send(&request);
            assert!(!talk.text().contains(INSIDE));
            assert!(!talk.client.windows(4).any(|bytes| bytes == [10, 77, 0, 9]));
        }
    }
}

#[test]
fn a_limit_refuses_in_the_protocols_words() {
    let world = World { admitted: Err(Deny::TooManySessions), ..World::default() };
    let mut talk = Talk::new(Kind::Gateway, world);
    talk.send(format!("CONNECT {TICKET} HTTP/1.0\r\n\r\n").as_bytes());
    assert!(talk.text().starts_with("HTTP/1.1 503 "), "{}", talk.text());
    assert_eq!(talk.dialed, None);
}

#[test]
fn bind_and_udp_are_not_supported() {
    for command in [2, 3, 9] {
        let mut request = socks_request(TICKET);
        request[1] = command;
        let mut talk = Talk::new(Kind::Gateway, World::default());
        talk.send(&[5, 2, 0, 1]).send(&request);
        assert_eq!(talk.client[2..4], [5, 7]);
    }
}

// --- credentials ------------------------------------------------------------------------------------------------

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

// --- bounds, deadlines, hostility -------------------------------------------------------------------------------

#[test]
fn unknown_first_bytes_are_refused_silently() {
    for bytes in [&b"\x16\x03\x01"[..], b"\x7f\x7fICA\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x04\x01"]
    {
        let mut talk = Talk::new(Kind::Gateway, World::default());
        talk.send(bytes);
        assert_eq!(talk.denied(), Some(Deny::UnknownProtocol), "{bytes:?}");
        assert!(talk.client.is_empty());
    }
}

#[test]
fn a_request_must_be_complete_by_the_deadline_however_slowly_it_trickles() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    let step = Limits::default().first_bytes_timeout / 4;
    talk.send(b"CONNECT").wait(step).send(b" x").wait(step).send(b":1").wait(step);
    assert_eq!(talk.outcome, None);
    talk.wait(step);
    assert_eq!(talk.denied(), Some(Deny::SlowRequest));
    assert!(talk.text().starts_with("HTTP/1.1 408 "), "{}", talk.text());
}

#[test]
fn an_http_head_past_its_limit_is_refused() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(b"GET / HTTP/1.1\r\nX: ");
    talk.send(&vec![b'a'; SETUP_INPUT_MAX_BYTES]);
    assert!(talk.text().starts_with("HTTP/1.1 431 "), "{}", talk.text());
}

#[test]
fn a_client_that_leaves_before_asking_is_no_refusal() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.tunnel.handle_end_of_input();
    talk.drain();
    assert_eq!(talk.outcome, Some(Outcome::Closed(None)));
}

#[test]
fn an_unmasked_websocket_frame_gets_a_protocol_error() {
    let mut talk = Talk::new(Kind::Gateway, World::default());
    talk.send(UPGRADE);
    talk.client.clear();
    talk.send(&[0x82, 1, 0]);
    assert_eq!(talk.client, [0x88, 2, 0x03, 0xEA]);
    assert_eq!(talk.denied(), Some(Deny::Malformed));
}

proptest! {
    #[test]
    fn arbitrary_bytes_in_arbitrary_pieces_never_reach_a_server_without_a_ticket(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..16),
        kind in 0_usize..2,
    ) {
        let mut talk = Talk::new([Kind::Gateway, Kind::HdxOnly][kind], World::default());
        for piece in pieces {
            if talk.outcome.is_none() {
                talk.send(&piece);
            }
        }
        prop_assert_eq!(talk.dialed, None);
    }

    #[test]
    fn a_request_means_the_same_however_it_is_cut(cut in 1_usize..40, which in 0_usize..3) {
        let whole = [
            socks_request(TICKET),
            format!("CONNECT {TICKET}:1494 HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
            [UPGRADE, &masked(&socks_request(TICKET))].concat(),
        ];
        let whole = &whole[which];
        let mut talk = Talk::new(Kind::Gateway, World::default());
        for piece in whole.chunks(cut) {
            talk.send(piece);
        }
        prop_assert!(talk.relays());
        prop_assert_eq!(talk.dialed.as_deref(), Some("10.77.0.9:1494"));
    }
}

#[test]
fn a_name_rule_admits_what_the_ticket_names() {
    let rule = Rule {
        to: vec![Destination::Name(
            portcullis_proto::host_port::HostName::parse("vda.example").expect("a legal value"),
        )],
        ports: vec![22..=22],
    };
    let world = World {
        tickets: vec![TicketAnswer::Granted(data(Some("vda.example:22"), None))],
        ..World::default()
    };
    let mut talk = Talk::with(Profile { policy: Policy::new(vec![rule]), ..profile(Kind::Gateway) }, world);
    talk.send(&socks_request(TICKET));
    assert!(talk.relays());
}
