//! What operators look with from the gateway's machine: echoes, the way, TLS, the log, packets, a bundle for support.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use portcullis_tests::backend;
use portcullis_tests::gateway::Gateway;
use portcullis_tests::netns::{End, Namespace, join};
use portcullis_tests::process;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};

use super::fixture::{ANYTHING_LOCAL, Edge, setup, text, without_namespaces, without_programs};

/// A gateway, a router beside it, and a host behind that.
struct Country {
    gateway: Gateway,
    near: Namespace,
    _router: Namespace,
    _far: Namespace,
}

const FAR: &str = "198.51.100.9";
const FAR_V6: &str = "2001:db8:2::9";

impl Country {
    fn new() -> Option<Self> {
        if without_namespaces() {
            return None;
        }
        let new = |role| Namespace::new(role).unwrap();
        let (near, router, far) = (new("gateway"), new("router"), new("far"));
        let both = |v4: &str, v6: &str| [format!("{v4}/24"), format!("{v6}/64")];
        let (one, two) = (both("192.0.2.1", "2001:db8:1::1"), both("192.0.2.254", "2001:db8:1::fe"));
        let (three, four) = (both("198.51.100.254", "2001:db8:2::fe"), both(FAR, FAR_V6));
        let end = |namespace, interface, addresses| End { namespace, interface, addresses };
        join(end(&near, "edge", &one), end(&router, "left", &two)).unwrap();
        join(end(&router, "right", &three), end(&far, "lan", &four)).unwrap();
        router
            .enter(|| {
                fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
                Ok(fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?)
            })
            .unwrap();
        for (place, v4, v6) in
            [(&near, "192.0.2.254", "2001:db8:1::fe"), (&far, "198.51.100.254", "2001:db8:2::fe")]
        {
            place.route("0.0.0.0/0", v4).unwrap();
            place.route("::/0", v6).unwrap();
        }
        let mut setup = setup();
        setup.listener("edge", "gateway", ANYTHING_LOCAL).unwrap();
        let mut command = near.command(process::binary("portcullisd").unwrap().to_str().unwrap());
        command.arg("--config").arg(setup.write().unwrap()).current_dir(setup.dir());
        let country =
            Self { gateway: setup.start_command(&mut command).unwrap(), near, _router: router, _far: far };
        country.echoes_for("0 2147483647");
        // Neighbours of IPv6 take a moment to find each other.
        for far in [FAR, FAR_V6] {
            let echo = || {
                country
                    .ask(&json!({"cmd": "ping", "host": far, "count": 1}))
                    .is_ok_and(|all| all["answered"] == 1)
            };
            wait::until(PATIENCE, "the way to be open", echo).unwrap();
        }
        Some(country)
    }

    /// Groups that may ask by ICMP.
    fn echoes_for(&self, groups: &str) {
        let write = || Ok(fs::write("/proc/sys/net/ipv4/ping_group_range", groups)?);
        self.near.enter(write).unwrap();
    }

    fn ask(&self, request: &Value) -> Result<Value, String> {
        let mut request = request.clone();
        request["v"] = json!(1);
        self.gateway.control().ask(&request).map_err(|error| error.to_string())
    }
}

/// Who answered at each hop.
fn way(traced: &Value) -> Vec<String> {
    traced["hops"].as_array().unwrap().iter().map(|hop| text(&hop["probes"][0], "from")).collect()
}

#[test]
fn echoes_come_back_over_a_router_and_what_the_router_says_is_told() {
    let Some(country) = Country::new() else { return };
    for far in [FAR, FAR_V6] {
        let pinged = country.gateway.cli_json(["ping", far, "--count", "3", "--interval", "100ms"]).unwrap();
        assert_eq!((&pinged["sent"], &pinged["answered"]), (&json!(3), &json!(3)), "{pinged}");
        assert!(pinged["max_ms"].as_f64().unwrap() < 1000.0, "{pinged}");
    }
    let shown =
        country.gateway.cli(["ping", FAR, "--count", "1", "--size", "1400"]).unwrap().ok().unwrap().stdout;
    assert!(shown.contains("1400 bytes to") && shown.contains("1 sent, 1 answered"), "{shown}");
    // The router has no way there.
    let lost = country.gateway.cli(["ping", "203.0.113.9", "--count", "1"]).unwrap();
    assert!(!lost.success() && lost.stdout.contains("192.0.2.254 says: no route"), "{lost:?}");
    let error = country.ask(&json!({"cmd": "ping", "host": FAR, "source": "192.0.2.77"})).unwrap_err();
    assert!(error.contains("no address of this machine"), "{error}");
    for wrong in
        [json!({"count": 21}), json!({"size": 2000}), json!({"interval_ms": 1}), json!({"timeout_ms": 9999})]
    {
        let mut request = json!({"cmd": "ping", "host": FAR});
        request.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert!(country.ask(&request).unwrap_err().contains("bad-request"), "{wrong}");
    }
}

