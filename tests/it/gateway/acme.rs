//! Certificates by ACME, with Pebble, the test server of Let's Encrypt's makers, as the issuer.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::backend;
use portcullis_tests::gateway::Setup;
use portcullis_tests::pki::Leaf;
use portcullis_tests::process::{self, Child};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};

use super::fixture::{self, ANYTHING_LOCAL, Edge, without_programs};

const PROGRAMS: [&str; 4] = ["pebble", "pebble-challtestsrv", "openssl", "curl"];
const NAME: &str = "gw.farm.test";
/// RFC 8555 §7.3.4: a key of the issuer's for accounts that it knows already.
const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// An issuer, and the name server that it asks: every name is 127.0.0.1.
struct Pebble {
    at: SocketAddr,
    management: SocketAddr,
    dir: PathBuf,
    _issuer: Child,
    _names: Child,
}

fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], process::free_port().unwrap()))
}

/// Where the issuer will be, and how the gateway's configuration names it.
fn section(at: SocketAddr, more: &str) -> String {
    format!(
        "[acme]\ndirectory = \"https://{at}/dir\"\nterms_agreed = true\nca = \"ca.pem\"\ncontact = [\"mailto:op@example.com\"]\n{more}\n"
    )
}

impl Pebble {
    /// Starts an issuer that looks for proofs at these ports, and refuses a fifth of all good nonces.
    fn start(setup: &Setup, at: SocketAddr, (http, tls): (u16, u16), external: bool) -> Self {
        let dir = setup.dir();
        setup.ca().issue(&Leaf::loopback()).unwrap().write(dir, "pebble").unwrap();
        Self::start_in(dir, at, (http, tls), external)
    }

    fn start_in(dir: &Path, at: SocketAddr, (http, tls): (u16, u16), external: bool) -> Self {
        let (management, names) = (free(), free());
        let config = json!({"pebble": {
            "listenAddress": at,
            "managementListenAddress": management,
            "certificate": dir.join("pebble.crt"),
            "privateKey": dir.join("pebble.key"),
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": external,
            "externalAccountMACKeys": {"kid-1": EAB_KEY},
        }});
        std::fs::write(dir.join("pebble.json"), config.to_string()).unwrap();
        let mut server = Command::new("pebble-challtestsrv");
        server.args(["-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]);
        server.args(["-dns01", &names.to_string(), "-management", &free().to_string()]);
        let names_child = Child::spawn("pebble-challtestsrv", &mut server, dir).unwrap();
        let mut issuer = Command::new("pebble");
        issuer.arg("-config").arg(dir.join("pebble.json")).args(["-dnsserver", &names.to_string()]);
        issuer.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "5");
        let mut issuer = Child::spawn("pebble", &mut issuer, dir).unwrap();
        issuer.wait_for_port(at, PATIENCE).unwrap();
        issuer.wait_for_port(management, PATIENCE).unwrap();
        Self { at, management, dir: dir.to_owned(), _issuer: issuer, _names: names_child }
    }

    /// Whether OpenSSL's client believes the listener, trusting this issuer alone.
    fn is_believed(&self, listener: SocketAddr) -> bool {
        let root = self.dir.join("pebble-root.pem");
        let mut curl = Command::new("curl");
        curl.args(["-s", "-f", "--cacert"]).arg(self.dir.join("ca.pem")).arg("-o").arg(&root);
        curl.arg(format!("https://{}/roots/0", self.management));
        process::run(&mut curl, PATIENCE).unwrap().ok().unwrap();
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &listener.to_string(), "-servername", NAME]);
        client.args(["-verify_return_error", "-verify_hostname", NAME, "-CAfile"]).arg(&root);
        process::run_with_input(&mut client, b"", PATIENCE).unwrap().success()
    }
}

fn shown(edge: &Edge) -> Value {
    edge.gateway.cli_json(["certificate", "show", "web"]).unwrap()
}

fn wait_for(edge: &Edge, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let found = wait::value(PATIENCE, what, || Some(shown(edge)).filter(|row| is(row)));
    found.unwrap_or_else(|error| panic!("{error}: {}\n{}", shown(edge), edge.gateway.log()))
}

/// A gateway with a listener whose second name gets its certificate from the issuer.
fn with_an_issued_name(issuer: SocketAddr) -> (Setup, SocketAddr) {
    let mut setup = fixture::setup();
    setup.merge(&section(issuer, "")).unwrap();
    setup.merge(&format!("certificate = [{{ name = \"web\", acme_names = [\"{NAME}\"] }}]")).unwrap();
    let keys = format!("certificates = [\"main\", \"web\"]\n{ANYTHING_LOCAL}");
    let listener = setup.listener("edge", "gateway", &keys).unwrap();
    (setup, listener)
}

fn is_issued(row: &Value) -> bool {
    row["acme"]["state"] == "issued" && row["acme"]["last_renewal"].is_string()
}

