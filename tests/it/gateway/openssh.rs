//! OpenSSH through `portcullis connect`: as ProxyCommand and over a local port, in each of the four ways.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::unistd::User;
use portcullis_tests::backend::Pattern;
use portcullis_tests::filtered;
use portcullis_tests::process::{self, Child};
use portcullis_tests::skip::skip;
use portcullis_tests::wait::PATIENCE;
use serde_json::json;
use tempfile::TempDir;

use super::fixture::{Edge, number, text, without_programs};

const TRANSFER: Duration = Duration::from_secs(120);

/// An OpenSSH server of our own with keys of our own.
struct Sshd {
    dir: TempDir,
    address: SocketAddr,
    _child: Child,
}

impl Sshd {
    /// `None`, aloud, where it cannot run.
    fn start() -> Option<Self> {
        if without_programs(&["sshd", "ssh", "sftp", "ssh-keygen"]) {
            return None;
        }
        if me().is_none_or(|user| user.shell.ends_with("nologin") || user.shell.ends_with("false")) {
            skip("the user who runs the tests has no login shell");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("pc-ssh-").tempdir().unwrap();
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join(key));
            process::run(&mut keygen, PATIENCE).unwrap().ok().unwrap();
        }
        fs::copy(dir.path().join("user.pub"), dir.path().join("authorized")).unwrap();
        if nix::unistd::geteuid().is_root() && fs::create_dir_all("/run/sshd").is_err() {
            skip("sshd needs /run/sshd, which cannot be made");
            return None;
        }
        let address = SocketAddr::new(filtered::farm(), process::free_port().unwrap());
        let shown = dir.path().display();
        let config = format!(
            "ListenAddress {address}\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/authorized\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n\
             PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
        );
        fs::write(dir.path().join("config"), config).unwrap();
        // sshd runs itself again for each connection and insists on its absolute path.
        let mut command = Command::new(process::find_program("sshd").unwrap());
        command.args(["-D", "-e", "-f"]).arg(dir.path().join("config"));
        let mut child = Child::spawn("sshd", &mut command, dir.path()).unwrap();
        child.wait_for_port(address, PATIENCE).unwrap();
        Some(Self { dir, address, _child: child })
    }

    /// `ssh` or `sftp` with the options that reach this server's user without a question.
    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command.args(["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-i"]).arg(self.dir.path().join("user"));
        command
    }
}

fn me() -> Option<User> {
    User::from_uid(nix::unistd::geteuid()).ok().flatten()
}

/// The one who runs the tests, at a host whose name nobody looks up.
fn account(host: &str) -> String {
    format!("{}@{host}", me().unwrap().name)
}

