//! The filter on the interfaces of a gateway between namespaces: what a neighbour sees of it, with the daemon and
//! without, by IPv4 and IPv6.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::netns;
use portcullis_tests::skip::skip;
use portcullis_tests::topology::{Lab, Place};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use crate::object;

/// How long a packet that is dropped is waited for. A dropped SYN has no other sign than silence.
const SILENCE: Duration = Duration::from_millis(1500);
pub(crate) const OPEN: u16 = 443;
pub(crate) const CLOSED: u16 = 8022;

/// A BPF file system of one test.
pub(crate) struct BpfFs(TempDir);

impl BpfFs {
    pub(crate) fn mount() -> Self {
        Self::try_mount().unwrap()
    }

    /// Fails where this process may not mount, as in most containers.
    pub(crate) fn try_mount() -> nix::Result<Self> {
        let dir = tempfile::Builder::new().prefix("pc-bpf-").tempdir().unwrap();
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>)?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // What is pinned goes with the file system; a mount that stays cannot be helped from here.
        umount2(self.0.path(), MntFlags::MNT_DETACH).ok();
    }
}

/// A gateway whose two interfaces are filtered.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pins: BpfFs,
}

impl Scene {
    pub(crate) fn build() -> Option<Self> {
        object()?;
        if let Err(reason) = netns::available() {
            skip(&format!("no network namespaces: {reason}"));
            return None;
        }
        let scene = Self { lab: Lab::in_namespaces().unwrap(), pins: BpfFs::mount() };
        // Links that have just come up answer by IPv6 only after a while: whoever refuses is there.
        let refuses = |ip: &IpAddr| {
            let to = SocketAddr::new(*ip, CLOSED);
            let tried = scene.lab.outside.enter(|| Ok(TcpStream::connect_timeout(&to, SILENCE)));
            tried.unwrap().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        };
        wait::until(PATIENCE, "the links to be up", || scene.edge().iter().all(refuses)).unwrap();
        Some(scene)
    }

    pub(crate) fn pin_dir(&self) -> PathBuf {
        self.pins.path().join("portcullis")
    }

    /// The gateway's addresses at the edge.
    pub(crate) fn edge(&self) -> [IpAddr; 2] {
        [self.lab.gateway.v4[0], self.lab.gateway.v6[0]]
    }

    pub(crate) fn setup(&self, more: &str) -> Setup {
        self.setup_of("stas = [\"local\"]", more)
    }

    /// A gateway whose listener at the edge has these keys, and more keys of `[xdp]`.
    pub(crate) fn setup_of(&self, keys: &str, more: &str) -> Setup {
        let mut setup = Setup::new().unwrap();
        setup.own_authority(IpAddr::from([127, 0, 0, 1])).unwrap();
        let at = self.edge().map(|ip| SocketAddr::new(ip, OPEN));
        setup.listener_at("edge", "gateway", &at, keys).unwrap();
        let pins = self.pin_dir();
        let xdp = format!(
            "[xdp]\npin_dir = \"{}\"\nallow_no_management = true\n\
             interface = [{{ name = \"edge\", role = \"edge\" }}, {{ name = \"farm\", role = \"farm\" }}]\n{more}",
            pins.display()
        );
        setup.merge(&xdp).unwrap();
        setup
    }

    pub(crate) fn start(&self, more: &str) -> Gateway {
        self.setup(more).start_in(&self.lab.gateway).unwrap()
    }

    /// Listens on the closed port at the edge, beside the daemon.
    pub(crate) fn strangers(&self) -> Vec<TcpListener> {
        let listen = |ip| self.lab.gateway.enter(|| Ok(TcpListener::bind(SocketAddr::new(ip, CLOSED))?));
        self.edge().map(|ip| listen(ip).unwrap()).into()
    }

    pub(crate) fn dropped(&self, gateway: &Gateway, interface: &str, reason: &str) -> u64 {
        dropped(gateway, interface, reason)
    }

