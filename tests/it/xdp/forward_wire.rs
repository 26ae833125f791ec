//! `forward` listeners on the wire: what cannot begin there, what outlives a resized table, and how packets leave as an
//! independent program sees them.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;

use portcullis_tests::process::{self, Child};
use portcullis_tests::skip::skip;
use portcullis_tests::topology::Place;
use portcullis_tests::wait::{self, PATIENCE};
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use crate::flood::{SYN, spoofed};
use crate::forward::{BEHIND, PORT, SILENCE, Server, flow, scene, setup, start};
use crate::wire::{Scene, dropped};

/// A server of each family in the farm.
fn servers(scene: &Scene) -> [Server; 2] {
    let farm = &scene.lab.farm;
    [Server::start(farm, 'a', farm.v4[0]), Server::start(farm, 'c', farm.v6[0])]
}

#[test]
fn a_flow_without_a_port_towards_its_server_does_not_begin() {
    let Some(scene) = scene() else { return };
    let [a, c] = servers(&scene);
    let gateway = start(&scene, &[(&a, 1), (&c, 1)], "source_ports = \"20000-20000\"");
    for ip in scene.edge() {
        let before = dropped(&gateway, "edge", "forward_no_port");
        let (_, mut first) = flow(&scene, ip);
        let at = SocketAddr::new(ip, PORT);
        let late = scene.lab.outside.enter(|| Ok(TcpStream::connect_timeout(&at, SILENCE).is_ok()));
        assert!(!late.unwrap(), "{ip}");
        assert!(dropped(&gateway, "edge", "forward_no_port") > before, "{ip}");
        first.echo(b"it goes on").unwrap();
    }
    let peers = [&a, &c].map(Server::peers);
    assert!(peers.iter().all(|peers| peers.len() == 1 && peers[0].port() == 20_000), "{peers:?}");
}

#[test]
fn an_answer_to_a_client_that_nobody_knows_is_dropped_as_without_a_route() {
    let Some(scene) = scene() else { return };
    let [a, c] = servers(&scene);
    let gateway = start(&scene, &[(&a, 1), (&c, 1)], "");
    for ip in scene.edge() {
        let before = dropped(&gateway, "farm", "forward_no_route");
        // The server answers, and there is no way to who seems to have asked.
        let send = || {
            let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255)))?;
            let packet = spoofed(SocketAddr::new(ip, PORT), SYN, [9, 8, 7, 6]);
            Ok(socket.send_to(&packet, &SocketAddr::new(ip, 0).into())?)
        };
        scene.lab.outside.enter(send).unwrap();
        let counted = || dropped(&gateway, "farm", "forward_no_route") > before;
        wait::until(PATIENCE, "the answer to be dropped", counted).unwrap();
        flow(&scene, ip).1.echo(b"others are served").unwrap();
    }
}

#[test]
fn open_flows_move_to_a_table_of_another_size() {
    let Some(scene) = scene() else { return };
    let [a, c] = servers(&scene);
    let mut setup = setup(&scene, &[(&a, 1), (&c, 1)], "");
    setup.merge("[xdp]\nforwards = 64").unwrap();
    let mut gateway = setup.start_in(&scene.lab.gateway).unwrap();
    let mut clients = scene.edge().map(|ip| flow(&scene, ip).1);
    for (size, turn) in [(1024, 1), (16, 2)] {
        clients.iter_mut().for_each(|client| client.echo(b"in the old table").unwrap());
        let mut setup = gateway.halt().unwrap();
        setup.merge(&format!("[xdp]\nforwards = {size}")).unwrap();
        gateway = setup.start_in(&scene.lab.gateway).unwrap();
        clients.iter_mut().for_each(|client| client.echo(b"in the new table").unwrap());
        let status = gateway.cli_json(["xdp", "status"]).unwrap();
        let tables = status["maps"].as_array().unwrap();
        let table = tables.iter().find(|table| table["name"] == "forwards").unwrap();
        assert_eq!((table["entries"].as_u64(), table["most"].as_u64()), (Some(4), Some(size)), "{status}");
        // What they carried came along.
        let page = gateway.cli_json(["forward", "flows"]).unwrap();
        let flows = page["flows"].as_array().unwrap();
        assert_eq!(flows.len(), 2, "{page}");
        let bytes = flows.iter().map(|flow| flow["bytes_up"].as_u64().unwrap());
        assert!(bytes.into_iter().all(|bytes| bytes == turn * 32), "{page}");
    }
}

/// tcpdump on one interface, into a file that it is asked about afterwards.
pub(crate) struct Witness {
    dir: TempDir,
    child: Child,
}

impl Witness {
    pub(crate) fn start(place: &Place, interface: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command: Command = place.command(process::find_program("tcpdump").unwrap());
        command.args(["-i", interface, "-n", "-U", "--immediate-mode", "-Z", "root", "-w"]);
        let mut child = Child::spawn("tcpdump", command.arg(dir.path().join("seen")), dir.path()).unwrap();
        child.wait_for_log("listening on", PATIENCE).unwrap();
        Self { dir, child }
    }

