//! Two appliances with a real keepalived each: who has the shared addresses, and what becomes of sessions.

use std::fs;
use std::net::SocketAddr;

use portcullis_tests::backend::Service;
use portcullis_tests::client::Client;
use portcullis_tests::gateway::{Gateway, Setup};
use portcullis_tests::pair::{self, Appliance, Lan};
use portcullis_tests::process;
use portcullis_tests::skip::skip;
use portcullis_tests::speak::Speak as _;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::json;

/// Both appliances, an authority of tickets and a server in their network.
struct Scene {
    // Appliances end before the network that they are in.
    first: Appliance,
    second: Appliance,
    authority: Gateway,
    farm: Farm,
}

/// The network of the appliances, and the server in it.
struct Farm {
    /// There until the end.
    server: Option<Service>,
    lan: Lan,
}

impl Scene {
    /// With the addresses at the first appliance; `None` where that is not possible here.
    fn start() -> Option<Self> {
        Self::with("stas = [\"farm\"]", "")
    }

    /// With these authorities of the listener, and this more in the configurations.
    fn with(stas: &str, more: &str) -> Option<Self> {
        if let Err(reason) = pair::available() {
            skip(&format!("no two appliances: {reason}"));
            return None;
        }
        let lan = Lan::new().unwrap();
        let authority = authority(&lan);
        let server = lan.namespace.enter(|| Service::start("192.0.2.10".parse()?, echo)).unwrap();
        let first = appliance(None, stas, more);
        let second = appliance(Some(&first), stas, more);
        let first = Appliance::start(&lan, 1, first).unwrap();
        first.wait_for("master").unwrap();
        let second = Appliance::start(&lan, 2, second).unwrap();
        second.wait_for("backup").unwrap();
        Some(Self { first, second, authority, farm: Farm { server: Some(server), lan } })
    }

    fn target(&self) -> String {
        self.farm.server.as_ref().unwrap().address().to_string()
    }

    /// A ticket that serves as long as it lives, of an authority that is neither of the two.
    fn ticket(&self) -> String {
        self.authority.control().issue(&json!({"target": self.target(), "refreshable": true})).unwrap()
    }

    /// A connection to a shared address.
    fn client(&self, index: usize) -> anyhow::Result<Client> {
        let ca = self.first.gateway.ca_file();
        self.farm.lan.namespace.enter(|| Client::tls(pair::shared(index), &ca))
    }

    /// A session through the shared address, once somebody serves there; with the answer to its request.
    fn session(&self, index: usize, ticket: &str) -> Client {
        wait::value(PATIENCE, "a session through the shared address", || {
            let mut client = self.client(index).ok()?;
            (client.socks(ticket, 1494).ok()? == 0).then_some(client)
        })
        .unwrap()
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        let server = self.server.take();
        // It can be told to stop from its own network only. A namespace that cannot be entered leaves a thread behind, which ends with the process.
        let ended = self.lan.namespace.enter(|| {
            drop(server);
            Ok(())
        });
        ended.ok();
    }
}

fn echo(mut stream: std::net::TcpStream) {
    let mut copy = stream.try_clone().unwrap();
    // Whoever goes away in the middle is no concern of the server.
    std::io::copy(&mut copy, &mut stream).ok();
}

fn authority(lan: &Lan) -> Gateway {
    let mut setup = Setup::new().unwrap();
    setup.merge("[sta_server]\nlisten = [\"192.0.2.11:8080\"]\nallow_from = [\"192.0.2.0/24\"]").unwrap();
    let config = setup.write().unwrap();
    let program = process::binary("portcullisd").unwrap();
    let mut command = lan.namespace.command(program.to_str().unwrap());
    command.arg("--config").arg(&config).current_dir(setup.dir());
    setup.start_command(&mut command).unwrap()
}

