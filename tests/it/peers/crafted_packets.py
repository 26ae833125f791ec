"""Scapy as a maker of packets that no network stack makes.

Usage: crafted_packets.py INTERFACE MAC-OF-THE-GATEWAY CLIENT-PORT SESSION-PORT GATEWAY-PORT

A line on standard input is `4 NAME` or `6 NAME`. The frames of that name are sent, and one line comes back: their
bytes in hexadecimal, separated by blanks. CLIENT-PORT is that of a connection from here to port 443, SESSION-PORT one
of a session, GATEWAY-PORT that of a connection from the gateway to port 7000 here; each for IPv4 and IPv6, with a
comma between.
"""

import itertools
import socket
import sys

from scapy.all import (
    ARP, Ether, Dot1AD, Dot1Q, ICMP, IP, IPOption_EOL, IPOption_NOP, IPv6, IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Raw, TCP, UDP, ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6ND_Redirect, ICMPv6PacketTooBig,
    ICMPv6Unknown, raw,
)

interface, mac = sys.argv[1], sys.argv[2]
client, session, own = ([int(port) for port in ports.split(",")] for ports in sys.argv[3:6])
# Every frame is one of its kind, so that the witness can tell them apart.
serial = itertools.count(1)


class Net:
    """One of the two families, and packets from here to the gateway in it."""

    def __init__(self, version):
        self.version = version
        self.index = 0 if version == 4 else 1
        self.here = "203.0.113.10" if version == 4 else "2001:db8:113::10"
        self.there = "203.0.113.1" if version == 4 else "2001:db8:113::1"
        self.loopback = "127.0.0.1" if version == 4 else "::1"
        self.group = "224.0.0.9" if version == 4 else "ff02::9"
        self.banned = "198.51.100.7" if version == 4 else "2001:db8:bad::7"
        self.client, self.session, self.own = client[self.index], session[self.index], own[self.index]

    def ip(self, source=None, to=None, **more):
        source, to = source or self.here, to or self.there
        if self.version == 4:
            return IP(src=source, dst=to, id=next(serial), **more)
        return IPv6(src=source, dst=to, fl=next(serial), **more)

    def tcp(self, port=443, flags="S", sport=None, **more):
        return TCP(sport=sport or 20000 + next(serial), dport=port, flags=flags, seq=next(serial), **more)

    def udp(self, port=5000, **more):
        return UDP(sport=20000 + next(serial), dport=port, **more) / b"four"

    def syn(self, port=443, **more):
        return ether(self.ip() / self.tcp(port, **more))

    def other(self, number, payload=b"sixteen bytes 16"):
        """A packet of a protocol by its number alone."""
        return ether(self.ip(proto=number) / payload if self.version == 4 else self.ip(nh=number) / payload)

    def fragment(self, number, offset, more, payload, identification):
        """A fragment; `offset` in units of eight bytes."""
        if self.version == 4:
            place = {"frag": offset, "flags": "MF" if more else 0}
            return ether(IP(src=self.here, dst=self.there, id=identification, proto=number, **place) / payload)
        header = IPv6ExtHdrFragment(nh=number, offset=offset, m=int(more), id=identification)
        return ether(self.ip() / header / payload)

    def error(self, sport, dport):
        """A router's error about a packet of the gateway."""
        if self.version == 4:
            quoted = IP(src=self.there, dst=self.here, id=next(serial)) / TCP(sport=sport, dport=dport, flags="A")
            return ether(self.ip() / ICMP(type=3, code=4, nexthopmtu=1400) / quoted)
        quoted = IPv6(src=self.there, dst=self.here, fl=next(serial)) / TCP(sport=sport, dport=dport, flags="A")
        return ether(self.ip() / ICMPv6PacketTooBig(mtu=1400) / quoted)


def ether(payload, **more):
    return Ether(dst=mac, src="02:00:00:00:00:10", **more) / payload


def arp(net):
    """A question by a neighbour that is not there, lest the gateway learn a wrong address of this machine."""
    return ether(ARP(op=1, hwsrc="02:00:00:00:00:10", psrc="203.0.113.99", pdst=net.there))


def cut(frame, length):
    return Raw(raw(frame)[:length])


def changed(frame, at, value):
    """Behind the Ethernet header."""
    data = bytearray(raw(frame))
    data[14 + at] = value
    return Raw(bytes(data))


