//! Gateways that are played: one thread that talks to one client after another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::program::PATIENCE;

/// A client's connection, plain or inside TLS.
pub(crate) trait Duplex: Read + Write + Send {
    /// Says that nothing more is sent.
    fn finish(&mut self);
}

impl Duplex for TcpStream {
    fn finish(&mut self) {
        self.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

impl Duplex for StreamOwned<ServerConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        self.flush().unwrap();
        self.sock.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

/// A listener that plays `part` for each client in turn.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    _thread: JoinHandle<()>,
}

impl Gateway {
    pub(crate) fn plain(part: impl Fn(&mut dyn Duplex) + Send + 'static) -> Self {
        Self::start(move |mut stream| part(&mut stream))
    }

    pub(crate) fn tls(pki: &Pki, part: impl Fn(&mut dyn Duplex) + Send + 'static) -> Self {
        let config = Arc::clone(&pki.config);
        Self::start(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            // A client that does not trust us goes away in the handshake.
            if stream.conn.complete_io(&mut stream.sock).is_ok() {
                part(&mut stream);
            }
        })
    }

    fn start(serve: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                serve(stream);
            }
        });
        Self { address, _thread: thread }
    }

    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }
}

/// A certificate for `localhost`, and the authority that made it.
pub(crate) struct Pki {
    directory: tempfile::TempDir,
    config: Arc<ServerConfig>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        Self { directory, config: Arc::new(config) }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }
}

pub(crate) fn take<const N: usize>(stream: &mut dyn Duplex) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads a greeting and a request (RFC 1928), answering the first, and returns the host and port asked for.
pub(crate) fn socks_request(stream: &mut dyn Duplex) -> (String, u16) {
    assert_eq!(take::<3>(stream), [5, 1, 0]);
    stream.write_all(&[5, 0]).unwrap();
    socks_target(stream)
}

pub(crate) fn socks_target(stream: &mut dyn Duplex) -> (String, u16) {
    assert_eq!(take::<4>(stream), [5, 1, 0, 3]);
    let [length] = take::<1>(stream);
    let mut name = vec![0; usize::from(length)];
    stream.read_exact(&mut name).unwrap();
    (String::from_utf8(name).unwrap(), u16::from_be_bytes(take(stream)))
}

pub(crate) fn socks_reply(stream: &mut dyn Duplex, code: u8) {
    stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
}

/// Sends back what comes until the client has finished, then finishes.
pub(crate) fn echo(stream: &mut dyn Duplex) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let length = stream.read(&mut bytes).unwrap();
        if length == 0 {
            break;
        }
        stream.write_all(&bytes[..length]).unwrap();
    }
    stream.finish();
}

/// Reads a request's head, byte by byte so that nothing after it is taken.
pub(crate) fn head(stream: &mut dyn Duplex) -> String {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        let [byte] = take::<1>(stream);
        text.push(char::from(byte));
    }
    text
}
