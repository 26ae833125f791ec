//! `[high_availability]`: the two appliances, the addresses that they share, and what each keeps to itself.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use ipnet::IpNet;

use super::{Resolver, rows};
use crate::config::file;
use crate::config::path;
use crate::config::reader::{Located, shown};
use crate::config::{HighAvailability, Node, Sync, VirtualAddress};

/// `IFNAMSIZ` of the kernel, without the final zero.
const INTERFACE_MAX_BYTES: usize = 15;
/// keepalived takes 20 in one packet of VRRP; the others would be told of by none.
const ADDRESSES_MAX: usize = 20;
const TRACKED_MAX: usize = 16;
const KEPT_MAX: usize = 64;
/// VRRP counts hundredths of a second with twelve bits (RFC 5798 §5.2.7).
const ADVERTISE_MIN: Duration = Duration::from_millis(100);
const ADVERTISE_MAX: Duration = Duration::from_secs(40);
const ADVERTISE_DEFAULT: Duration = Duration::from_secs(1);
const PORT_DEFAULT: usize = 9465;
/// Where keepalived finds its configuration, and the daemon its messages. Nothing in there outlives the machine's run.
const DIRECTORY_DEFAULT: &str = "/run/portcullis-ha";
const TABLE: &str = "[high_availability]";
const NODE: &str = "[high_availability.node]";

