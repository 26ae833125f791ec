//! `forward` listeners and VLANs, on the wire: clients and servers on VLANs (802.1Q, and 802.1Q in 802.1ad) of filtered
//! interfaces reach each other through the program, by IPv4 and IPv6, and what has no such way goes by user space.

use std::net::{IpAddr, SocketAddr};

use portcullis_tests::client::Client;
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::netns::{self, End};
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::topology::Place;
use portcullis_tests::wait::{self, PATIENCE};

use crate::forward::{BEHIND, PORT, SILENCE, Server, packets, scene, transfer};
use crate::forward_wire::Witness;
use crate::wire::{Scene, connects, dropped};

/// Words of eight bytes that are sent and come back.
const WORDS: usize = 32 * 1024;
/// Of how many frames a witness is asked.
const SHOWN: usize = 20;

/// A VLAN device at both ends of a link: name at the gateway, name at the other end, type, and the two ends' addresses.
struct Vlan {
    devices: [&'static str; 2],
    kind: &'static str,
    gateway: [&'static str; 2],
    other: [&'static str; 2],
}

const OUTER: Vlan = Vlan {
    devices: ["edge.100", "wan.100"],
    kind: "vlan id 100",
    gateway: ["198.51.100.1", "2001:db8:100::1"],
    other: ["198.51.100.10", "2001:db8:100::10"],
};
const INNER: Vlan = Vlan {
    devices: ["farm.200", "lan.200"],
    kind: "vlan id 200",
    gateway: ["10.88.0.1", "fd88::1"],
    other: ["10.88.0.10", "fd88::10"],
};
const CARRIER: Vlan = Vlan {
    devices: ["farm.300", "lan.300"],
    kind: "vlan proto 802.1ad id 300",
    gateway: ["10.98.0.1", "fd98::1"],
    other: ["10.98.0.10", "fd98::10"],
};
const DOUBLE: Vlan = Vlan {
    devices: ["farm.300.30", "lan.300.30"],
    kind: "vlan id 30",
    gateway: ["10.99.0.1", "fd99::1"],
    other: ["10.99.0.10", "fd99::10"],
};

fn ip(place: &Place, line: &str) -> anyhow::Result<()> {
    place.namespace().unwrap().ip(&line.split(' ').collect::<Vec<_>>())
}

/// Makes both ends; what they lie on is the name up to the last dot.
fn add(gateway: &Place, other: &Place, vlan: &Vlan) -> anyhow::Result<()> {
    for ((place, device), addresses) in
        [gateway, other].into_iter().zip(vlan.devices).zip([vlan.gateway, vlan.other])
    {
        let (lower, _) = device.rsplit_once('.').unwrap();
        ip(place, &format!("link add link {lower} name {device} type {}", vlan.kind))?;
        ip(place, &format!("addr add {}/24 dev {device}", addresses[0]))?;
        ip(place, &format!("addr add {}/64 dev {device} nodad", addresses[1]))?;
        ip(place, &format!("link set dev {device} up"))?;
    }
    Ok(())
}

/// A lab with VLANs on both of the gateway's links.
fn vlans() -> Option<Scene> {
    let scene = scene()?;
    let (outside, gateway, farm) = (&scene.lab.outside, &scene.lab.gateway, &scene.lab.farm);
    if let Err(error) = add(gateway, outside, &OUTER) {
        skip(&format!("this kernel has no VLAN devices: {error:#}"));
        return None;
    }
    for vlan in [&INNER, &CARRIER, &DOUBLE] {
        add(gateway, farm, vlan).unwrap();
    }
    // An interface carries one tag beyond its own length; the second is at the expense of the packet.
    ip(farm, "link set dev lan.300.30 mtu 1496").unwrap();
    Some(scene)
}

fn addresses(of: [&str; 2]) -> [IpAddr; 2] {
    of.map(|address| address.parse().unwrap())
}

/// A listener for each family and server, at the untagged address and that of the VLAN; ports count up from [`PORT`].
fn listen(scene: &Scene, servers: &[[IpAddr; 2]], data_path: &str) -> Setup {
    let mut setup = scene.setup("");
    for (port, server) in (PORT..).zip(servers) {
        for (family, server) in server.iter().enumerate() {
            let server = SocketAddr::new(*server, BEHIND);
            let at = [scene.edge(), addresses(OUTER.gateway)].map(|ips| SocketAddr::new(ips[family], port));
            let here = if data_path == "auto" { &at[..1] } else { &at[..] };
            let keys = format!(
                "server = [{{ address = \"{server}\" }}]\ndata_path = \"{data_path}\"\nhealth = {{ kind = \"none\" }}"
            );
            setup.listener_at(&format!("to-{port}-{family}"), "forward", here, &keys).unwrap();
        }
    }
    setup
}

fn paths(gateway: &Gateway) -> Vec<String> {
    let status = gateway.cli_json(["forward", "status"]).unwrap();
    let paths = status.as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap().to_owned());
    paths.collect()
}

fn open(scene: &Scene, at: SocketAddr) -> Client {
    let mut client = scene.lab.outside.enter(|| Client::plain(at)).unwrap();
    assert_eq!(client.read(1).unwrap(), b"s", "{at}");
    client
}

#[test]
fn tags_are_put_on_changed_and_taken_off_between_vlans_and_the_untagged() {
    let Some(scene) = vlans() else { return };
    let farm = &scene.lab.farm;
    let ways = [[farm.v4[0], farm.v6[0]], addresses(INNER.other), addresses(DOUBLE.other)];
    let inside = [
        [scene.lab.gateway.v4[1], scene.lab.gateway.v6[1]],
        addresses(INNER.gateway),
        addresses(DOUBLE.gateway),
    ];
    let servers = ways.map(|way| way.map(|ip| Server::start(farm, 's', ip)));
    let gateway = listen(&scene, &ways, "xdp").start_in(&scene.lab.gateway).unwrap();
    assert!(paths(&gateway).iter().all(|path| path == "kernel"), "{}", gateway.log());
    let witness = process::find_program("tcpdump").map(|_| Witness::start(farm, "lan"));
    // First as a card does that puts the tag beside the frame and takes it off, then with the tag in the frame.
    for offload in ["on", "off"] {
        let mut ethtool = scene.lab.outside.command("ethtool");
        ethtool.args(["-K", "wan", "txvlan", offload]);
        // Where the tag is never beside the frame there is nothing to change.
        drop(process::run(&mut ethtool, PATIENCE).unwrap());
        for (port, way) in (PORT..).zip(&ways) {
            for at in [scene.edge(), addresses(OUTER.gateway)] {
                // Every server is of one family.
                for at in at.into_iter().take(way.len()) {
                    let (_, seen) = transfer(open(&scene, SocketAddr::new(at, port)), WORDS);
                    assert_eq!(seen, u64::try_from(WORDS * 8).unwrap(), "{at} {port} {offload}");
                }
            }
        }
    }
    for (server, inside) in servers.iter().flatten().zip(inside.iter().flatten()) {
        let peers = server.peers();
        assert!(peers.len() == 4 && peers.iter().all(|peer| peer.ip() == *inside), "{peers:?}");
    }
    assert!(
        packets(&gateway, "edge", "forwarded") > 1_000.0 && packets(&gateway, "farm", "forwarded") > 1_000.0
    );
    assert_eq!(gateway.control().sessions().unwrap().len(), 0, "none of them is a session of the daemon");
    if let Some(witness) = witness {
        for (filter, tags, own) in [
            ("vlan 200 and ", &["vlan 200,"][..], INNER.gateway),
            (
                "vlan 300 and vlan 30 and ",
                &["802.1Q-QinQ (0x88a8)", "vlan 300,", "vlan 30,"][..],
                DOUBLE.gateway,
            ),
            ("", &[][..], ["10.77.0.1", "fd77::1"]),
        ] {
            for own in own {
                let lines = witness.says_first(SHOWN, &format!("{filter}src host {own} and tcp"));
                assert_eq!(lines.len(), SHOWN, "{own}: {lines:#?}");
                let right = |line: &&String| tags.iter().all(|tag| line.contains(tag));
                assert!(lines.iter().all(|line| right(&line)), "{own}: {lines:#?}");
                // And none of these without its tags.
                let bare = if filter.is_empty() {
                    Vec::new()
                } else {
                    witness.says_first(1, &format!("host {own} and tcp"))
                };
                assert!(bare.is_empty(), "{bare:#?}");
            }
        }
    }
}

#[test]
fn who_sends_too_much_for_a_vlan_is_told_on_the_own_vlan() {
    let Some(scene) = vlans() else { return };
    let farm = &scene.lab.farm;
    ip(&scene.lab.gateway, "link set dev farm.200 mtu 1400").unwrap();
    let way = addresses(INNER.other);
    let _servers = way.map(|ip| Server::start(farm, 's', ip));
    let gateway = listen(&scene, &[way], "xdp").start_in(&scene.lab.gateway).unwrap();
    let witness = process::find_program("tcpdump").map(|_| Witness::start(&scene.lab.outside, "wan"));
    for ip in addresses(OUTER.gateway) {
        let before = packets(&gateway, "edge", "forward_too_big");
        let (_, seen) = transfer(open(&scene, SocketAddr::new(ip, PORT)), WORDS);
        assert_eq!(seen, u64::try_from(WORDS * 8).unwrap(), "{ip}");
        assert!(packets(&gateway, "edge", "forward_too_big") > before, "{ip}");
    }
    if let Some(witness) = witness {
        for (kind, told) in [("icmp[0] == 3", "need to frag"), ("icmp6 and ip6[40] == 2", "packet too big")] {
            let lines = witness.says_first(SHOWN, &format!("vlan 100 and {kind}"));
            assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(told)), "{kind}: {lines:#?}");
            let bare = witness.says_first(SHOWN, kind);
            assert!(bare.is_empty(), "{bare:#?}");
        }
    }
}