/// What both have in common; the second one has the certificate of the first.
fn appliance(like: Option<&Setup>, stas: &str, more: &str) -> Setup {
    let mut setup = Setup::new().unwrap();
    if let Some(other) = like {
        for file in ["main.crt", "main.key", "ca.pem"] {
            fs::copy(other.dir().join(file), setup.dir().join(file)).unwrap();
        }
    }
    let keys = format!("{stas}\nallow = [{{ to = [\"192.0.2.10\"], ports = [\"1-65535\"] }}]");
    let at: Vec<SocketAddr> = pair::SHARED.map(|address| address.parse().unwrap()).to_vec();
    setup.listener_at("edge", "gateway", &at, &keys).unwrap();
    let sta = "[[sta]]\nname = \"farm\"\nurl = \"http://192.0.2.11:8080\"\nhealth_interval = \"1s\"\ntimeout = \"1s\"\n\
               [metrics]\nlisten = \"127.0.0.1:9464\"";
    setup.merge(sta).unwrap();
    setup.merge(more).unwrap();
    setup
}

#[test]
fn a_session_that_is_cut_by_a_failure_comes_back_at_the_peer_with_its_ticket() {
    let own = "[sta_server]\nlisten = [\"127.0.0.1:8081\"]\nallow_from = [\"127.0.0.0/8\"]";
    let Some(mut scene) = Scene::with("stas = [\"farm\", \"local\"]", own) else { return };
    assert!(scene.first.has("192.0.2.100").unwrap() && scene.first.has("2001:db8::100").unwrap());
    assert!(!scene.second.has("192.0.2.100").unwrap() && !scene.second.has("2001:db8::100").unwrap());
    let ticket = scene.ticket();
    let of_its_own = scene.first.gateway.issue(&scene.target()).unwrap();
    let mut before = scene.session(0, &ticket);
    before.echo(b"first").unwrap();
    scene.session(1, &ticket).echo(b"first, by IPv6").unwrap();

    scene.first.kill().unwrap();
    scene.second.wait_for("master").unwrap();
    assert!(before.read_to_end().is_err() || before.echo(b"x").is_err(), "the session was of the first one");
    let mut after = scene.session(0, &ticket);
    after.echo(b"second").unwrap();
    scene.session(1, &ticket).echo(b"second, by IPv6").unwrap();
    assert!(scene.second.has("192.0.2.100").unwrap() && scene.second.has("2001:db8::100").unwrap());
    assert_eq!(scene.second.gateway.control().sessions().unwrap().len(), 1);
    // Tickets of an appliance's own authority are in its memory.
    assert_ne!(scene.client(0).unwrap().socks(&of_its_own, 1494).unwrap(), 0);

    scene.first = scene.first.restart().unwrap();
    scene.first.wait_for("master").unwrap();
    scene.second.wait_for("backup").unwrap();
    scene.session(0, &ticket).echo(b"first again").unwrap();
}

#[test]
fn an_appliance_that_drains_gives_the_addresses_away_before_it_ends() {
    let Some(scene) = Scene::start() else { return };
    let ticket = scene.ticket();
    let mut before = scene.session(0, &ticket);
    before.echo(b"first").unwrap();
    scene.first.gateway.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    scene.second.wait_for("master").unwrap();
    scene.session(0, &ticket).echo(b"second").unwrap();
}

#[test]
fn who_reaches_no_authority_gives_the_addresses_to_a_peer_that_does_and_to_no_other() {
    let Some(scene) = Scene::start() else { return };
    let away = ["route", "add", "unreachable", "192.0.2.11/32"];
    scene.first.namespace.ip(&away).unwrap();
    scene.second.wait_for("master").unwrap();
    scene.first.wait_for("backup").unwrap();
    let shown = scene.first.gateway.cli_json(["high-availability"]).unwrap();
    assert_eq!(
        (shown["standing"].as_str(), shown["reason"].as_str()),
        (Some("weak"), Some("no ticket authority is up"))
    );
    // Both are as badly off: live sessions stay where they are.
    scene.second.namespace.ip(&away).unwrap();
    wait::until(PATIENCE, "the second one to be weak", || {
        let shown = scene.second.gateway.cli_json(["high-availability"]).unwrap();
        shown["standing"] == "weak"
    })
    .unwrap();
    assert_eq!(scene.second.state(), "master");
    scene.first.namespace.ip(&["route", "del", "unreachable", "192.0.2.11/32"]).unwrap();
    scene.first.wait_for("master").unwrap();
    scene.second.wait_for("backup").unwrap();
}

