//! `forward` listeners in the kernel, between namespaces: clients reach servers of the farm through the program alone,
//! by IPv4 and IPv6, and neither side sees the addresses of the other.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use portcullis_tests::backend::{Checker, Pattern};
use portcullis_tests::client::Client;
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::process::{self, Child};
use portcullis_tests::topology::Place;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value as Json;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::wire::{Scene, dropped};

/// Where clients come.
pub(crate) const PORT: u16 = 8443;
/// Where servers listen.
pub(crate) const BEHIND: u16 = 7443;
/// How long a packet that is dropped is waited for.
pub(crate) const SILENCE: Duration = Duration::from_millis(1500);
/// How long it may take until a flow that is over is noticed.
const UNTIL_SWEPT: Duration = Duration::from_secs(60);

/// A server that says its name, then echoes, and remembers who came.
pub(crate) struct Server {
    name: char,
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Server {
    pub(crate) fn start(place: &Place, name: char, ip: IpAddr) -> Self {
        let address = SocketAddr::new(ip, BEHIND);
        let listener = place.enter(|| Ok(TcpListener::bind(address)?)).unwrap();
        let (peers, accepting) = (Arc::<Mutex<Vec<_>>>::default(), listener.try_clone().unwrap());
        let seen = Arc::clone(&peers);
        thread::spawn(move || {
            while let Ok((stream, peer)) = accepting.accept() {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
                thread::spawn(move || greet(name, stream));
            }
        });
        Self { name, address, listener, peers }
    }

    fn row(&self, weight: u16) -> String {
        format!("{{ name = \"{}\", address = \"{}\", weight = {weight} }}", self.name, self.address)
    }

    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever waits in `accept` gets an error; nobody else minds.
        drop(SockRef::from(&self.listener).shutdown(Shutdown::Both));
    }
}

