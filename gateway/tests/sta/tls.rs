//! Our client and our server over https: own CA, pin, and everything that must fail.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis::config::{StaConfig, StaTls};
use portcullis::sta::pool::Pool;
use portcullis_core::answer::{TicketAnswer, Unavailable};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;

use crate::double::Double;
use crate::world::{OURS, Server, data, id, key, names, pool, resolver, server_config, sta, stray_ticket};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

struct Leaf {
    sha256: [u8; 32],
    config: rustls::ServerConfig,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn leaf(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let digest = ring::digest::digest(&ring::digest::SHA256, &certificate);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        Leaf { sha256: digest.as_ref().try_into().unwrap(), config }
    }

    fn write(&self, directory: &Path) -> PathBuf {
        let path = directory.join("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        path
    }
}

fn serve(leaf: Leaf) -> (Server, Arc<ArcSwap<rustls::ServerConfig>>) {
    let tls = Arc::new(ArcSwap::from_pointee(leaf.config));
    (Server::start_with(server_config(), Some(Arc::clone(&tls))), tls)
}

fn https(server: &Server, tls: StaTls) -> StaConfig {
    let mut config = StaConfig { tls, authority_id: Some(id(OURS)), ..sta("a", server.address) };
    config.url.https = true;
    config
}

async fn granted(pool: &Pool, server: &Server) {
    let ticket = server.issue();
    assert_eq!(pool.redeem(&names(&["a"]), &ticket).await, TicketAnswer::Granted(data()));
}

async fn refused(pool: &Pool) -> String {
    let answer = pool.redeem(&names(&["a"]), &stray_ticket(OURS)).await;
    assert_eq!(answer, TicketAnswer::Unavailable(Unavailable::Down));
    let error = pool.test("a").await.unwrap().unwrap_err();
    assert!(error.contains("TLS"), "{error}");
    error
}

#[tokio::test]
async fn an_own_ca_is_trusted_for_the_names_it_signed() {
    let (directory, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let trust = StaTls::Ca(ca.write(directory.path()));
    let (server, _) = serve(ca.leaf("127.0.0.1"));
    granted(&pool([https(&server, trust.clone())]), &server).await;

    let (elsewhere, _) = serve(ca.leaf("127.0.0.2"));
    let error = refused(&pool([https(&elsewhere, trust)])).await;
    assert!(error.contains("127.0.0.2"), "{error}");
}

#[tokio::test]
async fn without_an_own_ca_only_public_roots_are_trusted() {
    let (server, _) = serve(Authority::new().leaf("127.0.0.1"));
    let error = refused(&pool([https(&server, StaTls::PublicRoots)])).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn another_ca_is_not_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let trust = StaTls::Ca(Authority::new().write(directory.path()));
    let (server, _) = serve(Authority::new().leaf("127.0.0.1"));
    refused(&pool([https(&server, trust)])).await;
}

#[tokio::test]
async fn a_pin_accepts_its_certificate_whoever_signed_it_and_no_other() {
    let leaf = Authority::new().leaf("some.other.name");
    let pin = leaf.sha256;
    let (server, _) = serve(leaf);
    granted(&pool([https(&server, StaTls::Pin(pin))]), &server).await;

    let mut wrong = pin;
    wrong[31] ^= 1;
    refused(&pool([https(&server, StaTls::Pin(wrong))])).await;
}

#[tokio::test]
async fn a_pinned_certificate_does_not_help_whoever_lacks_its_key() {
    let ca = Authority::new();
    let (genuine, thief) = (ca.leaf("127.0.0.1"), KeyPair::generate().unwrap());
    let certificate = {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.signed_by(&key, &ca.issuer).unwrap().der().clone()
    };
    let digest = ring::digest::digest(&ring::digest::SHA256, &certificate);
    // rustls itself would refuse to serve this pair, so the resolver hands it out unchecked.
    let thief =
        rustls::crypto::ring::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(thief.serialize_der().into()));
    let stolen = rustls::sign::CertifiedKey::new(vec![certificate], thief.unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen.clone())));
        let (server, _) = serve(Leaf { sha256: genuine.sha256, config });
        let pin = digest.as_ref().try_into().unwrap();
        refused(&pool([https(&server, StaTls::Pin(pin))])).await;
    }
}

#[tokio::test]
async fn https_to_an_http_port_and_http_to_an_https_port_say_so() {
    let server = Server::start();
    let error = refused(&pool([https(&server, StaTls::PublicRoots)])).await;
    assert!(error.contains("is it https there"), "{error}");

    let (server, _) = serve(Authority::new().leaf("127.0.0.1"));
    let pool = pool([sta("a", server.address)]);
    assert!(pool.test("a").await.unwrap().is_err());
    assert_eq!(pool.status()[0].state, "down");
}

#[tokio::test]
async fn connections_over_https_are_kept_too_and_the_key_travels_inside() {
    let leaf = Authority::new().leaf("127.0.0.1");
    let pin = leaf.sha256;
    let tls = Arc::new(ArcSwap::from_pointee(leaf.config));
    let config = portcullis::config::StaServerConfig { security_key: key(&["secret"]), ..server_config() };
    let server = Server::start_with(config, Some(tls));
    let target = server.address;
    let proxy = Double::start(move |mut peer| async move {
        let mut onward = tokio::net::TcpStream::connect(target).await.unwrap();
        tokio::io::copy_bidirectional(&mut peer.stream, &mut onward).await.ok();
    })
    .await;
    let mut config = StaConfig { security_key: key(&["secret"]), ..https(&server, StaTls::Pin(pin)) };
    config.url.server = sta("a", proxy.address).url.server;
    let pool = pool([config]);
    for _ in 0..5 {
        granted(&pool, &server).await;
    }
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_renewed_certificate_is_served_to_new_connections() {
    let ca = Authority::new();
    let (old, new) = (ca.leaf("127.0.0.1"), ca.leaf("127.0.0.1"));
    let (old_pin, new_pin) = (StaTls::Pin(old.sha256), StaTls::Pin(new.sha256));
    let (server, tls) = serve(old);
    let kept = pool([https(&server, old_pin)]);
    granted(&kept, &server).await;
    tls.store(Arc::new(new.config));
    granted(&pool([https(&server, new_pin)]), &server).await;
    // The connection that was there goes on.
    granted(&kept, &server).await;
}

#[tokio::test]
async fn a_ca_file_that_is_none_is_named_at_the_start_and_at_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "no certificate\n").unwrap();
    let server = Server::start();
    for path in [empty, directory.path().join("absent.pem")] {
        let config = Arc::new(https(&server, StaTls::Ca(path.clone())));
        let error = Pool::new(&[Arc::clone(&config)], None, resolver()).unwrap_err().to_string();
        assert!(error.contains("`a`") && error.contains(&path.display().to_string()), "{error}");

        let running = pool([sta("a", server.address)]);
        assert!(running.replace(&[config], None).is_err());
        granted(&running, &server).await;
    }
}
