use super::*;

fn cards() -> Cards {
    let cards = [("02:00:00:00:00:01", "eth0"), ("02:00:00:00:00:02", "eth1"), ("02:00:00:00:00:03", "eth2")];
    Cards(cards.map(|(address, name)| (address.to_owned(), name.to_owned())).into())
}

fn toml(data: &str) -> toml::Table {
    let network = parse(data, &cards()).unwrap_or_else(|error| panic!("{error:#}"));
    network.to_toml().unwrap().parse().unwrap()
}

fn refused(data: &str) -> String {
    format!("{:#}", parse(data, &cards()).unwrap_err())
}

/// As Proxmox VE 8 writes it.
#[test]
fn what_proxmox_writes_becomes_our_section() {
    let data = "version: 1\nconfig:\n    - type: physical\n      name: eth9\n      mac_address: '02:00:00:00:00:01'\n      \
        subnets:\n      - type: static\n        address: '10.0.0.5'\n        netmask: '255.255.255.0'\n        \
        gateway: '10.0.0.1'\n      - type: static6\n        address: '2001:db8::5/64'\n    - type: physical\n      \
        name: eth1\n      mac_address: '02:00:00:00:00:02'\n      subnets:\n      - type: dhcp4\n    - type: nameserver\n      \
        address:\n      - '10.0.0.53'\n      search:\n      - 'example.com'\n";
    let expected = "[network]\ndns = [\"10.0.0.53\"]\nsearch = [\"example.com\"]\n[[network.interface]]\nname = \"eth0\"\n\
        addresses = [\"10.0.0.5/24\", \"2001:db8::5/64\"]\ngateways = [\"10.0.0.1\"]\n[[network.interface]]\nname = \"eth1\"\n\
        dhcp = \"ipv4\"\n";
    assert_eq!(toml(data), expected.parse().unwrap());
}

#[test]
fn what_netplan_writes_becomes_our_section() {
    let data = "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    first:\n      match: {macaddress: 02:00:00:00:00:01}\n      \
        set-name: eth0\n    eth1: {dhcp4: false}\n    eth2: {dhcp4: true, mtu: 1400, optional: true}\n  bonds:\n    bond0:\n      \
        interfaces: [first, eth1]\n      parameters: {mode: 802.3ad, mii-monitor-interval: 100}\n      \
        addresses: [192.0.2.5/24]\n      routes: [{to: default, via: 192.0.2.1}, {to: 10.0.0.0/8, via: 192.0.2.2, metric: 7}]\n      \
        nameservers: {addresses: [192.0.2.53], search: [example.com]}\n  vlans:\n    edge: {id: 4, link: bond0, dhcp4: yes, dhcp6: true}\n";
    let expected = "[network]\ndns = [\"192.0.2.53\"]\nsearch = [\"example.com\"]\n\
        interface = [{ name = \"eth0\" }, { name = \"eth1\" }, { name = \"eth2\", dhcp = \"ipv4\", mtu = 1400 },\n\
        { name = \"bond0\", addresses = [\"192.0.2.5/24\"], gateways = [\"192.0.2.1\"], members = [\"eth0\", \"eth1\"], \
        mode = \"802.3ad\", route = [{ to = \"10.0.0.0/8\", via = \"192.0.2.2\", metric = 7 }] },\n\
        { name = \"edge\", dhcp = \"yes\", parent = \"bond0\", vlan = 4 }]\n";
    assert_eq!(toml(data), expected.parse().unwrap());
}

#[test]
fn what_is_not_taken_is_refused_whole_and_named() {
    for (data, expected) in [
        ("version: 3\n", "no `version` 1 or 2"),
        ("version: 2\nwifis: {}\n", "`wifis` is not taken"),
        (
            "version: 2\nethernets: {eth0: {dhcp4: true, link-local: []}}\n",
            "`ethernets.eth0`: `link-local` is not taken",
        ),
        ("version: 2\nethernets: {a: {match: {driver: x}}}\n", "matched by `macaddress`"),
        (
            "version: 2\nethernets: {a: {match: {macaddress: 02:00:00:00:00:99}}}\n",
            "no card has the hardware address",
        ),
        ("version: 2\nethernets: {a: {routes: [{to: 10.0.0.0/8, via: x}]}}\n", "`x` is no address"),
        ("version: 2\nethernets: {a: {routes: [{to: 10.0.0.0/8, on-link: true}]}}\n", "`routes.on-link`"),
        ("version: 1\nconfig: [{type: bridge}]\n", "`bridge` is not taken"),
        (
            "version: 1\nconfig: [{type: physical, name: a, subnets: [{type: static}]}]\n",
            "`subnets.address` is missing",
        ),
        (
            "version: 1\nconfig: [{type: physical, name: a, subnets: [{type: static, address: 1.2.3.4, netmask: 1.1.1.1}]}]\n",
            "is no address",
        ),
    ] {
        let told = refused(data);
        assert!(told.contains(expected), "{expected} in {told}");
    }
}

#[test]
fn cards_that_nothing_is_said_of_are_left_out() {
    let network =
        parse("version: 2\nethernets: {eth0: {dhcp4: true}, eth1: {mtu: 1500}}\n", &cards()).unwrap();
    assert_eq!(network.interfaces.len(), 1);
}
