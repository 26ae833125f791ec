//! BPF_PROG_TEST_RUN: the loaded program forwards frames as the host's functions rewrite them, and counts what it cannot
//! forward by its reason.

use aya::maps::{Array, HashMap};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use nix::net::if_::if_nametoindex;
use portcullis_ebpf_common::forward::{Forward, Service, WORDS_EACH, to_word};
use portcullis_ebpf_common::link::Link;
use portcullis_ebpf_common::tables::{self, Setting};
use portcullis_ebpf_common::{Addresses, Cause, FlowKey, Packet, Ports, Protocol, Seen, nat, walk};
use portcullis_tests::netns;
use portcullis_tests::skip::skip;
use portcullis_tests::topology::Lab;

use crate::object;
use crate::program::{Program, ethernet, tcp};

pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_REDIRECT: u32 = 4;

pub(crate) const CLIENT: [u8; 4] = [192, 0, 2, 1];
pub(crate) const SERVICE: [u8; 4] = [192, 0, 2, 2];
pub(crate) const OURS: [u8; 4] = [10, 77, 0, 1];
pub(crate) const SERVER: [u8; 4] = [10, 77, 0, 10];
pub(crate) const BEHIND: u16 = 7_443;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const SYN_ACK: u8 = 0x12;
pub(crate) const ACK: u8 = 0x10;
const RST: u8 = 0x04;

