//! Listeners without tickets: SOCKS5 and CONNECT by access list, relay mode, and a fixed target.

use std::net::IpAddr;
use std::process::Command;

use portcullis_tests::backend::{self, Service, Stage};
use portcullis_tests::client::Client;
use portcullis_tests::process::{self, Output};
use portcullis_tests::speak::{
    GREETING, SOCKS_SUCCESS, Speak as _, base64, credentials, socks_request, socks_request_v4,
};
use portcullis_tests::wait::PATIENCE;

use super::connect::page;
use super::fixture::{Edge, PROXY_LOCAL, assert_hidden, python, setup, text, without_programs};

/// A proxy listener whose users are `ann` with the password `correct horse` and nobody else.
fn edge_with_users(kind: &str, keys: &str) -> Edge {
    let mut setup = setup();
    let mut hash = Command::new(process::binary("portcullis").unwrap());
    hash.args(["config", "hash-password"]);
    let output = process::run_with_input(&mut hash, b"correct horse\n", PATIENCE).unwrap().ok().unwrap();
    let users = format!("# users of the proxy\nann:{}\n", output.stdout.trim());
    std::fs::write(setup.dir().join("users"), users).unwrap();
    setup.merge("[[users]]\nname = \"proxy-users\"\nfile = \"users\"").unwrap();
    Edge::of_setup(setup, kind, &format!("users = \"proxy-users\"\n{keys}\n{PROXY_LOCAL}"))
}

fn curl(arguments: &[&str]) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20"]).args(arguments);
    // The environment of whoever runs the tests may name proxies for hosts or none.
    curl.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("ALL_PROXY");
    process::run(&mut curl, PATIENCE).unwrap()
}

fn url(server: &Service) -> String {
    format!("http://{}/", server.address())
}

#[test]
fn curl_reaches_a_listed_server_over_socks() {
    if without_programs(&["curl"]) {
        return;
    }
    let (edge, server) = (Edge::of_kind("socks", PROXY_LOCAL, ""), page());
    let output = curl(&["--socks5-hostname", &edge.at.to_string(), &url(&server)]).ok().unwrap();
    assert_eq!(output.stdout, "farm page");
}

