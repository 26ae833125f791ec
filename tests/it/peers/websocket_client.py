"""The `websockets` package as a client: a ticket ($TICKET) inside a WebSocket, an echoing server behind.

Usage: websocket_client.py CA-FILE PORT socks|cgp
"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect


class Stream:
    """The bytes of the binary messages, without their borders."""

    def __init__(self, socket):
        self.socket = socket
        self.pending = b""

    async def read(self, count):
        while len(self.pending) < count:
            self.pending += await self.socket.recv()
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken


async def open_socks(socket, stream, ticket):
    await socket.send(b"\x05\x01\x00")
    if await stream.read(2) != b"\x05\x00":
        sys.exit("no method was selected")
    await socket.send(b"\x05\x01\x00\x03" + bytes([len(ticket)]) + ticket + b"\x05\xd6")
    if await stream.read(10) != b"\x05\x00\x00\x01" + bytes(6):
        sys.exit("the request was refused")


async def open_cgp(socket, stream, ticket):
    hello = b"\x1aCGP/01\x00\x00" + ticket + b"\x00"
    await socket.send(hello)
    if await stream.read(len(hello)) != hello:
        sys.exit("the first packet was changed")


async def main(ca, port, inner):
    context = ssl.create_default_context(cafile=ca)
    ticket = os.environ["TICKET"].encode()
    address = f"wss://localhost:{port}/"
    async with connect(address, ssl=context, compression=None, proxy=None, max_size=None) as socket:
        stream = Stream(socket)
        await {"socks": open_socks, "cgp": open_cgp}[inner](socket, stream, ticket)
        sent = os.urandom(300_000)
        # An iterable is sent as one message in fragments.
        sending = asyncio.create_task(socket.send([sent[:1], sent[1:70_000], sent[70_000:]]))
        if await stream.read(len(sent)) != sent:
            sys.exit("other bytes came back")
        await sending
        await (await socket.ping(b"are you there"))
    print(f"echoed {len(sent)} bytes, closed with {socket.close_code}")


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), timeout=25))
