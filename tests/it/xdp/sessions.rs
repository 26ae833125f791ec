//! Sessions through a gateway whose two interfaces are filtered: every way in, a bulk transfer and refusals are what
//! they are without a filter, by IPv4 and IPv6, and nothing of a live session is dropped.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;

use portcullis_tests::backend::{Checker, Pattern, Stage};
use portcullis_tests::client::Client;
use portcullis_tests::gateway::{Gateway, Setup, filter_available};
use portcullis_tests::netns;
use portcullis_tests::skip::skip;
use portcullis_tests::speak::{SOCKS_SUCCESS, Speak as _, cgp_hello, socks_request};
use portcullis_tests::topology::Lab;
use portcullis_tests::wait::{self, PATIENCE};
use portcullis_tests::websocket::WebSocket as _;
use serde_json::Value;

const UNKNOWN: &str = ";40;STA999999999;0123456789ABCDEF0123456789ABCDEF";
/// The reply code of RFC 1928 §6 for what the rules forbid.
const FORBIDDEN: u8 = 2;
const MIB: usize = 1024 * 1024;
/// Why packets of a session would be dropped. Others are of the machines' own making, as IGMP.
const LOSSES: [&str; 10] = [
    "no_rule",
    "no_flow",
    "rule",
    "banned",
    "ip_length",
    "tcp_header",
    "tcp_flags",
    "fragment",
    "land",
    "bogon",
];

/// An outside client, a filtered gateway, and a farm.
pub(crate) struct Scene {
    // The daemon ends before its networks go.
    pub(crate) gateway: Gateway,
    pub(crate) lab: Lab,
}

impl Scene {
    pub(crate) fn build() -> Option<Self> {
        let ready = filter_available().and_then(|()| netns::available());
        if let Err(reason) = ready {
            skip(&format!("no filter between namespaces: {reason}"));
            return None;
        }
        let lab = Lab::in_namespaces().unwrap();
        let mut setup = Setup::new().unwrap();
        setup.own_authority(IpAddr::from([127, 0, 0, 1])).unwrap();
        setup.merge("[log]\nformat = \"json\"").unwrap();
        let at = [lab.gateway.v4[0], lab.gateway.v6[0]].map(|ip| SocketAddr::new(ip, 443));
        let keys = "stas = [\"local\"]\nallow = [{ to = [\"10.77.0.0/24\", \"fd77::/64\"], ports = [\"1024-65535\"] }]";
        setup.listener_at("edge", "gateway", &at, keys).unwrap();
        setup.filtered(&[("edge", "edge"), ("farm", "farm")]).unwrap();
        let gateway = setup.start_in(&lab.gateway).unwrap();
        let state = gateway.filter_state().unwrap();
        assert!(state.starts_with("attached"), "{state}");
        let scene = Self { gateway, lab };
        // Links that have just come up carry IPv6 only after a while.
        for ip in scene.addresses() {
            let connects = || scene.lab.outside.enter(|| Ok(TcpStream::connect((ip, 443))?)).is_ok();
            wait::until(PATIENCE, "the links to be up", connects).unwrap();
        }
        Some(scene)
    }

    /// The gateway's addresses at the edge.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [self.lab.gateway.v4[0], self.lab.gateway.v6[0]]
    }

    pub(crate) fn client(&self, ip: IpAddr) -> Client {
        let ca = self.gateway.ca_file();
        self.lab.outside.enter(|| Client::tls(SocketAddr::new(ip, 443), &ca)).unwrap()
    }

    /// A server in the farm, of the family of `like`.
    pub(crate) fn server(&self, like: IpAddr) -> Stage {
        let farm = if like.is_ipv4() { self.lab.farm.v4[0] } else { self.lab.farm.v6[0] };
        self.lab.farm.enter(|| Stage::at(farm)).unwrap()
    }

    pub(crate) fn ticket(&self, server: &Stage) -> String {
        self.gateway.issue(&server.address().unwrap().to_string()).unwrap()
    }

    /// How many packets were dropped that could have been a session's.
    fn losses(&self) -> u64 {
        let rows = self.gateway.cli_json(["xdp", "drops"]).unwrap();
        let lost = |row: &&Value| row["reason"].as_str().is_some_and(|reason| LOSSES.contains(&reason));
        rows.as_array().unwrap().iter().filter(lost).map(|row| row["packets"].as_u64().unwrap()).sum()
    }

    /// Waits for this many records of finished sessions.
    fn records(&self, count: usize) -> Vec<Value> {
        let found = wait::value(PATIENCE, "the records of the sessions", || {
            let log = self.gateway.log();
            let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let records =
                events.filter(|event| event["event"] == "session" && event.get("bytes_up").is_some());
            Some(records.collect::<Vec<_>>()).filter(|records| records.len() >= count)
        });
        found.unwrap_or_else(|error| panic!("{error}; the log:\n{}", self.gateway.log()))
    }
}

/// Words each way, by the client's own framing.
fn talk(client: &mut Client, server: &mut TcpStream, in_frames: bool) {
    if in_frames {
        client.send_binary(b"question").unwrap();
    } else {
        client.send(b"question").unwrap();
    }
    let mut question = [0; 8];
    server.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    server.write_all(b"answer").unwrap();
    let answer = if in_frames { client.read_binary(6) } else { client.read(6) };
    assert_eq!(answer.unwrap(), b"answer");
}

