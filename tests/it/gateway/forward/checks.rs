//! What each kind of check takes for a good server.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use portcullis_tests::backend::{Service, Stage};
use portcullis_tests::filtered;
use portcullis_tests::pki::{Authority, Leaf};
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::farm::{server, wait_for};
use crate::gateway::fixture::{Edge, setup};

/// A web server that answers what it is told, and remembers what it was asked.
struct Web {
    service: Service,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn start(answer: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let answer = Arc::new(Mutex::new(answer.as_bytes().to_vec()));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (say, heard) = (Arc::clone(&answer), Arc::clone(&asked));
        let service = Service::start(filtered::farm(), move |stream: TcpStream| {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let answer = say.lock().unwrap().clone();
            let head = match &tls {
                None => talk(stream, &answer),
                Some(config) => {
                    let tls = ServerConnection::new(Arc::clone(config)).unwrap();
                    talk(StreamOwned::new(tls, stream), &answer)
                }
            };
            if let Some(head) = head {
                heard.lock().unwrap().push(head);
            }
        });
        Self { service: service.unwrap(), answer, asked }
    }

    fn address(&self) -> SocketAddr {
        self.service.address()
    }

    fn says(&self, answer: &str) {
        *self.answer.lock().unwrap() = answer.as_bytes().to_vec();
    }

    fn first_request(&self) -> String {
        let found = wait::value(PATIENCE, "a request", || self.asked.lock().unwrap().first().cloned());
        found.unwrap()
    }
}

/// Reads a head and answers it; `None` when there was none.
fn talk(stream: impl std::io::Read + std::io::Write, answer: &[u8]) -> Option<String> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    stream.get_mut().write_all(answer).ok()?;
    stream.get_mut().flush().ok()?;
    Some(head)
}

/// A gateway whose only server `a` is checked so.
fn checked(server: SocketAddr, health: &str, setup: portcullis_tests::gateway::Setup) -> Edge {
    let keys = format!(
        "permit_loopback = true\nserver = [{{ name = \"a\", address = \"{server}\" }}]\n\
         health = {{ interval = \"100ms\", timeout = \"500ms\", rise = 2, fall = 2, {health} }}"
    );
    Edge::of_setup(setup, "forward", &keys)
}

/// Waits until the last check of the server found this.
fn wait_for_error(edge: &Edge, error: &str) {
    let found = || server(edge, 'a')["last_error"].as_str().is_some_and(|last| last.contains(error));
    let waited = wait::until(PATIENCE, error, found);
    waited.unwrap_or_else(|problem| panic!("{problem}: {}", server(edge, 'a')));
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn an_http_check_asks_for_its_path_and_wants_its_status() {
    let web = Web::start(GOOD, None);
    let health = "kind = \"http\", path = \"/health?x=1\", expect = \"200\", server_name = \"app.example\"";
    let edge = checked(web.address(), health, setup());
    wait_for(&edge, 'a', "up");
    let head = web.first_request().to_ascii_lowercase();
    assert!(head.starts_with("get /health?x=1 http/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\nhost: app.example\r\n") && head.contains("user-agent: portcullis-check"),
        "{head}"
    );
    web.says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    wait_for(&edge, 'a', "down");
    wait_for_error(&edge, "answered with status 503, and 200 to 200 are expected");
    web.says("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n");
    wait_for_error(&edge, "status 302");
    for garbage in
        ["SSH-2.0-OpenSSH_9.2\r\n\r\n", &format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(40_000))]
    {
        web.says(garbage);
        wait_for_error(&edge, "no answer that is HTTP");
    }
    web.says(GOOD);
    wait_for(&edge, 'a', "up");
    let failed = edge.gateway.metrics().unwrap().by_label("portcullis_forward_checks_failed_total", "reason");
    assert!(failed["status"] >= 2.0 && failed["http"] >= 1.0, "{failed:?}");
}

