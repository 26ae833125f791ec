//! Whether a network card takes VLAN tags off before the filter sees a frame: then a frame of every VLAN looks like one
//! without a tag. Asked and told by the kernel's ethtool family (`linux/ethtool_netlink.h`), as ethtool(8) does.

use std::io;

use nix::sys::socket::SockProtocol;

use super::{ask, attribute, attributes, family, messages, text};

/// The kernel's names of both: tags of 802.1Q and of 802.1ad.
const TAKES_OFF: [&str; 2] = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];

const GET: u8 = 11;
const SET: u8 = 12;
const HEADER: u16 = 1;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
/// What is inside an attribute are attributes; this family insists on being told.
const NESTED: u16 = 0x8000;

/// Has a device leave tags in frames. Whether it did not before.
///
/// Fails where it cannot, and where the kernel cannot be asked.
pub(in crate::xdp) fn leave_tags(index: u32) -> io::Result<bool> {
    let family = family(b"ethtool\0")?;
    let off = taken_off(family, index)?;
    if off.is_empty() {
        return Ok(false);
    }
    let mut body = question(SET, index);
    let names = off.iter().map(|name| [name.as_bytes(), &[0]].concat());
    let bits: Vec<u8> = names.flat_map(|name| nested(1, &nested_text(2, &name))).collect();
    attribute(&mut body, WANTED | NESTED, &nested(3, &bits));
    // What it says is not all that counts: a card may not be able to.
    let refused = ask(SockProtocol::NetlinkGeneric, family, 0, &body).err();
    match taken_off(family, index)?.is_empty() {
        true => Ok(true),
        false => {
            Err(refused.unwrap_or_else(|| io::Error::other("its driver does not let that be switched off")))
        }
    }
}

/// Which of both a device does.
fn taken_off(family: u16, index: u32) -> io::Result<Vec<&'static str>> {
    let parts = ask(SockProtocol::NetlinkGeneric, family, 0, &question(GET, index))?;
    let active = parts.iter().flat_map(|part| messages(part)).find_map(|(_, body)| active(body));
    active.ok_or_else(|| io::Error::other("the kernel's answer has no features"))
}

fn active(body: &[u8]) -> Option<Vec<&'static str>> {
    let find = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let set = find(body.get(4..)?, ACTIVE)?;
    let bits = find(set, 3).unwrap_or_default();
    let names: Vec<String> = attributes(bits).filter_map(|(_, bit)| find(bit, 2)).map(text).collect();
    Some(TAKES_OFF.into_iter().filter(|name| names.iter().any(|found| found == name)).collect())
}

fn question(command: u8, index: u32) -> Vec<u8> {
    let mut body = vec![command, 1, 0, 0];
    attribute(&mut body, HEADER | NESTED, &nested_text(1, &index.to_ne_bytes()));
    body
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    nested_text(kind | NESTED, value)
}

fn nested_text(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut one = Vec::new();
    attribute(&mut one, kind, value);
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_takes_off_is_read_from_the_names_of_its_features() {
        let bit = |name: &[u8]| nested(1, &nested_text(2, name));
        let bits = [bit(b"tx-checksum-ipv4\0"), bit(b"rx-vlan-stag-hw-parse\0"), bit(b"rx-vlan-hw-parse\0")];
        let mut body = vec![GET, 1, 0, 0];
        attribute(&mut body, ACTIVE | NESTED, &nested(3, &bits.concat()));
        assert_eq!(active(&body), Some(TAKES_OFF.to_vec()));
        let mut none = vec![GET, 1, 0, 0];
        attribute(&mut none, ACTIVE | NESTED, &nested(3, &bits[0]));
        assert_eq!(active(&none), Some(Vec::new()));
        assert_eq!(active(&[GET, 1, 0, 0]), None);
    }

    #[test]
    fn loopback_takes_no_tags_off_and_a_device_that_is_not_there_is_an_error() {
        // Where the kernel cannot be asked there is nothing to hear.
        if family(b"ethtool\0").is_ok() {
            assert!(!leave_tags(1).unwrap());
            assert!(leave_tags(u32::MAX >> 1).is_err());
        }
    }
}
