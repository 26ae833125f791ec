//! BPF_PROG_TEST_RUN: the loaded program gives each frame the verdict that the same function gives on the host.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use portcullis_ebpf_common::tables::{self, Action, Ban, Interface, Role, RuleKey, RuleValue, Setting};
use portcullis_ebpf_common::{
    Addresses, Cause, Flow, FlowKey, Lookup, Packet, Ports, Protocol, TcpFlags, Verdict, verdict,
};

use crate::object;
use crate::wire::BpfFs;

/// Frames run as if they had come in by the loopback interface.
const LOOPBACK: u32 = 1;
pub(crate) const SLOT: u8 = 3;
pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;
pub(crate) const XDP_TX: u32 = 3;

pub(crate) struct Program {
    pub(crate) ebpf: Ebpf,
    _pins: BpfFs,
}

impl Program {
    pub(crate) fn load(object: &Path) -> Self {
        Self::load_sized(object, &[])
    }

    /// With queues for so many processors.
    pub(crate) fn load_for(object: &Path, processors: u32) -> Self {
        Self::load_sized(object, &[(tables::CPUS, processors)])
    }

    /// With tables of these sizes.
    pub(crate) fn load_sized(object: &Path, sizes: &[(&'static str, u32)]) -> Self {
        let pins = BpfFs::mount();
        let bytes = std::fs::read(object).unwrap();
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(pins.path()).map_max_entries(tables::CPUS, 1);
        for (map, entries) in sizes {
            loader.map_max_entries(map, *entries);
        }
        let mut ebpf = loader.load(&bytes).unwrap();
        let mut table: HashMap<_, [u8; 4], [u8; 8]> =
            ebpf.map_mut(tables::INTERFACES).unwrap().try_into().unwrap();
        let interface = Interface::new(SLOT, Role::Edge, (32_768, 60_999));
        table.insert(LOOPBACK.to_be_bytes(), interface.to_bytes(), 0).unwrap();
        let mut table: HashMap<_, [u8; 4], u64> = ebpf.map_mut(tables::RULES).unwrap().try_into().unwrap();
        for (protocol, port, action) in RULES {
            let key = RuleKey::new(Role::Edge.to_byte(), protocol.number(), port);
            table.insert(key.to_bytes(), RuleValue::new(action).to_word(), 0).unwrap();
        }
        let mut table: LpmTrie<_, [u8; 4], [u8; 8]> =
            ebpf.map_mut(tables::BANS_V4).unwrap().try_into().unwrap();
        table.insert(&Key::new(24, [203, 0, 113, 0]), Ban::until(u64::MAX).to_bytes(), 0).unwrap();
        table.insert(&Key::new(24, [198, 18, 0, 0]), Ban::until(1).to_bytes(), 0).unwrap();
        let mut table: LpmTrie<_, [u8; 16], [u8; 8]> =
            ebpf.map_mut(tables::BANS_V6).unwrap().try_into().unwrap();
        let mut prefix = [0; 16];
        prefix[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb9]);
        table.insert(&Key::new(32, prefix), Ban::until(u64::MAX).to_bytes(), 0).unwrap();
        let mut table: Array<_, u64> = ebpf.map_mut(tables::SETTINGS).unwrap().try_into().unwrap();
        table.set(Setting::Bans.index(), 1, 0).unwrap();
        let program: &mut Xdp = ebpf.program_mut(tables::PROGRAM).unwrap().try_into().unwrap();
        program.load().unwrap();
        Self { ebpf, _pins: pins }
    }

    /// Makes the interface of test runs, which is the loopback interface, another one.
    pub(crate) fn assign(&mut self, interface: Interface) {
        let mut table: HashMap<_, [u8; 4], [u8; 8]> =
            self.ebpf.map_mut(tables::INTERFACES).unwrap().try_into().unwrap();
        table.insert(LOOPBACK.to_be_bytes(), interface.to_bytes(), 0).unwrap();
    }

    pub(crate) fn set(&mut self, setting: Setting, value: u64) {
        let mut table: Array<_, u64> = self.ebpf.map_mut(tables::SETTINGS).unwrap().try_into().unwrap();
        table.set(setting.index(), value, 0).unwrap();
    }

    pub(crate) fn count(&self, cause: Cause) -> u64 {
        let counters: PerCpuArray<_, u64> = self.ebpf.map(tables::COUNTERS).unwrap().try_into().unwrap();
        counters.get(&tables::counter(SLOT, cause.index()), 0).unwrap().iter().sum()
    }

    /// Runs one frame and returns the action; the cause is what was counted.
    pub(crate) fn run(&mut self, frame: &[u8]) -> (u32, Cause) {
        let (action, cause, _) = self.run_to_frame(frame);
        (action, cause)
    }

    /// The same with the frame that the program leaves.
    pub(crate) fn run_to_frame(&mut self, frame: &[u8]) -> (u32, Cause, Vec<u8>) {
        let before: Vec<u64> = Cause::ALL.iter().map(|cause| self.count(*cause)).collect();
        let program: &mut Xdp = self.ebpf.program_mut(tables::PROGRAM).unwrap().try_into().unwrap();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        // It may leave longer than it came.
        let mut left = vec![0; frame.len() + 256];
        options.data_out = Some(&mut left);
        let result = program.test_run(options).unwrap();
        let counted: Vec<Cause> = Cause::ALL
            .iter()
            .zip(before)
            .filter(|(cause, before)| self.count(**cause) == before + 1)
            .map(|(cause, _)| *cause)
            .collect();
        assert_eq!(counted.len(), 1, "{counted:?} for {frame:?}");
        left.truncate(usize::try_from(result.data_size_out).unwrap());
        (result.return_value, counted[0], left)
    }
}

const RULES: [(Protocol, u16, Action); 3] = [
    (Protocol::Tcp, 443, Action::Accept),
    (Protocol::Udp, 443, Action::Accept),
    (Protocol::Tcp, 444, Action::Drop),
];

/// The same tables on the host; the frames of the comparison belong to no socket.
#[derive(Default)]
struct Host {
    fragments: RefCell<HashSet<FlowKey>>,
}

impl Lookup for Host {
    fn is_management(&self) -> bool {
        false
    }

