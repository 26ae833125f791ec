//! Certificates: each fault gets its finding, and real rustls clients get the certificate of the name they ask for.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis::config::{CertificateFiles, Finding, ListenerConfig, Severity, parse};
use portcullis::tls::certs::{
    certified_server_config, dns_names, fingerprint, inspect, not_after, roots, server_config, ticketer,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::ServerName;
use tempfile::TempDir;

/// 2030-01-01, between the validity of what the tests make.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A root, an intermediate below it, and a directory for what is made with them.
struct Pki {
    directory: TempDir,
    root: Issuer,
    intermediate: Issuer,
}

impl Pki {
    fn new() -> Self {
        let root = CertifiedIssuer::self_signed(authority("Root"), KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let intermediate = CertifiedIssuer::signed_by(authority("Intermediate"), key, &root).unwrap();
        Self { directory: tempfile::tempdir().unwrap(), root, intermediate }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        self.path(name)
    }

    fn files(&self, chain: &[&str], key: &str) -> CertificateFiles {
        let (chain, key) = (self.write("chain.pem", chain.concat()), self.write("key.pem", key));
        CertificateFiles { name: "main".into(), chain, key }
    }

    /// Writes a certificate of the intermediate with the chain that clients need.
    fn issue(&self, name: &str, names: &[&str]) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(names).signed_by(&key, &self.intermediate).unwrap();
        let chain = self.write(&format!("{name}.pem"), leaf.pem() + &self.intermediate.pem());
        let key = self.write(&format!("{name}.key"), key.serialize_pem());
        CertificateFiles { name: name.into(), chain, key }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn leaf(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Server");
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    params
}

/// Runs openssl; `None`, said aloud, where there is none.
fn openssl(directory: &Path, arguments: &str) -> Option<()> {
    let run = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let Ok(output) = run else {
        eprintln!("skipped: no openssl");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// A certificate that signs itself, by openssl: `options` say what for a key.
fn by_openssl(pki: &Pki, name: &str, options: &str) -> Option<CertificateFiles> {
    openssl(
        pki.directory.path(),
        &format!(
            "req -x509 -nodes -days 9000 -subj /CN={name} -addext basicConstraints=critical,CA:FALSE \
             -addext subjectAltName=DNS:{name} -keyout {name}.key -out {name}.pem {options}"
        ),
    )?;
    Some(CertificateFiles {
        name: name.into(),
        chain: pki.path(&format!("{name}.pem")),
        key: pki.path(&format!("{name}.key")),
    })
}

#[track_caller]
fn only(findings: &[Finding], severity: Severity, message: &str) {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0].severity, severity, "{findings:#?}");
    assert!(findings[0].message.contains(message), "{findings:#?}");
    assert!(!findings[0].remedy.is_empty());
}

#[test]
fn a_good_certificate_with_its_chain_has_no_findings() {
    let pki = Pki::new();
    assert_eq!(inspect(&pki.issue("good", &["a.example"]), now()), []);
}

#[test]
fn expiry_is_told_before_and_after_and_so_is_a_certificate_of_the_future() {
    let pki = Pki::new();
    let key = KeyPair::generate().unwrap();
    let mut params = leaf(&["a.example"]);
    (params.not_before, params.not_after) = (date_time_ymd(2029, 1, 1), date_time_ymd(2030, 1, 1));
    let leaf = params.signed_by(&key, &pki.intermediate).unwrap();
    let files = pki.files(&[&leaf.pem(), &pki.intermediate.pem()], &key.serialize_pem());
    let end = now();
    assert_eq!(inspect(&files, end - days(22)), []);
    only(&inspect(&files, end - days(20)), Severity::Warning, "expires in 20 days, on 2030-01-01");
    only(&inspect(&files, end - Duration::from_secs(1)), Severity::Warning, "expires in 0 days");
    only(&inspect(&files, end + Duration::from_secs(1)), Severity::Error, "expired on 2030-01-01");
    only(&inspect(&files, end - days(400)), Severity::Error, "not valid before 2029-01-01");
    assert_eq!(not_after(&files).unwrap(), end);
}

#[test]
fn an_expired_intermediate_is_told_too() {
    let pki = Pki::new();
    let mut params = authority("Old");
    params.not_after = date_time_ymd(2029, 1, 1);
    let old = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &pki.root).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf(&["a.example"]).signed_by(&key, &old).unwrap();
    let files = pki.files(&[&leaf.pem(), &old.pem()], &key.serialize_pem());
    only(&inspect(&files, now()), Severity::Error, "certificate 2 of the chain expired on 2029-01-01");
}

#[test]
fn a_key_that_belongs_elsewhere_is_an_error() {
    let pki = Pki::new();
    let files = pki.issue("good", &["a.example"]);
    let other = KeyPair::generate().unwrap().serialize_pem();
    let files = CertificateFiles { key: pki.write("other.key", other), ..files };
    only(&inspect(&files, now()), Severity::Error, "does not belong to the certificate");
    assert!(certified_server_config(&files).unwrap_err().to_string().starts_with("certificate `good`: "));
}

#[test]
fn a_missing_intermediate_is_a_warning_that_names_it() {
    let pki = Pki::new();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf(&["a.example"]).signed_by(&key, &pki.intermediate).unwrap();
    let alone = pki.files(&[&leaf.pem()], &key.serialize_pem());
    only(&inspect(&alone, now()), Severity::Warning, "an intermediate certificate is missing");
    assert!(inspect(&alone, now())[0].message.contains("CN=Intermediate"));
    let with_root = pki.files(&[&leaf.pem(), &pki.root.pem()], &key.serialize_pem());
    only(&inspect(&with_root, now()), Severity::Warning, "an intermediate certificate is missing");
}

#[test]
fn a_certificate_that_a_public_root_issued_lacks_no_intermediate() {
    let pki = Pki::new();
    let mut root = authority("ISRG Root X1");
    root.distinguished_name = rcgen::DistinguishedName::new();
    root.distinguished_name
        .push(DnType::CountryName, rcgen::DnValue::PrintableString("US".try_into().unwrap()));
    let organisation = "Internet Security Research Group";
    root.distinguished_name
        .push(DnType::OrganizationName, rcgen::DnValue::PrintableString(organisation.try_into().unwrap()));
    root.distinguished_name
        .push(DnType::CommonName, rcgen::DnValue::PrintableString("ISRG Root X1".try_into().unwrap()));
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf(&["a.example"]).signed_by(&key, &root).unwrap();
    assert_eq!(inspect(&pki.files(&[&leaf.pem()], &key.serialize_pem()), now()), []);
}

#[test]
fn a_chain_out_of_order_is_told() {
    let pki = Pki::new();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf(&["a.example"]).signed_by(&key, &pki.intermediate).unwrap().pem();
    let (intermediate, root) = (pki.intermediate.pem(), pki.root.pem());
    let chain = |parts: &[&str]| inspect(&pki.files(parts, &key.serialize_pem()), now());
    only(
        &chain(&[&leaf, &root, &intermediate]),
        Severity::Warning,
        "certificate 2 did not issue the one before it",
    );
    only(
        &chain(&[&leaf, &intermediate, &leaf]),
        Severity::Warning,
        "certificate 3 did not issue the one before it",
    );
    only(&chain(&[&leaf, &intermediate, &root]), Severity::Info, "ends with the root");
    let reversed = chain(&[&intermediate, &leaf]);
    assert!(
        reversed.iter().any(|finding| finding.message.contains("belongs to certificate 2 of the chain")
            && finding.severity == Severity::Error),
        "{reversed:#?}"
    );
}

#[test]
fn an_authority_or_a_client_certificate_does_not_pass_for_a_servers() {
    let pki = Pki::new();
    let key = KeyPair::generate().unwrap();
    let inspect_leaf = |params: CertificateParams| {
        let leaf = params.signed_by(&key, &pki.intermediate).unwrap();
        inspect(&pki.files(&[&leaf.pem(), &pki.intermediate.pem()], &key.serialize_pem()), now())
    };
    let mut params = leaf(&["a.example"]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    only(&inspect_leaf(params), Severity::Warning, "CA:TRUE");
    let mut params = leaf(&["a.example"]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    only(&inspect_leaf(params), Severity::Error, "not for TLS servers");
    only(&inspect_leaf(leaf(&[])), Severity::Warning, "no alternative names");
}

#[test]
fn a_self_signed_certificate_is_complete_alone() {
    let pki = Pki::new();
    let key = KeyPair::generate().unwrap();
    let own = leaf(&["a.example"]).self_signed(&key).unwrap();
    assert_eq!(inspect(&pki.files(&[&own.pem()], &key.serialize_pem()), now()), []);
    let files = pki.files(&[&own.pem(), &pki.root.pem()], &key.serialize_pem());
    only(&inspect(&files, now()), Severity::Warning, "self-signed and others follow");
}

#[test]
fn rsa_keys_have_from_2048_to_4096_bits() {
    let pki = Pki::new();
    let look = |name: &str, bits: usize| {
        by_openssl(&pki, name, &format!("-newkey rsa:{bits}")).map(|files| inspect(&files, SystemTime::now()))
    };
    let Some(findings) = look("fine", 2048) else { return };
    assert_eq!(findings, []);
    only(&look("short", 1024).unwrap_or_default(), Severity::Error, "only 1024 bits");
    only(&look("long", 4104).unwrap_or_default(), Severity::Error, "has 4104 bits");
}

#[test]
fn keys_of_a_kind_that_cannot_be_used_are_told() {
    let pki = Pki::new();
    let Some(files) = by_openssl(&pki, "p521", "-newkey ec -pkeyopt ec_paramgen_curve:P-521") else { return };
    only(&inspect(&files, SystemTime::now()), Severity::Error, "of a kind that cannot be used");
}

#[test]
fn signatures_with_sha_1_are_told() {
    let pki = Pki::new();
    let directory = pki.directory.path();
    let Some(_) = by_openssl(&pki, "issuer", "-newkey rsa:2048") else { return };
    let request = "req -newkey rsa:2048 -nodes -subj /CN=a.example -keyout leaf.key -out leaf.csr";
    let sign = "x509 -req -in leaf.csr -CA issuer.pem -CAkey issuer.key -CAcreateserial -sha1 -days 9000 -out leaf.pem";
    openssl(directory, request).and_then(|()| openssl(directory, sign));
    let chain = fs::read_to_string(pki.path("leaf.pem")).unwrap()
        + &fs::read_to_string(pki.path("issuer.pem")).unwrap();
    let files = pki.files(&[&chain], &fs::read_to_string(pki.path("leaf.key")).unwrap());
    let findings = inspect(&files, SystemTime::now());
    assert!(findings.iter().any(|finding| finding.message.contains("signed with SHA-1")), "{findings:#?}");
}

#[test]
fn encrypted_keys_are_told_in_both_formats() {
    let pki = Pki::new();
    let Some(files) = by_openssl(&pki, "rsa", "-newkey rsa:2048") else { return };
    for command in [
        "pkcs8 -topk8 -in rsa.key -out secret.key -passout pass:x",
        "rsa -in rsa.key -out secret.key -aes128 -passout pass:x -traditional",
    ] {
        openssl(pki.directory.path(), command);
        let files = CertificateFiles { key: pki.path("secret.key"), ..files.clone() };
        only(&inspect(&files, SystemTime::now()), Severity::Error, "encrypted private key");
        assert!(inspect(&files, SystemTime::now())[0].remedy.contains("openssl pkey"));
    }
}

#[test]
fn files_that_hold_something_else_are_told_with_their_name() {
    let pki = Pki::new();
    let good = pki.issue("good", &["a.example"]);
    let der = pki.intermediate.der().to_vec();
    let key = fs::read_to_string(&good.key).unwrap();
    let damaged = fs::read_to_string(&good.chain).unwrap().replacen("MII", "M*I", 1);
    let chains: [(&str, Vec<u8>, &str); 6] = [
        ("der", der, "holds no PEM text"),
        ("empty", vec![], "holds no PEM text"),
        ("key", key.into_bytes(), "holds no certificate"),
        ("damaged", damaged.into_bytes(), "is damaged"),
        ("long", vec![b'x'; 1024 * 1024 + 1], "is longer than"),
        ("many", pki.root.pem().repeat(17).into_bytes(), "holds more than 16 certificates"),
    ];
    for (name, content, message) in chains {
        let files = CertificateFiles { chain: pki.write(name, content), ..good.clone() };
        only(&inspect(&files, now()), Severity::Error, message);
        assert!(not_after(&files).unwrap_err().to_string().contains(name));
    }
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let files = CertificateFiles { chain: pki.write("nonsense", no_certificate), ..good.clone() };
    only(&inspect(&files, now()), Severity::Error, "the certificate cannot be parsed");
    let files = CertificateFiles { key: pki.write("nokey", pki.root.pem()), ..good.clone() };
    only(&inspect(&files, now()), Severity::Error, "holds no private key");
    let files = CertificateFiles { key: pki.path("absent"), ..good };
    only(&inspect(&files, now()), Severity::Error, "absent cannot be read");
}

#[test]
fn a_key_file_that_others_can_read_is_told() {
    let pki = Pki::new();
    let files = pki.issue("good", &["a.example"]);
    for (mode, who) in [(0o640, "its group"), (0o604, "everybody"), (0o660, "its group")] {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        only(&inspect(&files, now()), Severity::Warning, who);
    }
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(inspect(&files, now()), []);
}

#[test]
fn names_are_the_alternative_ones_and_the_common_name_only_without_them() {
    let pki = Pki::new();
    let files = pki.issue("good", &["A.Example", "*.farm.example", "10.0.0.1"]);
    assert_eq!(dns_names(&files).unwrap(), ["a.example", "*.farm.example"]);
    assert_eq!(dns_names(&pki.issue("old", &[])).unwrap(), ["server"]);
    assert_eq!(dns_names(&pki.issue("address", &["10.0.0.1"])).unwrap(), [""; 0]);
}

#[test]
fn the_fingerprint_follows_every_way_of_replacing_a_file() {
    let pki = Pki::new();
    let real = pki.issue("good", &["a.example"]);
    let other = pki.issue("other", &["a.example"]);
    symlink(&real.chain, pki.path("live")).unwrap();
    let files = [CertificateFiles { chain: pki.path("live"), ..real.clone() }];
    let mut seen = vec![fingerprint(&files)];
    assert_eq!(fingerprint(&files), seen[0]);
    let mut changed = |what: &str| {
        let print = fingerprint(&files);
        assert!(!seen.contains(&print), "{what}");
        seen.push(print);
    };
    fs::write(&real.chain, "longer or shorter").unwrap();
    changed("rewritten");
    fs::remove_file(pki.path("live")).unwrap();
    changed("removed");
    symlink(&other.chain, pki.path("live")).unwrap();
    changed("link swapped");
    fs::rename(&other.key, &real.key).unwrap();
    changed("key renamed over");
}

#[test]
fn authorities_are_read_for_checking_others() {
    let pki = Pki::new();
    assert_eq!(roots(&pki.write("ca.pem", pki.root.pem() + &pki.intermediate.pem())).unwrap().len(), 2);
    assert!(roots(&pki.path("absent")).unwrap_err().to_string().contains("absent cannot be read"));
}

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

fn server(certificates: &[CertificateFiles], more: &str) -> Arc<ServerConfig> {
    server_config(&listener(certificates, more), certificates, ticketer().unwrap()).unwrap()
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

fn plain_client(pki: &Pki) -> ClientConfig {
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
    let made = || server_config(&listener(&certificates, ""), &certificates, Arc::clone(&tickets)).unwrap();
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
        server_config(&listener, certificates, ticketer().unwrap()).unwrap_err().to_string()
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
