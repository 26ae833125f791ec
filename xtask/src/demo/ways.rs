//! Every way in: SOCKS5, CGP, WebSocket and CONNECT, curl as a foreign client, ssh, and one GiB.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_tests::process;

use super::farm;
use super::report::Reporter;
use super::stage::{EXCHANGE_LIMIT, Stage};

/// A GiB through a development build on a busy machine.
const COPY_LIMIT: Duration = Duration::from_secs(900);
const GIB: f64 = 1_073_741_824.0;
/// The first bytes of CGP.
const CGP_PREFIX: &str = "\u{1a}CGP/01";

pub(crate) fn run(stage: &Stage, reporter: &mut Reporter) {
    for (via, what) in [
        ("socks5", "the ticket as SOCKS5 domain name"),
        ("websocket", "SOCKS5 in WebSocket frames"),
        ("connect", "the ticket as CONNECT host"),
    ] {
        reporter.step(&format!("in over {via}: {what}"), || {
            let ticket = stage.issue(stage.farm.web, &[])?;
            stage.fetch(stage.connect(via, &ticket)?)?;
            Ok(String::from("a page of the farm's web server arrived whole"))
        });
    }
    reporter.step("in over cgp: the ticket inside the first packet", || cgp(stage));
    reporter.step("in with curl: an HTTPS proxy's CONNECT, the ticket as host", || curl(stage));
    reporter.step("in with ssh: portcullis connect as ProxyCommand", || ssh(stage));
    reporter.step("1 GiB through the gateway, hash checked", || copy(stage));
}

/// No CGP server is to be had, so an echo server stands behind: it shows that the client's bytes, the first packet
/// with them, arrive unchanged, and that bytes come back.
fn cgp(stage: &Stage) -> Result<String> {
    let payload = "bytes after the first packet";
    let cgp = stage.farm.echo.to_string();
    let ticket = stage.issue(stage.farm.web, &["--cgp", &cgp])?;
    let mut client = stage.connect("cgp", &ticket)?;
    let output = process::run_with_input(&mut client, payload.as_bytes(), EXCHANGE_LIMIT)?.ok()?;
    ensure!(output.stdout.starts_with(CGP_PREFIX), "the first packet did not come back");
    ensure!(output.stdout.ends_with(payload), "what followed the first packet did not come back");
    Ok(format!(
        "{} bytes there and back, first packet unchanged (an echo server plays CGP)",
        output.stdout.len()
    ))
}

fn curl(stage: &Stage) -> Result<String> {
    let ticket = stage.issue(stage.farm.web, &[])?;
    // `--connect-to` puts the ticket where curl takes a host; in a file, because arguments can be seen.
    let config = format!(
        "proxytunnel\nproxy = \"https://{}\"\nproxy-cacert = \"{}\"\nconnect-to = \"farm.example:80:{ticket}:80\"\n",
        stage.gateway_name(),
        stage.ca().display()
    );
    let mut curl = stage.lab.outside.command("curl");
    curl.args(["-sS", "--fail", "--max-time", "30", "-K"]).arg(stage.secret_file(&config)?);
    let output = process::run(curl.arg("http://farm.example/page.txt"), EXCHANGE_LIMIT)?.ok()?;
    ensure!(output.stdout == farm::PAGE, "curl got something else");
    Ok(String::from("curl got a page of the farm's web server"))
}

fn ssh(stage: &Stage) -> Result<String> {
    const ALIAS: &str = "shell-in-farm";
    let ticket = stage.issue(stage.farm.shell, &["--user", "alice", "--application", "Shell"])?;
    // ssh hands the command to a shell; none of our words holds a space or a quote.
    let proxy = process::describe(&stage.connect("socks5", &ticket)?);
    // ssh runs inside the client's namespace already, and so does what it starts.
    let proxy =
        proxy.split_once(" connect ").map(|(_, rest)| rest).context("the client's command has no verb")?;
    let proxy = format!("{} connect {proxy}", process::binary("portcullis")?.display());
    let known = stage.dir.path().join("known_hosts");
    fs::write(&known, stage.farm.known_host(ALIAS)?).context("write known_hosts")?;
    let mut ssh = stage.lab.outside.command("ssh");
    ssh.args(["-F", "none", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]);
    ssh.args(["-o", "IdentitiesOnly=yes", "-o", &format!("HostKeyAlias={ALIAS}")]);
    ssh.arg("-o").arg(format!("ProxyCommand={proxy}"));
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
    ssh.arg("-i").arg(stage.farm.user_key());
    ssh.arg(format!("{}@{ALIAS}", farm::account()?)).arg("echo $((6*7)); echo \"$SSH_CONNECTION\"");
    let output = process::run(&mut ssh, EXCHANGE_LIMIT)?.ok()?;
    let mut lines = output.stdout.lines();
    ensure!(lines.next() == Some("42"), "the command's answer is missing");
    let from = lines.next().and_then(|line| line.split_whitespace().next()).unwrap_or("?").to_owned();
    let gateway = stage.lab.gateway.address(1).to_string();
    ensure!(
        !stage.lab.is_isolated() || from == gateway,
        "sshd was reached from {from}, not from the gateway"
    );
    Ok(format!("a command ran on the farm's sshd, which saw the connection come from {from}"))
}

fn copy(stage: &Stage) -> Result<String> {
    let ticket = stage.issue(stage.farm.web, &[])?;
    let (_client, port) = stage.listen(stage.connect("socks5", &ticket)?)?;
    let begun = Instant::now();
    let mut shell = stage.lab.outside.command("sh");
    let script = format!("curl -sS --fail http://127.0.0.1:{port}/big.bin | sha256sum");
    let output = process::run(shell.args(["-c", &script]), COPY_LIMIT)?.ok()?;
    let seconds = begun.elapsed().as_secs_f64();
    let digest = output.stdout.split_whitespace().next().unwrap_or_default();
    if digest != stage.farm.digest {
        bail!("the hash differs: {digest} instead of {}; {}", stage.farm.digest, output.stderr.trim());
    }
    Ok(format!(
        "SHA-256 {digest} on both sides; {:.0} MiB/s, curl and sha256sum included",
        GIB / 1_048_576.0 / seconds
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_that_of_cgp() {
        assert_eq!(CGP_PREFIX.as_bytes(), [0x1a, b'C', b'G', b'P', b'/', b'0', b'1']);
    }
}
