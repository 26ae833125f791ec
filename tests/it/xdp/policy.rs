//! The policy: sources, limits, protocols by number, bogons, what leaves, and its change in a running daemon.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use portcullis_ebpf_common::rules::{EGRESS, RuleKey, RuleValue, SET_BITS, set_key_v4, set_key_v6};
use portcullis_ebpf_common::tables::{self, Action, Role, Setting};
use portcullis_ebpf_common::{Bogons, Cause, Policy, TcpFlags};
use portcullis_tests::gateway::Gateway;
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::flood::begun;
use crate::object;
use crate::program::{A, Program, SLOT, tcp, udp, v4, v6};
use crate::wire::{CLOSED, OPEN, Scene, connects, dropped};

const SYN: u8 = TcpFlags::SYN;
/// What the kernel's traffic control takes for yes and no (linux/pkt_cls.h).
const TC_UNSPEC: u32 = u32::MAX;
const TC_SHOT: u32 = 2;

impl Program {
    fn rule(&mut self, key: RuleKey, value: RuleValue) {
        let mut table: HashMap<_, [u8; 4], u64> =
            self.ebpf.map_mut(tables::RULES).unwrap().try_into().unwrap();
        table.insert(key.to_bytes(), value.to_word(), 0).unwrap();
    }

    fn source_v4(&mut self, set: u32, address: [u8; 4], length: u32, value: RuleValue) {
        let mut table: LpmTrie<_, [u32; 2], u64> =
            self.ebpf.map_mut(tables::RULES_V4).unwrap().try_into().unwrap();
        let key = set_key_v4(set, u32::from_ne_bytes(address));
        table.insert(&Key::new(SET_BITS + length, key), value.to_word(), 0).unwrap();
    }

    fn source_v6(&mut self, set: u32, first: [u8; 4], length: u32, value: RuleValue) {
        let mut table: LpmTrie<_, [u32; 5], u64> =
            self.ebpf.map_mut(tables::RULES_V6).unwrap().try_into().unwrap();
        let key = set_key_v6(set, [u32::from_ne_bytes(first), 0, 0, 0]);
        table.insert(&Key::new(SET_BITS + length, key), value.to_word(), 0).unwrap();
    }

    fn policy(&mut self, policy: Policy) {
        let mut table: Array<_, u64> = self.ebpf.map_mut(tables::SETTINGS).unwrap().try_into().unwrap();
        table.set(Setting::Policy.index(), policy.to_word(), 0).unwrap();
    }

    fn count_out(&self, cause: Cause) -> u64 {
        let counters: PerCpuArray<_, u64> = self.ebpf.map(tables::COUNTERS).unwrap().try_into().unwrap();
        let place = tables::counter(SLOT + tables::EGRESS_SLOT, cause.index());
        counters.get(&place, 0).unwrap().iter().sum()
    }

    /// A frame that leaves by the loopback interface.
    fn leaves(&mut self, frame: &[u8]) -> (u32, Cause) {
        let before: Vec<u64> = Cause::ALL.iter().map(|cause| self.count_out(*cause)).collect();
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(tables::PROGRAM_EGRESS).unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap();
        }
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        let result = program.test_run(options).unwrap();
        let counted =
            Cause::ALL.iter().zip(before).find(|(cause, before)| self.count_out(**cause) == before + 1);
        (result.return_value, *counted.unwrap().0)
    }
}

fn edge(protocol: u8, port: u16) -> RuleKey {
    RuleKey::new(Role::Edge.to_byte(), protocol, port)
}

const fn policy(second: bool) -> Policy {
    Policy::new(second, Bogons::Off, false)
}

#[test]
fn a_rule_holds_for_its_sources_of_either_family() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    program.rule(edge(6, 8022), RuleValue::by_address(4));
    let (accept, drop) = (RuleValue::new(Action::Accept), RuleValue::new(Action::Drop));
    program.source_v4(4, [192, 0, 2, 0], 24, accept);
    program.source_v4(4, [192, 0, 2, 128], 25, drop);
    program.source_v4(6, [0; 4], 0, accept);
    program.source_v6(4, [0x20, 1, 0xd, 0xb8], 32, accept);
    for (frame, cause) in [
        (v4([192, 0, 2, 1], 6, 0, 0, &tcp(8022, SYN)), Cause::RuleAccepts),
        (v4([192, 0, 2, 200], 6, 0, 0, &tcp(8022, SYN)), Cause::RuleDrops),
        (v4([198, 51, 100, 1], 6, 0, 0, &tcp(8022, SYN)), Cause::NoRule),
        (v6("2001:db8::1", 6, 64, &tcp(8022, SYN)), Cause::RuleAccepts),
        (v6("2001:dba::1", 6, 64, &tcp(8022, SYN)), Cause::NoRule),
    ] {
        assert_eq!(program.run(&frame).1, cause, "{frame:?}");
    }
}

