use std::net::SocketAddr;
use std::path::Path as File;
use std::time::Duration;

use portcullis_core::balance::health::State;
use portcullis_ebpf_common::maglev;

use super::*;
use crate::config::{self, Config};

const CHECKED: &str = "health = { interval = \"1h\", rise = 1, fall = 1 }";

fn config(servers: &str, more: &str) -> Config {
    let text = format!(
        "[[listener]]\nname = \"farm\"\nkind = \"forward\"\nlisten = [\"192.0.2.1:443\"]\nserver = [{servers}]\n{more}"
    );
    config::parse(&text, File::new("/etc/portcullis/portcullis.toml")).unwrap()
}

fn three() -> Config {
    let row = |last: u8| format!("{{ name = \"s{last}\", address = \"10.0.0.{last}:443\" }}");
    config(&[row(1), row(2), row(3)].join(", "), "health = { kind = \"none\" }")
}

fn installed(config: &Config) -> Balancers {
    let balancers = Balancers::new(config.xdp.is_some());
    let prepared = balancers.prepare(&config.listeners).unwrap();
    balancers.install(prepared);
    balancers
}

fn reinstall(balancers: &Balancers, config: &Config) {
    let prepared = balancers.prepare(&config.listeners).unwrap();
    balancers.install(prepared);
}