#[test]
fn an_https_check_may_want_an_authority_or_one_certificate_or_neither() {
    let setup = || {
        let setup = setup();
        let files =
            setup.ca().issue(&Leaf::named(&["app.example"])).unwrap().write(setup.dir(), "app").unwrap();
        let stranger = Authority::root("somebody else").unwrap();
        stranger.write(&setup.dir().join("stranger.pem")).unwrap();
        (setup, files)
    };
    let tls = |dir: &std::path::Path| {
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(dir.join("app.crt")).unwrap().map(|it| it.unwrap()).collect();
        let key = PrivateKeyDer::from_pem_file(dir.join("app.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
    };
    let base = "kind = \"https\", path = \"/\"";
    for (more, state) in [
        ("", "up"),
        (", server_name = \"app.example\", ca = \"ca.pem\"", "up"),
        // The certificate does not hold the address.
        (", ca = \"ca.pem\"", "down"),
        (", server_name = \"other.example\", ca = \"ca.pem\"", "down"),
        (", server_name = \"app.example\", ca = \"stranger.pem\"", "down"),
        (&format!(", pin_sha256 = \"{}\"", "0".repeat(64)), "down"),
    ] {
        let (setup, _) = setup();
        let web = Web::start(GOOD, Some(tls(setup.dir())));
        let edge = checked(web.address(), &format!("{base}{more}"), setup);
        wait_for(&edge, 'a', state);
        if state == "down" {
            wait_for_error(&edge, "the TLS handshake failed");
        }
    }
}

#[test]
fn a_tls_check_takes_no_server_that_speaks_something_else() {
    let web = Web::start(GOOD, None);
    let edge = checked(web.address(), "kind = \"tls\"", setup());
    wait_for(&edge, 'a', "down");
    let reason = server(&edge, 'a')["last_error"].to_string();
    assert!(reason.contains("TLS handshake failed") || reason.contains("did not answer"), "{reason}");
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_good_for_tcp_and_not_for_http() {
    let stage = Stage::open().unwrap();
    let edge = checked(stage.address().unwrap(), "kind = \"tcp\"", setup());
    wait_for(&edge, 'a', "up");
    let edge = checked(stage.address().unwrap(), "kind = \"http\", path = \"/\"", setup());
    wait_for(&edge, 'a', "down");
    wait_for_error(&edge, "did not answer within 500ms");
}

#[test]
fn checks_that_cannot_be_made_keep_the_daemon_from_starting() {
    let mut setup = setup();
    let keys = "server = [{ address = \"192.0.2.5:443\" }]\nhealth = { kind = \"tls\", ca = \"absent.pem\" }";
    setup.listener("edge", "forward", keys).unwrap();
    let error = setup.start().unwrap_err().to_string();
    assert!(error.contains("absent.pem") && error.contains("listener `edge`"), "{error}");
}

#[test]
fn a_server_behind_nginx_is_checked_as_it_is() {
    use portcullis_tests::process::{self, Child};
    let Some(nginx) = process::find_program("nginx") else { return skip("no nginx on this machine") };
    let setup = setup();
    let port = process::free_port().unwrap();
    let at = SocketAddr::new(filtered::farm(), port);
    let dir = setup.dir().to_owned();
    let config = format!(
        "daemon off; worker_processes 1; pid {0}/nginx.pid; error_log stderr; events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
         server {{ listen {at} ssl; ssl_certificate {0}/main.crt; ssl_certificate_key {0}/main.key;\n\
         location = /ok {{ return 204; }} location / {{ return 404; }} }} }}\n",
        dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut command = std::process::Command::new(nginx);
    command.arg("-p").arg(&dir).arg("-c").arg(dir.join("nginx.conf"));
    let mut nginx = Child::spawn("nginx", &mut command, &dir).unwrap();
    nginx.wait_for_port(at, PATIENCE).unwrap();
    let keys = |name: &str, path: &str| {
        format!(
            "permit_loopback = true\nserver = [{{ name = \"a\", address = \"{at}\" }}]\n\
             health = {{ kind = \"https\", interval = \"100ms\", path = \"{path}\", server_name = \"{name}\", ca = \"ca.pem\" }}"
        )
    };
    let edge = Edge::of_setup(setup, "forward", &keys("localhost", "/ok"));
    wait_for(&edge, 'a', "up");
    super::farm::reload(&edge, &keys("localhost", "/elsewhere"));
    wait_for(&edge, 'a', "down");
    wait_for_error(&edge, "answered with status 404");
}