    /// Whether each of the gateway's edge addresses takes a connection from outside on that port.
    pub(crate) fn reaches(&self, port: u16) -> Vec<bool> {
        self.edge().map(|ip| connects(&self.lab.outside, SocketAddr::new(ip, port))).into()
    }
}

pub(crate) fn connects(from: &Place, to: SocketAddr) -> bool {
    from.enter(|| Ok(TcpStream::connect_timeout(&to, SILENCE).is_ok())).unwrap()
}

pub(crate) fn dropped(gateway: &Gateway, interface: &str, reason: &str) -> u64 {
    let rows = gateway.cli_json(["xdp", "drops"]).unwrap();
    let found =
        rows.as_array().unwrap().iter().find(|row| {
            row["interface"].as_str() == Some(interface) && row["reason"].as_str() == Some(reason)
        });
    found.map_or(0, |row| row["packets"].as_u64().unwrap())
}

pub(crate) fn state(gateway: &Gateway) -> String {
    let status: Value = gateway.cli_json(["status"]).unwrap();
    status["ebpf"].as_str().unwrap().to_owned()
}

#[test]
fn a_listener_of_ours_is_reached_and_another_is_not() {
    let Some(scene) = Scene::build() else { return };
    let strangers = scene.strangers();
    assert_eq!(scene.reaches(CLOSED), [true, true], "before there is a filter");
    let gateway = scene.start("");
    assert_eq!(state(&gateway), "attached (driver)");
    assert_eq!(scene.reaches(OPEN), [true, true]);
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert!(dropped(&gateway, "edge", "no_rule") >= 2);
    let metrics = gateway.metrics().unwrap();
    let labels = ["interface=\"edge\"", "verdict=\"drop\"", "reason=\"no_rule\""];
    assert!(metrics.sum("portcullis_xdp_packets_total", &labels).unwrap() >= 2.0);
    assert_eq!(metrics.sum("portcullis_build_info", &["ebpf=\"attached (driver)\""]), Some(1.0));
    // The farm begins nothing either.
    let inner = scene.lab.gateway.address(1);
    let _inside = scene.lab.gateway.enter(|| Ok(TcpListener::bind((inner, CLOSED))?)).unwrap();
    assert!(!connects(&scene.lab.farm, SocketAddr::new(inner, CLOSED)));
    drop(strangers);
}

#[test]
fn written_rules_open_and_close_ports() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let rules = "rule = [{ role = \"edge\", protocol = \"tcp\", ports = [\"8000-8100\"], action = \"accept\" }, \
                 { role = \"edge\", protocol = \"tcp\", ports = [443], action = \"drop\" }]";
    let gateway = scene.start(rules);
    assert_eq!(scene.reaches(CLOSED), [true, true]);
    assert_eq!(scene.reaches(OPEN), [false, false]);
    assert!(dropped(&gateway, "edge", "rule") >= 2);
}

#[test]
fn the_machines_own_connections_get_their_answers() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("");
    for outside in [scene.lab.outside.v4[0], scene.lab.outside.v6[0]] {
        let server = scene.lab.outside.enter(|| Ok(TcpListener::bind((outside, 7000))?)).unwrap();
        let mut client =
            scene.lab.gateway.enter(|| Ok(TcpStream::connect(SocketAddr::new(outside, 7000))?)).unwrap();
        client.write_all(b"question").unwrap();
        let (mut peer, _) = server.accept().unwrap();
        peer.read_exact(&mut [0; 8]).unwrap();
        peer.write_all(&[7; 100_000]).unwrap();
        drop(peer);
        let mut answer = Vec::new();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.read_to_end(&mut answer).unwrap(), 100_000);
    }
    assert_eq!(dropped(&gateway, "edge", "no_rule"), 0);
}

