//! Causes on the wire that take more than a packet: a gateway under pressure, and one whose tables others touch.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use portcullis_ebpf_common::tables;
use portcullis_tests::gateway::Gateway;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::flood::{ACK, spoofed};
use crate::wire::{CLOSED, OPEN, Scene};

/// Sends packets with their IP headers from outside.
fn send(scene: &Scene, to: IpAddr, packets: &[Vec<u8>]) {
    let all = || {
        let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        // IPPROTO_RAW: the sender writes the IP header itself.
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255)))?;
        for packet in packets {
            socket.send_to(packet, &SocketAddr::new(to, 0).into())?;
        }
        Ok(())
    };
    scene.lab.outside.enter(all).unwrap();
}

fn wait_for_drop(scene: &Scene, gateway: &Gateway, reason: &str, before: u64) {
    let grown = || scene.dropped(gateway, "edge", reason) > before;
    wait::until(PATIENCE, "the drops to be counted", grown)
        .unwrap_or_else(|error| panic!("{reason}: {error:#}"));
}

#[test]
fn a_segment_with_a_wrong_cookie_is_refused_while_cookies_are_on() {
    let Some(scene) = Scene::build() else { return };
    let gateway = scene.start("flood = { cookies = \"always\" }");
    for ip in scene.edge() {
        let before = ["cookie_refused", "no_flow"].map(|reason| scene.dropped(&gateway, "edge", reason));
        send(&scene, ip, &[spoofed(SocketAddr::new(ip, OPEN), ACK, [1, 2, 3, 4])]);
        wait_for_drop(&scene, &gateway, "cookie_refused", before[0]);
        assert_eq!(scene.dropped(&gateway, "edge", "no_flow"), before[1]);
    }
}

#[test]
fn without_cookies_what_is_over_the_budget_of_all_is_dropped() {
    let Some(scene) = Scene::build() else { return };
    let more = "flood = { syn_per_source = \"100000/s\", syn_total = \"2/s\", cookies = \"off\" }";
    let gateway = scene.start(more);
    for ip in scene.edge() {
        let (before, at) = (scene.dropped(&gateway, "edge", "syn_total"), SocketAddr::new(ip, OPEN));
        let connect = || {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
            // Its first segment is all that is wanted.
            drop(socket.connect_timeout(&at.into(), Duration::from_millis(5)));
            Ok(())
        };
        let many = || (0..60).try_for_each(|_| connect());
        scene.lab.outside.enter(many).unwrap();
        wait_for_drop(&scene, &gateway, "syn_total", before);
        assert_eq!(scene.dropped(&gateway, "edge", "syn_source"), 0);
    }
}

/// A table of the program that filters an interface.
fn table(scene: &Scene, name: &str) -> MapData {
    let pin = PinnedLink::from_pin(scene.pin_dir().join("link-driver-edge")).unwrap();
    let id = FdLink::from(pin).info().unwrap().program_id();
    let program = loaded_programs().flatten().find(|program| program.id() == id).unwrap();
    let maps = program.map_ids().unwrap().unwrap().into_iter().map(|id| MapData::from_id(id).unwrap());
    maps.into_iter().find(|map| map.info().unwrap().name_as_str() == Some(name)).unwrap()
}

#[test]
fn an_interface_that_has_lost_its_role_cuts_nobody_off() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = scene.start("");
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    let roleless = || {
        let status = gateway.cli_json(["xdp", "status"]).unwrap();
        let rows = status["packets"].as_array().unwrap();
        let row = rows.iter().find(|row| row["interface"] == "-" && row["reason"] == "no_role");
        row.map_or(0, |row| row["packets"].as_u64().unwrap())
    };
    assert_eq!(roleless(), 0);
    let map = Map::from_map_data(table(&scene, tables::INTERFACES)).unwrap();
    let mut interfaces: HashMap<_, [u8; 4], [u8; 8]> = HashMap::try_from(map).unwrap();
    let index = || Ok(nix::net::if_::if_nametoindex("edge")?);
    let index = scene.lab.gateway.enter(index).unwrap();
    let role = interfaces.get(&index.to_be_bytes(), 0).unwrap();
    interfaces.remove(&index.to_be_bytes()).unwrap();
    let map = Map::from_map_data(table(&scene, tables::NEAR_INTERFACES)).unwrap();
    let mut near: Array<_, [u8; 8]> = Array::try_from(map).unwrap();
    if index < near.len() {
        near.set(index, [0; 8], 0).unwrap();
    }
    assert_eq!(scene.reaches(CLOSED), [true, true]);
    assert!(roleless() >= 4, "two handshakes");
    // The other interface keeps its own.
    let inner = scene.lab.gateway.address(1);
    assert!(!crate::wire::connects(&scene.lab.farm, SocketAddr::new(inner, CLOSED)));
    interfaces.insert(index.to_be_bytes(), role, 0).unwrap();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert_eq!(gateway.cli_json(["status"]).unwrap()["ebpf"], Value::from("attached (driver)"));
}
