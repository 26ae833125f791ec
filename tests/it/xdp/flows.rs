//! The flow table: both halves of a session are in it while it lives, and what is counted agrees with its record.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use portcullis_tests::client::{Client, trusting};
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::process;
use portcullis_tests::speak::{GREETING, Speak as _, socks_request_v4};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use crate::wire::{OPEN, Scene};

/// Keys of a ticket listener that may reach the farm.
const FARM: &str =
    "stas = [\"local\"]\nallow = [{ to = [\"10.77.0.0/24\", \"fd77::/64\"], ports = [\"1-65535\"] }]";

/// A session from outside into the farm.
pub(crate) struct Talk {
    pub(crate) client: Client,
    pub(crate) server: TcpStream,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

impl Talk {
    pub(crate) fn begin(scene: &Scene, gateway: &Gateway, edge: IpAddr, inside: IpAddr) -> Self {
        let listener = listen(scene, inside);
        let to = listener.local_addr().unwrap();
        let mut client = connect(scene, gateway, SocketAddr::new(edge, OPEN));
        let ticket = gateway.issue(&to.to_string()).unwrap();
        assert_eq!(client.socks(&ticket, 1494).unwrap(), 0);
        Self::of(client, &listener)
    }

    fn of(client: Client, listener: &TcpListener) -> Self {
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let from = client.tcp().local_addr().unwrap();
        Self { client, server, from, to: listener.local_addr().unwrap() }
    }