#[test]
fn answers_by_udp_come_to_clients_and_not_to_servers() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("");
    for (outside, inside) in
        [(scene.lab.outside.v4[0], scene.edge()[0]), (scene.lab.outside.v6[0], scene.edge()[1])]
    {
        let server = scene.lab.outside.enter(|| Ok(UdpSocket::bind((outside, 5300))?)).unwrap();
        let client = scene.lab.gateway.enter(|| Ok(UdpSocket::bind((inside, 0))?)).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        client.send_to(b"question", (outside, 5300)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
        server.send_to(b"answer", from).unwrap();
        assert_eq!(client.recv_from(&mut [0; 64]).unwrap().0, 6);
        let service = scene.lab.gateway.enter(|| Ok(UdpSocket::bind((inside, 5353))?)).unwrap();
        service.set_read_timeout(Some(SILENCE)).unwrap();
        let before = dropped(&gateway, "edge", "no_rule");
        server.send_to(b"unasked", (inside, 5353)).unwrap();
        assert!(service.recv_from(&mut [0; 64]).is_err());
        wait::until(PATIENCE, "the drop to be counted", || dropped(&gateway, "edge", "no_rule") > before)
            .unwrap();
        // Above the ports that the kernel gives to clients a peer makes a client; below them a rule has to let answers in.
        let chosen = scene.lab.gateway.enter(|| Ok(UdpSocket::bind((inside, 65_000))?)).unwrap();
        for (socket, port) in [(&chosen, 65_000), (&service, 5353)] {
            socket.connect((outside, 5300)).unwrap();
            socket.set_read_timeout(Some(if port == 5353 { SILENCE } else { PATIENCE })).unwrap();
            server.send_to(b"answer", (inside, port)).unwrap();
            assert_eq!(socket.recv(&mut [0; 64]).is_ok(), port != 5353, "{port}");
        }
    }
}

/// Sends an echo request and waits for the answer.
fn echo(from: &Place, to: IpAddr) -> bool {
    let (domain, protocol, kind, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = from.enter(|| Ok(Socket::new(domain, Type::RAW, Some(protocol))?)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // The checksum of IPv6 is the kernel's; that of IPv4 is the complement of the words' sum.
    let sum = if kind == 8 { !(0x0800_u16 + 0x1234) } else { 0 };
    let [s0, s1] = sum.to_be_bytes();
    socket.send_to(&[kind, 0, s0, s1, 0x12, 0x34, 0, 0], &SocketAddr::new(to, 0).into()).unwrap();
    let mut bytes = [0; 256];
    loop {
        let Ok(length) = socket.read(&mut bytes) else { return false };
        // A raw socket of IPv4 shows the IP header.
        let message = if kind == 8 { &bytes[20..length] } else { &bytes[..length] };
        if message[0] == reply && message[4..6] == [0x12, 0x34] {
            return true;
        }
    }
}

#[test]
fn neighbours_find_and_ping_the_gateway() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("");
    let outside = scene.lab.outside.namespace().unwrap();
    // Addresses that were learned before the filter are forgotten, so that ARP and ND have to work through it.
    outside.ip(&["neigh", "flush", "all"]).unwrap();
    for address in scene.edge() {
        assert!(echo(&scene.lab.outside, address), "{address}");
    }
    let status = gateway.cli_json(["xdp", "status"]).unwrap();
    for reason in ["arp", "icmp", "neighbour"] {
        let rows = status["packets"].as_array().unwrap();
        assert!(rows.iter().any(|row| row["reason"] == reason && row["verdict"] == "pass"), "{status}");
    }
}

#[test]
fn a_banned_neighbour_is_cut_off_until_the_ban_is_lifted() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("");
    for (prefix, expected) in [("203.0.113.0/24", [false, true]), ("2001:db8:113::10", [false, false])] {
        gateway.cli(["xdp", "bans", "add", prefix, "--for", "1h"]).unwrap().ok().unwrap();
        assert_eq!(scene.reaches(OPEN), expected, "{prefix}");
    }
    assert!(dropped(&gateway, "edge", "banned") >= 2);
    let listed = gateway.cli_json(["xdp", "bans", "list"]).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    // The test that asks before trying knows it too.
    let config = gateway
        .cli(["ports", "test", "203.0.113.10", "203.0.113.1", "tcp", "443", "--role", "edge"])
        .unwrap();
    assert!(config.code == Some(1) && config.stdout.contains("banned"), "{config:?}");
    // Bans outlive the daemon.
    let gateway = gateway.halt().unwrap().start_in(&scene.lab.gateway).unwrap();
    assert_eq!(scene.reaches(OPEN), [false, false]);
    for prefix in ["203.0.113.0/24", "2001:db8:113::10/128"] {
        gateway.cli(["xdp", "bans", "remove", prefix]).unwrap().ok().unwrap();
    }
    assert_eq!(scene.reaches(OPEN), [true, true]);
    assert_eq!(gateway.cli(["xdp", "bans", "remove", "192.0.2.1"]).unwrap().code, Some(1));
    let everybody = gateway.cli(["xdp", "bans", "add", "0.0.0.0/0"]).unwrap();
    assert_eq!(everybody.code, Some(65), "{everybody:?}");
}

