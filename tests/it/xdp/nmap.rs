//! nmap against a filtered gateway: from outside it finds what the listeners open and nothing else, from the farm
//! nothing at all. What is not open does not answer: nothing is ever `closed`, for that takes a reset.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::topology::Place;

use crate::wire::{CLOSED, OPEN, Scene};

/// How long one scan may take; nmap itself gives up earlier.
const LIMIT: Duration = Duration::from_secs(90);
/// Bounded in time and number also where every probe stays without an answer.
const BOUNDS: [&str; 9] = [
    "-n",
    "-Pn",
    "--max-retries=2",
    "--initial-rtt-timeout=500ms",
    "--max-rtt-timeout=1s",
    "--host-timeout=60s",
    "--reason",
    "-oX",
    "-",
];
const TCP: [u16; 7] = [22, 80, OPEN, 1494, 2598, 8000, CLOSED];
const UDP: [u16; 4] = [53, 123, OPEN, 5353];
/// Where others than the daemon listen on the gateway.
const STRANGERS_TCP: [u16; 4] = [22, 1494, 2598, CLOSED];
const STRANGERS_UDP: [u16; 2] = [53, 5353];

struct Strangers {
    _tcp: Vec<TcpListener>,
    _udp: Vec<UdpSocket>,
}

impl Strangers {
    /// On every address of the gateway, of both interfaces.
    fn listen(scene: &Scene) -> Self {
        let gateway = &scene.lab.gateway;
        let addresses: Vec<IpAddr> = gateway.v4.iter().chain(&gateway.v6).copied().collect();
        let at = |ports: &[u16]| -> Vec<SocketAddr> {
            let on = |ip: &IpAddr| ports.iter().map(|port| SocketAddr::new(*ip, *port)).collect::<Vec<_>>();
            addresses.iter().flat_map(on).collect()
        };
        let (tcp, udp) = (at(&STRANGERS_TCP), at(&STRANGERS_UDP));
        let bind = || {
            let tcp = tcp.iter().map(TcpListener::bind).collect::<Result<_, _>>()?;
            let udp = udp.iter().map(UdpSocket::bind).collect::<Result<_, _>>()?;
            Ok(Self { _tcp: tcp, _udp: udp })
        };
        gateway.enter(bind).unwrap()
    }
}

/// State and reason of each port, as nmap tells them.
type Ports = BTreeMap<(String, u16), (String, String)>;

fn scan(from: &Place, to: IpAddr, kind: &[&str]) -> Ports {
    let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let ports =
        if kind.contains(&"-sU") { format!("-pU:{}", list(&UDP)) } else { format!("-pT:{}", list(&TCP)) };
    let mut command = from.command(process::find_program("nmap").unwrap());
    command.args(kind).args(BOUNDS).arg(&ports);
    if to.is_ipv6() {
        command.arg("-6");
    }
    let output = process::run(command.arg(to.to_string()), LIMIT).unwrap().ok().unwrap();
    let found = parse(&output.stdout);
    let expected = if kind.contains(&"-sU") { UDP.len() } else { TCP.len() };
    assert_eq!(found.len(), expected, "{kind:?} {to}: {}", output.stdout);
    found
}

/// Of `<port protocol="tcp" portid="443"><state state="open" reason="syn-ack" …`. With so few ports nmap lists each.
fn parse(xml: &str) -> Ports {
    let value = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!(" {name}=\"")).unwrap_or_else(|| panic!("{name} in {text}"));
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let ports = xml.split("<port ").skip(1).map(|port| format!(" {port}"));
    let ports = ports.map(|port| {
        let key = (value(&port, "protocol"), value(&port, "portid").parse().unwrap());
        (key, (value(&port, "state"), value(&port, "reason")))
    });
    ports.collect()
}

/// Nothing but the ports of `open` is open, and the rest is in this state because nothing came back.
fn assert_only(found: &Ports, open: &[u16], silent: &str, what: &str) {
    for ((protocol, port), (state, reason)) in found {
        let expected = if open.contains(port) { ("open", "syn-ack") } else { (silent, "no-response") };
        assert_eq!((state.as_str(), reason.as_str()), expected, "{what}: {protocol} {port}, {found:?}");
    }
}

fn missing() -> bool {
    let missing = process::find_program("nmap").is_none();
    if missing {
        skip("no nmap on this machine");
    }
    missing
}