#[test]
fn protocols_without_ports_have_rules_by_number() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    let vrrp = v4(A, 112, 0, 0, &[0; 20]);
    assert_eq!(program.run(&vrrp).1, Cause::OtherProtocol);
    program.rule(edge(112, 0), RuleValue::new(Action::Accept));
    assert_eq!(program.run(&vrrp).1, Cause::RuleAccepts);
    assert_eq!(program.run(&v4(A, 50, 0, 0, &[0; 20])).1, Cause::OtherProtocol);
    program.rule(edge(50, 0), RuleValue::new(Action::Drop));
    assert_eq!(program.run(&v4(A, 50, 0, 0, &[0; 20])).1, Cause::RuleDrops);
}

#[test]
fn a_limit_counts_each_source_for_itself_and_by_row() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    // Few enough that none comes back while the test runs.
    for port in [5000, 5001] {
        program.rule(edge(17, port), RuleValue::limit(1, 3));
    }
    program.rule(edge(17, 5002), RuleValue::limit(2, 3));
    program.rule(edge(6, 5003), RuleValue::limit(3, 1));
    let causes = |program: &mut Program, frame: &[u8], count: usize| -> Vec<Cause> {
        (0..count).map(|_| program.run(frame).1).collect()
    };
    let (passes, over) = (Cause::RuleAccepts, Cause::OverLimit);
    let from = |last, port| v4([192, 0, 2, last], 17, 0, 0, &udp(9, port));
    assert_eq!(causes(&mut program, &from(1, 5000), 4), [passes, passes, passes, over]);
    assert_eq!(program.run(&from(1, 5001)).1, over, "a row has one limit for its ports");
    assert_eq!(program.run(&from(1, 5002)).1, passes);
    assert_eq!(program.run(&from(3, 5000)).1, passes);
    let inner = |host| v6(&format!("2001:db8:7::{host}"), 17, 64, &udp(9, 5000));
    assert_eq!(causes(&mut program, &inner(1), 3), [passes; 3]);
    assert_eq!(program.run(&inner(2)).1, over, "hosts of one /64 share");
    assert_eq!(causes(&mut program, &v4(A, 6, 0, 0, &tcp(5003, SYN)), 2), [passes, over]);
    // What has begun is not counted; here it belongs to no connection.
    assert_eq!(program.run(&v4(A, 6, 0, 0, &tcp(5003, TcpFlags::ACK))).1, Cause::NoFlow);
}

#[test]
fn bogons_are_refused_by_degree() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    let frame = |source| v4(source, 6, 0, 0, &tcp(443, SYN));
    let sixth = |source| v6(source, 6, 64, &tcp(443, SYN));
    for (bogons, local, private, site, documentation) in [
        (Bogons::Off, Cause::RuleAccepts, Cause::RuleAccepts, Cause::RuleAccepts, Cause::RuleAccepts),
        (Bogons::Martians, Cause::Bogon, Cause::RuleAccepts, Cause::Bogon, Cause::RuleAccepts),
        (Bogons::Full, Cause::Bogon, Cause::Bogon, Cause::Bogon, Cause::Bogon),
    ] {
        program.policy(Policy::new(false, bogons, false));
        assert_eq!(program.run(&frame([169, 254, 1, 1])).1, local);
        assert_eq!(program.run(&frame([10, 1, 1, 1])).1, private);
        assert_eq!(program.run(&sixth("fec0::1")).1, site);
        assert_eq!(program.run(&sixth("2001:db8::1")).1, documentation);
        assert_eq!(program.run(&frame([8, 8, 8, 8])).1, Cause::RuleAccepts);
        // Neighbours speak from link-local addresses.
        let neighbour = v6("fe80::9", 58, 255, &[135, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(program.run(&neighbour).1, Cause::Neighbour);
    }
}

#[test]
fn one_word_puts_another_generation_of_rules_in_force() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    program.rule(edge(6, 8443).in_generation(true), RuleValue::new(Action::Accept));
    let (old, new) = (v4(A, 6, 0, 0, &tcp(443, SYN)), v4(A, 6, 0, 0, &tcp(8443, SYN)));
    for second in [false, true, false] {
        program.policy(policy(second));
        let (expected_old, expected_new) =
            if second { (Cause::NoRule, Cause::RuleAccepts) } else { (Cause::RuleAccepts, Cause::NoRule) };
        assert_eq!((program.run(&old).1, program.run(&new).1), (expected_old, expected_new));
    }
}