/// A file that holds a ticket for the server, readable by nobody else.
fn ticket_file(edge: &Edge, sshd: &Sshd, fields: &serde_json::Value) -> PathBuf {
    let file = edge.gateway.dir().join("ticket");
    fs::write(&file, edge.ticket_with(sshd.address, fields)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn proxy_command(edge: &Edge, ticket: &Path, via: &str) -> String {
    format!(
        "ProxyCommand={} connect --gateway {} --via {via} --ca {} --ticket-file {}",
        process::binary("portcullis").unwrap().display(),
        edge.at,
        edge.ca().display(),
        ticket.display()
    )
}

fn ssh_runs_a_command(via: &str, protocol: &str) {
    let Some(sshd) = Sshd::start() else { return };
    let edge = Edge::start();
    let ticket = ticket_file(&edge, &sshd, &json!({"user": "ann"}));
    let mut ssh = sshd.client("ssh");
    ssh.args(["-o", &proxy_command(&edge, &ticket, via)]).arg(account("farm"));
    ssh.arg("echo from the farm");
    let output = process::run(&mut ssh, PATIENCE).unwrap().ok().unwrap();
    assert_eq!(output.stdout.trim(), "from the farm");
    assert_eq!(text(&edge.record(), "protocol"), protocol);
}

#[test]
fn ssh_runs_a_command_over_socks() {
    ssh_runs_a_command("socks5", "socks5");
}

#[test]
fn ssh_runs_a_command_over_connect() {
    ssh_runs_a_command("connect", "connect");
}

#[test]
fn ssh_runs_a_command_over_websocket() {
    ssh_runs_a_command("websocket", "websocket-socks5");
}

#[test]
fn sftp_copies_a_file_of_32_mebibytes_there_and_back() {
    let Some(sshd) = Sshd::start() else { return };
    let edge = Edge::start();
    let ticket = ticket_file(&edge, &sshd, &json!({}));
    let (here, there) = (sshd.dir.path().join("here"), sshd.dir.path().join("there"));
    let back = sshd.dir.path().join("back");
    let bytes = Pattern::new(5).bytes(4 * 1024 * 1024);
    fs::write(&here, &bytes).unwrap();
    let mut sftp = sshd.client("sftp");
    sftp.args(["-q", "-b", "-", "-o", &proxy_command(&edge, &ticket, "socks5")]).arg(account("farm"));
    let batch =
        format!("put {} {there}\nget {there} {}\n", here.display(), back.display(), there = there.display());
    process::run_with_input(&mut sftp, batch.as_bytes(), TRANSFER).unwrap().ok().unwrap();
    assert!(fs::read(&there).unwrap() == bytes, "the file there differs");
    assert!(fs::read(&back).unwrap() == bytes, "the file back differs");
    let record = edge.record();
    let size = u64::try_from(bytes.len()).unwrap();
    assert!(number(&record, "bytes_up") > size && number(&record, "bytes_down") > size, "{record}");
}

#[test]
fn ssh_goes_through_a_local_port() {
    let Some(sshd) = Sshd::start() else { return };
    let edge = Edge::start();
    let ticket = ticket_file(&edge, &sshd, &json!({"refreshable": true}));
    let local = SocketAddr::new("127.0.0.1".parse().unwrap(), process::free_port().unwrap());
    let mut connect = Command::new(process::binary("portcullis").unwrap());
    connect.args(["connect", "--gateway", &edge.at.to_string(), "--ca"]).arg(edge.ca());
    connect.arg("--ticket-file").arg(ticket).args(["--listen", &local.to_string()]);
    let mut listener = Child::spawn("connect", &mut connect, edge.gateway.dir()).unwrap();
    listener.wait_for_listen(local.port(), PATIENCE).unwrap();
    let mut ssh = sshd.client("ssh");
    ssh.args(["-p", &local.port().to_string()]).arg(account("127.0.0.1")).arg("echo from the farm");
    let output = process::run(&mut ssh, PATIENCE).unwrap().ok().unwrap();
    assert_eq!(output.stdout.trim(), "from the farm");
}

#[test]
fn a_refused_ticket_makes_connect_end_with_its_own_exit_code() {
    let edge = Edge::start();
    let mut connect = Command::new(process::binary("portcullis").unwrap());
    connect.args(["connect", "--gateway", &edge.at.to_string(), "--ca"]).arg(edge.ca());
    connect.env("PORTCULLIS_TICKET", ";40;STA999999999;0123456789ABCDEF0123456789ABCDEF");
    let output = process::run(&mut connect, PATIENCE).unwrap();
    assert_eq!(output.code, Some(76), "{output:?}");
    assert!(!output.stderr.contains("0123456789ABCDEF"), "{}", output.stderr);
}

#[test]
fn connect_does_not_talk_to_a_gateway_that_it_does_not_trust() {
    let (edge, other) = (Edge::start(), tempfile::tempdir().unwrap());
    let stranger = other.path().join("ca.pem");
    portcullis_tests::pki::Authority::root("stranger").unwrap().write(&stranger).unwrap();
    let mut connect = Command::new(process::binary("portcullis").unwrap());
    connect.args(["connect", "--gateway", &edge.at.to_string(), "--ca"]).arg(stranger);
    connect.env("PORTCULLIS_TICKET", edge.ticket("127.0.0.77:1".parse().unwrap()));
    let output = process::run(&mut connect, PATIENCE).unwrap();
    assert_eq!(output.code, Some(69), "{output:?}");
    assert!(edge.records().is_empty());
}