#[test]
fn an_interface_that_goes_down_takes_the_addresses_to_the_peer_and_back() {
    let Some(scene) = Scene::start() else { return };
    scene.farm.lan.namespace.ip(&["link", "set", "port1", "down"]).unwrap();
    scene.first.wait_for("fault").unwrap();
    scene.second.wait_for("master").unwrap();
    let value = |appliance: &Appliance, state: &str| {
        let label = format!("state=\"{state}\"");
        appliance.gateway.metrics().unwrap().sum("portcullis_ha_state", &[&label])
    };
    assert_eq!((value(&scene.first, "fault"), value(&scene.first, "master")), (Some(1.0), Some(0.0)));
    assert_eq!(value(&scene.second, "master"), Some(1.0));
    scene.farm.lan.namespace.ip(&["link", "set", "port1", "up"]).unwrap();
    scene.first.wait_for("master").unwrap();
    let status = scene.first.gateway.cli(["status"]).unwrap().ok().unwrap();
    assert!(
        status.stdout.contains("high availability") && status.stdout.contains("master"),
        "{}",
        status.stdout
    );
    let shown = scene.first.gateway.cli(["high-availability"]).unwrap().ok().unwrap();
    assert!(shown.stdout.contains("192.0.2.100/24"), "{}", shown.stdout);
}

#[test]
fn without_the_section_keepalived_ends_and_the_peer_has_the_addresses() {
    let Some(scene) = Scene::start() else { return };
    let cli = |arguments: &[&str]| scene.first.gateway.cli(arguments).unwrap().ok().unwrap();
    cli(&["configure", "set", "high_availability.node.priority", "90"]);
    cli(&["configure", "commit"]);
    scene.second.wait_for("master").unwrap();
    scene.first.wait_for("backup").unwrap();
    cli(&["configure", "set", "high_availability.node.priority", "150"]);
    cli(&["configure", "commit"]);
    scene.first.wait_for("master").unwrap();
    cli(&["configure", "delete", "high_availability"]);
    cli(&["configure", "commit"]);
    scene.second.wait_for("master").unwrap();
    assert!(!scene.first.gateway.dir().join("ha/keepalived.conf").exists());
    wait::until(PATIENCE, "the address to be gone", || !scene.first.has("192.0.2.100").unwrap()).unwrap();
}

/// What a command says, whether it works or not.
fn said(appliance: &Appliance, arguments: &[&str]) -> String {
    let output = appliance.gateway.cli(arguments).unwrap();
    output.stdout + &output.stderr
}

fn done(appliance: &Appliance, arguments: &[&str]) -> String {
    appliance.gateway.cli(arguments).unwrap().ok().unwrap().stdout
}

fn commit(appliance: &Appliance, path: &str, value: &str) {
    done(appliance, &["configure", "set", path, value]);
    done(appliance, &["configure", "commit"]);
}

impl Scene {
    /// Both know each other by their fingerprints, and have found that they have the same configuration.
    fn acquaint(&self) {
        let fingerprint = |appliance: &Appliance| {
            let shown = appliance.gateway.cli_json(["high-availability"]).unwrap();
            shown["fingerprint"].as_str().unwrap().to_owned()
        };
        let both = [fingerprint(&self.first), fingerprint(&self.second)];
        commit(&self.first, "high_availability.node.peer_sha256", &both[1]);
        commit(&self.second, "high_availability.node.peer_sha256", &both[0]);
        wait::until(PATIENCE, "the second one to answer", || {
            said(&self.first, &["config", "push"]).contains("has the same configuration already")
        })
        .unwrap();
    }
}

