//! Three questions to the kernel by netlink(7): which network devices there are, by which one a packet would leave, and
//! which of them take frames that the program sends. All are open to everybody. `offload` has a fourth.
//!
//! The messages are few and short, so that they are written and read here, without a library for all the others. Numbers
//! are those of the kernel's interface to programs (`linux/rtnetlink.h`, `linux/if_link.h`, `linux/netdev.h`).

pub(super) mod offload;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use portcullis_ebpf_common::link::Tag;

/// The kernel answers at once or not at all.
const PATIENCE_SECONDS: i64 = 2;
/// A part of an answer is no longer.
const PART_MAX: usize = 64 * 1024;
/// Parts of one answer; a device takes less than a tenth of one.
const PARTS_MAX: usize = 4_096;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const GET_LINK: u16 = 18;
const GET_ROUTE: u16 = 26;
const GENERIC_CONTROL: u16 = 0x10;
/// The device's driver runs programs.
const RUNS_PROGRAMS: u64 = 1;
/// The device's driver takes frames of programs.
const TAKES_FRAMES: u64 = 4;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    /// Of a VLAN device whose lower one is in this network namespace: that one, and the tag.
    pub(super) vlan: Option<(u32, Tag)>,
    /// The bond or bridge that it is a port of.
    pub(super) master: Option<u32>,
    pub(super) is_bond: bool,
}

/// All devices of this network namespace.
pub(super) fn devices() -> io::Result<Vec<Device>> {
    let parts = ask(SockProtocol::NetlinkRoute, GET_LINK, DUMP, &[0; 16])?;
    let messages = parts.iter().flat_map(|part| messages(part));
    Ok(messages.filter_map(|(_, body)| device(body)).collect())
}

fn device(body: &[u8]) -> Option<Device> {
    let index = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let mut device = Device { index, ..Device::default() };
    let (mut lower, mut tag, mut elsewhere) = (None, None, false);
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            3 => device.name = text(value),
            4 => device.mtu = word(value).unwrap_or(0),
            5 => lower = word(value),
            10 => device.master = word(value),
            18 => (tag, device.is_bond) = (vlan_tag(value), kind_of(value).as_deref() == Some("bond")),
            // The lower device is in another network namespace.
            37 => elsewhere = true,
            _ => {}
        }
    }
    device.vlan = lower.zip(tag).filter(|_| !elsewhere);
    Some(device)
}

fn kind_of(information: &[u8]) -> Option<String> {
    attributes(information).find(|(kind, _)| *kind == 1).map(|(_, value)| text(value))
}

/// The tag of a VLAN device, of what the kernel tells of a device of any kind.
fn vlan_tag(information: &[u8]) -> Option<Tag> {
    let find = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if kind_of(information)? != "vlan" {
        return None;
    }
    let data = find(information, 2)?;
    let number = u16::from_ne_bytes(*find(data, 1)?.first_chunk()?);
    // In network order, unlike everything else.
    let protocol = u16::from_be_bytes(*find(data, 5)?.first_chunk()?);
    Some(Tag::new(protocol, number))
}

/// The index of the device by which packets to that address leave.
pub(super) fn way_to(address: IpAddr) -> io::Result<u32> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (2, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    };
    let bits = u8::try_from(octets.len() * 8).unwrap_or(0);
    let mut body = vec![family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    attribute(&mut body, 1, &octets);
    let parts = ask(SockProtocol::NetlinkRoute, GET_ROUTE, 0, &body)?;
    let routes = parts.iter().flat_map(|part| messages(part));
    let mut devices = routes.filter_map(|(_, body)| {
        attributes(body.get(12..)?).find(|(kind, _)| *kind == 4).and_then(|(_, value)| word(value))
    });
    devices.next().ok_or_else(|| io::Error::other("the kernel's answer names no device"))
}

/// Which devices take frames of programs, by index. Kernels before 6.3 cannot say.
pub(super) fn taking_frames() -> io::Result<HashMap<u32, bool>> {
    with_feature(TAKES_FRAMES)
}

/// Which devices have drivers that run programs, by index. As above.
pub(super) fn running_programs() -> io::Result<HashMap<u32, bool>> {
    with_feature(RUNS_PROGRAMS)
}

fn with_feature(feature: u64) -> io::Result<HashMap<u32, bool>> {
    let family = family(b"netdev\0")?;
    let parts = ask(SockProtocol::NetlinkGeneric, family, DUMP, &[1, 1, 0, 0])?;
    let devices = parts.iter().flat_map(|part| messages(part)).filter_map(|(_, body)| {
        let find = |wanted| attributes(body.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, it)| it);
        let features = u64::from_ne_bytes(*find(3)?.first_chunk()?);
        Some((word(find(1)?)?, features & feature != 0))
    });
    Ok(devices.collect())
}