fn service(balancers: &Balancers) -> Arc<Service> {
    balancers.services().remove(0)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A failed or a good check of one server.
fn note(balancers: &Balancers, server: &str, good: bool) {
    let result = if good { Ok(()) } else { Err(CheckError::Timeout(Duration::from_secs(1))) };
    balancers.get("farm").unwrap().note_check(address(server), Duration::from_millis(3), result);
}

#[test]
fn user_space_chooses_what_the_kernel_would_find_in_the_table() {
    let service = service(&installed(&three()));
    let local = address("192.0.2.1:443");
    for port in 1..500 {
        let client = SocketAddr::new([198, 51, 100, 7].into(), port);
        let addresses = portcullis_ebpf_common::Addresses::v4([198, 51, 100, 7], [192, 0, 2, 1]);
        let ports = portcullis_ebpf_common::Ports { source: port, destination: 443 };
        let slot = maglev::slot(maglev::flow_hash(&addresses, ports));
        let place = service.table[usize::try_from(slot).unwrap()];
        let chosen = service.choose(client, local);
        assert_eq!(chosen[0], service.servers[usize::from(place)].address);
        assert_eq!(chosen.len(), 3);
        let mapped = SocketAddr::new(std::net::Ipv4Addr::new(198, 51, 100, 7).to_ipv6_mapped().into(), port);
        assert_eq!(service.choose(mapped, local), chosen, "an IPv6 socket sees the same client");
    }
}

#[test]
fn a_drained_server_is_in_no_slot_and_whoever_follows_is_told() {
    let balancers = installed(&three());
    let mut changes = balancers.subscribe();
    changes.mark_unchanged();
    assert_eq!(balancers.set_drained(None, "s2", true).unwrap().len(), 1);
    assert!(changes.has_changed().unwrap());
    let service = service(&balancers);
    assert!(service.servers[1].drained && !service.table.contains(&1));
    changes.mark_unchanged();
    balancers.set_drained(Some("farm"), "s2", true).unwrap();
    assert!(!changes.has_changed().unwrap(), "it was drained already");
    assert_eq!(balancers.set_drained(Some("other"), "s2", true), Err(NoSuchServer));
    assert_eq!(balancers.set_drained(None, "s9", true), Err(NoSuchServer));
}

#[test]
fn a_drain_survives_a_reload_until_its_server_goes() {
    let balancers = installed(&three());
    balancers.set_drained(None, "s2", true).unwrap();
    reinstall(&balancers, &three());
    assert!(service(&balancers).servers[1].drained);
    reinstall(&balancers, &config("{ address = \"10.0.0.1:443\" }", "health = { kind = \"none\" }"));
    reinstall(&balancers, &three());
    assert!(!service(&balancers).servers[1].drained);
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_servers_that_are_checked_as_before() {
    let rows = "{ address = \"10.0.0.1:443\" }, { address = \"10.0.0.2:443\" }";
    let balancers = installed(&config(rows, CHECKED));
    note(&balancers, "10.0.0.1:443", false);
    note(&balancers, "10.0.0.2:443", true);
    let states = || service(&balancers).servers.iter().map(|server| server.state).collect::<Vec<_>>();
    assert_eq!(states(), [State::Down, State::Up]);
    assert!(!service(&balancers).table.contains(&0));
    reinstall(&balancers, &config(&format!("{{ address = \"10.0.0.9:443\" }}, {rows}"), CHECKED));
    assert_eq!(states(), [State::Unknown, State::Down, State::Up]);
    reinstall(&balancers, &config(rows, "health = { interval = \"30m\" }"));
    assert_eq!(states(), [State::Unknown, State::Unknown], "another check may come to another end");
}

#[tokio::test]
async fn status_tells_what_the_last_check_found() {
    let balancers = installed(&config("{ address = \"10.0.0.1:443\" }", CHECKED));
    let live = KernelTotals { flows: 5, ..KernelTotals::default() };
    balancers.get("farm").unwrap().set_kernel_flows(address("10.0.0.1:443"), live);
    note(&balancers, "10.0.0.1:443", false);
    let status = balancers.status().remove(0);
    let row = &status.servers[0];
    assert_eq!((row.state.as_str(), row.share, row.flows), ("down", 0.0, 5));
    assert_eq!((row.checks, row.failures), (1, 1));
    assert_eq!(row.last_error.as_deref(), Some("did not answer within 1s"));
    assert_eq!(status.path_reason.as_deref(), Some("no interface is filtered: there is no [xdp]"));
    note(&balancers, "10.0.0.1:443", true);
    assert_eq!(balancers.status()[0].servers[0].last_error, None);
}

#[tokio::test]
async fn a_lack_of_descriptors_of_our_own_takes_no_server_down() {
    let balancers = installed(&config("{ address = \"10.0.0.1:443\" }", CHECKED));
    let exhausted = CheckError::Exhausted(std::io::Error::from_raw_os_error(24));
    let server = address("10.0.0.1:443");
    balancers.get("farm").unwrap().note_check(server, Duration::ZERO, Err(exhausted));
    let row = balancers.status().remove(0).servers.remove(0);
    assert_eq!((row.state.as_str(), row.failures), ("unknown", 1));
    assert!(row.last_error.is_some_and(|error| error.starts_with("could not be checked")));
}

#[test]
fn flows_run_in_user_space_until_the_kernel_side_takes_them() {
    let balancers = Balancers::new(true);
    reinstall(&balancers, &three());
    let path = |balancers: &Balancers| balancers.status()[0].path.clone();
    assert_eq!(path(&balancers), "user");
    balancers.set_path("farm", Path::Kernel);
    reinstall(&balancers, &three());
    assert_eq!(path(&balancers), "kernel", "a reload does not take it back");
    let user = three().listeners[0].forward.clone().unwrap();
    let user = config::ForwardConfig { data_path: DataPath::User, ..user };
    let listener = ListenerConfig { forward: Some(user), ..ListenerConfig::clone(&three().listeners[0]) };
    reinstall(&balancers, &Config { listeners: vec![Arc::new(listener)], ..three() });
    assert_eq!(path(&balancers), "user");
    assert_eq!(service(&balancers).user_only, Some("as configured"));
}

#[test]
fn a_listener_that_must_run_in_the_kernel_and_cannot_keeps_the_daemon_down() {
    let xdp = "data_path = \"xdp\"\nhealth = { kind = \"none\" }\n[xdp]\nallow_no_management = true\n\
               interface = [{ name = \"eth0\", role = \"edge\" }]";
    let balancers = installed(&config("{ address = \"10.0.0.1:443\" }", xdp));
    assert_eq!(service(&balancers).user_only, None);
    let error = balancers.ensure_paths().unwrap_err().to_string();
    assert!(
        error.contains("has not taken it") && error.contains("`farm`") && error.contains("set `data_path`"),
        "{error}"
    );
    balancers.set_path("farm", Path::Kernel);
    balancers.ensure_paths().unwrap();
}