#[test]
fn a_configuration_that_is_pushed_is_a_commit_there_but_for_what_is_each_ones_own() {
    let Some(scene) = Scene::start() else { return };
    let (first, second) = (&scene.first, &scene.second);
    assert!(said(first, &["config", "push"]).contains("peer_sha256"));
    scene.acquaint();
    commit(first, "limits.sessions", "1234");
    let shown = done(first, &["config", "push", "--dry-run"]);
    assert!(shown.contains("+sessions = 1234") && shown.contains("limits"), "{shown}");
    assert!(!done(second, &["configure", "export"]).contains("1234"));
    let told = done(first, &["config", "push", "-m", "more sessions"]);
    assert!(told.contains("in force at"), "{told}");
    let text = done(second, &["configure", "export"]);
    assert!(text.contains("sessions = 1234") && text.contains("priority = 100"), "{text}");
    assert!(text.contains(&second.gateway.dir().join("ha").display().to_string()), "{text}");
    let effective = second.gateway.cli_json(["config", "show"]).unwrap();
    assert_eq!(effective["limits"]["sessions"], 1234);
    let history = second.gateway.cli_json(["configure", "history"]).unwrap();
    assert!(history[0]["who"].as_str().unwrap().starts_with("root@"), "{history}");
    assert!(history[0]["comment"].as_str().unwrap().ends_with(": more sessions"), "{history}");
    for appliance in [first, second] {
        let audit = appliance.gateway.cli_json(["audit"]).unwrap();
        let pushes = audit.as_array().unwrap().iter().filter(|row| row["what"]["cmd"] == "config-push");
        assert!(pushes.clone().any(|row| row["outcome"] == "done"), "{audit}");
    }
    // And the other way round.
    commit(second, "limits.sessions", "2345");
    done(second, &["config", "push"]);
    assert!(done(first, &["configure", "export"]).contains("sessions = 2345"));
    assert_eq!((first.state(), second.state()), ("master".to_owned(), "backup".to_owned()));
}

#[test]
fn a_push_that_would_do_harm_is_refused_and_changes_nothing() {
    let Some(scene) = Scene::start() else { return };
    let (first, second) = (&scene.first, &scene.second);
    scene.acquaint();
    commit(second, "limits.sessions", "1500");
    commit(first, "limits.sessions", "1300");
    assert!(said(first, &["config", "push"]).contains("changes of its own"));
    assert!(done(first, &["config", "push", "--dry-run"]).contains("--force"));
    assert!(done(second, &["configure", "export"]).contains("sessions = 1500"));
    done(first, &["config", "push", "--force"]);
    assert!(done(second, &["configure", "export"]).contains("sessions = 1300"));

    commit(first, "metrics.listen", "192.0.2.1:9464");
    let told = said(first, &["config", "push"]);
    assert!(told.contains("`metrics.listen` is 192.0.2.1:9464") && told.contains("keep"), "{told}");
    commit(first, "metrics.listen", "127.0.0.1:9464");
    fs::copy(first.gateway.dir().join("main.crt"), first.gateway.dir().join("more.crt")).unwrap();
    fs::copy(first.gateway.dir().join("main.key"), first.gateway.dir().join("more.key")).unwrap();
    done(first, &["configure", "set", "certificate.more.chain", "more.crt"]);
    commit(first, "certificate.more.key", "more.key");
    assert!(said(first, &["config", "push"]).contains("more.crt"), "the second one does not have it");
    done(first, &["configure", "delete", "certificate.more"]);
    done(first, &["configure", "commit", "confirm", "5"]);
    assert!(said(first, &["config", "push"]).contains("waits to be confirmed"));
    assert!(done(second, &["configure", "export"]).contains("sessions = 1300"));
}

#[test]
fn nobody_but_the_peer_can_push() {
    let Some(scene) = Scene::start() else { return };
    scene.acquaint();
    let mut stranger = scene.farm.lan.namespace.command("openssl");
    stranger.args(["s_client", "-connect", "192.0.2.2:9465", "-tls1_3", "-ign_eof"]);
    let request = b"{\"v\":1,\"do\":\"confirm\",\"number\":1}\n";
    let output = process::run_with_input(&mut stranger, request, PATIENCE).unwrap();
    let heard = output.stdout + &output.stderr;
    assert!(heard.contains("certificate required") && !heard.contains("\"ok\""), "{heard}");
    // A peer that has another key now is none.
    let identity = scene.first.gateway.dir().join("state/high-availability");
    fs::remove_dir_all(&identity).unwrap();
    commit(&scene.first, "limits.sessions", "1400");
    let told = said(&scene.first, &["config", "push"]);
    assert!(told.contains("fingerprint"), "{told}");
    assert!(!done(&scene.second, &["configure", "export"]).contains("1400"));
}
