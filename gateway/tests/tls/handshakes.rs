//! What real clients get: certificates by name, versions, suites, resumption.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use portcullis::config::{CertificateFiles, ListenerConfig, RecordLayer, parse};
use portcullis::tls::certs::{certified_server_config, roots, server_config, ticketer};
use portcullis::tls::stream::ClientStream;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::ServerName;

use crate::pki::{Pki, by_openssl};

/// A listener with these certificates, and more lines of configuration.
fn listener(certificates: &[CertificateFiles], more: &str) -> Arc<ListenerConfig> {
    let tables: String = certificates
        .iter()
        .map(|files| {
            let (chain, key) = (files.chain.display(), files.key.display());
            format!("[[certificate]]\nname = \"{}\"\nchain = \"{chain}\"\nkey = \"{key}\"\n", files.name)
        })
        .collect();
    let names: Vec<&str> = certificates.iter().map(|files| files.name.as_str()).collect();
    let text = format!(
        "{tables}[[listener]]\nname = \"x\"\nkind = \"ssl-relay\"\nlisten = [\"127.0.0.1:0\"]\n\
         target = \"a.example:1\"\ncertificates = {names:?}\n{more}"
    );
    Arc::clone(&parse(&text, Path::new("x.toml")).unwrap().listeners[0])
}

pub(crate) fn server(certificates: &[CertificateFiles], more: &str) -> Arc<ServerConfig> {
    server_config(&listener(certificates, more), certificates, ticketer().unwrap(), RecordLayer::Own).unwrap()
}

fn client(
    pki: &Pki,
    change: impl FnOnce(&mut CryptoProvider),
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut provider = ring::default_provider();
    change(&mut provider);
    let mut roots = RootCertStore::empty();
    roots.add(pki.root.der().clone()).unwrap();
    for entry in fs::read_dir(pki.directory.path()).unwrap() {
        // What openssl made signs itself.
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name == "rsa.pem") {
            let own = portcullis::tls::certs::roots(&path).unwrap();
            roots.extend(own.roots);
        }
    }
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) fn plain_client(pki: &Pki) -> ClientConfig {
    client(pki, |_| (), rustls::ALL_VERSIONS)
}

/// Runs a whole handshake in memory, and one byte each way so that tickets arrive.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

/// Which of the certificates a client gets that asks for `name`.
fn served(
    pki: &Pki,
    server: &Arc<ServerConfig>,
    certificates: &[CertificateFiles],
    name: &str,
) -> Option<String> {
    // Clients of this test take any certificate: which one it is they say themselves.
    let mut config = plain_client(pki);
    config.dangerous().set_certificate_verifier(Arc::new(any::AnyCertificate));
    let (client, _) = handshake(&Arc::new(config), server, name).ok()?;
    let shown = client.peer_certificates().unwrap()[0].clone();
    let is_it = |files: &&CertificateFiles| {
        roots(&files.chain).is_ok() && {
            let text = fs::read(&files.chain).unwrap();
            let first =
                <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
                    &text,
                );
            first.unwrap() == shown
        }
    };
    certificates.iter().find(is_it).map(|files| files.name.clone())
}

#[test]
fn the_name_decides_exactly_then_by_wildcard_then_the_first_certificate_serves() {
    let pki = Pki::new();
    let certificates = [
        pki.issue("first", &["first.example"]),
        pki.issue("wild", &["*.farm.example"]),
        pki.issue("exact", &["a.farm.example"]),
    ];
    let open = server(&certificates, "");
    let strict = server(&certificates, "unmatched_sni = \"reject\"");
    for (name, expected) in [
        ("first.example", Some("first")),
        ("FIRST.example", Some("first")),
        ("a.farm.example", Some("exact")),
        ("b.farm.example", Some("wild")),
        ("B.Farm.Example", Some("wild")),
        ("farm.example", None),
        ("a.b.farm.example", None),
        ("other.example", None),
        // No name is sent for an address.
        ("192.0.2.1", None),
    ] {
        assert_eq!(served(&pki, &open, &certificates, name).as_deref(), expected.or(Some("first")), "{name}");
        assert_eq!(served(&pki, &strict, &certificates, name).as_deref(), expected, "{name}");
    }
}

#[test]
fn a_client_that_verifies_is_satisfied_with_the_chain() {
    let pki = Pki::new();
    let certificates = [pki.issue("main", &["a.example"])];
    assert!(handshake(&Arc::new(plain_client(&pki)), &server(&certificates, ""), "a.example").is_ok());
    let sta = certified_server_config(&certificates[0]).unwrap();
    assert!(handshake(&Arc::new(plain_client(&pki)), &sta, "a.example").is_ok());
}

#[test]
fn a_name_with_two_kinds_of_key_serves_old_clients_too() {
    let pki = Pki::new();
    let Some(rsa) = by_openssl(&pki, "rsa", "-newkey rsa:2048") else { return };
    let certificates = [pki.issue("ecdsa", &["rsa"]), rsa];
    let server = server(&certificates, "");
    let only_rsa = |provider: &mut CryptoProvider| {
        provider
            .cipher_suites
            .retain(|suite| suite.suite() == CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384);
    };
    let old = client(&pki, only_rsa, &[&rustls::version::TLS12]);
    let (old, _) = handshake(&Arc::new(old), &server, "rsa").unwrap();
    assert_eq!(old.peer_certificates().unwrap().len(), 1, "openssl's certificate stands alone");
    let (new, _) = handshake(&Arc::new(plain_client(&pki)), &server, "rsa").unwrap();
    assert_eq!(new.peer_certificates().unwrap().len(), 2);
}