    fn is_banned(&self, addresses: &Addresses) -> bool {
        match addresses.source_ip() {
            IpAddr::V4(source) => source.octets().starts_with(&[203, 0, 113]),
            IpAddr::V6(source) => source.octets().starts_with(&[0x20, 1, 0xd, 0xb9]),
        }
    }

    fn rule(&self, _: &Addresses, protocol: u8, port: u16) -> Option<Action> {
        RULES.iter().find(|rule| (rule.0.number(), rule.1) == (protocol, port)).map(|rule| rule.2)
    }

    fn is_ours(&self, _: &Packet) -> bool {
        false
    }

    fn remember(&self, fragments: &FlowKey) {
        self.fragments.borrow_mut().insert(*fragments);
    }

    fn remembers(&self, fragments: &FlowKey) -> bool {
        self.fragments.borrow().contains(fragments)
    }
}

pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[2; 12][..], &ethertype.to_be_bytes(), payload].concat()
}

pub(crate) fn v4(source: [u8; 4], protocol: u8, options: usize, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options;
    let [t0, t1] = u16::try_from(header + payload.len()).unwrap().to_be_bytes();
    let [f0, f1] = fragment.to_be_bytes();
    let first = 0x40 | u8::try_from(header / 4).unwrap();
    let fixed = [first, 0, t0, t1, 0, 1, f0, f1, 64, protocol, 0, 0];
    ethernet(0x0800, &[&fixed[..], &source, &[192, 0, 2, 2], &vec![1; options], payload].concat())
}

pub(crate) fn v6(source: &str, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let [l0, l1] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let fixed = [0x60, 0, 0, 0, l0, l1, next, hops];
    ethernet(0x86dd, &[&fixed[..], &address(source), &address("2001:db8::2"), payload].concat())
}

pub(crate) fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&[0xc3, 0x50]);
    header[2..4].copy_from_slice(&port.to_be_bytes());
    header[12] = 0x50;
    header[13] = flags;
    header.to_vec()
}

pub(crate) fn udp(source: u16, port: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &port.to_be_bytes(), &[0, 12, 0, 0], b"four"].concat()
}

pub(crate) const A: [u8; 4] = [192, 0, 2, 1];