/// The number of a family of generic netlink, whose name ends with a zero.
fn family(name: &[u8]) -> io::Result<u16> {
    let mut question = vec![3, 1, 0, 0];
    attribute(&mut question, 2, name);
    let parts = ask(SockProtocol::NetlinkGeneric, GENERIC_CONTROL, 0, &question)?;
    let family = parts.iter().flat_map(|part| messages(part)).find_map(|(_, body)| {
        let (_, id) = attributes(body.get(4..)?).find(|(kind, _)| *kind == 1)?;
        Some(u16::from_ne_bytes(*id.first_chunk()?))
    });
    family.ok_or_else(|| io::Error::other("the kernel does not tell of its devices"))
}

/// Asks, and returns what the kernel answers, part by part.
fn ask(protocol: SockProtocol, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    let length = u32::try_from(body.len() + 16).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([kind.to_ne_bytes(), (REQUEST | flags).to_ne_bytes()].concat());
    // Neither a number nor a sender: the socket is this question's alone.
    message.extend([0; 8]);
    message.extend(body);
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut parts = Vec::new();
    while parts.len() < PARTS_MAX {
        let part = receive(&socket)?;
        let is_last = flags & DUMP == 0 || messages(&part).any(|(kind, _)| kind == DONE);
        refused(&part)?;
        parts.push(part);
        if is_last {
            return Ok(parts);
        }
    }
    Err(io::Error::other("the kernel's answer does not end"))
}

fn receive(socket: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut part = vec![0; PART_MAX];
    let length = recv(socket.as_raw_fd(), &mut part, MsgFlags::empty())?;
    part.truncate(length);
    Ok(part)
}

/// Fails where the kernel says why it does not answer.
fn refused(part: &[u8]) -> io::Result<()> {
    let refusal = messages(part).find(|(kind, _)| *kind == ERROR).and_then(|(_, body)| body.first_chunk());
    match refusal.map(|code| i32::from_ne_bytes(*code)) {
        Some(code) if code != 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Ok(()),
    }
}

/// The messages of a part: kind and body.
fn messages(mut part: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(word(part)?).ok()?;
        let kind = u16::from_ne_bytes(*part.get(4..)?.first_chunk()?);
        let body = part.get(16..length)?;
        part = part.get(aligned(length)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of a message, or of another attribute: kind and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        // The two highest bits say what is inside, which is known here.
        Some((kind & 0x3fff, value))
    })
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    message.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
    message.extend(value);
    message.resize(aligned(message.len()), 0);
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.first_chunk()?))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of `ip link` that the kernel sends for `eth0.20` (802.1ad, 20) on the device 3, shortened.
    fn vlan_device() -> Vec<u8> {
        let mut data = Vec::new();
        attribute(&mut data, 1, &20_u16.to_ne_bytes());
        attribute(&mut data, 5, &0x88a8_u16.to_be_bytes());
        let mut information = Vec::new();
        attribute(&mut information, 1, b"vlan\0");
        attribute(&mut information, 0x8002, &data);
        let mut body = vec![0; 16];
        body[4] = 7;
        attribute(&mut body, 3, b"eth0.20\0");
        attribute(&mut body, 4, &1496_u32.to_ne_bytes());
        attribute(&mut body, 5, &3_u32.to_ne_bytes());
        attribute(&mut body, 18, &information);
        body
    }

    #[test]
    fn a_vlan_device_is_read_with_its_tag_and_what_it_lies_on() {
        let vlan = Some((3, Tag::new(0x88a8, 20)));
        let expected = Device { index: 7, name: "eth0.20".into(), mtu: 1496, vlan, ..Device::default() };
        assert_eq!(device(&vlan_device()), Some(expected.clone()));
        let mut elsewhere = vlan_device();
        attribute(&mut elsewhere, 37, &[0; 4]);
        assert_eq!(device(&elsewhere), Some(Device { vlan: None, ..expected }));
    }

    #[test]
    fn what_is_cut_off_is_read_as_far_as_it_goes() {
        let whole = vlan_device();
        for length in 0..whole.len() {
            if let Some(device) = device(&whole[..length]) {
                assert!(device.index == 7 && (device.vlan.is_none() || length + 4 > whole.len()));
            }
        }
        assert_eq!(messages(&[255; 40]).count() + messages(&[0; 40]).count(), 0);
    }

    #[test]
    fn loopback_is_among_the_devices_and_the_way_to_itself() {
        let all = devices().unwrap();
        let loopback = all.iter().find(|device| device.name == "lo").unwrap();
        assert!(loopback.vlan.is_none() && loopback.mtu > 1500, "{loopback:?}");
        assert_eq!(way_to([127, 0, 0, 1].into()).unwrap(), loopback.index);
    }

    #[test]
    fn a_refusal_of_the_kernel_is_an_error() {
        // The kernel answers nothing at all to what names no family.
        let short = ask(SockProtocol::NetlinkRoute, GET_ROUTE, 0, &[2, 0, 0, 0]).unwrap_err();
        assert_eq!(short.raw_os_error(), Some(nix::libc::EINVAL), "{short}");
    }

    #[test]
    fn the_kernel_says_of_its_devices_whether_they_take_frames_or_that_it_cannot() {
        // Loopback does not; where the kernel is too old, nothing is said.
        if let Ok(devices) = taking_frames() {
            assert!(!devices.is_empty());
        }
    }
}