def parts(net, order):
    """A datagram for the open UDP port in three fragments, sent in this order."""
    number = 30000 + next(serial)
    data = raw(UDP(sport=4000, dport=5000, len=48, chksum=0) / bytes([number & 0xFF] * 40))
    pieces = [(0, True, data[:16]), (2, True, data[16:32]), (4, False, data[32:])]
    return [net.fragment(17, *pieces[index], number) for index in order]


def closed_parts(net):
    number = 30000 + next(serial)
    data = raw(UDP(sport=4000, dport=5001, len=32, chksum=0) / bytes([number & 0xFF] * 24))
    return [net.fragment(17, 0, True, data[:16], number), net.fragment(17, 2, False, data[16:], number)]


def tagged(net, tags):
    frame = net.ip() / net.tcp()
    for tag in reversed(tags):
        frame = tag / frame
    return ether(frame)


BOTH = {
    "syn": lambda n: n.syn(),
    "syn closed": lambda n: n.syn(22),
    "syn dropped by rule": lambda n: n.syn(8001),
    "datagram open": lambda n: ether(n.ip() / n.udp()),
    "datagram closed": lambda n: ether(n.ip() / n.udp(5001)),
    "segment of nobody": lambda n: n.syn(flags="PA"),
    "segment of a session": lambda n: n.syn(flags="A", sport=n.session),
    "answer to the gateway": lambda n: n.syn(n.own, flags="A", sport=7000),
    "banned": lambda n: ether(n.ip(source=n.banned) / n.tcp()),
    "one tag": lambda n: tagged(n, [Dot1Q(vlan=7)]),
    "two tags": lambda n: tagged(n, [Dot1AD(vlan=7), Dot1Q(vlan=8)]),
    "three tags": lambda n: tagged(n, [Dot1AD(vlan=7), Dot1Q(vlan=8), Dot1Q(vlan=9)]),
    "no flags": lambda n: n.syn(flags=0),
    "christmas": lambda n: n.syn(flags="FPU"),
    "syn and fin": lambda n: n.syn(flags="SF"),
    "syn and reset": lambda n: n.syn(flags="SR"),
    "all flags": lambda n: n.syn(flags="FSRPAUEC"),
    "tcp header too short": lambda n: n.syn(dataofs=4),
    "tcp header too long": lambda n: n.syn(dataofs=15),
    "tcp header cut": lambda n: n.other(6, raw(n.tcp())[:12]),
    "udp longer than ip": lambda n: ether(n.ip() / n.udp(len=60)),
    "udp shorter than itself": lambda n: ether(n.ip() / n.udp(len=7)),
    "to port 0": lambda n: n.syn(0),
    "from port 0": lambda n: ether(n.ip() / UDP(sport=0, dport=5000)),
    "land": lambda n: ether(n.ip(source=n.there) / n.tcp()),
    "from loopback": lambda n: ether(n.ip(source=n.loopback) / n.tcp()),
    "to loopback": lambda n: ether(n.ip(to=n.loopback) / n.tcp()),
    "from a group": lambda n: ether(n.ip(source=n.group) / n.tcp()),
    "gre": lambda n: n.other(47),
    "sctp": lambda n: n.other(132),
    "wrong version": lambda n: changed(n.syn(), 0, 0x95),
    "frame cut in ip": lambda n: cut(n.syn(), 14 + 12),
    "frame cut behind ip": lambda n: cut(n.syn(), 14 + (30 if n.version == 4 else 50)),
    "fragments in order": lambda n: parts(n, [0, 1, 2]),
    "fragments out of order": lambda n: parts(n, [2, 0, 1]),
    "fragments for a closed port": closed_parts,
    "tiny fragment": lambda n: n.fragment(6, 0, True, raw(n.tcp())[:8], 30000 + next(serial)),
    "overlapping fragment": lambda n: n.fragment(6, 1, False, bytes(24), 30000 + next(serial)),
    "fragment beyond the end": lambda n: n.fragment(17, 0x1FFF, False, bytes(40), 30000 + next(serial)),
    "error about a connection": lambda n: n.error(443, n.client),
    "error about a session": lambda n: n.error(443, n.session),
    "error about nothing": lambda n: n.error(443, 1),
}

