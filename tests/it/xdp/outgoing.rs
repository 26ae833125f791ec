//! What leaves, where rows of `[[xdp.egress]]` judge it: what is counted, and what happens when others touch the
//! programs.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis_tests::gateway::Gateway;
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};

use crate::policy::Cgroup;
use crate::wire::{Scene, connects};

const LIMIT: Duration = Duration::from_secs(20);
const ALLOWED: u16 = 7_000;
const REFUSED: u16 = 7_001;

/// Servers outside on both ports, at one address of each family.
fn servers(scene: &Scene) -> (Vec<IpAddr>, Vec<TcpListener>) {
    let outside: Vec<IpAddr> = vec![scene.lab.outside.v4[0], scene.lab.outside.v6[0]];
    let listen = |ip: &IpAddr, port| {
        scene.lab.outside.enter(|| Ok(TcpListener::bind(SocketAddr::new(*ip, port))?)).unwrap()
    };
    let listeners = outside.iter().flat_map(|ip| [listen(ip, ALLOWED), listen(ip, REFUSED)]).collect();
    (outside, listeners)
}

fn start(scene: &Scene, cgroup: &Cgroup) -> Gateway {
    scene.start(&format!(
        "cgroup = \"{}\"\n[[xdp.egress]]\nprotocol = \"tcp\"\nports = [{REFUSED}]\naction = \"drop\"\n",
        cgroup.path.display()
    ))
}

fn repairs(gateway: &Gateway) -> u64 {
    let status = gateway.cli_json(["xdp", "status"]).unwrap();
    assert_eq!(status["egress_condition"], "attached", "{status}");
    status["egress_repairs"].as_u64().unwrap()
}

fn wait_for_repairs(gateway: &Gateway, times: u64) {
    wait::until(PATIENCE, "the programs to be put back", || repairs(gateway) >= times).unwrap();
}

/// Detaches a link, whose pin stays.
fn force_off(scene: &Scene, pin: &str) {
    let mut detach = Command::new("bpftool");
    detach.args(["link", "detach", "pinned"]).arg(scene.pin_dir().join(pin));
    process::run(&mut detach, LIMIT).unwrap().ok().unwrap();
    assert!(scene.pin_dir().join(pin).exists());
}

/// What the daemon's own sockets were refused.
fn refusals(gateway: &Gateway) -> f64 {
    let labels = ["interface=\"cgroup\"", "verdict=\"drop\"", "reason=\"egress_rule\""];
    gateway.metrics().unwrap().sum("portcullis_xdp_packets_out_total", &labels).unwrap_or(0.0)
}

/// Whether a process in the cgroup reaches it.
fn dials(scene: &Scene, cgroup: &Path, ip: IpAddr, port: u16) -> bool {
    let script = format!("echo $$ > {}/cgroup.procs && exec 3<>/dev/tcp/{ip}/{port}", cgroup.display());
    let mut child = scene.lab.gateway.command("bash");
    process::run(child.args(["-c", &script]), PATIENCE).unwrap().code == Some(0)
}

#[test]
fn what_a_row_drops_does_not_leave_and_is_counted() {
    let Some(scene) = Scene::build() else { return };
    let Some(cgroup) = Cgroup::make("row") else { return };
    let (outside, _servers) = servers(&scene);
    let gateway = start(&scene, &cgroup);
    for ip in &outside {
        assert!(connects(&scene.lab.gateway, SocketAddr::new(*ip, ALLOWED)), "{ip}");
        assert!(!connects(&scene.lab.gateway, SocketAddr::new(*ip, REFUSED)), "{ip}");
    }
    assert!(!dials(&scene, &cgroup.path, outside[0], REFUSED));
    for interface in ["interface=\"edge\"", "interface=\"cgroup\""] {
        let labels = [interface, "verdict=\"drop\"", "reason=\"egress_rule\""];
        let counted = gateway.metrics().unwrap().sum("portcullis_xdp_packets_out_total", &labels);
        assert!(counted.is_some_and(|packets| packets >= 1.0), "{interface}: {counted:?}");
    }
}

#[test]
fn programs_for_what_leaves_that_somebody_takes_off_come_back() {
    let Some(scene) = Scene::build() else { return };
    let Some(cgroup) = Cgroup::make("back") else { return };
    let (outside, _servers) = servers(&scene);
    let gateway = start(&scene, &cgroup);
    let refused = SocketAddr::new(outside[0], REFUSED);
    assert_eq!(repairs(&gateway), 0);
    std::fs::remove_file(scene.pin_dir().join("egress-edge")).unwrap();
    wait_for_repairs(&gateway, 1);
    assert!(!connects(&scene.lab.gateway, refused));
    std::fs::remove_file(scene.pin_dir().join("dial-connect_v4")).unwrap();
    wait_for_repairs(&gateway, 2);
    assert!(!dials(&scene, &cgroup.path, outside[0], REFUSED));
    assert!(dials(&scene, &cgroup.path, outside[0], ALLOWED));
    if process::find_program("bpftool").is_some() {
        force_off(&scene, "egress-edge");
        wait_for_repairs(&gateway, 3);
        assert!(!connects(&scene.lab.gateway, refused));
    }
    let log = gateway.log();
    assert!(log.contains("programs for what leaves were taken off"), "{log}");
}

#[test]
fn a_program_that_is_forced_off_its_cgroup_is_missed_although_its_pin_stays() {
    let Some(scene) = Scene::build() else { return };
    let Some(cgroup) = Cgroup::make("force") else { return };
    if process::find_program("bpftool").is_none() {
        return skip("bpftool is missing");
    }
    let (outside, _servers) = servers(&scene);
    let gateway = start(&scene, &cgroup);
    for (times, (pin, ip)) in (1..).zip([("dial-connect_v4", outside[0]), ("dial-connect_v6", outside[1])]) {
        assert!(!dials(&scene, &cgroup.path, ip, REFUSED));
        let before = refusals(&gateway);
        assert!(before >= 1.0, "{before}");
        force_off(&scene, pin);
        wait_for_repairs(&gateway, times);
        assert!(!dials(&scene, &cgroup.path, ip, REFUSED));
        assert!(refusals(&gateway) > before, "{pin}");
        assert!(dials(&scene, &cgroup.path, ip, ALLOWED));
    }
    // What is in force is left alone.
    assert_eq!(repairs(&gateway), 2);
}

#[test]
fn what_leaves_by_an_interface_that_took_the_place_of_one_that_was_moved_away_is_judged() {
    let Some(scene) = Scene::build() else { return };
    let Some(cgroup) = Cgroup::make("place") else { return };
    let (outside, _servers) = servers(&scene);
    let gateway = start(&scene, &cgroup);
    let _elsewhere = crate::robust::take_the_place_of_edge(&scene);
    wait_for_repairs(&gateway, 1);
    for ip in &outside {
        let reaches = || connects(&scene.lab.gateway, SocketAddr::new(*ip, ALLOWED));
        wait::until(PATIENCE, "the new link to be up", reaches).unwrap();
        assert!(!connects(&scene.lab.gateway, SocketAddr::new(*ip, REFUSED)), "{ip}");
    }
}