fn greet(name: char, mut stream: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    if stream.write_all(&[u8::try_from(name).unwrap()]).is_err() {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    // The client may be gone already.
    drop(stream.shutdown(Shutdown::Write));
}

/// A lab whose pairs carry what the program sends.
pub(crate) fn scene() -> Option<Scene> {
    let scene = Scene::build()?;
    if process::find_program("ethtool").is_none() {
        portcullis_tests::skip::skip("the program `ethtool` is missing");
        return None;
    }
    for (place, interface) in [(&scene.lab.outside, "wan"), (&scene.lab.farm, "lan")] {
        // The peer of a pair takes redirected frames only when it polls, which GRO makes it do; and an Ethernet pair
        // leaves checksums to a wire that it has not, unless it is told to make them.
        let mut ethtool = place.command("ethtool");
        ethtool.args(["-K", interface, "gro", "on", "tx", "off"]);
        process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap();
    }
    Some(scene)
}

/// A gateway that forwards in the kernel to these servers: a listener for each family.
pub(crate) fn setup(scene: &Scene, servers: &[(&Server, u16)], more: &str) -> Setup {
    let mut setup = scene.setup("");
    setup.merge("[log]\nformat = \"json\"").unwrap();
    for (name, ip) in [("service4", scene.edge()[0]), ("service6", scene.edge()[1])] {
        let rows: Vec<_> = servers
            .iter()
            .filter(|(server, _)| server.address.is_ipv4() == ip.is_ipv4())
            .map(|(server, weight)| server.row(*weight))
            .collect();
        if !rows.is_empty() {
            let rows = rows.join(", ");
            let health = if more.contains("health") { "" } else { "health = { kind = \"none\" }" };
            let keys = format!("server = [{rows}]\ndata_path = \"xdp\"\n{health}\n{more}");
            setup.listener_at(name, "forward", &[SocketAddr::new(ip, PORT)], &keys).unwrap();
        }
    }
    setup
}

pub(crate) fn start(scene: &Scene, servers: &[(&Server, u16)], more: &str) -> Gateway {
    setup(scene, servers, more).start_in(&scene.lab.gateway).unwrap()
}

/// A new flow and the name of the server that it went to.
pub(crate) fn flow(scene: &Scene, ip: IpAddr) -> (char, Client) {
    let mut client = scene.lab.outside.enter(|| Client::plain(SocketAddr::new(ip, PORT))).unwrap();
    let name = char::from(client.read(1).unwrap()[0]);
    (name, client)
}

fn flow_to(scene: &Scene, ip: IpAddr, server: char) -> Client {
    std::iter::repeat_with(|| flow(scene, ip)).find(|(name, _)| *name == server).unwrap().1
}

/// What the log says of the flows that ended.
fn ended(gateway: &Gateway) -> Vec<Json> {
    let lines = gateway.log();
    let records = lines.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    records.filter(|record| record.to_string().contains("forwarded in the kernel ended")).collect()
}

fn wait_for_ends(gateway: &Gateway, count: usize) -> Vec<Json> {
    let found = || Some(ended(gateway)).filter(|records| records.len() >= count);
    wait::value(UNTIL_SWEPT, "the flows to end", found)
        .unwrap_or_else(|error| panic!("{error}: {}", gateway.log()))
}

fn field(record: &Json, name: &str) -> Json {
    let direct = record.get(name);
    direct.or_else(|| record.get("fields").and_then(|fields| fields.get(name))).cloned().unwrap_or_default()
}

pub(crate) fn packets(gateway: &Gateway, interface: &str, reason: &str) -> f64 {
    let labels = [format!("interface=\"{interface}\""), format!("reason=\"{reason}\"")];
    let labels = [labels[0].as_str(), labels[1].as_str()];
    gateway.metrics().unwrap().sum("portcullis_xdp_packets_total", &labels).unwrap_or(0.0)
}

#[test]
fn a_flow_without_a_place_does_not_begin_until_another_has_ended() {
    let Some(scene) = scene() else { return };
    let (ip, server) = (scene.edge()[0], Server::start(&scene.lab.farm, 'a', scene.lab.farm.v4[0]));
    let mut setup = setup(&scene, &[(&server, 1)], "");
    // One flow has two entries.
    setup.merge("[xdp]\nforwards = 2\n").unwrap();
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    let (_, mut first) = flow(&scene, ip);
    let late = scene.lab.outside.enter(|| Client::plain(SocketAddr::new(ip, PORT)));
    let full = || packets(&gateway, "edge", "forward_full") >= 1.0;
    wait::until(PATIENCE, "the drop to be counted", full).unwrap();
    drop(late);
    first.echo(b"it goes on").unwrap();
    let status = gateway.cli_json(["xdp", "status"]).unwrap();
    let tables = status["maps"].as_array().unwrap();
    let table = tables.iter().find(|table| table["name"] == "forwards").unwrap();
    assert_eq!((table["entries"].as_u64(), table["most"].as_u64()), (Some(2), Some(2)), "{status}");
}

#[test]
fn flows_reach_the_servers_by_their_weights_and_neither_side_sees_the_others_addresses() {
    let Some(scene) = scene() else { return };
    let farm = &scene.lab.farm;
    let servers = [
        (Server::start(farm, 'a', farm.v4[0]), 1),
        (Server::start(farm, 'b', farm.v4[1]), 3),
        (Server::start(farm, 'c', farm.v6[0]), 1),
        (Server::start(farm, 'd', farm.v6[1]), 3),
    ];
    let rows: Vec<_> = servers.iter().map(|(server, weight)| (server, *weight)).collect();
    let gateway = start(&scene, &rows, "");
    let status = gateway.cli_json(["forward", "status"]).unwrap();
    for listener in status.as_array().unwrap() {
        assert_eq!(listener["path"], "kernel", "{status}");
    }
    // Which makes no router of the machine.
    for of in ["ipv4/conf/all", "ipv4/conf/edge", "ipv4/conf/farm", "ipv6/conf/all", "ipv6/conf/edge"] {
        let setting = format!("/proc/sys/net/{of}/forwarding");
        let set = scene.lab.gateway.enter(|| Ok(std::fs::read_to_string(&setting)?)).unwrap();
        assert_eq!(set.trim(), "0", "{setting}");
    }
    for ((ip, inside), names) in scene
        .edge()
        .into_iter()
        .zip([scene.lab.gateway.v4[1], scene.lab.gateway.v6[1]])
        .zip([('a', 'b'), ('c', 'd')])
    {
        let mut counts = BTreeMap::<char, usize>::new();
        let mut live = Vec::new();
        for _ in 0..60 {
            let (name, mut client) = flow(&scene, ip);
            client.echo(b"through the kernel").unwrap();
            *counts.entry(name).or_default() += 1;
            live.push(client);
        }
        assert!(counts[&names.0] >= 3 && counts[&names.1] > counts[&names.0], "{counts:?}");
        for (server, _) in servers.iter().filter(|(server, _)| server.address.is_ipv4() == ip.is_ipv4()) {
            let peers = server.peers();
            assert_eq!(peers.len(), counts[&server.name]);
            assert!(peers.iter().all(|peer| peer.ip() == inside), "{peers:?}");
        }
        let names = [names.0, names.1].map(String::from);
        let flows = || {
            let status = gateway.cli_json(["forward", "status"]).unwrap();
            let rows =
                status.as_array().unwrap().iter().flat_map(|row| row["servers"].as_array().unwrap().clone());
            rows.filter(|row| names.contains(&row["name"].as_str().unwrap().to_owned()))
                .map(|row| row["flows"].as_u64().unwrap())
                .sum::<u64>()
        };
        wait::until(PATIENCE, "the status to show the flows", || flows() == 60).unwrap();
    }
    let page = gateway.cli_json(["forward", "flows", "--listener", "service4", "--limit", "7"]).unwrap();
    assert_eq!((page["matched"].as_u64(), page["flows"].as_array().unwrap().len()), (Some(60), 7));
    let flow = &page["flows"][0];
    assert_eq!((flow["state"].as_str(), flow["bytes_up"].as_u64()), (Some("closing"), Some(18)), "{flow}");
    assert_eq!((flow["bytes_down"].as_u64(), flow["listener"].as_str()), (Some(19), Some("service4")));
    let table = gateway.cli(["forward", "flows"]).unwrap().ok().unwrap().stdout;
    assert!(table.contains("203.0.113.10:") && table.contains("10.77.0.1:"), "{table}");
    assert_eq!(gateway.control().sessions().unwrap().len(), 0, "none of them is a session of the daemon");
    assert!(packets(&gateway, "edge", "forwarded") > 400.0 && packets(&gateway, "farm", "forwarded") > 300.0);
}

#[test]
fn tls_ends_at_the_server_whose_certificate_the_client_sees() {
    let Some(scene) = scene() else { return };
    let farm = &scene.lab.farm;
    // Servers by address only; the program listens there.
    let mut setup = scene.setup("");
    let (crt, key) = (setup.dir().join("main.crt"), setup.dir().join("main.key"));
    let mut programs = Vec::new();
    for (name, ip, server) in [("tls4", scene.edge()[0], farm.v4[2]), ("tls6", scene.edge()[1], farm.v6[2])] {
        let address = SocketAddr::new(server, BEHIND);
        let keys = format!(
            "server = [{{ address = \"{address}\" }}]\ndata_path = \"xdp\"\nhealth = {{ kind = \"none\" }}"
        );
        setup.listener_at(name, "forward", &[SocketAddr::new(ip, PORT)], &keys).unwrap();
        let mut command = farm.command("openssl");
        command.args(["s_server", "-www", "-quiet", "-accept", &address.to_string()]);
        command.arg("-cert").arg(&crt).arg("-key").arg(&key);
        programs.push(Child::spawn(name, &mut command, setup.dir()).unwrap());
        let reaches = || farm.enter(|| Ok(TcpStream::connect(address)?)).is_ok();
        wait::until(PATIENCE, "the server to listen", reaches).unwrap();
    }
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    let ca = gateway.ca_file();
    for ip in scene.edge() {
        let mut client = scene.lab.outside.enter(|| Client::tls(SocketAddr::new(ip, PORT), &ca)).unwrap();
        client.send(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let (page, _) = client.read_to_end().unwrap();
        assert!(String::from_utf8_lossy(&page).contains("s_server"));
        assert!(client.shown_certificate().is_some());
    }
    let handshakes = gateway.metrics().unwrap().sum("portcullis_tls_handshakes_total", &[]);
    assert_eq!(handshakes, Some(0.0), "the gateway itself shook no hands");
}

/// Sends so many bytes, which come back; both are compared.
pub(crate) fn transfer(client: Client, words: usize) -> (Client, u64) {
    let Client { mut sender, mut receiver } = client;
    let sending = thread::spawn(move || {
        let mut pattern = Pattern::new(9);
        for _ in 0..64 {
            sender.send(&pattern.bytes(words / 64)).unwrap();
        }
        sender.finish().unwrap();
        sender
    });
    let mut checker = Checker::new(9);
    loop {
        let bytes = receiver.read_some().unwrap();
        if bytes.is_empty() {
            break;
        }
        checker.check(&bytes).unwrap();
    }
    (Client { sender: sending.join().unwrap(), receiver }, checker.seen)
}

#[test]
fn megabytes_arrive_as_they_were_and_the_records_at_the_end_count_them() {
    const WORDS: usize = 2 * 1024 * 1024;
    let Some(scene) = scene() else { return };
    let farm = &scene.lab.farm;
    let (a, c) = (Server::start(farm, 'a', farm.v4[0]), Server::start(farm, 'c', farm.v6[0]));
    let gateway = start(&scene, &[(&a, 1), (&c, 1)], "");
    let total = u64::try_from(WORDS * 8).unwrap();
    for ip in scene.edge() {
        let (_, client) = flow(&scene, ip);
        assert_eq!(transfer(client, WORDS).1, total);
    }
    for record in wait_for_ends(&gateway, 2) {
        let bytes = ["bytes_up", "bytes_down"].map(|name| field(&record, name).as_u64().unwrap());
        // What was sent twice came in twice.
        assert!((total..total + total / 50).contains(&bytes[0]), "{record}");
        assert!((total + 1..total + total / 50).contains(&bytes[1]), "{record}");
        assert_eq!(field(&record, "reason"), "closed");
        assert!(field(&record, "client").as_str().unwrap().contains("113"), "{record}");
    }
    assert_eq!(dropped(&gateway, "edge", "forward_too_big"), 0);
    let sum = |name: &str, label: &str| gateway.metrics().unwrap().sum(name, &[label]).unwrap();
    assert!((sum("portcullis_forward_kernel_flows_total", "server=\"a\"") - 1.0).abs() < 0.1);
    for direction in ["direction=\"up\"", "direction=\"down\""] {
        let bytes = sum("portcullis_forward_kernel_bytes_total", direction);
        assert!((33_554_432.0..34_000_000.0).contains(&bytes), "{bytes}");
        assert!(sum("portcullis_forward_kernel_packets_total", direction) > 20_000.0);
    }
}

#[test]
fn senders_learn_how_much_the_next_link_takes() {
    let Some(scene) = scene() else { return };
    let farm = &scene.lab.farm;
    let (a, c) = (Server::start(farm, 'a', farm.v4[0]), Server::start(farm, 'c', farm.v6[0]));
    let gateway = start(&scene, &[(&a, 1), (&c, 1)], "");
    // Both ways are narrow behind the gateway, and neither end knows.
    for route in [
        "-4 route add 10.77.0.10/32 dev farm mtu lock 1400",
        "-4 route add 203.0.113.10/32 dev edge mtu lock 1400",
        "-6 route add fd77::10/128 dev farm mtu lock 1400",
        "-6 route add 2001:db8:113::10/128 dev edge mtu lock 1400",
    ] {
        scene.lab.gateway.namespace().unwrap().ip(&route.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let refused = || ["edge", "farm"].map(|interface| dropped(&gateway, interface, "forward_too_big"));
    for ip in scene.edge() {
        let before = refused();
        let (_, client) = flow(&scene, ip);
        assert_eq!(transfer(client, 128 * 1024).1, 1024 * 1024, "{ip}");
        let after = refused();
        for (before, after) in before.into_iter().zip(after) {
            assert!((1..100).contains(&(after - before)), "{ip}: {before} {after}");
        }
    }
}

#[test]
fn flows_live_on_while_servers_are_drained_and_the_daemon_is_away() {
    let Some(scene) = scene() else { return };
    let farm = &scene.lab.farm;
    let (a, b) = (Server::start(farm, 'a', farm.v4[0]), Server::start(farm, 'b', farm.v4[1]));
    let gateway = start(&scene, &[(&a, 1), (&b, 1)], "");
    let ip = scene.edge()[0];
    let mut to_a = flow_to(&scene, ip, 'a');
    gateway.cli(["forward", "drain", "a"]).unwrap().ok().unwrap();
    to_a.echo(b"its server is drained").unwrap();
    let only_b = || (0..20).all(|_| flow(&scene, ip).0 == 'b');
    wait::until(PATIENCE, "new flows to go elsewhere", only_b).unwrap();
    let setup = gateway.halt().unwrap();
    to_a.echo(b"and the daemon is away").unwrap();
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    to_a.echo(b"it is back").unwrap();
    let (name, mut another) = flow(&scene, ip);
    another.echo(&[u8::try_from(name).unwrap()]).unwrap();
    let before = packets(&gateway, "edge", "forwarded");
    to_a.echo(b"and counts").unwrap();
    assert!(packets(&gateway, "edge", "forwarded") > before);
}

#[test]
fn a_flow_ends_by_a_reset_and_by_silence() {
    let Some(scene) = scene() else { return };
    let farm = &scene.lab.farm;
    let a = Server::start(farm, 'a', farm.v4[0]);
    let gateway = start(&scene, &[(&a, 1)], "idle_timeout = \"15s\"");
    let (_, reset) = flow(&scene, scene.edge()[0]);
    let (_, idle) = flow(&scene, scene.edge()[0]);
    reset.reset().unwrap();
    let ends = wait_for_ends(&gateway, 2);
    let reasons: Vec<_> = ends.iter().map(|record| field(record, "reason")).collect();
    assert_eq!(reasons, ["reset", "idle"]);
    drop(idle);
}

/// First segments from as many clients as there are, none of which ever answers.
fn flood(scene: &Scene, count: u32) {
    let outside = &scene.lab.outside;
    let socket =
        outside.enter(|| Ok(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?)).unwrap();
    let IpAddr::V4(service) = scene.edge()[0] else { panic!("not IPv4") };
    let to = SockAddr::from(SocketAddr::new(service.into(), 0));
    let [p0, p1] = PORT.to_be_bytes();
    for number in 0..count {
        let [_, b, c, d] = number.to_be_bytes();
        // The checksum of TCP is wrong: the server does not answer.
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 198, 18 | (b & 1), c, d];
        packet.extend(service.octets());
        packet.extend([
            0xc0 | (d & 0x3f),
            c,
            p0,
            p1,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            0x50,
            2,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        // A queue that is full for a moment drops one.
        drop(socket.send_to(&packet, &to));
    }
}

#[test]
fn a_flood_of_first_segments_cuts_no_flow_that_is_open() {
    let Some(scene) = scene() else { return };
    let farm = &scene.lab.farm;
    let a = Server::start(farm, 'a', farm.v4[0]);
    // The budget of SYNs would keep the flood from the table.
    let mut setup = setup(&scene, &[(&a, 1)], "");
    setup.merge("[xdp.flood]\nsyn_total = \"1000000/s\"").unwrap();
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    let mut live: Vec<_> = (0..20).map(|_| flow(&scene, scene.edge()[0]).1).collect();
    let before = packets(&gateway, "edge", "forwarded");
    flood(&scene, 60_000);
    let came = || packets(&gateway, "edge", "forwarded") - before > 30_000.0;
    wait::until(PATIENCE, "the flood to be seen", came).unwrap();
    for client in &mut live {
        client.echo(b"still there").unwrap();
    }
    flow(&scene, scene.edge()[0]).1.echo(b"and new ones begin").unwrap();
}

#[test]
fn what_cannot_be_forwarded_is_counted_by_its_reason() {
    let Some(scene) = scene() else { return };
    let farm = &scene.lab.farm;
    let (a, c) = (Server::start(farm, 'a', farm.v4[0]), Server::start(farm, 'c', farm.v6[0]));
    let gateway = start(&scene, &[(&a, 1), (&c, 1)], "");
    let connect = |ip: IpAddr, hops: u32| {
        let at = SocketAddr::new(ip, PORT);
        let tried = scene.lab.outside.enter(|| {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
            if ip.is_ipv4() {
                socket.set_ttl_v4(hops)?
            } else {
                socket.set_unicast_hops_v6(hops)?
            };
            Ok(socket.connect_timeout(&at.into(), SILENCE)?)
        });
        tried.is_ok()
    };
    for ip in scene.edge() {
        assert!(connect(ip, 2) && !connect(ip, 1), "{ip}");
    }
    assert!(dropped(&gateway, "edge", "forward_hop_limit") >= 2);
    gateway.cli(["forward", "drain", "a"]).unwrap().ok().unwrap();
    wait::until(PATIENCE, "no server to be left", || !connect(scene.edge()[0], 64)).unwrap();
    assert!(dropped(&gateway, "edge", "forward_no_server") >= 1);
}