V4 = {
    "options": lambda n: ether(n.ip(options=[IPOption_NOP()] * 39 + [IPOption_EOL()]) / n.tcp()),
    "header too short": lambda n: changed(n.syn(), 0, 0x44),
    "total shorter than the header": lambda n: ether(n.ip(len=19) / n.tcp()),
    "total longer than the frame": lambda n: ether(n.ip(len=400) / n.tcp()),
    "echo": lambda n: ether(n.ip() / ICMP(id=next(serial))),
    "icmp cut": lambda n: n.other(1, b"\x08"),
    "redirect": lambda n: ether(n.ip() / ICMP(type=5, code=1, gw="203.0.113.66") / raw(n.ip() / n.tcp())),
    "timestamp": lambda n: ether(n.ip() / ICMP(type=13, id=next(serial))),
    "error without a quote": lambda n: ether(n.ip() / ICMP(type=3, code=4)),
    "error in fragments": lambda n: n.fragment(1, 0, True, raw(ICMP(type=3, code=4)), 30000 + next(serial)),
    "arp": lambda n: arp(n),
    "arp of another kind": lambda n: changed(arp(n), 1, 6),
    "arp cut": lambda n: cut(arp(n), 14 + 20),
    "lldp": lambda n: ether(bytes(46), type=0x88CC),
    "mpls": lambda n: ether(bytes(46), type=0x8847),
    "pppoe": lambda n: ether(bytes(46), type=0x8863),
}

V6 = {
    "options": lambda n: ether(n.ip() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / n.tcp()),
    "hop-by-hop options later": lambda n: ether(n.ip() / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / n.tcp()),
    "too many headers": lambda n: ether(n.ip() / raw_headers(9, raw(n.tcp())), type=0x86DD),
    "header beyond the end": lambda n: n.other(60, b"\x06\x09" + bytes(14)),
    "source routing": lambda n: ether(n.ip() / IPv6ExtHdrRouting(type=0, addresses=["2001:db8::9"]) / n.tcp()),
    "length 0": lambda n: ether(n.ip(plen=0) / n.tcp()),
    "length longer than the frame": lambda n: ether(n.ip(plen=400) / n.tcp()),
    "ipv4 in ipv6 dress": lambda n: ether(n.ip(source="::ffff:203.0.113.10") / n.tcp()),
    "from nobody": lambda n: ether(n.ip(source="::") / n.tcp()),
    "echo": lambda n: ether(n.ip() / ICMPv6EchoRequest(id=next(serial))),
    "icmp cut": lambda n: n.other(58, b"\x80"),
    "renumbering": lambda n: ether(n.ip() / ICMPv6Unknown(type=138, msgbody=bytes(8))),
    "error without a quote": lambda n: ether(n.ip() / ICMPv6PacketTooBig(mtu=1400)),
    "error in fragments": lambda n: n.fragment(58, 0, True, b"\x02" + bytes(15), 30000 + next(serial)),
    "neighbour solicitation": lambda n: ether(n.ip(hlim=255) / ICMPv6ND_NS(tgt=n.there)),
    "neighbour solicitation over a router": lambda n: ether(n.ip(hlim=254) / ICMPv6ND_NS(tgt=n.there)),
    "redirect": lambda n: ether(n.ip(hlim=255) / ICMPv6ND_Redirect(tgt=n.here, dst=n.here)),
}


def raw_headers(count, payload):
    """Destination options again and again; the packet before has to name them."""
    more, last = bytes([60, 0, 1, 4, 0, 0, 0, 0]), bytes([6, 0, 1, 4, 0, 0, 0, 0])
    return IPv6ExtHdrDestOpt(nh=60) / Raw(more * (count - 2) + last + payload)


def main():
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind((interface, 0))
    nets = {4: (Net(4), V4), 6: (Net(6), V6)}
    print("ready", flush=True)
    for line in sys.stdin:
        version, name = line.rstrip("\n").split(" ", 1)
        net, own_kind = nets[int(version)]
        made = (own_kind.get(name) or BOTH[name])(net)
        frames = [raw(frame) for frame in (made if isinstance(made, list) else [made])]
        for frame in frames:
            wire.send(frame)
        print(" ".join(frame.hex() for frame in frames), flush=True)


if __name__ == "__main__":
    main()
