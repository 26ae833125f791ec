//! What is shipped for those who watch: alerts and dashboard, tried with a real Prometheus, and who may scrape.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portcullis::metrics::names;
use portcullis_tests::backend::Service;
use portcullis_tests::client::Client;
use portcullis_tests::pki::{Leaf, Validity};
use portcullis_tests::process::{self, Output};
use portcullis_tests::prometheus::{PROGRAMS, Prometheus};
use portcullis_tests::sta_double::{StaDouble, vacant};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use super::fixture::{ANYTHING_LOCAL, Edge, setup, without_programs};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const STA_ID: &str = "STA000000777";
const TOKEN: &str = "dGhlLXRva2VuLW9mLXRoaXMtdGVzdA==";
const DAY: Duration = Duration::from_secs(86_400);

fn shipped(name: &str) -> PathBuf {
    process::repository().join("gateway/monitoring").join(name)
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(shipped(name)).unwrap()
}

/// The rules without their patience: what holds once is an alert.
fn hasty_rules() -> String {
    let lines = text_of("alerts.yml");
    let kept = lines.lines().filter(|line| !line.trim_start().starts_with("for: "));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The metrics that an expression or a rule names.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("portcullis_") || word.starts_with("process_")).collect()
}

/// A series of a histogram, or another metric, as a family.
fn family(series: &str) -> &str {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end));
    of_histogram.filter(|name| names::all().any(|family| family.name == *name)).unwrap_or(series)
}

/// Every expression of the dashboard as Grafana sends it.
fn dashboard() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                let expression = fields.get("expr").and_then(Value::as_str);
                found.extend(expression.map(str::to_owned));
                fields.values().for_each(|value| collect(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text_of("dashboard.json")).unwrap(), &mut found);
    let sent = |text: &String| text.replace("$instance", ".*").replace("$__rate_interval", "1m");
    found.iter().map(sent).collect()
}

/// What the document for those who come from a NetScaler has for their metrics: the second columns of its tables.
fn documented() -> Vec<String> {
    let text =
        std::fs::read_to_string(process::repository().join("gateway/docs/NETSCALER-METRICS.md")).unwrap();
    let with_equal = text.split("## What has no equal").next().unwrap().replace("\\|", "\u{1}");
    let cells = with_equal.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').nth(1));
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    // Some are only the labels of the one before.
    let whole = quoted.filter(|expression| !expression.starts_with('{'));
    whole.map(|expression| expression.replace('\u{1}', "|")).collect()
}

/// A gateway of which as much can be told as without the packet filter.
fn busy_edge(metrics_keys: &str) -> (Edge, SocketAddr, (Client, Service, StaDouble)) {
    let mut setup = setup();
    let metrics = setup.metrics(LOOPBACK).unwrap();
    setup.merge(&format!("[metrics]\n{metrics_keys}")).unwrap();
    setup.merge("[syslog]\nserver = \"127.0.0.1:9\"\nprotocol = \"udp\"").unwrap();
    std::fs::write(setup.dir().join("token"), format!("{TOKEN}\n")).unwrap();
    let caller = setup.ca().issue(&Leaf { for_client: true, ..Leaf::named(&["monitoring"]) }).unwrap();
    caller.write(setup.dir(), "caller").unwrap();
    // Nobody listens there, so its checks fail.
    let nobody = vacant(LOOPBACK).unwrap();
    let server = format!(
        "permit_loopback = true\nserver = [{{ address = \"{nobody}\" }}]\nhealth = {{ interval = \"1s\" }}"
    );
    setup.listener("farm", "forward", &server).unwrap();
    let double = StaDouble::start(STA_ID).unwrap();
    setup.merge(&double.section("double", "health_interval = \"1s\"")).unwrap();
    let keys = ANYTHING_LOCAL.replace("[\"local\"]", "[\"local\", \"double\"]");
    let edge = Edge::of_setup(setup, "gateway", &keys);
    let server = edge.live_a_little();
    let mut stranger = Client::plain(edge.at).unwrap();
    stranger.send(b"this is no TLS at all").unwrap();
    edge.gateway.cli(["bans", "add", "192.0.2.9"]).unwrap().ok().unwrap();
    edge.gateway.cli(["reload"]).unwrap().ok().unwrap();
    let failed = || edge.gateway.metrics().unwrap().sum("portcullis_tls_handshake_failures_total", &[]);
    wait::until(PATIENCE, "a failed handshake", || failed() >= Some(1.0)).unwrap();
    // One session lives on.
    let live = edge.session(server.address());
    (edge, metrics, (live, server, double))
}

