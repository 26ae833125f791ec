//! Certificates by the command line, with OpenSSL as the authority that signs and as the client that looks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::backend;
use portcullis_tests::process::{self, Output};
use portcullis_tests::wait::PATIENCE;

use super::fixture::{self, Edge};

const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

fn openssl(dir: &Path, line: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(line.split(' ')).current_dir(dir);
    process::run(&mut command, PATIENCE).unwrap().ok().unwrap().stdout
}

/// An authority of OpenSSL's with an intermediate, in a directory of its own.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let usage = "-addext keyUsage=critical,keyCertSign";
        openssl(
            at,
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=root -keyout root.key -out root.pem {usage}"
            ),
        );
        openssl(
            at,
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=between -keyout between.key -out between.csr",
        );
        std::fs::write(at.join("ca.ext"), "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign")
            .unwrap();
        openssl(
            at,
            "x509 -req -in between.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile ca.ext -out between.pem",
        );
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Signs a request as it is.
    fn sign(&self, request: &str, days: i32) -> String {
        std::fs::write(self.path("leaf.csr"), request).unwrap();
        openssl(self.0.path(), "req -in leaf.csr -noout -verify");
        let line = format!(
            "x509 -req -in leaf.csr -CA between.pem -CAkey between.key -CAcreateserial -days {days} -copy_extensions copyall -out leaf.pem"
        );
        openssl(self.0.path(), &line);
        self.read("leaf.pem")
    }

    /// A key and its certificate, both made here: `leaf.key` and `leaf.pem`.
    fn issue(&self, names: &[&str], days: i32) -> String {
        let names: Vec<String> = names
            .iter()
            .map(|name| {
                format!("{}:{name}", if name.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" })
            })
            .collect();
        let line = format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=made -addext subjectAltName={} -keyout leaf.key -out made.csr",
            names.join(",")
        );
        openssl(self.0.path(), &line);
        self.sign(&self.read("made.csr"), days)
    }

    /// What OpenSSL's client makes of the listener, trusting this root alone.
    fn verifies(&self, at: SocketAddr) -> bool {
        let mut command = Command::new("openssl");
        let at = at.to_string();
        command.args([
            "s_client",
            "-connect",
            &at,
            "-verify_return_error",
            "-verify_ip",
            "127.0.0.1",
            "-CAfile",
        ]);
        command.arg(self.path("root.pem"));
        process::run_with_input(&mut command, b"", PATIENCE).unwrap().success()
    }
}

fn import(edge: &Edge, words: &[&str], input: &[u8]) -> Output {
    let mut command = edge.gateway.cli_command().unwrap();
    command.args(["certificate", "import"]).args(words);
    process::run_with_input(&mut command, input, PATIENCE).unwrap()
}

fn commit(edge: &Edge, changes: &[[&str; 2]]) {
    for [path, value] in changes {
        edge.gateway.cli(["configure", "set", path, value]).unwrap().ok().unwrap();
    }
    edge.gateway.cli(["configure", "commit"]).unwrap().ok().unwrap();
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    entries
        .flat_map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { vec![entry.path()] })
        .collect()
}

#[test]
fn a_request_is_signed_elsewhere_and_its_certificate_is_served_at_once() {
    let (edge, server, authority) = (Edge::start(), backend::echo().unwrap(), Authority::new());
    let mut live = edge.session(server.address());
    let asked = ["certificate", "request", "main", "--name", NAMES[0], "--name", NAMES[1]];
    let request = edge.gateway.cli(asked).unwrap().ok().unwrap().stdout;
    assert!(request.starts_with("-----BEGIN CERTIFICATE REQUEST-----") && !request.contains("PRIVATE"));
    assert!(!authority.verifies(edge.at));
    let leaf = authority.sign(&request, 10);
    // In the wrong order, and with the root, as people paste them.
    let pasted = format!("{}{}{leaf}", authority.read("root.pem"), authority.read("between.pem"));
    let done = import(&edge, &["main"], pasted.as_bytes()).ok().unwrap();
    assert!(done.stdout.contains("from now on") && done.stderr.contains("put in order"), "{done:?}");
    assert!(authority.verifies(edge.at), "served without a restart");
    live.echo(b"still here").unwrap();

    let shown = edge.gateway.cli_json(["certificate", "show", "main"]).unwrap();
    assert_eq!(shown["state"], "used");
    assert_eq!(shown["names"], serde_json::json!(NAMES));
    assert_eq!(shown["used_by"], serde_json::json!(["listener edge"]));
    assert!(shown["days_left"].as_i64() >= Some(9), "{shown}");
    assert_eq!(shown["requested"], false, "the key of the request is in use now");
    let chain = edge.gateway.cli(["certificate", "export-chain", "main"]).unwrap().ok().unwrap().stdout;
    assert_eq!(chain.trim(), format!("{leaf}{}", authority.read("between.pem")).trim());
    let audit = edge.gateway.cli(["audit"]).unwrap().ok().unwrap().stdout;
    assert!(audit.contains("certificate-import") && audit.contains("certificate-request"), "{audit}");
    assert!(!audit.contains("PRIVATE") && !edge.gateway.log().contains("PRIVATE"));
}

