//! VLANs with roles of their own, on the wire: a machine with one card, whose Internet, farm and administrators are VLANs
//! of it. The daemon is told their names and finds the card, its tags and what becomes of them by itself.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::topology::Place;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use crate::policy::Cgroup;
use crate::wire::{OPEN, Scene, connects, dropped};

const SSH: u16 = 22;
/// A UDP port that is open at the edge.
const ASKED: u16 = 5000;
/// Name, kind, and the number of the networks of the two ends.
const VLANS: [(&str, &str, u8); 5] = [
    ("10", "vlan id 10", 10),
    ("20", "vlan id 20", 20),
    ("300", "vlan proto 802.1ad id 300", 30),
    ("300.30", "vlan id 30", 31),
    // Without a role.
    ("40", "vlan id 40", 40),
];

fn ip(place: &Place, line: &str) -> anyhow::Result<()> {
    place.namespace().unwrap().ip(&line.split(' ').collect::<Vec<_>>())
}

fn at(network: u8, host: u8, port: u16) -> [SocketAddr; 2] {
    let v4 = IpAddr::from([10, 66, network, host]);
    let v6 = IpAddr::from([0xfd66, u16::from(network), 0, 0, 0, 0, 0, u16::from(host)]);
    [v4, v6].map(|ip| SocketAddr::new(ip, port))
}

/// Makes a VLAN at one end.
fn add(place: &Place, card: &str, (name, kind, network): (&str, &str, u8), host: u8) -> anyhow::Result<()> {
    let device = format!("{card}.{name}");
    let (lower, _) = device.rsplit_once('.').unwrap();
    ip(place, &format!("link add link {lower} name {device} type {kind}"))?;
    let [v4, v6] = at(network, host, 0).map(|address| address.ip());
    ip(place, &format!("addr add {v4}/24 dev {device}"))?;
    ip(place, &format!("addr add {v6}/64 dev {device} nodad"))?;
    ip(place, &format!("link set dev {device} up"))
}

/// The card is the one at the edge; the neighbour leaves tags in frames, as every wire has them.
fn vlans() -> Option<Scene> {
    let scene = Scene::build()?;
    for vlan in VLANS {
        for (place, card, host) in [(&scene.lab.gateway, "edge", 1), (&scene.lab.outside, "wan", 10)] {
            if let Err(error) = add(place, card, vlan, host) {
                skip(&format!("this kernel has no VLAN devices: {error:#}"));
                return None;
            }
        }
    }
    let mut ethtool = scene.lab.outside.command("ethtool");
    ethtool.args(["-K", "wan", "txvlan", "off", "tx-vlan-stag-hw-insert", "off"]);
    process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap();
    Some(scene)
}

/// With roles for the VLANs 10 (edge), 20 (farm) and 30 in 300 (mgmt); `own` is an entry for the card itself, or nothing.
fn start(scene: &Scene, own: &str, more: &str) -> Gateway {
    let mut setup = Setup::new().unwrap();
    setup.own_authority(IpAddr::from([127, 0, 0, 1])).unwrap();
    let vlans = [10, 20, 30, 31, 40].into_iter().flat_map(|network| at(network, 1, OPEN));
    let all: Vec<_> = scene.edge().map(|ip| SocketAddr::new(ip, OPEN)).into_iter().chain(vlans).collect();
    setup.listener_at("all", "gateway", &all, "stas = [\"local\"]").unwrap();
    let xdp = format!(
        "[xdp]\npin_dir = \"{}\"\n{more}\n\
         interface = [{own}{{ name = \"edge.10\", role = \"edge\" }}, {{ name = \"edge.20\", role = \"farm\" }}, \
         {{ name = \"edge.300.30\", role = \"mgmt\" }}]\n\
         rule = [{{ role = \"mgmt\", protocol = \"tcp\", ports = [{SSH}], action = \"accept\" }}, \
         {{ role = \"edge\", protocol = \"udp\", ports = [{ASKED}], action = \"accept\" }}]\n",
        scene.pin_dir().display()
    );
    setup.merge(&xdp).unwrap();
    setup.start_in(&scene.lab.gateway).unwrap()
}

fn reaches(scene: &Scene, network: u8, port: u16) -> [bool; 2] {
    at(network, 1, port).map(|to| connects(&scene.lab.outside, to))
}

/// Of `xdp status`: the row of an interface.
fn row(gateway: &Gateway, name: &str) -> Value {
    let status = gateway.cli_json(["xdp", "status"]).unwrap();
    let rows = status["interfaces"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).cloned().unwrap_or(Value::Null)
}

fn listen(scene: &Scene, networks: &[u8], port: u16) -> Vec<TcpListener> {
    let all = networks.iter().flat_map(|network| at(*network, 1, port));
    scene.lab.gateway.enter(|| all.map(|at| Ok(TcpListener::bind(at)?)).collect()).unwrap()
}

