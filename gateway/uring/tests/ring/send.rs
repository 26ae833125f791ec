//! Sending: all bytes in order, or an error; and being ready.

use std::io::{ErrorKind, Read as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use portcullis_uring::{Chunk, Class, Event, SEND_CHUNKS, Settings};

use crate::world::{
    PATIENCE, both, clog, events, get, now, pair, pattern, put, ring, small, tcp_pair, token, until,
};

fn is_sent(event: &Event) -> bool {
    matches!(event, Event::Sent { result: Ok(()), .. })
}

#[test]
fn several_chunks_arrive_in_their_order() {
    for settings in both() {
        let mut ring = ring(&settings);
        let (socket, mut peer) = tcp_pair(&mut ring);
        for count in 1..=SEND_CHUNKS {
            let all = pattern(count * 1000, count * 700);
            ring.send(socket, all.chunks(700).map(|part| Chunk::from_vec(part.to_vec())), token(1));
            let sent = events(&mut ring, 1);
            assert!(sent.len() == 1 && sent.iter().all(is_sent), "{sent:?}");
            assert_eq!(get(&mut peer, all.len()), all);
        }
    }
}

#[test]
fn only_the_filled_range_is_sent() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    let mut chunk = Chunk::from_vec(b"(hello)".to_vec());
    chunk.set_range(1..6);
    ring.send(socket, [chunk, Chunk::from_vec(Vec::new()), Chunk::from_vec(b" you".to_vec())], token(1));
    assert!(events(&mut ring, 1).iter().all(is_sent));
    assert_eq!(get(&mut peer, 9), b"hello you");
}

#[test]
fn the_last_bytes_come_with_the_end_of_the_stream() {
    for settings in both() {
        let mut ring = ring(&settings);
        let (socket, mut peer) = tcp_pair(&mut ring);
        ring.send_last(socket, [Chunk::from_vec(b"goodbye".to_vec())], token(1));
        assert!(events(&mut ring, 1).iter().all(is_sent));
        ring.shutdown(socket, Shutdown::Write);
        let mut all = Vec::new();
        peer.read_to_end(&mut all).expect("the end");
        assert_eq!(all, b"goodbye");
    }
}

#[test]
fn a_received_chunk_goes_out_again_and_comes_back_to_its_pool() {
    for settings in both() {
        let mut ring = ring(&Settings { client_buffers: 1, ..settings });
        let (socket, mut peer) = tcp_pair(&mut ring);
        ring.receive(socket, Class::Client, token(1));
        for turn in 0..50_usize {
            let message = pattern(turn, 300);
            put(&mut peer, &message);
            let Some(Event::Received { mut chunk, .. }) = events(&mut ring, 1).pop() else {
                panic!("no bytes")
            };
            let range = chunk.range();
            chunk.whole_mut().get_mut(range.start - 2..range.start).unwrap().copy_from_slice(b"> ");
            chunk.set_range(range.start - 2..range.end);
            ring.send(socket, [chunk], token(2));
            assert!(events(&mut ring, 1).iter().all(is_sent));
            assert_eq!(get(&mut peer, 302), [b"> ".as_slice(), &message].concat());
            assert_eq!(ring.available(Class::Client), 1);
        }
    }
}

fn big_send(settings: &Settings, ours: UnixStream, mut peer: UnixStream) {
    let mut ring = ring(settings);
    let socket = ring.add(ours.into()).expect("a place");
    let all = pattern(0, 8 << 20);
    let expected = all.clone();
    let reader = thread::spawn(move || {
        let (mut got, mut part) = (Vec::new(), vec![0; 3000]);
        while got.len() < expected.len() {
            let count = peer.read(&mut part).expect("the bytes arrive");
            got.extend_from_slice(&part[..count]);
            thread::yield_now();
        }
        assert!(got == expected);
    });
    ring.send(socket, all.chunks(1 << 20).map(|part| Chunk::from_vec(part.to_vec())), token(1));
    let sent = until(&mut ring, "all is sent", |events| !events.is_empty());
    assert!(sent.len() == 1 && sent.iter().all(is_sent), "{sent:?}");
    reader.join().expect("all bytes are right");
}

#[test]
fn a_big_send_to_a_slow_reader_is_complete_and_in_order() {
    for settings in both() {
        let (ours, peer) = UnixStream::pair().unwrap();
        big_send(&settings, ours, peer);
    }
}

