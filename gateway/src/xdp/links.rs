//! By which devices the program's frames can leave: the filtered interfaces whose drivers take them, and VLAN devices
//! (802.1Q, 802.1ad, one in the other) above those. The kernel's routes name a VLAN device and nothing of its tag, so
//! the program is told: a table says for each device which interface takes the frame and which tags it gets.
//!
//! A device that is not in the table takes no frames of the program. Where the way leads by one, user space forwards.

use std::collections::{BTreeMap, HashMap as Index};
use std::fmt;
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use nix::net::if_::if_indextoname;
use portcullis_ebpf_common::link::{LINK_WORDS, LINKS_MAX, Link, TAG};
use portcullis_ebpf_common::tables;

use super::XdpError;
use super::maps::{MapUse, take};
use super::netlink::{self, Device};

/// Where the kernel says whether what "comes from" the loopback interface may be routed on. Nothing does but the
/// program's own questions for routes.
const MAY_FORWARD: [&str; 2] =
    ["/proc/sys/net/ipv4/conf/lo/forwarding", "/proc/sys/net/ipv6/conf/lo/forwarding"];
/// VLAN tags of one frame.
const TAGS_MAX: usize = 2;

/// What the daemon keeps of the table.
pub(super) struct Links {
    map: HashMap<MapData, u32, [u64; LINK_WORDS]>,
    written: BTreeMap<u32, Link>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Links {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, XdpError> {
        let map = HashMap::try_from(take(ebpf, tables::LINKS)?)?;
        Ok(Self { map, written: BTreeMap::new() })
    }

    /// Fails where the kernel would send by a device that takes no frames of the program.
    pub(super) fn check_way(&self, server: IpAddr) -> Result<(), String> {
        // Where the kernel has no answer, the program finds out by itself.
        let Ok(device) = netlink::way_to(server) else { return Ok(()) };
        if self.written.contains_key(&device) {
            return Ok(());
        }
        let name = if_indextoname(device).ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        Err(format!(
            "the way to {server} leads by `{name}`, which is no filtered interface, no VLAN of one, or takes no frames \
             of the program"
        ))
    }

    /// How many devices put tags on frames.
    pub(super) fn tagged(&self) -> u64 {
        let tagged = self.written.values().filter(|link| link.tags > 0).count();
        u64::try_from(tagged).unwrap_or(u64::MAX)
    }

    pub(super) fn usage(&self) -> MapUse {
        MapUse { name: tables::LINKS, entries: Some(self.written.len()), most: LINKS_MAX }
    }

    /// Looks at the devices as they are now, `filtered` being the indices of filtered interfaces. Whether anything has
    /// changed.
    pub(super) fn follow(&mut self, filtered: &[u32]) -> Result<bool, XdpError> {
        let devices = netlink::devices().map_err(XdpError::Devices)?;
        // A kernel that cannot say is taken to have drivers that can.
        let takes = netlink::taking_frames().unwrap_or_default();
        let all = links(&devices, filtered, &takes);
        if all == self.written {
            return Ok(false);
        }
        for gone in self.written.keys().filter(|index| !all.contains_key(index)) {
            // That it is not there is as good.
            self.map.remove(gone).ok();
        }
        for (index, link) in &all {
            if self.written.get(index) == Some(link) {
                continue;
            }
            self.map.insert(index, link.to_words(), 0)?;
            let name = devices.iter().find(|device| device.index == *index).map(|device| &device.name);
            let (device, tags) = (name.map_or("", String::as_str), link.tags);
            tracing::info!(device, tags, "forwarded packets can leave by a device");
        }
        self.written = all;
        Ok(true)
    }
}

/// Lets the program look routes up.
pub(super) fn allow_routes() -> Result<(), String> {
    for path in MAY_FORWARD {
        // A machine without IPv6 has no such file.
        let Ok(now) = std::fs::read_to_string(path) else { continue };
        if now.trim() != "1" {
            std::fs::write(path, "1")
                .map_err(|error| format!("{path} cannot be set to 1 ({error}); set it by sysctl"))?;
        }
    }
    Ok(())
}

/// How frames leave by each device by which they can.
fn links(devices: &[Device], filtered: &[u32], takes: &Index<u32, bool>) -> BTreeMap<u32, Link> {
    let by_index: Index<u32, &Device> = devices.iter().map(|device| (device.index, device)).collect();
    let found = devices.iter().filter_map(|device| {
        let (mut lowest, mut tags) = (device, Vec::new());
        while !filtered.contains(&lowest.index) {
            let (lower, tag) = lowest.vlan.filter(|_| tags.len() < TAGS_MAX)?;
            // From the inside out.
            tags.insert(0, tag);
            lowest = by_index.get(&lower)?;
        }
        let able = takes.get(&lowest.index).copied().unwrap_or(true);
        let link = able.then(|| Link::new(lowest.index, &tags, most(device, lowest, tags.len())))?;
        Some((device.index, link?))
    });
    found.take(usize::try_from(LINKS_MAX).unwrap_or(usize::MAX)).collect()
}

/// The longest packet: interfaces take frames with one tag beyond their own length, and no more.
fn most(device: &Device, lowest: &Device, tags: usize) -> u32 {
    let surplus = u32::try_from(tags.saturating_sub(1)).unwrap_or(0) * TAG;
    device.mtu.min(lowest.mtu.saturating_sub(surplus))
}

#[cfg(test)]
mod tests {
    use portcullis_ebpf_common::link::Tag;

    use super::*;

    fn device(index: u32, vlan: Option<(u32, Tag)>) -> Device {
        Device { index, name: format!("d{index}"), mtu: 1500, vlan, ..Device::default() }
    }

    fn found(devices: &[Device], filtered: &[u32], takes: &[(u32, bool)]) -> BTreeMap<u32, Link> {
        links(devices, filtered, &takes.iter().copied().collect())
    }

    #[test]
    fn a_vlan_device_leads_to_the_filtered_interface_below_it_with_its_tags_from_the_outside_in() {
        let (service, customer, third) = (Tag::new(0x88a8, 7), Tag::new(0x8100, 20), Tag::new(0x8100, 1));
        let devices = [
            device(2, None),
            device(3, None),
            device(4, Some((2, service))),
            device(5, Some((4, customer))),
            device(6, Some((5, third))),
            device(7, Some((3, customer))),
            device(8, Some((99, customer))),
        ];
        let expected = [
            (2, Link::new(2, &[], 1500)),
            (4, Link::new(2, &[service], 1500)),
            // Four bytes fewer: the interface takes one tag beyond its length.
            (5, Link::new(2, &[service, customer], 1496)),
        ];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(index, link)| (index, link.unwrap())).collect();
        assert_eq!(found(&devices, &[2], &[(2, true), (3, true)]), expected);
        assert_eq!(found(&devices, &[2], &[]), expected, "a kernel that cannot say");
    }

    #[test]
    fn nothing_leaves_by_an_interface_that_takes_no_frames_or_is_not_filtered() {
        let tag = Tag::new(0x8100, 20);
        let devices = [device(2, None), device(3, Some((2, tag)))];
        assert_eq!(found(&devices, &[2], &[(2, false)]), BTreeMap::new());
        assert_eq!(found(&devices, &[], &[(2, true)]), BTreeMap::new());
    }

    #[test]
    fn devices_that_lie_on_each_other_end_the_search() {
        let tag = Tag::new(0x8100, 20);
        let devices = [device(2, Some((3, tag))), device(3, Some((2, tag)))];
        assert_eq!(found(&devices, &[9], &[]), BTreeMap::new());
    }
}