#[test]
fn what_leaves_is_judged_when_it_begins_something() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    let syn = |port| v4(A, 6, 0, 0, &tcp(port, SYN));
    let datagram = |from, port| v4(A, 17, 0, 0, &udp(from, port));
    assert_eq!(program.leaves(&syn(80)), (TC_UNSPEC, Cause::EgressOpen));
    let to = |protocol, port| RuleKey::new(EGRESS, protocol, port);
    program.rule(to(6, 80), RuleValue::by_address(2));
    program.source_v4(2, [192, 0, 2, 0], 24, RuleValue::new(Action::Accept));
    program.rule(to(6, 0), RuleValue::by_address(4));
    program.source_v4(4, [192, 0, 2, 2], 32, RuleValue::new(Action::Drop));
    program.policy(Policy::new(false, Bogons::Off, true));
    let unspecified = [&[0_u8, 1, 8, 0, 6, 4][..], &[0; 22]].concat();
    for (frame, action, cause) in [
        (syn(80), TC_UNSPEC, Cause::EgressAccepts),
        (syn(81), TC_SHOT, Cause::EgressDrops),
        (datagram(40_000, 53), TC_SHOT, Cause::EgressClosed),
        (datagram(443, 40_000), TC_UNSPEC, Cause::Leaves),
        (v4(A, 6, 0, 0, &tcp(81, TcpFlags::ACK)), TC_UNSPEC, Cause::Leaves),
        (v4(A, 6, 0, 0, &tcp(81, TcpFlags::ACK | SYN)), TC_UNSPEC, Cause::Leaves),
        (v4(A, 1, 0, 0, &[8, 0, 0, 0, 0, 0, 0, 0]), TC_UNSPEC, Cause::Leaves),
        (v4(A, 47, 0, 0, &[0; 20]), TC_SHOT, Cause::EgressClosed),
        (v6("2001:db8::1", 6, 64, &tcp(80, SYN)), TC_SHOT, Cause::EgressClosed),
        (crate::program::ethernet(0x0806, &unspecified), TC_UNSPEC, Cause::Leaves),
        (crate::program::ethernet(0x8847, &[0; 50]), TC_SHOT, Cause::EtherType),
    ] {
        assert_eq!(program.leaves(&frame), (action, cause), "{frame:?}");
    }
}

/// Opens the closed port for some.
fn opened(from: &str) -> String {
    format!(
        "[[xdp.rule]]\nrole = \"edge\"\nprotocol = \"tcp\"\nports = [{CLOSED}]\nfrom = [\"{from}\"]\naction = \"accept\"\n"
    )
}

fn reload(gateway: &mut Gateway, more: &str) -> Value {
    gateway.setup().merge(more).unwrap();
    gateway.setup().write().unwrap();
    gateway.cli_json(["reload"]).unwrap()
}

fn reverts_in(gateway: &Gateway) -> Option<u64> {
    gateway.cli_json(["xdp", "status"]).unwrap()["reverts_in_seconds"].as_u64()
}

