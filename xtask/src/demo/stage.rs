//! Everything that runs during the demo, and the acts that all steps share: issue a ticket, connect with it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::gateway::{Gateway, Metrics, Setup, filter_available};
use portcullis_tests::process::{self, Child, Output};
use portcullis_tests::topology::Lab;
use portcullis_tests::wait::{self, PATIENCE};
use tempfile::TempDir;

use super::farm::{self, Farm};

/// What clients call the gateway.
const NAME: &str = "gateway.portcullis.example";
/// The farm's ticket authority, by its id and by what the gateway calls it.
pub(crate) const AUTHORITY: &str = "STA0000000000D1";
pub(crate) const STA_NAME: &str = "sta-in-farm";
/// The gateway's own ticket authority.
pub(crate) const LOCAL_AUTHORITY: &str = "STA0000000000D2";
/// The header and the file of the key that callers of the farm's authority must show.
pub(crate) const KEY_HEADER: &str = "X-Portcullis-Demo-Key";
const KEY_FILE: &str = "security-key";
/// One request and its answer through a gateway.
pub(crate) const EXCHANGE_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    // Dropped in this order: programs first, then the networks that they run in, then their files.
    gateway: Option<Gateway>,
    sta: Option<Gateway>,
    pub(crate) farm: Farm,
    pub(crate) lab: Lab,
    pub(crate) dir: TempDir,
    _bulk: TempDir,
    pub(crate) loopback: Option<String>,
    /// Why the gateway's interfaces are not filtered; `None` when they are.
    pub(crate) unfiltered: Option<String>,
    pub(crate) sta_address: SocketAddr,
    pub(crate) metrics_address: SocketAddr,
    edge: SocketAddr,
    serial: AtomicU32,
}

impl Stage {
    pub(crate) fn build(loopback: Option<String>) -> Result<Self> {
        let lab = if loopback.is_some() { Lab::on_loopback() } else { Lab::in_namespaces()? };
        if let Some(outside) = lab.outside.namespace() {
            outside.hosts(&[(lab.gateway.address(0), NAME), ([127, 0, 0, 1].into(), "localhost")])?;
        }
        let dir = tempfile::Builder::new().prefix("pc-demo-").tempdir().context("make a directory")?;
        let target = crate::ci::target_directory()?;
        let bulk = tempfile::Builder::new().prefix("demo-").tempdir_in(target).context("make a directory")?;
        let farm = Farm::start(&lab.farm, dir.path(), bulk.path())?;
        let key =
            process::run(Command::new("openssl").args(["rand", "-base64", "32"]), PATIENCE)?.ok()?.stdout;
        fs::write(dir.path().join(KEY_FILE), &key).context("write the security key")?;
        let port = |fixed: u16| if lab.is_isolated() { Ok(fixed) } else { process::free_port() };
        let sta_address = SocketAddr::new(lab.farm.address(farm::STA), port(8443)?);
        let metrics_address = SocketAddr::new(lab.gateway.address(1), port(9464)?);
        let edge = SocketAddr::new(lab.gateway.address(0), port(443)?);
        let unfiltered = match lab.is_isolated() {
            true => filter_available().err(),
            false => Some(String::from("loopback is not filtered")),
        };
        let mut stage = Self {
            gateway: None,
            sta: None,
            farm,
            lab,
            dir,
            _bulk: bulk,
            loopback,
            unfiltered,
            sta_address,
            metrics_address,
            edge,
            serial: AtomicU32::new(0),
        };
        let sta = stage.configure_sta()?;
        let ca = sta.ca().pem().to_owned();
        stage.sta = Some(sta.start_in(&stage.lab.farm).context("the farm's ticket authority")?);
        stage.gateway =
            Some(stage.configure_gateway(&ca)?.start_in(&stage.lab.gateway).context("the gateway")?);
        stage.wait_for_sta(true)?;
        Ok(stage)
    }

    fn configure_sta(&self) -> Result<Setup> {
        let address = self.sta_address;
        let mut sta = Setup::with_names(&[&address.ip().to_string()])?;
        fs::copy(self.dir.path().join(KEY_FILE), sta.dir().join(KEY_FILE))
            .context("copy the security key")?;
        sta.merge(&format!(
            "[sta_server]\nlisten = [\"{address}\"]\ncertificate = \"main\"\nauthority_id = \"{AUTHORITY}\"\n\
             allow_from = [\"10.77.0.0/24\", \"127.0.0.0/8\"]\nsecurity_key_header = \"{KEY_HEADER}\"\n\
             security_key_files = [\"{KEY_FILE}\"]",
        ))?;
        Ok(sta)
    }

