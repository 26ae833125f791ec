//! VLANs with roles of their own: an entry of the configuration that names a VLAN device (802.1Q, 802.1ad, one in the
//! other) is no place for a program. The program is attached to the interface that carries the VLAN, once, and told by
//! a table which tags have which role. That interface has the role of its own entry for what has no tag, or none.
//!
//! Cards that take tags off before the program sees a frame are told to leave them.

use std::collections::BTreeMap;
use std::fmt;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use nix::net::if_::if_nametoindex;
use portcullis_ebpf_common::Cause;
use portcullis_ebpf_common::link::Tag;
use portcullis_ebpf_common::tables::{self, INTERFACES_MAX, Interface, Role};
use portcullis_ebpf_common::vlan::{Tags, VLAN_WORDS, VlanKey};

use super::XdpError;
use super::bonds;
use super::loader::error::chain;
use super::loader::{Active, Filtered, client_ports};
use super::maps::take;
use super::netlink::{self, Device, offload};
use super::watch::{Condition, tell};
use crate::config::XdpInterface;
use crate::sync::lock;

/// VLAN devices above each other; the third one's tag is never looked for.
const DEPTH_MAX: usize = 2;

/// That a filtered interface is a VLAN of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The interface that carries it, as it was named at the start.
    pub trunk: String,
    pub(super) tags: Tags,
}

impl Vlan {
    /// The numbers of its tags from the outside in.
    #[must_use]
    pub fn numbers(&self) -> Vec<u16> {
        self.tags.numbers().collect()
    }
}

/// What the program is to know of an interface or a VLAN, and where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    /// `None`: it is there for its VLANs only.
    pub(super) role: Option<Role>,
    pub(super) index: u32,
    pub(super) value: Interface,
    pub(super) vlan: Option<Vlan>,
    /// Of a bond: what it consists of.
    pub(super) ports: Vec<u32>,
}

/// Where the entries of the configuration are, and the interfaces that carry them.
pub(super) fn places(
    entries: &[XdpInterface],
    devices: &[Device],
    ports: (u16, u16),
) -> Result<Vec<Place>, XdpError> {
    let mut places: Vec<Place> = Vec::new();
    // Each VLAN's carrier.
    let mut carriers: Vec<(usize, u32)> = Vec::new();
    for (slot, XdpInterface { name, role }) in (0..).zip(entries) {
        let device = by_name(devices, name).ok_or_else(|| XdpError::NoInterface(name.clone()))?;
        let (lowest, tags) = below(devices, device);
        let mut vlan = None;
        if !tags.is_empty() {
            let tags = Tags::new(&tags).ok_or_else(|| refused(name, "it has more VLAN tags than two"))?;
            vlan = Some(Vlan { trunk: lowest.name.clone(), tags });
            carriers.push((places.len(), lowest.index));
        }
        let (name, role, value) = (name.clone(), Some(*role), Interface::new(slot, *role, ports));
        places.push(Place { name, role, index: device.index, value, vlan, ports: Vec::new() });
    }
    for (place, carrier) in carriers {
        let trunk = match places.iter_mut().find(|place| place.index == carrier) {
            Some(trunk) => {
                trunk.value = trunk.value.carrying();
                // As the configuration names it.
                trunk.name.clone()
            }
            None => {
                let slot = u8::try_from(places.len()).unwrap_or(u8::MAX);
                let name = by_index(devices, carrier).map(|device| device.name.clone()).unwrap_or_default();
                let value = Interface::carrier(slot, ports);
                let (name_of, ports) = (name.clone(), Vec::new());
                places.push(Place { name: name_of, role: None, index: carrier, value, vlan: None, ports });
                name
            }
        };
        if let Some(vlan) = places.get_mut(place).and_then(|place| place.vlan.as_mut()) {
            vlan.trunk = trunk;
        }
    }
    if places.len() > usize::try_from(INTERFACES_MAX).unwrap_or(usize::MAX) {
        let name = places.pop().map(|place| place.name).unwrap_or_default();
        return Err(refused(
            &name,
            &format!("with the interfaces that carry VLANs there are more than {INTERFACES_MAX} to filter"),
        ));
    }
    let own: Vec<u32> = places.iter().map(|place| place.index).collect();
    for place in places.iter_mut().filter(|place| place.vlan.is_none()) {
        place.ports = bonds::ports(devices, place.index, &own);
    }
    Ok(places)
}