#[test]
fn written_sources_are_let_in_and_others_are_not() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let [v4, _] = [scene.lab.outside.v4[0], scene.lab.outside.v6[0]];
    let gateway = scene.start(&opened(&v4.to_string()));
    assert_eq!(scene.reaches(CLOSED), [true, false]);
    let [own, _] = scene.edge();
    let test = |source: &str| {
        let port = CLOSED.to_string();
        gateway.cli(["ports", "test", source, &own.to_string(), "tcp", &port, "--role", "edge"]).unwrap()
    };
    let (passes, drops) = (test(&v4.to_string()), test("198.51.100.200"));
    assert!(passes.code == Some(0) && passes.stdout.contains("[[xdp.rule]] 1"), "{passes:?}");
    assert_eq!(drops.code, Some(1), "{drops:?}");
    // Who cannot read the file, as operators of the appliance, is told what is in force.
    if std::path::Path::new("/etc/portcullis/portcullis.toml").exists() {
        return skip("this machine has a configuration of its own");
    }
    let socket = gateway.dir().join("control.sock");
    let without_file = |words: &[&str]| {
        let mut command = std::process::Command::new(process::binary("portcullis").unwrap());
        process::run(command.arg("--socket").arg(&socket).arg("--json").args(words), PATIENCE).unwrap()
    };
    let answer = |output: &process::Output| serde_json::from_str::<Value>(&output.stdout).unwrap();
    let (port, own) = (CLOSED.to_string(), own.to_string());
    for (source, code, verdict) in [(v4.to_string(), 0, "pass"), ("198.51.100.200".to_owned(), 1, "drop")] {
        let output = without_file(&["ports", "test", &source, &own, "tcp", &port]);
        assert_eq!(
            (output.code, answer(&output)["verdict"].as_str()),
            (Some(code), Some(verdict)),
            "{output:?}"
        );
    }
    let [shown, asked] =
        [gateway.cli(["--json", "ports", "show"]).unwrap(), without_file(&["ports", "show"])];
    assert_eq!(answer(&shown), answer(&asked));
    let differs = without_file(&["ports", "diff"]);
    assert!(!differs.success() && differs.stderr.contains("configure compare"), "{differs:?}");
}

#[test]
fn a_limit_lets_a_neighbour_begin_so_many_and_no_more() {
    let Some(scene) = Scene::build() else { return };
    let rule = "[[xdp.rule]]\nrole = \"edge\"\nprotocol = \"udp\"\nports = [5300]\naction = \"limit\"\nrate = \"2/s\"\n";
    let gateway = scene.start(rule);
    let [to, _] = scene.edge();
    let server = scene.lab.gateway.enter(|| Ok(UdpSocket::bind((to, 5300))?)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = scene.lab.outside.enter(|| Ok(UdpSocket::bind((scene.lab.outside.v4[0], 0))?)).unwrap();
    for _ in 0..50 {
        client.send_to(b"x", (to, 5300)).unwrap();
    }
    server.recv(&mut [0; 8]).unwrap();
    wait::until(PATIENCE, "drops to be counted", || dropped(&gateway, "edge", "limit") > 10).unwrap();
}

#[test]
fn a_changed_policy_is_in_force_at_once_and_taken_back_unless_it_is_confirmed() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let mut gateway = scene.start("confirm = \"3s\"");
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    let answer = reload(&mut gateway, &opened("0.0.0.0/0"));
    assert!(answer["confirm_within_seconds"].as_u64().is_some(), "{answer}");
    assert!(answer["live"].as_array().unwrap().contains(&json!("xdp.rule")), "{answer}");
    wait::until(PATIENCE, "the policy to be taken back", || reverts_in(&gateway).is_none()).unwrap();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    // The file has it still, and says so.
    let differs = gateway.cli(["--json", "ports", "diff"]).unwrap();
    let value: Value = serde_json::from_str(&differs.stdout).unwrap();
    assert_eq!((differs.code, value["added"].as_array().unwrap().len()), (Some(1), 1), "{value}");
    // Confirmed, it stays.
    reload(&mut gateway, "[xdp]\nconfirm = \"600s\"");
    assert!(reverts_in(&gateway).is_some_and(|left| left > 500));
    assert_eq!(scene.reaches(CLOSED), [true, false]);
    gateway.cli(["reload", "confirm"]).unwrap().ok().unwrap();
    assert_eq!(reverts_in(&gateway), None);
    assert_eq!(scene.reaches(CLOSED), [true, false]);
    gateway.cli(["ports", "diff"]).unwrap().ok().unwrap();
    let again = gateway.cli(["reload", "confirm"]).unwrap();
    assert!(!again.success(), "{again:?}");
}

