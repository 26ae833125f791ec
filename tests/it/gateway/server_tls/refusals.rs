//! Servers that are not believed, or with which no terms are found: what the client, the record, the log and the
//! metrics say.

use std::io::Write as _;
use std::net::Ipv4Addr;

use portcullis_tests::backend::{self, Stage};
use portcullis_tests::dns_double::DnsDouble;
use portcullis_tests::filtered;
use portcullis_tests::gateway::Setup;
use portcullis_tests::pki::{Authority, Files, Identity, Leaf, Validity};
use portcullis_tests::speak::Speak as _;
use serde_json::json;

use super::super::fixture::{ANYTHING_LOCAL, Edge, assert_hidden, setup, without_programs};
use super::farm::{BY_CA, NAME, OpenSsl, WAYS, edge, farm, identity};

fn pin(identity: &Identity) -> String {
    let digest = ring_sha256(&identity.leaf_der);
    format!("pin_sha256 = \"{digest}\"")
}

fn ring_sha256(bytes: &[u8]) -> String {
    let hash = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = hash.tls13().unwrap().common.hash_provider.hash(bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The session is refused with this code, and everything that an operator looks at names the cause.
fn refused(edge: &Edge, target: std::net::SocketAddr, code: u8, reason: &str, cause: &str) {
    let mut client = edge.client();
    assert_eq!(client.socks(&edge.ticket(target), 1494).unwrap(), code, "{cause}: {}", edge.gateway.log());
    assert_hidden(client.received(), target);
    assert_eq!(edge.end_reason(), reason, "{cause}");
    let metrics = edge.gateway.metrics().unwrap();
    let label = format!("reason=\"{cause}\"");
    let failed = metrics.sum("portcullis_server_tls_handshake_failures_total", &[&label]);
    assert_eq!(failed, Some(1.0), "{cause}: {}", metrics.0);
    let log = edge.gateway.log();
    let told = log.lines().find(|line| line.contains("the TLS handshake with a server failed"));
    assert!(told.unwrap_or_else(|| panic!("{cause}: {log}")).contains(cause), "{told:?}");
}

/// A server with this certificate is refused for this cause.
fn untrusted(make: impl Fn(&Setup) -> Files, keys: &str, cause: &str) {
    if without_programs(&["openssl"]) {
        return;
    }
    for layer in ["own", "rustls"] {
        for version in ["-tls1_2", "-tls1_3"] {
            let setup = setup();
            let files = make(&setup);
            let server = OpenSsl::echo(&files, setup.dir(), &[version]);
            let edge = edge(setup, ("auto", layer), keys);
            refused(&edge, server.address, 1, "server_untrusted", cause);
            assert!(edge.refusals("server_untrusted") > 0.0);
        }
    }
}

#[test]
fn a_certificate_of_another_authority_is_not_believed() {
    let make = |setup: &Setup| {
        let stranger = Authority::root("somebody else").unwrap();
        let leaf = Leaf::named(&["127.0.0.77"]);
        stranger.issue(&leaf).unwrap().write(setup.dir(), "vda").unwrap()
    };
    untrusted(make, BY_CA, "untrusted");
}

#[test]
fn a_private_authority_is_none_of_the_public_ones() {
    let make = |setup: &Setup| identity(setup).write(setup.dir(), "vda").unwrap();
    untrusted(make, "min_tls = \"1.2\"", "untrusted");
}

#[test]
fn a_certificate_for_another_name_is_not_believed() {
    let make = |setup: &Setup| {
        let leaf = Leaf::named(&["other.farm.test", "127.0.0.78"]);
        setup.ca().issue(&leaf).unwrap().write(setup.dir(), "vda").unwrap()
    };
    untrusted(make, BY_CA, "name_mismatch");
    untrusted(make, &format!("{BY_CA}, server_name = \"{NAME}\""), "name_mismatch");
}

#[test]
fn a_certificate_out_of_its_time_is_not_believed() {
    for validity in [Validity::Expired, Validity::NotYet] {
        let make = |setup: &Setup| {
            let leaf = Leaf::named(&["127.0.0.77"]).validity(validity);
            setup.ca().issue(&leaf).unwrap().write(setup.dir(), "vda").unwrap()
        };
        untrusted(make, BY_CA, "not_valid_now");
    }
}

#[test]
fn another_certificate_than_the_pinned_one_is_not_believed() {
    let make = |setup: &Setup| identity(setup).write(setup.dir(), "vda").unwrap();
    untrusted(make, &format!("pin_sha256 = \"{}\"", "0".repeat(64)), "pin_mismatch");
}

#[test]
fn a_pin_needs_neither_name_nor_time_nor_authority() {
    if without_programs(&["openssl"]) {
        return;
    }
    for way in WAYS {
        let setup = setup();
        let leaf = Leaf::named(&["other.farm.test"]).validity(Validity::Expired);
        let identity = Authority::root("somebody else").unwrap().issue(&leaf).unwrap();
        let files = identity.write(setup.dir(), "vda").unwrap();
        let server = OpenSsl::echo(&files, setup.dir(), &[]);
        let edge = edge(setup, way, &pin(&identity));
        edge.session(server.address).echo(b"pinned").unwrap();
    }
}

#[test]
fn whoever_answers_is_believed_only_where_that_is_asked_for_and_loudly() {
    if without_programs(&["openssl"]) {
        return;
    }
    let setup = setup();
    let leaf = Leaf::named(&["other.farm.test"]).validity(Validity::Expired);
    let identity = Authority::root("somebody else").unwrap().issue(&leaf).unwrap();
    let files = identity.write(setup.dir(), "vda").unwrap();
    let server = OpenSsl::echo(&files, setup.dir(), &[]);
    let edge = edge(setup, WAYS[0], "verify = false");
    edge.session(server.address).echo(b"whoever you are").unwrap();
    assert!(edge.gateway.log().contains("nobody checks who answers as the server"));
    assert!(edge.gateway.cli(["check"]).unwrap().stdout.contains("nobody checks who answers as the server"));
    let status = edge.gateway.cli_json(["status"]).unwrap();
    assert_eq!(status["listeners"][0]["server_tls"], "unverified");
}

#[test]
fn the_name_in_the_ticket_is_asked_for_and_checked() {
    if without_programs(&["openssl"]) {
        return;
    }
    let names = [(NAME, Ipv4Addr::new(127, 0, 0, 77)), ("vda2.farm.test", Ipv4Addr::new(127, 0, 0, 77))];
    let dns = DnsDouble::start(&names).unwrap();
    let mut setup = setup();
    setup.merge(&format!("[dns]\nservers = [\"{}\"]", dns.address())).unwrap();
    let other = setup.ca().issue(&Leaf::named(&["default.farm.test"])).unwrap();
    let files = other.write(setup.dir(), "default").unwrap();
    setup.ca().issue(&Leaf::named(&[NAME])).unwrap().write(setup.dir(), "vda").unwrap();
    // The second certificate is for those who ask by name.
    let flags = ["-servername", NAME, "-cert2", "vda.crt", "-key2", "vda.key"];
    let server = OpenSsl::echo(&files, setup.dir(), &flags);
    let edge = Edge::of_setup(setup, "gateway", &format!("{ANYTHING_LOCAL}\nserver_tls = {{ {BY_CA} }}"));
    let ticket = |name: &str| {
        let target = format!("{name}:{}", server.address.port());
        edge.gateway.control().issue(&json!({ "target": target })).unwrap()
    };
    let mut client = edge.client();
    assert_eq!(client.socks(&ticket(NAME), 1494).unwrap(), 0);
    client.echo(b"by name").unwrap();
    // The program serves one at a time.
    drop(client);
    edge.wait_for_records(1);
    assert_eq!(edge.socks_code(&ticket("vda2.farm.test")), 1);
    edge.wait_for_refusals("server_untrusted", 1.0);
}

#[test]
fn a_version_below_the_floor_is_refused() {
    if without_programs(&["openssl"]) {
        return;
    }
    let (setup, files) = farm();
    let server = OpenSsl::echo(&files, setup.dir(), &["-tls1_2"]);
    let edge = edge(setup, WAYS[0], &format!("{BY_CA}, min_tls = \"1.3\""));
    refused(&edge, server.address, 1, "server_tls", "server_alert");
}

#[test]
fn a_server_without_tls_is_refused() {
    let (setup, _) = farm();
    let server = backend::Service::start(filtered::farm(), |mut stream| {
        // Whether the gateway waits for all of it is its own affair.
        stream.write_all(b"SSH-2.0-nothing\r\n").ok();
    });
    let server = server.unwrap();
    let edge = edge(setup, WAYS[0], BY_CA);
    refused(&edge, server.address(), 1, "server_tls", "not_tls");
}

#[test]
fn a_server_that_hangs_up_is_refused() {
    let (setup, _) = farm();
    let server = backend::Service::start(filtered::farm(), drop).unwrap();
    let edge = edge(setup, WAYS[0], BY_CA);
    refused(&edge, server.address(), 1, "server_tls", "server_closed");
}

#[test]
fn a_silent_server_is_waited_for_no_longer_than_it_may_take_to_dial() {
    let (mut setup, _) = farm();
    setup.merge("[limits]\ndial_timeout = \"500ms\"").unwrap();
    let stage = Stage::open().unwrap();
    let edge = edge(setup, WAYS[0], BY_CA);
    refused(&edge, stage.address().unwrap(), 6, "server_tls", "timeout");
}
