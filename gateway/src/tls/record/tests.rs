//! Our records against rustls's, and against forged ones that rustls would never send.

mod agree;
mod refuse;

use std::sync::{Arc, OnceLock};

use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite as suite;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{
    ClientConfig, ClientConnection, Connection as Peer, RootCertStore, ServerConfig, ServerConnection, Side,
};

use super::*;
use crate::tls::connection::Connection;

// What else the peers say (RFC 8446 §4, §5; RFC 5246 §7.4).
const CHANGE_CIPHER_SPEC: u8 = 20;
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Room in front of the content that a record takes at most, and behind it.
const FRONT_MAX_BYTES: usize = 13;
const BACK_MAX_BYTES: usize = 17;

pub(super) const SUITES: [SupportedCipherSuite; 6] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];
pub(crate) const TLS13: SupportedCipherSuite = suite::TLS13_AES_128_GCM_SHA256;
pub(crate) const TLS12: SupportedCipherSuite = suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

/// A certificate for `localhost` and its key.
fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static IDENTITY: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (certificate, key) = IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec![String::from("localhost")]).unwrap();
        (made.cert.der().to_vec(), made.signing_key.serialize_der())
    });
    (certificate.clone().into(), PrivatePkcs8KeyDer::from(key.clone()).into())
}

fn configs(suite: SupportedCipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = CryptoProvider { cipher_suites: vec![suite], ..rustls::crypto::ring::default_provider() };
    let (provider, (certificate, key)) = (Arc::new(provider), identity());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server.enable_secret_extraction, client.enable_secret_extraction) = (true, true);
    (Arc::new(server), Arc::new(client))
}

fn ours(suite: SupportedCipherSuite, side: Side) -> Connection {
    let (server, client) = configs(suite);
    match side {
        Side::Server => Connection::server(server).unwrap(),
        Side::Client => Connection::client(client, "localhost".try_into().unwrap()).unwrap(),
    }
}

/// Our records after a handshake with rustls, and rustls.
pub(crate) fn pair(suite: SupportedCipherSuite, side: Side) -> (Records, Peer) {
    let (server, client) = configs(suite);
    let mut peer = match side {
        Side::Server => Peer::from(ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap()),
        Side::Client => Peer::from(ServerConnection::new(server).unwrap()),
    };
    let mut ours = ours(suite, side);
    while ours.is_handshaking() || peer.is_handshaking() || ours.wants_write() || peer.wants_write() {
        ours.feed(&sent(&mut peer)).unwrap();
        let mut wire = Vec::new();
        ours.take_outgoing(&mut wire);
        received(&mut peer, &wire).unwrap();
    }
    let (records, leftover) = ours.into_records().unwrap();
    assert!(leftover.is_empty());
    (*records, peer)
}

/// Two of ours, which seal whatever they are told: the server's side is under test.
pub(super) fn forging(suite: SupportedCipherSuite) -> (Records, Records) {
    let (mut server, mut client) = (ours(suite, Side::Server), ours(suite, Side::Client));
    while server.is_handshaking() || client.is_handshaking() || server.wants_write() || client.wants_write() {
        let mut wire = Vec::new();
        client.take_outgoing(&mut wire);
        server.feed(&wire).unwrap();
        wire.clear();
        server.take_outgoing(&mut wire);
        client.feed(&wire).unwrap();
    }
    (*server.into_records().unwrap().0, *client.into_records().unwrap().0)
}

/// What rustls has for the network.
pub(super) fn sent(peer: &mut Peer) -> Vec<u8> {
    let mut wire = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut wire).unwrap();
    }
    wire
}

/// Plaintext as rustls sends it.
pub(crate) fn say(peer: &mut Peer, plaintext: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let (mut wire, mut rest) = (Vec::new(), plaintext);
    while !rest.is_empty() {
        let written = peer.writer().write(rest).unwrap();
        rest = &rest[written..];
        wire.extend(sent(peer));
    }
    wire
}

/// What rustls reads from the network.
pub(crate) fn received(peer: &mut Peer, mut wire: &[u8]) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let mut plaintext = Vec::new();
    loop {
        peer.process_new_packets()?;
        // `WouldBlock` says that there is no more for now.
        peer.reader().read_to_end(&mut plaintext).ok();
        if wire.is_empty() {
            return Ok(plaintext);
        }
        peer.read_tls(&mut wire).unwrap();
    }
}

/// Content sealed in a buffer that is just large enough.
pub(super) fn sealed(records: &mut Records, content: &[u8]) -> Vec<u8> {
    forged(records, APPLICATION_DATA, content)
}

/// Content sealed as any type.
pub(super) fn forged(records: &mut Records, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    records.append(kind, content, &mut out).unwrap();
    out
}

/// What is owed to the peer, if anything.
pub(super) fn owed(records: &mut Records) -> Vec<u8> {
    let mut out = Vec::new();
    records.write(&[], &mut out).unwrap();
    assert!(!records.owes());
    out
}

/// Everything that whole records in `wire` say.
pub(super) fn opened(records: &mut Records, wire: &[u8]) -> Result<Vec<u8>, Alert> {
    let mut buffer = wire.to_vec();
    let opened = records.open(&mut buffer)?;
    assert_eq!(opened.consumed, wire.len());
    Ok(buffer[opened.plaintext].to_vec())
}

pub(super) fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).unwrap();
    bytes
}