#[test]
fn every_way_in_opens_a_session_through_the_filter() {
    let Some(scene) = Scene::build() else { return };
    let mut live = Vec::new();
    // From outside by one family, to the farm by the other one and by the same.
    for (outside, inside) in scene.addresses().into_iter().flat_map(|ip| scene.addresses().map(|to| (ip, to)))
    {
        for way in ["socks5", "cgp", "websocket", "connect"] {
            let stage = scene.server(inside);
            let ticket = scene.ticket(&stage);
            let mut client = scene.client(outside);
            let mut hello = Vec::new();
            match way {
                "socks5" => assert_eq!(client.socks(&ticket, 1494).unwrap(), 0),
                "connect" => assert_eq!(client.connect(&ticket, "").unwrap().status, 200),
                "websocket" => {
                    client.upgrade("").unwrap();
                    client.send_binary(&socks_request(&ticket, 1494)).unwrap();
                    assert_eq!(client.read_binary(10).unwrap(), SOCKS_SUCCESS);
                }
                _ => {
                    hello = cgp_hello(&ticket);
                    client.send(&hello).unwrap();
                }
            }
            let mut server = stage.accept().unwrap();
            let mut first = vec![0; hello.len()];
            server.read_exact(&mut first).unwrap();
            assert_eq!(first, hello, "CGP's first packet is the server's");
            talk(&mut client, &mut server, way == "websocket");
            live.push((client, server));
        }
    }
    assert_eq!(scene.gateway.control().sessions().unwrap().len(), 16);
    assert_eq!(scene.losses(), 0, "{}", scene.gateway.cli(["xdp", "drops"]).unwrap().stdout);
    drop(live);
    let records = scene.records(16);
    let ways = ["socks5", "cgp", "websocket-socks5", "connect"];
    for way in ways {
        assert_eq!(records.iter().filter(|record| record["protocol"] == way).count(), 4, "{way}");
    }
}

#[test]
fn a_bulk_transfer_passes_the_filter_unchanged_in_both_directions() {
    const TOTAL: usize = 16 * MIB;
    let Some(scene) = Scene::build() else { return };
    for ip in scene.addresses() {
        let stage = scene.server(ip);
        let mut client = scene.client(ip);
        assert_eq!(client.socks(&scene.ticket(&stage), 1494).unwrap(), 0);
        let mut server = stage.accept().unwrap();
        let Client { mut sender, mut receiver } = client;
        let mut writer = server.try_clone().unwrap();
        let up = thread::spawn(move || {
            let mut pattern = Pattern::new(1);
            (0..TOTAL / MIB).for_each(|_| sender.send(&pattern.bytes(MIB / 8)).unwrap());
            sender.finish().unwrap();
            sender
        });
        let down = thread::spawn(move || {
            let mut pattern = Pattern::new(2);
            (0..TOTAL / MIB).for_each(|_| writer.write_all(&pattern.bytes(MIB / 8)).unwrap());
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let at_client = thread::spawn(move || {
            let mut checker = Checker::new(2);
            while let Some(bytes) = Some(receiver.read_some().unwrap()).filter(|bytes| !bytes.is_empty()) {
                checker.check(&bytes).unwrap();
            }
            checker.seen
        });
        let (mut checker, mut buffer) = (Checker::new(1), vec![0; 256 * 1024]);
        while let count @ 1.. = server.read(&mut buffer).unwrap() {
            checker.check(&buffer[..count]).unwrap();
        }
        let total = u64::try_from(TOTAL).unwrap();
        assert_eq!((checker.seen, at_client.join().unwrap()), (total, total));
        drop(up.join().unwrap());
        down.join().unwrap();
    }
    for record in scene.records(2) {
        let whole = u64::try_from(TOTAL).ok();
        assert_eq!((record["bytes_up"].as_u64(), record["bytes_down"].as_u64()), (whole, whole), "{record}");
    }
}

#[test]
fn what_is_refused_without_a_filter_is_refused_in_the_same_words_with_one() {
    let Some(scene) = Scene::build() else { return };
    let stage = scene.server(scene.addresses()[0]);
    let used = scene.ticket(&stage);
    for ip in scene.addresses() {
        let mut first = scene.client(ip);
        let ticket = scene.ticket(&stage);
        assert_eq!(first.socks(&ticket, 1494).unwrap(), 0);
        stage.accept().unwrap();
        let low_port = scene.gateway.issue("10.77.0.10:22").unwrap();
        let elsewhere = scene.gateway.issue("192.0.2.7:1494").unwrap();
        let own_loopback = scene.gateway.issue("127.0.0.1:1494").unwrap();
        for refused in [UNKNOWN, &ticket, &low_port, &elsewhere, &own_loopback] {
            assert_eq!(scene.client(ip).socks(refused, 1494).unwrap(), FORBIDDEN, "{ip}");
        }
        let answer = scene.client(ip).connect(UNKNOWN, "").unwrap();
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    assert!(stage.try_accept().unwrap().is_none(), "a refusal reached the farm");
    let mut last = scene.client(scene.addresses()[0]);
    assert_eq!(last.socks(&used, 1494).unwrap(), 0, "refusals of others use up no ticket");
}

#[test]
fn a_connection_that_is_reset_ends_its_session_on_both_sides() {
    let Some(scene) = Scene::build() else { return };
    for ip in scene.addresses() {
        let stage = scene.server(ip);
        let mut client = scene.client(ip);
        assert_eq!(client.socks(&scene.ticket(&stage), 1494).unwrap(), 0);
        let mut server = stage.accept().unwrap();
        talk(&mut client, &mut server, false);
        client.reset().unwrap();
        // FIN or RST: the session is over in the farm too.
        assert!(matches!(server.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    scene.records(2);
    assert!(scene.gateway.control().sessions().unwrap().is_empty());
}
