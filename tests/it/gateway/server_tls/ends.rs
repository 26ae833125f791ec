//! How sessions with a server's TLS end, in order and otherwise, and what comes with the handshake.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use portcullis_tests::backend::Stage;
use portcullis_tests::client::{Client, End};
use rustls::{AlertDescription, Error};

use super::super::fixture::{Edge, without_programs};
use super::farm::{BY_CA, OpenSsl, Peer, WAYS, edge, farm, identity, serve, server_config};

/// An established session with a rustls server that speaks first.
fn session(way: (&str, &str)) -> (Edge, Client, Peer) {
    let (setup, _) = farm();
    let (stage, config) = (Stage::open().unwrap(), server_config(&identity(&setup)));
    let address = stage.address().unwrap();
    let edge = edge(setup, way, BY_CA);
    let serving = serve(stage, config, b"welcome");
    let mut client = edge.session(address);
    assert_eq!(client.read(7).unwrap(), b"welcome");
    (edge, client, serving.join().unwrap())
}

#[test]
fn a_client_that_is_done_still_gets_the_answer() {
    for way in WAYS {
        let (edge, mut client, mut server) = session(way);
        client.send(b"question").unwrap();
        client.sender.finish().unwrap();
        let mut question = Vec::new();
        // Without `close_notify` this would be an error.
        server.read_to_end(&mut question).unwrap();
        assert_eq!(question, b"question", "{way:?}");
        let answer: Vec<u8> = (0..=250).cycle().take(300_000).collect();
        server.write_all(&answer).unwrap();
        server.conn.send_close_notify();
        server.flush().unwrap();
        drop(server);
        assert!(client.read_to_end().unwrap() == (answer, End::Clean), "{way:?}");
        assert_eq!(edge.end_reason(), "client_closed");
    }
}

#[test]
fn a_server_that_is_done_still_hears_the_client() {
    for way in WAYS {
        let (edge, mut client, mut server) = session(way);
        server.conn.send_close_notify();
        server.flush().unwrap();
        assert_eq!(client.read_to_end().unwrap(), (Vec::new(), End::Clean), "{way:?}");
        client.send(b"last words").unwrap();
        client.sender.finish().unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"last words", "{way:?}");
        assert_eq!(edge.end_reason(), "server_closed");
    }
}

#[test]
fn openssls_close_notify_reaches_the_client() {
    if without_programs(&["openssl"]) {
        return;
    }
    for way in WAYS {
        let (setup, files) = farm();
        let page: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
        std::fs::write(setup.dir().join("page"), &page).unwrap();
        let server = OpenSsl::start(&files, setup.dir(), &["-HTTP"]);
        let edge = edge(setup, way, BY_CA);
        let mut client = edge.session(server.address);
        // The file has no head of an answer in front of it.
        client.send(b"GET /page HTTP/1.0\r\n\r\n").unwrap();
        assert!(client.read_to_end().unwrap() == (page, End::Clean), "{way:?}");
    }
}

#[test]
fn an_end_without_close_notify_is_shown_to_the_client() {
    for way in WAYS {
        let (edge, mut client, server) = session(way);
        server.sock.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_to_end().unwrap(), (Vec::new(), End::Truncated), "{way:?}");
        assert_eq!(edge.end_reason(), "server_reset");
    }
}

#[test]
fn a_damaged_record_ends_the_session_and_the_server_is_told() {
    for way in WAYS {
        let (edge, mut client, mut server) = session(way);
        (&server.sock).write_all(&[&[0x17, 3, 3, 0, 32][..], &[0x5a; 32]].concat()).unwrap();
        let error = server.read(&mut [0; 10]).unwrap_err();
        let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        assert_eq!(alert, Some(&Error::AlertReceived(AlertDescription::BadRecordMac)), "{way:?}");
        assert_eq!(client.read_to_end().unwrap(), (Vec::new(), End::Truncated));
        assert_eq!(edge.end_reason(), "server_violation");
    }
}

#[test]
fn a_client_that_breaks_tls_is_told_although_its_server_speaks_tls() {
    for way in WAYS {
        let (edge, mut client, _server) = session(way);
        let mut tcp = client.tcp();
        tcp.write_all(&[&[0x17, 3, 3, 0, 32][..], &[0x5a; 32]].concat()).unwrap();
        let error = client.read_to_end().unwrap_err();
        assert!(format!("{error:#}").contains("BadRecordMac"), "{way:?}: {error:#}");
        assert_eq!(edge.end_reason(), "client_violation");
    }
}
