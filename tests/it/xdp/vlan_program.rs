//! BPF_PROG_TEST_RUN: frames leave with the VLAN tags of their way, whatever they came with, and not at all where the way
//! takes no frames. The table of devices is written by hand, so that no VLAN device is needed.

use aya::maps::{Array, HashMap};
use nix::net::if_::if_nametoindex;
use portcullis_ebpf_common::link::{Link, Tag};
use portcullis_ebpf_common::tables::{self, Setting};
use portcullis_ebpf_common::{Cause, nat};

use crate::forward_program::{
    ACK, BEHIND, CLIENT, OURS, SERVER, SERVICE, SYN, SYN_ACK, XDP_DROP, XDP_REDIRECT, client, key, lab, link,
    parsed, program, rewritten, run, server,
};
use crate::program::Program;

const XDP_PASS: u32 = 2;
const CUSTOMER: [u8; 4] = [0x81, 0, 0, 20];
const SERVICE_TAG: [u8; 4] = [0x88, 0xa8, 0x0f, 0xff];

fn tags(count: usize) -> (Vec<Tag>, Vec<u8>) {
    let (service, customer) = (Tag::new(0x88a8, 0x0fff), Tag::new(0x8100, 20));
    match count {
        0 => (Vec::new(), Vec::new()),
        1 => (vec![customer], CUSTOMER.to_vec()),
        _ => (vec![service, customer], [SERVICE_TAG, CUSTOMER].concat()),
    }
}

/// The same frame as it comes by a link with tags.
fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

#[test]
fn a_frame_leaves_with_the_tags_of_its_way_whatever_it_came_with() {
    let Some(lab) = lab() else { return };
    lab.gateway
        .enter(|| {
            let (to_server, to_client) =
                (key((OURS, 20_000), (SERVER, BEHIND)), key((SERVICE, 443), (CLIENT, 50_000)));
            for (outside, inside) in (0..3).flat_map(|outside| (0..3).map(move |inside| (outside, inside))) {
                let mut program = program(&[], Some(0), 1).unwrap();
                for (device, count) in [("edge", outside), ("farm", inside)] {
                    let index = if_nametoindex(device)?;
                    link(&mut program, device, Link::new(index, &tags(count).0, 1500));
                }
                let steps = [
                    (client(50_000, SYN, 64, 0), &to_server, outside, inside),
                    (server(20_000, SYN_ACK), &to_client, inside, outside),
                    (client(50_000, ACK, 64, 0), &to_server, outside, inside),
                    (client(50_000, ACK, 64, 999), &to_server, outside, inside),
                    (server(20_000, ACK), &to_client, inside, outside),
                ];
                for (frame, out, came, leaves) in &steps {
                    let (came, leaves) = (tags(*came).1, tags(*leaves).1);
                    let (action, cause, left) = run(&mut program, &tagged(frame, &came));
                    assert_eq!((action, cause), (XDP_REDIRECT, Cause::Forwarded), "{frame:?}");
                    assert_eq!(left[12..], [&leaves, &rewritten(frame, out)[..]].concat());
                    assert_eq!(parsed(&left).key, **out);
                }
            }
            Ok(())
        })
        .unwrap();
}

/// A program with an open flow, and our port towards its server.
fn with_flow() -> (Program, u16) {
    let mut program = program(&[], Some(0), 10).unwrap();
    let (action, cause, left) = run(&mut program, &client(50_000, SYN, 64, 0));
    assert_eq!((action, cause), (XDP_REDIRECT, Cause::Forwarded));
    let port = parsed(&left).ports.source;
    for frame in [server(port, SYN_ACK), client(50_000, ACK, 64, 0)] {
        assert_eq!(program.run(&frame), (XDP_REDIRECT, Cause::Forwarded));
    }
    (program, port)
}

