//! Steering: packets of a flow go to the processor that owns it.

use aya::maps::{CpuMap, HashMap};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portcullis_ebpf_common::tables;
use portcullis_ebpf_common::{Addresses, Cause, Flow, FlowKey, Ports, Protocol};
use portcullis_tests::skip::skip;

use crate::object;
use crate::program::{A, Program, XDP_PASS, tcp, v4};

const XDP_REDIRECT: u32 = 4;

fn own(program: &mut Program, owner: u16) {
    let addresses = Addresses::v4(A, [192, 0, 2, 2]);
    let key = FlowKey::new(&addresses, Protocol::Tcp, Ports { source: 50_000, destination: 443 });
    let mut flows: HashMap<_, [u64; 5], [u64; 4]> =
        program.ebpf.map_mut(tables::FLOWS).unwrap().try_into().unwrap();
    flows.insert(key.to_words(), Flow::new(Some(owner), 1).to_words(), 0).unwrap();
}

#[test]
fn a_packet_goes_to_the_processor_that_owns_its_flow_or_passes_where_it_cannot() {
    let Some(object) = object() else { return };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        skip("steering needs two processors");
        return;
    }
    let mut program = Program::load_for(&object, 2);
    let mut set = CpuSet::new();
    set.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
    let frame = v4(A, 6, 0, 0, &tcp(443, 0x10));
    own(&mut program, 0);
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow), "it is there already");
    own(&mut program, 1);
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow), "the processor has no queue");
    let mut queues: CpuMap<_> = program.ebpf.map_mut(tables::CPUS).unwrap().try_into().unwrap();
    queues.set(1, 64, None, 0).unwrap();
    assert_eq!(program.run(&frame), (XDP_REDIRECT, Cause::Steered));
    // A processor beyond the table, as after a change of the machine.
    own(&mut program, 77);
    assert_eq!(program.run(&frame), (XDP_PASS, Cause::Flow));
}
