//! Asks at the console: who may log in, how the machine is reached, what it is called, and what time it is there.
//!
//! It asks while no administrator may log in (no credential and no seed has named a key), and the machine works meanwhile as
//! it does without a word. What is answered becomes a commit like any other, with its check and its line in the audit log.
//! SSH takes keys only; who has none at hand sets a password, which opens the console ([`crate::login`]) and nothing else.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use portcullis_installer::terminals::Terminals;
use toml_edit::{DocumentMut, Item, value};
use zeroize::Zeroizing;

use crate::configure::with_network;
use crate::network::{Cards, Interface, Network};
use crate::{Places, portcullis, put, taken};

const NOBODY: &str = "no console is left to answer";
const ZONES: &str = "/usr/share/zoneinfo";
pub(crate) const HOST_KEY: &str = "/var/lib/appliance/ssh/ssh_host_ed25519_key.pub";
/// For a lease, and for the gateway after the start.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// What was answered.
#[derive(Clone)]
struct Answers {
    way_in: WayIn,
    network: Network,
}

/// How an administrator gets in.
#[derive(Clone)]
enum WayIn {
    Key(String),
    Password(Zeroizing<String>),
}

/// Asks until somebody may log in.
///
/// # Errors
/// When no console is left.
pub fn run(places: &Places, terminals: &mut Terminals) -> Result<()> {
    terminals.say("\r\nPortcullis: nobody may log in to this machine yet. A few questions; nothing is changed before the last.");
    loop {
        if places.somebody_may_log_in() {
            terminals.say("Somebody may log in now: nothing is left to ask.");
            return Ok(());
        }
        let answers = ask(places, terminals)?;
        if !agreed(&answers, terminals)? {
            continue;
        }
        terminals.say("One moment …");
        match apply(places, &answers) {
            Ok(()) => return finish(places, &answers, terminals),
            Err(error) => terminals.say(&format!("That did not work, and nothing has changed: {error:#}")),
        }
    }
}

fn ask(places: &Places, terminals: &mut Terminals) -> Result<Answers> {
    let way_in = ask_way_in(places, terminals)?;
    let interface = ask_interface(places, terminals)?;
    let mut network = Network::default();
    if !interface.addresses.is_empty() {
        network.dns = until(terminals, "Name servers, with spaces between (empty: none):", |answer| {
            answer.split([' ', ',']).filter(|word| !word.is_empty()).map(address).collect()
        })?;
    }
    network.host_name = until(terminals, "Host name (empty: portcullis):", |answer| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if answer.len() > 64 || !answer.chars().all(legal) {
            bail!("A name is letters, digits, `-` and dots.");
        }
        Ok(Some(answer.to_owned()).filter(|name| !name.is_empty()))
    })?;
    let zones = places.at(ZONES);
    network.time_zone = until(terminals, "Time zone, such as Europe/Berlin (empty: UTC):", |answer| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '+');
        if answer.is_empty() {
            return Ok(None);
        }
        if !answer.chars().all(legal) || answer.starts_with('/') || !zones.join(answer).is_file() {
            bail!("There is no such time zone.");
        }
        Ok(Some(answer.to_owned()))
    })?;
    network.interfaces.push(interface);
    Ok(Answers { way_in, network })
}

fn ask_way_in(places: &Places, terminals: &mut Terminals) -> Result<WayIn> {
    let question =
        "Public SSH key of an administrator, as in id_ed25519.pub (better), or the word `password`:";
    let key = until(terminals, question, |answer| match answer {
        "password" => Ok(None),
        key => match taken(places, &["--judge-key"], key) {
            Ok(()) => Ok(Some(key.to_owned())),
            Err(why) => bail!(sentence(&why)),
        },
    })?;
    if let Some(key) = key {
        return Ok(WayIn::Key(key));
    }
    terminals.say(
        "A password opens this console and nothing else: SSH has no way in until `access key add admin` has been typed here.",
    );
    loop {
        let password = unseen(terminals, "Password of admin (not shown):")?;
        let complaint = match taken(places, &["--judge", "admin"], &password) {
            Err(why) => sentence(&why),
            Ok(()) if unseen(terminals, "The same again:")? == password => {
                return Ok(WayIn::Password(password));
            }
            Ok(()) => "The two are not the same.".to_owned(),
        };
        terminals.say(&complaint);
    }
}

