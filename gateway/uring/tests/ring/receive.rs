//! Receiving: bytes, room, buffers that run out, and the one end.

use std::net::Shutdown;
use std::time::Duration;

use portcullis_uring::{Class, Event, Settings, Stop};

use crate::world::{
    bytes, events, now, pair, pattern, put, quiet_until, ring, small, tcp_pair, token, until,
};

#[test]
fn bytes_arrive_with_the_room_of_their_class_around_them() {
    let mut ring = ring(&small());
    for class in Class::ALL {
        let (socket, mut peer) = pair(&mut ring);
        ring.receive(socket, class, token(7));
        put(&mut peer, b"hello");
        let [Event::Received { token: from, mut chunk }] =
            <[Event; 1]>::try_from(events(&mut ring, 1)).unwrap()
        else {
            panic!("no bytes");
        };
        let geometry = class.geometry();
        assert_eq!((from, chunk.bytes()), (token(7), b"hello".as_slice()));
        assert_eq!(chunk.range(), geometry.front..geometry.front + 5);
        assert_eq!(chunk.whole_mut().len(), geometry.whole());
        chunk.whole_mut().fill(9);
        ring.close(socket);
    }
}

/// The kernel runs at most 20 arrivals in one call; the rest comes with the next.
#[test]
fn one_call_serves_many_sockets() {
    let mut ring = ring(&Settings { server_buffers: 64, ..small() });
    let mut pairs: Vec<_> = (0..16).map(|_| tcp_pair(&mut ring)).collect();
    for (value, (socket, peer)) in (0..).zip(&mut pairs) {
        ring.receive(*socket, Class::Server, token(value));
        put(peer, b"first");
    }
    let before = ring.enters();
    assert_eq!((now(&mut ring).len(), ring.enters()), (16, before + 1));
    for (_, peer) in &mut pairs {
        put(peer, b"second");
    }
    let before = ring.enters();
    let events = now(&mut ring);
    assert_eq!((events.len(), ring.enters()), (16, before + 1));
    assert_eq!(bytes(&events), b"second".repeat(16));
}

#[test]
fn a_queue_that_is_too_small_for_all_sockets_loses_nothing() {
    let tight = Settings { entries: 4, completions_per_entry: 2, server_buffers: 64, ..small() };
    let mut ring = ring(&tight);
    let mut pairs: Vec<_> = (0..60).map(|_| pair(&mut ring)).collect();
    for (value, (socket, peer)) in (0..).zip(&mut pairs) {
        put(peer, b"x");
        ring.receive(*socket, Class::Server, token(value));
    }
    let first = events(&mut ring, 60);
    assert_eq!(bytes(&first).len(), 60);
    drop(first);
    for (_, peer) in &mut pairs {
        put(peer, b"y");
        peer.shutdown(Shutdown::Write).unwrap();
    }
    let ends = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::End { .. })).count();
    let rest = until(&mut ring, "60 ends", |events| ends(events) == 60);
    assert_eq!((bytes(&rest).len(), rest.len()), (60, 120));
}

#[test]
fn without_a_free_buffer_receiving_stops_and_goes_on_when_chunks_were_dropped() {
    let mut ring = ring(&Settings { server_buffers: 2, ..small() });
    let (socket, mut peer) = pair(&mut ring);
    let all = pattern(0, 3 * 16_384 + 100);
    put(&mut peer, &all);
    ring.receive(socket, Class::Server, token(1));
    let held = events(&mut ring, 3);
    assert!(matches!(held.last(), Some(Event::Stopped { why: Stop::NoBuffer, .. })), "{held:?}");
    assert_eq!((held.len(), ring.available(Class::Server)), (3, 0));
    let mut got = bytes(&held);
    drop(held);
    assert_eq!(ring.available(Class::Server), 2);
    ring.receive(socket, Class::Server, token(2));
    let rest = until(&mut ring, "the rest", |events| got.len() + bytes(events).len() == all.len());
    got.extend(bytes(&rest));
    assert!(got == all);
}