    /// What it says of the frames for which a filter of its own holds, one line each.
    pub(crate) fn says(&self, filter: &str) -> Vec<String> {
        self.says_first(usize::MAX >> 33, filter)
    }

    /// The same of so many frames at most.
    pub(crate) fn says_first(&self, most: usize, filter: &str) -> Vec<String> {
        let mut command = Command::new("tcpdump");
        command
            .args(["-n", "-e", "-vv", "-c", &most.to_string(), "-r"])
            .arg(self.dir.path().join("seen"))
            .arg(filter);
        let text = process::run(&mut command, PATIENCE).unwrap().ok().unwrap().stdout;
        // Of IPv4 the addresses stand in a second line, indented.
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            match lines.last_mut().filter(|_| line.starts_with([' ', '\t'])) {
                Some(last) => last.push_str(line),
                None => lines.push(line.to_owned()),
            }
        }
        lines
    }

    /// Waits until both ends of a connection have said their last.
    fn wait_for_end(&self, filter: &str) {
        let ends = || self.says(filter).iter().filter(|line| line.contains("Flags [F")).count();
        wait::until(PATIENCE, "the end of the connection", || ends() >= 2)
            .unwrap_or_else(|error| panic!("{filter}: {error:#}: {}", self.child.log()));
    }
}

fn address_of(place: &Place, interface: &str) -> String {
    let path = format!("/sys/class/net/{interface}/address");
    let read = place.command("cat").arg(path).output().unwrap();
    String::from_utf8(read.stdout).unwrap().trim().to_owned()
}

/// A flow on one link, as a filter of tcpdump: who is at either end, by link address, address and ports.
fn between(one: (&str, IpAddr, &str), other: (&str, IpAddr, &str)) -> String {
    let towards = |from: (&str, IpAddr, &str), to: (&str, IpAddr, &str)| {
        let link = format!("ether src {} and ether dst {}", from.0, to.0);
        let net = format!("src host {} and dst host {}", from.1, to.1);
        format!("({link} and {net} and src portrange {} and dst portrange {})", from.2, to.2)
    };
    format!("tcp and ({} or {})", towards(one, other), towards(other, one))
}

#[test]
fn a_witness_on_either_link_sees_its_own_half_of_a_flow_and_the_gateway_sees_none() {
    if process::find_program("tcpdump").is_none() {
        return skip("no tcpdump on this machine");
    }
    let Some(scene) = scene() else { return };
    let [a, c] = servers(&scene);
    let (outside, inside, farm) = (&scene.lab.outside, &scene.lab.gateway, &scene.lab.farm);
    let links = [(outside, "wan"), (inside, "edge"), (inside, "farm"), (farm, "lan")];
    let [wan, edge, inner, lan] = links.map(|(place, interface)| address_of(place, interface));
    let ports = "21000-21999";
    let gateway = start(&scene, &[(&a, 1), (&c, 1)], &format!("source_ports = \"{ports}\""));
    let [at_wan, at_edge, at_inner, at_lan] =
        links.map(|(place, interface)| Witness::start(place, interface));
    let (service, behind) = (format!("{PORT}-{PORT}"), format!("{BEHIND}-{BEHIND}"));
    for (family, server) in [&a, &c].into_iter().enumerate() {
        let ip = scene.edge()[family];
        let (client_ip, our_ip) = match ip {
            IpAddr::V4(_) => (outside.v4[0], inside.v4[1]),
            IpAddr::V6(_) => (outside.v6[0], inside.v6[1]),
        };
        let (_, mut client) = flow(&scene, ip);
        for _ in 0..5 {
            // One segment at a time: the receiving end joins what comes together, with a checksum that nobody sent.
            client.echo(&[7; 1_000]).unwrap();
        }
        let own = client.tcp().local_addr().unwrap().port();
        client.sender.finish().unwrap();
        client.read_to_end().unwrap();
        let clients = format!("{own}-{own}");
        let outer = between((&wan, client_ip, &clients), (&edge, ip, &service));
        let inner = between((&inner, our_ip, ports), (&lan, server.address.ip(), &behind));
        let version = if ip.is_ipv4() { "ip" } else { "ip6" };
        for (witness, half) in [(&at_wan, outer), (&at_lan, inner)] {
            let of_family = format!("{version} and tcp");
            witness.wait_for_end(&of_family);
            let (all, right) = (witness.says(&of_family), witness.says(&half));
            assert!(right.len() >= 6 && all == right, "{half}: {all:#?}");
            assert!(all.iter().all(|line| line.contains("(correct)")), "{all:#?}");
        }
    }
    // To the gateway itself they were no packets.
    for witness in [&at_edge, &at_inner] {
        assert_eq!(witness.says(&format!("tcp port {PORT} or tcp port {BEHIND}")), [""; 0]);
    }
    drop(gateway);
}
