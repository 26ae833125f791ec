//! A support shell as the appliance opens it: the daemon's grant, a socket that the system waits at
//! (systemd-socket-activate), the program behind it, and the command line at a pseudo-terminal. All of them see a `/run` of
//! their own. The unit's walls, and that its time ends it, are tried by the scenario `support` on the appliance.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;

use portcullis_tests::gateway::Setup;
use portcullis_tests::process::{self, Child};
use portcullis_tests::skip::skip;
use portcullis_tests::terminal::Terminal;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value;

use super::fixture::without_programs;

/// The system's part; `$1` is the daemon, `$2` the command line, `$3` the configuration.
const MACHINE: &str = r#"
    mount -t tmpfs none /run && mkdir -m 700 /run/portcullis-requests && mkdir /run/portcullis-support || exit 1
    systemd-socket-activate --accept --inetd --listen=/run/portcullis-support.sock sh -c '
        export RUNTIME_DIRECTORY=/run/portcullis-support/$$; mkdir "$RUNTIME_DIRECTORY"; exec "$0" support-job' "$2" &
    exec "$1" --config "$3"
"#;

struct Scene {
    setup: Setup,
    daemon: Child,
}

impl Scene {
    fn start(section: &str) -> Option<Self> {
        if without_programs(&["systemd-socket-activate", "unshare", "nsenter", "setsid", "bash"]) {
            return None;
        }
        if !nix::unistd::geteuid().is_root() {
            skip("needs root, for a /run of its own");
            return None;
        }
        let mut setup = Setup::new().unwrap();
        setup.merge(section).unwrap();
        let config = setup.write().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", MACHINE, "sh"]);
        for program in ["portcullisd", "portcullis"] {
            command.arg(process::binary(program).unwrap());
        }
        let mut daemon = Child::spawn("daemon", command.arg(config), setup.dir()).unwrap();
        daemon.wait_for_log("ready version", PATIENCE).unwrap();
        Some(Self { setup, daemon })
    }

    /// The command line, where the daemon is.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.daemon.pid())).arg("--mount");
        command.arg(process::binary("portcullis").unwrap());
        command.arg("--socket").arg(self.setup.dir().join("control.sock")).args(arguments);
        command
    }

    fn typed(&self, arguments: &[&str]) -> Terminal {
        Terminal::start(&self.command(arguments), 100, 30).unwrap()
    }

    /// What the audit log has of it: commands with what came of them.
    fn audit(&self) -> Vec<(String, String, String)> {
        let output = process::run(&mut self.command(&["audit", "--json"]), PATIENCE).unwrap().ok().unwrap();
        let records: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        records
            .iter()
            .map(|one| (text(&one["what"]["cmd"]), text(&one["what"]["reason"]), text(&one["detail"])))
            .collect()
    }
}

#[test]
fn an_administrator_gets_a_shell_for_a_reason_and_the_audit_log_has_its_beginning_and_its_end() {
    let Some(scene) = Scene::start("[support]\nshell = true") else { return };
    let mut terminal = scene.typed(&["support", "shell", "--for", "5m"]);
    terminal.expect("Why is it needed?").unwrap();
    terminal.send("the disk is full\r").unwrap();
    terminal.expect("A Unix shell until ").unwrap();
    terminal.expect("support:~").unwrap();
    terminal.send("stty size; echo $((6 * 7))\r").unwrap();
    terminal.expect("30 100").unwrap();
    terminal.expect("42").unwrap();
    wait::until(PATIENCE, "the beginning", || scene.audit().len() == 2).unwrap();
    let health = process::run(&mut scene.command(&["health"]), PATIENCE).unwrap().stdout;
    assert!(health.contains("support shell") && health.contains("the disk is full"), "{health}");
    terminal.send("exit\r").unwrap();
    terminal.expect("the support shell has ended").unwrap();
    assert!(terminal.end().unwrap().success());
    wait::until(PATIENCE, "the end", || scene.audit().len() == 3).unwrap();
    let audit = scene.audit();
    let commands: Vec<_> =
        audit.iter().map(|(command, reason, _)| (command.as_str(), reason.as_str())).collect();
    let reason = "the disk is full";
    assert_eq!(
        commands,
        [("support-shell", reason), ("support-shell-begin", reason), ("support-shell-end", reason)]
    );
    let (granted, ended) = (&audit[0].2, &audit[2].2);
    assert!(granted.contains("until") && !granted.contains("ticket"), "{granted}");
    assert!(ended.ends_with("it was left"), "{ended}");
}

#[test]
fn without_a_word_in_the_configuration_there_is_none_and_without_a_terminal_neither() {
    let Some(scene) = Scene::start("") else { return };
    let mut terminal = scene.typed(&["support", "shell", "--reason", "curiosity"]);
    terminal.expect("support shells are switched off").unwrap();
    assert!(!terminal.end().unwrap().success());
    let piped = process::run(&mut scene.command(&["support", "shell", "--reason", "x"]), PATIENCE).unwrap();
    assert!(!piped.success() && piped.stderr.contains("needs a terminal"), "{}", piped.stderr);
    let audit = scene.audit();
    assert_eq!(audit.len(), 1, "{audit:?}");
    assert!(audit[0].2.contains("switched off"), "{audit:?}");
}

#[test]
fn whoever_has_no_grant_gets_no_shell() {
    let Some(scene) = Scene::start("[support]\nshell = true") else { return };
    let hello = r#"{"ticket":"0123456789abcdef0123456789abcdef","terminal":"","rows":1,"columns":1}"#;
    let length = u16::try_from(hello.len()).unwrap().to_be_bytes();
    let socket = format!("/proc/{}/root/run/portcullis-support.sock", scene.daemon.pid());
    let mut stream =
        wait::attempt(PATIENCE, "the socket", || Ok::<_, std::io::Error>(UnixStream::connect(&socket).ok()))
            .unwrap();
    stream.write_all(&[b"h", &length[..], hello.as_bytes()].concat()).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with('e') && said.contains("nobody has granted that"), "{said:?}");
    assert!(scene.audit().is_empty());
}
