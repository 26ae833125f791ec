//! Packets that no network stack makes, made by Scapy outside, on the wire to a filtered gateway: each is counted under
//! its cause, and tcpdump behind the filter sees those that pass and no other. IPv4 and IPv6.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use Cause::*;
use portcullis_ebpf_common::{Cause, Verdict};
use portcullis_tests::gateway::Gateway;
use portcullis_tests::process::{self, Child};
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};
use tempfile::TempDir;

use crate::flows::{Talk, setup};
use crate::wire::{OPEN, Scene};

/// Debian's own, which has python3-scapy.
const PYTHON: &str = "/usr/bin/python3";
const MAKER: &str = "crafted_packets.py";
/// The port of the outside machine that the gateway is connected to.
const SERVER: u16 = 7000;
/// Steering has tests of its own: with it, what is counted would depend on the processor that a packet comes in on.
const RULES: &str = "steering = \"off\"\n\
                     rule = [{ role = \"edge\", protocol = \"udp\", ports = [5000], action = \"accept\" }, \
                     { role = \"edge\", protocol = \"tcp\", ports = [8001], action = \"drop\" }]";

/// A name of `crafted_packets.py`, and the causes of its frames in the order in which they are sent.
type Case = (&'static str, &'static [Cause]);

const BOTH: &[Case] = &[
    ("syn", &[RuleAccepts]),
    ("syn closed", &[NoRule]),
    ("syn dropped by rule", &[RuleDrops]),
    ("datagram open", &[RuleAccepts]),
    ("datagram closed", &[NoRule]),
    ("segment of nobody", &[NoFlow]),
    ("segment of a session", &[Flow]),
    ("answer to the gateway", &[OwnSocket]),
    ("banned", &[Banned]),
    ("one tag", &[RuleAccepts]),
    ("two tags", &[RuleAccepts]),
    ("three tags", &[VlanDepth]),
    ("no flags", &[TcpFlags]),
    ("christmas", &[TcpFlags]),
    ("syn and fin", &[TcpFlags]),
    ("syn and reset", &[TcpFlags]),
    ("all flags", &[TcpFlags]),
    ("tcp header too short", &[TcpHeader]),
    ("tcp header too long", &[TcpHeader]),
    ("tcp header cut", &[TcpHeader]),
    ("udp longer than ip", &[UdpLength]),
    ("udp shorter than itself", &[UdpLength]),
    ("to port 0", &[PortZero]),
    ("from port 0", &[PortZero]),
    ("land", &[Land]),
    ("from loopback", &[Bogon]),
    ("to loopback", &[Bogon]),
    ("from a group", &[Bogon]),
    ("gre", &[OtherProtocol]),
    ("sctp", &[OtherProtocol]),
    ("wrong version", &[IpHeader]),
    ("frame cut in ip", &[Truncated]),
    ("frame cut behind ip", &[IpLength]),
    ("fragments in order", &[RuleAccepts, Fragment, Fragment]),
    ("fragments out of order", &[FragmentUnknown, RuleAccepts, Fragment]),
    ("fragments for a closed port", &[NoRule, FragmentUnknown]),
    ("tiny fragment", &[FragmentTiny]),
    ("overlapping fragment", &[FragmentOverlap]),
    ("fragment beyond the end", &[IpLength]),
    ("error about a connection", &[IcmpError]),
    ("error about a session", &[IcmpError]),
    ("error about nothing", &[IcmpUnrelated]),
    ("error without a quote", &[IcmpQuote]),
    ("error in fragments", &[IcmpFragment]),
    ("echo", &[Icmp]),
    ("icmp cut", &[IcmpHeader]),
    ("redirect", &[IcmpType]),
    ("options", &[RuleAccepts]),
];

const V4: &[Case] = &[
    ("header too short", &[IpHeader]),
    ("total shorter than the header", &[IpLength]),
    ("total longer than the frame", &[IpLength]),
    ("timestamp", &[IcmpType]),
    ("arp", &[Arp]),
    ("arp of another kind", &[ArpHeader]),
    ("arp cut", &[Truncated]),
    ("lldp", &[LinkControl]),
    ("mpls", &[EtherType]),
    ("pppoe", &[EtherType]),
];

const V6: &[Case] = &[
    ("hop-by-hop options later", &[Extension]),
    ("too many headers", &[Extension]),
    ("header beyond the end", &[Extension]),
    ("source routing", &[RoutingHeader]),
    ("length 0", &[IpLength]),
    ("length longer than the frame", &[IpLength]),
    ("ipv4 in ipv6 dress", &[Bogon]),
    ("from nobody", &[Bogon]),
    ("renumbering", &[IcmpType]),
    ("neighbour solicitation", &[Neighbour]),
    ("neighbour solicitation over a router", &[NeighbourFar]),
];

