//! What happens when others touch the filter or its interfaces: it comes back, and sessions never notice.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aya::EbpfLoader;
use aya::programs::Xdp;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use portcullis_ebpf_common::tables;
use portcullis_tests::gateway::Gateway;
use portcullis_tests::netns::{self, End, Namespace};
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use crate::flows::{Talk, start};
use crate::object;
use crate::wire::{BpfFs, CLOSED, OPEN, Scene};

const LIMIT: Duration = Duration::from_secs(20);

fn pin(scene: &Scene) -> PathBuf {
    scene.pin_dir().join("link-driver-edge")
}

fn interface(gateway: &Gateway, name: &str) -> Value {
    let status = gateway.cli_json(["xdp", "status"]).unwrap();
    let rows = status["interfaces"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).cloned().unwrap()
}

fn repairs(gateway: &Gateway) -> f64 {
    gateway.metrics().unwrap().sum("portcullis_xdp_repairs_total", &["interface=\"edge\""]).unwrap()
}

fn wait_for_repair(gateway: &Gateway, times: f64) {
    let repaired = || repairs(gateway) >= times && interface(gateway, "edge")["attached"] == true;
    wait::until(PATIENCE, "the filter to be put back", repaired).unwrap();
}

fn wait_for_condition(gateway: &Gateway, condition: &str) {
    let found = || interface(gateway, "edge")["condition"] == condition;
    wait::until(PATIENCE, condition, found)
        .unwrap_or_else(|error| panic!("{error:#}: {}", interface(gateway, "edge")));
}

fn attached(gateway: &Gateway) -> f64 {
    gateway.metrics().unwrap().sum("portcullis_xdp_attached", &["interface=\"edge\""]).unwrap()
}

#[test]
fn pins_that_somebody_removes_come_back_and_sessions_go_on() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    let mut talk = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[0]);
    std::fs::remove_file(pin(&scene)).unwrap();
    talk.echo();
    wait_for_repair(&gateway, 1.0);
    talk.echo();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    // The whole directory.
    gateway.cli(["xdp", "bans", "add", "198.51.100.0/24"]).unwrap().ok().unwrap();
    std::fs::remove_dir_all(scene.pin_dir()).unwrap();
    talk.echo();
    wait_for_repair(&gateway, 2.0);
    talk.echo();
    assert!(["BANS_V4", "BANS_V6"].iter().all(|bans| scene.pin_dir().join(bans).exists()));
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    let log = gateway.log();
    assert!(log.contains("the filter was taken off or replaced by others"), "{log}");
}

#[test]
fn a_program_that_takes_the_place_of_ours_has_to_give_it_back() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    let mut talk = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[0]);
    // The same program without roles for any interface lets everything pass.
    let (other_pins, bytes) = (BpfFs::mount(), std::fs::read(object().unwrap()).unwrap());
    let mut other = EbpfLoader::new().default_map_pin_directory(other_pins.path()).load(&bytes).unwrap();
    let program: &mut Xdp = other.program_mut(tables::PROGRAM).unwrap().try_into().unwrap();
    program.load().unwrap();
    let link = FdLink::from(PinnedLink::from_pin(pin(&scene)).unwrap());
    let link = program.attach_to_link(XdpLink::try_from(link).unwrap()).unwrap();
    drop(program.take_link(link).unwrap());
    wait_for_repair(&gateway, 1.0);
    talk.echo();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
}

#[test]
fn a_link_that_is_forced_off_is_replaced_by_a_new_one() {
    let Some(scene) = Scene::build() else { return };
    if process::find_program("bpftool").is_none() {
        return skip("bpftool is missing");
    }
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    let mut talk = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[0]);
    let mut detach = Command::new("bpftool");
    detach.args(["link", "detach", "pinned"]).arg(pin(&scene));
    process::run(&mut detach, LIMIT).unwrap().ok().unwrap();
    talk.echo();
    wait_for_repair(&gateway, 1.0);
    talk.echo();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
}

#[test]
fn what_an_administrator_detaches_stays_detached_and_sessions_go_on() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    assert!((attached(&gateway) - 1.0).abs() < f64::EPSILON);
    let mut talk = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[0]);
    let pins = scene.pin_dir().display().to_string();
    gateway.cli(["xdp", "detach", "--pins", &pins]).unwrap().ok().unwrap();
    // The watch has looked, and has left it.
    wait_for_condition(&gateway, "detached");
    talk.echo();
    assert!(!pin(&scene).exists());
    assert_eq!(scene.reaches(CLOSED), [true, true]);
    assert!(attached(&gateway).abs() < f64::EPSILON && repairs(&gateway).abs() < f64::EPSILON);
    drop(talk);
    let gateway = gateway.halt().unwrap().start_in(&scene.lab.gateway).unwrap();
    assert_eq!(interface(&gateway, "edge")["condition"], "attached");
    assert_eq!(scene.reaches(CLOSED), [false, false]);
}