#[test]
fn filtering_stays_in_force_without_the_daemon_until_it_is_detached() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = scene.start("");
    let cli = gateway.cli_command().unwrap();
    let program = cli.get_program().to_owned();
    let setup = gateway.halt().unwrap();
    assert_eq!(scene.reaches(CLOSED), [false, false], "the daemon is gone, the filter is not");
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    assert_eq!(state(&gateway), "attached (driver)");
    assert_eq!((scene.reaches(OPEN), scene.reaches(CLOSED)), (vec![true; 2], vec![false; 2]));
    let mut detach = std::process::Command::new(program);
    detach.args(["--json", "xdp", "detach", "--pins"]).arg(scene.pin_dir());
    let output = portcullis_tests::process::run(&mut detach, PATIENCE).unwrap().ok().unwrap();
    let detached: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(detached["detached"], serde_json::json!(["edge", "farm"]));
    assert_eq!(scene.reaches(CLOSED), [true, true]);
    assert_eq!(state(&gateway), "detached");
    let again = gateway.halt().unwrap().start_in(&scene.lab.gateway).unwrap();
    assert_eq!((state(&again).as_str(), scene.reaches(CLOSED)), ("attached (driver)", vec![false; 2]));
}

#[test]
fn the_filter_runs_behind_the_driver_where_that_is_asked_for() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = scene.start("mode = \"generic\"");
    assert_eq!(state(&gateway), "attached (generic)");
    assert_eq!((scene.reaches(OPEN), scene.reaches(CLOSED)), (vec![true; 2], vec![false; 2]));
}

#[test]
fn an_interface_whose_driver_runs_no_programs_is_filtered_behind_it_with_a_warning() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    // Loopback has no driver that runs programs.
    let gateway = scene.start("");
    let mut setup = gateway.halt().unwrap();
    setup.merge("[xdp]\ninterface = [{ name = \"lo\", role = \"mgmt\" }]").unwrap();
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    assert_eq!(state(&gateway), "attached (generic)");
    assert!(gateway.log().contains("the driver cannot run the filter"), "{}", gateway.log());
    let status: Value = gateway.cli_json(["xdp", "status"]).unwrap();
    let modes: Vec<_> = status["interfaces"].as_array().unwrap().iter().map(|row| &row["mode"]).collect();
    assert_eq!(modes, ["driver", "driver", "generic"]);
    assert_eq!((scene.reaches(OPEN), scene.reaches(CLOSED)), (vec![true; 2], vec![false; 2]));
}

#[test]
fn an_interface_that_is_not_there_keeps_the_daemon_from_starting() {
    let Some(scene) = Scene::build() else { return };
    let mut setup = scene.setup("");
    setup.merge("[xdp]\ninterface = [{ name = \"nowhere0\", role = \"mgmt\" }]").unwrap();
    let error = setup.start_in(&scene.lab.gateway).unwrap_err();
    assert!(format!("{error:#}").contains("there is no interface `nowhere0`"), "{error:#}");
}