pub(crate) fn frames() -> Vec<(Vec<u8>, Cause)> {
    use Cause::*;
    let icmpv6 = |kind: u8, hops| v6("fe80::9", 58, hops, &[kind, 0, 0, 0, 0, 0, 0, 0]);
    let hop_by_hop = [&[60, 0, 0, 0, 0, 0, 0, 0][..], &[6, 0, 0, 0, 0, 0, 0, 0], &tcp(443, 2)].concat();
    let tagged = |frame: Vec<u8>, tags: &[u8]| [&frame[..12], tags, &frame[12..]].concat();
    vec![
        (v4(A, 6, 0, 0, &tcp(443, 2)), RuleAccepts),
        (v4(A, 6, 40, 0, &tcp(443, 2)), RuleAccepts),
        (tagged(v4(A, 6, 0, 0, &tcp(443, 2)), &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]), RuleAccepts),
        (v6("2001:db8::1", 6, 64, &tcp(443, 2)), RuleAccepts),
        (v6("2001:db8::1", 0, 64, &hop_by_hop), RuleAccepts),
        (v4(A, 17, 0, 0, &udp(9, 443)), RuleAccepts),
        (v4(A, 6, 0, 0, &tcp(444, 2)), RuleDrops),
        (v4(A, 6, 0, 0, &tcp(22, 2)), NoRule),
        (v6("2001:db8::1", 6, 64, &tcp(22, 2)), NoRule),
        (v4(A, 17, 0, 0, &udp(9, 53)), NoRule),
        (v4([203, 0, 113, 9], 6, 0, 0, &tcp(443, 2)), Banned),
        (v6("2001:db9::1", 6, 64, &tcp(443, 2)), Banned),
        // A ban that has ended.
        (v4([198, 18, 0, 1], 6, 0, 0, &tcp(443, 2)), RuleAccepts),
        (v4(A, 6, 0, 0, &tcp(443, 3)), TcpFlags),
        (v4(A, 6, 0, 0, &tcp(443, 0)), TcpFlags),
        (v4(A, 6, 0, 0, &tcp(443, 2)[..19]), TcpHeader),
        (v4(A, 6, 0, 0x2000, &tcp(443, 2)[..8]), FragmentTiny),
        (v4(A, 6, 0, 1, &[0; 24]), FragmentOverlap),
        // A later fragment without a first one, a first one, and a later one of the same datagram.
        (v4(A, 17, 0, 2, &[0; 16]), FragmentUnknown),
        (v4(A, 17, 0, 0x2000, &udp(9, 443)[..8]), RuleAccepts),
        (v4(A, 17, 0, 1, &[0; 16]), Fragment),
        (v4(A, 1, 0, 0x2000, &[3, 4, 0, 0, 0, 0, 0, 0]), IcmpFragment),
        (v4(A, 6, 0, 0, &tcp(443, 0x10)), NoFlow),
        (
            v4(A, 1, 0, 0, &[&[3, 4, 0, 0, 0, 0, 0, 0][..], &v4(A, 6, 0, 0, &tcp(9, 16))[14..]].concat()),
            IcmpUnrelated,
        ),
        (v4(A, 1, 0, 0, &[3, 4, 0, 0, 0, 0, 0, 0]), IcmpQuote),
        (v4(A, 17, 0, 0, &[0; 9]), UdpLength),
        (v4(A, 17, 0, 0, &udp(9, 0)), PortZero),
        (v4(A, 47, 0, 0, &[0; 9]), OtherProtocol),
        (v4(A, 1, 0, 0, &[8, 0, 0, 0, 0, 0, 0, 0]), Icmp),
        (v4(A, 1, 0, 0, &[5, 0, 0, 0, 0, 0, 0, 0]), IcmpType),
        (v4(A, 1, 0, 0, &[8]), IcmpHeader),
        (v4([127, 0, 0, 1], 6, 0, 0, &tcp(443, 2)), Bogon),
        (v6("::1", 6, 64, &tcp(443, 2)), Bogon),
        (v4([192, 0, 2, 2], 6, 0, 0, &tcp(443, 2)), Land),
        (v6("2001:db8::2", 6, 64, &tcp(443, 2)), Land),
        (icmpv6(135, 255), Neighbour),
        (icmpv6(135, 254), NeighbourFar),
        (icmpv6(2, 64), IcmpQuote),
        (icmpv6(128, 64), Icmp),
        (v6("2001:db8::1", 43, 64, &[6, 0, 0, 0, 0, 0, 0, 0]), RoutingHeader),
        (v6("2001:db8::1", 60, 64, &[60, 9, 0, 0, 0, 0, 0, 0]), Extension),
        (ethernet(0x0800, &[0x44; 20]), IpHeader),
        (v4(A, 6, 0, 0, &tcp(443, 2))[..40].to_vec(), IpLength),
        (ethernet(0x0800, &[0x45; 10]), Truncated),
        (ethernet(0x0806, &[&[0, 1, 8, 0, 6, 4][..], &[0; 22]].concat()), Arp),
        (ethernet(0x0806, &[0; 28]), ArpHeader),
        (ethernet(0x88cc, &[0; 50]), LinkControl),
        (ethernet(0x8847, &[0; 50]), EtherType),
        (ethernet(0x8100, &[0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1]), VlanDepth),
    ]
}

