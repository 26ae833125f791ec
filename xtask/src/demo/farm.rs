//! The farm's machines: a real OpenSSH server, a real web server, and an echo server in the place of a CGP server,
//! which is not to be had. Each has its own configuration, keys and ports; nothing of the system's own is used.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::{Uid, User};
use portcullis_tests::process::{self, Child};
use portcullis_tests::topology::Place;
use portcullis_tests::wait::PATIENCE;

/// The file that is copied through the gateway: one GiB.
const BIG_BYTES: u64 = 1 << 30;
const MAKE_LIMIT: Duration = Duration::from_secs(300);
pub(crate) const PAGE: &str = "a page from the farm\n";
/// Machines of the farm by the index of their address.
pub(crate) const STA: usize = 0;
const SHELL: usize = 1;
const WEB: usize = 2;

pub(crate) struct Farm {
    pub(crate) shell: SocketAddr,
    pub(crate) web: SocketAddr,
    pub(crate) echo: SocketAddr,
    /// SHA-256 of the big file, in hexadecimal.
    pub(crate) digest: String,
    dir: PathBuf,
    _children: [Child; 2],
}

impl Farm {
    /// `dir` is for small files, `bulk` for the big one.
    pub(crate) fn start(place: &Place, dir: &Path, bulk: &Path) -> Result<Self> {
        // On loopback all machines share one network, so each needs a port that is free.
        let port = |fixed: u16| if place.namespace().is_some() { Ok(fixed) } else { process::free_port() };
        let shell = SocketAddr::new(place.address(SHELL), port(2222)?);
        let web = SocketAddr::new(place.address(WEB), port(8080)?);
        let digest = make_files(bulk)?;
        let mut sshd = start_sshd(place, dir, shell)?;
        let mut nginx = start_nginx(place, dir, bulk, web)?;
        sshd.wait_for_listen(shell.port(), PATIENCE)?;
        nginx.wait_for_listen(web.port(), PATIENCE)?;
        let echo = start_echo(place, SocketAddr::new(place.address(WEB), port(2598)?))?;
        Ok(Self { shell, web, echo, digest, dir: dir.to_owned(), _children: [sshd, nginx] })
    }

    /// What the web server noted: one line for each request, with the address that it came from.
    pub(crate) fn web_log(&self) -> String {
        fs::read_to_string(self.dir.join("access.log")).unwrap_or_default()
    }

    /// The shell server's key, as a line for a client's list of known hosts.
    pub(crate) fn known_host(&self, alias: &str) -> Result<String> {
        let key = fs::read_to_string(self.dir.join("host_key.pub")).context("read the host key")?;
        Ok(format!("{alias} {key}"))
    }

    pub(crate) fn user_key(&self) -> PathBuf {
        self.dir.join("user_key")
    }
}

/// The account that logs in: the one that runs the demo.
pub(crate) fn account() -> Result<String> {
    let user = User::from_uid(Uid::effective()).context("ask who runs this")?;
    Ok(user.context("this user has no name")?.name)
}

fn make_files(bulk: &Path) -> Result<String> {
    fs::write(bulk.join("page.txt"), PAGE).context("write a page")?;
    let big = bulk.join("big.bin");
    let mut make = Command::new("dd");
    make.args(["if=/dev/urandom", "bs=1M", "iflag=fullblock", "status=none"]);
    make.arg(format!("count={}", BIG_BYTES >> 20)).arg(format!("of={}", big.display()));
    process::run(&mut make, MAKE_LIMIT)?.ok().context("make a file of 1 GiB under target/")?;
    let sum = process::run(Command::new("sha256sum").arg(&big), MAKE_LIMIT)?.ok()?;
    sum.stdout.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

fn start_sshd(place: &Place, dir: &Path, listen: SocketAddr) -> Result<Child> {
    for name in ["host_key", "user_key"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "portcullis-demo", "-f"]).arg(dir.join(name));
        process::run(&mut keygen, MAKE_LIMIT)?.ok()?;
    }
    let root = Uid::effective().is_root();
    let config = dir.join("sshd_config");
    let d = dir.display();
    let text = format!(
        "ListenAddress {listen}\nHostKey {d}/host_key\nAuthorizedKeysFile {d}/user_key.pub\nPidFile none\n\
         StrictModes no\nUsePAM {pam}\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\nPrintMotd no\nLogLevel VERBOSE\n",
        // Without PAM the server refuses accounts whose password is locked, which root's often is.
        pam = if root { "yes" } else { "no" },
    );
    fs::write(&config, text).context("write sshd_config")?;
    if root && !Path::new("/run/sshd").exists() {
        // The empty directory that OpenSSH's privilege separation wants; a service file would make it.
        fs::create_dir_all("/run/sshd").context("make /run/sshd")?;
        fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755))?;
    }
    // sshd starts itself again for each connection and wants to be called by its whole path.
    let program = process::find_program("sshd").context("sshd is missing (Debian package openssh-server)")?;
    Child::spawn("sshd", place.command(program).args(["-D", "-e", "-f"]).arg(&config), dir)
}

fn start_nginx(place: &Place, dir: &Path, bulk: &Path, listen: SocketAddr) -> Result<Child> {
    let config = dir.join("nginx.conf");
    let (d, files) = (dir.display(), bulk.display());
    // Workers of a server that root starts would become another user, who may not read our directories.
    let user = if Uid::effective().is_root() { "user root;" } else { "" };
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|n| format!("{n}_temp_path {d}/{n};"));
    let text = format!(
        "{user} daemon off; worker_processes 1; pid {d}/nginx.pid; error_log {d}/nginx-error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log {d}/access.log; sendfile on; default_type application/octet-stream;\n\
         {}\nserver {{ listen {listen}; root {files}; }} }}\n",
        temporary.join("\n"),
    );
    fs::write(&config, text).context("write nginx.conf")?;
    let program = process::find_program("nginx").context("nginx is missing (Debian package nginx)")?;
    let mut command = place.command(program);
    command.arg("-e").arg(dir.join("nginx-error.log")).arg("-p").arg(dir).arg("-c").arg(&config);
    Child::spawn("nginx", &mut command, dir)
}

/// A server that sends back what it gets. Its threads end with the program.
fn start_echo(place: &Place, listen: SocketAddr) -> Result<SocketAddr> {
    let listener = place.enter(|| TcpListener::bind(listen).context("start the echo server"))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let Ok(mut from) = stream.try_clone() else { return };
                // A client that went away is the end of its echo.
                drop(std::io::copy(&mut from, &mut stream));
                drop(stream.shutdown(std::net::Shutdown::Write));
            });
        }
    });
    Ok(listen)
}

/// All addresses of the farm, which no client may ever see.
pub(crate) fn inside(place: &Place) -> Vec<IpAddr> {
    place.v4.iter().copied().filter(|address| *address != IpAddr::from([127, 0, 0, 1])).collect()
}