#[test]
fn a_vlan_that_comes_and_goes_is_followed() {
    let Some(scene) = vlans() else { return };
    let farm = &scene.lab.farm;
    let way = addresses(INNER.other);
    let _servers = way.map(|ip| Server::start(farm, 's', ip));
    let gateway = listen(&scene, &[way], "auto").start_in(&scene.lab.gateway).unwrap();
    assert!(paths(&gateway).iter().all(|path| path == "kernel"), "{}", gateway.log());
    ip(&scene.lab.gateway, "link del dev farm.200").unwrap();
    // Another number, at both ends.
    ip(&scene.lab.gateway, "link add link farm name farm.200 type vlan id 201").unwrap();
    for line in [
        "addr add 10.88.0.1/24 dev farm.200",
        "addr add fd88::1/64 dev farm.200 nodad",
        "link set dev farm.200 up",
    ] {
        ip(&scene.lab.gateway, line).unwrap();
    }
    ip(farm, "link del dev lan.200").unwrap();
    ip(farm, "link add link lan name lan.200 type vlan id 201").unwrap();
    for line in [
        "addr add 10.88.0.10/24 dev lan.200",
        "addr add fd88::10/64 dev lan.200 nodad",
        "link set dev lan.200 up",
    ] {
        ip(farm, line).unwrap();
    }
    for ip in scene.edge() {
        let at = SocketAddr::new(ip, PORT);
        wait::until(PATIENCE, "the new VLAN to be followed", || connects(&scene.lab.outside, at)).unwrap();
        open(&scene, at).echo(b"by another number").unwrap();
    }
    wait::until(PATIENCE, "the kernel to forward", || paths(&gateway).iter().all(|path| path == "kernel"))
        .unwrap();
}

