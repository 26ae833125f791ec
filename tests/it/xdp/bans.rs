//! Bans by the daemon, seen on the wire: packets of a banned source are dropped at the interface.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use portcullis_tests::client::Client;
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::netns;
use portcullis_tests::skip::skip;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::topology::{Lab, Place};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use crate::flows::Talk;
use crate::object;
use crate::wire::BpfFs;

/// How long an answer to a SYN is waited for that is dropped.
const SILENCE: Duration = Duration::from_millis(1500);
const PORT: u16 = 443;
const QUICK: &str = "[bans]\nbad_tickets = { count = 3, within = \"5m\" }\nban_time = \"1h\"\n";

struct Scene {
    gateway: Gateway,
    lab: Lab,
    pins: BpfFs,
}

impl Scene {
    /// The farm's interface is that of administrators here, and SSH is left to them.
    fn start() -> Option<Self> {
        object()?;
        if let Err(reason) = netns::available() {
            skip(&format!("no network namespaces: {reason}"));
            return None;
        }
        let (lab, pins) = (Lab::in_namespaces().unwrap(), BpfFs::mount());
        let mut setup = Setup::new().unwrap();
        setup.own_authority(IpAddr::from([127, 0, 0, 1])).unwrap();
        let addresses = lab.gateway.v4.iter().chain(&lab.gateway.v6);
        let at: Vec<SocketAddr> = addresses.map(|ip| SocketAddr::new(*ip, PORT)).collect();
        setup.listener_at("edge", "gateway", &at, "stas = [\"local\"]").unwrap();
        let xdp = format!(
            "{QUICK}[xdp]\npin_dir = \"{}/portcullis\"\n\
             interface = [{{ name = \"edge\", role = \"edge\" }}, {{ name = \"farm\", role = \"mgmt\" }}]\n\
             rule = [{{ role = \"mgmt\", protocol = \"tcp\", ports = [22], action = \"accept\" }}]",
            pins.path().display()
        );
        setup.merge(&xdp).unwrap();
        let gateway = setup.start_in(&lab.gateway).unwrap();
        Some(Self { gateway, lab, pins })
    }

    fn edge(&self) -> SocketAddr {
        SocketAddr::new(self.lab.gateway.v4[0], PORT)
    }

    /// Whether a SYN is answered at all: a refusal by a listener is an answer too.
    fn answers(&self, to: SocketAddr) -> bool {
        let tried = self.lab.outside.enter(|| Ok(TcpStream::connect_timeout(&to, SILENCE)));
        tried.unwrap().is_ok()
    }

    fn show_forged(&self, from: &Place, to: SocketAddr) -> anyhow::Result<u8> {
        let issued = self.gateway.issue("10.77.0.10:1494").unwrap();
        let forged = format!("{};{}", issued.rsplit_once(';').unwrap().0, "0".repeat(32));
        let ca = self.gateway.ca_file();
        let mut client = from.enter(|| Client::tls(to, &ca))?;
        client.socks(&forged, 1494)
    }

    fn ban(&self, prefix: &str) -> Option<Value> {
        let rows = self.gateway.cli_json(["bans", "list"]).unwrap();
        rows.as_array().unwrap().iter().find(|row| row["prefix"] == prefix).cloned()
    }

    fn dropped(&self) -> u64 {
        let rows = self.gateway.cli_json(["xdp", "drops"]).unwrap();
        let banned = rows.as_array().unwrap().iter().filter(|row| row["reason"] == "banned");
        banned.map(|row| row["packets"].as_u64().unwrap()).sum()
    }
}

