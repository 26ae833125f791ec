//! Bans: what a source must do to be kept out, that nobody else suffers for it, and how it comes in again.
//!
//! Loopback is never banned, so the clients of these tests are a machine of their own, with one address of each family.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use portcullis_tests::backend::Stage;
use portcullis_tests::client::{self, Client};
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::process;
use portcullis_tests::speak::{Speak as _, base64, cgp_hello, connect, credentials, socks_request};
use portcullis_tests::topology::Lab;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use super::fixture::{Edge, setup, without_namespaces};

/// Few offences, and bans that do not end while a test looks.
const QUICK: &str = "[bans]
bad_tickets = { count = 3, within = \"5m\" }
failed_logins = { count = 3, within = \"5m\" }
broken_handshakes = { count = 3, within = \"5m\" }
violations = { count = 3, within = \"5m\" }
ban_time = \"1h\"
";
const PASSWORD: &str = "correct horse";

/// A gateway with its clients outside and its servers behind it.
struct Site {
    gateway: Gateway,
    lab: Lab,
}

/// Which address of the clients' machine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    V4,
    V6,
}

const TICKETS: u16 = 443;
const SOCKS: u16 = 1080;
const PROXY: u16 = 3128;

impl Site {
    fn with(more: &str) -> Option<Self> {
        if without_namespaces() {
            return None;
        }
        let lab = Lab::in_namespaces().unwrap();
        let mut setup = setup();
        let mut hash = Command::new(process::binary("portcullis").unwrap());
        hash.args(["config", "hash-password"]);
        let line = format!("{PASSWORD}\n");
        let output = process::run_with_input(&mut hash, line.as_bytes(), PATIENCE).unwrap().ok().unwrap();
        std::fs::write(setup.dir().join("users"), format!("ann:{}\n", output.stdout.trim())).unwrap();
        setup.merge("[[users]]\nname = \"people\"\nfile = \"users\"").unwrap();
        setup.merge(more).unwrap();
        let reach = "allow = [{ to = [\"10.77.0.0/24\"], ports = [\"1-65535\"] }]";
        for (name, kind, port, keys) in [
            ("edge", "gateway", TICKETS, "stas = [\"local\"]"),
            ("socks", "socks", SOCKS, "users = \"people\""),
            ("proxy", "secure-proxy", PROXY, "users = \"people\""),
        ] {
            let at = [lab.gateway.v4[0], lab.gateway.v6[0]].map(|ip| SocketAddr::new(ip, port));
            setup.listener_at(name, kind, &at, &format!("{keys}\n{reach}")).unwrap();
        }
        Some(Self { gateway: setup.start_in(&lab.gateway).unwrap(), lab })
    }

    fn restart(self) -> Self {
        let setup: Setup = self.gateway.halt().unwrap();
        Self { gateway: setup.start_in(&self.lab.gateway).unwrap(), lab: self.lab }
    }

    fn at(&self, from: From, port: u16) -> SocketAddr {
        let ip = if from == From::V4 { self.lab.gateway.v4[0] } else { self.lab.gateway.v6[0] };
        SocketAddr::new(ip, port)
    }

    fn source(&self, from: From) -> IpAddr {
        if from == From::V4 { self.lab.outside.v4[0] } else { self.lab.outside.v6[0] }
    }

    fn try_client(&self, from: From) -> anyhow::Result<Client> {
        let ca = self.gateway.ca_file();
        self.lab.outside.enter(|| Client::tls(self.at(from, TICKETS), &ca))
    }

    fn client(&self, from: From) -> Client {
        self.try_client(from).unwrap()
    }

    fn plain(&self, from: From, port: u16) -> TcpStream {
        let stream = self.lab.outside.enter(|| Ok(TcpStream::connect(self.at(from, port))?)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn comes_in(&self, from: From) -> bool {
        self.try_client(from).is_ok()
    }

    /// A ticket that our authority never issued.
    fn forged(&self) -> String {
        let issued = self.gateway.issue("10.77.0.10:1494").unwrap();
        format!("{};{}", issued.rsplit_once(';').unwrap().0, "0".repeat(32))
    }

    fn show_forged(&self, from: From) {
        assert_eq!(self.client(from).socks(&self.forged(), 1494).unwrap(), 2);
    }

    /// Shows forged tickets until the source is banned; returns how many it took.
    fn be_banned(&self, from: From) -> u32 {
        let mut shown = 0;
        while self.bans_for(from).is_empty() {
            assert!(shown < 10, "no ban after {shown} forged tickets");
            self.show_forged(from);
            shown += 1;
            // The refusal is sent before it is counted.
            self.wait_for("portcullis_offences_total", "kind=\"bad_ticket\"", shown.into());
        }
        shown
    }

    fn bans(&self) -> Vec<Value> {
        self.gateway.cli_json(["bans", "list"]).unwrap().as_array().unwrap().clone()
    }

    fn bans_for(&self, from: From) -> Vec<Value> {
        let rows = self.gateway.cli_json(["bans", "list", &self.source(from).to_string()]).unwrap();
        rows.as_array().unwrap().clone()
    }

    fn metric(&self, name: &str, label: &str) -> Option<f64> {
        self.gateway.metrics().unwrap().sum(name, &[label])
    }

    fn wait_for(&self, name: &str, label: &str, least: f64) {
        let what = format!("{name} {{{label}}} of {least}");
        wait::until(PATIENCE, &what, || self.metric(name, label) >= Some(least)).unwrap();
    }

    fn wait_for_ban(&self, from: From) -> Value {
        let found = || self.bans_for(from).first().cloned();
        wait::value(PATIENCE, "a ban", found).unwrap()
    }

    fn reload_with(&mut self, more: &str) {
        self.gateway.setup().merge(more).unwrap();
        self.gateway.setup().write().unwrap();
        self.gateway.cli(["reload"]).unwrap().ok().unwrap();
    }
}

#[test]
fn repeated_forged_tickets_ban_their_source_alone_and_its_live_session_goes_on() {
    let Some(site) = Site::with(QUICK) else { return };
    let server = site.lab.farm.enter(|| Stage::at(site.lab.farm.v4[0])).unwrap();
    let target = server.address().unwrap().to_string();
    let mut live = site.client(From::V4);
    assert_eq!(live.socks(&site.gateway.issue(&target).unwrap(), 1494).unwrap(), 0);
    let mut peer = server.accept().unwrap();

    assert_eq!(site.be_banned(From::V4), 3);
    assert!(!site.comes_in(From::V4));
    assert!(site.comes_in(From::V6));
    live.send(b"still here").unwrap();
    peer.read_exact(&mut [0; 10]).unwrap();
    peer.write_all(b"so am I").unwrap();
    assert_eq!(live.read(7).unwrap(), b"so am I");

    let bans = site.bans();
    assert_eq!(bans.len(), 1, "{bans:?}");
    let ban = &bans[0];
    let shown = [&ban["prefix"], &ban["origin"], &ban["kind"]].map(|field| field.as_str().unwrap());
    assert_eq!(shown, ["203.0.113.10/32", "automatic", "bad_ticket"]);
    assert_eq!((ban["offences"].as_u64(), ban["in_kernel"].as_bool()), (Some(3), Some(false)));
    assert!((3500..=3600).contains(&ban["seconds_left"].as_u64().unwrap()), "{ban}");
    assert_eq!(site.metric("portcullis_bans_total", "kind=\"bad_ticket\""), Some(1.0));
    assert_eq!(site.metric("portcullis_bans", "origin=\"automatic\""), Some(1.0));
    assert!(site.metric("portcullis_refusals_total", "reason=\"banned\"") >= Some(1.0));
    let log = site.gateway.log();
    assert!(log.contains("a source was banned") && !log.contains(&"0".repeat(32)), "{log}");
    let table = site.gateway.cli(["bans", "list"]).unwrap().ok().unwrap().stdout;
    assert!(table.contains("203.0.113.10/32") && table.contains("bad_ticket"), "{table}");
}

#[test]
fn a_ban_ends_by_itself_and_the_next_is_twice_as_long() {
    let Some(site) = Site::with(&format!("{QUICK}ban_time = \"2s\"").replace("ban_time = \"1h\"\n", ""))
    else {
        return;
    };
    site.be_banned(From::V6);
    // Its /64 is ours too, so it is the address alone.
    assert_eq!(site.bans()[0]["prefix"], "2001:db8:113::10/128");
    assert!(!site.comes_in(From::V6) && site.comes_in(From::V4));
    wait::until(PATIENCE, "the end of the ban", || site.comes_in(From::V6)).unwrap();
    assert!(site.bans().is_empty());
    for _ in 0..3 {
        site.show_forged(From::V6);
    }
    let ban = site.wait_for_ban(From::V6);
    assert_eq!(ban["repeats"], 1, "{ban}");
    let log = site.gateway.log();
    assert!(log.contains("\"seconds\":4") || log.contains("\"seconds\":\"4\""), "{log}");
}

#[test]
fn whom_the_operator_allows_is_never_banned_neither_by_offences_nor_by_hand() {
    let Some(mut site) = Site::with(&format!("{QUICK}allow = [\"203.0.113.8/29\"]")) else { return };
    for _ in 0..6 {
        site.show_forged(From::V4);
    }
    site.wait_for("portcullis_offences_total", "kind=\"bad_ticket\"", 6.0);
    assert!(site.comes_in(From::V4) && site.bans().is_empty());
    for (prefix, reason) in [
        ("203.0.113.10", "in `bans.allow`"),
        ("203.0.113.0/24", "covers 203.0.113.8/29"),
        ("127.0.0.1", "a loopback address"),
        ("fe80::/64", "a link-local address"),
        ("203.0.113.1", "an address of this machine"),
    ] {
        let refused = site.gateway.cli(["bans", "add", prefix]).unwrap();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(reason), "{prefix}: {}", refused.stderr);
    }
    // Who is allowed later is free at once.
    site.be_banned(From::V6);
    site.gateway.cli(["bans", "add", "198.51.100.0/24"]).unwrap().ok().unwrap();
    site.reload_with("[bans]\nallow = [\"2001:db8:113::10\"]");
    assert!(site.comes_in(From::V6));
    assert_eq!(site.bans().len(), 1);
}

#[test]
fn handshake_junk_bans_and_a_client_that_goes_or_does_not_trust_us_is_none() {
    let Some(site) = Site::with(QUICK) else { return };
    let other = Setup::new().unwrap();
    let strangers = Arc::new(client::trusting(&other.dir().join("ca.pem")).unwrap());
    let at = site.at(From::V4, TICKETS);
    for _ in 0..5 {
        drop(site.plain(From::V4, TICKETS));
        assert!(site.lab.outside.enter(|| Client::tls_with(at, &strangers, "localhost")).is_err());
        // Half a ClientHello.
        site.plain(From::V4, TICKETS).write_all(&[0x16, 3, 1, 0, 200, 1, 0]).unwrap();
    }
    site.wait_for("portcullis_tls_handshake_failures_total", "reason=\"client_alert\"", 5.0);
    site.wait_for("portcullis_tls_handshake_failures_total", "reason=\"client_closed\"", 10.0);
    assert_eq!(site.metric("portcullis_offences_total", "kind=\"broken_handshake\""), Some(0.0));
    for _ in 0..3 {
        let mut stream = site.plain(From::V4, TICKETS);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // An alert, then the end.
        stream.read_to_end(&mut Vec::new()).ok();
    }
    let ban = site.wait_for_ban(From::V4);
    assert_eq!(ban["kind"], "broken_handshake");
    assert!(!site.comes_in(From::V4));
}

/// The status of a login over SOCKS (RFC 1929).
fn login(site: &Site, from: From, password: &str) -> u8 {
    let mut stream = site.plain(from, SOCKS);
    stream.write_all(&[5, 1, 2]).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    stream.write_all(&credentials("ann", password)).unwrap();
    let mut status = [0; 2];
    stream.read_exact(&mut status).unwrap();
    status[1]
}

#[test]
fn failed_logins_ban_over_socks_and_http_and_a_good_one_between_does_not_wash_them_off() {
    let Some(site) = Site::with(QUICK) else { return };
    assert_ne!(login(&site, From::V4, "open sesame"), 0);
    assert_ne!(login(&site, From::V4, "open sesame"), 0);
    assert_eq!(login(&site, From::V4, PASSWORD), 0);
    assert_ne!(login(&site, From::V4, "open sesame"), 0);
    assert_eq!(site.wait_for_ban(From::V4)["kind"], "failed_login");
    let basic = format!("Proxy-Authorization: Basic {}\r\n", base64(b"ann:open sesame"));
    for _ in 0..3 {
        let mut stream = site.plain(From::V6, PROXY);
        stream.write_all(&connect("10.77.0.10:1494", &basic)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 407"), "{answer}");
    }
    assert_eq!(site.wait_for_ban(From::V6)["offences"], 3);
    let log = site.gateway.log();
    assert!(
        !log.contains("sesame") && !log.contains(PASSWORD) && !log.contains(&base64(b"ann:open")),
        "{log}"
    );
    let kept = std::fs::read_to_string(site.restart().gateway.dir().join("state/bans.json")).unwrap();
    assert!(kept.contains("failed_login") && !kept.contains("sesame") && !kept.contains("ann"), "{kept}");
}

#[test]
fn broken_requests_ban_whether_or_not_their_sender_hears_the_refusal() {
    let Some(site) = Site::with(QUICK) else { return };
    // Neither is an offence: nothing is asked for, or something that policy forbids.
    for _ in 0..5 {
        drop(site.client(From::V4));
        site.client(From::V4).socks("example.com", 80).unwrap();
    }
    assert!(site.bans().is_empty());
    for count in 1..4_u32 {
        let mut client = site.client(From::V4);
        client.send(b"\xff\xfe\xfd of no protocol").unwrap();
        // What is taken back before it is read was never said.
        site.wait_for("portcullis_offences_total", "kind=\"violation\"", count.into());
        client.reset().unwrap();
    }
    assert_eq!(site.wait_for_ban(From::V4)["kind"], "violation");
    for _ in 0..3 {
        let mut client = site.client(From::V6);
        client.send(&cgp_hello(&site.forged())).unwrap();
        // No refusal of CGP is known: the end is the answer.
        client.read_to_end().unwrap();
    }
    assert_eq!(site.wait_for_ban(From::V6)["kind"], "bad_ticket");
}

#[test]
fn a_good_ticket_makes_up_for_bad_ones_from_the_same_address() {
    let Some(site) = Site::with(QUICK) else { return };
    let server = site.lab.farm.enter(|| Stage::at(site.lab.farm.v4[0])).unwrap();
    let target = server.address().unwrap().to_string();
    for round in 1..4 {
        for _ in 0..2 {
            site.show_forged(From::V4);
        }
        site.wait_for("portcullis_offences_total", "kind=\"bad_ticket\"", f64::from(round * 2));
        let mut client = site.client(From::V4);
        assert_eq!(client.socks(&site.gateway.issue(&target).unwrap(), 1494).unwrap(), 0);
    }
    assert!(site.bans().is_empty());
}

#[test]
fn bans_outlive_a_restart_and_are_lifted_by_hand() {
    let Some(site) = Site::with(QUICK) else { return };
    site.be_banned(From::V4);
    let add = ["bans", "add", "2001:db8:113::10", "--for", "2h", "--note", "as the bank asked"];
    site.gateway.cli(add).unwrap().ok().unwrap();
    assert!(!site.comes_in(From::V4) && !site.comes_in(From::V6));
    let before = site.bans();
    let site = site.restart();
    let after = site.bans();
    let facts = |bans: &[Value]| -> Vec<Vec<Value>> {
        let keys = ["prefix", "origin", "kind", "offences", "note", "since", "until"];
        bans.iter().map(|ban| keys.map(|key| ban[key].clone()).to_vec()).collect()
    };
    assert_eq!(facts(&after), facts(&before));
    assert_eq!(after[1]["note"], "as the bank asked");
    assert!(!site.comes_in(From::V4) && !site.comes_in(From::V6));
    // The earlier protocol's name of the request, which scripts may use.
    let unban = serde_json::json!({"v": 1, "cmd": "xdp-unban", "prefix": "2001:db8:113::10"});
    site.gateway.control().ask(&unban).unwrap();
    assert!(site.comes_in(From::V6));
    assert_eq!(site.gateway.cli(["bans", "remove", "2001:db8:113::10"]).unwrap().code, Some(1));
    site.gateway.cli(["bans", "add", "198.51.100.0/24"]).unwrap().ok().unwrap();
    let cleared = site.gateway.cli_json(["bans", "clear", "--automatic"]).unwrap();
    assert_eq!(cleared["cleared"], 1);
    assert!(site.comes_in(From::V4));
    // It begins anew.
    assert_eq!(site.be_banned(From::V4), 3);
    assert_eq!(site.wait_for_ban(From::V4)["repeats"], 0);
    assert_eq!(site.gateway.cli_json(["bans", "clear"]).unwrap()["cleared"], 2);
    assert!(site.comes_in(From::V4));
}

#[test]
fn without_the_section_offences_are_counted_and_only_operators_ban_until_it_is_added() {
    let Some(mut site) = Site::with("") else { return };
    for _ in 0..5 {
        site.show_forged(From::V4);
    }
    site.wait_for("portcullis_offences_total", "kind=\"bad_ticket\"", 5.0);
    assert!(site.comes_in(From::V4) && site.bans().is_empty());
    // A whole network, our own address with it, which is not refused for that.
    site.gateway.cli(["bans", "add", "203.0.113.0/24"]).unwrap().ok().unwrap();
    assert!(!site.comes_in(From::V4));
    let ca = site.gateway.ca_file();
    site.lab.gateway.enter(|| Client::tls(site.at(From::V4, TICKETS), &ca)).unwrap();
    site.gateway.cli(["bans", "remove", "203.0.113.0/24"]).unwrap().ok().unwrap();
    site.reload_with(QUICK);
    for _ in 0..3 {
        site.show_forged(From::V4);
    }
    site.wait_for_ban(From::V4);
    for (prefix, more, code) in [("0.0.0.0/0", "1h", 65), ("192.0.2.1", "400d", 65), ("nobody", "1h", 65)] {
        let refused = site.gateway.cli(["bans", "add", prefix, "--for", more]).unwrap();
        assert_eq!(refused.code, Some(code), "{refused:?}");
    }
}

#[test]
fn loopback_is_never_banned() {
    let once = QUICK.replace("count = 3", "count = 1");
    let edge = Edge::with(&once);
    for _ in 0..5 {
        edge.client().send(b"\xff\xfe\xfd of no protocol").unwrap();
    }
    edge.wait_for_refusals("unknown_protocol", 5.0);
    assert_eq!(edge.gateway.cli_json(["bans", "list"]).unwrap().as_array().unwrap().len(), 0);
    let mut client = edge.client();
    client.send(&socks_request(";40;x;y", 1494)).unwrap();
}