#[test]
fn promtool_passes_the_tests_of_the_alerts() {
    if without_programs(&["promtool"]) {
        return;
    }
    let rules = shipped("alerts.yml");
    let mut check = Command::new("promtool");
    process::run(check.args(["check", "rules"]).arg(rules), PATIENCE).unwrap().ok().unwrap();
    let mut test = Command::new("promtool");
    process::run(test.args(["test", "rules"]).arg(shipped("alerts.test.yml")), PATIENCE)
        .unwrap()
        .ok()
        .unwrap();
}

#[test]
fn every_expression_of_the_dashboard_is_answered_by_a_prometheus_that_scrapes_with_token_and_certificate() {
    if without_programs(&PROGRAMS) {
        return;
    }
    let (edge, at, _live) =
        busy_edge("certificate = \"main\"\nclient_ca = \"ca.pem\"\ntoken_file = \"token\"");
    let file = |name: &str| edge.gateway.dir().join(name).display().to_string();
    let scrape = format!(
        "scheme: https\nauthorization: {{ credentials_file: \"{}\" }}\n\
         tls_config: {{ ca_file: \"{}\", cert_file: \"{}\", key_file: \"{}\" }}",
        file("token"),
        file("ca.pem"),
        file("caller.crt"),
        file("caller.key")
    );
    let prometheus = Prometheus::start(at, &scrape, &text_of("alerts.yml")).unwrap();
    prometheus.wait_until_scraped().unwrap();
    let expressions = dashboard();
    assert!(expressions.len() > 50, "{} expressions", expressions.len());
    let page = edge.gateway.metrics().unwrap();
    let is_told = |series: &&str| page.0.contains(&format!("# TYPE {} ", family(series)));
    let (mut answered, mut absent) = (0, BTreeSet::new());
    let ask = |expression: &str| {
        for name in metrics_in(expression).iter().map(|series| family(series)) {
            assert!(
                names::all().any(|family| family.name == name),
                "{name} of `{expression}` does not exist"
            );
        }
        prometheus.query(expression).unwrap_or_else(|error| panic!("`{expression}`: {error}"))
    };
    for expression in &expressions {
        let series = metrics_in(expression);
        if series.iter().all(is_told) {
            // A rate needs two scrapes.
            let has_samples = || !ask(expression).is_empty();
            wait::until(PATIENCE, &format!("samples of `{expression}`"), has_samples).unwrap();
            answered += 1;
        } else {
            ask(expression);
            absent.extend(series.into_iter().filter(|series| !is_told(series)).map(str::to_owned));
        }
    }
    let documented = documented();
    assert!(documented.len() > 50, "{documented:?}");
    for expression in &documented {
        ask(expression);
    }
    // Only a packet filter, a machine's network and its clock, and what only appliances have may be missing here.
    let allowed = [
        "portcullis_xdp_",
        "portcullis_node_network_",
        "portcullis_node_timex_",
        "portcullis_settings_",
        "portcullis_update_",
        "portcullis_ha_",
    ];
    let strange: Vec<_> =
        absent.iter().filter(|name| !allowed.iter().any(|start| name.starts_with(start))).collect();
    assert!(strange.is_empty() && answered > 35, "{answered} answered; nothing is told of {strange:?}");
}