#[test]
fn what_cannot_be_served_is_refused_and_the_certificate_before_stays() {
    let (edge, authority) = (Edge::start(), Authority::new());
    let between = authority.read("between.pem");
    let refused = |text: &str, words: &[&str], why: &str| {
        let output = import(&edge, words, text.as_bytes());
        assert!(!output.success() && output.stderr.contains(why), "{why}: {output:?}");
        edge.client();
    };
    let leaf = authority.issue(&NAMES, 10);
    refused(&format!("{leaf}{between}"), &["main"], "no key on this machine belongs");
    let key = authority.read("leaf.key");
    let expired = authority.issue(&NAMES, -1);
    refused(&format!("{expired}{between}{}", authority.read("leaf.key")), &["main"], "expired");
    refused(&format!("{leaf}{}", authority.read("leaf.key")), &["main"], "belongs to none");
    refused("nonsense", &["main"], "no PEM");
    let fewer = authority.issue(&NAMES[1..], 10);
    let fewer = format!("{fewer}{between}{}", authority.read("leaf.key"));
    refused(&fewer, &["main"], "is not for localhost");
    refused(&fewer, &["ma/in"], "name has");
    drop(key);
    import(&edge, &["main", "--force"], fewer.as_bytes()).ok().unwrap();
    assert!(authority.verifies(edge.at));
    let refused = edge.gateway.cli(["certificate", "delete", "main"]).unwrap();
    assert!(refused.stderr.contains("take it out there first"), "{refused:?}");
}

#[test]
fn archives_of_old_and_new_kinds_are_imported_kept_and_used_by_a_commit() {
    let (edge, authority) = (Edge::start(), Authority::new());
    authority.issue(&NAMES, 10);
    let export =
        "pkcs12 -export -inkey leaf.key -in leaf.pem -certfile between.pem -passout pass:secret-7 -out";
    let old = "-certpbe PBE-SHA1-3DES -keypbe PBE-SHA1-3DES -macalg sha1";
    openssl(authority.0.path(), &format!("{export} new.pfx"));
    openssl(authority.0.path(), &format!("{export} old.pfx {old}"));
    let with_password = |password: &str, archive: &str| {
        let archive = std::fs::read(authority.path(archive)).unwrap();
        [format!("{password}\n").as_bytes(), &archive].concat()
    };
    let wrong = import(&edge, &["web", "--pkcs12"], &with_password("other", "new.pfx"));
    assert!(!wrong.success() && wrong.stderr.contains("password is wrong"), "{wrong:?}");
    import(&edge, &["oldweb", "--pkcs12"], &with_password("secret-7", "old.pfx")).ok().unwrap();
    let done = import(&edge, &["web", "--pkcs12"], &with_password("secret-7", "new.pfx")).ok().unwrap();
    assert!(done.stdout.contains("configure set certificate.web.name web"), "{}", done.stdout);
    let text = openssl(authority.0.path(), "base64 -in new.pfx");
    import(&edge, &["web", "--pkcs12"], format!("secret-7\n{text}").as_bytes()).ok().unwrap();

    commit(&edge, &[["certificate.web.name", "web"], ["listener.edge.certificates", "[\"web\"]"]]);
    assert!(authority.verifies(edge.at));
    let rows = edge.gateway.cli_json(["certificate", "list"]).unwrap();
    let states: Vec<(String, String)> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (fixture::text(row, "name"), fixture::text(row, "state")))
        .collect();
    let expected = [("main", "unused"), ("oldweb", "unused"), ("web", "used")];
    assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state.to_owned())));
    edge.gateway.cli(["certificate", "delete", "oldweb"]).unwrap().ok().unwrap();
    assert!(!edge.gateway.cli(["certificate", "show", "oldweb"]).unwrap().success());
    assert!(!edge.gateway.log().contains("secret-7"));
}

#[test]
fn a_secret_is_used_by_name_and_shown_nowhere() {
    const FIRST: &str = "c2VjcmV0LW9uZQ";
    const SECOND: &str = "c2VjcmV0LXR3bw";
    let mut setup = fixture::setup();
    let metrics = setup.metrics("127.0.0.1".parse().unwrap()).unwrap();
    let edge = Edge::of_setup(setup, "gateway", fixture::ANYTHING_LOCAL);
    let set = |value: &str| {
        let mut command = edge.gateway.cli_command().unwrap();
        command.args(["secret", "set", "scrape"]);
        process::run_with_input(&mut command, format!("{value}\n").as_bytes(), PATIENCE).unwrap()
    };
    let code = |token: &str| {
        let mut command = Command::new("curl");
        let shown = format!("Authorization: Bearer {token}");
        let url = format!("http://{metrics}/metrics");
        command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", &shown, &url]);
        process::run(&mut command, PATIENCE).unwrap().ok().unwrap().stdout
    };
    let unknown = edge.gateway.cli(["configure", "set", "metrics.token_secret", "scrape"]).unwrap();
    unknown.ok().unwrap();
    let judged = edge.gateway.cli(["configure", "validate"]).unwrap();
    assert!(judged.stdout.contains("secret set scrape"), "{}", judged.stdout);
    set(FIRST).ok().unwrap();
    edge.gateway.cli(["configure", "commit"]).unwrap().ok().unwrap();
    assert_eq!((code(FIRST).as_str(), code(SECOND).as_str()), ("200", "401"));
    set(SECOND).ok().unwrap();
    assert_eq!((code(FIRST).as_str(), code(SECOND).as_str()), ("401", "200"), "in force at once");
    let refused = set("not a token");
    assert!(!refused.success(), "{refused:?}");
    assert_eq!(code(SECOND), "200", "the one before is back");
    assert!(!edge.gateway.cli(["secret", "delete", "scrape"]).unwrap().success(), "it is in use");

    for words in [
        &["secret", "list"][..],
        &["configure", "export"],
        &["configure", "compare", "1"],
        &["configure", "history"],
        &["config", "show"],
        &["audit"],
        &["metrics"],
    ] {
        let output = edge.gateway.cli(words).unwrap().ok().unwrap().stdout;
        assert!(!output.contains(FIRST) && !output.contains(SECOND), "{words:?}: {output}");
    }
    for file in files_below(edge.gateway.dir()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let holds = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!holds(FIRST) && !holds(SECOND), "{}", file.display());
    }
}
