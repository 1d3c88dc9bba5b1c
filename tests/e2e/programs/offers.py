"""A server that knows of proxies: PORT PROXY. It hands every connection that it accepts to the proxy.

What the proxy does not take it answers itself.
"""

from __future__ import annotations

import socket
import sys

from appswitch.delegate.client import delegate
from appswitch.delegate.errors import RefusedError

port, proxy = int(sys.argv[1]), sys.argv[2]

with socket.create_server(("", port)) as listener:
    while True:
        sock, _ = listener.accept()
        try:
            delegate(sock, proxy, attributes={"protocol": "http", "http.path": "/offered"})
        except RefusedError as refused:
            body = f'{{"name": "itself", "reason": "{refused.reason.name}"}}'
            sock.recv(1 << 16)
            sock.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            sock.close()