#[test]
fn aes_128_is_taken_whatever_the_clients_order() {
    let pki = Pki::new();
    let server = server(&[pki.issue("main", &["a.example"])], "");
    let backwards = |provider: &mut CryptoProvider| provider.cipher_suites.reverse();
    for (version, expected) in [
        (&rustls::version::TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&rustls::version::TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let (client, _) =
            handshake(&Arc::new(client(&pki, backwards, &[version])), &server, "a.example").unwrap();
        assert_eq!(client.negotiated_cipher_suite().unwrap().suite(), expected);
    }
}

#[test]
fn the_floor_of_the_listener_holds() {
    let pki = Pki::new();
    let certificates = [pki.issue("main", &["a.example"])];
    let old = Arc::new(client(&pki, |_| (), &[&rustls::version::TLS12]));
    assert!(handshake(&old, &server(&certificates, "min_tls = \"1.2\""), "a.example").is_ok());
    assert!(handshake(&old, &server(&certificates, "min_tls = \"1.3\""), "a.example").is_err());
    assert!(
        handshake(&Arc::new(plain_client(&pki)), &server(&certificates, "min_tls = \"1.3\""), "a.example")
            .is_ok()
    );
}

#[test]
fn a_client_with_any_alpn_list_is_served() {
    let pki = Pki::new();
    let server = server(&[pki.issue("main", &["a.example"])], "");
    for protocols in [&[][..], &["http/1.1"], &["h2", "http/1.1"], &["h2"], &["something-odd"]] {
        let mut config = plain_client(&pki);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let (client, _) = handshake(&Arc::new(config), &server, "a.example").unwrap();
        assert_eq!(client.alpn_protocol(), None);
    }
}

#[test]
fn sessions_resume_by_ticket_and_a_reload_does_not_end_that() {
    let pki = Pki::new();
    let certificates = [pki.issue("main", &["a.example", "b.example"])];
    let tickets = ticketer().unwrap();
    let made = || {
        let tickets = Arc::clone(&tickets);
        server_config(&listener(&certificates, ""), &certificates, tickets, RecordLayer::Own).unwrap()
    };
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Arc::new(client(&pki, |_| (), &[version]));
        let (first, _) = handshake(&client, &made(), "a.example").unwrap();
        assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
        let (second, _) = handshake(&client, &made(), "a.example").unwrap();
        assert_eq!(second.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        let (other, _) = handshake(&client, &made(), "b.example").unwrap();
        assert_eq!(other.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn one_ticket_is_sent_and_no_early_data_is_taken() {
    let pki = Pki::new();
    let server = server(&[pki.issue("main", &["a.example"])], "");
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (1, 0));
    let (client, _) = handshake(&Arc::new(plain_client(&pki)), &server, "a.example").unwrap();
    assert_eq!(client.tls13_tickets_received(), 1);
}

#[test]
fn a_listener_with_a_certificate_that_cannot_be_used_says_which() {
    let pki = Pki::new();
    let good = pki.issue("good", &["a.example"]);
    let bad = CertificateFiles { name: "bad".into(), chain: pki.path("absent"), ..good.clone() };
    let listener = listener(&[good.clone(), bad.clone()], "");
    let error = |certificates: &[CertificateFiles]| {
        server_config(&listener, certificates, ticketer().unwrap(), RecordLayer::Own).unwrap_err().to_string()
    };
    assert!(error(&[good.clone(), bad]).starts_with("certificate `bad`: "));
    assert_eq!(error(&[good]), "listener `x` has no certificate `bad`");
}

/// A verifier that accepts every certificate: these tests look at which one was sent.
mod any {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    pub(crate) struct AnyCertificate;

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}

/// Shakes hands, looks whether more has come by itself once the server is `ready`, asks, and reads the answer: tickets before
/// it and with it.
fn asks(config: ClientConfig, address: SocketAddr, ready: &Receiver<()>) -> (u32, u32) {
    let name = ServerName::try_from("a.example").unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    while tls.is_handshaking() || tls.wants_write() {
        tls.complete_io(&mut socket).unwrap();
    }
    ready.recv().unwrap();
    // On loopback whatever the server has sent is here.
    socket.set_nonblocking(true).unwrap();
    assert_eq!(
        tls.read_tls(&mut socket).unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "until something is asked"
    );
    socket.set_nonblocking(false).unwrap();
    let before = tls.tls13_tickets_received();
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    stream.write_all(b"question").unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    (before, tls.tls13_tickets_received())
}

#[tokio::test]
async fn a_session_ticket_of_tls13_comes_with_the_first_answer() {
    let pki = Pki::new();
    let certificates = [pki.issue("main", &["a.example"])];
    let config = server(&certificates, "");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = plain_client(&pki);
    let (tell, ready) = channel();
    let client = tokio::task::spawn_blocking(move || asks(client, address, &ready));
    let (socket, _) = listener.accept().await.unwrap();
    let mut stream = ClientStream::accept_tls(socket, config).await.unwrap();
    tell.send(()).unwrap();
    let mut question = [0; 16];
    assert_eq!(stream.read(&mut question).await.unwrap(), 8);
    stream.write_all(b"answer").await.unwrap();
    assert_eq!(client.await.unwrap(), (0, 1));
}
