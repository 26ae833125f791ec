//! Closing: nothing is left over, and nothing is heard of it.

use portcullis_uring::{Chunk, Class, Event, Settings};

use crate::world::{
    bytes, clog, ended, events, now, pair, pattern, put, quiet_until, ring, small, tcp_pair, token,
};

#[test]
fn closing_with_everything_in_flight_leaks_nothing_and_says_nothing() {
    let mut ring = ring(&Settings { sockets: 2, client_buffers: 2, ..small() });
    for turn in 0..200 {
        let (socket, mut peer) = pair(&mut ring);
        let mut ours =
            std::os::unix::net::UnixStream::from(ring.fd(socket).unwrap().try_clone_to_owned().unwrap());
        clog(&mut ours);
        drop(ours);
        ring.receive(socket, Class::Client, token(turn));
        ring.send(socket, (0..3).map(|_| Chunk::from_vec(vec![1; 100_000])), token(turn));
        ring.ready(socket, true, token(turn));
        if turn % 2 == 0 {
            assert!(now(&mut ring).is_empty());
        }
        if turn % 3 == 0 {
            put(&mut peer, b"unheard");
        }
        ring.close(socket);
        assert!(ring.fd(socket).is_none());
        quiet_until(&mut ring, "the end of all operations", |ring| ring.in_flight() == 1);
        assert_eq!(ring.available(Class::Client), 2);
        assert!(ended(&mut peer), "the peer sees the end");
    }
}

#[test]
fn what_came_before_the_close_is_not_heard_after_it() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    let (other, mut other_peer) = pair(&mut ring);
    ring.receive(socket, Class::Client, token(1));
    ring.receive(other, Class::Client, token(2));
    put(&mut peer, b"unheard");
    put(&mut other_peer, b"heard");
    ring.wait(None).unwrap();
    ring.send(socket, [], token(1));
    ring.close(socket);
    let all: Vec<Event> = std::iter::from_fn(|| ring.next()).collect();
    assert_eq!((all.len(), bytes(&all)), (1, b"heard".to_vec()));
    drop(all);
    quiet_until(&mut ring, "all buffers are back", |ring| ring.available(Class::Client) == 8);
}

#[test]
fn a_closed_socket_does_nothing_although_its_place_is_used_again() {
    let mut ring = ring(&Settings { sockets: 1, ..small() });
    let (old, _old_peer) = pair(&mut ring);
    ring.close(old);
    let (new, mut peer) = pair(&mut ring);
    assert_eq!(old.place(), new.place());
    ring.receive(old, Class::Client, token(1));
    ring.send(old, [Chunk::from_vec(vec![1])], token(1));
    ring.ready(old, true, token(1));
    ring.shutdown(old, std::net::Shutdown::Both);
    ring.close(old);
    assert!(ring.fd(old).is_none() && now(&mut ring).is_empty());
    ring.receive(new, Class::Client, token(2));
    put(&mut peer, b"mine");
    assert_eq!(bytes(&events(&mut ring, 1)), b"mine");
}

#[test]
fn a_full_table_takes_no_more_until_a_socket_is_closed() {
    let mut ring = ring(&Settings { sockets: 2, ..small() });
    let (first, _first_peer) = pair(&mut ring);
    let (_second, _second_peer) = pair(&mut ring);
    let (third, _third_peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused = ring.add(third.try_clone().unwrap().into());
    assert_eq!(refused.unwrap_err().to_string(), "the table of sockets is full");
    ring.receive(first, Class::Client, token(1));
    assert!(now(&mut ring).is_empty());
    ring.close(first);
    ring.add(third.into()).expect("the place of the one that is being closed");
}

#[test]
fn a_ring_is_dropped_with_operations_in_flight_and_chunks_outlive_it() {
    let (mut peers, mut chunks) = (Vec::new(), Vec::new());
    for turn in 0..20_usize {
        let mut ring = ring(&small());
        let (talking, mut peer) = tcp_pair(&mut ring);
        ring.receive(talking, Class::Server, token(1));
        put(&mut peer, &pattern(turn, 100));
        let Some(Event::Received { chunk, .. }) = events(&mut ring, 1).pop() else { panic!("no bytes") };
        chunks.push((turn, chunk));
        ring.send(talking, (0..8).map(|_| Chunk::from_vec(vec![1; 4 << 20])), token(2));
        let (silent, other) = pair(&mut ring);
        ring.receive(silent, Class::Client, token(3));
        ring.ready(silent, false, token(4));
        if turn % 2 == 0 {
            assert!(now(&mut ring).is_empty());
        }
        put(&mut peer, b"too late");
        peers.push((peer, other));
    }
    for (turn, chunk) in &chunks {
        assert_eq!(chunk.bytes(), pattern(*turn, 100));
    }
    for (_, other) in &mut peers {
        assert!(ended(other), "the ring let go of its sockets");
    }
}