/// Whether a feature of the card at the edge begins like that.
fn feature(place: &Place, name: &str, state: &str) -> bool {
    let mut ethtool = place.command("ethtool");
    ethtool.args(["-k", "edge"]);
    let features = process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap().stdout;
    features.contains(&format!("{name}: {state}"))
}

#[test]
fn each_vlan_of_a_card_is_judged_by_its_own_role_and_counted_under_its_name() {
    let Some(scene) = vlans() else { return };
    let _ssh = listen(&scene, &[10, 20, 31, 40], SSH);
    let gateway = start(&scene, "", "");
    assert_eq!(reaches(&scene, 10, OPEN), [true, true], "{}", gateway.log());
    for (network, device, open, ssh) in
        [(10, "edge.10", true, false), (20, "edge.20", true, false), (31, "edge.300.30", true, true)]
    {
        // A listener's port is open where its address is.
        assert_eq!(reaches(&scene, network, OPEN), [open; 2], "{device}");
        assert_eq!(reaches(&scene, network, SSH), [ssh; 2], "{device}");
        assert_eq!(dropped(&gateway, device, "no_rule") >= 2, !ssh, "{device}");
        let found = row(&gateway, device);
        assert!(found["vlan_of"] == "edge" && found["attached"] == true, "{found}");
    }
    assert_eq!(row(&gateway, "edge.300.30")["vlan"], serde_json::json!([300, 30]));
    // What has no role comes in by nothing: an unknown tag, the outer tag alone, and no tag.
    let unknown = dropped(&gateway, "edge", "vlan_unknown");
    assert_eq!((reaches(&scene, 40, OPEN), reaches(&scene, 30, OPEN)), ([false; 2], [false; 2]));
    assert!(dropped(&gateway, "edge", "vlan_unknown") >= unknown + 4);
    assert_eq!(scene.reaches(OPEN), [false, false]);
    assert!(dropped(&gateway, "edge", "untagged") >= 2);
    assert_eq!(row(&gateway, "edge")["role"], "none");
    for part in ["edge edge.40 edge.300", "dropped"] {
        let told = gateway.log();
        assert!(part.split(' ').all(|word| told.contains(word)), "{part}: {told}");
    }
    let metrics = gateway.metrics().unwrap();
    let labels = ["interface=\"edge.10\"", "verdict=\"drop\"", "reason=\"no_rule\""];
    assert!(metrics.sum("portcullis_xdp_packets_total", &labels).unwrap() >= 2.0);
    assert_eq!(metrics.sum("portcullis_xdp_attached", &["interface=\"edge.20\""]), Some(1.0));
    // What the command says of packets agrees.
    for (network, words) in
        [(10, "pass in by edge"), (40, "drop in: tags of a VLAN"), (30, "drop in: tags of a VLAN")]
    {
        let [[from, _], [to, _]] = [at(network, 10, 0), at(network, 1, 0)];
        let arguments = ["ports", "test", &from.ip().to_string(), &to.ip().to_string(), "tcp", "443"];
        let told = scene.lab.gateway.enter(|| gateway.cli(arguments)).unwrap();
        assert!(told.stdout.contains(words), "{told:?}");
    }
}

#[test]
fn what_has_no_tag_is_judged_by_the_card_s_own_role_where_it_has_one() {
    let Some(scene) = vlans() else { return };
    let _ssh = listen(&scene, &[20], SSH);
    let _own = scene
        .edge()
        .map(|ip| scene.lab.gateway.enter(|| Ok(TcpListener::bind(SocketAddr::new(ip, SSH))?)).unwrap());
    let gateway = start(&scene, "{ name = \"edge\", role = \"mgmt\" }, ", "");
    assert_eq!(scene.reaches(SSH), [true, true], "{}", gateway.log());
    assert_eq!((reaches(&scene, 20, OPEN), reaches(&scene, 20, SSH)), ([true; 2], [false; 2]));
    assert_eq!(reaches(&scene, 40, OPEN), [false; 2]);
    assert!(dropped(&gateway, "edge", "vlan_unknown") >= 2 && dropped(&gateway, "edge.20", "no_rule") >= 2);
    assert_eq!(dropped(&gateway, "edge", "untagged"), 0);
}