/// As the other complaints here begin and end.
fn sentence(why: &anyhow::Error) -> String {
    let why = why.to_string();
    let mut rest = why.chars();
    let first = rest.next().into_iter().flat_map(char::to_uppercase);
    first.chain(rest).chain(['.']).collect()
}

fn unseen(terminals: &mut Terminals, question: &str) -> Result<Zeroizing<String>> {
    terminals.ask_unseen(question).map(Zeroizing::new).context(NOBODY)
}

fn ask_interface(places: &Places, terminals: &mut Terminals) -> Result<Interface> {
    let cards = Cards::find(&places.sys);
    let names = cards.names();
    let name = match names.as_slice() {
        [] => bail!("this machine has no network card that the kernel knows"),
        [only] => (*only).to_owned(),
        [first, ..] => {
            let question =
                format!("Card by which administrators come, of {} (empty: {first}):", names.join(", "));
            until(terminals, &question, |answer| match answer {
                "" => Ok((*first).to_owned()),
                known if names.contains(&known) => Ok(known.to_owned()),
                _ => bail!("There is no such card."),
            })?
        }
    };
    let own =
        until(terminals, &format!("Address of {name}, such as 192.0.2.10/24 (empty: by DHCP):"), |answer| {
            if answer.is_empty() || answer.eq_ignore_ascii_case("dhcp") {
                return Ok(None);
            }
            let own: IpNet = answer.parse().ok().context(
                "Write the address with the length of its network's prefix, such as 192.0.2.10/24.",
            )?;
            Ok(Some(own))
        })?;
    let Some(own) = own else { return Ok(Interface { name, dhcp: Some("yes"), ..Interface::default() }) };
    let gateways = until(terminals, "Gateway (empty: none):", |answer| {
        if answer.is_empty() {
            return Ok(Vec::new());
        }
        let gateway: IpAddr = address(answer)?.parse()?;
        if !own.contains(&gateway) || gateway == own.addr() {
            bail!("The gateway is another machine of the network {}.", own.trunc());
        }
        Ok(vec![gateway.to_string()])
    })?;
    Ok(Interface { name, addresses: vec![own.to_string()], gateways, ..Interface::default() })
}

fn address(word: &str) -> Result<String> {
    let address: IpAddr = word.parse().ok().with_context(|| format!("`{word}` is no address."))?;
    Ok(address.to_string())
}

/// Asks until the answer can be read.
fn until<T>(terminals: &mut Terminals, question: &str, read: impl Fn(&str) -> Result<T>) -> Result<T> {
    loop {
        match read(&terminals.ask(question).context(NOBODY)?) {
            Ok(answer) => return Ok(answer),
            Err(error) => terminals.say(&format!("{error}")),
        }
    }
}

fn agreed(answers: &Answers, terminals: &mut Terminals) -> Result<bool> {
    let Network { host_name, time_zone, dns, interfaces, .. } = &answers.network;
    let name = |name: &Option<String>, other: &str| name.clone().unwrap_or_else(|| other.to_owned());
    terminals.say(&match &answers.way_in {
        WayIn::Key(key) => format!("\r\n  key        {key}"),
        WayIn::Password(_) => "\r\n  password   of admin, for this console; no SSH yet".to_owned(),
    });
    for one in interfaces {
        let own = one.addresses.first().map_or("by DHCP", String::as_str);
        let gateway = one.gateways.first().map(|gateway| format!(", gateway {gateway}")).unwrap_or_default();
        terminals.say(&format!("  {:<10} {own}{gateway}", one.name));
    }
    if !dns.is_empty() {
        terminals.say(&format!("  names      {}", dns.join(" ")));
    }
    terminals.say(&format!("  host name  {}", name(host_name, "portcullis")));
    terminals.say(&format!("  time zone  {}", name(time_zone, "UTC")));
    let answer = until(terminals, "Is that right? (yes or no)", |answer| {
        match answer.to_ascii_lowercase().as_str() {
            "yes" | "y" => Ok(true),
            "no" | "n" => Ok(false),
            _ => bail!("Write yes or no."),
        }
    })?;
    Ok(answer)
}

