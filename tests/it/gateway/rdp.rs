//! A real RDP session: FreeRDP's shadow server shows a virtual screen, xfreerdp shows it on another one, and the
//! gateway lies between. What one screen shows must appear on the other, also after it changes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis_tests::filtered;
use portcullis_tests::process::{self, Child};
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};

use super::fixture::{Edge, number, text, without_programs};

/// ImageMagick's as the package has it: other programs go by this name, too.
const CONVERT: &str = "/usr/bin/convert";
const SLOW: Duration = Duration::from_secs(90);

/// A virtual screen.
struct Screen {
    display: String,
    _child: Child,
}

impl Screen {
    fn start(name: &str, size: &str, dir: &Path) -> Self {
        let mut xvfb = Command::new("Xvfb");
        // It chooses a free display and writes the number to standard output; without -noreset it would forget what
        // it shows when a client leaves.
        xvfb.args(["-displayfd", "1", "-noreset", "-nolisten", "tcp", "-screen", "0", size]);
        let child = Child::spawn(name, &mut xvfb, dir).unwrap();
        let file = dir.join(format!("{name}.out"));
        let number = wait::value(PATIENCE, "Xvfb to choose a display", || {
            std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))
        });
        Self { display: format!(":{}", number.unwrap().trim()), _child: child }
    }

    fn command(&self, program: &str, home: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", &self.display).env("HOME", home).env("XDG_CONFIG_HOME", home);
        command
    }

    fn paint(&self, colour: &str, home: &Path) {
        process::run(self.command("xsetroot", home).args(["-solid", colour]), PATIENCE)
            .unwrap()
            .ok()
            .unwrap();
    }

    /// Which part of the screen has about this colour, from 0 to 1. Video compression changes colours a little.
    fn part_of(&self, colour: &str, home: &Path) -> f64 {
        let mut convert = self.command(CONVERT, home);
        convert.args(["x:root", "-fuzz", "8%", "-fill", "white", "-opaque", colour]);
        convert.args(["-fill", "black", "+opaque", "white", "-format", "%[fx:mean]", "info:"]);
        let output = process::run(&mut convert, PATIENCE).unwrap();
        output.stdout.trim().parse().unwrap_or(0.0)
    }
}

#[test]
fn an_rdp_session_shows_what_its_server_shows() {
    let needed = ["Xvfb", "freerdp-shadow-cli", "xfreerdp", "xsetroot", CONVERT];
    if without_programs(&needed) {
        return;
    }
    let edge = Edge::start();
    let home = tempfile::Builder::new().prefix("pc-rdp-").tempdir().unwrap();
    let home = home.path();
    let (inside, outside) =
        (Screen::start("inside", "640x480x24", home), Screen::start("outside", "800x600x24", home));
    inside.paint("#d02070", home);
    let server = SocketAddr::new(filtered::farm(), process::free_port().unwrap());
    let mut shadow = inside.command("freerdp-shadow-cli", home);
    shadow.args([
        &format!("/bind-address:{}", server.ip()),
        &format!("/port:{}", server.port()),
        "-auth",
        "/sec:tls",
    ]);
    let mut shadow = Child::spawn("shadow", &mut shadow, home).unwrap();
    shadow.wait_for_port(server, PATIENCE).unwrap();
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), process::free_port().unwrap());
    let mut connect = Command::new(process::binary("portcullis").unwrap());
    connect.args(["connect", "--gateway", &edge.at.to_string(), "--via", "socks5", "--ca"]);
    connect.arg(edge.ca()).args(["--listen", &local.to_string()]);
    connect.env("PORTCULLIS_TICKET", edge.ticket_with(server, &json!({"refreshable": true, "user": "ann"})));
    let mut connect = Child::spawn("connect", &mut connect, home).unwrap();
    connect.wait_for_listen(local.port(), PATIENCE).unwrap();
    let mut client = outside.command("xfreerdp", home);
    client.args([&format!("/v:{local}"), "/u:ann", "/p:any", "/cert:ignore", "/sec:tls"]);
    let mut client = Child::spawn("xfreerdp", &mut client, home).unwrap();
    // 640x480 of 800x600 are 64 of a hundred.
    for colour in ["#d02070", "#208040"] {
        inside.paint(colour, home);
        let shown =
            wait::until(SLOW, "the server's screen on the client's", || outside.part_of(colour, home) > 0.6);
        shown.unwrap_or_else(|error| {
            panic!("{error}: {colour}\n{}\n{}", client.log_tail(), shadow.log_tail())
        });
    }
    client.stop(PATIENCE).unwrap();
    let seen = |record: &Value| number(record, "bytes_down") > 1_000 && text(record, "user").contains("ann");
    wait::until(PATIENCE, "a record of what the session moved", || edge.records().iter().any(seen)).unwrap();
}
