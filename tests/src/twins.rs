//! Connections with the same keys: our record layer, rustls, and somebody who holds the client's keys and seals whatever
//! he likes. Their handshakes are made alike by randomness that is none, so nothing here is secret.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use portcullis::tls::connection::Connection;
use portcullis::tls::record::Records;
use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::cipher::{MessageEncrypter, OutboundPlainMessage};
use rustls::crypto::ring::cipher_suite as suite;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::kernel::KernelConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, Error, NamedGroup, ProtocolVersion, RootCertStore,
    ServerConfig, ServerConnection, SupportedCipherSuite,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The suites that the record layer knows.
pub const SUITES: [SupportedCipherSuite; 6] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

thread_local! {
    static DRAWN: [Cell<u8>; 2] = const { [Cell::new(0), Cell::new(0)] };
}

/// Randomness of the client (0) or the server (1): a counter, from the beginning for each handshake.
#[derive(Debug)]
struct Predictable(usize);

static RANDOM: [Predictable; 2] = [Predictable(0), Predictable(1)];

impl SecureRandom for Predictable {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        DRAWN.with(|drawn| {
            let drawn = &drawn[self.0];
            for byte in buffer {
                drawn.set(drawn.get().wrapping_add(1));
                *byte = drawn.get();
            }
        });
        Ok(())
    }
}

/// A key exchange with one outcome.
#[derive(Debug)]
struct Foregone;

impl SupportedKxGroup for Foregone {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for Foregone {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Ok(SharedSecret::from(&[7; 32][..]))
    }

    fn pub_key(&self) -> &[u8] {
        &[9; 32]
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// A certificate for `localhost` and its key. Ed25519 signatures hold no randomness.
fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static IDENTITY: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (certificate, key) = IDENTITY.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("ring makes such keys");
        let names = rcgen::CertificateParams::new([String::from("localhost")]).expect("a name of ASCII");
        let certificate = names.self_signed(&key).expect("the key can sign");
        (certificate.der().to_vec(), key.serialize_der())
    });
    (certificate.clone().into(), PrivatePkcs8KeyDer::from(key.clone()).into())
}

fn provider(suite: SupportedCipherSuite, side: usize) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        kx_groups: vec![&Foregone],
        secure_random: &RANDOM[side],
        ..rustls::crypto::ring::default_provider()
    })
}

fn client_config(suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(identity().0).expect("our own certificate");
    let mut client = ClientConfig::builder_with_provider(provider(suite, 0))
        .with_protocol_versions(&[suite.version()])
        .expect("the suite is of the version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    client.enable_secret_extraction = true;
    Arc::new(client)
}

fn server_config(suite: SupportedCipherSuite) -> Arc<ServerConfig> {
    let (certificate, key) = identity();
    let mut server = ServerConfig::builder_with_provider(provider(suite, 1))
        .with_protocol_versions(&[suite.version()])
        .expect("the suite is of the version")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key fits");
    server.send_tls13_tickets = 0;
    server.enable_secret_extraction = true;
    Arc::new(server)
}

fn client(suite: SupportedCipherSuite) -> UnbufferedClientConnection {
    DRAWN.with(|drawn| drawn.iter().for_each(|drawn| drawn.set(0)));
    let name = "localhost".try_into().expect("a name");
    UnbufferedClientConnection::new(client_config(suite), name).expect("a good configuration")
}

/// Lets the client work on `incoming`; says whether hands are shaken.
fn work(client: &mut UnbufferedClientConnection, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>) -> bool {
    loop {
        let UnbufferedStatus { discard, state } = client.process_tls_records(incoming);
        let done = match state.expect("an honest server") {
            ConnectionState::EncodeTlsData(mut data) => {
                let mut record = [0; 4096];
                let length = data.encode(&mut record).expect("small flights");
                outgoing.extend_from_slice(&record[..length]);
                None
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                None
            }
            ConnectionState::WriteTraffic(_) => Some(true),
            _ => Some(false),
        };
        incoming.drain(..discard);
        if let Some(done) = done {
            return done;
        }
    }
}

/// Shakes hands with a server that answers bytes with bytes, until both are done.
fn shake_hands(
    mut client: UnbufferedClientConnection,
    mut server: impl FnMut(&[u8]) -> (Vec<u8>, bool),
) -> UnbufferedClientConnection {
    let (mut incoming, mut shaken) = (Vec::new(), false);
    for _ in 0..8 {
        let mut outgoing = Vec::new();
        shaken |= work(&mut client, &mut incoming, &mut outgoing);
        let (answer, is_done) = server(&outgoing);
        incoming.extend(answer);
        if shaken && is_done && incoming.is_empty() {
            return client;
        }
    }
    unreachable!("the handshake does not end")
}

/// rustls as the server.
#[must_use]
pub fn reference(suite: SupportedCipherSuite) -> ServerConnection {
    let mut server = ServerConnection::new(server_config(suite)).expect("a good configuration");
    drop(shake_hands(client(suite), |mut bytes| {
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("room for a flight");
            server.process_new_packets().expect("an honest client");
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).expect("memory");
        }
        (answer, !server.is_handshaking())
    }));
    server
}

/// Our record layer as the server, and the one who holds the client's keys.
#[must_use]
pub fn ours(suite: SupportedCipherSuite) -> (Records, Forger) {
    let mut server = Connection::server(server_config(suite)).expect("a good configuration");
    let client = shake_hands(client(suite), |bytes| {
        server.feed(bytes).expect("an honest client");
        let mut answer = Vec::new();
        server.take_outgoing(&mut answer);
        (answer, !server.is_handshaking())
    });
    let (records, leftover) = server.into_records().expect("a suite of ours");
    assert!(leftover.is_empty());
    (*records, Forger::new(client))
}

/// Seals anything with the client's keys.
pub struct Forger {
    kernel: KernelConnection<ClientConnectionData>,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    fn new(client: UnbufferedClientConnection) -> Self {
        let (secrets, kernel) = client.dangerous_into_kernel_connection().expect("hands are shaken");
        let (sequence, secrets) = secrets.tx;
        let encrypter = encrypter(kernel.negotiated_cipher_suite(), secrets);
        Self { kernel, encrypter, sequence }
    }

    /// A record of any type. Under TLS 1.3, type 0 makes what ends the content the type, and zeros in it padding.
    pub fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ: ContentType::from(kind),
            version: ProtocolVersion::TLSv1_2,
            payload: content.into(),
        };
        let record = self.encrypter.encrypt(message, self.sequence).expect("any content can be sealed");
        self.sequence += 1;
        record.encode()
    }

    /// Goes on with the next key, which TLS 1.2 does not have.
    pub fn update(&mut self) {
        if let Ok((sequence, secrets)) = self.kernel.update_tx_secret() {
            self.encrypter = encrypter(self.kernel.negotiated_cipher_suite(), secrets);
            self.sequence = sequence;
        }
    }
}

impl std::fmt::Debug for Forger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forger").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// rustls's own, so that the layer under test is not compared with itself.
fn encrypter(suite: SupportedCipherSuite, secrets: ConnectionTrafficSecrets) -> Box<dyn MessageEncrypter> {
    let is_gcm = !matches!(secrets, ConnectionTrafficSecrets::Chacha20Poly1305 { .. });
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
    else {
        unreachable!("none of our suites")
    };
    match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let (fixed, explicit) = iv.as_ref().split_at(if is_gcm { 4 } else { 12 });
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
    }
}
