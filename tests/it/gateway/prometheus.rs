//! The metrics page, as Prometheus's own checker reads it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use portcullis_tests::backend;
use portcullis_tests::process;
use portcullis_tests::wait::PATIENCE;

use super::fixture::{ANYTHING_LOCAL, Edge, setup, without_programs};

fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: metrics\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A gateway with a metrics listener, after sessions and refusals of several kinds.
fn used_edge() -> (Edge, SocketAddr) {
    let mut setup = setup();
    let metrics = setup.metrics("127.0.0.1".parse().unwrap()).unwrap();
    let edge = Edge::of_setup(setup, "gateway", ANYTHING_LOCAL);
    drop(edge.live_a_little());
    (edge, metrics)
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    if without_programs(&["promtool"]) {
        return;
    }
    let (_edge, metrics) = used_edge();
    let answer = get(metrics, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("text/plain"), "{head}");
    let mut promtool = Command::new("promtool");
    let output =
        process::run_with_input(promtool.args(["check", "metrics"]), body.as_bytes(), PATIENCE).unwrap();
    assert!(output.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_finished_session_is_counted_everywhere() {
    let (edge, _) = used_edge();
    let metrics = edge.gateway.metrics().unwrap();
    let sum = |name: &str, labels: &[&str]| metrics.sum(&format!("portcullis_{name}"), labels);
    let ended = ["listener=\"edge\"", "protocol=\"socks5\"", "reason=\"client_closed\""];
    assert_eq!(sum("sessions_total", &ended), Some(1.0));
    assert!(sum("sessions_active", &[]).is_none_or(|active| active < 1.0));
    for direction in ["up", "down"] {
        assert_eq!(sum("session_bytes_total", &[&format!("direction=\"{direction}\"")]), Some(7.0));
    }
    assert!(sum("connections_total", &["listener=\"edge\""]) >= Some(2.0));
    assert!(sum("tls_handshakes_total", &["version=\"1.3\""]) >= Some(2.0));
    for stage in ["handshake", "first_bytes", "redeem", "dial"] {
        let label = format!("stage=\"{stage}\"");
        assert!(sum("setup_stage_duration_seconds_count", &[&label]) >= Some(1.0), "{stage}\n{}", metrics.0);
    }
    assert_eq!(sum("tickets_issued_total", &[]), Some(1.0));
    assert!(sum("certificate_not_after_timestamp_seconds", &["certificate=\"main\""]) > Some(3e9));
    assert!(sum("open_descriptors", &[]) > Some(5.0));
    assert_eq!(sum("build_info", &[]), Some(1.0));
}

#[test]
fn no_metric_names_a_user_a_server_or_a_ticket() {
    let (edge, metrics) = used_edge();
    let server = backend::echo().unwrap();
    let who = serde_json::json!({"user": "very-secret-ann", "application": "very-secret-app"});
    let mut client = edge.client();
    portcullis_tests::speak::Speak::socks(&mut client, &edge.ticket_with(server.address(), &who), 1494)
        .unwrap();
    let page = get(metrics, "/metrics");
    assert!(
        !page.contains("very-secret") && !page.contains("127.0.0.77") && !page.contains(";40;"),
        "{page}"
    );
}

#[test]
fn health_and_readiness_answer_and_other_pages_do_not() {
    let (_edge, metrics) = used_edge();
    assert!(get(metrics, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(metrics, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(get(metrics, "/anything").starts_with("HTTP/1.1 404"));
}