#[test]
fn a_vlan_that_gets_another_number_is_followed_and_a_card_that_takes_tags_off_is_told_again() {
    let Some(scene) = vlans() else { return };
    let gateway = start(&scene, "", "");
    let condition = |wanted: &str| {
        let found = || row(&gateway, "edge.10")["condition"] == wanted;
        wait::until(PATIENCE, wanted, found).unwrap_or_else(|error| panic!("{error:#}: {}", gateway.log()));
    };
    let (inside, outside) = (&scene.lab.gateway, &scene.lab.outside);
    ip(inside, "link del dev edge.10").unwrap();
    condition("gone");
    assert_eq!(row(&gateway, "edge.10")["attached"], false);
    let unknown = dropped(&gateway, "edge", "vlan_unknown");
    assert_eq!(reaches(&scene, 10, OPEN), [false; 2]);
    // A card that filters VLANs itself lets frames of one that the machine no longer has not even come.
    let counted = dropped(&gateway, "edge", "vlan_unknown") > unknown;
    assert_ne!(counted, feature(inside, "rx-vlan-filter", "on"), "{}", gateway.log());
    ip(outside, "link del dev wan.10").unwrap();
    let moved = ("10", "vlan id 11", 10);
    add(inside, "edge", moved, 1).unwrap();
    add(outside, "wan", moved, 10).unwrap();
    condition("attached");
    assert_eq!(row(&gateway, "edge.10")["vlan"], serde_json::json!([11]));
    wait::until(PATIENCE, "the VLAN to be reached", || reaches(&scene, 10, OPEN) == [true; 2]).unwrap();
    // Under another name it stays what it is.
    for line in
        ["link set dev edge.10 down", "link set dev edge.10 name internet", "link set dev internet up"]
    {
        ip(inside, line).unwrap();
    }
    condition("renamed to internet");
    assert_eq!(row(&gateway, "edge.10")["attached"], true);
    if feature(inside, "rx-vlan-offload", "off [fixed]") {
        // Nobody can tell this card otherwise.
        return;
    }
    let mut ethtool = inside.command("ethtool");
    ethtool.args(["-K", "edge", "rxvlan", "on"]);
    process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap();
    let told = || gateway.log().contains("it leaves them again");
    wait::until(PATIENCE, "the card to be told", told).unwrap();
    assert!(feature(inside, "rx-vlan-offload", "off"), "{}", gateway.log());
}

#[test]
fn what_leaves_by_a_vlan_is_judged_by_its_role_wherever_its_tag_is() {
    let Some(scene) = vlans() else { return };
    let Some(cgroup) = Cgroup::make("vlans") else { return };
    let egress = format!("egress_policy = \"closed\"\ncgroup = \"{}\"", cgroup.path.display());
    let gateway = start(&scene, "", &egress);
    let leaves = |device: &str, reason: &str| {
        let status = gateway.cli_json(["xdp", "status"]).unwrap();
        let rows = status["packets"].as_array().unwrap().clone();
        let found = rows
            .into_iter()
            .find(|row| row["direction"] == "out" && row["interface"] == device && row["reason"] == reason);
        found.map_or(0, |row| row["packets"].as_u64().unwrap())
    };
    let socket = |place: &Place, at| place.enter(|| Ok(UdpSocket::bind(at)?)).unwrap();
    // What is unasked finds its neighbour without an answer, which would not come in.
    for neighbour in at(40, 10, 0).map(|address| address.ip()) {
        let line = format!("neigh replace {neighbour} lladdr 02:00:00:00:00:09 dev edge.40 nud permanent");
        ip(&scene.lab.gateway, &line).unwrap();
    }
    // With the tag in the packet, and with the tag beside it, as the card would put it on. A change is what ethtool wants, and
    // some cards do one of them for good.
    let fixed = feature(&scene.lab.gateway, "tx-vlan-offload", "off [fixed]");
    for offload in ["off", "on"].into_iter().take(if fixed { 1 } else { 2 }) {
        if !fixed {
            let mut ethtool = scene.lab.gateway.command("ethtool");
            ethtool.args(["-K", "edge", "txvlan", offload]);
            process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap();
        }
        for family in 0..2 {
            let of = |network, host, port| at(network, host, port)[family];
            let (server, client) = (
                socket(&scene.lab.gateway, of(10, 1, ASKED)),
                socket(&scene.lab.outside, of(10, 10, 40_000)),
            );
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let before = leaves("edge.10", "leaves");
            client.send_to(b"question", of(10, 1, ASKED)).unwrap();
            let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
            server.send_to(b"answer", from).unwrap();
            client.recv_from(&mut [0; 16]).unwrap();
            assert!(leaves("edge.10", "leaves") > before, "{offload} {family}");
            // From the same port by VLANs where it is not open, and by those of nobody.
            for (network, device) in [(20, "edge.20"), (31, "edge.300.30"), (40, "edge")] {
                let before = leaves(device, "egress_closed");
                let other = socket(&scene.lab.gateway, of(network, 1, ASKED));
                // Who is refused by EPERM is refused as well as who hears nothing.
                other.send_to(b"unasked", of(network, 10, 40_000)).ok();
                let grown = || leaves(device, "egress_closed") > before;
                wait::until(PATIENCE, device, grown)
                    .unwrap_or_else(|error| panic!("{error:#} {offload} {family}: {}", gateway.log()));
            }
        }
    }
}
