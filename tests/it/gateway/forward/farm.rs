//! Servers that say who they are, and a gateway in front of them.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};

use portcullis_tests::backend::Service;
use portcullis_tests::client::Client;
use portcullis_tests::filtered;
use portcullis_tests::wait::{self, PATIENCE};
use serde_json::Value as Json;
use toml::{Table, Value};

use crate::gateway::fixture::{Edge, setup};

/// Checks that are as quick as they may be.
pub(super) const QUICK: &str = "health = { interval = \"100ms\", timeout = \"1s\", rise = 2, fall = 3 }";
/// Servers that are never checked.
pub(super) const UNCHECKED: &str = "health = { kind = \"none\" }";

/// A server that tells its name to whoever connects, and then echoes.
#[derive(Debug)]
pub(super) struct Server {
    name: char,
    address: SocketAddr,
    service: Option<Service>,
}

impl Server {
    pub(super) fn start(name: char) -> Self {
        Self::at(name, filtered::farm())
    }

    pub(super) fn at(name: char, ip: IpAddr) -> Self {
        Self::on(name, SocketAddr::new(ip, 0))
    }

    fn on(name: char, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let service = Service::on(listener, move |stream| greet(name, stream)).unwrap();
        Self { name, address: service.address(), service: Some(service) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn accepted(&self) -> usize {
        self.service.as_ref().map_or(0, Service::accepted)
    }

    /// Nobody listens there any more.
    pub(super) fn die(&mut self) {
        self.service = None;
    }

    pub(super) fn revive(&mut self) {
        let (name, address) = (self.name, self.address);
        *self = Self::on(name, address);
    }

    /// Its row of a configuration.
    pub(super) fn row(&self, weight: u16) -> String {
        format!("{{ name = \"{}\", address = \"{}\", weight = {weight} }}", self.name, self.address)
    }
}

fn greet(name: char, mut stream: TcpStream) {
    let mut letter = [0; 4];
    let mut buffer = vec![0; 64 * 1024];
    if stream.write_all(name.encode_utf8(&mut letter).as_bytes()).is_err() {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    // The client may be gone already.
    drop(stream.shutdown(Shutdown::Write));
}

/// The keys of a listener for these servers, each with its weight.
pub(super) fn keys(servers: &[(&Server, u16)], more: &str) -> String {
    let rows: Vec<String> = servers.iter().map(|(server, weight)| server.row(*weight)).collect();
    format!("permit_loopback = true\nserver = [{}]\n{more}", rows.join(", "))
}

/// A gateway with one `forward` listener.
pub(super) fn edge(servers: &[(&Server, u16)], more: &str) -> Edge {
    Edge::of_setup(setup(), "forward", &keys(servers, more))
}

/// Changes the listener's keys in the configuration and reloads.
pub(super) fn reload(edge: &Edge, keys: &str) -> Json {
    configure(edge, keys);
    edge.gateway.cli_json(["reload"]).unwrap()
}

/// Changes the listener's keys in the configuration file.
pub(super) fn configure(edge: &Edge, keys: &str) {
    let file = edge.gateway.config_file();
    let mut table: Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let mut listener: Table = keys.parse().unwrap();
    listener.insert("name".into(), "edge".into());
    listener.insert("kind".into(), "forward".into());
    listener.insert("listen".into(), vec![edge.at.to_string()].into());
    table.insert("listener".into(), vec![Value::Table(listener)].into());
    std::fs::write(&file, toml::to_string(&table).unwrap()).unwrap();
}

/// A new flow and the name of the server that it went to.
pub(super) fn flow(at: SocketAddr) -> (char, Client) {
    let mut client = Client::plain(at).unwrap();
    let name = char::from(client.read(1).unwrap()[0]);
    (name, client)
}

/// The servers that so many new flows go to.
pub(super) fn flows(at: SocketAddr, count: usize) -> BTreeMap<char, usize> {
    let mut servers = BTreeMap::new();
    for _ in 0..count {
        *servers.entry(flow(at).0).or_default() += 1;
    }
    servers
}

/// What `forward status` says of one server.
pub(super) fn server(edge: &Edge, name: char) -> Json {
    let status = edge.gateway.cli_json(["forward", "status"]).unwrap();
    let servers = status[0]["servers"].as_array().unwrap();
    let found = servers.iter().find(|row| row["name"] == name.to_string());
    found.unwrap_or_else(|| panic!("no {name} in {status}")).clone()
}

/// Waits until a server is in that state.
pub(super) fn wait_for(edge: &Edge, name: char, state: &str) {
    let what = format!("{name} to be {state}");
    let waited = wait::until(PATIENCE, &what, || server(edge, name)["state"] == state);
    waited.unwrap_or_else(|error| panic!("{error}: {}", server(edge, name)));
}
