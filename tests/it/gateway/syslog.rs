//! The log at a real syslog server (rsyslog), out of a journal that systemd-journal-remote writes.
//!
//! The daemon has a mount namespace of its own, where `/var/log/journal` is the test's. That the gateway's own lines and
//! the audit log's are in what is sent, the scenario `syslog` tries on the appliance, where a journal takes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::gateway::Setup;
use portcullis_tests::pki::Authority;
use portcullis_tests::process::{self, Child};
use portcullis_tests::skip::skip;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use super::fixture::without_programs;

/// Not in the search path.
const JOURNAL_REMOTE: &str = "/lib/systemd/systemd-journal-remote";

/// A journal, a configuration that sends it, and where it goes.
struct Scene {
    setup: Setup,
    port: u16,
    protocol: &'static str,
    entries: u64,
}

impl Scene {
    /// `None` where the programs are not.
    fn new(protocol: &'static str, keys: &str) -> Option<Self> {
        let missing = without_programs(&["rsyslogd", "journalctl", "unshare"]);
        if missing || !Path::new(JOURNAL_REMOTE).exists() || !nix::unistd::geteuid().is_root() {
            skip("needs root, rsyslogd, journalctl and systemd-journal-remote");
            return None;
        }
        let mut setup = Setup::new().unwrap();
        let port = process::free_port().unwrap();
        let section = format!(
            "[syslog]\nserver = \"127.0.0.1:{port}\"\nprotocol = \"{protocol}\"\nsend = \"all\"\n{keys}"
        );
        setup.merge(&section).unwrap();
        fs::create_dir_all(setup.dir().join("journal").join(machine_id())).unwrap();
        let mut scene = Self { setup, port, protocol, entries: 0 };
        // A server that has had nothing yet gets what comes from now on.
        scene.log("before");
        Some(scene)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.setup.dir().join(name)
    }

    /// Another entry of the journal, of a boot before this one.
    fn log(&mut self, message: &str) {
        self.entries += 1;
        let (id, second) = (machine_id(), self.entries * 1_000_000);
        let entry = format!(
            "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={second}\n_BOOT_ID=abababababababababababababababab\n\
             _MACHINE_ID={id}\n_HOSTNAME=gw\nPRIORITY=4\nSYSLOG_FACILITY=4\nSYSLOG_IDENTIFIER=sshd\n_PID=77\n\
             _SYSTEMD_UNIT=ssh.service\nMESSAGE={message}\n\n",
            1_700_000_000_000_000 + second
        );
        let mut command = Command::new(JOURNAL_REMOTE);
        command.arg("-o").arg(self.path("journal").join(id).join("system.journal")).arg("-");
        process::run_with_input(&mut command, entry.as_bytes(), PATIENCE).unwrap().ok().unwrap();
    }

    fn server(&self) -> Child {
        let dir = self.setup.dir().display();
        let tls = "StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" StreamDriver.Authmode=\"anon\"";
        let module = match self.protocol {
            "tls" => format!("module(load=\"imtcp\" {tls})"),
            "tcp" => "module(load=\"imtcp\")".to_owned(),
            _ => "module(load=\"imudp\")".to_owned(),
        };
        let input = if self.protocol == "udp" { "imudp" } else { "imtcp" };
        let text = format!(
            "global(net.enableDNS=\"off\" workDirectory=\"{dir}\" DefaultNetstreamDriver=\"ossl\" \
             DefaultNetstreamDriverCAFile=\"{dir}/ca.pem\" DefaultNetstreamDriverCertFile=\"{dir}/main.crt\" \
             DefaultNetstreamDriverKeyFile=\"{dir}/main.key\")\n{module}\n\
             template(name=\"t\" type=\"string\" \
             string=\"%pri%|%timereported:::date-rfc3339%|%hostname%|%app-name%|%procid%|%msgid%|%msg%\\n\")\n\
             input(type=\"{input}\" address=\"127.0.0.1\" port=\"{}\")\n\
             action(type=\"omfile\" file=\"{dir}/received\" template=\"t\")\n",
            self.port
        );
        fs::write(self.path("rsyslog.conf"), text).unwrap();
        let mut command = Command::new("rsyslogd");
        command.arg("-n").arg("-f").arg(self.path("rsyslog.conf")).arg("-i").arg(self.path("rsyslog.pid"));
        let mut server = Child::spawn("rsyslogd", &mut command, self.setup.dir()).unwrap();
        if self.protocol != "udp" {
            server.wait_for_listen(self.port, PATIENCE).unwrap();
        }
        server
    }