/// Those of the edge, and of its other end.
fn addresses(scene: &Scene) -> [[String; 2]; 2] {
    let outside = [scene.lab.outside.v4[0], scene.lab.outside.v6[0]];
    let with_prefix = |ip: IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 24 } else { 64 });
    [scene.edge(), outside].map(|ips| ips.map(with_prefix))
}

fn address(namespace: &Namespace, interface: &str, addresses: &[String]) {
    for address in addresses {
        let flags: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
        namespace.ip(&[&["addr", "add", address, "dev", interface], flags].concat()).unwrap();
    }
    namespace.ip(&["link", "set", "dev", interface, "up"]).unwrap();
}

/// Moves the edge to a namespace of its own, and puts another interface with its name and its number in its place at
/// once.
pub(crate) fn take_the_place_of_edge(scene: &Scene) -> Namespace {
    let (inside, outside) = (scene.lab.gateway.namespace().unwrap(), scene.lab.outside.namespace().unwrap());
    let index = || Ok(nix::net::if_::if_nametoindex("edge")?.to_string());
    let index = scene.lab.gateway.enter(index).unwrap();
    let elsewhere = Namespace::new("elsewhere").unwrap();
    inside.ip(&["link", "set", "dev", "edge", "netns", elsewhere.name()]).unwrap();
    let link = ["link", "add", "name", "edge", "index", &index, "type", "veth"];
    inside.ip(&[&link[..], &["peer", "name", "wan2", "netns", outside.name()]].concat()).unwrap();
    outside.ip(&["addr", "flush", "dev", "wan"]).unwrap();
    let [edge, wan] = addresses(scene);
    address(inside, "edge", &edge);
    address(outside, "wan2", &wan);
    elsewhere
}

#[test]
fn an_interface_in_another_namespace_is_gone_until_it_is_back() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    let inside = scene.lab.gateway.namespace().unwrap();
    let elsewhere = Namespace::new("elsewhere").unwrap();
    inside.ip(&["link", "set", "dev", "edge", "netns", elsewhere.name()]).unwrap();
    wait_for_condition(&gateway, "gone");
    assert!(attached(&gateway).abs() < f64::EPSILON);
    assert_eq!(interface(&gateway, "edge")["attached"], false);
    assert_eq!(interface(&gateway, "farm")["condition"], "attached");
    elsewhere.ip(&["link", "set", "dev", "edge", "netns", inside.name()]).unwrap();
    address(inside, "edge", &addresses(&scene)[0]);
    wait_for_condition(&gateway, "attached");
    wait::until(PATIENCE, "the listener to be reached", || scene.reaches(OPEN) == [true, true]).unwrap();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert!((attached(&gateway) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn an_interface_that_takes_name_and_number_of_one_that_was_moved_away_is_filtered() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    let _elsewhere = take_the_place_of_edge(&scene);
    expect_repaired(&scene, &gateway);
}

/// The interface that came in the edge's place is filtered, once.
fn expect_repaired(scene: &Scene, gateway: &Gateway) {
    wait_for_repair(gateway, 1.0);
    // What the filter does not open is silent; what it opens answers once the link is up.
    wait::until(PATIENCE, "the listener to be reached", || scene.reaches(OPEN) == [true, true]).unwrap();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert!((attached(gateway) - 1.0).abs() < f64::EPSILON);
    Talk::begin(scene, gateway, scene.edge()[0], scene.lab.farm.v4[0]).echo();
}

#[test]
fn an_interface_with_the_number_of_one_that_was_moved_away_is_not_taken_for_it() {
    let Some(scene) = Scene::build() else { return };
    let gateway = start(&scene, "");
    let inside = scene.lab.gateway.namespace().unwrap();
    let _elsewhere = take_the_place_of_edge(&scene);
    inside.ip(&["link", "set", "dev", "edge", "down"]).unwrap();
    inside.ip(&["link", "set", "dev", "edge", "name", "other"]).unwrap();
    // Unless the watch has looked in between; then it has filtered that one, which keeps its filter.
    let known = || interface(&gateway, "edge")["condition"].as_str().unwrap().to_owned();
    wait::until(PATIENCE, "the change to be seen", || known() != "attached").unwrap();
    let expected = if repairs(&gateway) >= 1.0 { "renamed to other" } else { "gone" };
    assert_eq!(known(), expected);
}

#[test]
fn an_interface_that_goes_and_comes_back_is_filtered_again() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    let (inside, outside) = (scene.lab.gateway.namespace().unwrap(), scene.lab.outside.namespace().unwrap());
    netns::part((inside, "edge"), (outside, "wan")).unwrap();
    wait_for_condition(&gateway, "gone");
    assert!(attached(&gateway).abs() < f64::EPSILON);
    let [edge, wan] = addresses(&scene);
    let end = |namespace, interface, addresses| End { namespace, interface, addresses };
    netns::join(end(inside, "edge", &edge), end(outside, "wan", &wan)).unwrap();
    expect_repaired(&scene, &gateway);
}

