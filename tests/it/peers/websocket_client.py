"""The `websockets` package as a client: a ticket ($TICKET) inside a WebSocket, an echoing server behind.

Usage: websocket_client.py CA-FILE PORT socks|cgp
"""

import os
import ssl
import sys

from websockets.sync.client import connect


class Stream:
    """The bytes of the binary messages, without their borders."""

    def __init__(self, socket):
        self.socket = socket
        self.pending = b""

    def read(self, count):
        while len(self.pending) < count:
            self.pending += self.socket.recv(timeout=20)
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken


def open_socks(socket, stream, ticket):
    socket.send(b"\x05\x01\x00")
    if stream.read(2) != b"\x05\x00":
        sys.exit("no method was selected")
    socket.send(b"\x05\x01\x00\x03" + bytes([len(ticket)]) + ticket + b"\x05\xd6")
    if stream.read(10) != b"\x05\x00\x00\x01" + bytes(6):
        sys.exit("the request was refused")


def open_cgp(socket, stream, ticket):
    hello = b"\x1aCGP/01\x00\x00" + ticket + b"\x00"
    socket.send(hello)
    if stream.read(len(hello)) != hello:
        sys.exit("the first packet was changed")


def main(ca, port, inner):
    context = ssl.create_default_context(cafile=ca)
    ticket = os.environ["TICKET"].encode()
    with connect(f"wss://localhost:{port}/", ssl=context, compression=None, proxy=None) as socket:
        stream = Stream(socket)
        {"socks": open_socks, "cgp": open_cgp}[inner](socket, stream, ticket)
        sent = os.urandom(300_000)
        # An iterable is sent as one message in fragments.
        socket.send([sent[:1], sent[1:70_000], sent[70_000:]])
        if stream.read(len(sent)) != sent:
            sys.exit("other bytes came back")
        if not socket.ping(b"are you there").wait(timeout=20):
            sys.exit("no pong came back")
    print(f"echoed {len(sent)} bytes, closed with {socket.close_code}")


main(*sys.argv[1:])