impl Resolver<'_> {
    pub(super) fn high_availability(
        &mut self,
        Located { value: typed, at }: Located<file::HighAvailability>,
    ) -> Option<HighAvailability> {
        let interface = self.required(typed.interface, at, TABLE, "interface", "as `ip link` shows it");
        let interface = interface.and_then(|typed| self.interface(&typed));
        self.required(typed.router_id.as_ref(), at, TABLE, "router_id", "a number from 1 to 255");
        let router_id = self.number("router_id", typed.router_id, 1, 1..=255);
        let expected = "a [[high_availability.virtual_address]] table for each address that the two share";
        self.required(typed.virtual_address.as_ref(), at, TABLE, "virtual_address", expected);
        if let Some(typed) = &typed.virtual_address {
            self.check_length("virtual_address", typed.at, typed.value.len(), ADDRESSES_MAX);
        }
        let addresses = self.virtual_addresses(rows(typed.virtual_address), interface.as_deref());
        self.floating = addresses.iter().map(|floating| floating.address.addr()).collect();
        let bounds = ADVERTISE_MIN..=ADVERTISE_MAX;
        let advertise = self.duration("advertise", typed.advertise, ADVERTISE_DEFAULT, bounds);
        let track = self.list("track", typed.track, TRACKED_MAX, |resolver, typed| resolver.interface(typed));
        let directory_at = typed.directory.as_ref().map_or(at, |typed| typed.at);
        let directory = self.path_or("directory", typed.directory, DIRECTORY_DEFAULT);
        // It goes into keepalived's configuration, too.
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
        if !directory.as_os_str().as_bytes().iter().all(legal) {
            self.problems
                .add(directory_at, format!("`directory` is {}", shown(&directory.display().to_string())))
                .expected("a path of letters, digits, `.`, `_` and `-`");
        }
        let node = self.required(typed.node, at, TABLE, "node", "the table [high_availability.node]");
        let node = node.and_then(|node| self.node(node));
        Some(HighAvailability {
            interface: interface?,
            router_id: u8::try_from(router_id).unwrap_or(1),
            advertise,
            preempt: typed.preempt.is_none_or(|typed| typed.value),
            track: track.into_iter().map(|interface| interface.value).collect(),
            directory,
            addresses,
            node: node?,
        })
    }

    pub(super) fn interface(&mut self, typed: &Located<String>) -> Option<String> {
        // It goes into configurations of keepalived and networkd, where some characters have a meaning.
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let name = &typed.value;
        let fits = (1..=INTERFACE_MAX_BYTES).contains(&name.len()) && name.bytes().all(legal);
        if !fits {
            self.problems
                .add(typed.at, format!("\"{}\" is no name of an interface", shown(name)))
                .expected(format!("1 to {INTERFACE_MAX_BYTES} letters, digits, `-`, `_` or `.`"));
        }
        fits.then(|| name.clone())
    }

    fn virtual_addresses(
        &mut self,
        rows: Vec<Located<file::VirtualAddress>>,
        usual: Option<&str>,
    ) -> Vec<VirtualAddress> {
        let mut addresses: Vec<VirtualAddress> = Vec::new();
        for Located { value: row, at } in rows.into_iter().take(ADDRESSES_MAX) {
            let table = "[[high_availability.virtual_address]]";
            let expected = "an address with the length of its prefix, such as \"203.0.113.10/24\"";
            let Some(typed) = self.required(row.address, at, table, "address", expected) else { continue };
            let interface = match &row.interface {
                Some(typed) => self.interface(typed),
                None => usual.map(str::to_owned),
            };
            let Some(address) = self.virtual_address(&typed) else { continue };
            if addresses.iter().any(|earlier| earlier.address.addr() == address.addr()) {
                self.problems.add(typed.at, format!("{} is a virtual address twice", address.addr()));
            }
            addresses.extend(interface.map(|interface| VirtualAddress { address, interface }));
        }
        addresses
    }

    fn virtual_address(&mut self, typed: &Located<String>) -> Option<IpNet> {
        let address = typed.value.parse::<IpNet>().ok();
        let usable = address.filter(|address| {
            let ip = address.addr();
            !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && address.prefix_len() > 0
        });
        if usable.is_none() {
            let suggestion = typed.value.parse::<IpAddr>().ok().map(|ip| format!("{}", IpNet::from(ip)));
            self.problems
                .add(typed.at, format!("\"{}\" is no virtual address", shown(&typed.value)))
                .expected(
                    "an address of one machine with the length of its prefix, such as \"203.0.113.10/24\"",
                )
                .suggest(suggestion);
        }
        usable
    }

    fn node(&mut self, Located { value: typed, at }: Located<file::Node>) -> Option<Node> {
        self.required(typed.priority.as_ref(), at, NODE, "priority", "a number from 1 to 254");
        let priority = self.number("priority", typed.priority, 100, 1..=254);
        let expected = "this appliance's own address on `interface`";
        let own = self.required(typed.address, at, NODE, "address", expected);
        let peer_at = typed.peer.as_ref().map_or(at, |typed| typed.at);
        let peer = self.required(typed.peer, at, NODE, "peer", "the other appliance's address there");
        let own = own.and_then(|typed| self.node_address("address", &typed));
        let peer = peer.and_then(|typed| self.node_address("peer", &typed));
        if let (Some(own), Some(peer)) = (own, peer)
            && (own == peer || own.is_ipv4() != peer.is_ipv4())
        {
            let message = format!("`address` {own} and `peer` {peer} cannot talk to each other");
            self.problems.add(peer_at, message).expected("two addresses of one family");
        }
        let port = self.number("port", typed.port, PORT_DEFAULT, 1..=65535);
        let port = u16::try_from(port).unwrap_or_default();
        let pin = typed.peer_sha256.map(|typed| self.pin("peer_sha256", &typed));
        let keep = self.list("keep", typed.keep, KEPT_MAX, |resolver, typed| resolver.kept(typed));
        let (own, peer) = (own?, peer?);
        let sync = pin.map(|pin| Sync {
            listen: SocketAddr::new(own, port),
            peer: SocketAddr::new(peer, port),
            pin,
        });
        Some(Node {
            priority: u8::try_from(priority).unwrap_or(100),
            address: own,
            peer,
            sync,
            keep: keep.into_iter().map(|path| path.value).collect(),
        })
    }

    fn node_address(&mut self, key: &str, typed: &Located<String>) -> Option<IpAddr> {
        let address =
            typed.value.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        if address.is_none() {
            self.problems
                .add(typed.at, format!("`{key}` is \"{}\"", shown(&typed.value)))
                .expected("the address of one machine, without a port");
        }
        address
    }

    fn kept(&mut self, typed: &Located<String>) -> Option<String> {
        match path::resolve(&typed.value) {
            Ok(_) => Some(typed.value.clone()),
            Err(error) => {
                self.problems.add(typed.at, error.to_string()).expected("a path such as \"metrics.listen\"");
                None
            }
        }
    }
}