/// A program with one service, whose table of servers has this in every slot.
pub(crate) fn program(sizes: &[(&'static str, u32)], slot: Option<u16>, ports: u32) -> Option<Program> {
    let mut program = Program::load_sized(&object()?, sizes);
    let ebpf = &mut program.ebpf;
    let mut table: Array<_, u64> = ebpf.map_mut(tables::SETTINGS).unwrap().try_into().unwrap();
    table.set(Setting::Forward.index(), 1, 0).unwrap();
    let mut slots: Array<_, u64> = ebpf.map_mut(tables::SLOTS).unwrap().try_into().unwrap();
    let word = slot.map_or_else(|| to_word(&[]), |slot| to_word(&[slot; 4]));
    for place in 0..WORDS_EACH {
        slots.set(place, word, 0).unwrap();
    }
    let mut servers: Array<_, [u64; 5]> = ebpf.map_mut(tables::SERVERS).unwrap().try_into().unwrap();
    servers.set(0, key((OURS, 0), (SERVER, BEHIND)).to_words(), 0).unwrap();
    let mut services: HashMap<_, [u64; 5], [u64; 2]> =
        ebpf.map_mut(tables::SERVICES).unwrap().try_into().unwrap();
    let entry = Service { table: 0, listener: 0, first_port: 20_000, ports, fallback: 0 };
    services.insert(key(([0; 4], 0), (SERVICE, 443)).to_words(), entry.to_words(), 0).unwrap();
    for interface in ["edge", "farm"] {
        let index = if_nametoindex(interface).unwrap();
        link(&mut program, interface, Some(Link::new(index, &[], 1500).unwrap()));
    }
    Some(program)
}

/// Says how frames leave by a device, or that they cannot.
pub(crate) fn link(program: &mut Program, device: &str, link: Option<Link>) {
    let mut links: HashMap<_, u32, [u64; 3]> =
        program.ebpf.map_mut(tables::LINKS).unwrap().try_into().unwrap();
    let device = if_nametoindex(device).unwrap();
    match link {
        Some(link) => links.insert(device, link.to_words(), 0).unwrap(),
        None => links.remove(&device).unwrap(),
    }
}

pub(crate) fn key(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> FlowKey {
    let ports = Ports { source: source.1, destination: destination.1 };
    FlowKey::new(&Addresses::v4(source.0, destination.0), Protocol::Tcp, ports)
}

fn ip(from: [u8; 4], to: [u8; 4], hops: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [t0, t1] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let header = [0x45, 0, t0, t1, 0, 1, 0x40, 0, hops, protocol, 0x12, 0x34];
    [&header[..], &from, &to, payload].concat()
}

/// A segment of the client's.
pub(crate) fn client(port: u16, flags: u8, hops: u8, data: usize) -> Vec<u8> {
    let mut segment = [&tcp(443, flags)[..], &vec![7; data]].concat();
    segment[..2].copy_from_slice(&port.to_be_bytes());
    ethernet(0x0800, &ip(CLIENT, SERVICE, hops, 6, &segment))
}

/// A segment of the server's to one of our ports.
pub(crate) fn server(port: u16, flags: u8) -> Vec<u8> {
    let mut segment = tcp(port, flags);
    segment[..2].copy_from_slice(&BEHIND.to_be_bytes());
    ethernet(0x0800, &ip(SERVER, OURS, 64, 6, &segment))
}

/// Runs a frame; what leaves instead of it.
pub(crate) fn run(program: &mut Program, frame: &[u8]) -> (u32, Cause, Vec<u8>) {
    let (action, cause) = program.run(frame);
    if action == XDP_DROP {
        return (action, cause, Vec::new());
    }
    let xdp: &mut Xdp = program.ebpf.program_mut(tables::PROGRAM).unwrap().try_into().unwrap();
    let mut out = vec![0; 4096];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let length = xdp.test_run(options).unwrap().data_size_out;
    out.truncate(usize::try_from(length).unwrap());
    (action, cause, out)
}

pub(crate) fn parsed(frame: &[u8]) -> Packet {
    walk(frame).and_then(Seen::packet).unwrap()
}

/// What the host makes of the frame on the same way, but for the addresses of the link.
pub(crate) fn rewritten(frame: &[u8], out: &FlowKey) -> Vec<u8> {
    let (packet, mut frame) = (parsed(frame), frame.to_vec());
    nat::rewrite(frame.as_mut_slice(), &packet, out).unwrap();
    frame.split_off(12)
}

/// The gateway of a lab whose neighbours are known.
pub(crate) fn lab() -> Option<Lab> {
    object()?;
    if let Err(reason) = netns::available() {
        skip(&format!("no network namespaces: {reason}"));
        return None;
    }
    let lab = Lab::in_namespaces().unwrap();
    let gateway = lab.gateway.namespace().unwrap();
    for arguments in [
        "route add 192.0.2.0/24 dev edge",
        "neigh add 192.0.2.1 lladdr 02:00:00:00:00:0c dev edge nud permanent",
        "neigh add 10.77.0.10 lladdr 02:00:00:00:00:0d dev farm nud permanent",
        "route add 10.77.0.10/32 dev farm mtu lock 1400",
    ] {
        gateway.ip(&arguments.split(' ').collect::<Vec<_>>()).unwrap();
    }
    lab.gateway.enter(|| Ok(std::fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "1")?)).unwrap();
    Some(lab)
}

#[test]
fn a_flow_leaves_as_the_host_rewrites_it_from_its_first_segment_on() {
    let Some(lab) = lab() else { return };
    lab.gateway
        .enter(|| {
            let mut program = program(&[], Some(0), 1).unwrap();
            let (to_server, to_client) =
                (key((OURS, 20_000), (SERVER, BEHIND)), key((SERVICE, 443), (CLIENT, 50_000)));
            let steps = [
                (client(50_000, SYN, 64, 0), &to_server, 0x0d),
                (client(50_000, SYN, 64, 0), &to_server, 0x0d),
                (server(20_000, SYN_ACK), &to_client, 0x0c),
                (client(50_000, ACK, 64, 0), &to_server, 0x0d),
                (client(50_000, ACK, 64, 99), &to_server, 0x0d),
                (server(20_000, ACK), &to_client, 0x0c),
            ];
            for (frame, out, neighbour) in &steps {
                let (action, cause, left) = run(&mut program, frame);
                assert_eq!((action, cause), (XDP_REDIRECT, Cause::Forwarded), "{frame:?}");
                assert_eq!((left[..6].last(), &left[12..]), (Some(neighbour), &rewritten(frame, out)[..]));
                assert_eq!(parsed(&left).key, **out);
                // With tags it leaves as without.
                let tagged = [&frame[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2], &frame[12..]].concat();
                assert_eq!(run(&mut program, &tagged), (XDP_REDIRECT, Cause::Forwarded, left));
            }
            let flows: HashMap<_, [u64; 5], [u64; 11]> =
                program.ebpf.map(tables::FORWARDS).unwrap().try_into().unwrap();
            let up = flows.get(&to_client.reversed().to_words(), 0).unwrap();
            let up = Forward::from_words(up);
            // Each frame ran twice, and twice with tags.
            assert_eq!((up.out, up.bytes), (to_server, 4 * 99));
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_client_clears_what_the_server_still_holds_and_then_gets_its_connection() {
    let Some(lab) = lab() else { return };
    lab.gateway
        .enter(|| {
            let mut program = program(&[], Some(0), 1).unwrap();
            let begin = client(50_000, SYN, 64, 0);
            assert_eq!(program.run(&client(50_000, RST, 64, 0)).1, Cause::NoFlow);
            for frame in [&begin, &server(20_000, ACK), &client(50_000, RST, 64, 0), &begin] {
                assert_eq!(program.run(frame), (XDP_REDIRECT, Cause::Forwarded));
            }
            // Only a reset goes before the server has agreed.
            assert_eq!(program.run(&client(50_000, ACK, 64, 9)).1, Cause::NoFlow);
            for frame in [server(20_000, SYN_ACK), client(50_000, ACK, 64, 0), server(20_000, ACK)] {
                assert_eq!(program.run(&frame), (XDP_REDIRECT, Cause::Forwarded));
            }
            // The reset was no end of this flow.
            let flows: HashMap<_, [u64; 5], [u64; 11]> =
                program.ebpf.map(tables::FORWARDS).unwrap().try_into().unwrap();
            let up = flows.get(&key((CLIENT, 50_000), (SERVICE, 443)).to_words(), 0).unwrap();
            assert_eq!(Forward::from_words(up).state, 0);
            Ok(())
        })
        .unwrap();
}

#[test]
fn errors_are_forwarded_and_what_is_too_big_is_answered() {
    let Some(lab) = lab() else { return };
    lab.gateway
        .enter(|| {
            let mut program = program(&[], Some(0), 1).unwrap();
            for frame in [client(50_000, SYN, 64, 0), server(20_000, SYN_ACK), client(50_000, ACK, 64, 0)] {
                assert_eq!(program.run(&frame), (XDP_REDIRECT, Cause::Forwarded));
            }
            // A router on the client's side complains about what the service has sent.
            let quoted = ip(SERVICE, CLIENT, 60, 6, &{
                let mut segment = tcp(50_000, ACK);
                segment[..2].copy_from_slice(&443_u16.to_be_bytes());
                segment
            });
            let error = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &quoted].concat();
            let error = ethernet(0x0800, &ip([198, 51, 100, 7], SERVICE, 64, 1, &error));
            let (action, cause, left) = run(&mut program, &error);
            assert_eq!((action, cause), (XDP_REDIRECT, Cause::ForwardedError));
            let (left, expected) = (parsed(&left), Addresses::v4(OURS, SERVER));
            assert_eq!(left.addresses, expected);
            assert_eq!(left.quoted.addresses, expected.reversed());
            assert_eq!(left.quoted.ports, Ports { source: BEHIND, destination: 20_000 });

            for data in [1360, 1361] {
                let frame = client(50_000, ACK, 64, data);
                let (action, cause, left) = run(&mut program, &frame);
                if data == 1360 {
                    assert_eq!((action, cause), (XDP_REDIRECT, Cause::Forwarded));
                    continue;
                }
                assert_eq!((action, cause), (XDP_REDIRECT, Cause::ForwardTooBig));
                let packet = parsed(&frame);
                let mut answer = [&[0; 28][..], &frame].concat();
                answer.truncate(14 + 28 + 128);
                nat::too_big::write(answer.as_mut_slice(), &packet, 1400).unwrap();
                assert_eq!(left, answer);
            }
            assert_eq!(program.run(&client(50_000, ACK, 1, 0)), (XDP_DROP, Cause::ForwardHopLimit));
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_cannot_begin_is_dropped_by_its_reason() {
    let Some(lab) = lab() else { return };
    lab.gateway
        .enter(|| {
            let mut none = program(&[], None, 1).unwrap();
            assert_eq!(none.run(&client(50_000, SYN, 64, 0)), (XDP_DROP, Cause::ForwardNoServer));

            let mut one = program(&[(tables::FORWARDS, 1)], Some(0), 1).unwrap();
            assert_eq!(one.run(&client(50_000, SYN, 64, 0)), (XDP_REDIRECT, Cause::Forwarded));
            assert_eq!(one.run(&client(50_001, SYN, 64, 0)), (XDP_DROP, Cause::ForwardNoPort));
            // Who has not been answered has nothing to say.
            assert_eq!(one.run(&client(50_000, ACK, 64, 0)), (XDP_DROP, Cause::NoFlow));
            assert_eq!(one.run(&server(20_000, SYN_ACK)), (XDP_REDIRECT, Cause::Forwarded));
            assert_eq!(one.run(&client(50_000, ACK, 64, 0)), (XDP_DROP, Cause::ForwardFull));

            let mut lost = program(&[], Some(0), 1).unwrap();
            lab.gateway.namespace().unwrap().ip(&["neigh", "del", "10.77.0.10", "dev", "farm"])?;
            assert_eq!(lost.run(&client(50_000, SYN, 64, 0)), (XDP_DROP, Cause::ForwardNoRoute));
            Ok(())
        })
        .unwrap();
}