#[test]
fn an_address_that_is_not_listed_is_not_allowed_over_socks() {
    let keys = "permit_loopback = true\nallow = [{ to = [\"127.0.0.77\"], ports = [1494] }]";
    let (edge, server) = (Edge::of_kind("socks", keys, ""), backend::echo().unwrap());
    let mut client = Client::plain(edge.at).unwrap();
    client.send(&socks_request_v4([127, 0, 0, 77], server.address().port())).unwrap();
    assert_eq!(client.socks_reply().unwrap(), 2);
    edge.wait_for_refusals("forbidden", 1.0);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn loopback_is_not_allowed_over_socks_unless_permitted() {
    let keys = PROXY_LOCAL.replace("permit_loopback = true", "");
    let (edge, server) = (Edge::of_kind("socks", &keys, ""), backend::echo().unwrap());
    let mut client = Client::plain(edge.at).unwrap();
    client.send(&socks_request_v4([127, 0, 0, 77], server.address().port())).unwrap();
    assert_eq!(client.socks_reply().unwrap(), 2);
}

#[test]
fn curl_logs_in_over_socks() {
    if without_programs(&["curl"]) {
        return;
    }
    let (edge, server) = (edge_with_users("socks", ""), page());
    let (proxy, login) = (edge.at.to_string(), "ann:correct horse");
    let output = curl(&["--socks5-hostname", &proxy, "--proxy-user", login, &url(&server)]).ok().unwrap();
    assert_eq!(output.stdout, "farm page");
}

#[test]
fn curl_with_a_wrong_password_gets_nothing_over_socks() {
    if without_programs(&["curl"]) {
        return;
    }
    let (edge, server) = (edge_with_users("socks", ""), page());
    let output =
        curl(&["--socks5-hostname", &edge.at.to_string(), "--proxy-user", "ann:wrong", &url(&server)]);
    assert!(!output.success(), "{output:?}");
    edge.wait_for_refusals("credentials_wrong", 1.0);
    assert_eq!(server.accepted(), 0);
}

fn python_login(password: &str) -> Option<String> {
    let mut python = python("python_socks")?;
    let (edge, server) = (edge_with_users("socks", ""), backend::echo().unwrap());
    python.arg("socks_login.py").arg(edge.at.port().to_string());
    python.args([server.address().ip().to_string(), server.address().port().to_string()]);
    python.env("USER_NAME", "ann").env("PASSWORD", password);
    Some(process::run(&mut python, PATIENCE).unwrap().ok().unwrap().stdout)
}

#[test]
fn python_socks_logs_in() {
    if let Some(said) = python_login("correct horse") {
        assert_eq!(said.trim(), "hello");
    }
}

#[test]
fn python_socks_with_a_wrong_password_is_refused() {
    if let Some(said) = python_login("wrong") {
        assert!(said.starts_with("refused"), "{said}");
    }
}

// RFC 1929 §2: "A STATUS field of X'00' indicates success. If the server returns a `failure' (STATUS value other than
// X'00') status, it MUST close the connection."
#[test]
fn a_wrong_password_gets_a_failure_and_the_end_of_the_connection() {
    let edge = edge_with_users("socks", "");
    for (user, password) in [("ann", "wrong"), ("nobody", "correct horse")] {
        let mut client = Client::plain(edge.at).unwrap();
        client.send(&[5, 1, 2]).unwrap();
        assert_eq!(client.read(2).unwrap(), [5, 2]);
        client.send(&credentials(user, password)).unwrap();
        let (answer, _) = client.read_to_end().unwrap();
        assert!(matches!(answer[..], [1, status] if status != 0), "{user}: {answer:?}");
    }
}

#[test]
fn a_client_that_offers_no_password_has_no_acceptable_method() {
    let edge = edge_with_users("socks", "");
    let mut client = Client::plain(edge.at).unwrap();
    client.send(GREETING).unwrap();
    assert_eq!(client.read_to_end().unwrap().0, [5, 0xff]);
}

#[test]
fn a_bare_request_does_not_get_around_the_password() {
    let (edge, server) = (edge_with_users("socks", ""), backend::echo().unwrap());
    let mut client = Client::plain(edge.at).unwrap();
    client.send(&socks_request_v4([127, 0, 0, 77], server.address().port())).unwrap();
    let (answer, _) = client.read_to_end().unwrap();
    assert!(!answer.starts_with(&SOCKS_SUCCESS), "{answer:?}");
    assert_eq!(server.accepted(), 0);
}

#[test]
fn the_user_of_a_proxy_is_in_the_sessions_record() {
    let (edge, server) = (edge_with_users("socks", ""), backend::echo().unwrap());
    let mut client = Client::plain(edge.at).unwrap();
    client.send(&[5, 1, 2]).unwrap();
    client.read(2).unwrap();
    client.send(&credentials("ann", "correct horse")).unwrap();
    assert_eq!(client.read(2).unwrap(), [1, 0]);
    let IpAddr::V4(farm) = server.address().ip() else { panic!("{}", server.address()) };
    client.send(&socks_request_v4(farm.octets(), server.address().port())).unwrap();
    assert_eq!(client.socks_reply().unwrap(), 0);
    client.echo(b"hello").unwrap();
    client.sender.finish().unwrap();
    client.read_to_end().unwrap();
    let record = edge.record();
    assert_eq!(text(&record, "user"), "ann");
    assert!(!edge.gateway.log().contains("correct horse"));
}

#[test]
fn curl_reaches_a_listed_server_over_a_secure_proxy() {
    if without_programs(&["curl"]) {
        return;
    }
    let (edge, server) = (edge_with_users("secure-proxy", "certificates = [\"main\"]"), page());
    let (ca, proxy) = (edge.ca(), format!("https://ann:correct%20horse@{}", edge.at));
    let output =
        curl(&["--proxy-cacert", ca.to_str().unwrap(), "--proxytunnel", "--proxy", &proxy, &url(&server)]);
    assert_eq!(output.ok().unwrap().stdout, "farm page");
}

// RFC 9110 §15.5.8: "The proxy MUST send a Proxy-Authenticate header field".
#[test]
fn a_secure_proxy_asks_for_credentials() {
    let (edge, server) = (edge_with_users("secure-proxy", ""), backend::echo().unwrap());
    let target = server.address().to_string();
    let mut client = Client::plain(edge.at).unwrap();
    let answer = client.connect(&target, "").unwrap();
    assert_eq!(answer.status, 407);
    assert!(answer.header("Proxy-Authenticate").unwrap().starts_with("Basic realm="), "{}", answer.head);
    let wrong = format!("Proxy-Authorization: Basic {}\r\n", base64(b"ann:wrong"));
    assert_eq!(Client::plain(edge.at).unwrap().connect(&target, &wrong).unwrap().status, 407);
    assert_eq!(server.accepted(), 0);
    edge.wait_for_refusals("credentials_required", 1.0);
    edge.wait_for_refusals("credentials_wrong", 1.0);
}

#[test]
fn a_secure_proxy_forbids_what_is_not_listed() {
    let keys = "permit_loopback = true\nallow = [{ to = [\"127.0.0.78\"], ports = [\"1-65535\"] }]";
    let (edge, server) = (Edge::of_kind("secure-proxy", keys, ""), backend::echo().unwrap());
    let mut client = Client::plain(edge.at).unwrap();
    assert_eq!(client.connect(&server.address().to_string(), "").unwrap().status, 403);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_secure_proxy_takes_a_ticket_as_host_when_it_has_authorities() {
    let keys = format!("stas = [\"local\"]\n{PROXY_LOCAL}");
    let (edge, server) = (Edge::of_kind("secure-proxy", &keys, ""), backend::echo().unwrap());
    let mut client = Client::plain(edge.at).unwrap();
    assert_eq!(client.connect(&edge.ticket(server.address()), "").unwrap().status, 200);
    client.echo(b"ticket").unwrap();
}

#[test]
fn relay_mode_reaches_listed_servers_over_socks_and_connect_without_a_ticket() {
    let (edge, server) = (Edge::of_kind("relay", PROXY_LOCAL, ""), backend::echo().unwrap());
    let mut socks = edge.client();
    assert_eq!(socks.socks(&server.address().ip().to_string(), server.address().port()).unwrap(), 0);
    socks.echo(b"socks").unwrap();
    let mut connect = edge.client();
    assert_eq!(connect.connect(&server.address().to_string(), "").unwrap().status, 200);
    connect.echo(b"connect").unwrap();
}

#[test]
fn relay_mode_refuses_what_is_not_listed() {
    let keys = "permit_loopback = true\nallow = [{ to = [\"127.0.0.77\"], ports = [1494] }]";
    let (edge, server) = (Edge::of_kind("relay", keys, ""), backend::echo().unwrap());
    assert_eq!(edge.client().socks(&server.address().ip().to_string(), server.address().port()).unwrap(), 2);
    assert_eq!(edge.client().connect(&server.address().to_string(), "").unwrap().status, 403);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn relay_mode_redeems_no_tickets() {
    let (edge, server) = (Edge::of_kind("relay", PROXY_LOCAL, ""), backend::echo().unwrap());
    let ticket = edge.ticket(server.address());
    let mut client = edge.client();
    client.send(&socks_request(&ticket, 1494)).unwrap();
    assert_ne!(client.socks_reply().unwrap(), 0);
    assert_eq!(server.accepted(), 0);
}

#[test]
fn a_fixed_target_gets_all_bytes_and_may_speak_first() {
    use std::io::Write as _;
    let stage = Stage::open().unwrap();
    let edge = Edge::of_kind("ssl-relay", &fixed(&stage), "");
    let mut client = edge.client();
    let mut server = stage.accept().unwrap();
    server.write_all(b"\x7f\x7fICA\x00").unwrap();
    assert_eq!(client.read(6).unwrap(), b"\x7f\x7fICA\x00");
    client.sender.finish().unwrap();
    drop(server);
    client.read_to_end().unwrap();
    assert_eq!(text(&edge.record(), "protocol"), "tls");
}

fn fixed(stage: &Stage) -> String {
    format!("target = \"{}\"\npermit_loopback = true", stage.address().unwrap())
}

#[test]
fn a_fixed_target_that_refuses_ends_the_connection_without_a_byte() {
    let stage = Stage::open().unwrap();
    let (keys, target) = (fixed(&stage), stage.address().unwrap());
    drop(stage);
    let edge = Edge::of_kind("ssl-relay", &keys, "");
    let mut client = edge.client();
    let (answer, _) = client.read_to_end().unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    assert_hidden(client.received(), target);
    edge.wait_for_refusals("server_refused", 1.0);
}

#[test]
fn a_source_that_the_listener_does_not_list_is_refused() {
    let keys = format!("allow_from = [\"192.0.2.0/24\"]\n{PROXY_LOCAL}");
    let edge = Edge::of_kind("socks", &keys, "");
    let mut client = Client::plain(edge.at).unwrap();
    let (answer, _) = client.read_to_end().unwrap();
    assert!(answer.is_empty(), "{answer:?}");
    edge.wait_for_refusals("source_forbidden", 1.0);
}