#[test]
fn what_does_not_fit_with_its_tags_is_answered_and_the_answer_has_the_tags_that_a_card_took_off() {
    let Some(lab) = lab() else { return };
    lab.gateway
        .enter(|| {
            let (mut program, _) = with_flow();
            let inside = if_nametoindex("farm")?;
            link(&mut program, "farm", Link::new(inside, &tags(2).0, 1300));
            let fits = client(50_000, ACK, 64, 1300 - 40);
            assert_eq!(program.run(&fits), (XDP_REDIRECT, Cause::Forwarded));
            let frame = client(50_000, ACK, 64, 1301 - 40);
            let expected = |frame: &[u8]| {
                let packet = parsed(frame);
                let mut answer = [&[0; 28][..], frame].concat();
                answer.truncate(usize::try_from(nat::too_big::length(&packet)).unwrap());
                nat::too_big::write(answer.as_mut_slice(), &packet, 1300).unwrap();
                answer
            };
            // Tags that are in the frame go back as they came.
            let came = tagged(&frame, &tags(1).1);
            let answered = (XDP_REDIRECT, Cause::ForwardTooBig, expected(&came));
            assert_eq!(run(&mut program, &came), answered);
            // Frames of a test come by loopback. Here it has the tag of the way back.
            link(&mut program, "edge", Link::new(1, &tags(1).0, 1500));
            let mut settings: Array<_, u64> =
                program.ebpf.map_mut(tables::SETTINGS).unwrap().try_into().unwrap();
            settings.set(Setting::Tags.index(), 1, 0).unwrap();
            let (action, cause, left) = run(&mut program, &frame);
            assert_eq!((action, cause), (XDP_REDIRECT, Cause::ForwardTooBig));
            assert_eq!(left, tagged(&expected(&frame), &tags(1).1));
            assert_eq!(run(&mut program, &came), answered, "it has its tag");
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_cannot_leave_is_left_to_user_space_when_it_begins_and_dropped_otherwise() {
    let Some(lab) = lab() else { return };
    lab.gateway
        .enter(|| {
            for device in ["farm", "edge"] {
                let (mut program, port) = with_flow();
                link(&mut program, device, None);
                // The service insists on the kernel.
                let again = client(50_001, SYN, 64, 0);
                assert_eq!(program.run(&again), (XDP_DROP, Cause::ForwardNoLink), "{device}");
                let goes_on = match device {
                    "farm" => client(50_000, ACK, 64, 0),
                    _ => server(port, ACK),
                };
                assert_eq!(program.run(&goes_on), (XDP_DROP, Cause::ForwardNoLink), "{device}");
                allow_user_space(&mut program);
                let first = client(50_002, SYN, 64, 0);
                assert_eq!(program.run(&first), (XDP_PASS, Cause::ForwardByUser), "{device}");
                let (action, cause, left) = run(&mut program, &first);
                assert_eq!((action, cause), (XDP_PASS, Cause::ForwardByUser), "{device}");
                assert_eq!(left, first, "it passes as it came");
                assert_eq!(half_open(&program, 50_002), None, "nothing of it stays");
                assert_eq!(program.run(&goes_on), (XDP_DROP, Cause::ForwardNoLink), "{device}");
            }
            Ok(())
        })
        .unwrap();
}

/// Sets what the listener's `data_path` "auto" sets.
fn allow_user_space(program: &mut Program) {
    let mut services: HashMap<_, [u64; 5], [u64; 2]> =
        program.ebpf.map_mut(tables::SERVICES).unwrap().try_into().unwrap();
    let key = key(([0; 4], 0), (SERVICE, 443)).to_words();
    let [first, second] = services.get(&key, 0).unwrap();
    // The last of its words of four bytes.
    let second = second.to_ne_bytes();
    let allowed = u64::from_ne_bytes([second[0], second[1], second[2], second[3], 1, 0, 0, 0]);
    services.insert(key, [first, allowed], 0).unwrap();
}

fn half_open(program: &Program, port: u16) -> Option<[u64; 11]> {
    let table: HashMap<_, [u64; 5], [u64; 11]> =
        program.ebpf.map(tables::HALF_OPEN).unwrap().try_into().unwrap();
    table.get(&key((CLIENT, port), (SERVICE, 443)).to_words(), 0).ok()
}
