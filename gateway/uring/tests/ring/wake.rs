//! Waiting: for the waker, for a time, for nothing; and rings that cannot be had.

use std::thread;
use std::time::{Duration, Instant};

use portcullis_uring::{Class, Event, Ring, Settings};

use crate::world::{events, now, pair, put, ring, small, token, until};

#[test]
fn a_waker_ends_a_wait_from_another_thread_again_and_again() {
    let mut ring = ring(&small());
    for _ in 0..100 {
        let waker = ring.waker();
        let thread = thread::spawn(move || waker.wake());
        ring.wait(None).unwrap();
        let all: Vec<Event> = std::iter::from_fn(|| ring.next()).collect();
        assert!(matches!(all.as_slice(), [Event::Woken]), "{all:?}");
        thread.join().unwrap();
    }
    assert!(now(&mut ring).is_empty());
}

#[test]
fn many_calls_of_the_waker_are_one_event() {
    let mut ring = ring(&small());
    let waker = ring.waker();
    (0..1000).for_each(|_| waker.wake());
    assert!(matches!(now(&mut ring).as_slice(), [Event::Woken]));
    waker.wake();
    assert!(matches!(now(&mut ring).as_slice(), [Event::Woken]));
}

#[test]
fn no_message_is_missed_by_who_looks_for_it_after_the_event() {
    let mut ring = ring(&small());
    let waker = ring.waker();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        for number in 0..20_000_u32 {
            sender.send(number).unwrap();
            waker.wake();
        }
    });
    let mut next = 0;
    until(&mut ring, "all messages", |_| {
        next += u32::try_from(receiver.try_iter().count()).unwrap();
        next == 20_000
    });
    thread.join().unwrap();
}

#[test]
fn a_wait_ends_when_its_time_is_over() {
    let mut ring = ring(&small());
    let (socket, _peer) = pair(&mut ring);
    ring.receive(socket, Class::Client, token(1));
    let begin = Instant::now();
    ring.wait(Some(Duration::from_millis(30))).unwrap();
    assert!(ring.next().is_none() && begin.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_wait_does_not_block_while_events_are_left() {
    let mut ring = ring(&small());
    let (socket, mut peer) = pair(&mut ring);
    ring.receive(socket, Class::Client, token(1));
    put(&mut peer, b"x");
    ring.wait(None).unwrap();
    ring.wait(None).unwrap();
    assert_eq!(std::iter::from_fn(|| ring.next()).count(), 1);
    ring.send(socket, [], token(1));
    ring.wait(None).unwrap();
    assert_eq!(std::iter::from_fn(|| ring.next()).count(), 1);
}

#[test]
fn gathering_holds_events_back_for_its_time_and_no_longer() {
    let mut ring = ring(&small());
    assert!(ring.can_gather());
    ring.set_gather(Duration::from_millis(20));
    let (socket, mut peer) = pair(&mut ring);
    ring.receive(socket, Class::Client, token(1));
    assert!(now(&mut ring).is_empty());
    put(&mut peer, b"x");
    assert_eq!(events(&mut ring, 1).len(), 1);
    let begin = Instant::now();
    ring.wait(Some(Duration::from_millis(60))).unwrap();
    assert!(ring.next().is_none() && begin.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_ring_that_cannot_be_had_is_refused_with_the_reason_and_a_remedy() {
    let refused = |settings: &Settings| Ring::new(settings).expect_err("no such ring").to_string();
    let text = refused(&Settings { entries: 1 << 20, ..small() });
    assert!(text.contains("refuses a ring of 1048576 operations") && text.contains("epoll"), "{text}");
    let text = refused(&Settings { client_buffers: 0, ..small() });
    assert!(text.contains("a group of 0 buffers"), "{text}");
    let text = refused(&Settings { server_buffers: 40_000, ..small() });
    assert!(text.contains("a group of 40000 buffers"), "{text}");
}

#[test]
fn a_wait_for_ever_is_a_wait_for_long() {
    let mut ring = ring(&small());
    ring.waker().wake();
    ring.wait(Some(Duration::MAX)).unwrap();
    assert!(matches!(ring.next(), Some(Event::Woken)));
}
