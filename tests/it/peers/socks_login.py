"""python-socks as a client of a proxy listener: RFC 1929 with $USER_NAME and $PASSWORD, then an echoing server.

Usage: socks_login.py PORT SERVER SERVER-PORT
"""

import os
import sys

from python_socks import ProxyError, ProxyType
from python_socks.sync.v2 import Proxy


def main(port, server, server_port):
    proxy = Proxy(ProxyType.SOCKS5, "127.0.0.1", int(port), os.environ["USER_NAME"], os.environ["PASSWORD"])
    try:
        stream = proxy.connect(server, int(server_port), timeout=20)
    except ProxyError as error:
        print(f"refused: {error}")
        return
    stream.write_all(b"hello")
    print(stream.read_exact(5).decode())
    stream.close()


main(*sys.argv[1:])