    /// A word there and one back.
    pub(crate) fn echo(&mut self) {
        self.client.send(b"question").unwrap();
        let mut bytes = [0; 8];
        self.server.read_exact(&mut bytes).unwrap();
        self.server.write_all(b"answer").unwrap();
        assert_eq!((&bytes, self.client.read(6).unwrap()), (b"question", b"answer".to_vec()));
    }
}

fn listen(scene: &Scene, inside: IpAddr) -> TcpListener {
    scene.lab.farm.enter(|| Ok(TcpListener::bind(SocketAddr::new(inside, 0))?)).unwrap()
}

fn connect(scene: &Scene, gateway: &Gateway, at: SocketAddr) -> Client {
    let config = Arc::new(trusting(&gateway.ca_file()).unwrap());
    scene.lab.outside.enter(|| Client::tls_with(at, &config, "localhost")).unwrap()
}

pub(crate) fn setup(scene: &Scene, more: &str) -> Setup {
    scene.setup_of(FARM, more)
}

pub(crate) fn start(scene: &Scene, more: &str) -> Gateway {
    setup(scene, more).start_in(&scene.lab.gateway).unwrap()
}

fn flows(gateway: &Gateway) -> Vec<Value> {
    let page = gateway.cli_json(["xdp", "flows"]).unwrap();
    page["flows"].as_array().unwrap().clone()
}

/// The flow of that half whose peer it is.
fn flow(gateway: &Gateway, half: &str, peer: SocketAddr) -> Option<Value> {
    let peer = peer.to_string();
    flows(gateway).into_iter().find(|flow| flow["half"] == half && flow["peer"] == peer.as_str())
}

/// Bytes that the server at that address has sent more than once.
fn sent_again(scene: &Scene, server: SocketAddr) -> u64 {
    let mut ss = scene.lab.farm.command("ss");
    ss.args(["-tinOH", "state", "established", &format!("sport = :{}", server.port())]);
    let told = process::run(&mut ss, PATIENCE).unwrap().ok().unwrap();
    let field = told.stdout.split_whitespace().find_map(|word| word.strip_prefix("bytes_retrans:"));
    field.map_or(0, |bytes| bytes.parse().unwrap())
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {value}"))
}

/// Between Ethernet pairs packets are not steered and flows belong to no processor; between cards they are.
fn is_owned(half: &Value) -> bool {
    half["owner"].is_null() != std::env::var_os("PORTCULLIS_CARDS").is_some()
}

#[test]
fn both_halves_of_a_session_are_counted_and_agree_with_its_record() {
    const DOWN: usize = 3_000_001;
    const UP: usize = 100_003;
    let Some(scene) = Scene::build() else { return };
    let gateway = start(&scene, "");
    for (edge, inside) in [(0, scene.lab.farm.v4[0]), (1, scene.lab.farm.v6[0])] {
        let mut talk = Talk::begin(&scene, &gateway, scene.edge()[edge], inside);
        let mut server = talk.server.try_clone().unwrap();
        let sending = thread::spawn(move || server.write_all(&vec![7; DOWN]).unwrap());
        assert_eq!(talk.client.read(DOWN).unwrap().len(), DOWN);
        sending.join().unwrap();
        talk.client.send(&vec![9; UP]).unwrap();
        talk.server.read_exact(&mut vec![0; UP]).unwrap();

        let session = || gateway.control().sessions().unwrap().into_iter().next().unwrap();
        let moved = |session: &Value| (number(session, "bytes_down"), number(session, "bytes_up"));
        let expected = (u64::try_from(DOWN).unwrap(), u64::try_from(UP).unwrap());
        wait::until(PATIENCE, "the session's bytes to be counted", || moved(&session()) == expected).unwrap();
        let row = session();
        let (farm, client) =
            (flow(&gateway, "farm", talk.to).unwrap(), flow(&gateway, "edge", talk.from).unwrap());
        assert_eq!((&farm["session"], &client["session"]), (&row["id"], &row["id"]));
        // What the server sent is counted exactly, and a segment that it sent again counts again. A busy machine
        // answers so late that there are some. What the client sent has TLS around it.
        assert_eq!(number(&farm, "bytes"), expected.0 + sent_again(&scene, talk.to), "{farm}");
        assert!(number(&client, "bytes") > expected.1, "{client}");
        assert!(number(&client, "bytes") < expected.1 + expected.1 / 10, "{client}");
        for half in [&farm, &client] {
            assert!(half["listed"] == true && is_owned(half) && number(half, "packets") > 1, "{half}");
        }
        let page = gateway.cli_json(["xdp", "flows", "--half", "farm"]).unwrap();
        assert_eq!(page["matched"], 1);
        let only = &page["flows"][0];
        assert_eq!(only["peer"], farm["peer"]);
        drop(talk);
        wait::until(PATIENCE, "the flows to be gone", || flows(&gateway).is_empty()).unwrap();
    }
    assert!(scene.dropped(&gateway, "farm", "no_rule") == 0);
}

#[test]
fn sessions_of_listeners_without_tickets_are_in_the_table_too() {
    let Some(scene) = Scene::build() else { return };
    let inside = listen(&scene, scene.lab.farm.v4[0]);
    let to = inside.local_addr().unwrap();
    let mut setup = setup(&scene, "");
    let (relay, socks) = (SocketAddr::new(scene.edge()[0], 4443), SocketAddr::new(scene.edge()[0], 1080));
    setup.listener_at("relay", "ssl-relay", &[relay], &format!("target = \"{to}\"")).unwrap();
    let allow = "allow = [{ to = [\"10.77.0.0/24\"], ports = [\"1-65535\"] }]";
    setup.listener_at("proxy", "socks", &[socks], allow).unwrap();
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    let mut talk = Talk::of(connect(&scene, &gateway, relay), &inside);
    talk.echo();
    assert_eq!(flows(&gateway).len(), 2);
    let mut client = scene.lab.outside.enter(|| Client::plain(socks)).unwrap();
    client.send(GREETING).unwrap();
    assert_eq!(client.read(2).unwrap(), [5, 0]);
    client.send(&socks_request_v4([10, 77, 0, 10], to.port())).unwrap();
    assert_eq!(client.socks_reply().unwrap(), 0);
    let mut plain = Talk::of(client, &inside);
    plain.echo();
    assert_eq!(flows(&gateway).len(), 4);
    // Without TLS the half of the edge is exact as well, from the request on.
    assert_eq!(number(&flow(&gateway, "edge", plain.from).unwrap(), "bytes"), 8);
}

#[test]
fn a_session_without_a_place_in_the_table_goes_on_by_its_sockets() {
    let Some(scene) = Scene::build() else { return };
    let gateway = start(&scene, "flows = 2");
    let mut first = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[0]);
    let mut second = Talk::begin(&scene, &gateway, scene.edge()[1], scene.lab.farm.v6[0]);
    for _ in 0..3 {
        first.echo();
        second.echo();
    }
    let page = gateway.cli_json(["xdp", "flows"]).unwrap();
    let counts = ["listed", "most", "unlisted", "unlisted_total", "matched"].map(|key| number(&page, key));
    assert_eq!(counts, [2, 2, 2, 2, 4], "{page}");
    assert_eq!(flow(&gateway, "farm", second.to).unwrap()["listed"], false);
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("portcullis_xdp_flows_unlisted_total", &[]), Some(2.0));
    assert_eq!(metrics.sum("portcullis_xdp_map_entries", &["map=\"flows\""]), Some(2.0));
    assert_eq!(metrics.sum("portcullis_xdp_map_entries_max", &["map=\"flows\""]), Some(2.0));
    let status = gateway.cli(["xdp", "status"]).unwrap().ok().unwrap();
    assert!(status.stdout.contains("2 without a place, 2 since the start"), "{}", status.stdout);
    let shown = gateway.cli(["xdp", "flows", "--limit", "1"]).unwrap();
    assert!(shown.stderr.contains("3 more flows"), "{shown:?}");
    // A place that is free again is the next session's.
    drop(first);
    wait::until(PATIENCE, "the first session's flows to be gone", || flows(&gateway).len() == 2).unwrap();
    second.echo();
    let third = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[1]);
    assert_eq!(flow(&gateway, "farm", third.to).unwrap()["listed"], true);
}

#[test]
fn a_ban_does_not_cut_a_session_that_is_there() {
    let Some(scene) = Scene::build() else { return };
    let gateway = start(&scene, "");
    let mut talk = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[0]);
    gateway.cli(["xdp", "bans", "add", "203.0.113.0/24"]).unwrap().ok().unwrap();
    talk.echo();
    assert_eq!(scene.reaches(OPEN), [false, true]);
    talk.echo();
}