/// Puts the answers in force; the key or password last, as with it there is nothing left to ask.
fn apply(places: &Places, answers: &Answers) -> Result<()> {
    let path = places.configuration();
    let running = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let default = fs::read_to_string(places.configuration_default()).unwrap_or_default();
    let card = answers.network.interfaces.first().map(|interface| interface.name.as_str());
    let mut document: DocumentMut = running.parse().context("the configuration is no TOML")?;
    document.remove("network");
    // The image's own configuration has the first card for administrators.
    let moved = running == default && card.is_some_and(|card| give_role(&mut document, card));
    let used = Some(&answers.network).filter(|_| running == default);
    let text = with_network(&document.to_string(), &answers.network.to_toml()?, used)?
        .context("it has [network] already")?;
    let told = |(_, why): (Option<i32>, String)| anyhow::anyhow!(why);
    let begun = Instant::now();
    // The gateway may still be starting.
    while let Err((code, why)) = portcullis(places, &["configure", "import"], &text) {
        if code != Some(69) || begun.elapsed() > PATIENCE {
            bail!("{why}");
        }
        thread::sleep(PAUSE);
    }
    let comment = "answered at the console";
    if let Err(error) = portcullis(places, &["configure", "commit", "-m", comment], "") {
        portcullis(places, &["configure", "discard"], "").ok();
        return Err(told(error));
    }
    // A changed policy of the filter waits to be confirmed; who sits at the console cannot be locked out.
    portcullis(places, &["configure", "confirm"], "").ok();
    if moved {
        Command::new("systemctl")
            .args(["restart", "portcullis.service"])
            .status()
            .context("restart the gateway")?;
    }
    match &answers.way_in {
        WayIn::Key(key) => put(&places.keys(), &format!("{key}\n"), 0o644, None).context("write the key"),
        WayIn::Password(password) => {
            let input = Zeroizing::new(format!("{}\n", password.as_str()));
            portcullis(places, &["access-job", "--set", "admin"], &input).map(drop).map_err(told)
        }
    }
}

/// Gives the administrators' role to a card; whether it had another.
fn give_role(document: &mut DocumentMut, card: &str) -> bool {
    let tables = document.get_mut("xdp").and_then(|xdp| xdp.get_mut("interface"));
    let Some(tables) = tables.and_then(Item::as_array_of_tables_mut) else { return false };
    let of = |table: &toml_edit::Table, key: &str| {
        table.get(key).and_then(Item::as_str).unwrap_or_default().to_owned()
    };
    let Some(table) = tables.iter_mut().find(|table| of(table, "role") == "mgmt") else { return false };
    let moved = of(table, "name") != card;
    if moved {
        table.insert("name", value(card));
    }
    moved
}

fn finish(places: &Places, answers: &Answers, terminals: &mut Terminals) -> Result<()> {
    let interface = answers.network.interfaces.first().context("no interface was asked for")?;
    let begun = Instant::now();
    let address = loop {
        let fixed = interface.addresses.first().and_then(|own| own.split('/').next()).map(str::to_owned);
        match fixed.or_else(|| leased(&interface.name)) {
            None if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
            address => break address,
        }
    };
    match address {
        _ if matches!(answers.way_in, WayIn::Password(_)) => {
            terminals
                .say("\r\nDone: log in here as admin; `access key add admin` then lets a key in by SSH.");
        }
        Some(address) => terminals.say(&format!("\r\nDone: ssh admin@{address}")),
        None => terminals.say("\r\nDone, but no DHCP server has given this machine an address yet."),
    }
    if let Some(print) = fingerprint(&places.at(HOST_KEY)) {
        terminals.say(&format!("The machine's own key is {print}"));
    }
    Ok(())
}

fn leased(interface: &str) -> Option<String> {
    let mut all = getifaddrs().ok()?.filter(|one| one.interface_name == interface);
    all.find_map(|one| Some(one.address?.as_sockaddr_in()?.ip().to_string()))
}

pub(crate) fn fingerprint(path: &Path) -> Option<String> {
    let output = Command::new("ssh-keygen").arg("-lf").arg(path).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned).filter(|_| output.status.success())
}
