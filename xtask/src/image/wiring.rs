//! The networks around the appliance: each card of the machine has a wire to a place, a network namespace in which the
//! programs of a scenario run.
//!
//! QEMU is in a namespace of its own, with a tap device for each card and a bridge that joins it to the place's wire.
//! Only the machine has a leg in more than one place.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result};
use portcullis_tests::netns::{self, End, Namespace};
use serde::Deserialize;

/// Pairs of queues of each card: virtio_net wants one for each processor, and as many again for XDP in the driver.
const QUEUE_PAIRS: u8 = 4;
/// The interface of a place. A place with two cards has the second one behind a number.
const WIRE: &str = "lan";

/// A network card of the machine, in the order in which the machine counts them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Card {
    /// What its wire leads to.
    place: String,
    /// Addresses of the place, with the lengths of their prefixes.
    #[serde(default)]
    addresses: Vec<String>,
    /// The number of an earlier card, counted from zero, on whose switch it is: a second way to the same place.
    switch_of: Option<usize>,
    /// The address of the machine at which administrators come from there.
    ssh: Option<IpAddr>,
    #[serde(default)]
    model: Model,
}

/// What QEMU emulates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Model {
    #[default]
    VirtioNet,
    /// Intel 82574L, whose driver knows no XDP
    E1000e,
    /// Intel 82576
    Igb,
    /// VMware's
    Vmxnet3,
}

impl Model {
    /// Pairs of queues towards the host: only virtio_net takes more than one.
    fn pairs(self) -> u8 {
        if self == Self::VirtioNet { QUEUE_PAIRS } else { 1 }
    }

    /// What `-device` calls it, with what it needs.
    fn device(self) -> String {
        match self {
            // A vector for each queue, one for news of the card and one for news of its configuration.
            Self::VirtioNet => format!("virtio-net-pci,mq=on,vectors={}", 2 * self.pairs() + 2),
            Self::E1000e => "e1000e".to_owned(),
            Self::Igb => "igb".to_owned(),
            Self::Vmxnet3 => "vmxnet3".to_owned(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Wiring {
    machine: Namespace,
    places: BTreeMap<String, Namespace>,
    /// In the order of their slots.
    cards: Vec<Model>,
    /// Where administrators are, and the address to which they come.
    administrators: (String, IpAddr),
}

impl Wiring {
    pub(super) fn new(cards: &[Card]) -> Result<Self> {
        let way = cards.iter().find_map(|card| Some((card.place.clone(), card.ssh?)));
        let administrators = way.context("no card says at which address administrators come (`ssh`)")?;
        let machine = Namespace::new("vm")?;
        let mut places = BTreeMap::new();
        for (number, card) in cards.iter().enumerate() {
            let (tap, bridge) = (tap(number), bridge(card.switch_of.unwrap_or(number)));
            let several: &[&str] = if card.model.pairs() > 1 { &["multi_queue"] } else { &[] };
            machine.ip(&[&["tuntap", "add", "dev", &tap, "mode", "tap", "vnet_hdr"], several].concat())?;
            if card.switch_of.is_some() {
                plug(&machine, &tap, &bridge)?;
                continue;
            }
            if !places.contains_key(&card.place) {
                places.insert(card.place.clone(), Namespace::new(&card.place)?);
            }
            let place = places.get(&card.place).context("a place that was just made")?;
            wire(&machine, number, place, card)?;
        }
        Ok(Self { machine, places, cards: cards.iter().map(|card| card.model).collect(), administrators })
    }

    pub(super) fn place(&self, name: &str) -> Result<&Namespace> {
        let known = || self.places.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.places.get(name).with_context(|| format!("there is no place `{name}`; there are: {}", known()))
    }

    /// `program` where administrators are, and the address to which they come.
    pub(super) fn administrators(&self, program: &str) -> Result<(Command, IpAddr)> {
        let (place, address) = &self.administrators;
        Ok((self.place(place)?.command(program), *address))
    }

    /// QEMU, where the tap devices are.
    pub(super) fn around(&self, qemu: &Command) -> Command {
        let mut inside = self.machine.command("env");
        for (name, value) in qemu.get_envs() {
            let mut assignment = name.to_owned();
            assignment.push("=");
            assignment.push(value.unwrap_or_default());
            inside.arg(assignment);
        }
        inside.arg(qemu.get_program()).args(qemu.get_args());
        inside
    }

    /// The cards, for QEMU.
    pub(super) fn cards(&self) -> Vec<String> {
        let card = |(number, model): (usize, &Model)| {
            let (tap, queues, device) = (tap(number), queues(*model), model.device());
            [
                "-netdev".to_owned(),
                format!("tap,id=card{number},ifname={tap},script=no,downscript=no{queues}"),
                "-device".to_owned(),
                format!("{device},netdev=card{number},mac=02:00:00:00:01:{number:02x},romfile="),
            ]
        };
        self.cards.iter().enumerate().flat_map(card).collect()
    }
}

/// A device with one queue cannot be one of several.
fn queues(model: Model) -> String {
    match model.pairs() {
        1 => String::new(),
        pairs => format!(",queues={pairs}"),
    }
}

fn tap(number: usize) -> String {
    format!("tap{number}")
}

fn bridge(number: usize) -> String {
    format!("bridge{number}")
}

/// Tap device and wire on a bridge: what comes out of the card arrives at the place.
fn wire(machine: &Namespace, number: usize, place: &Namespace, card: &Card) -> Result<()> {
    let (bridge, up) = (bridge(number), format!("up{number}"));
    machine.ip(&["link", "add", &bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
    let interface = if number == 0 { WIRE.to_owned() } else { format!("{WIRE}{number}") };
    netns::join(
        End { namespace: machine, interface: &up, addresses: &[] },
        End { namespace: place, interface: &interface, addresses: &card.addresses },
    )?;
    plug(machine, &tap(number), &bridge)?;
    plug(machine, &up, &bridge)?;
    machine.ip(&["link", "set", "dev", &bridge, "up"])
}

fn plug(machine: &Namespace, port: &str, bridge: &str) -> Result<()> {
    machine.ip(&["link", "set", "dev", port, "master", bridge])?;
    machine.ip(&["link", "set", "dev", port, "up"])
}
