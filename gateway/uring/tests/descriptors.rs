//! Counts the open files of the process, so it is a process with one test.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portcullis_uring::{Class, Event, Ring, Settings, Token};

fn work() {
    let settings = Settings { entries: 16, sockets: 4, ..Settings::default() };
    let mut ring = Ring::new(&settings).expect("this kernel has io_uring");
    for turn in 0..50 {
        let (ours, mut peer) = UnixStream::pair().expect("a pair");
        let socket = ring.add(ours.into()).expect("a place");
        ring.receive(socket, Class::Client, Token::new(turn));
        peer.write_all(b"x").expect("the socket takes it");
        ring.wait(Some(Duration::from_secs(10))).expect("the kernel answers");
        assert!(matches!(ring.next(), Some(Event::Received { .. })));
        ring.close(socket);
    }
}

#[test]
fn rings_and_sockets_leave_no_descriptors_behind() {
    work();
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    (0..5).for_each(|_| work());
    assert_eq!(before, count());
}