fn refused(interface: &str, reason: &str) -> XdpError {
    XdpError::Vlan { interface: interface.to_owned(), reason: reason.to_owned() }
}

fn by_index(devices: &[Device], index: u32) -> Option<&Device> {
    devices.iter().find(|device| device.index == index)
}

/// The kernel knows interfaces by other names as well.
fn by_name<'a>(devices: &'a [Device], name: &str) -> Option<&'a Device> {
    let listed = devices.iter().find(|device| device.name == name);
    listed.or_else(|| by_index(devices, if_nametoindex(name).ok()?))
}

/// The interface that carries a device, and the tags of its frames there from the outside in: none where it is no VLAN.
fn below<'a>(devices: &'a [Device], device: &'a Device) -> (&'a Device, Vec<Tag>) {
    let (mut lowest, mut tags) = (device, Vec::new());
    while let Some((lower, tag)) = lowest.vlan
        && tags.len() <= DEPTH_MAX
        && let Some(lower) = by_index(devices, lower)
    {
        tags.insert(0, tag);
        lowest = lower;
    }
    (lowest, tags)
}

/// A device by which nothing comes in: a VLAN without a role beside those that have one, or an interface that has no
/// role but those of its VLANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mute {
    pub(crate) name: String,
    is_vlan: bool,
}

impl Mute {
    /// Why what comes by it is dropped.
    pub(crate) fn cause(&self) -> Cause {
        if self.is_vlan { Cause::VlanUnknown } else { Cause::Untagged }
    }
}

fn mute_among(places: &[Place], devices: &[Device]) -> Vec<Mute> {
    let carriers: Vec<u32> =
        places.iter().filter(|place| place.value.carries_vlans()).map(|place| place.index).collect();
    let has_role =
        |device: &Device| places.iter().any(|place| place.index == device.index && place.role.is_some());
    let here = devices.iter().filter(|device| carriers.contains(&below(devices, device).0.index));
    here.filter(|device| !has_role(device))
        .map(|device| Mute { name: device.name.clone(), is_vlan: device.vlan.is_some() })
        .collect()
}

/// The devices by which nothing comes in with these entries, as this machine is now.
pub(crate) fn mute(entries: &[XdpInterface]) -> Vec<Mute> {
    let Ok(devices) = netlink::devices() else { return Vec::new() };
    let there: Vec<XdpInterface> =
        entries.iter().filter(|entry| by_name(&devices, &entry.name).is_some()).cloned().collect();
    places(&there, &devices, (0, 0)).map(|places| mute_among(&places, &devices)).unwrap_or_default()
}

/// Where the entries are on this machine, with the cards told what the filter needs.
pub(super) fn find_places(entries: &[XdpInterface]) -> Result<Vec<Place>, XdpError> {
    let devices = netlink::devices().map_err(XdpError::Devices)?;
    let places = places(entries, &devices, client_ports())?;
    for Place { name, index, .. } in places.iter().filter(|place| place.value.carries_vlans()) {
        if leave_tags(name, *index, &devices)? {
            tracing::info!(
                interface = name,
                "the card leaves VLAN tags in frames now: the filter needs them"
            );
        }
    }
    Ok(places)
}

/// What the daemon keeps of the program's table.
pub(super) struct Vlans {
    map: HashMap<MapData, [u32; VLAN_WORDS], [u8; 8]>,
    written: BTreeMap<VlanKey, [u8; 8]>,
}

impl fmt::Debug for Vlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vlans").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Vlans {
    /// With the VLANs of these places.
    pub(super) fn fill(ebpf: &mut Ebpf, places: &[Place]) -> Result<Self, XdpError> {
        let map = HashMap::try_from(take(ebpf, tables::VLANS)?)?;
        let mut vlans = Self { map, written: BTreeMap::new() };
        let mut wanted = BTreeMap::new();
        for place in places {
            let Some(vlan) = &place.vlan else { continue };
            let Some(trunk) = places.iter().find(|trunk| trunk.name == vlan.trunk) else { continue };
            wanted.extend(keys(trunk.index, &trunk.ports, vlan, place.value));
        }
        vlans.write(wanted)?;
        Ok(vlans)
    }

    fn write(&mut self, wanted: BTreeMap<VlanKey, [u8; 8]>) -> Result<(), XdpError> {
        for gone in self.written.keys().filter(|key| !wanted.contains_key(key)) {
            // That it is not there is as good.
            self.map.remove(&gone.to_words()).ok();
        }
        for (key, value) in &wanted {
            if self.written.get(key) != Some(value) {
                self.map.insert(key.to_words(), value, 0)?;
            }
        }
        self.written = wanted;
        Ok(())
    }
}