#[test]
fn alerts_fire_when_an_authority_stops_and_when_a_certificate_nears_its_end() {
    if without_programs(&PROGRAMS) {
        return;
    }
    let mut setup = setup();
    let metrics = setup.metrics(LOOPBACK).unwrap();
    let double = StaDouble::start(STA_ID).unwrap();
    let keys = "timeout = \"1s\"\nhealth_interval = \"1s\"";
    setup.merge(&double.section("double", keys)).unwrap();
    let mut edge =
        Edge::of_setup(setup, "gateway", &ANYTHING_LOCAL.replace("[\"local\"]", "[\"local\", \"double\"]"));
    let prometheus = Prometheus::start(metrics, "", &hasty_rules()).unwrap();
    prometheus.wait_until_scraped().unwrap();
    let fires = |alert: &str, label: &str, value: &str| {
        let firing = prometheus.firing().unwrap();
        firing.iter().any(|labels| labels["alertname"] == alert && labels[label] == value)
    };
    let authority = || fires("PortcullisTicketAuthorityDown", "sta", "double");
    let certificate = || fires("PortcullisCertificateExpires", "certificate", "main");
    let all_is_well = || !prometheus.query("portcullis_sta_up == 1").unwrap().is_empty() && !authority();
    wait::until(PATIENCE, "the authority to be up and no alert of it", all_is_well).unwrap();
    assert!(!certificate());

    drop(double);
    wait::until(PATIENCE, "the alert for the authority", authority).unwrap();

    let leaf = Leaf::loopback().validity(Validity::EndsIn(20 * DAY));
    let near = edge.gateway.setup().ca().issue(&leaf).unwrap();
    near.write(edge.gateway.dir(), "main").unwrap();
    wait::until(PATIENCE, "the alert for the certificate", certificate).unwrap();
    assert!(!fires("PortcullisCertificateExpiresNow", "certificate", "main"));
    let leaf = Leaf::loopback().validity(Validity::EndsIn(2 * DAY));
    let nearer = edge.gateway.setup().ca().issue(&leaf).unwrap();
    nearer.write(edge.gateway.dir(), "main").unwrap();
    let now = || fires("PortcullisCertificateExpiresNow", "certificate", "main");
    wait::until(PATIENCE, "the critical alert for the certificate", now).unwrap();
}

fn curl(dir: &Path, url: &str, more: &[&str]) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "%{http_code}", "--output"]);
    curl.arg(dir.join("answer")).arg("--cacert").arg(dir.join("ca.pem")).args(more).arg(url);
    process::run(curl.current_dir(dir), PATIENCE).unwrap()
}

#[test]
fn without_token_or_certificate_nobody_learns_the_metrics() {
    if without_programs(&["curl"]) {
        return;
    }
    let (mut edge, at, _live) = busy_edge("certificate = \"main\"\ntoken_file = \"token\"");
    let dir = edge.gateway.dir().to_owned();
    let status = |path: &str, more: &[&str]| curl(&dir, &format!("https://{at}/{path}"), more).stdout;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for (path, header, code) in [
        ("metrics", "X-Nothing: 1", "401"),
        ("metrics", "Authorization: Bearer wrong", "401"),
        ("metrics", "Authorization: Basic dGhlLXRva2VuLW9mLXRoaXMtdGVzdA==", "401"),
        ("metrics", &bearer, "200"),
        ("healthz", "X-Nothing: 1", "200"),
        ("readyz", "X-Nothing: 1", "200"),
    ] {
        assert_eq!(status(path, &["--header", header]), code, "{path} {header}");
    }
    assert!(!curl(&dir, &format!("http://{at}/metrics"), &["--header", &bearer]).stdout.contains("200"));

    // From now on callers show a certificate, too; the token is another one.
    std::fs::write(dir.join("token"), "another-token").unwrap();
    edge.gateway.setup().merge("[metrics]\nclient_ca = \"ca.pem\"").unwrap();
    edge.gateway.setup().write().unwrap();
    edge.gateway.cli(["reload"]).unwrap().ok().unwrap();
    let refused = curl(&dir, &format!("https://{at}/healthz"), &[]);
    assert!(!refused.success(), "{refused:?}");
    let identity = ["--cert", "caller.crt", "--key", "caller.key", "--header"];
    let shown = |header: &str| status("metrics", &[&identity[..], &[header]].concat());
    assert_eq!(
        (shown(&bearer).as_str(), shown("Authorization: Bearer another-token").as_str()),
        ("401", "200")
    );
    let log = edge.gateway.log();
    assert!(!log.contains(TOKEN) && !log.contains("another-token"), "{log}");
}
