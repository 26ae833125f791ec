//! The port tables that Citrix publishes for XenMobile Service with NetScaler Gateway ("Port requirements"), row by
//! row, and which rows a preset takes.
//!
//! A row says what opens on this gateway: a port that packets come in by, nothing but replies because the gateway
//! itself is the client, or nothing at all because the traffic goes past it. Replies need no rule. What the gateway
//! itself may contact is judged by the egress rules (`egress`), which take these rows too.

use portcullis_ebpf_common::Protocol::{self, Tcp, Udp};
use portcullis_ebpf_common::tables::Role;

/// A choice of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    Gateway,
    Storefront,
    HdxOnly,
    Xenmobile,
}

impl Preset {
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Storefront, Self::HdxOnly, Self::Xenmobile];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Storefront => "storefront",
            Self::HdxOnly => "hdx-only",
            Self::Xenmobile => "xenmobile",
        }
    }

    /// The rows of this preset, in the order of the tables.
    pub fn rows(self) -> impl Iterator<Item = &'static PortRow> {
        TABLE.iter().filter(move |row| row.presets.contains(&self))
    }
}

/// What a row means for the gateway's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// Comes in by an interface of that role.
    In(Role),
    /// Begun by the gateway; only replies come in.
    Out,
    /// Not through the gateway.
    Past,
}

/// One row of the tables.
#[derive(Clone, Copy, Debug)]
pub struct PortRow {
    pub ports: &'static [u16],
    pub protocols: &'static [Protocol],
    pub source: &'static str,
    pub destination: &'static str,
    pub description: &'static str,
    pub passage: Passage,
    presets: &'static [Preset],
}

const fn row(
    ports: &'static [u16],
    protocols: &'static [Protocol],
    [source, destination, description]: [&'static str; 3],
    passage: Passage,
    presets: &'static [Preset],
) -> PortRow {
    PortRow { ports, protocols, source, destination, description, passage, presets }
}

const INTO: Passage = Passage::In(Role::Edge);
const LAN: Passage = Passage::In(Role::Farm);
const OUT: Passage = Passage::Out;
const PAST: Passage = Passage::Past;
const TCP: &[Protocol] = &[Tcp];
const UDP: &[Protocol] = &[Udp];
const BOTH: &[Protocol] = &[Tcp, Udp];

const ALL: &[Preset] = &Preset::ALL;
const LOGIN: &[Preset] = &[Preset::Gateway, Preset::Storefront, Preset::Xenmobile];
const STORE: &[Preset] = &[Preset::Gateway, Preset::Storefront];
const HDX: &[Preset] = &[Preset::Gateway, Preset::Storefront, Preset::HdxOnly];
const MOBILE: &[Preset] = &[Preset::Xenmobile];

const GW: &str = "NetScaler Gateway";
const XM: &str = "XenMobile";
const LDAP: &str = "LDAP authentication server or Active Directory";
const VDA: &str = "XenApp or XenDesktop";

/// First "Open ports for NetScaler Gateway to manage XenMobile Service", then "Open XenMobile ports to manage
/// devices", then "Port requirement for Auto Discovery Service connectivity".
#[rustfmt::skip]
pub const TABLE: &[PortRow] = &[
    row(&[53], BOTH, [GW, "DNS server", "DNS"], OUT, ALL),
    row(&[80, 443], TCP, [GW, "Intranet websites", "micro VPN to internal network resources"], OUT, MOBILE),
    row(&[123], BOTH, [GW, "NTP server", "Network Time Protocol"], OUT, ALL),
    row(&[389], TCP, [GW, LDAP, "insecure LDAP"], OUT, LOGIN),
    row(&[443], TCP, ["Internet", GW, "StoreFront from Citrix Receiver or Receiver for Web"], INTO, HDX),
    row(&[443], TCP, ["Internet", GW, "XenMobile for web, mobile and SaaS app delivery"], INTO, MOBILE),
    row(&[443], TCP, ["Cloud Connector servers", "Citrix Cloud", "Cloud Connector communication"], PAST, MOBILE),
    row(&[636], TCP, [GW, LDAP, "secure LDAP"], OUT, LOGIN),
    row(&[1494], TCP, [GW, VDA, "ICA to applications in the internal network"], OUT, HDX),
    // RADIUS is UDP (RFC 2865), whatever the heading of the table's column says.
    row(&[1812], UDP, [GW, "RADIUS authentication server", "RADIUS"], OUT, LOGIN),
    row(&[2598], TCP, [GW, VDA, "session reliability to applications in the internal network"], OUT, HDX),
    row(&[3268], TCP, [GW, LDAP, "Microsoft Global Catalog, insecure LDAP"], OUT, LOGIN),
    row(&[3269], TCP, [GW, LDAP, "Microsoft Global Catalog, secure LDAP"], OUT, LOGIN),
    row(&[8443], TCP, [GW, XM, "enrollment, XenMobile Store, mobile app management"], OUT, MOBILE),
    row(&[8443], TCP, [GW, XM, "Secure Ticket Authority for Secure Mail"], OUT, MOBILE),
    row(&[4443], TCP, ["Access point (browser)", XM, "XenMobile console of an administrator"], PAST, MOBILE),

    row(&[443], TCP, ["Internet", XM, "enrollment and agent setup, Android and Windows Mobile"], INTO, MOBILE),
    row(&[443], TCP, ["Internal LAN and WiFi", XM, "enrollment, agent setup, web console"], LAN, MOBILE),
    row(&[5223], TCP, ["iOS devices on WiFi", "Internet (APNs, 17.0.0.0/8)", "push notifications"], PAST, MOBILE),
    row(&[8443], TCP, ["Internet", XM, "enrollment of iOS and Windows Phone"], INTO, MOBILE),
    row(&[8443], TCP, ["LAN and WiFi", XM, "enrollment of iOS and Windows Phone"], LAN, MOBILE),

    row(&[443], TCP, ["Secure Hub for Android", "discovery.mdm.zenprise.com", "Auto Discovery Service"], PAST, MOBILE),
    row(&[443], TCP, [GW, "StoreFront", "stores behind the gateway"], OUT, STORE),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(preset: Preset) -> Vec<(Role, u16)> {
        let opened = preset.rows().filter_map(|row| match row.passage {
            Passage::In(role) => Some(row.ports.iter().map(move |port| (role, *port))),
            Passage::Out | Passage::Past => None,
        });
        let mut opened: Vec<_> = opened.flatten().collect();
        opened.sort_unstable();
        opened.dedup();
        opened
    }

    #[test]
    fn presets_open_what_comes_in_and_nothing_else() {
        for preset in [Preset::Gateway, Preset::Storefront, Preset::HdxOnly] {
            assert_eq!(opens(preset), [(Role::Edge, 443)], "{}", preset.as_str());
        }
        let mobile = [(Role::Edge, 443), (Role::Edge, 8443), (Role::Farm, 443), (Role::Farm, 8443)];
        assert_eq!(opens(Preset::Xenmobile), mobile);
    }

    #[test]
    fn every_row_says_from_where_to_where_and_what_for() {
        for row in TABLE {
            assert!(!row.ports.is_empty() && !row.protocols.is_empty() && !row.presets.is_empty(), "{row:?}");
            assert!([row.source, row.destination, row.description].iter().all(|text| !text.is_empty()));
            assert_ne!(row.source == GW, matches!(row.passage, Passage::In(_) | Passage::Past), "{row:?}");
        }
    }
}
