"""python-socks as a client: SOCKS5 inside TLS, the ticket ($TICKET) as domain name, an echoing server behind.

Usage: socks_client.py CA-FILE PORT
"""

import os
import ssl
import sys

from python_socks import ProxyType
from python_socks.sync.v2 import Proxy


def main(ca, port):
    context = ssl.create_default_context(cafile=ca)
    proxy = Proxy(ProxyType.SOCKS5, "localhost", int(port), rdns=True, proxy_ssl=context)
    stream = proxy.connect(os.environ["TICKET"], 1494, timeout=20)
    sent = os.urandom(100_000)
    stream.write_all(sent)
    back = stream.read_exact(len(sent))
    stream.close()
    if back != sent:
        sys.exit("other bytes came back")
    print(f"echoed {len(back)} bytes")


main(*sys.argv[1:])
