//! A bond as the interface at the edge: a program in the driver runs at its ports, and a frame comes by one of these.

use std::net::{IpAddr, SocketAddr};

use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::netns::{self, End};
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};

use crate::wire::{CLOSED, OPEN, Scene, dropped, state};

/// The edge becomes the port of a bond, which has its addresses.
fn bond(scene: &Scene) -> anyhow::Result<()> {
    let inside = scene.lab.gateway.namespace().unwrap();
    let ip = |line: &str| inside.ip(&line.split(' ').collect::<Vec<_>>());
    ip("link add bond0 type bond mode active-backup miimon 100")?;
    for line in ["addr flush dev edge", "link set dev edge down", "link set dev edge master bond0"] {
        ip(line)?;
    }
    ip("link set dev bond0 up")?;
    let [v4, v6] = scene.edge();
    ip(&format!("addr add {v4}/24 dev bond0"))?;
    ip(&format!("addr add {v6}/64 dev bond0 nodad"))
}

fn start(scene: &Scene) -> Gateway {
    let mut setup = Setup::new().unwrap();
    setup.own_authority(IpAddr::from([127, 0, 0, 1])).unwrap();
    let at = scene.edge().map(|ip| SocketAddr::new(ip, OPEN));
    setup.listener_at("edge", "gateway", &at, "stas = [\"local\"]").unwrap();
    let pins = scene.pin_dir();
    let xdp = format!(
        "[xdp]\npin_dir = \"{}\"\nallow_no_management = true\ninterface = [{{ name = \"bond0\", role = \"edge\" }}]",
        pins.display()
    );
    setup.merge(&xdp).unwrap();
    setup.start_in(&scene.lab.gateway).unwrap()
}

#[test]
fn what_comes_by_the_ports_of_a_bond_has_its_role_also_by_one_that_comes_later() {
    let Some(scene) = Scene::build() else { return };
    if let Err(error) = bond(&scene) {
        skip(&format!("this kernel has no bonds: {error:#}"));
        return;
    }
    let _strangers = scene.strangers();
    let open = || scene.reaches(OPEN) == [true, true];
    wait::until(PATIENCE, "the bond to carry something", || scene.reaches(CLOSED) == [true, true]).unwrap();
    let gateway = start(&scene);
    assert_eq!(state(&gateway), "attached (driver)", "{}", gateway.log());
    wait::until(PATIENCE, "the listener to be reached", open).unwrap();
    let before = dropped(&gateway, "bond0", "no_rule");
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert!(dropped(&gateway, "bond0", "no_rule") >= before + 2);
    // Another port, by which everything comes from then on.
    let (inside, outside) = (scene.lab.gateway.namespace().unwrap(), scene.lab.outside.namespace().unwrap());
    netns::join(
        End { namespace: inside, interface: "edge2", addresses: &[] },
        End { namespace: outside, interface: "wan2", addresses: &[] },
    )
    .unwrap();
    for line in ["link set dev edge2 down", "link set dev edge2 master bond0", "link set dev edge2 up"] {
        inside.ip(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    wait::until(PATIENCE, "the port to be seen", || gateway.log().contains("a bond has other ports"))
        .unwrap();
    inside.ip(&["link", "set", "dev", "bond0", "type", "bond", "active_slave", "edge2"]).unwrap();
    outside.ip(&["addr", "flush", "dev", "wan"]).unwrap();
    outside.ip(&["addr", "add", &format!("{}/24", scene.lab.outside.v4[0]), "dev", "wan2"]).unwrap();
    outside.ip(&["addr", "add", &format!("{}/64", scene.lab.outside.v6[0]), "dev", "wan2", "nodad"]).unwrap();
    wait::until(PATIENCE, "the listener to be reached by the other port", open).unwrap();
    let before = dropped(&gateway, "bond0", "no_rule");
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert!(dropped(&gateway, "bond0", "no_rule") >= before + 2);
}