/// A kind of scan: its name, its options, what it finds open, and what it calls a port that does not answer.
type Kind = (&'static str, &'static [&'static str], &'static [u16], &'static str);

const KINDS: &[Kind] = &[
    ("SYN", &["-sS"], &[OPEN], "filtered"),
    ("connect", &["-sT"], &[OPEN], "filtered"),
    // What is no connection's is nobody's, also at an open port.
    ("ACK", &["-sA"], &[], "filtered"),
    ("FIN", &["-sF"], &[], "open|filtered"),
    ("NULL", &["-sN"], &[], "open|filtered"),
    ("Xmas", &["-sX"], &[], "open|filtered"),
    ("window", &["-sW"], &[], "filtered"),
    ("UDP", &["-sU"], &[], "open|filtered"),
    // Rules look at destinations: being a name server or a web server is no way in.
    ("SYN from port 53", &["-sS", "-g53"], &[OPEN], "filtered"),
    ("SYN from port 443", &["-sS", "-g443"], &[OPEN], "filtered"),
    ("UDP from port 53", &["-sU", "-g53"], &[], "open|filtered"),
];

/// IPv4 only: a TCP header in pieces of eight bytes, RFC 1858.
const TINY: Kind = ("tiny fragments", &["-sS", "-f"], &[], "filtered");

/// Every kind of scan of an address at once: they spend their time waiting for answers that do not come.
fn scan_all(from: &Place, to: &[IpAddr], expected: impl Fn(Kind) -> &'static [u16]) {
    for ip in to {
        thread::scope(|scope| {
            let kinds = KINDS.iter().chain(ip.is_ipv4().then_some(&TINY));
            for kind in kinds {
                let (name, options, _, silent) = *kind;
                let open = expected(*kind);
                scope.spawn(move || {
                    let found = scan(from, *ip, options);
                    assert_only(&found, open, silent, &format!("{name} scan of {ip}"));
                });
            }
        });
    }
}

#[test]
fn from_outside_nmap_finds_the_listeners_ports_and_no_other() {
    if missing() {
        return;
    }
    let Some(scene) = Scene::build() else { return };
    let _strangers = Strangers::listen(&scene);
    // Without the filter nmap finds them, and is told which ports are closed.
    let [v4, _] = scene.edge();
    let before = scan(&scene.lab.outside, v4, &["-sS"]);
    for ((_, port), (state, _)) in &before {
        let expected = if STRANGERS_TCP.contains(port) { "open" } else { "closed" };
        assert_eq!(state, expected, "{port} before there is a filter");
    }
    let gateway = scene.start("");
    scan_all(&scene.lab.outside, &scene.edge(), |kind| kind.2);
    for reason in ["no_rule", "no_flow", "tcp_flags", "fragment_tiny"] {
        assert!(scene.dropped(&gateway, "edge", reason) > 0, "{reason}");
    }
    // The farm is not to be had through the edge. The open port is one of the role, whatever the address: there the
    // machine itself says that nobody listens.
    let outside = scene.lab.outside.namespace().unwrap();
    outside.route("10.77.0.0/24", "203.0.113.1").unwrap();
    outside.route("fd77::/64", "2001:db8:113::1").unwrap();
    let farm =
        [&scene.lab.gateway.v4[1], &scene.lab.gateway.v6[1], &scene.lab.farm.v4[0], &scene.lab.farm.v6[0]];
    for ip in farm {
        for ((_, port), (state, _)) in scan(&scene.lab.outside, *ip, &["-sS"]) {
            assert!(state == "filtered" || (state == "closed" && port == OPEN), "{ip} {port}: {state}");
        }
    }
    // And the daemon is still there for who comes by the open port.
    assert_eq!(scene.reaches(OPEN), [true, true]);
}

#[test]
fn from_the_farm_nmap_finds_nothing() {
    if missing() {
        return;
    }
    let Some(scene) = Scene::build() else { return };
    let _strangers = Strangers::listen(&scene);
    let farm = &scene.lab.farm;
    farm.namespace().unwrap().route("203.0.113.0/24", "10.77.0.1").unwrap();
    farm.namespace().unwrap().route("2001:db8:113::/64", "fd77::1").unwrap();
    let gateway = scene.start("");
    let inner = [scene.lab.gateway.v4[1], scene.lab.gateway.v6[1]];
    scan_all(farm, &inner, |_| &[]);
    // The addresses of the edge, with its open port, are nearer than they should be.
    for ip in scene.edge() {
        for (kind, silent) in [("-sS", "filtered"), ("-sU", "open|filtered")] {
            assert_only(&scan(farm, ip, &[kind]), &[], silent, &format!("{kind} of {ip} from the farm"));
        }
    }
    // Nor is there a way through to the outside.
    for ip in [scene.lab.outside.v4[0], scene.lab.outside.v6[0]] {
        assert_only(&scan(farm, ip, &["-sS"]), &[], "filtered", &format!("{ip} behind the gateway"));
    }
    assert!(scene.dropped(&gateway, "farm", "no_rule") > 0);
}

#[test]
fn a_written_rule_is_what_nmap_sees() {
    if missing() {
        return;
    }
    let Some(scene) = Scene::build() else { return };
    let _strangers = Strangers::listen(&scene);
    let rules = "rule = [{ role = \"edge\", protocol = \"tcp\", ports = [\"8000-8100\"], action = \"accept\" }, \
                 { role = \"edge\", protocol = \"tcp\", ports = [443], action = \"drop\" }]";
    let _gateway = scene.start(rules);
    for ip in scene.edge() {
        let found = scan(&scene.lab.outside, ip, &["-sS"]);
        let state = |port| found[&("tcp".to_owned(), port)].0.as_str();
        // Accepted and nobody there: the machine itself says so.
        assert_eq!((state(CLOSED), state(8000), state(OPEN)), ("open", "closed", "filtered"));
        assert_eq!((state(22), state(80)), ("filtered", "filtered"));
    }
}

#[test]
fn what_nmap_writes_is_read() {
    let xml = "<ports><port protocol=\"tcp\" portid=\"443\"><state state=\"open\" reason=\"syn-ack\" \
               reason_ttl=\"64\"/></port>\n<port protocol=\"udp\" portid=\"53\"><state state=\"open|filtered\" \
               reason=\"no-response\" reason_ttl=\"0\"/></port>";
    let found = parse(xml);
    assert_eq!(found[&("tcp".to_owned(), 443)], ("open".to_owned(), "syn-ack".to_owned()));
    assert_eq!(found[&("udp".to_owned(), 53)], ("open|filtered".to_owned(), "no-response".to_owned()));
}
