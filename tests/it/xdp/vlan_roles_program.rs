//! BPF_PROG_TEST_RUN: at an interface whose VLANs have roles of their own, the tags of a frame say by which rules it is
//! judged and where it is counted. The table of VLANs is written by hand, so that no VLAN device is needed.

use aya::maps::{HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use portcullis_ebpf_common::link::Tag;
use portcullis_ebpf_common::rules::{RuleKey, RuleValue};
use portcullis_ebpf_common::tables::{self, Action, Interface, Role, Setting};
use portcullis_ebpf_common::vlan::{Tags, VlanKey};
use portcullis_ebpf_common::{Bogons, Cause, Policy, TcpFlags, Verdict};

use crate::object;
use crate::program::{A, Program, SLOT, XDP_DROP, XDP_PASS, ethernet, tcp, udp, v4, v6};

/// Frames run as if they had come in by the loopback interface.
const LOOPBACK: u32 = 1;
const PORTS: (u16, u16) = (32_768, 60_999);
const TC_UNSPEC: u32 = u32::MAX;
const TC_SHOT: u32 = 2;
/// Where VLANs are counted.
const EDGE: u8 = 4;
const FARM: u8 = 5;
const MGMT: u8 = 6;
const BANNED: [u8; 4] = [203, 0, 113, 9];

fn vlan_10() -> Vec<u8> {
    vec![0x81, 0, 0, 10]
}

fn vlan_20() -> Vec<u8> {
    // With a priority.
    vec![0x81, 0, 0xe0, 20]
}

fn vlan_30_in_300() -> Vec<u8> {
    vec![0x88, 0xa8, 1, 44, 0x81, 0, 0, 30]
}

fn tagged(tags: &[u8], frame: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

/// A program at an interface that carries VLANs of every role; without a role of its own unless it gets one.
fn program(own: Option<Role>) -> Option<Program> {
    let mut program = Program::load(&object()?);
    let trunk =
        own.map_or(Interface::carrier(SLOT, PORTS), |role| Interface::new(SLOT, role, PORTS).carrying());
    let mut interfaces: HashMap<_, [u8; 4], [u8; 8]> =
        program.ebpf.map_mut(tables::INTERFACES).unwrap().try_into().unwrap();
    interfaces.insert(LOOPBACK.to_be_bytes(), trunk.to_bytes(), 0).unwrap();
    let mut vlans: HashMap<_, [u32; 3], [u8; 8]> =
        program.ebpf.map_mut(tables::VLANS).unwrap().try_into().unwrap();
    for (tags, slot, role) in [
        (&[Tag::new(0x8100, 10)][..], EDGE, Role::Edge),
        (&[Tag::new(0x8100, 20)], FARM, Role::Farm),
        (&[Tag::new(0x88a8, 300), Tag::new(0x8100, 30)], MGMT, Role::Mgmt),
    ] {
        let key = VlanKey::new(LOOPBACK, Tags::new(tags).unwrap()).to_words();
        vlans.insert(key, Interface::new(slot, role, PORTS).to_bytes(), 0).unwrap();
    }
    let mut rules: HashMap<_, [u8; 4], u64> =
        program.ebpf.map_mut(tables::RULES).unwrap().try_into().unwrap();
    let ssh = RuleKey::new(Role::Mgmt.to_byte(), 6, 22);
    rules.insert(ssh.to_bytes(), RuleValue::new(Action::Accept).to_word(), 0).unwrap();
    Some(program)
}

fn counts(program: &Program) -> Vec<(u8, Cause, u64)> {
    let counters: PerCpuArray<_, u64> = program.ebpf.map(tables::COUNTERS).unwrap().try_into().unwrap();
    let slots = [SLOT, EDGE, FARM, MGMT].into_iter().flat_map(|slot| [slot, slot + tables::EGRESS_SLOT]);
    let all = slots.flat_map(|slot| Cause::ALL.iter().map(move |cause| (slot, *cause)));
    let count =
        |slot, cause: Cause| counters.get(&tables::counter(slot, cause.index()), 0).unwrap().iter().sum();
    all.map(|(slot, cause)| (slot, cause, count(slot, cause))).collect()
}

/// What a step counts, and where.
fn counted(program: &mut Program, step: impl FnOnce(&mut Program) -> u32) -> (u32, u8, Cause) {
    let before = counts(program);
    let action = step(program);
    let grown: Vec<_> =
        counts(program).into_iter().zip(before).filter(|(after, before)| after != before).collect();
    let [((slot, cause, _), _)] = grown[..] else { panic!("{grown:?}") };
    (action, slot, cause)
}

fn comes(program: &mut Program, frame: &[u8]) -> (u32, u8, Cause) {
    counted(program, |program| {
        let xdp: &mut Xdp = program.ebpf.program_mut(tables::PROGRAM).unwrap().try_into().unwrap();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        xdp.test_run(options).unwrap().return_value
    })
}

fn leaves(program: &mut Program, frame: &[u8]) -> (u32, u8, Cause) {
    counted(program, |program| {
        let out: &mut SchedClassifier =
            program.ebpf.program_mut(tables::PROGRAM_EGRESS).unwrap().try_into().unwrap();
        if out.fd().is_err() {
            out.load().unwrap();
        }
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        out.test_run(options).unwrap().return_value
    })
}

fn passes(cause: Cause) -> u32 {
    if cause.verdict() == Verdict::Pass { XDP_PASS } else { XDP_DROP }
}

#[test]
fn rules_bans_and_bogons_are_those_of_the_vlan_s_role() {
    let Some(mut program) = program(None) else { return };
    // Sources in 169.254.0.0/16 are refused at the edge.
    program.set(Setting::Policy, Policy::new(false, Bogons::Martians, false).to_word());
    let syn = |source, port| v4(source, 6, 0, 0, &tcp(port, TcpFlags::SYN));
    let link_local = [169, 254, 1, 1];
    for (tags, slot, expected) in [
        (vlan_10(), EDGE, [Cause::RuleAccepts, Cause::NoRule, Cause::Banned, Cause::Bogon]),
        (vlan_20(), FARM, [Cause::NoRule, Cause::NoRule, Cause::Banned, Cause::NoRule]),
        (vlan_30_in_300(), MGMT, [Cause::NoRule, Cause::RuleAccepts, Cause::NoRule, Cause::NoRule]),
    ] {
        let frames = [syn(A, 443), syn(A, 22), syn(BANNED, 443), syn(link_local, 443)];
        for (frame, cause) in frames.iter().zip(expected) {
            let found = comes(&mut program, &tagged(&tags, frame));
            assert_eq!(found, (passes(cause), slot, cause), "{tags:?} {frame:?}");
        }
        let frame = v6("2001:db8::1", 6, 64, &tcp(22, TcpFlags::SYN));
        let cause = expected[1];
        assert_eq!(comes(&mut program, &tagged(&tags, &frame)), (passes(cause), slot, cause));
    }
    // No ban holds for administrators.
    let banned = tagged(&vlan_30_in_300(), &syn(BANNED, 22));
    assert_eq!(comes(&mut program, &banned), (XDP_PASS, MGMT, Cause::RuleAccepts));
}

#[test]
fn what_is_closed_for_one_vlan_is_closed_at_once_and_open_for_another() {
    use portcullis_ebpf_common::Protocol;
    use portcullis_ebpf_common::rules::{closed_place, port_bit};

    let Some(mut program) = program(None) else { return };
    let mut closed: aya::maps::Array<_, [u64; tables::PORT_WORDS]> =
        program.ebpf.map_mut(tables::CLOSED).unwrap().try_into().unwrap();
    for (role, open) in [(Role::Edge, 443), (Role::Mgmt, 22)] {
        let mut ports = [u64::MAX; tables::PORT_WORDS];
        let (word, bit) = port_bit(open);
        ports[usize::from(word)] &= !bit;
        closed.set(closed_place(false, role.to_byte(), Protocol::Tcp), ports, 0).unwrap();
    }
    // A ban is looked at only behind the gate: what it turns away is counted as closed.
    let syn = |port| v4(BANNED, 6, 0, 0, &tcp(port, TcpFlags::SYN));
    for (tags, slot, port, cause) in [
        (vlan_10(), EDGE, 22, Cause::NoRule),
        (vlan_10(), EDGE, 443, Cause::Banned),
        (vlan_30_in_300(), MGMT, 443, Cause::NoRule),
        (vlan_30_in_300(), MGMT, 22, Cause::RuleAccepts),
    ] {
        let found = comes(&mut program, &tagged(&tags, &syn(port)));
        assert_eq!(found, (passes(cause), slot, cause), "{tags:?} {port}");
    }
}

#[test]
fn what_is_no_vlan_s_is_dropped_and_counted_at_the_interface() {
    let syn = v4(A, 6, 0, 0, &tcp(443, TcpFlags::SYN));
    let lldp = ethernet(0x88cc, &[0; 50]);
    for (own, bare, control) in [
        (None, Cause::Untagged, Cause::LinkControl),
        (Some(Role::Edge), Cause::RuleAccepts, Cause::LinkControl),
        (Some(Role::Farm), Cause::NoRule, Cause::LinkControl),
    ] {
        let Some(mut program) = program(own) else { return };
        for (frame, cause) in [
            (syn.clone(), bare),
            (tagged(&[0x81, 0, 0, 0], &syn), bare),
            (lldp.clone(), control),
            (tagged(&[0x81, 0, 0, 11], &syn), Cause::VlanUnknown),
            (tagged(&[0x88, 0xa8, 0, 10], &syn), Cause::VlanUnknown),
            (tagged(&[0x81, 0, 0, 10, 0x81, 0, 0, 10], &syn), Cause::VlanUnknown),
            (tagged(&[0x88, 0xa8, 1, 44], &syn), Cause::VlanUnknown),
            (tagged(&[0x81, 0, 0, 0, 0x81, 0, 0, 10], &syn), Cause::VlanUnknown),
        ] {
            assert_eq!(comes(&mut program, &frame), (passes(cause), SLOT, cause), "{own:?} {frame:?}");
        }
        // A third tag behind two that are known.
        let deep = tagged(&[vlan_30_in_300(), vlan_10()].concat(), &syn);
        assert_eq!(comes(&mut program, &deep), (XDP_DROP, MGMT, Cause::VlanDepth));
    }
}

#[test]
fn an_answer_leaves_by_a_vlan_where_its_port_is_open_and_by_no_other() {
    let Some(mut program) = program(None) else { return };
    program.set(Setting::Policy, Policy::new(false, Bogons::Off, true).to_word());
    // UDP 443 is open at the edge.
    let answer = v4(A, 17, 0, 0, &udp(443, 40_000));
    for (tags, slot, action, cause) in [
        (vlan_10(), EDGE, TC_UNSPEC, Cause::Leaves),
        (vlan_20(), FARM, TC_SHOT, Cause::EgressClosed),
        (vlan_30_in_300(), MGMT, TC_SHOT, Cause::EgressClosed),
        (vec![0x81, 0, 0, 11], SLOT, TC_SHOT, Cause::EgressClosed),
        (Vec::new(), SLOT, TC_SHOT, Cause::EgressClosed),
    ] {
        let found = leaves(&mut program, &tagged(&tags, &answer));
        assert_eq!(found, (action, slot + tables::EGRESS_SLOT, cause), "{tags:?}");
    }
}