#[test]
fn the_kernel_gives_every_frame_the_verdict_that_the_host_gives() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    let host = Host::default();
    for (frame, cause) in frames() {
        assert_eq!(verdict(frame.as_slice(), &host).cause, cause, "on the host: {frame:?}");
        let expected = match cause.verdict() {
            Verdict::Pass => XDP_PASS,
            Verdict::Drop => XDP_DROP,
            Verdict::Answer => XDP_TX,
        };
        assert_eq!(program.run(&frame), (expected, cause), "{frame:?}");
    }
}

/// Numbers that repeat: a fault must be found again.
fn noise(state: &mut u64) -> u8 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    state.to_be_bytes()[0]
}

#[test]
fn kernel_and_host_agree_on_thousands_of_damaged_frames() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    let (frames, host, mut state) = (frames(), Host::default(), 1);
    for round in 0..3_000_usize {
        let mut frame = frames[round % frames.len()].0.clone();
        for _ in 0..=noise(&mut state) % 3 {
            let at = usize::from(noise(&mut state)) % frame.len();
            frame[at] = noise(&mut state);
        }
        frame.truncate(frame.len() - usize::from(noise(&mut state) % 8).min(frame.len() - 14));
        let expected = verdict(frame.as_slice(), &host).cause;
        let (_, cause) = program.run(&frame);
        assert_eq!(cause, expected, "round {round}: {frame:?}");
    }
}

#[test]
fn a_client_socket_gets_its_answers_and_a_server_socket_needs_a_rule() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = client.local_addr().unwrap().port();
    let frame = v4([192, 0, 2, 1], 17, 0, 0, &udp(53, port));
    assert_eq!(program.run(&frame).1, Cause::OwnSocket);
    drop(client);
    assert_eq!(program.run(&frame).1, Cause::NoRule);
    let server = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = server.local_addr().unwrap().port();
    assert_eq!(program.run(&v4(A, 6, 0, 0, &tcp(port, 2))).1, Cause::NoRule);
}

#[test]
fn an_interface_without_a_role_lets_everything_in() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    let mut interfaces: HashMap<_, [u8; 4], [u8; 8]> =
        program.ebpf.map_mut(tables::INTERFACES).unwrap().try_into().unwrap();
    interfaces.remove(&LOOPBACK.to_be_bytes()).unwrap();
    for frame in [v4(A, 6, 0, 0, &tcp(22, 2)), v4(A, 6, 0, 0, &tcp(443, 3))] {
        let xdp: &mut Xdp = program.ebpf.program_mut(tables::PROGRAM).unwrap().try_into().unwrap();
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        assert_eq!(xdp.test_run(options).unwrap().return_value, XDP_PASS);
    }
    let counters: PerCpuArray<_, u64> = program.ebpf.map(tables::COUNTERS).unwrap().try_into().unwrap();
    let place = tables::counter(tables::NO_SLOT, Cause::NoRole.index());
    assert_eq!(counters.get(&place, 0).unwrap().iter().sum::<u64>(), 2);
}

#[test]
fn packets_of_an_admitted_flow_pass_and_are_counted_and_errors_about_it_pass() {
    let Some(object) = object() else { return };
    let mut program = Program::load(&object);
    let addresses = Addresses::v4([203, 0, 113, 9], [192, 0, 2, 2]);
    let ports = Ports { source: 50_000, destination: 8_022 };
    let frame = v4([203, 0, 113, 9], 6, 0, 0, &[&tcp(8_022, TcpFlags::ACK)[..], b"twelve bytes"].concat());
    let ours = [
        &[0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 2, 203, 0, 113, 9][..],
        &[0x1f, 0x56, 0xc3, 0x50],
        &[0; 4],
    ];
    let error = v4([10, 9, 9, 9], 1, 0, 0, &[&[3, 4, 0, 0, 0, 0, 5, 0][..], &ours.concat()].concat());
    assert_eq!(program.run(&frame).1, Cause::Banned);
    assert_eq!(program.run(&error).1, Cause::IcmpUnrelated);
    let key = FlowKey::new(&addresses, Protocol::Tcp, ports).to_words();
    let mut flows: HashMap<_, [u64; 5], [u64; 4]> =
        program.ebpf.map_mut(tables::FLOWS).unwrap().try_into().unwrap();
    flows.insert(key, Flow::new(None, 1).to_words(), 0).unwrap();
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow));
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow));
    assert_eq!(program.run(&error), (XDP_PASS, Cause::IcmpError));
    let flows: HashMap<_, [u64; 5], [u64; 4]> = program.ebpf.map(tables::FLOWS).unwrap().try_into().unwrap();
    let flow = Flow::from_words(flows.get(&key, 0).unwrap());
    assert_eq!((flow.packets, flow.bytes), (2, 24));
    assert!(flow.seen > 1);
}