    fn daemon(&self) -> Child {
        let config = self.setup.write().unwrap();
        let script = "mount -t tmpfs none /var/log && mkdir /var/log/journal && mount --bind \"$1\" /var/log/journal \
                      && exec \"$2\" --config \"$3\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(self.path("journal"));
        command.arg(process::binary("portcullisd").unwrap()).arg(config);
        let mut daemon = Child::spawn("daemon", &mut command, self.setup.dir()).unwrap();
        daemon.wait_for_log("ready version", PATIENCE).unwrap();
        daemon
    }

    fn received(&self) -> String {
        fs::read_to_string(self.path("received")).unwrap_or_default()
    }

    fn wait_for(&self, text: &str) {
        let told = || format!("{}; received: {}", self.check(), self.received());
        let came = wait::until(PATIENCE, text, || self.received().contains(text));
        assert!(came.is_ok(), "{text} did not come: {}", told());
    }

    /// What `health` says of it.
    fn check(&self) -> Value {
        let mut command = Command::new(process::binary("portcullis").unwrap());
        command.arg("--socket").arg(self.path("control.sock")).args(["health", "--json"]);
        let health: Value =
            serde_json::from_str(&process::run(&mut command, PATIENCE).unwrap().stdout).unwrap();
        let checks = health["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "syslog").unwrap().clone()
    }

    fn wait_until_connected(&self) {
        wait::until(PATIENCE, "a connection", || self.check()["state"] == "good").unwrap();
    }
}

fn machine_id() -> String {
    fs::read_to_string("/etc/machine-id").unwrap().trim().to_owned()
}

#[test]
fn entries_reach_a_real_server_by_tls_and_those_of_its_absence_come_when_it_is_back() {
    let Some(mut scene) = Scene::new("tls", "ca = \"ca.pem\"") else { return };
    let mut server = scene.server();
    let mut daemon = scene.daemon();
    scene.wait_until_connected();
    scene.log("first of all");
    scene.wait_for("36|2023-11-14T22:13:22.000Z|gw|sshd|77|-|first of all\n");
    server.stop(PATIENCE).unwrap();
    wait::until(PATIENCE, "the loss to be noticed", || scene.check()["state"] == "doubtful").unwrap();
    scene.log("while the server is away");
    let mut server = scene.server();
    scene.wait_for("|while the server is away\n");
    daemon.stop(PATIENCE).unwrap();
    scene.log("while the daemon is away");
    let _daemon = scene.daemon();
    scene.wait_for("|while the daemon is away\n");
    assert!(!scene.received().contains("before"), "{}", scene.received());
    server.stop(PATIENCE).unwrap();
}

#[test]
fn a_server_that_cannot_prove_who_it_is_gets_nothing() {
    let Some(mut scene) = Scene::new("tls", "ca = \"other.pem\"") else { return };
    Authority::root("Nobody").unwrap().write(&scene.path("other.pem")).unwrap();
    let _server = scene.server();
    let _daemon = scene.daemon();
    scene.log("a secret of the house");
    let told = || scene.check()["detail"].as_str().unwrap_or_default().contains("certificate");
    wait::until(PATIENCE, "the certificate to be refused", told).unwrap();
    assert_eq!(scene.received(), "");
}

#[test]
fn tcp_and_udp_are_spoken_too() {
    for protocol in ["tcp", "udp"] {
        let Some(mut scene) = Scene::new(protocol, "") else { return };
        let _server = scene.server();
        let _daemon = scene.daemon();
        scene.wait_until_connected();
        scene.log("by another way");
        scene.wait_for("36|2023-11-14T22:13:22.000Z|gw|sshd|77|-|by another way\n");
    }
}