#[test]
fn a_commit_that_changes_the_policy_is_on_trial_by_itself_and_comes_back_whole() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let gateway = scene.start("confirm = \"4s\"");
    let before = std::fs::read_to_string(gateway.config_file()).unwrap();
    let configure =
        |words: &[&str]| gateway.cli(std::iter::once("configure").chain(words.iter().copied())).unwrap();
    let ports = format!("{{ role = \"edge\", protocol = \"tcp\", ports = [{CLOSED}], action = \"accept\" }}");
    configure(&["set", "xdp.rule.+", &ports]).ok().unwrap();
    let said = configure(&["commit"]).ok().unwrap().stdout;
    assert!(said.contains("unless it is confirmed"), "{said}");
    wait::until(PATIENCE, "the policy to be taken back", || reverts_in(&gateway).is_none()).unwrap();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert_eq!(std::fs::read_to_string(gateway.config_file()).unwrap(), before);
    // Confirmed, file and kernel have it.
    configure(&["rollback", "1"]).ok().unwrap();
    configure(&["commit", "confirm", "5"]).ok().unwrap();
    assert!(scene.reaches(CLOSED)[0]);
    configure(&["confirm"]).ok().unwrap();
    assert_eq!(reverts_in(&gateway), None);
    assert!(scene.reaches(CLOSED)[0]);
    gateway.cli(["ports", "diff"]).unwrap().ok().unwrap();
}

#[test]
fn a_restart_takes_back_what_nobody_has_confirmed() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let mut gateway = scene.start("confirm = \"600s\"");
    reload(&mut gateway, &opened("0.0.0.0/0"));
    assert_eq!(scene.reaches(CLOSED), [true, false]);
    let mut gateway = gateway.halt().unwrap().start_in(&scene.lab.gateway).unwrap();
    assert_eq!(scene.reaches(CLOSED), [false, false]);
    assert!(gateway.log().contains("not confirmed"), "{}", gateway.log());
    // Tried again and confirmed, it holds for the next start.
    reload(&mut gateway, "");
    gateway.cli(["reload", "confirm"]).unwrap().ok().unwrap();
    let _gateway = gateway.halt().unwrap().start_in(&scene.lab.gateway).unwrap();
    assert_eq!(scene.reaches(CLOSED), [true, false]);
}

#[test]
fn budgets_sizes_and_steering_come_with_a_policy_and_go_with_it() {
    const TRIES: usize = 4;
    let Some(scene) = Scene::build() else { return };
    let keys = "flows = 4096\nsteering = \"off\"\nflood = { cookies = \"off\" }\nconfirm = ";
    let mut gateway = scene.start(&format!("{keys}\"600s\""));
    let begins = || scene.edge().map(|ip| begun(&scene, ip, TRIES) == TRIES);
    let fixed = |gateway: &Gateway| {
        let status = gateway.cli_json(["xdp", "status"]).unwrap();
        let tables = status["maps"].as_array().unwrap().clone();
        let flows = tables.iter().find(|table| table["name"] == "flows").unwrap()["most"].as_u64();
        (flows, status["steering"]["on"].as_bool())
    };
    let before = (Some(4096), Some(false));
    assert_eq!((begins(), fixed(&gateway)), ([true, true], before));
    let tried = "[xdp]\nflows = 8192\nsteering = \"on\"\n[xdp.flood]\nsyn_per_source = \"1/s\"\n";
    reload(&mut gateway, &(opened("0.0.0.0/0") + tried));
    assert_eq!(begins(), [false, false], "what can be in force at once is");
    let mut gateway = gateway.halt().unwrap().start_in(&scene.lab.gateway).unwrap();
    assert_eq!((begins(), fixed(&gateway)), ([true, true], before), "nobody has confirmed it");
    // Tried again it is taken back whole.
    reload(&mut gateway, "[xdp]\nconfirm = \"5s\"");
    assert_eq!(begins(), [false, false]);
    wait::until(PATIENCE, "the policy to be taken back", || reverts_in(&gateway).is_none()).unwrap();
    assert_eq!(begins(), [true, true]);
    // Confirmed it is in force whole.
    reload(&mut gateway, "[xdp]\nconfirm = \"600s\"");
    gateway.cli(["reload", "confirm"]).unwrap().ok().unwrap();
    let gateway = gateway.halt().unwrap().start_in(&scene.lab.gateway).unwrap();
    assert_eq!((begins(), fixed(&gateway)), ([false, false], (Some(8192), Some(true))));
}