#[test]
fn a_buffer_that_was_dropped_in_the_same_turn_is_no_reason_to_stop() {
    let mut ring = ring(&Settings { server_buffers: 1, ..small() });
    let (socket, mut peer) = pair(&mut ring);
    let all = pattern(0, 100_000);
    put(&mut peer, &all);
    ring.receive(socket, Class::Server, token(1));
    let mut got = Vec::new();
    while got.len() < all.len() {
        ring.wait(Some(Duration::from_secs(10))).unwrap();
        while let Some(event) = ring.next() {
            let Event::Received { chunk, .. } = event else { panic!("{event:?}") };
            got.extend_from_slice(chunk.bytes());
        }
    }
    assert!(got == all);
}

#[test]
fn a_receive_that_is_stopped_ends_once_and_can_begin_again() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    ring.receive(socket, Class::Client, token(1));
    assert!(now(&mut ring).is_empty());
    ring.stop_receiving(socket, token(2));
    assert!(now(&mut ring).is_empty(), "the token was another");
    ring.stop_receiving(socket, token(1));
    ring.stop_receiving(socket, token(1));
    let stopped = events(&mut ring, 1);
    assert!(matches!(stopped.as_slice(), [Event::Stopped { why: Stop::Asked, .. }]), "{stopped:?}");
    put(&mut peer, b"later");
    assert!(now(&mut ring).is_empty());
    ring.receive(socket, Class::Client, token(3));
    assert_eq!(bytes(&events(&mut ring, 1)), b"later");
}

#[test]
fn a_receive_that_is_stopped_before_the_kernel_saw_it_ends_once() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    put(&mut peer, b"early");
    ring.receive(socket, Class::Client, token(1));
    ring.stop_receiving(socket, token(1));
    let all = until(&mut ring, "an end", |events| {
        matches!(events.last(), Some(Event::Stopped { why: Stop::Asked, .. }))
    });
    assert_eq!(bytes(&all), b"early");
    assert_eq!((all.len(), now(&mut ring).len()), (2, 0));
}

#[test]
fn stopping_when_the_peer_has_ended_is_one_end() {
    let mut ring = ring(&small());
    for turn in 0..50 {
        let (socket, peer) = pair(&mut ring);
        ring.receive(socket, Class::Client, token(turn));
        assert!(now(&mut ring).is_empty());
        drop(peer);
        ring.stop_receiving(socket, token(turn));
        let end = events(&mut ring, 1);
        assert!(
            matches!(end.as_slice(), [Event::End { .. } | Event::Stopped { why: Stop::Asked, .. }]),
            "{end:?}"
        );
        assert!(now(&mut ring).is_empty());
        ring.close(socket);
    }
    quiet_until(&mut ring, "all buffers are back", |ring| ring.available(Class::Client) == 8);
}

#[test]
fn the_end_comes_behind_the_bytes_and_costs_no_buffer() {
    let mut ring = ring(&small());
    for turn in 0..100 {
        let (socket, mut peer) = tcp_pair(&mut ring);
        put(&mut peer, b"bye");
        peer.shutdown(Shutdown::Write).unwrap();
        ring.receive(socket, Class::Server, token(turn));
        let all = until(&mut ring, "the end", |events| matches!(events.last(), Some(Event::End { .. })));
        assert_eq!((bytes(&all), all.len()), (b"bye".to_vec(), 2));
        drop(all);
        assert_eq!(ring.available(Class::Server), 8);
        ring.close(socket);
    }
    assert_eq!(ring.in_flight(), 1, "the waker's");
}

#[test]
fn a_reset_is_a_failure() {
    let mut ring = ring(&small());
    let (socket, peer) = tcp_pair(&mut ring);
    ring.receive(socket, Class::Client, token(1));
    assert!(now(&mut ring).is_empty());
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    let end = events(&mut ring, 1);
    let [Event::Stopped { why: Stop::Failed(error), .. }] = end.as_slice() else { panic!("{end:?}") };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_second_receive_of_the_same_socket_does_nothing() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    ring.receive(socket, Class::Client, token(1));
    ring.receive(socket, Class::Server, token(2));
    put(&mut peer, b"once");
    drop(peer);
    let all = events(&mut ring, 2);
    assert!(matches!(all.last(), Some(Event::End { token: end }) if *end == token(1)), "{all:?}");
    assert_eq!((bytes(&all), now(&mut ring).len()), (b"once".to_vec(), 0));
}