#[test]
fn a_source_of_forged_tickets_is_cut_off_at_the_interface_also_after_a_restart() {
    let Some(scene) = Scene::start() else { return };
    for _ in 0..3 {
        assert_eq!(scene.show_forged(&scene.lab.outside, scene.edge()).unwrap(), 2);
    }
    let ban = wait::value(PATIENCE, "the ban", || scene.ban("203.0.113.10/32")).unwrap();
    assert_eq!((&ban["in_kernel"], &ban["kind"]), (&Value::Bool(true), &Value::from("bad_ticket")));
    assert!(!scene.answers(scene.edge()));
    assert!(scene.dropped() >= 1);
    assert!(scene.answers(SocketAddr::new(scene.lab.gateway.v6[0], PORT)));
    // Without its file the list is made of what the kernel holds; nothing more is known then.
    let Scene { gateway, lab, pins } = scene;
    let setup = gateway.halt().unwrap();
    std::fs::remove_file(setup.dir().join("state/bans.json")).unwrap();
    let scene = Scene { gateway: setup.start_in(&lab.gateway).unwrap(), lab, pins };
    assert!(!scene.answers(scene.edge()));
    let ban = scene.ban("203.0.113.10/32").unwrap();
    assert_eq!((&ban["origin"], &ban["in_kernel"]), (&Value::from("found"), &Value::Bool(true)));
    scene.gateway.cli(["bans", "remove", "203.0.113.10"]).unwrap().ok().unwrap();
    assert!(scene.answers(scene.edge()));
    // And where the kernel holds nothing, it is filled from the file.
    scene.gateway.cli(["bans", "add", "203.0.113.10"]).unwrap().ok().unwrap();
    let Scene { gateway, lab, pins } = scene;
    gateway.cli(["xdp", "detach"]).unwrap().ok().unwrap();
    let gateway = gateway.halt().unwrap().start_in(&lab.gateway).unwrap();
    let scene = Scene { gateway, lab, pins };
    assert!(!scene.answers(scene.edge()));
    assert_eq!(scene.ban("203.0.113.10/32").unwrap()["origin"], "hand");
    assert!(scene.pins.path().join("portcullis").is_dir());
}

#[test]
fn a_ban_leaves_the_sessions_that_are_there_and_refuses_new_connections() {
    let Some(scene) = crate::wire::Scene::build() else { return };
    let gateway = crate::flows::start(&scene, "");
    let inside = [scene.lab.farm.v4[0], scene.lab.farm.v6[0]];
    let mut talks = [0, 1].map(|family| Talk::begin(&scene, &gateway, scene.edge()[family], inside[family]));
    talks.iter_mut().for_each(Talk::echo);
    assert_eq!(scene.reaches(PORT), [true, true]);
    for source in ["203.0.113.10", "2001:db8:113::10"] {
        gateway.cli(["bans", "add", source]).unwrap().ok().unwrap();
    }
    assert_eq!(scene.reaches(PORT), [false, false]);
    for talk in &mut talks {
        talk.echo();
        // More than a word: segments in a row, by the flow table and not by a ban that came late.
        talk.server.write_all(&[7; 300_000]).unwrap();
        assert_eq!(talk.client.read(300_000).unwrap().len(), 300_000);
    }
    assert!(scene.dropped(&gateway, "edge", "banned") >= 2);
    // A session that is over has no place in the table any more: whoever comes again is a stranger.
    drop(talks);
    assert_eq!(scene.reaches(PORT), [false, false]);
}

#[test]
fn a_narrow_ban_that_has_ended_does_not_hide_a_wider_one() {
    let Some(scene) = Scene::start() else { return };
    let by_hand = |prefix, time| {
        scene.gateway.cli(["bans", "add", prefix, "--for", time]).unwrap().ok().unwrap();
    };
    by_hand("203.0.113.0/24", "1h");
    by_hand("203.0.113.10", "2s");
    assert!(!scene.answers(scene.edge()));
    wait::until(PATIENCE, "the end of the narrow ban", || scene.ban("203.0.113.10/32").is_none()).unwrap();
    let before = scene.dropped();
    assert!(!scene.answers(scene.edge()));
    assert!(scene.dropped() > before);
    assert_eq!(scene.gateway.cli_json(["bans", "clear"]).unwrap()["cleared"], 1);
    assert!(scene.answers(scene.edge()));
}

#[test]
fn the_management_network_is_never_banned() {
    let Some(scene) = Scene::start() else { return };
    let to = SocketAddr::new(scene.lab.gateway.v4[1], PORT);
    for _ in 0..6 {
        assert_eq!(scene.show_forged(&scene.lab.farm, to).unwrap(), 2);
    }
    let counted = || {
        let metrics = scene.gateway.metrics().unwrap();
        metrics.sum("portcullis_offences_total", &["kind=\"bad_ticket\""]) >= Some(6.0)
    };
    wait::until(PATIENCE, "six offences", counted).unwrap();
    assert_eq!(scene.gateway.cli_json(["bans", "list"]).unwrap(), Value::Array(Vec::new()));
    for prefix in ["10.77.0.10", "fd77::/64"] {
        let refused = scene.gateway.cli(["bans", "add", prefix]).unwrap();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("management network"), "{}", refused.stderr);
    }
}
