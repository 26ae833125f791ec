//! What `check` finds in certificates, chains and keys.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, SystemTime};

use portcullis::config::{CertificateFiles, Finding, Severity};
use portcullis::tls::certs::{certified_server_config, dns_names, fingerprint, inspect, not_after, roots};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};

use crate::pki::{Pki, authority, by_openssl, days, leaf, now, openssl};

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
    assert_eq!(look("longest", 4096).unwrap_or_default(), []);
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