#[test]
fn the_way_is_shown_hop_by_hop_by_echoes_and_by_datagrams() {
    let Some(country) = Country::new() else { return };
    for (far, router) in [(FAR, "192.0.2.254"), (FAR_V6, "2001:db8:1::fe")] {
        for method in ["icmp", "udp"] {
            let traced =
                country.ask(&json!({"cmd": "trace", "host": far, "method": method, "probes": 1})).unwrap();
            assert_eq!(way(&traced), [router, far], "{method}: {traced}");
            assert_eq!((&traced["reached"], &traced["ended"]), (&json!(true), &json!(true)));
        }
    }
    let shown = country.gateway.cli(["trace", FAR]).unwrap().ok().unwrap().stdout;
    assert!(shown.contains("by icmp") && shown.contains("  1  192.0.2.254  "), "{shown}");
    assert!(shown.contains("  2  198.51.100.9  "), "{shown}");
}

#[test]
fn a_kernel_that_grants_no_echoes_is_told_of_and_the_way_is_found_by_datagrams() {
    let Some(country) = Country::new() else { return };
    country.echoes_for("1 0");
    let refused = country.gateway.cli(["ping", FAR]).unwrap();
    assert!(!refused.success() && refused.stderr.contains("net.ipv4.ping_group_range"), "{refused:?}");
    let traced = country.gateway.cli_json(["trace", FAR, "--probes", "1"]).unwrap();
    assert_eq!((way(&traced).len(), &traced["method"]), (2, &json!("udp")), "{traced}");
}

#[test]
fn a_handshake_shows_version_chain_and_whether_the_server_is_believed() {
    let edge = Edge::start();
    let (at, ca) = (edge.at.to_string(), edge.ca().display().to_string());
    let arguments = ["tls-test", &at, "--server-name", "localhost", "--ca", &ca];
    let seen = edge.gateway.cli_json(arguments).unwrap();
    assert_eq!((&seen["verified"], &seen["version"]), (&json!(true), &json!("TLS 1.3")), "{seen}");
    let own = &seen["chain"][0];
    assert!(own["names"].as_array().unwrap().contains(&json!("localhost")), "{own}");
    assert!(own["days_left"].as_i64().unwrap() > 0, "{own}");
    // Others do not know that authority, and others the name.
    let strange = edge.gateway.cli(["tls-test", &at, "--server-name", "localhost"]).unwrap();
    assert!(!strange.success() && strange.stdout.contains("NOT believed"), "{strange:?}");
    let other = edge.gateway.cli(["tls-test", &at, "--server-name", "other.example", "--ca", &ca]).unwrap();
    assert!(!other.success() && other.stdout.contains("other.example"), "{other:?}");
    let silent = backend::echo().unwrap();
    let plain = edge.gateway.cli(["tls-test", &silent.address().to_string()]).unwrap();
    assert!(!plain.success() && plain.stderr.contains("no handshake"), "{plain:?}");
    let unknown = edge.gateway.cli(["tls-test", &at, "--trust", "nobody"]).unwrap();
    assert!(unknown.stderr.contains("no STA is called `nobody`"), "{unknown:?}");
}