    fn configure_gateway(&self, sta_ca: &str) -> Result<Setup> {
        let names = [NAME.to_owned(), self.edge.ip().to_string(), String::from("localhost")];
        let mut gateway = Setup::with_names(&names.each_ref().map(String::as_str))?;
        fs::copy(self.dir.path().join(KEY_FILE), gateway.dir().join(KEY_FILE))
            .context("copy the security key")?;
        fs::write(gateway.dir().join("sta-ca.pem"), sta_ca).context("write the authority's CA")?;
        fs::copy(gateway.dir().join("ca.pem"), self.ca()).context("copy the gateway's CA")?;
        gateway.own_authority(self.lab.gateway.address(1))?;
        gateway.merge(&format!(
            "[log]\nformat = \"json\"\n[metrics]\nlisten = \"{metrics}\"\n\
             [sta_server]\nauthority_id = \"{LOCAL_AUTHORITY}\"\n\
             [[sta]]\nname = \"{STA_NAME}\"\nurl = \"https://{sta}/scripts/ctxsta.dll\"\nca = \"sta-ca.pem\"\n\
             timeout = \"3s\"\nhealth_interval = \"1s\"\nsecurity_key_header = \"{KEY_HEADER}\"\n\
             security_key_files = [\"{KEY_FILE}\"]",
            metrics = self.metrics_address,
            sta = self.sta_address,
        ))?;
        let rule =
            |address: SocketAddr| format!("{{ to = [\"{}\"], ports = [{}] }}", address.ip(), address.port());
        let on_loopback = self.loopback.is_some();
        let keys = format!(
            "stas = [\"{STA_NAME}\", \"local\"]\nallow = [{}, {}, {}]\n\
             permit_loopback = {on_loopback}\npermit_own_addresses = {on_loopback}",
            rule(self.farm.shell),
            rule(self.farm.web),
            rule(self.farm.echo),
        );
        gateway.listener_at("gateway", "gateway", &[self.edge], &keys)?;
        if self.unfiltered.is_none() {
            // By the names that the lab gives to the gateway's two interfaces.
            gateway.filtered(&[("edge", "edge"), ("farm", "farm")])?;
        }
        Ok(gateway)
    }

    pub(crate) fn describe(&self) -> String {
        let place = match &self.loopback {
            None => String::from("in network namespaces, no forwarding between them"),
            Some(reason) => format!("ON LOOPBACK, without isolation ({reason})"),
        };
        let filter = if self.unfiltered.is_none() { ", XDP on both interfaces" } else { "" };
        format!("client → {}{filter} → farm with an STA, OpenSSH and nginx, {place}", self.gateway_name())
    }

    /// Name and port as a client uses them.
    pub(crate) fn gateway_name(&self) -> String {
        format!("{}:{}", self.host(), self.edge.port())
    }

    pub(crate) fn host(&self) -> String {
        // A hosts file of its own exists only in a namespace.
        if self.lab.is_isolated() { NAME.to_owned() } else { self.edge.ip().to_string() }
    }

