use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_core::deny::Deny;
use portcullis_core::limits::Limits;
use portcullis_core::session::{EndReason, Protocol, Record, SessionInfo, Table};

use super::*;

fn ended(bytes: u64) -> Record {
    let info = SessionInfo {
        listener: "gateway".into(),
        protocol: Protocol::Socks,
        source: "192.0.2.1:1".parse().unwrap(),
        user: None,
        application: None,
        target: "10.0.0.9:1494".into(),
    };
    let mut table = Table::new(1);
    let session = table.admit(Instant::now(), UNIX_EPOCH, info, &Limits::default()).unwrap();
    session.counters.bytes_up.store(bytes, Ordering::Relaxed);
    table.end(Instant::now(), session.id, EndReason::ClientClosed).unwrap()
}

/// A listener with one server that is well and one that is drained and down.
fn forwarding() -> forward::Fact {
    let server = |name: &str, up, weight| forward::Server {
        name: name.into(),
        up,
        weight,
        flows: 3,
        kernel_flows: 5,
        kernel_bytes: [7, 9],
        kernel_packets: [6, 8],
    };
    forward::Fact {
        listener: "farm".into(),
        in_kernel: true,
        servers: vec![server("a", true, 7), server("b", false, 0)],
    }
}

/// A rendering in which every family occurs.
fn everything() -> String {
    let (recorder, handle) = build().unwrap();
    let snapshot = Snapshot {
        sessions: [(("gateway".to_owned(), "cgp"), 2)].into(),
        bytes: [("gateway".to_owned(), (10, 20))].into(),
        stas: vec![("sta1".into(), true)],
        directories: vec![("state", std::env::temp_dir())],
        tickets_live: Some(3),
        limits: vec![("sessions", Some(2), 9000), ("sessions_per_user", None, 100)],
        ebpf: "attached (driver)".into(),
        bans: vec![("automatic", 8)],
        forwards: vec![forwarding()],
        acme: vec![acme::Fact { certificate: "web".into(), last_renewal: Some(UNIX_EPOCH), failures: 2 }],
        syslog: Some(syslog::Fact { connected: true, sent: 5, failures: 1, fault: None }),
        appliance: appliance::Facts {
            settings_applied: Some(true),
            update: Some(appliance::Update { failed: false, versions: vec![("good", 2)] }),
            support_shells: 0,
        },
        xdp: xdp::Facts {
            packets: vec![("edge".into(), portcullis_ebpf_common::Cause::NoRule, 6)],
            packets_out: vec![("cgroup".into(), portcullis_ebpf_common::Cause::EgressDrops, 2)],
            interfaces: vec![xdp::Interface {
                name: "edge".into(),
                mode: "driver",
                attached: true,
                repairs: 1,
            }],
            maps: vec![("FLOWS", Some(4), 65_536)],
            flows_unlisted: Some(2),
            events: Some((9, 1)),
            flood: Some((true, false)),
            steering: Some(true),
        },
        log_lines_lost: 4,
        relay_workers: 2,
        relay_engine: "io_uring",
        relay_enters: Some(12),
        ha: Some(ha::Fact {
            states: vec![("backup", true), ("master", false)],
            changes: 2,
            serves: true,
            addresses: 1,
        }),
    };
    ::metrics::with_local_recorder(&recorder, || {
        describe();
        let listener = handle.listener("gateway");
        let _connection = listener.connection();
        listener.handshake_succeeded(rustls::ProtocolVersion::TLSv1_3, true);
        listener.handshake_failed(HandshakeFailure::NotTls);
        listener.refused(Deny::TicketRefused);
        listener.stage(Stage::Dial, Duration::from_millis(3));
        listener.session_ended(&ended(5));
        sta_request("sta1", "granted", Duration::from_millis(7));
        ticket_issued();
        acme::renewal("web", true);
        ticket_redeemed("granted");
        bans_exist();
        offence("bad_ticket");
        ban("hand");
        forward_check_failed("farm", "b", "timeout");
        forward_redialed("farm").increment(2);
        // Others may keep these by hand; what is read counts.
        ::metrics::gauge!(names::STA_UP.name, "sta" => "sta1").set(0);
        ::metrics::gauge!(names::TICKETS_LIVE.name).set(99);
        handle.set_certificates(vec![("main".into(), UNIX_EPOCH + Duration::from_secs(1_900_000_000))]);
        handle.set_reload(true, UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        handle.set_started(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        handle.render(&snapshot)
    })
}

#[test]
fn every_metric_is_rendered_with_its_type_and_help() {
    let text = everything();
    // Whether a machine has interfaces, and tells of its clock, is its affair.
    let depends = |family: &Family| ["_network_", "_timex_"].iter().any(|part| family.name.contains(part));
    for family in names::all().filter(|family| !depends(family)) {
        assert!(
            text.contains(&format!("# TYPE {} {}\n", family.name, family.kind.as_str())),
            "{}",
            family.name
        );
        assert!(text.contains(&format!("# HELP {} {}\n", family.name, family.help)), "{}", family.name);
    }
    let unknown = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for line in unknown {
        let name = line.split(' ').next().unwrap();
        assert!(names::all().any(|family| family.name == name), "{name} is not in the list");
    }
}

#[test]
fn the_numbers_are_those_that_were_recorded() {
    let text = everything();
    for line in [
        "portcullis_connections_total{listener=\"gateway\"} 1",
        "portcullis_connections_active{listener=\"gateway\"} 1",
        "portcullis_tls_handshakes_total{listener=\"gateway\",version=\"1.3\",resumed=\"true\"} 1",
        "portcullis_tls_handshakes_total{listener=\"gateway\",version=\"1.2\",resumed=\"false\"} 0",
        "portcullis_tls_handshake_failures_total{listener=\"gateway\",reason=\"not_tls\"} 1",
        "portcullis_refusals_total{listener=\"gateway\",reason=\"ticket_refused\"} 1",
        "portcullis_refusals_total{listener=\"gateway\",reason=\"draining\"} 0",
        "portcullis_sessions_total{listener=\"gateway\",protocol=\"socks5\",reason=\"client_closed\"} 1",
        "portcullis_sessions_active{listener=\"gateway\",protocol=\"cgp\"} 2",
        "portcullis_session_bytes_total{listener=\"gateway\",direction=\"up\"} 15",
        "portcullis_session_bytes_total{listener=\"gateway\",direction=\"down\"} 20",
        "portcullis_setup_stage_duration_seconds_bucket{stage=\"dial\",le=\"0.005\"} 1",
        "portcullis_setup_stage_duration_seconds_bucket{stage=\"dial\",le=\"0.0025\"} 0",
        "portcullis_setup_stage_duration_seconds_count{stage=\"redeem\"} 0",
        "portcullis_sta_up{sta=\"sta1\"} 1",
        "portcullis_forward_in_kernel{listener=\"farm\"} 1",
        "portcullis_forward_server_up{listener=\"farm\",server=\"a\"} 1",
        "portcullis_forward_server_up{listener=\"farm\",server=\"b\"} 0",
        "portcullis_forward_server_weight{listener=\"farm\",server=\"a\"} 7",
        "portcullis_forward_server_weight{listener=\"farm\",server=\"b\"} 0",
        "portcullis_forward_flows{listener=\"farm\",server=\"b\"} 3",
        "portcullis_forward_kernel_flows_total{listener=\"farm\",server=\"b\"} 5",
        "portcullis_forward_kernel_bytes_total{listener=\"farm\",server=\"b\",direction=\"down\"} 9",
        "portcullis_forward_kernel_packets_total{listener=\"farm\",server=\"b\",direction=\"up\"} 6",
        "portcullis_forward_checks_failed_total{listener=\"farm\",server=\"b\",reason=\"timeout\"} 1",
        "portcullis_forward_redialed_total{listener=\"farm\"} 2",
        "portcullis_tickets_live 3",
        "portcullis_limit_current{limit=\"sessions\"} 2",
        "portcullis_limit_max{limit=\"sessions_per_user\"} 100",
        "portcullis_certificate_not_after_timestamp_seconds{certificate=\"main\"} 1900000000",
        "portcullis_config_last_reload_success 1",
        "process_start_time_seconds 1700000000",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
}

/// What promtool says of a text; `None` where it is not installed.
fn promtool(arguments: &[&str], text: &str) -> Option<(bool, String)> {
    let started = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        println!("skipped: promtool is not installed (Debian package prometheus)");
        return None;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn promtool_finds_no_fault() {
    if let Some(outcome) = promtool(&["check", "metrics"], &everything()) {
        assert_eq!(outcome, (true, String::new()));
    }
}

const ALERTS: &str = include_str!("../../monitoring/alerts.yml");
const ALERTS_TEST: &str = include_str!("../../monitoring/alerts.test.yml");

/// What follows `key: ` at the beginning of lines.
fn values<'a>(text: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    let start = format!("- {key}: ");
    text.lines().filter_map(move |line| line.trim_start().strip_prefix(&start).map(str::trim))
}

#[test]
fn the_alerts_are_rules_over_metrics_that_exist() {
    let words = ALERTS.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in words.filter(|word| word.starts_with("portcullis_") || word.starts_with("process_")) {
        assert!(names::all().any(|family| family.name == name), "{name}");
    }
}

#[test]
fn each_alert_has_a_test_in_which_it_fires_and_a_row_in_the_document() {
    let document = include_str!("../../docs/METRICS.md");
    let fire: Vec<_> = values(ALERTS_TEST, "alertname").collect();
    let alerts: Vec<_> = values(ALERTS, "alert").collect();
    assert_eq!(alerts.len(), ALERTS.matches("expr: ").count());
    for alert in alerts {
        assert!(fire.contains(&alert), "{alert} is not tested");
        assert!(document.contains(&format!("| `{alert}` |")), "{alert} is not in the document");
    }
}

#[test]
fn guards_give_back_what_they_took() {
    let (recorder, handle) = build().unwrap();
    ::metrics::with_local_recorder(&recorder, || {
        let listener = handle.listener("gateway");
        let guards = (listener.connection(), listener.handshake(), handle.listener("gateway").connection());
        assert_eq!((handle.connections_of("gateway"), handle.connections(), handle.handshakes()), (2, 2, 1));
        drop(guards);
        assert_eq!((handle.connections_of("gateway"), handle.connections(), handle.handshakes()), (0, 0, 0));
    });
}

#[test]
fn bytes_never_fall_while_a_session_moves_to_the_ended_ones() {
    let (shown, ended) = (AtomicU64::new(0), AtomicU64::new(5));
    assert_eq!(never_falling(&shown, 10, &ended), 15);
    assert_eq!(never_falling(&shown, 0, &ended), 15);
    ended.store(15, Ordering::Relaxed);
    assert_eq!(never_falling(&shown, 2, &ended), 17);
}

#[test]
fn a_failed_reload_keeps_the_time_of_the_last_success() {
    let (_, handle) = build().unwrap();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    handle.set_reload(true, at(10));
    handle.set_reload(false, at(20));
    let text = handle.render(&Snapshot::default());
    assert!(text.contains("portcullis_config_last_reload_success 0\n"), "{text}");
    assert!(text.contains("portcullis_config_last_reload_timestamp_seconds 10\n"), "{text}");
}

#[test]
fn handshake_failures_are_told_apart() {
    use rustls::{AlertDescription, Error, PeerIncompatible};
    for (error, failure) in [
        (Error::AlertReceived(AlertDescription::UnknownCA), HandshakeFailure::ClientAlert),
        (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), HandshakeFailure::NoCommonSuite),
        (Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), HandshakeFailure::NoCommonVersion),
        (Error::General("no server certificate chain resolved".into()), HandshakeFailure::ServerName),
        (Error::DecryptError, HandshakeFailure::Other),
    ] {
        assert_eq!(HandshakeFailure::from(&error), failure);
    }
}