#[test]
fn a_reload_that_would_lock_administrators_out_changes_nothing() {
    let Some(scene) = Scene::build() else { return };
    let _strangers = scene.strangers();
    let mut gateway = scene.start("");
    gateway.setup().merge(&(opened("0.0.0.0/0") + "[xdp]\nallow_no_management = false\n")).unwrap();
    gateway.setup().write().unwrap();
    let refused = gateway.cli(["reload"]).unwrap();
    assert!(!refused.success() && refused.stderr.contains("lock administrators out"), "{refused:?}");
    assert_eq!(scene.reaches(CLOSED), [false, false]);
}

/// A directory of cgroup v2 for one test, on a mount of its own: a command in a namespace sees another /sys.
pub(crate) struct Cgroup {
    root: TempDir,
    pub(crate) path: PathBuf,
}

impl Cgroup {
    pub(crate) fn make(name: &str) -> Option<Self> {
        let root = tempfile::Builder::new().prefix("pc-cgroup-").tempdir().unwrap();
        let mounted = mount(Some("cgroup2"), root.path(), Some("cgroup2"), MsFlags::empty(), None::<&str>);
        let path = root.path().join(format!("pc-{name}-{}", std::process::id()));
        if mounted.is_err() || std::fs::create_dir(&path).is_err() {
            skip("no cgroup v2 can be made");
            return None;
        }
        Some(Self { root, path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.path).ok();
        umount2(self.root.path(), MntFlags::MNT_DETACH).ok();
    }
}

#[test]
fn closed_egress_lets_out_what_a_row_accepts_and_nothing_else() {
    let Some(scene) = Scene::build() else { return };
    let Some(cgroup) = Cgroup::make("egress") else { return };
    let outside: Vec<IpAddr> = vec![scene.lab.outside.v4[0], scene.lab.outside.v6[0]];
    let listen = |ip: &IpAddr, port| {
        scene.lab.outside.enter(|| Ok(TcpListener::bind(SocketAddr::new(*ip, port))?)).unwrap()
    };
    let _servers: Vec<TcpListener> =
        outside.iter().flat_map(|ip| [listen(ip, 7000), listen(ip, 7001)]).collect();
    let gateway = scene.start(&format!(
        "egress_policy = \"closed\"\ncgroup = \"{}\"\n[[xdp.egress]]\nprotocol = \"tcp\"\nports = [7000]\naction = \"accept\"\n",
        cgroup.path.display()
    ));
    // This process is in another cgroup: its packets meet the rules at the interface.
    for ip in &outside {
        assert!(connects(&scene.lab.gateway, SocketAddr::new(*ip, 7000)), "{ip}");
        assert!(!connects(&scene.lab.gateway, SocketAddr::new(*ip, 7001)), "{ip}");
    }
    let status = gateway.cli_json(["xdp", "drops"]).unwrap();
    let rows = status.as_array().unwrap();
    let out = |row: &&Value| row["direction"] == "out" && row["reason"] == "egress_closed";
    assert!(rows.iter().find(out).is_some_and(|row| row["interface"] == "edge"), "{status}");
    // One in the cgroup is told so at once.
    for (port, allowed) in [(7000, true), (7001, false)] {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec 3<>/dev/tcp/{}/{port}",
            cgroup.path.display(),
            outside[0]
        );
        let mut child = scene.lab.gateway.command("bash");
        let output = process::run(child.args(["-c", &script]), PATIENCE).unwrap();
        assert_eq!(output.code == Some(0), allowed, "{output:?}");
        assert_eq!(output.stderr.contains("not permitted"), !allowed, "{output:?}");
    }
    // Who comes in still gets answers.
    assert_eq!(scene.reaches(OPEN), [true, true]);
    let away =
        gateway.cli(["ports", "test", &scene.edge()[0].to_string(), "192.0.2.77", "tcp", "7001"]).unwrap();
    assert_ne!(away.code, Some(0), "{away:?}");
    // Detaching takes this off too.
    let pins = scene.pin_dir().display().to_string();
    gateway.cli(["xdp", "detach", "--pins", &pins]).unwrap().ok().unwrap();
    assert!(connects(&scene.lab.gateway, SocketAddr::new(outside[0], 7001)));
}