#[test]
fn the_log_file_is_shown_by_level_and_what_comes_later_is_found() {
    let edge = Edge::with("[log]\nfile = \"gateway.log\"\nlevel = \"info\"");
    let read = |more: Value| {
        let mut request = json!({"v": 1, "cmd": "log-read"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        edge.gateway.control().ask(&request).unwrap()
    };
    let ready = || {
        let page = read(json!({}));
        page["lines"].to_string().contains("ready").then_some(page)
    };
    let page = wait::value(PATIENCE, "the line in the log", ready).unwrap();
    let after = text(&page, "next");
    edge.gateway.cli(["logs", "level", "debug"]).unwrap().ok().unwrap();
    let later = || {
        let page = read(json!({"after": after, "level": "info"}));
        let lines = page["lines"].as_array().unwrap().clone();
        lines.iter().any(|line| text(line, "message").contains("changed by an operator")).then_some(lines)
    };
    let lines = wait::value(PATIENCE, "the new line", later).unwrap();
    assert!(lines.iter().all(|line| !text(line, "message").contains("ready")), "{lines:?}");
    assert_eq!(read(json!({"level": "error"}))["lines"], json!([]));
    let shown = edge.gateway.cli(["logs", "show", "--lines", "1"]).unwrap().ok().unwrap().stdout;
    assert_eq!(shown.lines().count(), 1, "{shown}");
    let bad = edge.gateway.cli(["logs", "show", "--unit", "--file=/etc/shadow"]).unwrap();
    assert!(!bad.success() && !bad.stdout.contains("root:"), "{bad:?}");
}

#[test]
fn without_a_journal_or_a_file_it_is_said_where_the_log_is() {
    let edge = Edge::start();
    let shown = edge.gateway.cli(["logs", "show"]).unwrap();
    assert!(!shown.success() && shown.stderr.contains("`[log] file`"), "{shown:?}");
}

/// What is typed in a session, which no capture may hold.
const TYPED: &[u8] = b"correct horse battery staple";

#[test]
fn a_capture_holds_headers_that_tcpdump_reads_and_nothing_that_was_typed() {
    if without_programs(&["tcpdump"]) {
        return;
    }
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let port = server.address().port().to_string();
    let mut command = edge.gateway.cli_command().unwrap();
    command.args([
        "capture",
        "--interface",
        "lo",
        "--seconds",
        "30",
        "--count",
        "9",
        "--filter",
        "tcp",
        "port",
        &port,
    ]);
    let streamed = thread::scope(|scope| {
        let streaming = scope.spawn(|| command.output().unwrap());
        wait::until(PATIENCE, "the capture to run", || {
            edge.gateway.cli_json(["capture", "list"]).unwrap()[0]["state"] == "running"
        })
        .unwrap();
        let again = edge.gateway.cli(["capture", "--count", "1", "--json"]).unwrap();
        assert!(again.stderr.contains("is running"), "{again:?}");
        let mut session = edge.session(server.address());
        for _ in 0..5 {
            session.echo(TYPED).unwrap();
        }
        streaming.join().unwrap()
    });
    assert!(streamed.status.success(), "{streamed:?}");
    let note = String::from_utf8_lossy(&streamed.stderr).into_owned();
    assert!(note.contains("9 packets") && note.contains("it had its packets"), "{note}");
    assert!(!streamed.stdout.windows(5).any(|window| TYPED.windows(5).any(|typed| typed == window)));
    let path = edge.gateway.dir().join("seen.pcap");
    fs::write(&path, &streamed.stdout).unwrap();
    let read = tcpdump(&path);
    assert_eq!(read.lines().count(), 9, "{read}");
    assert!(read.contains(&format!("> {}.{port}: Flags [S]", server.address().ip())), "{read}");
    // The length of what was there is known still.
    assert!(read.contains(&format!("length {}", TYPED.len())), "{read}");
    let row = &edge.gateway.cli_json(["capture", "list"]).unwrap()[0];
    let mut get = edge.gateway.cli_command().unwrap();
    let kept = get.args(["capture", "get", &text(row, "name")]).output().unwrap();
    assert_eq!(kept.stdout, streamed.stdout);
    edge.gateway.cli(["capture", "delete", &text(row, "name")]).unwrap().ok().unwrap();
    let audit = edge.gateway.cli(["audit"]).unwrap().ok().unwrap().stdout;
    for what in ["capture-start", "capture-read", "capture-delete"] {
        assert!(audit.contains(what), "{audit}");
    }
}

fn tcpdump(path: &Path) -> String {
    let mut tcpdump = Command::new("tcpdump");
    process::run(tcpdump.args(["-nn", "-r"]).arg(path), PATIENCE).unwrap().ok().unwrap().stdout
}

#[test]
fn a_capture_ends_when_it_is_told_to_and_wrong_ones_do_not_begin() {
    let edge = Edge::start();
    for (arguments, why) in [
        (["--interface", "nothing0"], "no interface named"),
        (["--filter", "frobnicate"], "a filter has no `frobnicate`"),
        (["--count", "0"], "`packets` is from 1"),
        (["--seconds", "9999"], "`seconds` is from 1"),
    ] {
        let output = edge.gateway.cli(["capture"].into_iter().chain(arguments)).unwrap();
        assert!(!output.success() && output.stderr.contains(why), "{output:?}");
    }
    let mut command = edge.gateway.cli_command().unwrap();
    command.args(["capture", "--interface", "lo", "--seconds", "600", "--json"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let running = || edge.gateway.cli_json(["capture", "list"]).unwrap()[0]["state"] == "running";
    wait::until(PATIENCE, "the capture to run", running).unwrap();
    edge.gateway.cli(["capture", "stop"]).unwrap().ok().unwrap();
    assert!(child.wait().unwrap().success());
    let row = edge.gateway.cli_json(["capture", "list"]).unwrap()[0].clone();
    assert_eq!((text(&row, "state"), text(&row, "reason")), ("done".into(), "stopped".into()));
}

/// A gateway that knows secrets of every kind.
fn full_of_secrets() -> Edge {
    let mut setup = setup();
    let write = |name: &str, text: &str| fs::write(setup.dir().join(name), text).unwrap();
    write("key1", "StaSecurityKey-4711");
    write("token", "MetricsToken-0815");
    write("users", "ann:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo\n");
    setup.metrics("127.0.0.1".parse().unwrap()).unwrap();
    let more = "metrics.token_file = \"token\"\n[log]\nfile = \"gateway.log\"\nlevel = \"trace\"\n\
                [sta_server]\nsecurity_key_header = \"X-Key\"\nsecurity_key_files = [\"key1\"]\n\
                [[users]]\nname = \"people\"\nfile = \"users\"\n";
    setup.merge(more).unwrap();
    Edge::of_setup(setup, "gateway", ANYTHING_LOCAL)
}

/// What others might let slip into the log.
fn let_slip(edge: &Edge, ticket: &str, secret: &str) {
    let slips = format!(
        "2026-01-01T00:00:00.000Z INFO  other: ticket {ticket} of {secret}\n\
         2026-01-01T00:00:00.000Z INFO  other: Cookie: NSC_AAAC=CookieValue-1\n\
         2026-01-01T00:00:00.000Z INFO  other: password=\"Pass word-2\" key StaSecurityKey-4711\n\
         {{\"time\":\"2026-01-01T00:00:00.000Z\",\"level\":\"info\",\"message\":\"x\",\"token\":\"MetricsToken-0815\"}}\n\
         2026-01-01T00:00:00.000Z INFO  other: Authorization: Basic QmFzaWNDcmVk\n"
    );
    let log = edge.gateway.dir().join("gateway.log");
    let written = fs::read_to_string(&log).unwrap();
    fs::write(&log, written + &slips).unwrap();
}

#[test]
fn a_support_bundle_has_the_facts_and_no_secret() {
    if without_programs(&["tar"]) {
        return;
    }
    let (edge, server) = (full_of_secrets(), backend::echo().unwrap());
    let ticket = edge.ticket(server.address());
    let mut client = edge.client();
    assert_eq!(client.socks(&ticket, 1494).unwrap(), 0);
    edge.gateway.cli(["ticket", "redeem", &ticket]).unwrap();
    let secret = ticket.rsplit(';').next().unwrap();
    let_slip(&edge, &ticket, secret);
    let mut command = edge.gateway.cli_command().unwrap();
    let output = command.args(["support", "bundle"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let path = edge.gateway.dir().join("bundle.tar.gz");
    fs::write(&path, &output.stdout).unwrap();
    let tar = |how: &str| {
        let mut tar = Command::new("tar");
        process::run(tar.arg(how).arg(&path), PATIENCE).unwrap().ok().unwrap().stdout
    };
    let text = tar("-xzOf");
    let key = fs::read_to_string(edge.gateway.dir().join("main.key")).unwrap();
    let own = [ticket.as_str(), secret, key.lines().nth(1).unwrap(), "StaSecurityKey", "MetricsToken"];
    let others = ["argon2id", "aGFzaGhhc2hoYXNo", "CookieValue", "word-2", "QmFzaWNDcmVk", "PRIVATE KEY"];
    for secret in own.into_iter().chain(others) {
        assert!(!text.contains(secret), "{secret} is in the bundle");
    }
    let names = tar("-tzf");
    for name in ["version", "status", "configuration", "log", "audit", "xdp", "certificates"] {
        assert!(names.contains(&format!("/{name}.json")), "{names}");
    }
    assert!(text.contains("portcullis_build_info") && text.contains("\"cmd\":\"ticket-redeem\""));
    assert!(text.contains("other: Cookie: [redacted]"));
    let audit = edge.gateway.cli(["audit"]).unwrap().ok().unwrap().stdout;
    assert!(audit.contains("support-bundle"), "{audit}");
}

#[test]
fn health_names_what_is_wrong_and_users_are_those_with_sessions() {
    let (edge, server) = (Edge::start(), backend::echo().unwrap());
    let ticket = edge.ticket_with(server.address(), &json!({"user": "ann", "application": "Notepad"}));
    let mut client = edge.client();
    assert_eq!(client.socks(&ticket, 1494).unwrap(), 0);
    let health = edge.gateway.cli_json(["health"]).unwrap();
    assert_eq!((&health["ready"], &health["own"]), (&json!(true), &json!(true)), "{health}");
    assert!(health["checks"].as_array().unwrap().iter().any(|check| check["name"] == "daemon"), "{health}");
    let users = edge.gateway.cli_json(["users"]).unwrap();
    assert_eq!((&users[0]["user"], &users[0]["sessions"]), (&json!("ann"), &json!(1)), "{users}");
    fs::remove_file(edge.gateway.dir().join("main.key")).unwrap();
    let sick = edge.gateway.cli(["health"]).unwrap();
    assert!(!sick.success() && sick.stdout.contains("main.key"), "{sick:?}");
    // It serves on with the key that it has read.
    edge.gateway.cli(["health", "--own", "--wait", "1m"]).unwrap().ok().unwrap();
}

#[test]
fn names_are_resolved_as_for_sessions() {
    let edge = Edge::start();
    let found = edge.gateway.cli_json(["resolve", "localhost"]).unwrap();
    assert!(found["addresses"].as_array().unwrap().contains(&json!("127.0.0.1")), "{found}");
    let wrong = edge.gateway.cli(["resolve", "no such name"]).unwrap();
    assert!(!wrong.success() && wrong.stderr.contains("is no name or address"), "{wrong:?}");
}

#[test]
fn a_factory_reset_asks_first_and_is_the_machines_to_do() {
    let edge = Edge::start();
    let asked = edge.gateway.cli(["factory-reset"]).unwrap();
    assert!(!asked.success() && asked.stderr.contains("--yes"), "{asked:?}");
    let refused = edge.gateway.cli(["factory-reset", "--yes", "--keep-network"]).unwrap();
    assert!(!refused.success() && refused.stderr.contains("only the appliance"), "{refused:?}");
}

/// What the initrd of the appliance runs, on a directory instead of the state partition.
fn reset(state: &Path) {
    let unit = "appliance-image/mkosi.images/initrd/mkosi.extra/usr/lib/systemd/system/appliance-factory-reset.service";
    let unit = fs::read_to_string(process::repository().join(unit)).unwrap();
    assert!(unit.contains("ConditionPathExists=/sysroot/var/lib/appliance/factory-reset\n"));
    let lines: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
    assert_eq!(lines.len(), 4);
    for line in lines {
        // systemd.service(5): a dollar sign is written twice there.
        let line = line.replace("/sysroot/var", state.to_str().unwrap()).replace("$$", "$");
        process::run(Command::new("sh").args(["-c", &line]), PATIENCE).unwrap().ok().unwrap();
    }
}

#[test]
fn a_factory_reset_leaves_nothing_but_what_is_to_be_kept() {
    for (note, kept) in [
        ("all", vec!["lost+found"]),
        ("keep-network", vec!["lib/appliance/network/10.network", "lost+found"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "x").unwrap();
        for file in [
            "lib/appliance/configuration/portcullis.toml",
            "lib/appliance/keys/admin",
            "lib/appliance/.hidden",
            "lib/appliance/network/10.network",
            "lib/portcullis/audit/audit.jsonl",
            "lib/with space/x",
            "log/journal/abc/system.journal",
            ".cache/x",
            "lost+found/x",
        ] {
            fs::create_dir_all(state.join(file).parent().unwrap()).unwrap();
            fs::write(state.join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), state.join("lib/link")).unwrap();
        fs::write(state.join("lib/appliance/factory-reset"), format!("{note}\n")).unwrap();
        reset(state);
        let mut find = Command::new("find");
        let left = process::run(find.arg(state).args(["-type", "f", "-printf", "%P\n"]), PATIENCE)
            .unwrap()
            .ok()
            .unwrap();
        let mut left: Vec<&str> = left.stdout.lines().map(|file| file.trim_end_matches("/x")).collect();
        left.sort_unstable();
        assert_eq!(left, kept);
        assert!(outside.path().join("precious").exists());
    }
}