/// Every cause that is tried here.
pub(crate) fn tried() -> impl Iterator<Item = Cause> {
    [BOTH, V4, V6].into_iter().flatten().flat_map(|case| case.1).copied()
}

/// Scapy outside, by lines: a name goes in, what was sent comes back.
struct Maker {
    child: std::process::Child,
    names: ChildStdin,
    sent: BufReader<ChildStdout>,
}

impl Maker {
    /// `ports` is for IPv4 and IPv6 those of a connection, of a session, and of the gateway's own connection.
    fn start(scene: &Scene, ports: [[u16; 2]; 3]) -> Self {
        let mac = scene.lab.gateway.command("cat").arg("/sys/class/net/edge/address").output().unwrap();
        let mut command = scene.lab.outside.command(PYTHON);
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(peers().join(MAKER));
        command.args(["wan", String::from_utf8(mac.stdout).unwrap().trim()]);
        command.args(ports.map(|[v4, v6]| format!("{v4},{v6}")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (names, sent) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut maker = Self { child, names, sent: BufReader::new(sent) };
        assert_eq!(maker.line(), "ready");
        maker
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        // Reading ends with the process, should it fail.
        assert!(self.sent.read_line(&mut line).unwrap() > 0, "{MAKER} ended");
        line.trim_end().to_owned()
    }

    fn send(&mut self, family: u8, name: &str) -> Vec<Vec<u8>> {
        writeln!(self.names, "{family} {name}").unwrap();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let frame = |text: &str| text.as_bytes().chunks(2).map(byte).collect();
        self.line().split(' ').map(frame).collect()
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // A process that has already ended is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn peers() -> PathBuf {
    process::repository().join("tests/it/peers")
}

/// tcpdump in the gateway's namespace. Its tap lies behind the filter.
struct Witness {
    _child: Child,
    dir: TempDir,
}

impl Witness {
    fn start(scene: &Scene) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command: Command = scene.lab.gateway.command(process::find_program("tcpdump").unwrap());
        command.args(["-i", "edge", "-Q", "in", "-n", "-U", "--immediate-mode", "-Z", "root", "-w"]);
        let mut child = Child::spawn("tcpdump", command.arg(dir.path().join("seen")), dir.path()).unwrap();
        child.wait_for_log("listening on", PATIENCE).unwrap();
        Self { _child: child, dir }
    }

    /// The frames that it has written so far.
    fn seen(&self) -> HashSet<Vec<u8>> {
        frames(&std::fs::read(self.dir.path().join("seen")).unwrap_or_default())
    }
}

/// Of a capture file: a header of 24 bytes; before each frame one of 16 with the captured length as its third word.
fn frames(mut file: &[u8]) -> HashSet<Vec<u8>> {
    let mut found = HashSet::new();
    file = file.get(24..).unwrap_or_default();
    while let Some((header, rest)) = file.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into().unwrap());
        // The last frame may still be on its way into the file.
        let Some((frame, rest)) = rest.split_at_checked(usize::try_from(length).unwrap()) else { break };
        found.insert(frame.to_vec());
        file = rest;
    }
    found
}

/// What the edge has counted: drops as an administrator asks for them, and the rest from the status.
fn counted(gateway: &Gateway) -> BTreeMap<(String, String), u64> {
    let drops = gateway.cli_json(["xdp", "drops"]).unwrap();
    let status = gateway.cli_json(["xdp", "status"]).unwrap();
    let mut counts = BTreeMap::new();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("drop").to_owned();
    let passes = status["packets"].as_array().unwrap().iter().filter(|row| row["verdict"] == "pass");
    let came_in = |row: &&serde_json::Value| row["interface"] == "edge" && row["direction"] != "out";
    for row in drops.as_array().unwrap().iter().chain(passes).filter(came_in) {
        counts.insert((text(&row["verdict"]), text(&row["reason"])), row["packets"].as_u64().unwrap());
    }
    counts
}

fn expected(causes: &[Cause]) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    for cause in causes {
        *counts.entry((cause.verdict().label().to_owned(), cause.label().to_owned())).or_default() += 1;
    }
    counts
}