#[test]
fn a_certificate_comes_by_a_handshake_is_renewed_and_no_session_ends() {
    if without_programs(&PROGRAMS) {
        return;
    }
    let at = free();
    let (setup, listener) = with_an_issued_name(at);
    let pebble = Pebble::start(&setup, at, (1, listener.port()), false);
    let edge = Edge { gateway: setup.start().unwrap(), at: listener };
    let server = backend::echo().unwrap();
    let mut live = edge.session(server.address());
    let first = wait_for(&edge, "the certificate", is_issued);
    assert_eq!((&first["source"], &first["state"]), (&json!("acme"), &json!("used")));
    assert_eq!(first["names"], json!([NAME]));
    assert!(pebble.is_believed(listener), "{}", edge.gateway.log());

    edge.gateway.cli(["certificate", "renew", "web"]).unwrap().ok().unwrap();
    wait_for(&edge, "another certificate", |row| is_issued(row) && row["serial"] != first["serial"]);
    assert!(pebble.is_believed(listener));
    live.echo(b"all the time").unwrap();
    // The other name of the listener was served as ever.
    edge.client();
    let metrics = edge.gateway.metrics().unwrap();
    assert!(metrics.sum("portcullis_acme_renewals_total", &["result=\"issued\""]) >= Some(2.0));
    assert_eq!(metrics.sum("portcullis_acme_failed_attempts", &["certificate=\"web\""]), Some(0.0));
    let log = edge.gateway.log();
    assert_eq!(log.matches("an account was opened").count(), 1, "{log}");
    assert!(!log.contains("PRIVATE KEY"));
    assert!(log.contains("a name was proven by tls-alpn-01"), "{log}");
    let audit = edge.gateway.cli(["audit"]).unwrap().ok().unwrap().stdout;
    assert!(audit.contains("certificate-renew"), "{audit}");
}

#[test]
fn a_commit_brings_acme_by_a_page_with_an_account_that_the_issuer_knows() {
    if without_programs(&PROGRAMS) {
        return;
    }
    let (setup, at, page) = (fixture::setup(), free(), free());
    let pebble = Pebble::start(&setup, at, (page.port(), 1), true);
    let edge = Edge::of_setup(setup, "gateway", ANYTHING_LOCAL);
    let mut secret = edge.gateway.cli_command().unwrap();
    secret.args(["secret", "set", "eab"]);
    process::run_with_input(&mut secret, format!("{EAB_KEY}\n").as_bytes(), PATIENCE).unwrap().ok().unwrap();
    let text = edge.gateway.cli(["configure", "export"]).unwrap().ok().unwrap().stdout;
    let more = format!(
        "challenge = \"http-01\"\nhttp_listen = [\"{page}\"]\neab_key_id = \"kid-1\"\neab_key_secret = \"eab\""
    );
    let text = text.replace("certificates = [\"main\"]", "certificates = [\"web\"]");
    let text =
        format!("{text}\n[[certificate]]\nname = \"web\"\nacme_names = [\"{NAME}\"]\n{}", section(at, &more));
    let mut import = edge.gateway.cli_command().unwrap();
    import.args(["configure", "import"]);
    process::run_with_input(&mut import, text.as_bytes(), PATIENCE).unwrap().ok().unwrap();
    edge.gateway.cli(["configure", "commit"]).unwrap().ok().unwrap();
    wait_for(&edge, "the certificate", is_issued);
    assert!(pebble.is_believed(edge.at), "{}", edge.gateway.log());
    wait::until(PATIENCE, "the page to be gone", || TcpStream::connect(page).is_err()).unwrap();
    assert!(!edge.gateway.log().contains(EAB_KEY));
}

#[test]
fn an_issuer_that_is_away_keeps_nobody_from_being_served_and_is_asked_again() {
    if without_programs(&PROGRAMS) {
        return;
    }
    let at = free();
    let (setup, listener) = with_an_issued_name(at);
    setup.ca().issue(&Leaf::loopback()).unwrap().write(setup.dir(), "pebble").unwrap();
    let edge = Edge { gateway: setup.start().unwrap(), at: listener };
    let failed = wait_for(&edge, "a failure", |row| row["acme"]["failures"].as_u64() > Some(0));
    assert!(failed["acme"]["next_attempt"].is_string(), "{failed}");
    assert!(fixture::text(&failed["acme"], "last_error").contains("no connection"), "{failed}");
    assert!(edge.gateway.metrics().unwrap().sum("portcullis_acme_failed_attempts", &[]) >= Some(1.0));
    edge.client();
    let pebble = Pebble::start_in(edge.gateway.dir(), at, (1, listener.port()), false);
    assert!(!pebble.is_believed(listener));
    edge.gateway.cli(["certificate", "renew", "web"]).unwrap().ok().unwrap();
    wait_for(&edge, "the certificate", is_issued);
    assert!(pebble.is_believed(listener) && pebble.at == at);
}