#[test]
fn an_interface_with_another_name_stays_filtered() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    let mut talk = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[0]);
    let inside = scene.lab.gateway.namespace().unwrap();
    let rename = |from: &str, to: &str| {
        inside.ip(&["link", "set", "dev", from, "down"]).unwrap();
        inside.ip(&["link", "set", "dev", from, "name", to]).unwrap();
        inside.ip(&["link", "set", "dev", to, "up"]).unwrap();
    };
    rename("edge", "edge9");
    wait_for_condition(&gateway, "renamed to edge9");
    assert_eq!(interface(&gateway, "edge")["attached"], true);
    talk.echo();
    assert!(!scene.reaches(CLOSED)[0]);
    rename("edge9", "edge");
    wait_for_condition(&gateway, "attached");
    talk.echo();
    assert!(!scene.reaches(CLOSED)[0] && repairs(&gateway).abs() < f64::EPSILON);
}

#[test]
fn a_link_that_flaps_keeps_its_filter_and_its_sessions() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = start(&scene, "");
    let mut talk = Talk::begin(&scene, &gateway, scene.edge()[0], scene.lab.farm.v4[0]);
    let inside = scene.lab.gateway.namespace().unwrap();
    for _ in 0..3 {
        inside.ip(&["link", "set", "dev", "edge", "down"]).unwrap();
        inside.ip(&["link", "set", "dev", "edge", "up"]).unwrap();
        talk.echo();
    }
    assert!(!scene.reaches(CLOSED)[0]);
    assert!((attached(&gateway) - 1.0).abs() < f64::EPSILON && repairs(&gateway).abs() < f64::EPSILON);
}

#[test]
fn a_start_that_fails_at_the_last_interface_leaves_none_filtered() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    // Loopback has no driver that runs programs.
    let mut setup = scene.setup("mode = \"driver\"");
    setup.merge("[xdp]\ninterface = [{ name = \"lo\", role = \"mgmt\" }]").unwrap();
    let error = setup.start_in(&scene.lab.gateway).unwrap_err();
    assert!(format!("{error:#}").contains("interface `lo`: the program cannot be attached"), "{error:#}");
    assert_eq!(scene.reaches(CLOSED), [true, true]);
    assert!(!pin(&scene).exists());
}

#[test]
fn bans_move_to_a_table_of_another_size() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("");
    gateway.cli(["xdp", "bans", "add", "203.0.113.10"]).unwrap().ok().unwrap();
    gateway.cli(["xdp", "bans", "add", "2001:db8:113::/64"]).unwrap().ok().unwrap();
    let mut setup = gateway.halt().unwrap();
    setup.merge("[xdp]\nbans = 3").unwrap();
    let gateway = setup.start_in(&scene.lab.gateway).unwrap();
    assert_eq!(scene.reaches(OPEN), [false, false]);
    let metrics = gateway.metrics().unwrap();
    assert_eq!(metrics.sum("portcullis_xdp_map_entries_max", &["map=\"bans_v4\""]), Some(3.0));
    for prefix in ["198.51.100.1", "198.51.100.2"] {
        gateway.cli(["xdp", "bans", "add", prefix]).unwrap().ok().unwrap();
    }
    // What finds no place there holds at the listeners.
    gateway.cli(["xdp", "bans", "add", "198.51.100.3"]).unwrap().ok().unwrap();
    let bans = gateway.cli_json(["bans", "list", "198.51.100.3"]).unwrap();
    assert_eq!(bans[0]["in_kernel"], false, "{bans}");
    let bans = gateway.cli_json(["bans", "list", "198.51.100.1"]).unwrap();
    assert_eq!(bans[0]["in_kernel"], true, "{bans}");
}