/// The causes that have grown. Neighbours that resolve addresses, and machines that answer a connection that they know
/// nothing of, may add packets that pass; of what is dropped each packet was sent here.
fn assert_counted(gateway: &Gateway, before: &BTreeMap<(String, String), u64>, causes: &[Cause], what: &str) {
    let expected = expected(causes);
    let mut grown = BTreeMap::new();
    let complete = || {
        let after = counted(gateway).into_iter();
        grown = after.map(|(key, now)| (key.clone(), now - before.get(&key).unwrap_or(&0))).collect();
        grown.retain(|_, count| *count > 0);
        expected.iter().all(|(key, count)| grown.get(key).is_some_and(|found| found >= count))
    };
    let waited = wait::until(PATIENCE, "the packets to be counted", complete);
    assert!(waited.is_ok(), "{what}: {grown:?} instead of {expected:?}");
    let drops = |counts: &BTreeMap<(String, String), u64>| {
        let mut counts = counts.clone();
        counts.retain(|key, _| key.0 == "drop");
        counts
    };
    assert_eq!(drops(&grown), drops(&expected), "{what}");
}

fn can_run() -> bool {
    let scapy = Path::new("/usr/lib/python3/dist-packages/scapy").is_dir() && Path::new(PYTHON).is_file();
    let tcpdump = process::find_program("tcpdump").is_some();
    if !scapy {
        skip("no Scapy for Debian's Python (python3-scapy)");
    } else if !tcpdump {
        skip("no tcpdump on this machine");
    }
    scapy && tcpdump
}

/// A connection from outside that says nothing, and one from the gateway to the outside.
fn connections(scene: &Scene, family: usize) -> (TcpStream, TcpStream, TcpListener) {
    let outside: [IpAddr; 2] = [scene.lab.outside.v4[0], scene.lab.outside.v6[0]];
    let edge = SocketAddr::new(scene.edge()[family], OPEN);
    let client = scene.lab.outside.enter(|| Ok(TcpStream::connect(edge)?)).unwrap();
    let at = SocketAddr::new(outside[family], SERVER);
    let server = scene.lab.outside.enter(|| Ok(TcpListener::bind(at)?)).unwrap();
    let own = scene.lab.gateway.enter(|| Ok(TcpStream::connect(at)?)).unwrap();
    (client, own, server)
}

#[test]
fn crafted_packets_are_counted_under_their_causes_and_the_witness_sees_those_that_pass() {
    if !can_run() {
        return;
    }
    let Some(scene) = Scene::build() else { return };
    let mut setup = setup(&scene, RULES);
    // Connections that say nothing have to outlive all cases.
    setup.merge("[limits]\nhandshake_timeout = \"5m\"\nfirst_bytes_timeout = \"5m\"").unwrap();
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    for prefix in ["198.51.100.0/24", "2001:db8:bad::/48"] {
        gateway.cli(["xdp", "bans", "add", prefix]).unwrap().ok().unwrap();
    }
    let inside = [scene.lab.farm.v4[0], scene.lab.farm.v6[0]];
    let mut talks = [0, 1].map(|family| Talk::begin(&scene, &gateway, scene.edge()[family], inside[family]));
    let held = [0, 1].map(|family| connections(&scene, family));
    let port = |stream: &TcpStream| stream.local_addr().unwrap().port();
    let ports = [
        [0, 1].map(|family| port(&held[family].0)),
        [0, 1].map(|family| talks[family].from.port()),
        [0, 1].map(|family| port(&held[family].1)),
    ];
    let witness = Witness::start(&scene);
    let mut maker = Maker::start(&scene, ports);
    let (mut passed, mut dropped) = (Vec::new(), Vec::new());
    for (family, cases) in [(4, BOTH), (4, V4), (6, BOTH), (6, V6)] {
        for (name, causes) in cases {
            let before = counted(&gateway);
            let sent = maker.send(family, name);
            assert_eq!(sent.len(), causes.len(), "{name}");
            assert_counted(&gateway, &before, causes, &format!("{name}, IPv{family}"));
            for (frame, cause) in sent.into_iter().zip(*causes) {
                let place = if cause.verdict() == Verdict::Pass { &mut passed } else { &mut dropped };
                place.push((family, *name, frame));
            }
        }
    }
    // What passed was counted before it came to the tap, and what was dropped never does.
    let missing = || passed.iter().find(|case| !witness.seen().contains(&case.2));
    wait::until(PATIENCE, "the witness", || missing().is_none())
        .unwrap_or_else(|error| panic!("{error:#}: {:?} is missing", missing()));
    let seen = witness.seen();
    assert_eq!(dropped.iter().find(|case| seen.contains(&case.2)), None);
    // None of it has done the sessions any harm.
    talks.iter_mut().for_each(Talk::echo);
}
