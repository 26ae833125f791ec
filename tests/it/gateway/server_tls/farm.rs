//! Servers that speak TLS, and gateways that speak it to them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{self as std_process, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use portcullis_tests::backend::Stage;
use portcullis_tests::filtered;
use portcullis_tests::gateway::Setup;
use portcullis_tests::pki::{Files, Identity, Leaf};
use portcullis_tests::process;
use portcullis_tests::wait::{self, PATIENCE};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::super::fixture::{ANYTHING_LOCAL, Edge, lines_of, setup};

/// What the certificates of these servers are for.
pub(super) const NAME: &str = "vda1.farm.test";
/// How a gateway believes the servers of [`identity`].
pub(super) const BY_CA: &str = "ca = \"ca.pem\"";

/// Each engine with each record layer.
pub(super) const WAYS: [(&str, &str); 4] =
    [("auto", "own"), ("auto", "rustls"), ("epoll", "own"), ("epoll", "rustls")];

/// A certificate of the test's own authority, for the name and the address of the farm.
pub(super) fn identity(setup: &Setup) -> Identity {
    setup.ca().issue(&Leaf::named(&[NAME, &filtered::farm().to_string()])).unwrap()
}

/// A ticket listener with these keys of `[listener.server_tls]`.
pub(super) fn edge(mut setup: Setup, (engine, layer): (&str, &str), server_tls: &str) -> Edge {
    setup.merge(&format!("[server]\nrelay_engine = \"{engine}\"\nrecord_layer = \"{layer}\"")).unwrap();
    Edge::of_setup(setup, "gateway", &format!("{ANYTHING_LOCAL}\nserver_tls = {{ {server_tls} }}"))
}

/// A setup, and the files of a server's certificate.
pub(super) fn farm() -> (Setup, Files) {
    let setup = setup();
    let files = identity(&setup).write(setup.dir(), "vda").unwrap();
    (setup, files)
}

/// A running `openssl s_server`. Ends when dropped.
pub(super) struct OpenSsl {
    child: std_process::Child,
    pub(super) address: SocketAddr,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl OpenSsl {
    fn spawn(files: &Files, directory: &Path, flags: &[&str]) -> (std_process::Child, SocketAddr) {
        let address = SocketAddr::new(filtered::farm(), process::free_port().unwrap());
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-accept", &address.to_string()]).current_dir(directory);
        openssl.arg("-cert").arg(&files.chain).arg("-key").arg(&files.key).args(flags);
        openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (openssl.spawn().unwrap(), address)
    }

    /// One that says on standard output what it gets, and takes orders.
    pub(super) fn start(files: &Files, directory: &Path, flags: &[&str]) -> Self {
        let (mut child, address) = Self::spawn(files, directory, flags);
        let lines = lines_of(&mut child);
        let stdin = child.stdin.take();
        let server = Self { child, address, stdin, lines };
        server.hear("ACCEPT");
        server
    }

    /// One that sends back what it gets.
    pub(super) fn echo(files: &Files, directory: &Path, flags: &[&str]) -> Self {
        let (mut child, address) = Self::spawn(files, directory, &[&["-quiet"], flags].concat());
        let (mut stdout, mut stdin) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        // Whatever the program holds back in one direction must not stop the other.
        let (tell, told) = channel::<Vec<u8>>();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if tell.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        thread::spawn(move || {
            for bytes in told {
                if stdin.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        let (_, lines) = channel();
        let server = Self { child, address, stdin: None, lines };
        wait::until(PATIENCE, "s_server to listen", || TcpStream::connect(address).is_ok()).unwrap();
        server
    }

    /// One line for the client, or an order to `s_server`.
    pub(super) fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    pub(super) fn hear(&self, what: &str) {
        self.hear_all(&[what]);
    }

    /// In any order: the program shows bytes of the session past the buffer that its own words wait in.
    pub(super) fn hear_all(&self, what: &[&str]) {
        let mut missing = what.to_vec();
        let mut heard = Vec::new();
        while !missing.is_empty() {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("{missing:?} was not said, but {heard:?}"));
            missing.retain(|what| !line.contains(what));
            heard.push(line);
        }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a rustls server of a test does TLS with.
pub(super) fn server_config(identity: &Identity) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

/// The server's end of one session.
pub(super) type Peer = StreamOwned<ServerConnection, TcpStream>;

/// Waits for a connection and shakes hands on a thread of its own, with `banner` as the first bytes.
pub(super) fn serve(
    stage: Stage,
    config: Arc<ServerConfig>,
    banner: &'static [u8],
) -> thread::JoinHandle<Peer> {
    thread::spawn(move || {
        let mut tcp = stage.accept().unwrap();
        let mut tls = ServerConnection::new(config).unwrap();
        // The first bytes go out with the end of the handshake.
        tls.writer().write_all(banner).unwrap();
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(&mut tcp).unwrap();
        }
        StreamOwned::new(tls, tcp)
    })
}