    /// The certificate authority that clients of the gateway trust.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("gateway-ca.pem")
    }

    pub(crate) fn security_key(&self) -> Result<String> {
        let text = fs::read_to_string(self.dir.path().join(KEY_FILE)).context("read the security key")?;
        Ok(text.trim().to_owned())
    }

    pub(crate) fn gateway(&self) -> Result<&Gateway> {
        self.gateway.as_ref().context("the gateway does not run")
    }

    pub(crate) fn sta(&self) -> Result<&Gateway> {
        self.sta.as_ref().context("the ticket authority does not run")
    }

    pub(crate) fn metrics(&self) -> Result<Metrics> {
        self.gateway()?.metrics()
    }

    pub(crate) fn stop_sta(&mut self) -> Result<Setup> {
        self.sta.take().context("the ticket authority does not run")?.halt()
    }

    pub(crate) fn start_sta(&mut self, setup: Setup) -> Result<()> {
        self.sta = Some(setup.start_in(&self.lab.farm)?);
        Ok(())
    }

    /// Waits until the gateway shows the farm's authority as up or down.
    pub(crate) fn wait_for_sta(&self, up: bool) -> Result<()> {
        let label = format!("sta=\"{STA_NAME}\"");
        let what = format!("sta_up of {STA_NAME} to be {}", u8::from(up));
        wait::attempt(PATIENCE, &what, || {
            let value = self.metrics()?.sum("portcullis_sta_up", &[&label]);
            Ok::<_, anyhow::Error>(value.filter(|value| (*value > 0.5) == up).map(drop))
        })
    }

    /// Has the farm's authority issue a ticket, as `portcullis ticket issue` does it.
    pub(crate) fn issue(&self, target: SocketAddr, more: &[&str]) -> Result<String> {
        issue(self.sta()?, target, more)
    }

    /// Has the gateway's own authority issue one.
    pub(crate) fn issue_locally(&self, target: SocketAddr) -> Result<String> {
        issue(self.gateway()?, target, &[])
    }

    /// A new file that only we may read.
    pub(crate) fn secret_file(&self, text: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("secret-{}", self.serial.fetch_add(1, Ordering::Relaxed)));
        fs::write(&path, text).context("write a file")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// The client, outside: `portcullis connect` with a ticket. The ticket is in a file, not among the arguments.
    pub(crate) fn connect(&self, via: &str, ticket: &str) -> Result<Command> {
        let mut command = self.lab.outside.command(process::binary("portcullis")?);
        command.args(["connect", "--gateway", &self.gateway_name(), "--via", via, "--ca"]).arg(self.ca());
        command.arg("--ticket-file").arg(self.secret_file(ticket)?);
        Ok(command)
    }

    /// Starts a client that listens on a local port, outside, and returns it with that port.
    pub(crate) fn listen(&self, mut connect: Command) -> Result<(Child, u16)> {
        let port = process::free_port()?;
        connect.args(["--listen", &format!("127.0.0.1:{port}")]);
        let name = format!("connect-{port}");
        let mut child = Child::spawn(&name, &mut connect, self.dir.path())?;
        child.wait_for_listen(port, PATIENCE)?;
        Ok((child, port))
    }

    /// Fetches the page of the farm's web server through a client that listens on a local port.
    pub(crate) fn fetch(&self, connect: Command) -> Result<String> {
        let (client, port) = self.listen(connect)?;
        let url = format!("http://127.0.0.1:{port}/page.txt");
        let mut curl = self.lab.outside.command("curl");
        let output = process::run(curl.args(["-sS", "--fail", "--max-time", "30", &url]), EXCHANGE_LIMIT)?;
        let output = output.ok().with_context(|| format!("the client says: {}", client.log_tail()))?;
        if output.stdout != farm::PAGE {
            bail!("{} bytes came, which are not the page", output.stdout.len());
        }
        Ok(output.stdout)
    }

    /// Runs a client to its end, with nothing to send.
    pub(crate) fn try_ticket(&self, ticket: &str) -> Result<Output> {
        process::run(&mut self.connect("socks5", ticket)?, EXCHANGE_LIMIT)
    }

    /// How a person uses what `--keep` has left running.
    pub(crate) fn hints(&self) -> Result<String> {
        let shown = |mut command: Command, more: &[&str]| process::describe(command.args(more));
        let target = self.farm.web.to_string();
        let issue = shown(self.sta()?.cli_command()?, &["ticket", "issue", "--target", &target]);
        let status = shown(self.gateway()?.cli_command()?, &["status"]);
        let mut client = self.lab.outside.command(process::binary("portcullis")?);
        client.args(["connect", "--gateway", &self.gateway_name(), "--ca"]).arg(self.ca());
        let connect = shown(client, &["--ticket-file", "-", "--listen", "127.0.0.1:8000"]);
        Ok(format!("kept until Ctrl-C:\n  {status}\n  {issue}\n  … | {connect}"))
    }

    /// Ends gateway and authority as a service manager would, and says how they ended.
    pub(crate) fn end(&mut self) -> Result<String> {
        for (what, daemon) in [("gateway", self.gateway.take()), ("ticket authority", self.sta.take())] {
            let status = daemon.with_context(|| format!("the {what} does not run"))?.stop()?;
            if !status.success() {
                bail!("the {what} ended with {status}");
            }
        }
        Ok(String::from("both daemons ended with status 0 after SIGTERM"))
    }
}

fn issue(authority: &Gateway, target: SocketAddr, more: &[&str]) -> Result<String> {
    let target = target.to_string();
    let words = ["ticket", "issue", "--format", "string", "--target", &target];
    let output = authority.cli(words.iter().chain(more))?.ok()?;
    let ticket = output.stdout.trim();
    if !ticket.starts_with(';') {
        bail!("`portcullis ticket issue` did not print a ticket");
    }
    Ok(ticket.to_owned())
}

/// Fails when a text shows an address of the farm.
pub(crate) fn hides_inside(stage: &Stage, what: &str, text: &str) -> Result<()> {
    match farm::inside(&stage.lab.farm).iter().find(|address| text.contains(&address.to_string())) {
        Some(address) => bail!("{what} shows the inside address {address}"),
        None => Ok(()),
    }
}

/// Reads a small file of ours.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
