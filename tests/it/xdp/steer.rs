//! Steering: packets of a flow go to the processor that owns it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use aya::maps::{CpuMap, HashMap};
use aya::programs::{Xdp, XdpMode};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portcullis_ebpf_common::tables::{self, Interface, Role, Setting};
use portcullis_ebpf_common::{Addresses, Cause, Flow, FlowKey, Ports, Protocol};
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::wait::PATIENCE;

use crate::object;
use crate::program::{A, Program, SLOT, XDP_PASS, tcp, v4};
use crate::wire::{OPEN, Scene};

const XDP_REDIRECT: u32 = 4;

fn own(program: &mut Program, owner: u16) {
    own_flow(program, &Addresses::v4(A, [192, 0, 2, 2]), 50_000, owner);
}

fn own_flow(program: &mut Program, addresses: &Addresses, source: u16, owner: u16) {
    let key = FlowKey::new(addresses, Protocol::Tcp, Ports { source, destination: 443 });
    let mut flows: HashMap<_, [u64; 5], [u64; 4]> =
        program.ebpf.map_mut(tables::FLOWS).unwrap().try_into().unwrap();
    flows.insert(key.to_words(), Flow::new(Some(owner), 1).to_words(), 0).unwrap();
}

#[test]
fn a_packet_goes_to_the_processor_that_owns_its_flow_or_passes_where_it_cannot() {
    let Some(object) = object() else { return };
    if thread::available_parallelism().unwrap().get() < 2 {
        skip("steering needs two processors");
        return;
    }
    let mut program = Program::load_for(&object, 2);
    stay_on(0);
    let frame = v4(A, 6, 0, 0, &tcp(443, 0x10));
    own(&mut program, 0);
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow), "it is there already");
    own(&mut program, 1);
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow), "the processor has no queue");
    let mut queues: CpuMap<_> = program.ebpf.map_mut(tables::CPUS).unwrap().try_into().unwrap();
    queues.set(1, 64, None, 0).unwrap();
    assert_eq!(program.run(&frame), (XDP_REDIRECT, Cause::Steered));
    let interface = Interface::new(SLOT, Role::Edge, (32_768, 60_999));
    program.assign(interface.steered(false));
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow), "packets of this interface stay");
    program.assign(interface);
    assert_eq!(program.run(&frame), (XDP_REDIRECT, Cause::Steered));
    // A processor beyond the table, as after a change of the machine.
    own(&mut program, 77);
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow));
}

fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// Sends back whatever comes.
fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 16 * 1024];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
        }
    });
}

/// Sends and gets back. Of much, packets are many and segments full.
fn exchange(stream: &TcpStream, length: usize, seed: u8) {
    let bytes: Vec<u8> = (0..length).map(|at| (at % 251).to_le_bytes()[0] ^ seed).collect();
    thread::scope(|scope| {
        let (mut out, sent) = (stream, &bytes);
        scope.spawn(move || out.write_all(sent).unwrap());
        let (mut back, mut input) = (vec![0; bytes.len()], stream);
        input.read_exact(&mut back).unwrap();
        assert!(back == bytes, "what came back is not what was sent");
    });
}

#[test]
fn a_connection_whose_packets_change_the_processor_loses_nothing() {
    let Some(object) = object() else { return };
    if thread::available_parallelism().unwrap().get() < 2 {
        skip("steering needs two processors");
        return;
    }
    let Some(scene) = Scene::build() else { return };
    let mut program = Program::load_for(&object, 2);
    // The addresses of the lab are banned in there.
    program.set(Setting::Bans, 0);
    let mut queues: CpuMap<_> = program.ebpf.map_mut(tables::CPUS).unwrap().try_into().unwrap();
    queues.set(0, 512, None, 0).unwrap();
    queues.set(1, 512, None, 0).unwrap();
    let index = scene.lab.gateway.enter(|| Ok(if_nametoindex("edge")?)).unwrap();
    let mut table: HashMap<_, [u8; 4], [u8; 8]> =
        program.ebpf.map_mut(tables::INTERFACES).unwrap().try_into().unwrap();
    let interface = Interface::new(SLOT, Role::Edge, (32_768, 60_999));
    table.insert(index.to_be_bytes(), interface.to_bytes(), 0).unwrap();
    let xdp: &mut Xdp = program.ebpf.program_mut(tables::PROGRAM).unwrap().try_into().unwrap();
    scene.lab.gateway.enter(|| Ok(xdp.attach_to_if_index(index, XdpMode::Driver)?)).unwrap();
    // A redirected packet does not keep the promise of a checksum that this kind of link makes.
    let mut ethtool = scene.lab.outside.command("ethtool");
    ethtool.args(["-K", "wan", "tx", "off"]);
    process::run(&mut ethtool, PATIENCE).unwrap().ok().unwrap();
    for to in scene.edge() {
        let to = SocketAddr::new(to, OPEN);
        serve(scene.lab.gateway.enter(|| Ok(TcpListener::bind(to)?)).unwrap());
        let stream = scene.lab.outside.enter(|| Ok(TcpStream::connect(to)?)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        // As do the threads that send, which begin here.
        stay_on(0);
        let from = stream.local_addr().unwrap();
        let addresses = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Addresses::v4(from.octets(), to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => Addresses::v6(from.octets(), to.octets()),
            other => panic!("{other:?}"),
        };
        let before = program.count(Cause::Steered);
        for owner in [0, 1, 0] {
            own_flow(&mut program, &addresses, from.port(), owner);
            exchange(&stream, 400_000, owner.to_le_bytes()[0]);
        }
        // What is sent while nothing is under way comes in on the sender's processor; the rest follows the answers.
        own_flow(&mut program, &addresses, from.port(), 1);
        for seed in 0..60 {
            exchange(&stream, 1_000, seed);
        }
        assert!(program.count(Cause::Steered) > before + 50, "packets changed the processor");
    }
}