#[test]
fn a_flow_whose_way_is_no_filtered_interface_is_forwarded_by_user_space() {
    let Some(scene) = scene() else { return };
    let (inside, farm) = (&scene.lab.gateway, &scene.lab.farm);
    let way = [farm.v4[0], farm.v6[0]];
    let _servers = way.map(|ip| Server::start(farm, 's', ip));
    // Neighbour discovery answers for addresses of the own link only.
    let own = way[1..].iter().map(|ip| format!("{ip}/128")).collect::<Vec<_>>();
    netns::join(
        End { namespace: inside.namespace().unwrap(), interface: "side", addresses: &[] },
        End { namespace: farm.namespace().unwrap(), interface: "side", addresses: &own },
    )
    .unwrap();
    let by = |device: &str| {
        for (server, own) in way.iter().zip([inside.v4[1], inside.v6[1]]) {
            let bits = if server.is_ipv4() { 32 } else { 128 };
            ip(inside, &format!("route replace {server}/{bits} dev {device} src {own}")).unwrap();
        }
    };
    for data_path in ["auto", "xdp"] {
        by("farm");
        let mut setup = scene.setup("");
        for (family, server) in way.iter().enumerate() {
            let (at, server) =
                (SocketAddr::new(scene.edge()[family], PORT), SocketAddr::new(*server, BEHIND));
            let keys = format!(
                "server = [{{ address = \"{server}\" }}]\ndata_path = \"{data_path}\"\nhealth = {{ kind = \"none\" }}"
            );
            setup.listener_at(&format!("service{family}"), "forward", &[at], &keys).unwrap();
        }
        let gateway = setup.start_in(inside).unwrap();
        assert!(paths(&gateway).iter().all(|path| path == "kernel"), "{}", gateway.log());
        let live: Vec<_> = scene.edge().map(|ip| open(&scene, SocketAddr::new(ip, PORT))).into();
        assert_eq!(gateway.control().sessions().unwrap().len(), 0);
        by("side");
        for ip in scene.edge() {
            let at = SocketAddr::new(ip, PORT);
            if data_path == "auto" {
                open(&scene, at).echo(b"by user space").unwrap();
                assert!(packets(&gateway, "edge", "forward_no_link") >= 1.0);
                continue;
            }
            let before = dropped(&gateway, "edge", "forward_no_link");
            let late =
                scene.lab.outside.enter(|| Ok(std::net::TcpStream::connect_timeout(&at, SILENCE).is_ok()));
            assert!(!late.unwrap(), "{at}");
            assert!(dropped(&gateway, "edge", "forward_no_link") > before);
        }
        // What has begun in the kernel ends there.
        let before = dropped(&gateway, "edge", "forward_no_link");
        let Client { mut sender, .. } = live.into_iter().next().unwrap();
        sender.send(b"lost").unwrap();
        let counted = || dropped(&gateway, "edge", "forward_no_link") > before;
        wait::until(PATIENCE, "the segment to be dropped", counted).unwrap();
    }
    // What leads elsewhere from the beginning is told at the start.
    let gateway = listen(&scene, &[way], "auto").start_in(inside).unwrap();
    assert!(paths(&gateway).iter().all(|path| path == "user"), "{}", gateway.log());
    let status = gateway.cli(["forward", "status"]).unwrap().ok().unwrap().stdout;
    assert!(status.contains("leads by `side`"), "{status}");
}