#[test]
fn a_small_send_to_a_full_socket_is_complete_when_the_peer_reads() {
    for settings in both() {
        let mut ring = ring(&settings);
        let (socket, mut peer) = pair(&mut ring);
        let mut ours = UnixStream::from(ring.fd(socket).unwrap().try_clone_to_owned().unwrap());
        let clogged = clog(&mut ours);
        ring.send(socket, [Chunk::from_vec(pattern(5, 900)), Chunk::from_vec(pattern(905, 900))], token(1));
        assert!(now(&mut ring).is_empty());
        assert_eq!(get(&mut peer, clogged), vec![0; clogged]);
        let sent = events(&mut ring, 1);
        assert!(sent.len() == 1 && sent.iter().all(is_sent), "{sent:?}");
        assert_eq!(get(&mut peer, 1800), pattern(5, 1800));
    }
}

#[test]
fn a_socket_that_does_not_block_is_sent_to_just_the_same() {
    for settings in both() {
        let (ours, peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        big_send(&settings, ours, peer);
    }
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    for settings in both() {
        let mut ring = ring(&settings);
        let (socket, peer) = pair(&mut ring);
        drop(peer);
        ring.send(socket, [Chunk::from_vec(vec![1])], token(5));
        let all = events(&mut ring, 1);
        let [Event::Sent { token: of, result: Err(error) }] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((*of, error.kind()), (token(5), ErrorKind::BrokenPipe));
    }
}

#[test]
fn a_peer_that_goes_in_the_middle_of_a_send_is_an_error() {
    for settings in both() {
        let mut ring = ring(&settings);
        let (socket, mut peer) = tcp_pair(&mut ring);
        let chunks = (0..8).map(|_| Chunk::from_vec(vec![7; 4 << 20]));
        ring.send(socket, chunks, token(5));
        assert!(now(&mut ring).is_empty());
        assert_eq!(get(&mut peer, 1000), vec![7; 1000]);
        drop(peer);
        let all = events(&mut ring, 1);
        assert!(matches!(all.as_slice(), [Event::Sent { result: Err(_), .. }]), "{all:?}");
    }
}

#[test]
fn nothing_is_sent_at_once_and_what_is_against_the_rules_fails() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    ring.send(socket, [], token(1));
    ring.send(socket, [Chunk::from_vec(Vec::new())], token(1));
    assert!(events(&mut ring, 2).iter().all(is_sent));
    ring.send(socket, (0..9).map(|_| Chunk::from_vec(vec![1])), token(1));
    let all = events(&mut ring, 1);
    assert!(matches!(all.as_slice(), [Event::Sent { result: Err(_), .. }]), "{all:?}");
    ring.send(socket, [Chunk::from_vec(vec![1; 4 << 20])], token(1));
    ring.send(socket, [Chunk::from_vec(vec![2])], token(2));
    let all = events(&mut ring, 1);
    assert!(
        matches!(all.as_slice(), [Event::Sent { token: of, result: Err(_) }] if *of == token(2)),
        "{all:?}"
    );
    let reader = thread::spawn(move || get(&mut peer, 4 << 20));
    assert!(events(&mut ring, 1).iter().all(is_sent));
    assert_eq!(reader.join().unwrap(), vec![1; 4 << 20]);
}

#[test]
fn a_socket_is_ready_when_it_can_be_read_or_written() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    ring.ready(socket, true, token(1));
    let all = events(&mut ring, 1);
    assert!(matches!(all.as_slice(), [Event::Ready { token: of }] if *of == token(1)), "{all:?}");
    ring.ready(socket, false, token(2));
    ring.ready(socket, false, token(3));
    assert!(now(&mut ring).is_empty());
    put(&mut peer, b"x");
    let all = events(&mut ring, 1);
    assert!(matches!(all.as_slice(), [Event::Ready { token: of }] if *of == token(2)), "{all:?}");
    assert!(now(&mut ring).is_empty(), "once");

    let (full, mut peer) = pair(&mut ring);
    let mut ours = UnixStream::from(ring.fd(full).unwrap().try_clone_to_owned().unwrap());
    let clogged = clog(&mut ours);
    ring.ready(full, true, token(4));
    assert!(now(&mut ring).is_empty());
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(get(&mut peer, clogged).len(), clogged);
    let all = events(&mut ring, 1);
    assert!(matches!(all.as_slice(), [Event::Ready { token: of }] if *of == token(4)), "{all:?}");
    ring.ready(full, false, token(6));
    drop(peer);
    assert_eq!(events(&mut ring, 1).len(), 1, "an end is something to read");
}

#[test]
fn shutting_down_ends_the_stream_of_the_peer() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    ring.shutdown(socket, Shutdown::Write);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    ring.receive(socket, Class::Client, token(1));
    put(&mut peer, b"still open");
    assert_eq!(crate::world::bytes(&events(&mut ring, 1)), b"still open");
}