/// A frame comes by the interface, or by a port of a bond.
fn keys<'a>(
    trunk: u32,
    ports: &'a [u32],
    vlan: &Vlan,
    value: Interface,
) -> impl Iterator<Item = (VlanKey, [u8; 8])> + use<'a> {
    let tags = vlan.tags;
    std::iter::once(trunk)
        .chain(ports.iter().copied())
        .map(move |index| (VlanKey::new(index, tags), value.to_bytes()))
}

/// Has the cards of an interface whose VLANs have roles leave tags in frames. Whether they did not before.
pub(super) fn leave_tags(name: &str, index: u32, devices: &[Device]) -> Result<bool, XdpError> {
    // Of a bond or a bridge its ports are the cards.
    let ports = devices.iter().filter(|device| device.master == Some(index)).map(|device| device.index);
    let mut changed = false;
    for card in std::iter::once(index).chain(ports) {
        changed |= offload::leave_tags(card).map_err(|error| XdpError::TagsTakenOff {
            interface: name.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(changed)
}

/// Looks where VLANs are now, when the interfaces that carry them have been looked at.
pub(super) fn look(active: &Active, interfaces: &mut [Filtered], devices: &[Device]) -> Result<(), XdpError> {
    if interfaces.iter().all(|interface| interface.vlan.is_none()) {
        return Ok(());
    }
    let mut trunks: Vec<Filtered> =
        interfaces.iter().filter(|one| one.value.carries_vlans()).cloned().collect();
    for trunk in trunks.iter_mut().filter(|trunk| by_index(devices, trunk.index).is_some()) {
        match leave_tags(&trunk.name, trunk.index, devices) {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                interface = trunk.name,
                "somebody had the card take VLAN tags off; it leaves them again, because the filter needs them"
            ),
            Err(error) => trunk.condition = Condition::Lost(chain(&error)),
        }
    }
    let mut wanted = BTreeMap::new();
    for interface in interfaces.iter_mut() {
        let Some(vlan) = &interface.vlan else { continue };
        let Some(trunk) = trunks.iter().find(|trunk| trunk.name == vlan.trunk) else { continue };
        let (found, condition) = find(interface, trunk, devices);
        interface.value = interface.value.steered(trunk.value.is_steered());
        if let Some((index, vlan)) = found {
            wanted.extend(keys(trunk.index, &trunk.ports, &vlan, interface.value));
            (interface.index, interface.vlan) = (index, Some(vlan));
        }
        (interface.mode, interface.repairs) = (trunk.mode, trunk.repairs);
        interface.pin.clone_from(&trunk.pin);
        if condition != interface.condition {
            tell(&interface.name, &condition);
            interface.condition = condition;
        }
    }
    lock(&active.vlans).write(wanted)
}

/// Where a VLAN is, if it is on the interface that it was on, and how that is.
fn find(interface: &Filtered, trunk: &Filtered, devices: &[Device]) -> (Option<(u32, Vlan)>, Condition) {
    let place = |device: &Device| {
        let (lowest, tags) = below(devices, device);
        let vlan = Vlan { trunk: trunk.name.clone(), tags: Tags::new(&tags)? };
        (lowest.index == trunk.index).then_some((device.index, vlan))
    };
    if let Some(device) = devices.iter().find(|device| device.name == interface.name) {
        let condition = match &trunk.condition {
            Condition::Renamed(_) => Condition::Attached,
            other => other.clone(),
        };
        return match place(device) {
            Some(found) => (Some(found), condition),
            None => {
                let reason = format!("it is no VLAN of `{}` any more; a restart finds it", trunk.name);
                (None, Condition::Lost(reason))
            }
        };
    }
    // Its number is not given to another soon, but may be.
    let former = by_index(devices, interface.index).and_then(|device| Some((device, place(device)?)));
    match former.filter(|(_, (_, vlan))| interface.vlan.as_ref() == Some(vlan)) {
        Some((device, found)) => (Some(found), Condition::Renamed(device.name.clone())),
        None => (None, Condition::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: (u16, u16) = (1, 2);

    fn device(index: u32, name: &str, vlan: Option<(u32, u16, u16)>) -> Device {
        let vlan = vlan.map(|(lower, protocol, number)| (lower, Tag::new(protocol, number)));
        Device { index, name: name.to_owned(), mtu: 1500, vlan, ..Device::default() }
    }

    /// Two cards with VLANs, one of them in another.
    fn devices() -> Vec<Device> {
        vec![
            device(902, "c0", None),
            device(903, "c1", None),
            device(904, "c0.10", Some((902, 0x8100, 10))),
            device(905, "c0.20", Some((902, 0x8100, 20))),
            device(906, "s300", Some((903, 0x88a8, 300))),
            device(907, "s300.30", Some((906, 0x8100, 30))),
            device(908, "deep", Some((907, 0x8100, 1))),
        ]
    }

    fn entries(list: &[(&str, Role)]) -> Vec<XdpInterface> {
        list.iter().map(|(name, role)| XdpInterface { name: (*name).to_owned(), role: *role }).collect()
    }

    fn found(list: &[(&str, Role)]) -> Vec<Place> {
        places(&entries(list), &devices(), PORTS).unwrap()
    }

    fn vlan(place: &Place) -> Option<(&str, Vec<u16>)> {
        place.vlan.as_ref().map(|vlan| (vlan.trunk.as_str(), vlan.numbers()))
    }

    #[test]
    fn a_card_that_carries_roles_of_vlans_is_filtered_with_its_own_role_or_none() {
        let places = found(&[("c0.10", Role::Edge), ("c1", Role::Mgmt), ("s300.30", Role::Farm)]);
        let [edge, management, farm, carrier] = &places[..] else { panic!("{places:?}") };
        assert_eq!((vlan(edge), edge.index), (Some(("c0", vec![10])), 904));
        assert_eq!((vlan(farm), farm.index), (Some(("c1", vec![300, 30])), 907));
        assert_eq!(management.value, Interface::new(1, Role::Mgmt, PORTS).carrying());
        assert_eq!((vlan(carrier), carrier.name.as_str(), carrier.role), (None, "c0", None));
        assert_eq!(carrier.value, Interface::carrier(3, PORTS));
        let alone = found(&[("c0", Role::Edge), ("c1", Role::Farm)]);
        assert!(alone.iter().all(|place| !place.value.carries_vlans() && place.vlan.is_none()));
    }

    #[test]
    fn what_nobody_gave_a_role_beside_those_that_have_one_is_told() {
        let told = |list| -> Vec<String> {
            mute_among(&found(list), &devices()).into_iter().map(|mute| mute.name).collect()
        };
        assert_eq!(told(&[("c0.10", Role::Edge)]), ["c0", "c0.20"]);
        assert_eq!(told(&[("c0", Role::Mgmt), ("c0.10", Role::Edge), ("c0.20", Role::Farm)]), [""; 0]);
        assert_eq!(told(&[("c1", Role::Mgmt), ("s300.30", Role::Farm)]), ["s300", "deep"]);
        assert_eq!(told(&[("c0", Role::Edge)]), [""; 0], "its role holds for all its VLANs");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        let refusal = |list| places(&entries(list), &devices(), PORTS).unwrap_err().to_string();
        assert!(refusal(&[("nowhere0", Role::Edge)]).contains("`nowhere0`"));
        assert!(refusal(&[("deep", Role::Edge)]).contains("`deep`: it has more VLAN tags than two"));
        let mut devices = devices();
        let names: Vec<String> = (0..16).map(|number| format!("v{number}")).collect();
        for (number, name) in (0..).zip(&names) {
            devices.push(device(1000 + u32::from(number), name, Some((902, 0x8100, 100 + number))));
        }
        let list: Vec<XdpInterface> =
            names.iter().map(|name| XdpInterface { name: name.clone(), role: Role::Edge }).collect();
        assert_eq!(places(&list[..15], &devices, PORTS).unwrap().len(), 16);
        assert!(places(&list, &devices, PORTS).unwrap_err().to_string().contains("more than 16"));
    }
}
